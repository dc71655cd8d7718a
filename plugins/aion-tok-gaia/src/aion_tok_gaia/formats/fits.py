"""FITS binary tables, fixed-width or with variable-length arrays, streamed by aion-core."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aion_core.data.fits import fits_columns, fits_headers, open_fits
from aion_tok_gaia.formats.rows import Array, Rows


def names(path: Path) -> list[str]:
    """Return the column names of the first table."""
    return list((fits_columns(path) or {}).values())


def units(path: Path) -> dict[str, str]:
    """Return the units stated for its columns, by lower-case name."""
    return _cards(path, "TUNIT")


def rows(path: Path, wanted: Collection[str], batch_size: int) -> Iterator[Rows]:
    """Yield the wanted columns of the first table, in slices of rows."""
    first = 1
    with open_fits(path) as file:
        nulls = _cards(path, "TNULL")
        for columns in file.rows(wanted, batch_size):
            length = len(next(iter(columns.values())))
            number = np.arange(first, first + length)
            yield Rows(number, {name: _masked(values, nulls.get(name)) for name, values in columns.items()})
            first += length


def _masked(values: Array, null: int | None) -> Array:
    return np.ma.masked_equal(values, null) if null is not None and values.dtype.kind in "iu" else values


def _cards(path: Path, keyword: str) -> dict[str, Any]:
    """Return what the header says about columns under one keyword, by lower-case name."""
    for header in fits_headers(path):
        if "TFIELDS" in header and "ZIMAGE" not in header:
            places = [i for i in reversed(range(1, header["TFIELDS"] + 1)) if f"{keyword}{i}" in header]
            return {str(header.get(f"TTYPE{i}", "")).lower(): header[f"{keyword}{i}"] for i in places}
    return {}
