"""Parquet, as TAP clients, LSDB and pandas write it, streamed by pyarrow: memory is that of one row group's columns."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aion_tok_gaia.formats.rows import Array, Rows, lower, objects


def names(path: Path) -> list[str]:
    """Return the column names."""
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def units(path: Path) -> dict[str, str]:
    """Return nothing: Parquet has no place for units that all writers share."""
    return {}


def rows(path: Path, wanted: Collection[str], batch_size: int) -> Iterator[Rows]:
    """Yield the wanted columns, in slices of rows."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        present = {name: given for name, given in lower(file.schema_arrow.names).items() if name in wanted}
        first = 1
        for batch in file.iter_batches(batch_size, columns=list(present.values()), use_threads=False):
            columns = {name: _cells(batch.column(given)) for name, given in present.items()}
            yield Rows(np.arange(first, first + len(batch)), columns)
            first += len(batch)


def _cells(column: Any) -> Array:
    """Return numbers where nothing is missing or the type has a NaN; else objects, as integers cannot hold one."""
    import pyarrow as pa

    whole = pa.types.is_integer(column.type) and not column.null_count
    if whole or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        return np.array(column.to_numpy(zero_copy_only=False))
    return objects(column.to_pylist())
