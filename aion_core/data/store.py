"""The token store: one Arrow IPC file, read through a memory map, that says itself what its tokens mean.

Columns: ``object_id`` (string), ``ra`` and ``dec`` (float64 degrees, null unknown), ``healpix`` (int64, nested, order
29, null unknown), then one nullable column per modality that any object has: ``uint16`` where an object has one token,
else ``list<uint16>``, row-major (``uint32`` where the vocabulary exceeds 65 536). The schema's metadata hold the
manifest of these columns (``aion_manifest``), the number of rows (``aion_rows``) and a SHA-256 of the content
(``aion_sha256``). Anything that reads Arrow reads it. The record batches are the chunks of `aion_core.data.order`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aion_core.contract import AionError, InputError, TokenSpace
from aion_core.data.columns import BASE_COLUMNS, CHECKSUM, MANIFEST, ROWS, SUFFIX, arrow_type, checksum
from aion_core.data.writer import StoreWriter, healpix_of

__all__ = ["Layout", "StoreWriter", "TokenStore", "healpix_of"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where in the file the buffers of each chunk and slot begin; ``[chunks, slots]``, −1 where there is none.

    `values` and `offsets` count in elements of their types, `validity` in bytes. With it, any set of rows, slots and
    positions is one gather on the mapped file.
    """

    values: Int
    offsets: Int
    validity: Int


class TokenStore:
    """One token store, memory-mapped: opening reads the metadata only, and tokens are read when asked for.

    Attributes
    ----------
    path, space, metadata
        The file, the token space of its columns, and the rest of the schema's metadata.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._source = pa.memory_map(str(self.path))
            self._reader = pa.ipc.open_file(self._source)
            # Now, not on use: reading moves the file's one position, and batches are made in several threads.
            self._bytes = self._source.read_buffer(self._source.size())
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such file.") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(
                f"{self.path}: not a whole Arrow IPC file ({_first_line(error)}). Was it cut short? "
                "Write it again with `aion tokenize`."
            ) from None
        metadata = {k.decode(): v.decode() for k, v in (self._reader.schema.metadata or {}).items()}
        if MANIFEST not in metadata or not set(BASE_COLUMNS) <= set(self._reader.schema.names):
            raise InputError(
                f"{self.path}: an Arrow file, but no token store: it lacks the manifest or one of the columns "
                f"{', '.join(BASE_COLUMNS)}. `aion tokenize` writes token stores."
            )
        self.metadata = metadata
        try:
            self.space = TokenSpace.from_json(metadata[MANIFEST])
        except AionError as error:
            raise type(error)(f"{self.path}: {error}") from None
        for spec in self.space.specs():
            field = self._reader.schema.field(spec.key) if spec.key in self._reader.schema.names else None
            if field is None or field.type != arrow_type(spec):
                raise InputError(
                    f"{self.path}: column {spec.key} is {field.type if field else 'absent'}, but the manifest promises "
                    f"{arrow_type(spec)}; the file was changed by another tool."
                )

    @staticmethod
    def open(paths: str | Path | Iterable[str | Path]) -> list[TokenStore]:
        """Open files, and all token stores below folders, in the order of their names."""
        found: list[Path] = []
        for path in [paths] if isinstance(paths, str | Path) else paths:
            path = Path(path)
            inside = sorted(p for p in path.rglob(f"*{SUFFIX}") if not p.name.startswith(".")) if path.is_dir() else []
            if path.is_dir() and not inside:
                raise InputError(f"{path}: no token store (*{SUFFIX}) in this folder.")
            found += inside or [path]
        return [TokenStore(path) for path in found]

    def __len__(self) -> int:
        return int(self.metadata[ROWS]) if ROWS in self.metadata else int(self.chunks[-1])

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}, {len(self)} objects, {', '.join(self.space.keys)})"

    @cached_property
    def _batches(self) -> list[Any]:
        try:
            batches = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{self.path}: damaged ({_first_line(error)}). Write it again.") from None
        if ROWS in self.metadata and sum(map(len, batches)) != len(self):
            raise InputError(f"{self.path}: {sum(map(len, batches))} rows, but {len(self)} were written.")
        return batches

    @cached_property
    def chunks(self) -> Int:
        """First row of each record batch, and the number of rows at the end: int64 ``[chunks + 1]``."""
        return np.cumsum([0, *map(len, self._batches)], dtype=np.int64)

    def column(self, name: str) -> Any:
        """Return a column (a modality's key, or a base column) as a `pyarrow.ChunkedArray` over the mapped file."""
        name = name if name in BASE_COLUMNS else self.space[name].key
        kind = self._reader.schema.field(name).type
        return pa.chunked_array([batch.column(name) for batch in self._batches], type=kind)

    @property
    def ids(self) -> Any:
        """Object identifiers, a `pyarrow.ChunkedArray` of strings (``.to_pylist()`` for Python's)."""
        return self.column("object_id")

    @property
    def healpix(self) -> Int:
        """Nested HEALPix pixels of order 29, int64 ``[rows]``; −1 where the position is unknown."""
        return np.asarray(self.column("healpix").fill_null(-1).to_numpy(), np.int64)

    @property
    def ra(self) -> npt.NDArray[np.float64]:
        """Right ascension in degrees (ICRS), ``[rows]``; NaN where unknown."""
        return np.asarray(self.column("ra").fill_null(np.nan).to_numpy(), np.float64)

    @property
    def dec(self) -> npt.NDArray[np.float64]:
        """Declination in degrees (ICRS), ``[rows]``; NaN where unknown."""
        return np.asarray(self.column("dec").fill_null(np.nan).to_numpy(), np.float64)

    def verify(self) -> None:
        """Read everything and raise `InputError` unless it is what was written."""
        for batch in self._batches:
            try:
                batch.validate(full=True)
            except pa.ArrowInvalid as error:
                raise InputError(f"{self.path}: damaged ({_first_line(error)}). Write it again.") from None
        if CHECKSUM not in self.metadata:
            raise InputError(f"{self.path}: it has no checksum to verify against; it was changed by another tool.")
        names = [*BASE_COLUMNS, *self.space.keys]
        if checksum((batch.select(names) for batch in self._batches), self.metadata) != self.metadata[CHECKSUM]:
            raise InputError(f"{self.path}: damaged, its checksum does not match. Copy or write it again.")

    # --- gathering: rows, slots and positions to addresses in the mapped file ---

    @cached_property
    def _views(self) -> dict[int, npt.NDArray[Any]]:
        """The whole file as arrays of 1, 2 and 4 byte integers."""
        size = self._bytes.size
        kinds = {1: np.uint8, 2: np.uint16, 4: np.int32}
        return {width: np.frombuffer(self._bytes, kind, size // width) for width, kind in kinds.items()}

    @cached_property
    def _widths(self) -> Int:
        """Bytes of one code, by slot."""
        return np.array([2 if spec.vocab_size <= 1 << 16 else 4 for spec in self.space.specs()], np.int64)

    @cached_property
    def _most(self) -> Int:
        """Most tokens that an object can have, by slot."""
        return np.array([spec.n_tokens for spec in self.space.specs()], np.int64)

    @cached_property
    def _is_list(self) -> npt.NDArray[np.bool_]:
        return np.array([spec.n_tokens > 1 for spec in self.space.specs()], bool)

    @cached_property
    def layout(self) -> Layout:
        """Where the buffers of every chunk and slot begin."""
        base, size = self._bytes.address, self._bytes.size

        def begin(buffer: Any, width: int) -> int:
            if buffer is None:
                return -1
            place = buffer.address - base
            if buffer.size and (not 0 <= place <= size - buffer.size or place % width):
                raise InputError(f"{self.path}: compressed or unaligned; rewrite it as an uncompressed Arrow IPC file.")
            return int(place) // width if buffer.size else 0

        shape = (3, len(self._batches), len(self.space))
        table = np.full(shape, -1, np.int64)
        for chunk, batch in enumerate(self._batches):
            for slot, key in enumerate(self.space.keys):
                column, width = batch.column(key), int(self._widths[slot])
                buffers = column.buffers()
                table[2, chunk, slot] = begin(buffers[0], 1) if column.null_count else -1
                table[0, chunk, slot] = begin(buffers[-1], width)
                if self._is_list[slot]:
                    table[1, chunk, slot] = begin(buffers[1], 4)
        return Layout(*table)

    def spans(self, rows: npt.ArrayLike) -> tuple[Int, npt.NDArray[np.int32]]:
        """Return where each object's tokens begin in the file, and how many there are: both ``[n, slots]``.

        The first are places in one of the arrays of `codes`, as `is_wide` says. Absent modalities have length 0.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise InputError(f"{self.path}: rows must be in 0 … {len(self) - 1}, found {rows.min()} … {rows.max()}.")
        chunk = np.searchsorted(self.chunks, rows, side="right") - 1
        local = (rows - self.chunks[chunk])[:, None]
        starts = self.layout.values[chunk] + local
        lengths = np.ones(starts.shape, np.int32)
        if self._is_list.any():
            offsets = self.layout.offsets[chunk][:, self._is_list] + local
            first = self._views[4][offsets]
            starts[:, self._is_list] += first - local
            lengths[:, self._is_list] = self._views[4][offsets + 1] - first
        validity = self.layout.validity[chunk]
        bits = self._views[1][np.maximum(validity, 0) + (local >> 3)] >> (local & 7).astype(np.uint8) & 1
        lengths[(validity >= 0) & (bits == 0)] = 0
        if lengths.size and (lengths.min() < 0 or (lengths > self._most).any()):
            raise InputError(f"{self.path}: damaged, an object has more tokens than can be. Copy or write it again.")
        return starts, lengths

    def lengths(self, rows: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Return the number of tokens of each object in each slot of `space`: int32 ``[n, slots]``, 0 where absent."""
        return self.spans(rows)[1]

    @property
    def codes(self) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
        """The whole file as numbers of two and of four bytes, which `spans` points into."""
        return self._views[2], self._views[4]

    @cached_property
    def is_wide(self) -> npt.NDArray[np.bool_]:
        """Whether codes take four bytes, by slot."""
        return self._widths == 4

    def tokens(self, rows: npt.ArrayLike, keys: Iterable[str] | None = None) -> dict[str, Int]:
        """Return ``{key: codes int64 [n, n_tokens]}`` of some rows (and keys), −1 where an object has nothing."""
        starts, lengths = self.spans(rows)
        result = {}
        for key in self.space.keys if keys is None else keys:
            slot = self.space.index(key)
            place = np.arange(self.space.slots[slot].spec.n_tokens)
            there = place < lengths[:, slot, None]
            addresses = np.where(there, starts[:, slot, None] + place, 0)
            codes = self._views[int(self._widths[slot])][addresses].astype(np.int64)
            result[self.space.keys[slot]] = np.where(there, codes, -1)
        return result

    def present(self, keys: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Whether each object has a token of any of some modalities: bool ``[rows]``."""
        wanted = [self.space[key].key for key in keys]
        there = [
            np.logical_or.reduce([batch.column(key).is_valid().to_numpy(zero_copy_only=False) for key in wanted])
            for batch in self._batches
        ]
        return np.concatenate(there) if wanted and there else np.zeros(len(self), bool)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
