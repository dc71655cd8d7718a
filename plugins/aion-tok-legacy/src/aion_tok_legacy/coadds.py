"""The planes of a coadd: flux, inverse variance and mask bits in each band, out of the files that hold them.

Two kinds of files: those of a data release, one for each plane of a brick
(``legacysurvey-<brick>-image-<band>.fits.fz``, ``…-invvar-<band>…``, ``…-maskbits…``), and those of the cut-out
service, with all planes of a piece of sky, one HDU for each or one cube for all bands.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aion_core.contract import InputError
from aion_core.data.fits import FitsFile, FitsImage, open_fits
from aion_core.data.positions import check_alike
from aion_core.data.stamps import Sliceable

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

#: In the order of the planes; what the survey calls i or z is DECam's or, in the north, the like of BASS and MzLS.
BANDS = ("g", "r", "i", "z")
BRICK_FILE = re.compile(
    r"(?P<head>(?:legacysurvey|decals)-(?P<brick>\d{4}[pm]\d{3}))-(?:(?:image|invvar)-[a-zA-Z]|maskbits)(?P<tail>\W.*)"
)
ZERO_POINT = 22.5


@dataclass(frozen=True)
class Coadd:
    """The planes of one piece of sky, all of one shape.

    Attributes
    ----------
    path
        The file that stands for all.
    flux, ivar
        By band. A band may lack its inverse variance.
    maskbits
        Bits that say what is wrong with a pixel, if there is such a plane.
    """

    path: Path
    flux: Mapping[str, Sliceable]
    ivar: Mapping[str, Sliceable]
    maskbits: Sliceable | None
    wcs: WCS
    zero_point: float

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(band for band in BANDS if band in self.flux)

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.flux[self.bands[0]].shape
        return height, width


class Plane:
    """One band of a cube ``[band, y, x]``."""

    def __init__(self, cube: FitsImage, index: int) -> None:
        self._cube, self._index, self.shape = cube, index, cube.shape[1:]

    def __getitem__(self, key: Any) -> Any:
        return self._cube[(self._index, *key)]


def brick_files(path: Path) -> tuple[Path, ...]:
    """Return the files of one brick that lie beside one of them: images first, then inverse variances, mask bits."""
    match = BRICK_FILE.fullmatch(path.name)
    if match is None:
        return (path,)
    head, tail = match["head"], match["tail"]
    names = [f"{head}-{kind}-{band}{tail}" for kind in ("image", "invvar") for band in BANDS]
    return tuple(p for p in (path.with_name(name) for name in (*names, f"{head}-maskbits{tail}")) if p.is_file())


def brick_catalogue(path: Path) -> Path | None:
    """Return the tractor file of a coadd's brick: beside it, or where the data releases have it."""
    match = BRICK_FILE.fullmatch(path.name)
    if match is None:
        return None
    brick, folder = match["brick"], path.absolute().parent
    places = [folder]
    if len(folder.parents) > 2:
        places.append(folder.parents[2] / "tractor" / brick[:3])
    found = (place / f"tractor-{brick}.fits{packed}" for place in places for packed in ("", ".gz"))
    return next((place for place in found if place.is_file()), None)


@dataclass
class _Found:
    """What was found of one piece of sky so far."""

    images: list[FitsImage] = field(default_factory=list)
    planes: dict[str, dict[str, Sliceable]] = field(default_factory=lambda: defaultdict(dict))


def open_coadd(paths: Sequence[Path], stack: ExitStack) -> Coadd:
    """Open the planes of a piece of sky; `stack` closes them again.

    Raises
    ------
    InputError
        If a file is damaged, there is no image, or planes differ in shape or position.
    """
    pieces: dict[str, _Found] = defaultdict(_Found)
    for path in paths:
        file = stack.enter_context(open_fits(path))
        for place in range(len(file.names)):
            _add(file, place, pieces)
    with_flux = [piece for piece in pieces.values() if piece.planes["image"]]
    if not with_flux:
        raise InputError(f"{paths[0]}: no image in one of the bands {', '.join(BANDS)} is in this file or beside it.")
    # The cut-out service hands out a piece of each brick that a field touches; the largest is the most complete.
    piece = max(with_flux, key=lambda found: np.prod(found.images[0].shape[-2:]))
    check_alike(piece.images)
    flux = {band: piece.planes["image"][band] for band in BANDS if band in piece.planes["image"]}
    header = piece.images[0].header
    return Coadd(
        paths[0],
        flux,
        piece.planes["invvar"],
        piece.planes["maskbits"].get(""),
        piece.images[0].wcs,
        float(header.get("MAGZERO", ZERO_POINT)),
    )


def _add(file: FitsFile, place: int, pieces: dict[str, _Found]) -> None:
    """Add the planes of an HDU, if it has any that count."""
    header = file.header(place)
    kind = kind_of(header)
    if kind is None or not header.get("NAXIS"):
        return
    image = file.image(place)
    if 0 in image.shape or len(image.shape) not in (2, 3):
        size = " × ".join(map(str, image.shape[::-1])) or "no"
        raise InputError(f"{file.path}: HDU {place} is an image of {size} pixels; expected width × height above zero.")
    piece = pieces[str(header.get("BRICK", header.get("BRICKNAM", ""))).strip()]
    names = [""] if kind == "maskbits" else bands_of(header)
    if len(image.shape) == 3 and len(names) != image.shape[0]:
        raise InputError(
            f"{file.path}: HDU {place} has {image.shape[0]} planes, but its header names {len(names)} bands."
        )
    for index, name in enumerate(names):
        if kind == "maskbits" or name in BANDS:
            piece.images.append(image)
            piece.planes[kind][name] = Plane(image, index) if len(image.shape) == 3 else image


def kind_of(header: Header) -> str | None:
    """Return whether an HDU is ``image``, ``invvar`` or ``maskbits``; None for what else a header may name."""
    text = header.get("IMTYPE", header.get("IMAGETYP", header.get("PRODTYPE", header.get("EXTNAME", "image"))))
    name = str(text).strip().lower()
    known = {"image": "image", "compressed_image": "image", "": "image", "invvar": "invvar", "maskbits": "maskbits"}
    return known.get(name)


def bands_of(header: Header) -> list[str]:
    """Return the bands of an image's planes, in lower case."""
    if "BAND0" in header and "IMTYPE" not in header and "BAND" not in header:
        return [str(header[f"BAND{i}"]).strip().lower() for i in range(100) if f"BAND{i}" in header]
    one = header.get("BAND", header.get("FILTER", header.get("BANDS", "")))
    return [str(one).strip().lower()]
