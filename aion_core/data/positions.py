"""Where objects are on images: at the rows of a catalogue that lie on one, or at the centre of a cut-out.

A catalogue may be that of a whole survey: it is streamed, and only the rows on the image are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen
from aion_core.data.reader import ObservationBatch, Skipped
from aion_core.data.stamps import nearest_pixels
from aion_core.data.tables import numbers

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from aion_core.data.fits import FitsImage

#: A piece of sky of this many pixels or less a side is a cut-out, whose object is at its centre.
CUTOUT = 1024


class StampOptions(Frozen):
    """Options of a reader that cuts stamps out of images."""

    #: Width and height of the stamps in pixels; tokenizers use the middle 96.
    size: int = Field(default=96, ge=8, le=1024)
    #: Table with the positions of the objects, columns ``ra`` and ``dec`` in degrees; a relative path begins in the
    #: current folder. Default: what the reader finds beside the image, or else the centre of a cut-out.
    positions: Path | None = None
    #: Column of that table with the objects' identifiers; without it, they are ``<name of the table>-<row>``.
    identifier: str = "object_id"


@dataclass(frozen=True)
class Places:
    """The n rows of a catalogue that lie on an image, from its first row of pixels to its last.

    Attributes
    ----------
    columns
        The catalogue's columns, ``[n, ...]``.
    number
        Row of the catalogue, from 0, ``[n]``.
    row, column
        Nearest pixel, from 0, ``[n]``.
    skipped
        Rows without a position, and one entry for all those that lie off the image.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    number: npt.NDArray[np.int64]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Places:
        """Return some of the places; `skipped` stays as it is."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Places(columns, self.number[rows], self.row[rows], self.column[rows], self.skipped)


def places_on(
    parts: Iterable[Mapping[str, npt.NDArray[Any]]], wcs: WCS, shape: tuple[int, int], catalogue: Path, image: Path
) -> Places:
    """Return the rows of a catalogue that lie on an image.

    Parameters
    ----------
    parts
        Consecutive slices of the catalogue's columns, ``ra`` and ``dec`` (ICRS degrees) among them.
    wcs, shape
        Of the image; shape is (height, width).
    catalogue, image
        The files, for sentences.

    Raises
    ------
    InputError
        If no row lies on the image.
    """
    kept: list[dict[str, npt.NDArray[Any]]] = []
    unknown: list[Skipped] = []
    first, off, example = 0, 0, ""
    for part in parts:
        missing = [name for name in ("ra", "dec") if name not in part]
        if missing:
            raise InputError(f"{catalogue}: no column {missing[0]}; positions are columns ra and dec, in degrees.")
        ra, dec = (numbers(part, name, catalogue, first) for name in ("ra", "dec"))
        row, column = nearest_pixels(wcs, ra, dec)
        known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
        on = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        unknown += [
            Skipped(f"row {first + i} of {catalogue.name}", "it has no position") for i in np.flatnonzero(~known)
        ]
        if not example and (known & ~on).any():
            i = int(np.flatnonzero(known & ~on)[0])
            example = f"row {first + i}, RA {ra[i]:.6f}, Dec {dec[i]:.6f}"
        off += int((known & ~on).sum())
        mine = np.flatnonzero(on)
        kept.append(
            {name: values[mine] for name, values in part.items()}
            | {"": np.stack([mine + first, row[mine], column[mine]])}
        )
        first += len(ra)
    if not any(part[""].shape[1] for part in kept):
        why = f"the first is {example}" if example else "it has no row with a position"
        raise InputError(f"{image}: no position of {catalogue} lies on this image ({why}).")
    return _sorted(kept, unknown, off, example, catalogue)


def _sorted(
    kept: list[dict[str, npt.NDArray[Any]]], unknown: list[Skipped], off: int, example: str, catalogue: Path
) -> Places:
    if off:
        listed = (
            f"{off} rows of {catalogue.name}, the first being {example}"
            if off > 1
            else f"{example} of {catalogue.name}"
        )
        unknown.append(Skipped(listed, "off the image", off))
    where = np.concatenate([part.pop("") for part in kept], axis=1)
    order = np.lexsort((where[0], where[2], where[1]))
    columns = {name: np.concatenate([part[name] for part in kept])[order] for name in kept[0]}
    number, row, column = where[:, order]
    return Places(columns, number.astype(np.int64), row, column, tuple(unknown))


def on_sphere(
    ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return positions in degrees, right ascension in 0 … 360; both NaN where one is unknown or there is no such."""
    known = np.isfinite(ra) & (np.abs(dec) <= 90)
    return np.where(known, ra % 360, np.nan), np.where(known, dec, np.nan)


def named(places: Places, catalogue: Path, identifier: str) -> ObservationBatch:
    """Return objects of which the catalogue says no more than where they are, and what they are called."""
    stem = catalogue.name.partition(".")[0]
    given = places.columns.get(identifier.lower())
    names = [f"{stem}-{n}" for n in places.number] if given is None else [str(name).strip() for name in given]
    ra, dec = (numbers(places.columns, name, catalogue) for name in ("ra", "dec"))
    return ObservationBatch(np.array(names, dtype=str), ra % 360, dec)


def centre_of(path: Path, name: str, wcs: WCS, shape: tuple[int, int]) -> tuple[Places, ObservationBatch]:
    """Return the place of the object at the centre of a cut-out, and the object.

    Raises
    ------
    InputError
        If the image is larger than cut-outs are.
    """
    height, width = shape
    if max(height, width) > CUTOUT:
        raise InputError(
            f"{path}: the image has {width} × {height} pixels, and no catalogue beside it says where its objects are; "
            "name a table with columns ra and dec as the option `positions` of its reader (--readers FILE.toml)."
        )
    y, x = (height - 1) / 2, (width - 1) / 2
    ra, dec = (np.array([float(v)]) for v in wcs.all_pix2world(x, y, 0))
    place = Places({}, np.zeros(1, np.int64), np.floor([y + 0.5]), np.floor([x + 0.5]), ())
    return place, ObservationBatch(np.array([name]), ra % 360, dec)


def pixel_scale(wcs: WCS) -> float:
    """Return arcsec per pixel, rounded so that the numerical noise of headers makes no difference."""
    from astropy.wcs.utils import proj_plane_pixel_area

    return round(float(np.sqrt(proj_plane_pixel_area(wcs))) * 3600, 5)


def check_alike(images: Sequence[FitsImage]) -> None:
    """Raise `InputError` if images differ in shape (of their last two axes), or show different parts of the sky."""
    first = images[0]
    height, width = first.shape[-2:]
    corners = first.wcs.pixel_to_world_values([0, width - 1], [0, height - 1])
    other = f"HDU {first.hdu} of {first.path.name}"
    for image in images[1:]:
        if image.shape[-2:] != (height, width):
            raise InputError(
                f"{image.path}: HDU {image.hdu} is {image.shape[-1]} × {image.shape[-2]} pixels, but {other} is "
                f"{width} × {height}; the planes of one piece of sky must agree."
            )
        x, y = image.wcs.world_to_pixel_values(*corners)
        if not (np.abs(x - [0, width - 1]) < 0.1).all() or not (np.abs(y - [0, height - 1]) < 0.1).all():
            raise InputError(f"{image.path}: HDU {image.hdu} shows another part of the sky than {other}.")
