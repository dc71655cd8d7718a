"""Square stamps cut out of images at positions on the sky.

The pixel nearest to the position becomes pixel ``[size // 2, size // 2]`` of its stamp: nothing is interpolated, so
that pixel values, variances and mask bits stay what they were, and the position is off the stamp's centre by half a
pixel at the most (beside the half that an even size has no middle pixel for).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.reader import Skipped

if TYPE_CHECKING:
    from astropy.wcs import WCS

#: First rows of the stamps that are cut from one strip of the image lie less than this many stamps apart.
STRIP = 4


class Sliceable(Protocol):
    """What stamps are cut from: an array ``[H, W]``, or a `FitsImage`, of which only the stamps are then read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any) -> Any: ...


@dataclass(frozen=True)
class Stamps:
    """Stamps of n of the positions asked for.

    Attributes
    ----------
    pixels
        By name of the image, ``[n, size, size]`` in its dtype; 0 beyond its edge.
    outside
        Where a pixel lies beyond the edge of the image, bool ``[n, size, size]``: bad, whatever the masks say.
    rows
        Which positions they are of, int64 ``[n]``, ascending.
    skipped
        The other positions, and why.
    """

    pixels: Mapping[str, npt.NDArray[Any]]
    outside: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.int64]
    skipped: tuple[Skipped, ...]


def nearest_pixels(wcs: WCS, ra: npt.ArrayLike, dec: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], ...]:
    """Return row and column (from 0) of the pixels nearest to ICRS positions in degrees, float64 ``[n]``.

    NaN where the position is not finite or not on the side of the sky that the projection shows. An image in another
    equatorial system (FK5, of which surveys' headers often say only ``EQUINOX``) is taken for ICRS: they differ by
    some 0.02 arcsec.
    """
    from astropy.wcs import NoConvergence

    lon, lat = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    x, y = np.full(lon.shape, np.nan), np.full(lon.shape, np.nan)
    known = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90))
    if known.size:
        try:
            x[known], y[known] = wcs.all_world2pix(lon[known], lat[known], 0, quiet=True)
        except (ValueError, NoConvergence) as error:
            raise InputError(f"the positions cannot be found through the image's WCS ({error}).") from error
        back_lon, back_lat = wcs.all_pix2world(x[known], y[known], 0)
        away = ~(np.abs((back_lon - lon[known] + 180) % 360 - 180) * np.cos(np.deg2rad(lat[known])) < 1e-3)
        away |= ~(np.abs(back_lat - lat[known]) < 1e-3)  # where a distortion (SIP) cannot be inverted
        x[known[away]] = y[known[away]] = np.nan
    return np.floor(y + 0.5), np.floor(x + 0.5)


def cut_stamps(images: Mapping[str, Sliceable], rows: npt.ArrayLike, columns: npt.ArrayLike, size: int = 96) -> Stamps:
    """Cut stamps out of images of one shape, around pixels given by row and column (`nearest_pixels`), both ``[n]``.

    A stamp that reaches beyond the edge is filled with 0 there and says so in `Stamps.outside`; a position that is not
    on the image is skipped, also where a corner of its stamp would be.
    """
    shapes = {name: tuple(image.shape) for name, image in images.items()}
    shape = next(iter(shapes.values()), (0, 0))
    if len(shape) != 2 or any(other != shape for other in shapes.values()):
        raise InputError(f"stamps are cut from images of one shape (H, W), found {shapes}.")
    row, column = np.asarray(rows, np.float64), np.asarray(columns, np.float64)
    on = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    kept = np.flatnonzero(on)
    top, left = (place[kept].astype(np.int64) - size // 2 for place in (row, column))
    pixels = {name: _cut(image, top, left, size) for name, image in images.items()}
    span = np.arange(size)
    off_y, off_x = (_beyond(first[:, None] + span, length) for first, length in zip((top, left), shape, strict=True))
    skipped = tuple(Skipped(f"position {i}", _why(row[i], column[i], shape[0], shape[1])) for i in np.flatnonzero(~on))
    return Stamps(pixels, off_y[:, :, None] | off_x[:, None, :], kept, skipped)


def _cut(image: Sliceable, top: npt.NDArray[np.int64], left: npt.NDArray[np.int64], size: int) -> npt.NDArray[Any]:
    """Return the stamps ``[n, size, size]`` whose first pixels are given; 0 beyond the image.

    Neighbouring stamps are cut from one strip of the image, so that its tiles are not unpacked for each of them.
    """
    height, width = image.shape
    stamps: npt.NDArray[Any] | None = None
    for members in _strips(top, STRIP * size):
        y0, y1 = max(int(top[members].min()), 0), min(int(top[members].max()) + size, height)
        x0, x1 = max(int(left[members].min()), 0), min(int(left[members].max()) + size, width)
        strip = np.asarray(image[y0:y1, x0:x1])
        if stamps is None:
            stamps = np.zeros((len(top), size, size), strip.dtype.newbyteorder("="))
        for i in members:
            y, x = int(top[i]), int(left[i])
            part = strip[max(y, 0) - y0 : y + size - y0, max(x, 0) - x0 : x + size - x0]
            below, before = max(-y, 0), max(-x, 0)
            stamps[i, below : below + part.shape[0], before : before + part.shape[1]] = part
    return np.zeros((0, size, size), np.float32) if stamps is None else stamps


def _strips(top: npt.NDArray[np.int64], height: int) -> list[list[int]]:
    """Return groups of stamps whose first rows lie less than `height` apart, from the first row of the image on."""
    strips: list[list[int]] = []
    for i in np.argsort(top, kind="stable").tolist():
        if strips and top[i] - top[strips[-1][0]] < height:
            strips[-1].append(i)
        else:
            strips.append([i])
    return strips


def _beyond(places: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.bool_]:
    return (places < 0) | (places >= length)


def _why(row: float, column: float, height: int, width: int) -> str:
    if np.isnan(row) or np.isnan(column):
        return "its position is unknown or not on this side of the sky"
    return f"it lies off the image (pixel x {column:.0f}, y {row:.0f}; the image has {width} × {height})"
