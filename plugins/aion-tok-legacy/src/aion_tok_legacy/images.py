"""Stamps of the Legacy Surveys' coadds as observations, and what the catalogue of the brick says of the same objects.

Fluxes are nanomaggies a pixel. Nothing is interpolated: a stamp is cut at the pixel nearest to the object's position.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.files import NotClaimedError
from aion_core.data.fits import FitsFile, fits_headers
from aion_core.data.positions import Places, StampOptions, centre_of, named, pixel_scale, places_on
from aion_core.data.reader import ObservationBatch, Reader, Skipped
from aion_core.data.stamps import Stamps, cut_stamps
from aion_core.data.tables import Table, open_table
from aion_core.observations import Image, Observation, ScalarField
from aion_tok_legacy.coadds import (
    BANDS,
    BRICK_FILE,
    ZERO_POINT,
    Coadd,
    bands_of,
    brick_catalogue,
    brick_files,
    kind_of,
    open_coadd,
)
from aion_tok_legacy.reader import ELSEWHERE, WANTED, CatalogueReader, observed, of_this_brick, surroundings
from aion_tok_legacy.segmentation import segmentation

if TYPE_CHECKING:
    from astropy.io.fits import Header

#: Stamps of a batch at most: some 60 MB of 96 × 96 pixels in four bands.
MOST = 128
#: Mask bits that say that a pixel was not measured in a band: saturated, or masked in every exposure. The others say
#: what is near (a bright star, a galaxy, a cluster), whose brick it is, or concern WISE.
BAD_BITS = {"g": (2, 5), "r": (3, 6), "z": (4, 7), "i": (14, 15)}
#: What the cut-out service calls those of its layers that are the Legacy Surveys'.
OWN = re.compile(r"decals|decaps|mzls|bass|legacy|\bls-dr|^dr\d", re.IGNORECASE)


class ImageReader(Reader):
    """Reads coadds of bricks and cut-outs, with what belongs to them: bands, inverse variance, mask bits, catalogue."""

    Options = StampOptions

    def claims(self, path: Path) -> bool:
        """Whether the file is a plane of a brick's coadd, or from the cut-out service.

        Raises
        ------
        NotClaimedError
            If it is a PSF, or an exposure that is not calibrated.
        """
        headers = list(fits_headers(path))
        if reason := _useless(headers):
            raise NotClaimedError(f"{path}: {reason}")
        header = next((h for h in headers if _has_pixels(h)), None)
        if header is None or "CTYPE1" not in header:
            return False
        kind, in_own_band = kind_of(header), bool(set(bands_of(header)) & set(BANDS))
        if "BRICKNAM" in header:
            return kind == "maskbits" or (kind is not None and in_own_band)
        from_service = "BANDS" in header or "IMAGETYP" in header
        layer = f"{header.get('SURVEY', '')} {header.get('VERSION', '')}".strip()
        return from_service and kind == "image" and in_own_band and (not layer or OWN.search(layer) is not None)

    def group(self, path: Path) -> tuple[Path, ...]:
        """Return images, inverse variances and mask bits of the brick that lie beside a file, and its catalogue."""
        catalogue = self.options.positions or brick_catalogue(path)
        files = brick_files(path)
        return (*files, catalogue) if catalogue is not None and catalogue.is_file() else files

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        if not path.is_file():
            raise InputError(f"{path}: there is no such file.")
        catalogue = self.options.positions or brick_catalogue(path)
        with ExitStack() as stack:
            coadd = open_coadd(brick_files(path), stack)
            if catalogue is None:
                yield self._centre(coadd)
                return
            if not catalogue.is_file():
                raise InputError(f"{path}: the table of positions, {catalogue}, is not there.")
            table = stack.enter_context(open_table(catalogue))
            yield from self._at_positions(coadd, table, catalogue, min(batch_size, MOST))

    def _at_positions(self, coadd: Coadd, table: Table, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        """Yield what is at the positions of a table."""
        tractor = table if isinstance(table, FitsFile) and CatalogueReader().claims(path) else None
        label = self.options.identifier.lower()
        parts = table.rows(WANTED if tractor else {"ra", "dec", label}, 8192)
        places = places_on(parts, coadd.wcs, coadd.shape, path, coadd.path)
        skipped = places.skipped
        if tractor:
            own = of_this_brick(places.columns)
            if others := int((~own).sum()):
                skipped += (Skipped(f"{others} rows of {path.name}", ELSEWHERE, others),)
            places = places[own]
        # Positions that a user gives are a selection: they do not tell all the sources around an object.
        around = surroundings(tractor) if tractor and self.options.positions is None else None
        for first in range(0, max(len(places), 1), batch_size):
            some = places[first : first + batch_size]
            if tractor:
                batch = observed(some.columns, path, some.number, around)
            else:
                batch = named(some, path, label)
            data = {**batch.data, **self._measured(coadd, some)}
            yield replace(batch, data=data, skipped=skipped if first == 0 else ())

    def _centre(self, coadd: Coadd) -> ObservationBatch:
        """Return the object at the centre of a cut-out."""
        match = BRICK_FILE.fullmatch(coadd.path.name)
        name = (match["head"] + match["tail"] if match else coadd.path.name).partition(".fits")[0]
        place, batch = centre_of(coadd.path, name, coadd.wcs, coadd.shape)
        data = self._measured(coadd, place)
        if not len(data["legacy_image"][1]):
            none = np.zeros(0)
            return ObservationBatch(np.zeros(0, "U1"), none, none, {}, (Skipped(name, "every pixel is masked"),))
        return replace(batch, data=data)

    def _measured(self, coadd: Coadd, places: Places) -> dict[str, tuple[Observation, npt.NDArray[np.int64]]]:
        """Return stamps about pixels, and segmentation maps, of the objects that have any good pixel."""
        size = self.options.size
        planes = {f"{kind} {b}": p for kind in ("flux", "ivar") for b, p in getattr(coadd, kind).items()}
        if coadd.maskbits is not None:
            planes["maskbits"] = coadd.maskbits
        stamps = cut_stamps(planes, places.row, places.column, size)
        image = _image(coadd, stamps)
        assert image.mask is not None
        rows = np.flatnonzero((~image.mask).flatten(1).any(1).numpy())
        data: dict[str, tuple[Observation, npt.NDArray[np.int64]]] = {"legacy_image": (image[rows], rows)}
        if self.wants("legacy_segmap"):
            maps = [_segmentation(image[[row]]) for row in rows]
            field = ScalarField(np.stack(maps) if maps else np.zeros((0, size, size), np.float32))
            data["legacy_segmap"] = field, rows
        return data


def _useless(headers: list[Header]) -> str | None:
    """Return why a file of the survey is of no use here; None if it may be of use, or is another's."""
    if any(h.get("EXTNAME") == "PSF_DATA" for h in headers):
        return "a PSFEx model of a point spread function, not an image."
    if headers and "EXPNUM" in headers[0] and str(headers[0].get("BUNIT", "")).lower() == "adu":
        exposure = f"{headers[0].get('INSTRUME', 'camera')} exposure {headers[0]['EXPNUM']}"
        return f"a single exposure ({exposure}) in ADU, which are not calibrated; expected a coadd or a cut-out of one."
    pixels = [h for h in headers if _has_pixels(h)]
    if pixels and "BRICKNAM" in pixels[0] and kind_of(pixels[0]) is None:
        return f"a coadd's plane of kind {pixels[0].get('IMTYPE')}, which nothing is read from; expected image planes."
    if pixels and all("CTYPE1" not in h and "BAND" in h for h in pixels):
        bands = ", ".join(dict.fromkeys(band for h in pixels for band in bands_of(h)))
        return (
            f"images in {bands} without coordinates on the sky, such as the PSFs of a coadd; expected the coadd itself."
        )
    return None


def _has_pixels(header: Header) -> bool:
    return bool(header.get("ZNAXIS") or (header.get("NAXIS") and "TFIELDS" not in header))


def _segmentation(image: Image) -> npt.NDArray[np.float32]:
    """Return the segmentation map of one stamp."""
    assert image.mask is not None
    ivar = None if image.ivar is None else image.ivar[0].numpy()
    return segmentation(image.flux[0].numpy(), ivar, image.mask[0].numpy())


def _image(coadd: Coadd, stamps: Stamps) -> Image:
    """Return stamps as an observation; what was not measured is masked and has no weight."""
    bands = coadd.bands
    factor = 10 ** ((ZERO_POINT - coadd.zero_point) / 2.5)
    flux = np.stack([stamps.pixels[f"flux {band}"] for band in bands], 1).astype(np.float32) * np.float32(factor)
    bad = stamps.outside[:, None] | ~np.isfinite(flux)
    weights = np.ones_like(flux)  # of a band without any, all pixels count
    for i, band in enumerate(bands):
        if band in coadd.ivar:
            weights[:, i] = stamps.pixels[f"ivar {band}"].astype(np.float32) / np.float32(factor**2)
    bad |= ~(weights > 0) | ~np.isfinite(weights)
    ivar = weights if all(band in coadd.ivar for band in bands) else None
    if "maskbits" in stamps.pixels:
        bits = stamps.pixels["maskbits"].astype(np.int64)
        bad |= np.stack([(bits & sum(1 << bit for bit in BAD_BITS[band])) != 0 for band in bands], 1)
    if ivar is not None:
        ivar[bad] = 0
    names = [f"DES-{band.upper()}" for band in bands]
    return Image(flux, names, ivar, bad, zero_point=ZERO_POINT, pixel_scale=pixel_scale(coadd.wcs))
