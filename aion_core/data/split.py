"""Which objects train and which validate: by sky pixel, so that one object is never on both sides.

Surveys observe the same objects. A split by rows would put a galaxy's image on one side and its spectrum on the other;
a split by HEALPix pixel keeps all that was ever measured in a patch of sky together (REFERENCE section 3).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from aion_core.contract.modality import Frozen
from aion_core.data.columns import HEALPIX_ORDER
from aion_core.data.keyed import U64, key, mix

Side = Literal["train", "validation"]


class SplitConfig(Frozen):
    """How much of the sky validates, and in patches of which size."""

    fraction: float = Field(default=0.02, ge=0, le=1, description="of the pixels, to validation")
    order: int = Field(default=6, ge=0, le=HEALPIX_ORDER, description="HEALPix order of a patch; 6 is 0.9 degrees")
    seed: int = Field(default=0, ge=0)


def split_mask(
    healpix: npt.NDArray[np.int64], object_id: Any, fraction: float, order: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Return which objects validate: bool ``[n]``, the same for the same pixel or object in every store.

    Parameters
    ----------
    healpix
        Nested pixels of order 29, ``[n]``; −1 where the position is unknown, in which case the object's identifier
        decides.
    object_id
        Identifiers, ``[n]``: a string array of pyarrow or anything it can be made of.
    fraction, order, seed
        See `SplitConfig`.
    """
    parts = key(seed, healpix >> (2 * (HEALPIX_ORDER - order)))
    unknown = np.flatnonzero(healpix < 0)
    if len(unknown):
        names = hash_strings(object_id.take(unknown) if hasattr(object_id, "take") else np.asarray(object_id)[unknown])
        # another stream than the pixels': a name never shares a pixel's key
        parts[unknown] = key(seed, 1, names)
    return parts < np.uint64(min(int(fraction * 2.0**64), 2**64 - 1)) if fraction < 1 else np.ones(len(healpix), bool)


def hash_strings(strings: Any) -> U64:
    """Return a 64-bit hash of each string: the mixed sum over its UTF-8 bytes of a hash of place and byte."""
    import pyarrow as pa

    array = strings if isinstance(strings, pa.ChunkedArray | pa.Array) else pa.array(list(strings), pa.string())
    parts = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return np.concatenate([np.zeros(0, np.uint64), *(_hash_array(part.cast(pa.large_string())) for part in parts)])


def _hash_array(strings: Any) -> U64:
    _, places, data = strings.buffers()
    ends = np.frombuffer(places, np.int64, len(strings) + 1, 8 * strings.offset)
    if data is None or ends[-1] == ends[0]:
        return mix(np.zeros(len(strings), np.uint64))
    text = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    ends = ends - ends[0]
    place = np.arange(len(text)) - np.repeat(ends[:-1], np.diff(ends))
    hashed = key(place.astype(np.uint64) << np.uint64(8) | text)
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashed, dtype=np.uint64)])
    return mix(running[ends[1:]] - running[ends[:-1]])
