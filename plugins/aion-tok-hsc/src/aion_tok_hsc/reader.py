"""Catalogue rows of HSC-SSP as observations: magnitudes, extinctions and moments, as the archive's database gives them.

Magnitudes are cModel, AB, not corrected for Galactic extinction, which is a modality of its own; moments are arcsec².
What is not measured is absent: a column that the query did not ask for, a value that is not finite or that its
``_isnull`` column says is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.fits import fits_columns
from aion_core.data.positions import on_sphere
from aion_core.data.reader import ObservationBatch, Reader, Skipped
from aion_core.data.tables import flags, numbers, open_table, text_columns
from aion_core.observations import Observation, Scalar

Columns = Mapping[str, npt.NDArray[Any]]

BANDS = ("g", "r", "i", "z", "y")
#: Modality -> column of the database, in lower case.
COLUMNS = {
    **{f"hsc_mag_{band}": f"{band}_cmodel_mag" for band in BANDS},
    **{f"hsc_extinction_{band}": f"a_{band}" for band in BANDS},
    **{f"hsc_shape_{ij}": f"i_sdssshape_shape{ij}" for ij in ("11", "22", "12")},
}
NULL = "_isnull"
WANTED = {"object_id", "ra", "dec", "isprimary", *COLUMNS.values(), *(f"{name}{NULL}" for name in COLUMNS.values())}
#: Why a row is skipped.
NOT_PRIMARY = "isprimary is false: it is a blend of other rows, or in another patch or tract again"


class CatalogueReader(Reader):
    """Reads tables that the archive's database returned, FITS or CSV (also compressed), streamed."""

    def claims(self, path: Path) -> bool:
        """Whether the table has HSC's object numbers and one of the columns that a modality is made of."""
        return is_catalogue(path)

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        first = 0
        with open_table(path) as table:
            for columns in table.rows(WANTED, batch_size):
                own = primary(columns)
                rows = {name: column[own] for name, column in columns.items()}
                batch = observed(rows, path, first)
                others = (f"row {first + row}" for row in np.flatnonzero(~own))
                yield replace(batch, skipped=tuple(Skipped(name, NOT_PRIMARY) for name in others))
                first += len(own)


def is_catalogue(path: Path) -> bool:
    """Whether a file is a table of the archive's database with something that a modality is made of."""
    names = (fits_columns(path) or text_columns(path) or {}).keys()
    return "object_id" in names and not names.isdisjoint(COLUMNS.values())


def primary(columns: Columns) -> npt.NDArray[np.bool_]:
    """Return which rows are objects in their own right, once in the survey: all, if the table does not say."""
    if "isprimary" in columns:
        return flags(columns["isprimary"])
    return np.full(len(columns["object_id"]), True)


def observed(columns: Columns, path: Path, first: int = 0) -> ObservationBatch:
    """Return what the catalogue says of some of its rows, the first of which is about row `first` (for sentences)."""
    data: dict[str, tuple[Observation, npt.NDArray[np.int64]]] = {}
    for key, name in COLUMNS.items():
        if name in columns:
            value = numbers(columns, name, path, first)
            if f"{name}{NULL}" in columns:
                value[flags(columns[f"{name}{NULL}"])] = np.nan
            rows = np.flatnonzero(np.isfinite(value))
            data[key] = (Scalar(value[rows]), rows)
    unknown = np.full(len(columns["object_id"]), np.nan)
    ra, dec = (numbers(columns, n, path, first) if n in columns else unknown for n in ("ra", "dec"))
    return ObservationBatch(_identifiers(columns["object_id"], path), *on_sphere(ra, dec), data)


def _identifiers(column: npt.NDArray[Any], path: Path) -> npt.NDArray[np.str_]:
    """Return the numbers of objects, to their last digit."""
    if column.dtype.kind not in "iuSU":
        raise InputError(
            f"{path}: column object_id holds {column.dtype}, which cannot hold all digits of HSC's numbers."
        )
    names = np.char.strip(column.astype(str))
    if rounded := next((name for name in names if name and not name.isdigit()), None):
        raise InputError(f"{path}: column object_id holds '{rounded}'; expected a whole number with all its digits.")
    return names
