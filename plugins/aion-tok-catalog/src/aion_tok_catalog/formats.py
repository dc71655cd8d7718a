"""Tables of any format as named columns, a slice of rows at a time, with the units that they state.

FITS, comma-separated text, Parquet and HDF5 are streamed; what else astropy recognises (VOTable, ECSV with spaces,
other text) is read as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.fits import FitsFile, native
from aion_core.data.tables import Table, WholeTable, open_table

#: First bytes of formats that the core does not open.
MAGIC = {b"PAR1": "parquet", b"\x89HDF": "hdf5"}
ECSV = b"# %ECSV"
#: Endings that say no more than that a file is text; astropy guesses how its columns are set.
GUESSED = (".txt", ".dat", ".tsv")


@dataclass(frozen=True)
class NamedTable:
    """An open table, and the units of its columns by lower-case name, as far as they are stated."""

    table: Table
    units: Mapping[str, str]


@contextmanager
def open_named(path: Path) -> Iterator[NamedTable]:
    """Open a table.

    Raises
    ------
    InputError
        If the file is damaged or no table.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(ECSV))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    kind = MAGIC.get(head[:4], "")
    if kind == "parquet":
        with _parquet(path) as named:
            yield named
    elif kind == "hdf5":
        with _hdf5(path) as named:
            yield named
    elif path.suffix.lower() in GUESSED:
        guessed = WholeTable(path, "ascii")
        yield NamedTable(guessed, guessed.units())
    else:
        with open_table(path) as table:
            yield NamedTable(table, _ecsv_units(path) if head == ECSV else _units(table))


def _units(table: Table) -> dict[str, str]:
    if isinstance(table, WholeTable):
        return table.units()
    if not isinstance(table, FitsFile):
        return {}
    header = next((h for h in map(table.header, range(len(table.names))) if "TFIELDS" in h), {"TFIELDS": 0})
    numbers = [i for i in range(1, header["TFIELDS"] + 1) if f"TUNIT{i}" in header]
    return {str(header[f"TTYPE{i}"]).lower(): str(header[f"TUNIT{i}"]) for i in numbers}


def _ecsv_units(path: Path) -> dict[str, str]:
    lines = []
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if not line.startswith("#"):
                break
            lines.append(line[1:].removeprefix(" ").rstrip("\n"))
    return _yaml_units(path, [line for line in lines if line.strip() and not line.startswith("%ECSV")])


def _yaml_units(path: Path, lines: list[str]) -> dict[str, str]:
    """Return the units in the description of columns that astropy writes into several formats."""
    from astropy.table.meta import get_header_from_yaml

    try:
        columns = get_header_from_yaml(lines)["datatype"]
    except Exception as error:  # whatever YAML and its constructors raise
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: the description of the columns cannot be read ({text}).") from error
    return {column["name"].lower(): str(column["unit"]) for column in columns if column.get("unit")}


class ParquetTable:
    """A Parquet file; missing values are NaN in columns of numbers."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file

    def columns(self) -> dict[str, str]:
        return {name.lower(): name for name in reversed(self._file.schema_arrow.names)}

    def rows(self, names: Collection[str], batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        import pyarrow as pa

        wanted = {lower: name for lower, name in self.columns().items() if lower in names}
        try:
            for batch in self._file.iter_batches(batch_size, columns=list(wanted.values())):
                yield {lower: np.asarray(_from_arrow(batch.column(name))) for lower, name in wanted.items()}
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{self._path}: not a whole Parquet file ({_line(error)}).") from error


def _from_arrow(column: Any) -> npt.NDArray[Any]:
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "O":
        return np.array(["" if value is None else str(value) for value in values], dtype=str)
    return np.array(values)


@contextmanager
def _parquet(path: Path) -> Iterator[NamedTable]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a whole Parquet file ({_line(error)}).") from error
    with file:
        described = (file.schema_arrow.metadata or {}).get(b"table_meta_yaml")
        units = _yaml_units(path, described.decode().split("\n")) if described else {}
        yield NamedTable(ParquetTable(path, file), units)


class Hdf5Table:
    """Datasets of equal length in the root group of an HDF5 file (single values make a table of one row)."""

    def __init__(self, path: Path, datasets: Mapping[str, Any]) -> None:
        self._path, self._datasets = path, datasets

    def columns(self) -> dict[str, str]:
        return {name.lower(): name for name in reversed(list(self._datasets))}

    def rows(self, names: Collection[str], batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        wanted = {lower: self._datasets[name] for lower, name in self.columns().items() if lower in names}
        lengths = {name: data.shape[0] if data.shape else 1 for name, data in wanted.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(f"{self._path}: the datasets differ in length ({found}); expected one value a row each.")
        try:
            for start in range(0, max(lengths.values(), default=0), batch_size):
                part = slice(start, start + batch_size)
                yield {n: native(d[part] if d.shape else np.atleast_1d(d[()])) for n, d in wanted.items()}
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path}: not a whole HDF5 file ({_line(error)}).") from error


@contextmanager
def _hdf5(path: Path) -> Iterator[NamedTable]:
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: HDF5 files need h5py; `pip install 'aion-tok-catalog[hdf5]'`.") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a whole HDF5 file ({_line(error)}).") from error
    with file:
        flat = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset) and len(item.shape) < 2}
        units = {name.lower(): data.attrs.get("unit", data.attrs.get("units")) for name, data in flat.items()}
        tables = {name: data for name, data in flat.items() if data.dtype.names and data.shape}
        if tables:  # as astropy writes them: one dataset of records, its description beside
            name, records = next(iter(tables.items()))
            flat = {field: _Field(records, field) for field in records.dtype.names}
            described = file.get(f"{name}.__table_column_meta__")
            units = {} if described is None else _yaml_units(path, [line.decode() for line in described[()]])
        named = {name: unit for name, unit in units.items() if isinstance(unit, str)}
        yield NamedTable(Hdf5Table(path, flat), named)


class _Field:
    """One field of a dataset of records, as a dataset."""

    def __init__(self, records: Any, name: str) -> None:
        self.shape, self._records, self._name = records.shape, records, name

    def __getitem__(self, rows: slice) -> Any:
        return self._records[rows][self._name]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
