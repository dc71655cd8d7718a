"""Tables as readers need them, whatever the format: columns by lower-case name, rows a slice at a time.

FITS and comma-separated text (also gzip-compressed) are streamed, so that memory does not grow with the file. Other
formats that astropy recognises (ECSV, VOTable) are read as a whole.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.fits import is_fits, native, open_fits, quiet

#: How text says that there is no value, in lower case.
NULLS = ("", "null", "nan", "none", "\\n", "--")
#: Bytes of text parsed at a time.
BLOCK_BYTES = 1 << 22


class Table(Protocol):
    """An open table."""

    def columns(self) -> dict[str, str]:
        """Return ``{lower-case name: name}``."""

    def rows(self, names: Collection[str], batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield the columns named (in lower case) that there are, `batch_size` rows at a time."""


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a table of any format.

    Raises
    ------
    InputError
        If the file is damaged or no table.
    """
    if is_fits(path):
        with open_fits(path) as file:
            yield file
    elif text_columns(path) is not None:
        yield TextTable(path)
    else:
        yield WholeTable(path)


def text_columns(path: Path) -> dict[str, str] | None:
    """Return ``{lower-case name: name}`` of comma-separated text; None if it does not begin as such.

    The line of names may begin with ``#``, and so must whatever is before it, as archives write them.
    """
    try:
        with _opened(path) as file:
            return {name.lower(): name for name in reversed(_heading(file))}
    except (OSError, EOFError, ValueError, zlib.error):
        return None


class TextTable:
    """Comma-separated text. Values come as they are written, as strings; `numbers` and `flags` convert them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def columns(self) -> dict[str, str]:
        return text_columns(self._path) or {}

    def rows(self, names: Collection[str], batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        import pyarrow as pa
        from pyarrow import csv

        present = {low: name for low, name in self.columns().items() if low in names}
        try:
            with _opened(self._path) as file:
                names_in_file = _heading(file)
                batches = csv.open_csv(
                    file,
                    csv.ReadOptions(column_names=names_in_file, block_size=BLOCK_BYTES),
                    convert_options=csv.ConvertOptions(
                        include_columns=list(present.values()),
                        column_types=dict.fromkeys(present.values(), pa.string()),
                        strings_can_be_null=False,
                    ),
                )
                for batch in batches:
                    columns = {low: np.asarray(batch[name].to_pylist(), str) for low, name in present.items()}
                    for start in range(0, len(batch), batch_size):
                        yield {low: column[start : start + batch_size] for low, column in columns.items()}
        except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
            text = str(error).splitlines()[0].rstrip(".")
            if "Empty CSV" in text:  # a heading alone
                return
            raise InputError(f"{self._path}: not a whole table of comma-separated text ({text}).") from error


class WholeTable:
    """A table in another format that astropy recognises, or in a named one (``ascii``: it guesses which text)."""

    def __init__(self, path: Path, kind: str | None = None) -> None:
        from astropy.table import Table as AstropyTable

        try:
            with quiet():
                self._table = AstropyTable.read(path, format=kind)
        except Exception as error:  # as many kinds as there are formats
            text = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InputError(f"{path}: no table that can be read ({text}).") from error
        if not len(self._table):
            raise InputError(f"{path}: no table that can be read (no row is in it).")

    def columns(self) -> dict[str, str]:
        return {name.lower(): name for name in reversed(self._table.colnames)}

    def units(self) -> dict[str, str]:
        """Return the units of columns that have one, by lower-case name, in astropy's syntax."""
        found = {name.lower(): self._table[name].unit for name in reversed(self._table.colnames)}
        return {low: unit.to_string() for low, unit in found.items() if unit is not None}

    def rows(self, names: Collection[str], batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        columns = {low: _plain(self._table[name]) for low, name in self.columns().items() if low in names}
        for start in range(0, len(self._table), batch_size):
            yield {low: column[start : start + batch_size] for low, column in columns.items()}


def numbers(columns: Mapping[str, npt.NDArray[Any]], name: str, path: Path, first: int = 0) -> npt.NDArray[np.float64]:
    """Return a column as float64 ``[B]``, NaN where there is no (finite) value.

    Raises
    ------
    InputError
        If it is no column of numbers; the message names the row, `first` being the number of the first one.
    """
    column = columns[name]
    if column.ndim != 1 or column.dtype.kind not in "fiubSU":
        raise InputError(f"{path}: column {name} holds {column.dtype} {column.shape[1:]}; expected one number a row.")
    if column.dtype.kind in "SU":
        written = column.astype(str)
        empty = np.isin(np.char.lower(np.char.strip(written)), NULLS)
        try:
            column = np.where(empty, "nan", written).astype(np.float64)
        except ValueError:
            row = next(i for i, text in enumerate(written) if not empty[i] and not _is_number(text))
            raise InputError(
                f"{path}: column {name}, row {first + row}: '{written[row]}' is no number; expected one a row."
            ) from None
    values = column.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def flags(column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return a column of flags as booleans; of text, true is what begins with t, y or a number other than 0."""
    if column.dtype.kind in "SU":
        first = np.char.lower(np.char.strip(column.astype(str))).astype("U1")
        return np.isin(first, list("ty123456789"))
    return column.astype(bool)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain(column: Any) -> npt.NDArray[Any]:
    """Return a column of an astropy table without units or mask; NaN where it is masked and holds floats."""
    if hasattr(column, "filled"):
        column = column.filled(np.nan if column.dtype.kind == "f" else column.fill_value)
    return native(column)


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


def _heading(file: BinaryIO) -> list[str]:
    """Return the names of the columns, and leave the file at the line after them."""
    for _ in range(1000):
        line = file.readline(1 << 20).decode("utf-8-sig")
        names = [name.strip().strip('"') for name in line.strip().lstrip("#").split(",")]
        if len(names) > 1 and all(name.isidentifier() for name in names) and len(set(names)) == len(names):
            return names
        if not line.lstrip().startswith("#"):
            break
    raise ValueError("no line names columns")
