"""Redshifts and lists of sources from tables whose columns the user names."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen
from aion_core.data import ObservationBatch, Reader
from aion_core.data.files import HintError, NotClaimedError
from aion_core.data.fits import fits_columns
from aion_core.data.tables import text_columns
from aion_core.observations import Scalar
from aion_tok_catalog.formats import open_named
from aion_tok_catalog.mapping import Floats, Rows, TableColumns
from aion_tok_catalog.sources import Group, around, grouped, padded

#: Rows of a table looked at together, and objects whose surroundings are searched for in one pass over the sources.
ROWS, CENTRES = 8192, 50_000


class TableReader(Reader):
    """Reads tables that the user names in the section ``[catalog_tables]``, and no other.

    A table is read by the first entry one of whose `files` matches, and only if it has the columns that this entry
    names. Formats: FITS, CSV, ECSV, VOTable, Parquet, HDF5, and other text that astropy recognises.
    """

    class Options(Frozen):
        """Options of the section ``[catalog_tables]``: one entry for each kind of table."""

        tables: tuple[TableColumns, ...] = ()

    options: Options

    def claims(self, path: Path) -> bool:
        """Whether an entry of the options is for this file, and the columns that it names are there."""
        of = self._entry(path)
        if of is None:
            if not (names := fits_columns(path) or _text_columns(path)):
                return False
            raise HintError(
                f"{path}: no installed reader recognises this table; if it has redshifts or lists of sources, name its "
                f"columns in [[catalog_tables.tables]] (it has {_some(names)})."
            )
        try:
            with open_named(path) as named:
                names = named.table.columns()
        except InputError as error:
            raise NotClaimedError(str(error)) from error
        if missing := sorted(of.in_file() - names.keys()):
            raise NotClaimedError(
                f"{path}: columns that [[catalog_tables.tables]] names for {of.files[0]} are missing: "
                f"{', '.join(missing)}; the table has {_some(names)}."
            )
        return True

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        of = self._entry(path)
        if of is None:
            raise InputError(f"{path}: no entry of [[catalog_tables.tables]] is for this file.")
        if of.sources is None:
            with _rows(path, of.of_objects(), batch_size) as parts:
                for rows in parts:
                    yield _batch(*rows.objects(of), of)
        elif of.sources.group:
            with _rows(path, of.in_file(), ROWS) as parts:
                groups = grouped(parts, of)
                while some := list(islice(groups, batch_size)):
                    yield _of_groups(some, of)
        else:
            yield from self._around(path, of, batch_size)

    def _around(self, path: Path, of: TableColumns, batch_size: int) -> Iterator[ObservationBatch]:
        """Yield objects with the sources that lie around their positions."""
        names = of.sources
        assert names is not None
        centres = names.centres or path
        size = max(1, CENTRES // batch_size) * batch_size

        def sources() -> Iterator[Rows]:
            with _rows(path, of.of_sources(), ROWS) as parts:
                yield from parts

        with _rows(centres, of.of_objects(), size) as parts:
            for rows in parts:
                ids, ra, dec, z = rows.objects(of)
                lists = around(ra, dec, sources, names)
                everything = [Group(str(i), a, d, r, s) for i, a, d, r, s in zip(ids, ra, dec, z, lists, strict=True)]
                for start in range(0, len(everything), batch_size):
                    yield _of_groups(everything[start : start + batch_size], of)

    def _entry(self, path: Path) -> TableColumns | None:
        return next((of for of in self.options.tables if of.matches(path)), None)


@contextmanager
def _rows(path: Path, names: set[str], size: int) -> Iterator[Iterator[Rows]]:
    """Give some columns of a table, in slices."""
    with ExitStack() as stack:
        named = stack.enter_context(open_named(path))
        if missing := sorted(names - named.table.columns().keys()):
            raise InputError(f"{path}: columns are missing: {', '.join(missing)}.")

        def slices() -> Iterator[Rows]:
            first = 0
            for columns in named.table.rows(names, size):
                rows = Rows(columns, named.units, path, first)
                yield rows
                first += len(rows)

        yield slices()


def _batch(
    ids: npt.NDArray[np.str_], ra: Floats, dec: Floats, z: Floats, of: TableColumns, lists: list[Floats] | None = None
) -> ObservationBatch:
    data: dict[str, tuple[Any, npt.NDArray[np.int64]]] = {}
    if of.redshift:
        rows = np.flatnonzero(np.isfinite(z))
        data["catalog_redshift"] = Scalar(z[rows]), rows
    if lists is not None:
        rows = np.flatnonzero([len(sources) > 0 for sources in lists])
        data["catalog_sources"] = padded(lists[row] for row in rows), rows
    return ObservationBatch(ids, ra, dec, data)


def _of_groups(groups: list[Group], of: TableColumns) -> ObservationBatch:
    ra, dec, z = np.array([(group.ra, group.dec, group.z) for group in groups]).T
    ids = np.array([group.name for group in groups], dtype=str)
    return _batch(ids, ra, dec, z, of, [group.sources for group in groups])


def _text_columns(path: Path) -> dict[str, str]:
    """Return the columns of comma-separated text, whatever they are called; empty if it is none."""
    if (names := text_columns(path)) is not None:
        return names
    if not path.name.lower().endswith(".csv"):
        return {}
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        names = {name: name for name in reversed(next(csv.reader([file.readline(1 << 16)]), []))}
    return names if len(names) > 1 and all(name and name.isprintable() for name in names) else {}


def _some(columns: dict[str, str]) -> str:
    names = list(reversed(columns.values()))
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
