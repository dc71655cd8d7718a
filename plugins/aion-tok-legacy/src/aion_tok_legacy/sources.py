"""The sources around every object of a catalogue, in the pixels of the crop of the coadd about that object.

The catalogue must hold all sources of its area, as sweep and tractor files do. A sweep file ends at its own edges: an
object less than 18 arcsec inside of one lacks the neighbours beyond, which are in the next file. A tractor file holds
the sources in the margin of its brick too, so that no object of the brick's own (``BRICK_PRIMARY``) lacks any.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.data.fits import FitsFile
from aion_core.observations import SourceList
from aion_tok_legacy.bricks import PIXEL_SCALE, pixels

Columns = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]

CROP = 96
#: Rows of a block, and how many blocks are kept in memory (40 bytes a row).
BLOCK, KEPT = 8192, 64
#: No source of a crop is farther from its object, in degrees, whatever the angle between the brick's axes and north.
REACH = np.sqrt(2) * (CROP / 2 + 1) * PIXEL_SCALE / 3600


@dataclass(frozen=True)
class Block:
    """Some consecutive rows of the catalogue that are sources: position, ellipticity components, radius in arcsec."""

    ra: Floats
    dec: Floats
    shape: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cap:
    """A circle on the sphere: unit vector of its centre, and the longest chord from there."""

    centre: Floats
    chord: float

    @classmethod
    def around(cls, ra: Floats, dec: Floats) -> Cap:
        a, d = np.deg2rad(ra), np.deg2rad(dec)
        points = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], 1)
        centre = points.mean(0)
        return cls(centre, float(np.linalg.norm(points - centre, axis=1).max()))

    def near(self, other: Cap) -> bool:
        return bool(np.linalg.norm(self.centre - other.centre) <= self.chord + other.chord + np.deg2rad(REACH))


class Surroundings:
    """Finds the sources around objects, with memory that does not grow with the catalogue.

    A first pass notes where on the sky each block of rows lies; afterwards, blocks are read again where they are near.
    Rows in no order on the sky are found as well, but slowly.

    Parameters
    ----------
    file
        The catalogue, open.
    names
        Lower-case names of the columns that `shapes` needs; ``ra`` and ``dec`` among them.
    shapes
        Returns, for columns, ellipticity components and radius, ``[rows, 3]``; NaN where a row is no source.
    """

    def __init__(self, file: FitsFile, names: set[str], shapes: Callable[[Columns], Floats]) -> None:
        self._file, self._names, self._shapes = file, names, shapes
        self._kept: OrderedDict[int, Block] = OrderedDict()
        self._caps: dict[int, Cap] = {}
        for number, columns in enumerate(file.rows(names, BLOCK)):
            block = self._keep(number, columns)
            if len(block.ra):
                self._caps[number] = Cap.around(block.ra, block.dec)

    def __call__(self, ra: Floats, dec: Floats, brick: npt.NDArray[np.int64]) -> tuple[SourceList, npt.NDArray[Any]]:
        """Return the sources around objects, nearest the centre first, and the objects that have any.

        Parameters
        ----------
        ra, dec, brick
            Position in degrees and ``BRICKID`` of the objects, ``[B]``.
        """
        known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
        if not len(known):
            return _padded([]), known
        cap = Cap.around(ra[known], dec[known])
        blocks = [self._block(number) for number, other in self._caps.items() if other.near(cap)]
        if not blocks:
            return _padded([]), known[:0]
        found = Block(*(np.concatenate([getattr(b, name) for b in blocks]) for name in ("ra", "dec", "shape")))
        lists = _crops(ra[known], dec[known], brick[known], found)
        having = [i for i, sources in enumerate(lists) if len(sources)]
        return _padded([lists[i] for i in having]), known[having]

    def _block(self, number: int) -> Block:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        start = number * BLOCK
        return self._keep(number, next(self._file.rows(self._names, BLOCK, first=start, last=start + BLOCK)))

    def _keep(self, number: int, columns: Columns) -> Block:
        shape = self._shapes(columns)
        ra, dec = columns["ra"].astype(np.float64), columns["dec"].astype(np.float64)
        rows = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(shape).all(1)
        self._kept[number] = block = Block(ra[rows], dec[rows], shape[rows].astype(np.float32))
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return block


def origin(x: Floats, size: int = CROP) -> Floats:
    """Return the first pixel of the crop about a pixel coordinate, as `aion_core.data.stamps` cuts it."""
    return np.floor(x + 0.5) - size // 2


def _crops(ra: Floats, dec: Floats, brick: npt.NDArray[np.int64], sources: Block) -> list[Floats]:
    """Return x, y, e1, e2, radius of the sources in each object's crop, ``[n, 5]``, nearest the middle first."""
    order = np.argsort(sources.dec, kind="stable")
    sorted_dec = sources.dec[order]
    first, last = np.searchsorted(sorted_dec, dec - REACH), np.searchsorted(sorted_dec, dec + REACH, side="right")
    own_x, own_y = pixels(ra, dec, brick)
    crops = []
    for i in range(len(ra)):
        rows = order[first[i] : last[i]]
        away = np.abs((sources.ra[rows] - ra[i] + 180) % 360 - 180) * np.cos(np.deg2rad(abs(dec[i]) + REACH))
        rows = rows[away <= REACH]
        x, y = pixels(sources.ra[rows], sources.dec[rows], brick[i])
        x, y = x - origin(own_x[i]), y - origin(own_y[i])
        inside = (x >= -0.5) & (x < CROP - 0.5) & (y >= -0.5) & (y < CROP - 0.5)
        table = np.column_stack([x, y, sources.shape[rows]])[inside]
        middle = (CROP - 1) / 2
        crops.append(table[np.argsort(np.hypot(table[:, 0] - middle, table[:, 1] - middle), kind="stable")])
    return crops


def _padded(lists: list[Floats]) -> SourceList:
    values = np.full((5, len(lists), max(map(len, lists), default=0)), np.nan, np.float32)
    for i, table in enumerate(lists):
        values[:, i, : len(table)] = table.T
    return SourceList(*values)
