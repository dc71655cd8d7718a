"""TAP results in JSON, ``{"metadata": [{"name": …}, …], "data": [[…], …]}``, streamed: one row at a time is decoded."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aion_tok_gaia.formats.opened import opened
from aion_tok_gaia.formats.rows import Rows, lower, objects

CHUNK_BYTES = 1 << 18
#: The longest row, or description of all columns, that is taken for one.
VALUE_CHARACTERS = 1 << 24


def names(path: Path) -> list[str]:
    """Return the column names, from the description at the head."""
    with opened(path) as file:
        metadata, _ = _described(_Text(file))
    return [field["name"] for field in metadata]


def units(path: Path) -> dict[str, str]:
    """Return the units stated for the columns, by lower-case name."""
    with opened(path) as file:
        metadata, _ = _described(_Text(file))
    return {field["name"].lower(): field["unit"] for field in reversed(metadata) if field.get("unit")}


def rows(path: Path, wanted: Collection[str], batch_size: int) -> Iterator[Rows]:
    """Yield the wanted columns, in slices of rows."""
    with opened(path) as file:
        text = _Text(file)
        metadata, has_data = _described(text)
        if not has_data:
            raise ValueError("the field 'data' is missing")
        given = [field["name"] for field in metadata]
        places = {name: given.index(spelt) for name, spelt in lower(given).items() if name in wanted}
        items, broken = dict[int, list[Any]](), dict[int, str]()
        for number, row in enumerate(text.items(), 1):
            if isinstance(row, list) and len(row) == len(given):
                items[number] = row
            else:
                found = f"{len(row)} values" if isinstance(row, list) else "no list of values"
                broken[number] = f"the row has {found}, expected {len(given)}"
            if len(items) == batch_size:
                yield _slice(items, places, broken)
                items, broken = {}, {}
        if items or broken:
            yield _slice(items, places, broken)
        text.close()


def _slice(items: dict[int, list[Any]], places: dict[str, int], broken: dict[int, str]) -> Rows:
    columns = {name: objects(row[k] for row in items.values()) for name, k in places.items()}
    return Rows(np.array(list(items), np.int64), columns, broken)


def _described(text: _Text) -> tuple[list[dict[str, Any]], bool]:
    """Return the description of the columns, and whether the rows come next; the text then stands before them."""
    metadata: Any = None
    rows_next = False
    text.expect("{")
    while not rows_next and not text.passes("}"):
        name = text.value()
        text.expect(":")
        if name == "data" and metadata is None:
            raise ValueError("the field 'metadata' must come before 'data'")
        rows_next = name == "data"
        if not rows_next:
            value = text.value()
            metadata = value if name == "metadata" else metadata
            text.passes(",")
    columns: list[Any] = metadata if isinstance(metadata, list) else [None]
    if not all(isinstance(column, dict) and isinstance(column.get("name"), str) for column in columns):
        raise ValueError("a TAP result has the fields 'metadata' and 'data'")
    return columns, rows_next


class _Text:
    """A JSON document, decoded piece by piece."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.scan = json.JSONDecoder().raw_decode
        self.held = ""

    def items(self) -> Iterator[Any]:
        """Yield the items of the list that begins here."""
        self.expect("[")
        while not self.passes("]"):
            yield self.value()
            if not self.passes(","):
                self.expect("]")
                return

    def value(self) -> Any:
        """Return the value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self.scan(self.held)
                if end < len(self.held) or not self.more():  # a number may go on
                    self.held = self.held[end:]
                    return value
            except json.JSONDecodeError:
                if len(self.held) > VALUE_CHARACTERS or not self.more():
                    raise

    def close(self) -> None:
        """See the document to its end, past the fields behind the rows."""
        while not self.passes("}"):
            self.expect(",")
            self.value()
            self.expect(":")
            self.value()

    def peek(self) -> str:
        """Return the next character that is no space, the text then standing before it; empty at the end."""
        while not (held := self.held.lstrip()) and self.more():
            pass
        self.held = held
        return held[:1]

    def passes(self, character: str) -> bool:
        """Whether this character is next; if so it is passed."""
        if self.peek() != character:
            return False
        self.held = self.held[1:]
        return True

    def expect(self, character: str) -> None:
        if not self.passes(character):
            raise ValueError(f"expected '{character}', found {self.held[:1]!r}" if self.held else "it is cut short")

    def more(self) -> bool:
        chunk = self.file.read(CHUNK_BYTES)
        self.held += self.decode(chunk, not chunk)
        return bool(chunk)
