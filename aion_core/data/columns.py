"""What writer and reader of token stores share: columns, types, names of the metadata, the checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aion_core.contract import ModalitySpec, TokenSpace

CHUNK_ROWS = 4096
SUFFIX = ".arrow"
HEALPIX_ORDER = 29
MANIFEST, ROWS, CHECKSUM = "aion_manifest", "aion_rows", "aion_sha256"
BASE_COLUMNS = ("object_id", "ra", "dec", "healpix")


def schema_of(space: TokenSpace) -> Any:
    """The Arrow schema of a store with all of a token space's columns."""
    base = [
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
        pa.field("healpix", pa.int64()),
    ]
    return pa.schema(base + [pa.field(spec.key, arrow_type(spec)) for spec in space.specs()])


def arrow_type(spec: ModalitySpec) -> Any:
    """The Arrow type of a modality's column."""
    code = pa.uint16() if spec.vocab_size <= 1 << 16 else pa.uint32()
    return code if spec.n_tokens == 1 else pa.list_(code)


def checksum(batches: Iterable[Any], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the content: metadata, and per chunk and column which values are there, their lengths and values.

    It does not depend on how a library lays the same content out, so a copy made by another tool verifies too.
    """
    digest = hashlib.sha256()
    for name in sorted(set(metadata) - {CHECKSUM}):
        digest.update(f"{name}\0{metadata[name]}\0".encode())
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            digest.update(f"{name}\0{len(column)}\0".encode())
            for part in _content(column):
                digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _content(column: Any) -> Iterator[npt.NDArray[Any]]:
    import pyarrow.compute as pc

    yield np.packbits(column.is_valid().to_numpy(zero_copy_only=False))
    if pa.types.is_string(column.type):
        yield pc.fill_null(pc.binary_length(column), 0).to_numpy()
        yield np.frombuffer("".join(column.drop_null().to_pylist()).encode(), np.uint8)
    elif pa.types.is_list(column.type):
        yield pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        yield column.flatten().to_numpy()
    else:
        yield column.drop_null().to_numpy()
