"""CSV and ECSV: archive results, DataLink products, and bulk downloads with their ECSV header. Streamed by pyarrow."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_tok_gaia.formats.opened import opened
from aion_tok_gaia.formats.rows import ARRAYS, ID, Array, Rows, lower, objects

#: A header line above this length is none of ours.
HEADER_BYTES = 1 << 20
#: A file is read in blocks of this size, up to 32 ahead; a row (45 kB with all correlations) must fit.
BLOCK_BYTES = 1 << 19
#: What is in no number becomes a question mark.
ASCII = bytes(range(128)) + b"?" * 128
#: An array that stands between delimiters without quotes, which CSV asks for where the delimiter is a comma.
BARE = re.compile(rb"(^|,)[ \t]*([(\[][^)\]\"\n]*[)\]])[ \t]*(?=,|\r?$)", re.MULTILINE)


def names(path: Path) -> list[str]:
    """Return the column names."""
    return _header(path)[0]


def units(path: Path) -> dict[str, str]:
    """Return the units that an ECSV header states, by lower-case column name."""
    from astropy.table.meta import YamlParseError, get_header_from_yaml

    lines = []
    with opened(path) as file:
        while (line := file.readline(HEADER_BYTES)).startswith(b"#"):
            lines.append(line.decode().removeprefix("#").removeprefix(" ").rstrip("\r\n"))
    try:
        columns = get_header_from_yaml(lines[1:])["datatype"] if lines and lines[0].startswith("%ECSV") else []
        return {column["name"].lower(): str(column["unit"]) for column in columns if column.get("unit") is not None}
    except (YamlParseError, LookupError, TypeError, AttributeError):
        return {}


def rows(path: Path, wanted: Collection[str], batch_size: int) -> Iterator[Rows]:
    """Yield the wanted columns, in slices of rows. Lines with too few or too many cells are skipped."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header, delimiter, above = _header(path)
    present = {name: given for name, given in lower(header).items() if name in wanted}
    odd = _OddLines(above, len(header))
    with opened(path) as file:
        source = _Source(file, bare=delimiter == "," and _bare_arrays(path, above))
        reader = arrow_csv.open_csv(
            io.BufferedReader(source, BLOCK_BYTES),
            arrow_csv.ReadOptions(skip_rows=above, column_names=header, block_size=BLOCK_BYTES, use_threads=False),
            arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=odd),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.binary()),
                include_columns=list(present.values()),
                null_values=["", "null"],
                strings_can_be_null=True,
            ),
        )
        first = 1
        with reader:
            for table in _rebatched(reader, batch_size):
                number = odd.places(first, len(table))
                columns = {name: _cells(name, table.column(given)) for name, given in present.items()}
                yield Rows(number, columns, odd.taken(int(number[-1])))
                first += len(table)
    if source.last != b"\n" and odd.number and odd.number[-1] == first - 1 + len(odd.number):
        raise InputError(f"{path}: the file is cut short in its last line, row {odd.number[-1]}; fetch it again.")
    if rest := odd.taken():
        yield Rows(np.empty(0, np.int64), {name: np.empty(0, object) for name in present}, rest)


def _header(path: Path) -> tuple[list[str], str, int]:
    """Return the column names, the delimiter, and how many lines stand above the data."""
    stated = ""
    with opened(path) as file:
        for above in count(1):
            line = file.readline(HEADER_BYTES)
            text = line.decode().lstrip("\ufeff")
            if not line:
                raise ValueError("no line with column names")
            if text.strip() and not text.startswith("#"):
                delimiter = stated or next((d for d in ",\t;|" if d in text), " ")
                return next(csv.reader([text.strip("\r\n")], delimiter=delimiter)), delimiter, above
            if text.startswith("# delimiter:"):
                stated = text.partition(":")[2].strip().strip("'\"") or " "
    raise AssertionError


class _OddLines:
    """Collects the lines with too few or too many cells, which the parser hands over in place of raising."""

    def __init__(self, above: int, expected: int) -> None:
        self.above = above
        self.expected = expected
        self.number: list[int] = []
        self.waiting: dict[int, str] = {}

    def __call__(self, line: Any) -> str:
        self.number.append(line.number - self.above)
        cells = "cell" if line.actual_columns == 1 else "cells"
        self.waiting[self.number[-1]] = f"the line has {line.actual_columns} {cells}, expected {self.expected}"
        return "skip"

    def places(self, first: int, size: int) -> npt.NDArray[np.int64]:
        """Return the rows of the file that are good lines number `first` and on, counting all lines from 1."""
        good = np.arange(first, first + size)
        good_before = np.array(self.number, np.int64) - np.arange(len(self.number))
        return good + np.searchsorted(good_before, good, side="right")

    def taken(self, until: int | None = None) -> dict[int, str]:
        """Hand out those above row `until`, each once."""
        numbers = [number for number in self.waiting if until is None or number < until]
        return {number: self.waiting.pop(number) for number in numbers}


class _Source(io.RawIOBase):
    """What the parser reads: the file's content, bare arrays put in quotes, and the last byte remembered."""

    def __init__(self, file: BinaryIO, bare: bool) -> None:
        self.file = file
        self.bare = bare
        self.last = b"\n"
        self.held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.held:
            chunk = self.file.read(BLOCK_BYTES)
            self.last = chunk[-1:] or self.last
            if not chunk.isascii():  # of no column that is wanted; and the parser fails to hand over such lines
                chunk = chunk.translate(ASCII)
            if self.bare:
                chunk = BARE.sub(rb'\1"\2"', chunk + self.file.readline())
            self.held = memoryview(chunk)
        size = min(len(self.held), len(buffer))
        buffer[:size], self.held = self.held[:size], self.held[size:]
        return size


def _bare_arrays(path: Path, above: int) -> bool:
    """Whether arrays among the first rows stand without quotes."""
    with opened(path) as file:
        for _ in range(above):
            file.readline(HEADER_BYTES)
        return BARE.search(file.read(BLOCK_BYTES)) is not None


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


def _cells(name: str, column: Any) -> Array:
    """Return a column as numbers if all of it is numbers, else as the text that it is."""
    import pyarrow as pa

    if name not in ARRAYS:
        try:
            numbers = column.cast(pa.string()).cast(pa.int64() if name == ID else pa.float64())
            return np.array(numbers.fill_null(0 if name == ID else np.nan).to_numpy())
        except pa.ArrowInvalid:
            pass
    return objects(text if text is None else text.decode(errors="replace") for text in column.to_pylist())
