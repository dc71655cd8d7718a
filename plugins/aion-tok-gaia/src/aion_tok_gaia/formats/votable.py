"""VOTable, streamed: TABLEDATA, BINARY and BINARY2.

Read by expat, not by astropy, which holds the whole table and turns every cell of it into a Python object.
Types and their serialisations: IVOA VOTable 1.4 (Ochsenbein et al. 2019), sections 2.1, 5.3 and 5.4.
"""

from __future__ import annotations

import binascii
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from aion_core.contract import InputError
from aion_tok_gaia.formats.opened import opened
from aion_tok_gaia.formats.rows import Rows, lower, objects

CHUNK_BYTES = 1 << 18
#: Types of one cell in binary form.
TYPES = {
    "boolean": "S1",
    "bit": "u1",
    "unsignedByte": "u1",
    "short": ">i2",
    "int": ">i4",
    "long": ">i8",
    "char": "S1",
    "unicodeChar": "S2",
    "float": ">f4",
    "double": ">f8",
    "floatComplex": ">c8",
    "doubleComplex": ">c16",
}


@dataclass
class Field:
    """A column: its name, unit, type, `arraysize` (``*`` at its end: any number), and the number for no value."""

    name: str
    unit: str
    datatype: str
    arraysize: str
    null: str | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.datatype not in TYPES:
            raise ValueError(f"field {self.name} has the unknown type '{self.datatype}'")
        return np.dtype(TYPES[self.datatype])

    @property
    def variable(self) -> bool:
        return self.arraysize.endswith("*")

    @property
    def bytes(self) -> int:
        """Bytes of a cell, or of one item of it (a row of it, if it has two axes) if their number varies."""
        if self.variable and self.datatype == "bit":
            raise ValueError(f"field {self.name} is a bit array of any length, which is not supported")
        axes = self.arraysize.split("x")
        count = prod(map(int, axes[:-1] if self.variable else axes))
        return (count + 7) // 8 if self.datatype == "bit" else count * self.dtype.itemsize


def names(path: Path) -> list[str]:
    """Return the names of the first table's fields, reading no further than to its data."""
    return [field.name for field in _fields(path)]


def units(path: Path) -> dict[str, str]:
    """Return the units stated for the fields, by lower-case name."""
    return {field.name.lower(): field.unit for field in reversed(_fields(path)) if field.unit}


def rows(path: Path, wanted: Collection[str], batch_size: int) -> Iterator[Rows]:
    """Yield the wanted columns of the first table, in slices of rows."""
    document = _Document(path, wanted)
    first = 1
    with opened(path) as file:
        while not document.ended:
            chunk = file.read(CHUNK_BYTES)
            document.feed(chunk)
            while len(document.cells) >= batch_size or (document.ended and document.cells):
                yield document.taken(first, batch_size)
                first += batch_size


def _fields(path: Path) -> list[Field]:
    document = _Document(path, ())
    with opened(path) as file:
        while not document.has_data and not document.ended:
            document.feed(file.read(CHUNK_BYTES if document.fields else 1 << 12))
    return document.fields


class _Document:
    """A VOTable as far as it has been fed: the fields of its first table, and the rows not yet taken."""

    def __init__(self, path: Path, wanted: Collection[str]) -> None:
        self.path = path
        self.wanted = wanted
        self.fields: list[Field] = []
        self.has_data = False
        self.ended = False
        self.known = False
        #: Cells of the wanted columns, or the reason why a row has none.
        self.cells: list[tuple[Any, ...] | str] = []
        self.places: dict[str, int] = {}
        self._over = False
        self._binary: _Binary | None = None
        self._row: list[str] = []
        self._text: list[str] | None = None
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.buffer_size = CHUNK_BYTES
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def feed(self, chunk: bytes) -> None:
        """Take in the next part of the file; an empty one is its end."""
        self._parser.Parse(chunk, not chunk)
        self.ended = not chunk

    def taken(self, first: int, size: int) -> Rows:
        """Hand out up to `size` rows, the first of which is row `first` of the file."""
        taken, self.cells = self.cells[:size], self.cells[size:]
        good = [i for i, cells in enumerate(taken) if not isinstance(cells, str)]
        columns = {name: objects(taken[i][k] for i in good) for k, name in enumerate(self.places)}
        broken = {first + i: cells for i, cells in enumerate(taken) if isinstance(cells, str)}
        return Rows(np.array(good, np.int64) + first, columns, broken)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._over:
            return
        tag = name.rpartition(":")[2]
        if not self.known and tag != "VOTABLE":
            raise ValueError(f"its root is {name}, not VOTABLE")
        self.known = True
        if tag == "FIELD":
            get = attributes.get
            self.fields.append(Field(get("name", ""), get("unit", ""), get("datatype", ""), get("arraysize", "1")))
        elif tag == "VALUES" and self.fields and not self.has_data:
            self.fields[-1].null = attributes.get("null")
        elif tag == "DATA":
            self.has_data = True
            spelt = lower(field.name for field in self.fields)
            given = [field.name for field in self.fields]
            self.places = {name: given.index(spelt[name]) for name in spelt if name in self.wanted}
        elif tag == "TR":
            self._row = []
        elif tag == "TD":
            self._text = []
        elif tag == "STREAM":
            self._stream(attributes)
        elif tag in ("BINARY", "BINARY2"):
            self._binary = _Binary(self.fields, list(self.places.values()), flags=tag == "BINARY2")
        elif tag == "FITS":
            raise InputError(f"{self.path}: the data of this VOTable are a FITS stream; ask for a FITS file instead.")

    def _stream(self, attributes: dict[str, str]) -> None:
        if "href" in attributes or attributes.get("encoding", "base64") != "base64":
            raise InputError(
                f"{self.path}: the data of this VOTable are not inside it in base64 (STREAM {attributes}); "
                "ask for a VOTable with its data inside."
            )

    def _characters(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)
        elif self._binary is not None and not self._over:
            self.cells += self._binary.rows(data)

    def _end(self, name: str) -> None:
        tag = name.rpartition(":")[2]
        if self._over:
            return
        if tag == "TD" and self._text is not None:
            self._row.append("".join(self._text))
            self._text = None
        elif tag == "TR":
            self.cells.append(self._told())
        elif tag in ("BINARY", "BINARY2") and self._binary is not None:
            self._binary.close()
        elif tag == "TABLE" and self.has_data:
            self._over = True
        elif tag == "TABLE":
            self.fields = []  # a description only

    def _told(self) -> tuple[Any, ...] | str:
        """Return the wanted cells of a row of text."""
        if len(self._row) != len(self.fields):
            return f"the row has {len(self._row)} cells, expected {len(self.fields)}"
        found = ((self._row[place], self.fields[place].null) for place in self.places.values())
        return tuple(None if text.strip() == (null or "") else text for text, null in found)


class _Binary:
    """Decodes rows from the base64 text of a stream as it comes in."""

    def __init__(self, fields: list[Field], places: list[int], flags: bool) -> None:
        self.fields = fields
        self.places = places
        self.flags = (len(fields) + 7) // 8 if flags else 0
        self.sizes = [(field.variable, field.bytes) for field in fields]
        self.text = ""
        self.buffer = bytearray()

    def rows(self, text: str) -> Iterator[tuple[Any, ...]]:
        text = self.text + "".join(text.split())
        whole = len(text) // 4 * 4
        self.text = text[whole:]
        self.buffer += binascii.a2b_base64(text[:whole], strict_mode=True)
        place = 0
        while (ends := self._ends(place)) is not None:
            yield tuple(self._cell(field, place, ends) for field in self.places)
            place = ends[-1]
        del self.buffer[:place]

    def close(self) -> None:
        if self.buffer or self.text:
            raise ValueError("the binary data end in the middle of a row")

    def _ends(self, place: int) -> list[int] | None:
        """Return where the fields of the row at a place end; None if the row is not there as a whole."""
        at, size = place + self.flags, len(self.buffer)
        ends = []
        for variable, width in self.sizes:
            if variable:
                count = int.from_bytes(self.buffer[at : at + 4], "big")
                at += 4 + count * width
            else:
                at += width
            if at > size:
                return None
            ends.append(at)
        return ends

    def _cell(self, number: int, place: int, ends: list[int]) -> Any:
        if self.flags and self.buffer[place + number // 8] & (0x80 >> number % 8):
            return None
        field = self.fields[number]
        start = ends[number - 1] if number else place + self.flags
        content = bytes(self.buffer[start + 4 * field.variable : ends[number]])
        if field.datatype in ("char", "unicodeChar"):
            return content.decode("ascii" if field.datatype == "char" else "utf-16-be", "replace").rstrip("\0 ")
        values = np.frombuffer(content, field.dtype)
        if field.arraysize != "1":
            return values.astype(values.dtype.newbyteorder("="))
        value = values[0].item()
        return None if field.null is not None and str(value) == field.null else value
