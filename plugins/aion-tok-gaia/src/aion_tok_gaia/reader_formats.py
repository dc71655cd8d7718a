"""The file formats that Gaia archive tables come in, as slices of named columns.

Every format yields ``{lower-case name: column}``, a slice of rows at a time. Scalar columns are float64 with NaN where
a value is missing, ``source_id`` stays an integer (a float cannot hold one), and array columns are object arrays of
1-D float64 arrays, empty where missing.

FITS, CSV and ECSV are streamed. VOTable and TAP JSON are read whole: the archive limits them to what one query
returns; for bulk downloads it offers CSV (``*.csv.gz``, an ECSV header included).
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.reader import fits_columns, fits_rows

Columns: TypeAlias = dict[str, npt.NDArray[Any]]

ID = "source_id"
#: Columns that hold an array in every row.
ARRAYS = ("bp_coefficients", "rp_coefficients")
#: How the formats spell a missing value.
NULLS = ("", "null", "NULL", "nan", "NaN")
#: A header line or the begin of a JSON document, above which a file is none of ours.
HEADER_BYTES = 1 << 20
#: CSV is read in blocks of this size, several at once; a row (45 kB with all correlations) must fit.
BLOCK_BYTES = 1 << 20


def column_names(path: Path) -> dict[str, str]:
    """Return ``{lower-case name: name}`` of a table's columns, from its header; empty if it is no table."""
    kind = _kind(path)
    try:
        if kind == "fits":
            return fits_columns(path) or {}
        return _lower(_NAMES[kind](path))
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, csv.Error, ElementTree.ParseError):
        return {}


def table_rows(path: Path, names: Collection[str], batch_size: int) -> Iterator[Columns]:
    """Yield the wanted columns (lower-case names; those that exist) of a table, in slices of rows.

    Raises
    ------
    InputError
        If the file is damaged; the message names it, and the row or column where the format tells.
    """
    kind = _kind(path)
    if kind == "fits":
        for columns in fits_rows(path, names, batch_size):
            yield {name: _column(name, values, path) for name, values in columns.items()}
        return
    try:
        yield from _ROWS[kind](path, names, batch_size)
    except (OSError, EOFError, zlib.error, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{path}: the table cannot be read ({_first_line(error)}).") from error


def _kind(path: Path) -> str:
    """Tell the format from the first bytes: names of files are no evidence."""
    try:
        with _open(path) as file:
            head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except (OSError, EOFError, zlib.error):
        return "text"
    if head.startswith(b"SIMPLE"):
        return "fits"
    if head.startswith(b"<"):
        return "votable"
    return "json" if head.startswith(b"{") else "text"


def _compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _open(path: Path) -> Any:
    return gzip.open(path) if _compressed(path) else path.open("rb")


def _lower(names: Collection[str]) -> dict[str, str]:
    """Map lower-case names to names; of two that differ in case only, the first counts."""
    return {name.lower(): name for name in reversed(list(names))}


# --- CSV and ECSV ---


def _text_names(path: Path) -> list[str]:
    return _text_header(path)[0]


def _text_header(path: Path) -> tuple[list[str], str, int]:
    """Return the column names, the delimiter, and how many lines stand above the names."""
    delimiter, skipped = "", 0
    with _open(path) as file:
        while line := file.readline(HEADER_BYTES):
            text = line.decode().lstrip("\ufeff")
            if text.strip() and not text.startswith("#"):
                separator = delimiter or ("," if "," in text else " ")
                return next(csv.reader([text.rstrip("\r\n")], delimiter=separator)), separator, skipped
            if text.startswith("# delimiter:"):
                delimiter = text.partition(":")[2].strip().strip("'\"") or " "
            skipped += 1
    raise ValueError("no line with column names")


def _text_rows(path: Path, names: Collection[str], batch_size: int) -> Iterator[Columns]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header, delimiter, skipped = _text_header(path)
    wanted = {lower: name for lower, name in _lower(header).items() if lower in names}
    types = {ID: pa.int64()} | dict.fromkeys(ARRAYS, pa.string())
    with pa.input_stream(str(path), compression="gzip" if _compressed(path) else None) as source:
        reader = arrow_csv.open_csv(
            source,
            arrow_csv.ReadOptions(skip_rows=skipped, block_size=BLOCK_BYTES),
            arrow_csv.ParseOptions(delimiter=delimiter),
            arrow_csv.ConvertOptions(
                column_types={name: types.get(lower, pa.float64()) for lower, name in wanted.items()},
                include_columns=list(wanted.values()),
                null_values=list(NULLS),
                strings_can_be_null=True,
            ),
        )
        with reader:
            for table in _rebatched(reader, batch_size):
                yield {lower: _from_arrow(lower, table.column(name), path) for lower, name in wanted.items()}


def _rebatched(batches: Any, size: int) -> Iterator[Any]:
    """Yield tables of `size` rows (the last one shorter) from record batches of any length."""
    import pyarrow as pa

    held = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        held = table if held is None else pa.concat_tables([held, table])
        while len(held) >= size:
            yield held.slice(0, size)
            held = held.slice(size)
    if held is not None and len(held):
        yield held


def _from_arrow(name: str, column: Any, path: Path) -> npt.NDArray[Any]:
    if name == ID and column.null_count:
        raise InputError(f"{path}: {ID} is missing in {column.null_count} rows; every source needs one.")
    if name in ARRAYS:
        return _objects(map(_parsed, column.to_pylist()))
    return np.array(column.to_numpy() if name == ID else column.fill_null(np.nan).to_numpy())


def _parsed(text: str | None) -> npt.NDArray[np.float64]:
    """Parse ``(1.0, 2.0)`` (DataLink) or ``[1.0,2.0]`` (bulk download, ECSV)."""
    inside = (text or "").strip().strip("()[]")
    return np.array(inside.replace("null", "nan").split(",") if inside.strip() else [], np.float64)


# --- VOTable and TAP JSON ---


def _votable_names(path: Path) -> list[str]:
    """Return the field names of the first table, reading no further than its data."""
    names = []
    with _open(path) as file:
        for _, element in ElementTree.iterparse(file, events=("start",)):
            tag = element.tag.rpartition("}")[2]
            if tag == "FIELD":
                names.append(element.get("name", ""))
            elif tag == "DATA":
                break
    return names


def _votable_rows(path: Path, names: Collection[str], batch_size: int) -> Iterator[Columns]:
    from astropy.io import votable
    from astropy.io.votable.exceptions import VOWarning

    try:
        table = votable.parse(path).get_first_table()
    except VOWarning as error:
        raise ValueError(error) from error
    found = {field.name.lower(): table.array[field.ID] for field in reversed(table.fields)}
    columns = {name: _column(name, found[name], path) for name in found if name in names}
    yield from _sliced(columns, batch_size)


def _json_names(path: Path) -> list[str]:
    with _open(path) as file:
        if b'"metadata"' not in file.read(HEADER_BYTES):
            return []
    return [field["name"] for field in _json(path)["metadata"]]


def _json_rows(path: Path, names: Collection[str], batch_size: int) -> Iterator[Columns]:
    document = _json(path)
    places = {field["name"].lower(): i for i, field in reversed(list(enumerate(document["metadata"])))}
    columns = {
        name: _column(name, _objects(row[place] for row in document["data"]), path)
        for name, place in places.items()
        if name in names
    }
    yield from _sliced(columns, batch_size)


def _json(path: Path) -> Any:
    with _open(path) as file:
        document = json.load(file)
    if not isinstance(document.get("data"), list) or not isinstance(document.get("metadata"), list):
        raise ValueError("a TAP result has the fields 'metadata' and 'data'")
    return document


def _sliced(columns: Columns, batch_size: int) -> Iterator[Columns]:
    size = len(next(iter(columns.values()), ()))
    for start in range(0, size, batch_size):
        yield {name: values[start : start + batch_size] for name, values in columns.items()}


# --- one form for all ---


def _column(name: str, values: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Bring a column of FITS, VOTable or JSON into the one form that `table_rows` promises."""
    try:
        if name in ARRAYS:
            return _objects(_cell(value) for value in values)
        if name == ID:
            return _identifiers(values)
        numbers = [np.nan if v is None else v for v in values] if values.dtype == object else values
        return np.ma.filled(np.ma.asarray(numbers, np.float64), np.nan)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: column {name} is not what it should be ({_first_line(error)}).") from error


def _identifiers(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the identifiers as integers, which digits in a string are too."""
    if np.ma.is_masked(values) or any(v is None for v in values):
        raise ValueError("it is missing for some sources")
    if any(isinstance(v, float | np.floating) for v in values):
        raise ValueError("floating-point numbers lose the last digits of an identifier")
    return np.array([int(v) for v in values], np.int64)


def _cell(value: Any) -> npt.NDArray[np.float64]:
    """Return one cell of an array column as 1-D float64; empty where all of it is missing."""
    if value is None or isinstance(value, str):
        return _parsed(value)
    numbers = np.ma.filled(np.ma.asarray(value, np.float64), np.nan).reshape(-1)
    return numbers[:0] if np.isnan(numbers).all() else numbers


def _objects(items: Any) -> npt.NDArray[np.object_]:
    listed = list(items)
    column = np.empty(len(listed), object)
    for i, item in enumerate(listed):
        column[i] = item
    return column


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


_NAMES = {"text": _text_names, "votable": _votable_names, "json": _json_names}
_ROWS = {"text": _text_rows, "votable": _votable_rows, "json": _json_rows}
