"""The planes of a piece of sky: flux, mask and variance in each band, out of one file for each band.

A file has the flux, the mask and the variance in HDUs 1, 2, 3, as the archive's cut-out service and the pipeline write
them, but may lack the last two. The bands of one piece of sky are found by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aion_core.contract import InputError
from aion_core.data.fits import FitsFile, FitsImage, fits_headers, open_fits
from aion_core.data.positions import check_alike

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

BANDS = ("g", "r", "i", "z", "y")
#: AB magnitude of one unit of flux, after scaling.
ZERO_POINT = 27.0
#: Mask planes that say that a pixel's value is no measurement of the sky. The others are no reason to discard it:
#: DETECTED and DETECTED_NEGATIVE (in a source), NOT_DEBLENDED, BRIGHT_OBJECT (within a wide circle around a star, which
#: covers many a galaxy), REJECTED and CLIPPED (some exposures were left out, the rest were averaged), SENSOR_EDGE and
#: INEXACT_PSF (the PSF is not well known), CROSSTALK (corrected), SUSPECT (close to saturation).
BAD_PLANES = {
    "BAD": "a defect of the sensor",
    "SAT": "saturated",
    "INTRP": "interpolated from its neighbours",
    "CR": "hit by a cosmic ray, and interpolated",
    "EDGE": "too close to the edge to be processed",
    "NO_DATA": "no exposure",
    "UNMASKEDNAN": "not a number in an exposure",
}
FILTER = re.compile(r"(?:HSC-)?(?P<band>[GRIZY])2?", re.IGNORECASE)
#: ``2-cutout-HSC-I-9813-pdr3_wide-201204-201802.fits``, ``calexp-HSC-I-9813-4,4.fits``: the time is the download's.
ARCHIVE_NAME = re.compile(r"(?P<head>.*?)HSC-(?P<band>[GRIZY])2?(?P<tail>-.*?)(?P<time>-\d{6}-\d{6})?(?P<end>\.fits.*)")
#: ``222.51551376,0.09749601_300x300_g.fits``
PLAIN_NAME = re.compile(r"(?P<head>.*[-_.])(?P<band>[grizy])(?P<tail>)(?P<time>)(?P<end>\.fits.*)", re.IGNORECASE)
#: At the end of a name: ``_300x300``.
SIZE_IN_NAME = re.compile(r"[-_]\d+x\d+$")


@dataclass(frozen=True)
class Band:
    """The planes of one band.

    Attributes
    ----------
    bad_bits
        Bits of the mask that say that a pixel is bad, as a number.
    zero_point
        AB magnitude of one unit of flux.
    """

    flux: FitsImage
    mask: FitsImage | None
    variance: FitsImage | None
    bad_bits: int
    zero_point: float


@dataclass(frozen=True)
class Piece:
    """A piece of sky in some bands, all of one shape; `path` is the file that stands for all."""

    path: Path
    bands: Mapping[str, Band]
    wcs: WCS
    shape: tuple[int, int]


def band_of(header: Header) -> str | None:
    """Return the band that a primary header names; None if it is not one of the five."""
    match = FILTER.fullmatch(str(header.get("FILTER", "")).strip())
    return match["band"].lower() if match else None


def zero_point_of(headers: Sequence[Header]) -> float | None:
    """Return the AB magnitude of one unit of flux; None if the headers do not say."""
    flux = next((h["FLUXMAG0"] for h in headers if "FLUXMAG0" in h), None)
    if isinstance(flux, int | float) and flux > 0:
        return round(2.5 * float(np.log10(flux)), 6)
    in_nanojansky = any(str(h.get("BUNIT", "")).strip().lower() == "njy" for h in headers)
    return 31.4 if in_nanojansky else None


def bands_beside(path: Path) -> tuple[Path, ...]:
    """Return the files of the same piece of sky, one for each band, in the order of the bands."""
    match = ARCHIVE_NAME.fullmatch(path.name) or PLAIN_NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    found: dict[str, Path] = {}
    for other in sorted(path.absolute().parent.iterdir()):
        name = match.re.fullmatch(other.name)
        if name and all(name[part] == match[part] for part in ("head", "tail", "end")):
            beside = path.with_name(other.name)
            # Downloads of one tract differ in nothing but their time: only their headers say where they are.
            if not match["time"] or _where(beside) == _where(path):
                found[name["band"].lower()] = beside
    if path not in found.values():  # downloaded again since
        return (path,)
    return tuple(found[band] for band in BANDS if band in found)


def piece_name(path: Path) -> str:
    """Return the name of a piece of sky: that of its file without the band."""
    match = ARCHIVE_NAME.fullmatch(path.name) or PLAIN_NAME.fullmatch(path.name)
    if match is None:
        return path.name.partition(".fits")[0]
    return (match["head"].rstrip("-_.") + match["tail"] + (match["time"] or "")).strip("-_.") or match["band"]


def catalogue_beside(path: Path) -> Path | None:
    """Return the table of the objects on a piece of sky: ``<piece>_forced`` beside it, with or without its size."""
    name = piece_name(path)
    stems = dict.fromkeys((name, SIZE_IN_NAME.sub("", name)))
    places = (path.with_name(f"{stem}_forced{end}") for stem in stems for end in (".fits", ".csv", ".csv.gz"))
    return next((place for place in places if place.is_file()), None)


def _where(path: Path) -> tuple[object, ...]:
    header = next((h for h in fits_headers(path) if "CRPIX1" in h), None)
    keys = ("NAXIS1", "NAXIS2", "ZNAXIS1", "ZNAXIS2", "CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2")
    return tuple(header.get(key) for key in keys) if header else (path,)


def open_piece(paths: Sequence[Path], stack: ExitStack) -> Piece:
    """Open the files of a piece of sky; `stack` closes them again.

    Raises
    ------
    InputError
        If a file is damaged, has no flux or zero point, or the bands differ in shape or position.
    """
    bands: dict[str, Band] = {}
    for path in paths:
        file = stack.enter_context(open_fits(path))
        name = band_of(file.header(0))
        if name is None or name in bands:
            expected = f"one of {', '.join(BANDS)}" if name is None else "another one than that of the other files"
            raise InputError(f"{path}: HDU 0: FILTER is {file.header(0).get('FILTER')!r}; expected {expected}.")
        bands[name] = _open_band(file)
    for kind in ("mask", "variance"):
        having = {name: getattr(band, kind) is not None for name, band in bands.items()}
        if len(set(having.values())) > 1:
            lacking = next(path for name, path in zip(bands, paths, strict=True) if not having[name])
            raise InputError(
                f"{lacking}: HDU {kind.upper()} is missing, though other bands of the same piece of sky have it; the "
                "file may be cut short: fetch it again."
            )
    planes = [image for band in bands.values() for image in (band.flux, band.mask, band.variance) if image is not None]
    check_alike(planes)
    first = planes[0]
    return Piece(paths[0], {b: bands[b] for b in BANDS if b in bands}, first.wcs, (first.shape[0], first.shape[1]))


def _open_band(file: FitsFile) -> Band:
    zero_point = zero_point_of([file.header(place) for place in range(len(file.names))])
    if zero_point is None:
        raise InputError(f"{file.path}: FLUXMAG0 is not in its header, so that its zero point is unknown.")
    found: dict[str, FitsImage] = {}
    places = [place for place in range(len(file.names)) if file.header(place).get("NAXIS")]
    for place, usual in zip(places[:3], ("IMAGE", "MASK", "VARIANCE"), strict=False):
        header = file.header(place)
        kind = str(header.get("EXTTYPE", header.get("EXTNAME", usual))).strip().upper()
        if "TFIELDS" not in header:
            found[kind if kind in ("IMAGE", "MASK", "VARIANCE") else usual] = file.image(place)
    if "IMAGE" not in found:
        raise InputError(f"{file.path}: no image is in this file; expected it in HDU 1.")
    for image in found.values():
        if 0 in image.shape or len(image.shape) != 2:
            size = " × ".join(map(str, image.shape[::-1]))
            raise InputError(
                f"{file.path}: HDU {image.hdu} is an image of {size} pixels; expected width × height above 0."
            )
    mask = found.get("MASK")
    return Band(found["IMAGE"], mask, found.get("VARIANCE"), 0 if mask is None else _bad_bits(mask), zero_point)


def _bad_bits(mask: FitsImage) -> int:
    """Return the bits of the bad planes, whose numbers differ from file to file."""
    planes = {name[3:].upper(): int(mask.header[name]) for name in mask.header if name.upper().startswith("MP_")}
    if not planes:
        raise InputError(f"{mask.path}: HDU {mask.hdu} is a mask without MP_ keys, which say what its bits mean.")
    return sum(1 << bit for name, bit in planes.items() if name in BAD_PLANES)
