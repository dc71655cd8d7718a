"""Stamps of HSC's coadds as observations, and what a catalogue of the archive says of the same objects.

Fluxes are counts of AB zero point 27.0 a pixel, whatever the file's own. Nothing is interpolated: a stamp is cut at the
pixel nearest to the object's position.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.files import NotClaimedError
from aion_core.data.fits import fits_headers
from aion_core.data.positions import Places, StampOptions, centre_of, named, pixel_scale, places_on
from aion_core.data.reader import ObservationBatch, Reader, Skipped
from aion_core.data.stamps import cut_stamps
from aion_core.data.tables import Table, open_table
from aion_core.observations import Image, Observation
from aion_tok_hsc.cutouts import (
    BANDS,
    ZERO_POINT,
    Band,
    Piece,
    band_of,
    bands_beside,
    catalogue_beside,
    open_piece,
    piece_name,
    zero_point_of,
)
from aion_tok_hsc.reader import NOT_PRIMARY, WANTED, is_catalogue, observed, primary

if TYPE_CHECKING:
    from astropy.io.fits import Header

#: Stamps of a batch at most: some 60 MB of 96 × 96 pixels in five bands.
MOST = 128


class ImageReader(Reader):
    """Reads cut-outs and coadds, one file for each band, those of the same piece of sky together."""

    Options = StampOptions

    def claims(self, path: Path) -> bool:
        """Whether the file is an image in one of HSC's five bands with a zero point.

        Raises
        ------
        NotClaimedError
            If it is HSC's, but a PSF, in another band, or without a zero point.
        """
        headers = list(fits_headers(path))
        if reason := _useless(headers, path):
            raise NotClaimedError(f"{path}: {reason}")
        return _is_hsc(headers) and band_of(headers[0]) is not None and zero_point_of(headers) is not None

    def group(self, path: Path) -> tuple[Path, ...]:
        """Return the files of the same piece of sky in all bands, and the table of its objects."""
        files, positions = bands_beside(path), self.options.positions or catalogue_beside(path)
        return (*files, positions) if positions is not None and positions.is_file() else files

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        if not path.is_file():
            raise InputError(f"{path}: there is no such file.")
        positions: Path | None = self.options.positions or catalogue_beside(path)
        with ExitStack() as stack:
            piece = open_piece(bands_beside(path), stack)
            if positions is None:
                yield _centre(piece, self.options.size)
                return
            if not positions.is_file():
                raise InputError(f"{path}: the table of positions, {positions}, is not there.")
            table = stack.enter_context(open_table(positions))
            yield from self._at_positions(piece, table, positions, min(batch_size, MOST))

    def _at_positions(self, piece: Piece, table: Table, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        """Yield what is at the positions of a table, and what the table says if it is of the archive's database."""
        own = is_catalogue(path)
        parts = table.rows(WANTED if own else {"ra", "dec", self.options.identifier.lower()}, 8192)
        places = places_on(parts, piece.wcs, piece.shape, path, piece.path)
        skipped = places.skipped
        if own:
            rows = primary(places.columns)
            if others := int((~rows).sum()):
                skipped += (Skipped(f"{others} rows of {path.name}", NOT_PRIMARY, others),)
            places = places[rows]
        for first in range(0, max(len(places), 1), batch_size):
            some = places[first : first + batch_size]
            batch = observed(some.columns, path) if own else named(some, path, self.options.identifier)
            data = {**batch.data, **_measured(piece, some, self.options.size)}
            yield replace(batch, data=data, skipped=skipped if first == 0 else ())


def _is_hsc(headers: list[Header]) -> bool:
    """Whether headers are those of the pipeline's images: its mask planes or zero point, and a filter."""
    marks = any("FLUXMAG0" in h or any(name.upper().startswith("MP_") for name in h) for h in headers)
    return marks and "FILTER" in headers[0] and any("CTYPE1" in h for h in headers)


def _useless(headers: list[Header], path: Path) -> str | None:
    """Return why a file of the survey is of no use here; None if it may be of use, or is another's."""
    if not headers:
        return _of_arrays(path)
    if _is_hsc(headers):
        if band_of(headers[0]) is None:
            return f"an image in the filter {headers[0]['FILTER']}; the survey's five bands are {', '.join(BANDS)}."
        if zero_point_of(headers) is None:
            return (
                "an image whose zero point is unknown: FLUXMAG0 is not in its header; fetch it from the archive again."
            )
        return None
    pixels = [h for h in headers if h.get("NAXIS") and "TFIELDS" not in h]
    if pixels and all("CTYPE1" not in h and str(h.get("CTYPE1A", "")).strip() == "LINEAR" for h in pixels):
        return "an image without coordinates on the sky, such as the PSF of a coadd; expected the coadd itself."
    if pixels and "hsc" in path.name.lower():
        lacks = (
            "coordinates on the sky" if "CTYPE1" not in pixels[0] else "a zero point (FLUXMAG0) and a filter (FILTER)"
        )
        return f"an array without {lacks}; expected a file as the archive's cut-out service writes it."
    return None


def _of_arrays(path: Path) -> str | None:
    """Return why arrays named after the survey are of no use: they say nothing of their calibration."""
    if path.suffix.lower() != ".npz" or "hsc" not in path.name.lower():
        return None
    try:
        with ZipFile(path) as archive:
            names = {Path(name).stem for name in archive.namelist()}
    except (OSError, BadZipFile):
        return None
    if not names >= {"images", "filters"}:
        return None
    return (
        "arrays without a zero point or a position; expected FITS files as the archive's cut-out service writes them."
    )


def _centre(piece: Piece, size: int) -> ObservationBatch:
    """Return the object at the centre of a cut-out."""
    name = piece_name(piece.path)
    place, batch = centre_of(piece.path, name, piece.wcs, piece.shape)
    data = _measured(piece, place, size)
    if not len(data["hsc_image"][1]):
        none = np.zeros(0)
        return ObservationBatch(np.zeros(0, "U1"), none, none, {}, (Skipped(name, "every pixel is masked"),))
    return replace(batch, data=data)


def _measured(piece: Piece, places: Places, size: int) -> dict[str, tuple[Observation, npt.NDArray[np.int64]]]:
    """Return stamps about pixels of a piece of sky, of the objects that have any good pixel."""
    parts = [_stamps(band, places, size) for band in piece.bands.values()]
    flux, ivar = (np.stack([part[i] for part in parts], 1) for i in range(2))
    bad: npt.NDArray[np.bool_] = np.stack([part[2] for part in parts], 1)
    weighed = all(band.variance is not None for band in piece.bands.values())
    rows = np.flatnonzero((~bad).any((1, 2, 3)))
    image = Image(
        flux[rows],
        [f"HSC-{band.upper()}" for band in piece.bands],
        ivar[rows] if weighed else None,
        bad[rows],
        zero_point=ZERO_POINT,
        pixel_scale=pixel_scale(piece.wcs),
    )
    return {"hsc_image": (image, rows)}


def _stamps(
    band: Band, places: Places, size: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return flux, inverse variance (0 where bad) and bad pixels in one band, ``[n, size, size]``."""
    planes = {"flux": band.flux, "mask": band.mask, "variance": band.variance}
    stamps = cut_stamps({name: p for name, p in planes.items() if p is not None}, places.row, places.column, size)
    factor = np.float32(10 ** ((ZERO_POINT - band.zero_point) / 2.5))
    flux = stamps.pixels["flux"].astype(np.float32) * factor
    bad = stamps.outside | ~np.isfinite(flux)
    ivar = np.ones_like(flux)
    if "mask" in stamps.pixels:
        bad |= (stamps.pixels["mask"].astype(np.int64) & band.bad_bits) != 0
    if "variance" in stamps.pixels:
        variance = stamps.pixels["variance"].astype(np.float32) * factor**2
        usable = (variance > 0) & np.isfinite(variance)
        ivar = np.divide(1, variance, out=np.zeros_like(flux), where=usable)
        bad |= ~usable
    ivar[bad] = 0
    return flux, ivar, bad
