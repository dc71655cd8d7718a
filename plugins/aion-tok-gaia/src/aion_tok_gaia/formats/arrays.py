"""NumPy archives of plain coefficients: ``X`` ``[n, 110]`` (55 of BP, then 55 of RP) and ``source_id`` ``[n]``.

Read straight from the compressed members, which `numpy.load` would unpack as a whole.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeAlias

import numpy as np

from aion_core.contract import InputError
from aion_tok_gaia.formats.rows import ARRAYS, ID, Array, Rows

Header: TypeAlias = tuple[tuple[int, ...], bool, np.dtype[Any]]
#: The most that is held at once, of an array whose rows do not lie together.
WHOLE_BYTES = 1 << 31


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays in an archive, from their headers."""
    found: dict[str, tuple[int, ...]] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                found[member.removesuffix(".npy")] = _header(file)[0]
    return found


def rows(path: Path, batch_size: int) -> Iterator[Rows]:
    """Yield identifiers and coefficients, in slices of rows."""
    with zipfile.ZipFile(path) as archive, ExitStack() as stack:
        files = [stack.enter_context(archive.open(f"{name}.npy")) for name in ("X", ID)]
        headers = [_header(file) for file in files]
        (shape, _, dtype), (ids_shape, _, ids_dtype) = headers
        if dtype.kind != "f" or shape[:1] != ids_shape:
            raise InputError(
                f"X is {dtype} {list(shape)} and {ID} {ids_dtype} {list(ids_shape)}; expected floats [n, 110] and "
                "integers [n]."
            )
        first = 1
        parts = [_parts(file, header, batch_size) for file, header in zip(files, headers, strict=True)]
        for values, ids in zip(*parts, strict=True):
            bp, rp = np.split(values, 2, axis=1)
            yield Rows(np.arange(first, first + len(ids)), {ID: ids, **dict(zip(ARRAYS, (bp, rp), strict=True))})
            first += len(ids)


def _header(file: Any) -> Header:
    """Read the header of an array: shape, whether the first axis runs fastest, type."""
    old = np.lib.format.read_magic(file) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    try:
        shape, transposed, dtype = read(file)
    except (TokenError, SyntaxError) as error:  # numpy parses the header as Python
        raise ValueError("the header of an array is damaged") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, transposed and len(shape) > 1, dtype


def _parts(file: Any, header: Header, batch_size: int) -> Iterator[Array]:
    """Yield an array in parts of so many rows, and see its file to the end, where zipfile compares the checksum."""
    shape, transposed, dtype = header
    if transposed:
        if prod(shape) * dtype.itemsize > WHOLE_BYTES:
            raise InputError(
                f"X is stored column by column (Fortran order) and has {prod(shape) * dtype.itemsize / 2**30:.1f} GiB, "
                "which would have to be in memory as a whole; save it row by row (numpy.ascontiguousarray)."
            )
        whole = _items(file, dtype, *shape[::-1]).T
    for start in range(0, shape[0], batch_size):
        size = min(batch_size, shape[0] - start)
        yield whole[start : start + size] if transposed else _items(file, dtype, size, *shape[1:])
    if file.read(1):
        raise ValueError("there is more in it than its header says")


def _items(file: Any, dtype: np.dtype[Any], *shape: int) -> Array:
    wanted = prod(shape) * dtype.itemsize
    content = file.read(wanted)
    if len(content) < wanted:
        raise ValueError("it is cut short")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
