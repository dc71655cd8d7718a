"""The one form that rows of every file format are brought into.

A format yields raw cells: numbers, masked arrays, or objects (text, lists, None), whatever it holds. `normalised`
turns them into float64 numbers, int64 identifiers and 1-D float64 arrays. A cell that is not what its column should
hold makes its row unusable, with a reason, and no other; a column that holds something else altogether (a
floating-point identifier, truth values) is an error of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError

Array: TypeAlias = npt.NDArray[Any]
#: Place of a row in its slice -> why it cannot be used.
Reasons: TypeAlias = dict[int, str]

ID = "source_id"
#: Columns that hold an array in every row.
ARRAYS = ("bp_coefficients", "rp_coefficients")
#: How files spell a missing value, in lower case.
NULLS = frozenset({"", "null", "nan", "none", "--"})
#: An identifier that went through floating point.
FLOAT = re.compile(r"[+-]?\d*\.?\d+(\.|[eE][+-]?\d+)?\d*")


@dataclass(frozen=True)
class Rows:
    """A slice of a table.

    Attributes
    ----------
    number
        Place of each row in the file, from 1, ``[B]``.
    columns
        ``{lower-case name: cells}``, B of each.
    broken
        Rows of this part of the file (by their place in it) that could not even be told into columns, and why.
    """

    number: npt.NDArray[np.int64]
    columns: Mapping[str, Array]
    broken: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """A slice of a table in its final form.

    Attributes
    ----------
    number, broken
        As in `Rows`.
    columns
        Scalar columns as float64 with NaN where there is no value, `ID` as int64, arrays as objects: 1-D float64
        arrays, empty where there is none.
    unusable
        Rows (by place in the slice) with a cell that is no such value.
    table
        With which the names of rows begin, where a file holds several tables.
    """

    number: npt.NDArray[np.int64]
    columns: Mapping[str, Array]
    unusable: Reasons = field(default_factory=dict)
    broken: Mapping[int, str] = field(default_factory=dict)
    table: str = ""


def normalised(rows: Rows, factors: Mapping[str, float] | None = None) -> Sources:
    """Return rows in their final form, scalar columns multiplied by their factor if they have one."""
    columns: dict[str, Array] = {}
    unusable: Reasons = {}
    for name, cells in rows.columns.items():
        convert = _identifiers if name == ID else _arrays if name in ARRAYS else _numbers
        columns[name], reasons = convert(name, cells)
        columns[name] = columns[name] * factors[name] if factors and name in factors else columns[name]
        unusable = reasons | unusable
    return Sources(rows.number, columns, unusable, rows.broken)


def lower(names: Iterable[str]) -> dict[str, str]:
    """Map lower-case names to names; of two that differ in case only, the first counts."""
    return {name.lower(): name for name in reversed(list(names))}


def objects(items: Iterable[Any]) -> npt.NDArray[np.object_]:
    """Return a column of any objects."""
    listed = list(items)
    column = np.empty(len(listed), object)
    for i, item in enumerate(listed):
        column[i] = item
    return column


def _numbers(name: str, cells: Array) -> tuple[npt.NDArray[np.float64], Reasons]:
    if cells.ndim == 2 and cells.shape[1] == 1:
        cells = cells[:, 0]
    if cells.ndim != 1 or cells.dtype.kind not in "fiuOUST":
        raise InputError(f"column {name} holds {_kind(cells)}; expected one number in each row.")
    if cells.dtype.kind in "fiu":
        return np.ma.filled(np.ma.asarray(cells, np.float64), np.nan), {}
    return _each(name, cells, float, np.float64, np.nan, "a number")


def _identifiers(name: str, cells: Array) -> tuple[npt.NDArray[np.int64], Reasons]:
    """Return identifiers as integers, which digits in a string are too."""
    if cells.ndim != 1 or cells.dtype.kind not in "fiuOUST":
        raise InputError(f"column {name} holds {_kind(cells)}; expected one integer in each row.")
    if cells.dtype.kind == "f":
        raise _rounded(name, _kind(cells))
    if cells.dtype.kind in "OUST":
        values, reasons = _each(name, cells, lambda cell: _identifier(name, cell), np.int64, 0, "an integer")
    else:
        hidden = np.ma.getmaskarray(cells) | (np.ma.getdata(cells) > np.iinfo(np.int64).max)
        values, reasons = np.where(hidden, 0, np.ma.getdata(cells)).astype(np.int64), {}
    for i in np.flatnonzero(values <= 0):
        reasons.setdefault(int(i), f"{name} is missing" if values[i] == 0 else f"{name} is {values[i]}")
    return values, reasons


def _identifier(name: str, cell: Any) -> int:
    if isinstance(cell, float | np.floating):
        if np.isnan(cell):
            return 0
        raise _rounded(name, repr(float(cell)))
    if isinstance(cell, str) and not cell.strip().lstrip("+-").isdecimal() and FLOAT.fullmatch(cell.strip()):
        raise _rounded(name, cell)
    value = int(cell)
    if value > np.iinfo(np.int64).max:
        raise ValueError
    return value


def _rounded(name: str, found: str) -> InputError:
    return InputError(
        f"{name} is a floating-point number ({found}), which cannot hold its 19 digits, so that it is not the source's "
        "any more; write the table again with 64-bit integers (pandas: dtype={'" + name + "': 'Int64'} on reading)."
    )


def _arrays(name: str, cells: Array) -> tuple[npt.NDArray[np.object_], Reasons]:
    if cells.dtype.kind == "b" or (cells.ndim != 2 and cells.dtype.kind not in "OUST"):
        raise InputError(f"column {name} holds {_kind(cells)}; expected an array of numbers in each row.")
    column = objects(np.empty(0) for _ in cells)
    reasons: Reasons = {}
    for i, cell in enumerate(cells):
        try:
            column[i] = _array(cell)
        except (ValueError, TypeError):
            reasons[i] = f"{name} is {_short(cell)}, not an array of numbers"
    return column, reasons


def _array(cell: Any) -> npt.NDArray[np.float64]:
    """Return one cell of an array column as 1-D float64, NaN where masked; empty where all of it is missing."""
    if cell is None or cell is np.ma.masked:
        return np.empty(0)
    if isinstance(cell, str | bytes):
        cell = _parsed(cell.decode() if isinstance(cell, bytes) else cell)
    elif isinstance(cell, list | tuple) and None in cell:
        cell = [np.nan if value is None else value for value in cell]
    numbers = np.asarray(cell)  # a masked array's numbers: asking np.ma about a list takes a millisecond
    if numbers.ndim > 1 or (numbers.dtype.kind not in "fiu" and numbers.size):
        raise ValueError
    values = numbers.astype(np.float64).reshape(-1)
    if isinstance(cell, np.ma.MaskedArray):
        values[np.ma.getmaskarray(cell).reshape(-1)] = np.nan
    return values[:0] if np.isnan(values).all() else values


def _parsed(text: str) -> list[float]:
    """Parse ``(1.0, 2.0)`` (DataLink), ``[1.0,2.0]`` (bulk download, ECSV) or ``1.0 2.0`` (VOTable)."""
    text = text.strip().strip("\"'").strip()
    if text.lower() in NULLS:
        return []
    if (text[0], text[-1]) in (("(", ")"), ("[", "]")):
        text = text[1:-1].strip()
    parts = text.split(",") if "," in text else text.split()
    try:
        return list(map(float, parts))
    except ValueError:
        parts = [part.strip().lower() for part in parts]
        return [np.nan if part in NULLS and part else float(part) for part in parts]


def _each(
    name: str, cells: Array, convert: Callable[[Any], Any], dtype: type, missing: float, wanted: str
) -> tuple[Array, Reasons]:
    """Convert cell by cell; those that hold no value are `missing`, and those that hold another thing unusable."""
    values: Array = np.full(len(cells), missing, dtype)
    reasons: Reasons = {}
    for i, cell in enumerate(cells):
        text = cell.decode(errors="replace") if isinstance(cell, bytes) else cell
        if text is None or text is np.ma.masked or (isinstance(text, str) and text.strip().lower() in NULLS):
            continue
        try:
            if isinstance(text, bool | np.bool_):
                raise ValueError
            values[i] = convert(text)
        except (ValueError, TypeError, OverflowError):
            reasons[i] = f"{name} is {_short(text)}, not {wanted}"
    return values, reasons


def _short(cell: Any) -> str:
    text = repr(cell.tolist() if isinstance(cell, np.ndarray) else cell)
    return text if len(text) <= 40 else f"{text[:37]}…{text[-1]}"


def _kind(cells: Array) -> str:
    shape = f" of shape {list(cells.shape[1:])} in each row" if cells.ndim > 1 else ""
    words = {"b": "truth values", "U": "text", "S": "text", "O": "objects"}
    return words.get(cells.dtype.kind, str(cells.dtype)) + shape
