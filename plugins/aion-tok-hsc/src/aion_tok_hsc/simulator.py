"""The mock sky as Hyper Suprime-Cam would see it: cut-outs of the coadd in five bands, and rows of the catalogue.

Each field is one large cut-out per band, laid out like those of the cut-out service (image, mask, variance), with the
rows of the forced catalogue of what was detected beside it, in a folder of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from aion_core.mock import GALAXY, STAR, MockObjects, replacing
from aion_core.mock.camera import Camera, bulge_share, render
from aion_core.mock.instruments import Filter, fit_error
from aion_core.mock.scene import Scene, pivot, scene

Floats = npt.NDArray[np.floating]

#: Seeing (FWHM, arcsec), sky noise of a pixel (counts), photo-electrons per count: Wide layer, Aihara et al. 2022.
BANDS = {
    "g": (0.79, 0.036, 3800.0),
    "r": (0.75, 0.050, 3600.0),
    "i": (0.61, 0.058, 3900.0),
    "z": (0.68, 0.095, 2600.0),
    "y": (0.68, 0.190, 1500.0),
}
#: A_band / E(B−V) as in the catalogue.
EXTINCTION = {"g": 3.240, "r": 2.276, "i": 1.633, "z": 1.263, "y": 1.075}
PIXEL_SCALE, ZERO_POINT = 0.168, 27.0
SIZE = 2260  # pixels: the field, and the margin that stamps at its edge need
SOUTH, NORTH = -2.0, 5.0
SATURATED = 300.0  # counts
BRIGHT_STAR = 17.5  # magnitude in i
DETECTED = 8.0  # signal-to-noise ratio in i
MASK = {
    "BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "DETECTED_NEGATIVE": 6, "SUSPECT": 7,
    "NO_DATA": 8, "BRIGHT_OBJECT": 9, "CROSSTALK": 10, "NOT_DEBLENDED": 11, "UNMASKEDNAN": 12, "REJECTED": 13,
    "CLIPPED": 14, "SENSOR_EDGE": 15, "INEXACT_PSF": 16,
}  # fmt: skip


class CutoutSimulator:
    """Observes each field as one cut-out per band."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        written = []
        for field, part in objects.fields():
            if SOUTH < part.field_dec[0] < NORTH:
                written += _field(part, folder / f"field-{field:06d}", rng)
        return written


def filters() -> dict[str, Filter]:
    """Return the filter curves, with telescope, camera and atmosphere."""
    from speclite.filters import load_filter

    curves = {band: load_filter(f"hsc2017-{band}") for band in BANDS}
    return {band: Filter(np.asarray(c.wavelength), np.asarray(c.response)) for band, c in curves.items()}


def _field(objects: MockObjects, own: Path, rng: np.random.Generator) -> list[Path]:
    view, curves = scene(objects), filters()
    ra, dec = float(objects.field_ra[0]), float(objects.field_dec[0])
    x, y = _pixels(view.sources.ra, view.sources.dec, ra, dec)
    cameras = {
        band: Camera(
            PIXEL_SCALE, seeing * np.exp(0.07 * rng.normal()), ZERO_POINT, noise * np.exp(0.1 * rng.normal()), gain
        )
        for band, (seeing, noise, gain) in BANDS.items()
    }
    counts = {band: cameras[band].counts(flux) for band, flux in view.maggies(curves).items()}
    bulge = {band: bulge_share(view.sources, pivot(curves[band])) for band in BANDS}
    clean = render(cameras, (SIZE, SIZE), x, y, counts, view.sources, bulge)
    stem = f"{ra:.8f},{dec:.8f}"
    names = [f"{stem}_{SIZE}x{SIZE}_{band}.fits" for band in BANDS]
    stars = view.sources.kind == STAR
    bright = stars & (counts["i"] > 10 ** (0.4 * (ZERO_POINT - BRIGHT_STAR)))
    with replacing(own) as temporary:
        temporary.mkdir()
        for name, (band, camera) in zip(names, cameras.items(), strict=True):
            hdus = _planes(clean[band], camera, _near(x[bright], y[bright], counts["i"][bright]), rng)
            _write(temporary / name, band, hdus, _world(ra, dec))
        table = _catalogue(view, counts, cameras, (x, y), rng)
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(temporary / f"{stem}_forced.fits")
    return [own / name for name in (*names, f"{stem}_forced.fits")]


def _pixels(ra: Floats, dec: Floats, centre_ra: float, centre_dec: float) -> tuple[Floats, Floats]:
    """Return x and y (from 0) in the tangent projection about the field's centre."""
    from astropy.wcs import WCS

    x, y = WCS(_world(centre_ra, centre_dec)).all_world2pix(ra, dec, 0)
    return x, y


def _world(ra: float, dec: float) -> fits.Header:
    header = fits.Header()
    for key, value in (
        ("CRPIX1", (SIZE + 1) / 2), ("CRPIX2", (SIZE + 1) / 2), ("CRVAL1", ra), ("CRVAL2", dec),
        ("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN"), ("CD1_1", -PIXEL_SCALE / 3600), ("CD1_2", 0.0),
        ("CD2_1", 0.0), ("CD2_2", PIXEL_SCALE / 3600), ("RADESYS", "ICRS"),
    ):  # fmt: skip
        header[key] = value
    return header


def _near(x: Floats, y: Floats, counts: Floats) -> npt.NDArray[np.bool_]:
    """Return the pixels around bright stars ``[H, W]``, in circles that grow with their light."""
    near = np.zeros((SIZE, SIZE), bool)
    for column, row, total in zip(x, y, counts, strict=True):
        radius = 12 * (total * 10 ** (0.4 * (BRIGHT_STAR - ZERO_POINT))) ** 0.25 / PIXEL_SCALE / 2
        top, left = max(int(row - radius), 0), max(int(column - radius), 0)
        part = near[top : int(row + radius) + 1, left : int(column + radius) + 1]
        across = np.arange(part.shape[1]) + left - column
        part |= (np.arange(part.shape[0]) + top - row)[:, None] ** 2 + across**2 < radius**2
    return near


def _planes(
    clean: Floats, camera: Camera, near: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Floats, npt.NDArray[np.int32], Floats]:
    """Return image, mask bits and variance; what is lost to columns and cosmic rays was interpolated over."""
    image, _ = camera.noisy(clean, rng)
    # As a pipeline has it, from the photons that were counted. One that does not vary would be packed by gzip, which
    # writes the time of day into the file.
    variance = camera.noise**2 + np.clip(image, 0, None) / camera.gain
    mask = np.where(clean > 5 * camera.noise, 1 << MASK["DETECTED"], 0).astype(np.int32)
    mask |= near * np.int32(1 << MASK["BRIGHT_OBJECT"])
    full = clean > SATURATED
    mask |= full * np.int32(1 << MASK["SAT"] | 1 << MASK["INTRP"])
    image[full] = np.minimum(image[full], SATURATED)
    for _ in range(rng.poisson(4)):
        column, start = rng.integers(0, SIZE, 2)
        mask[start : start + 600, column : column + int(rng.integers(1, 3))] |= 1 << MASK["BAD"] | 1 << MASK["INTRP"]
    for row, column in rng.integers(0, SIZE - 12, (int(rng.poisson(400)), 2)):
        mask[row : row + 3, column : column + int(rng.integers(2, 12))] |= 1 << MASK["CR"] | 1 << MASK["INTRP"]
    return image.astype(np.float32), mask, variance.astype(np.float32)


def _write(path: Path, band: str, planes: tuple[Floats, npt.NDArray[np.int32], Floats], world: fits.Header) -> None:
    primary = fits.PrimaryHDU()
    primary.header["FILTER"] = band
    primary.header["FLUXMAG0"] = (10 ** (0.4 * ZERO_POINT), "AB mag = 2.5*log(fluxMag0/flux)")
    hdus: list[Any] = [primary]
    for kind, values in zip(("IMAGE", "MASK", "VARIANCE"), planes, strict=True):
        header = world.copy()
        header["EXTTYPE"] = kind
        if kind == "MASK":
            for name, bit in MASK.items():
                header[f"HIERARCH MP_{name}"] = bit
        noise = {} if kind == "MASK" else {"quantize_level": 16, "quantize_method": 1, "dither_seed": 1}
        hdus.append(fits.CompImageHDU(values, header, tile_shape=(100, 100), **noise))
    fits.HDUList(hdus).writeto(path)


def _catalogue(
    view: Scene,
    counts: dict[str, Floats],
    cameras: dict[str, Camera],
    position: tuple[Floats, Floats],
    rng: np.random.Generator,
) -> fits.BinTableHDU:
    """Return the rows of what is detected in i: magnitudes, extinctions and moments, as an archive query gives them."""
    sources = view.sources
    measured, error = {}, {}
    for band, camera in cameras.items():
        width = (camera.seeing / 2.3548) ** 2 + (sources.radius / 1.1774) ** 2
        area = 4 * np.pi * width / PIXEL_SCALE**2
        noise = np.sqrt(area * camera.noise**2 + counts[band] / camera.gain + (fit_error(sources) * counts[band]) ** 2)
        measured[band], error[band] = counts[band] + noise * rng.normal(size=len(sources)), noise
    x, y = position
    inside = (x > -0.5) & (x < SIZE - 0.5) & (y > -0.5) & (y < SIZE - 0.5)
    rows = np.flatnonzero(inside & (measured["i"] > DETECTED * error["i"]))
    found = sources[rows]
    columns: dict[str, tuple[str, Any]] = {
        "object_id": ("K", found.object_id),
        "ra": ("D", found.ra),
        "dec": ("D", found.dec),
        "i_extendedness_value": ("E", np.where(found.kind == GALAXY, 1.0, 0.0)),
    }
    for band in BANDS:
        flux = np.where(measured[band] > 0, measured[band], np.nan)[rows]
        columns[f"{band}_cmodel_mag"] = ("E", ZERO_POINT - 2.5 * np.log10(flux))
        columns[f"{band}_cmodel_magerr"] = ("E", 1.0857 * error[band][rows] / flux)
        columns[f"a_{band}"] = ("E", EXTINCTION[band] * found.ebv)
    moments = _moments(found, cameras["i"].seeing, error["i"][rows] / counts["i"][rows], rng)
    columns |= {f"i_sdssshape_shape{ij}": ("E", value) for ij, value in moments.items()}
    return fits.BinTableHDU.from_columns([fits.Column(name, form, array=a) for name, (form, a) in columns.items()])


def _moments(objects: MockObjects, seeing: float, error: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Return second moments (arcsec²) along the pixel axes: those of the PSF, and of what has an extent."""
    major = (objects.radius / 1.1774) ** 2
    ratio, angle = np.nan_to_num(objects.axis_ratio, nan=1.0), np.radians(np.nan_to_num(objects.position_angle))
    minor, psf = major * ratio**2, (seeing / 2.3548) ** 2
    scatter = 1 + error * rng.normal(size=len(objects))
    return {
        "11": (psf + major * np.sin(angle) ** 2 + minor * np.cos(angle) ** 2) * scatter,
        "22": (psf + major * np.cos(angle) ** 2 + minor * np.sin(angle) ** 2) * scatter,
        "12": -(major - minor) * np.sin(angle) * np.cos(angle) * scatter
        + 0.5 * psf * error * rng.normal(size=len(objects)),
    }
