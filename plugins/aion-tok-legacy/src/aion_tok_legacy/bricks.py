"""Where a sky position lies in the pixels of a brick's coadd image.

The sky is divided into 662 174 bricks, numbered from 1 in rows of 0.25 degrees from the south pole on. A row has an
even number of bricks, as many as keep them 0.25 degrees wide or less where the row is widest. A brick's coadd is a
tangent projection about the brick's centre: 3600 × 3600 pixels of 0.262 arcsec, x to the west and y to the north.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ROWS, STEP = 721, 0.25
PIXEL_SCALE = 0.262
#: Pixel of the brick's centre, counted from 0.
CENTRE = 1799.5


@cache
def _rows() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """Return of each row the number of its first brick, how many it has, and its declination in degrees."""
    edges = np.clip((np.arange(ROWS + 1) - ROWS / 2) * STEP, -90, 90)
    widest = np.where(edges[:-1] * edges[1:] < 0, 0, np.minimum(abs(edges[:-1]), abs(edges[1:])))
    count = np.ceil(360 / STEP * np.cos(np.deg2rad(widest))).astype(np.int64)
    count += count % 2
    count[[0, -1]] = 1
    first = 1 + np.concatenate([[0], np.cumsum(count)[:-1]])
    return first, count, (edges[:-1] + edges[1:]) / 2


def centres(brick: npt.ArrayLike) -> tuple[Array, Array]:
    """Return right ascension and declination of the centres of bricks, given by ``BRICKID``, in degrees."""
    first, count, dec = _rows()
    number = np.asarray(brick, np.int64)
    row = np.clip(np.searchsorted(first, number, side="right") - 1, 0, ROWS - 1)
    return (number - first[row] + 0.5) * 360 / count[row], dec[row]


def pixels(ra: npt.ArrayLike, dec: npt.ArrayLike, brick: npt.ArrayLike) -> tuple[Array, Array]:
    """Return x and y in the pixels (from 0) of a brick's coadd; NaN for what lies on the other half of the sky.

    Parameters
    ----------
    ra, dec
        ICRS position in degrees.
    brick
        ``BRICKID``; all three broadcast.
    """
    centre_ra, centre_dec = (np.deg2rad(angle) for angle in centres(brick))
    delta, dec = np.deg2rad(ra) - centre_ra, np.deg2rad(dec)
    depth = np.sin(centre_dec) * np.sin(dec) + np.cos(centre_dec) * np.cos(dec) * np.cos(delta)
    depth = np.where(depth > 0, depth, np.nan)
    west = -np.cos(dec) * np.sin(delta) / depth
    north = (np.cos(centre_dec) * np.sin(dec) - np.sin(centre_dec) * np.cos(dec) * np.cos(delta)) / depth
    scale = np.deg2rad(PIXEL_SCALE / 3600)
    return CENTRE + west / scale, CENTRE + north / scale


def brick_at(ra: npt.ArrayLike, dec: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the ``BRICKID`` of the brick that ICRS positions in degrees lie in."""
    first, count, _ = _rows()
    row = np.clip(np.floor(np.asarray(dec) / STEP + ROWS / 2).astype(np.int64), 0, ROWS - 1)
    column = np.floor(np.asarray(ra) % 360 / 360 * count[row]).astype(np.int64)
    return first[row] + column
