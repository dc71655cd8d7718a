"""The mock sky as the Legacy Surveys would see it: parts of brick coadds with their Tractor catalogues.

Each field is cut from the coadd of the brick that its centre lies in (a whole brick would be six times as large), and
kept in a folder of its own: image and inverse variance per band, and the catalogue of all that was detected.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from aion_core.mock import GALAXY, MockObjects, replacing
from aion_core.mock.camera import Camera, bulge_share, render
from aion_core.mock.instruments import Filter, fit_error
from aion_core.mock.scene import Scene, pivot, scene
from aion_tok_legacy.bricks import CENTRE, PIXEL_SCALE, brick_at, centres, pixels

Floats = npt.NDArray[np.floating]

#: Seeing (FWHM, arcsec), sky noise of a pixel (nanomaggies) and photo-electrons per nanomaggy: medians of DR9 south.
BANDS = {
    "g": (1.25, 0.0021, 6000.0),
    "r": (1.15, 0.0027, 5500.0),
    "i": (1.10, 0.0050, 4500.0),
    "z": (1.08, 0.0088, 3500.0),
}
#: Noise of a point source (nanomaggies), WISE forced photometry.
WISE = {"w1": 0.45, "w2": 1.0, "w3": 31.0, "w4": 270.0}
FILTERS = {"g": "decam2014-g", "r": "decam2014-r", "i": "decam2014-i", "z": "decam2014-z",
           "w1": "wise2010-W1", "w2": "wise2010-W2", "w3": "wise2010-W3", "w4": "wise2010-W4"}  # fmt: skip
#: A_band / E(B−V), with the transmission of the DR9 catalogues.
EXTINCTION = {"g": 3.214, "r": 2.165, "i": 1.592, "z": 1.211, "w1": 0.184, "w2": 0.113, "w3": 0.0241, "w4": 0.00910}
SIZE = 1480  # pixels: the field, and the margin that stamps at its edge need
SOUTH, NORTH = -20.0, 34.0
RELEASE = 9010
#: Detected: this signal-to-noise ratio in g, r or z.
DETECTED = 6.0
#: Counts of a pixel that saturate it.
SATURATED = 25.0


class BrickSimulator:
    """Observes each field as a part of a brick."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        written = []
        for field, part in objects.fields():
            if SOUTH < part.field_dec[0] < NORTH:
                written += _brick(field, part, folder, rng)
        return written


@dataclass(frozen=True, eq=False)
class Corner:
    """Where the part lies in its brick: the brick's number, and the pixel that becomes the first."""

    brick: int
    x: int
    y: int

    @classmethod
    def of(cls, objects: MockObjects) -> Corner:
        brick = int(brick_at(objects.field_ra[0], objects.field_dec[0]))
        x, y = pixels(objects.field_ra[0], objects.field_dec[0], brick)
        return cls(brick, round(float(x)) - SIZE // 2, round(float(y)) - SIZE // 2)

    @property
    def name(self) -> str:
        ra, dec = (float(a) for a in centres(self.brick))
        return f"{int(ra * 10):04d}{'p' if dec >= 0 else 'm'}{int(abs(dec) * 10):03d}"

    def header(self, band: str, kind: str) -> fits.Header:
        ra, dec = (float(a) for a in centres(self.brick))
        header = fits.Header()
        for key, value in (
            ("BRICKNAM", self.name), ("BRICKID", self.brick), ("FILTER", band), ("SURVEY", "DECaLS"),
            ("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN"), ("CRVAL1", ra), ("CRVAL2", dec),
            ("CRPIX1", CENTRE + 1 - self.x), ("CRPIX2", CENTRE + 1 - self.y), ("CD1_1", -PIXEL_SCALE / 3600),
            ("CD1_2", 0.0), ("CD2_1", 0.0), ("CD2_2", PIXEL_SCALE / 3600), ("EQUINOX", 2000.0), ("IMTYPE", kind),
            ("MAGZERO", 22.5), ("BUNIT", "nanomaggy" if kind == "image" else "1/nanomaggy^2"),
        ):  # fmt: skip
            header[key] = value
        return header


def filters(names: tuple[str, ...]) -> dict[str, Filter]:
    """Return the filter curves of some bands, out of the atmosphere and with it for those on the ground."""
    from speclite.filters import load_filter

    curves = {name: load_filter(FILTERS[name]) for name in names}
    return {name: Filter(np.asarray(c.wavelength), np.asarray(c.response)) for name, c in curves.items()}


def _brick(field: int, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
    corner, view = Corner.of(objects), scene(objects)
    x, y = pixels(view.sources.ra, view.sources.dec, corner.brick)
    x, y = x - corner.x, y - corner.y
    curves = filters(tuple(BANDS))
    truth = {band: 1e9 * flux for band, flux in view.maggies(curves).items()}
    truth |= {band: 1e9 * flux for band, flux in view.maggies(filters(tuple(WISE)), step=2e-3).items()}
    own, files = folder / f"field-{field:06d}", []
    with replacing(own) as temporary:
        temporary.mkdir()
        cameras = {}
        for band, (seeing, noise, gain) in BANDS.items():
            conditions = np.exp(0.07 * rng.normal()), np.exp(0.15 * rng.normal())
            cameras[band] = Camera(PIXEL_SCALE, seeing * conditions[0], 22.5, noise * conditions[1], gain)
        bulge = {band: bulge_share(view.sources, pivot(curves[band])) for band in cameras}
        clean = render(cameras, (SIZE, SIZE), x, y, truth, view.sources, bulge)
        for band, camera in cameras.items():
            image, ivar = _exposed(clean[band], camera, rng)
            for kind, values in (("image", image), ("invvar", ivar)):
                name = f"legacysurvey-{corner.name}-{kind}-{band}.fits.fz"
                _write_image(temporary / name, values, corner.header(band, kind))
                files.append(name)
        table = _catalogue(field, corner, view, (x, y), truth, cameras, rng)
        name = f"tractor-{corner.name}.fits"
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(temporary / name)
    return [own / file for file in (*files, name)]


def _exposed(clean: Floats, camera: Camera, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return image and inverse variance; the latter 0 where saturated, in a bad column, or in a gap between CCDs."""
    image, _ = camera.noisy(clean, rng)
    # As a pipeline has it, from the photons that were counted. One that does not vary would be packed by gzip, which
    # writes the time of day into the file.
    ivar = 1 / (camera.noise**2 + np.clip(image, 0, None) / camera.gain)
    blind = np.zeros(clean.shape, bool)
    for _ in range(rng.poisson(3)):
        column, start = rng.integers(0, SIZE, 2)
        blind[start : start + 400, column : column + int(rng.integers(1, 4))] = True
    if rng.random() < 0.15:
        edge = int(rng.integers(0, SIZE))
        blind[:, edge : edge + 30] = True
    image[blind] = 0
    ivar[blind | (clean > SATURATED)] = 0
    return image.astype(np.float32), ivar.astype(np.float32)


def _write_image(path: Path, values: Floats, header: fits.Header) -> None:
    """Write a tile-compressed image, as the survey's are; pixels of exactly 0 stay so (dithering 2)."""
    hdu = fits.CompImageHDU(values, header, tile_shape=(100, 100), quantize_level=16, quantize_method=2, dither_seed=1)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)


def _catalogue(
    field: int,
    corner: Corner,
    view: Scene,
    position: tuple[Floats, Floats],
    truth: dict[str, Floats],
    cameras: dict[str, Camera],
    rng: np.random.Generator,
) -> fits.BinTableHDU:
    """Return the Tractor catalogue of what is detected: its fluxes scatter by the noise of a model fit."""
    sources = view.sources
    flux, ivar = {}, {}
    for band, true in truth.items():
        if band in WISE:
            variance = np.full(len(true), WISE[band] ** 2)
        else:
            camera = cameras[band]
            width = (camera.seeing / 2.3548) ** 2 + (sources.radius / 1.1774) ** 2
            area = 4 * np.pi * width / PIXEL_SCALE**2  # noise-equivalent area, pixels
            variance = area * camera.noise**2 + np.clip(true, 0, None) / camera.gain + (fit_error(sources) * true) ** 2
        flux[band], ivar[band] = true + np.sqrt(variance) * rng.normal(size=len(true)), 1 / variance
    signal = np.max([flux[b] * np.sqrt(ivar[b]) for b in "grz"], axis=0)
    x, y = position
    rows = np.flatnonzero((signal > DETECTED) & (x > -0.5) & (x < SIZE - 0.5) & (y > -0.5) & (y < SIZE - 0.5))
    number = np.concatenate([view.targets.number, 500 + np.arange(len(sources) - len(view.targets))])
    columns = _identity(field, corner, rows, number) | _shapes(sources[rows], signal[rows], rng)
    columns["RA"], columns["DEC"] = ("D", sources.ra[rows]), ("D", sources.dec[rows])
    columns["BX"], columns["BY"] = ("E", (x + corner.x)[rows]), ("E", (y + corner.y)[rows])
    columns["EBV"] = ("E", sources.ebv[rows])
    for band in truth:
        name = band.upper()
        columns[f"FLUX_{name}"], columns[f"FLUX_IVAR_{name}"] = ("E", flux[band][rows]), ("E", ivar[band][rows])
        columns[f"MW_TRANSMISSION_{name}"] = ("E", 10 ** (-0.4 * EXTINCTION[band] * sources.ebv[rows]))
        columns[f"NOBS_{name}"] = ("I", np.full(len(rows), 100 if band in WISE else 3))
    for band, camera in cameras.items():
        columns[f"PSFSIZE_{band.upper()}"] = ("E", np.full(len(rows), camera.seeing))
    return fits.BinTableHDU.from_columns([fits.Column(name, form, array=a) for name, (form, a) in columns.items()])


def _identity(field: int, corner: Corner, rows: npt.NDArray[np.int64], number: npt.NDArray[Any]) -> dict[str, Any]:
    size = len(rows)
    return {
        "RELEASE": ("I", np.full(size, RELEASE)),
        "BRICKID": ("J", np.full(size, corner.brick)),
        "BRICKNAME": ("8A", np.full(size, corner.name)),
        "OBJID": ("J", (field % 200_000) * 10_000 + number[rows]),  # several fields may share a brick
        "BRICK_PRIMARY": ("L", np.ones(size, bool)),
        "MASKBITS": ("I", np.zeros(size)),
    }


def _shapes(sources: MockObjects, signal: Floats, rng: np.random.Generator) -> dict[str, Any]:
    """Return model type, Sérsic index, half-light radius and ellipticity as fitted; 0 for point sources."""
    galaxy = sources.kind == GALAXY
    error = 1 / np.clip(signal, 5, None)
    radius = np.where(galaxy, sources.radius * np.exp(2 * error * rng.normal(size=len(sources))), 0)
    ratio = np.clip(np.nan_to_num(sources.axis_ratio, nan=1.0), 0.05, 1)
    size, angle = (1 - ratio) / (1 + ratio), 2 * np.radians(np.nan_to_num(sources.position_angle))
    bulge = np.nan_to_num(sources.bulge_fraction)
    small = galaxy & ((sources.radius < 0.25) | (signal < 12))
    kind = np.select([~galaxy, small, bulge > 0.7, bulge < 0.15], ["PSF", "REX", "DEV", "EXP"], "SER")
    index = np.select([~galaxy, kind == "SER", kind == "DEV"], [0, 1 + 3 * bulge, 4.0], 1.0)
    extended = galaxy & ~small
    scatter = error * rng.normal(size=(2, len(sources)))
    return {
        "TYPE": ("3A", kind),
        "SERSIC": ("E", index),
        "SHAPE_R": ("E", radius),
        "SHAPE_E1": ("E", np.where(extended, size * np.cos(angle) + scatter[0], 0)),
        "SHAPE_E2": ("E", np.where(extended, size * np.sin(angle) + scatter[1], 0)),
    }
