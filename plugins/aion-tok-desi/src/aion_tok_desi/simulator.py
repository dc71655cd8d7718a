"""The mock sky as DESI would see it: tile coadds of up to 500 targets, with sky fibres, and redrock files beside them.

Resolution and noise are read off EDR coadds of some 1500 s; resolution matrices are left out, as no reader of ours
needs them and they are ten times the size of the spectra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from aion_core.mock import GALAXY, KINDS, MockObjects, write_fits
from aion_core.mock.instruments import Spectrograph, fibre_share

STEP = 0.8
#: First and last pixel (Å), dispersion of the line spread (pixels), and noise of a faint target by wavelength
#: (1e-17 erg s⁻¹ cm⁻² Å⁻¹ between sky lines).
CAMERAS: dict[str, tuple[float, int, float, tuple[tuple[float, float], ...]]] = {
    "B": (3600.0, 2751, 0.85, ((3600, 1.9), (3700, 1.2), (3800, 0.85), (4000, 0.60), (4200, 0.50), (4400, 0.42),
                               (4800, 0.30), (5200, 0.27), (5800, 0.32))),
    "R": (5760.0, 2326, 0.80, ((5760, 0.38), (5900, 0.28), (6300, 0.20), (6800, 0.16), (7400, 0.155), (7620, 0.26))),
    "Z": (7520.0, 2881, 0.90, ((7520, 0.22), (7700, 0.15), (8200, 0.125), (9000, 0.115), (9400, 0.12), (9824, 0.15))),
}  # fmt: skip
FIBRE, SEEING = 1.5, 1.1  # arcsec
#: Mean flux between 6000 and 7200 Å in the fibre, above which targets are observed: r = 23.0, and below: r = 14.5.
FAINTEST, BRIGHTEST = 0.062, 160.0
SOUTH, NORTH = -20.0, 80.0
BAD = 4  # a bit of SPECMASK: cosmic ray
SKY_RATIO, DEAD_RATIO = 50, 100
SPECTYPES = dict(zip(KINDS, ("GALAXY", "STAR", "QSO"), strict=True))
FIRST_TILE, NIGHT = 100000, 20240101


class CoaddSimulator:
    """Observes each field as a tile of its own."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        written = []
        for field, part in objects.fields():
            seen = part[_targets(part)]
            if len(seen):
                written += _tile(FIRST_TILE + field, seen, folder, rng)
        return written


def spectrographs() -> dict[str, Spectrograph]:
    """Return the instrument's three arms."""
    arms = {}
    for name, (first, count, sigma, noise) in CAMERAS.items():
        wavelength = first + STEP * np.arange(count)
        at, level = np.array(noise).T
        arms[name] = Spectrograph(wavelength, sigma, np.exp(np.interp(wavelength, at, np.log(level))))
    return arms


def _targets(objects: MockObjects) -> npt.NDArray[np.bool_]:
    flux = objects.mean_flux(np.array([6000.0, 7200.0]))[:, 0] * fibre_share(objects, FIBRE, SEEING)
    footprint = (objects.dec > SOUTH) & (objects.dec < NORTH)
    return footprint & (flux > FAINTEST) & (flux < BRIGHTEST)


def _tile(tile: int, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write coadd and redrock file of a tile; targets first, then sky fibres, then fibres without a target."""
    size = len(objects)
    skies, dead = size // SKY_RATIO, size // DEAD_RATIO
    count = size + skies + dead
    share = fibre_share(objects, FIBRE, SEEING).astype(np.float32)[:, None]
    # Exposures are as long as the conditions ask; targets in several tiles are deeper.
    depth = np.exp(0.4 + 0.2 * rng.normal() + 0.5 * rng.normal(size=count))
    hdus: list[Any] = [fits.PrimaryHDU(), _fibermap(tile, objects, skies, dead)]
    for name, arm in spectrographs().items():
        expected = np.zeros((count, len(arm.wavelength)), np.float32)
        expected[:size] = arm.expected(objects) * share
        flux, ivar, bad = arm.observe(expected, depth, rng)
        flux[size + skies :] = ivar[size + skies :] = 0
        if name == "B":
            blue = _signal(flux, ivar)
        wave = fits.ImageHDU(arm.wavelength, name=f"{name}_WAVELENGTH")
        wave.header["BUNIT"] = "Angstrom"
        flux_hdu = fits.ImageHDU(flux, name=f"{name}_FLUX")
        flux_hdu.header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
        ivar_hdu = fits.ImageHDU(ivar, name=f"{name}_IVAR")
        ivar_hdu.header["BUNIT"] = "10**+34 (s2 cm4 Angstrom2) / erg2"
        hdus += [wave, flux_hdu, ivar_hdu, fits.ImageHDU(np.where(bad, BAD, 0).astype(np.int32), name=f"{name}_MASK")]
    red = _signal(flux, ivar)
    ending = f"0-{tile}-thru{NIGHT}.fits"
    redshifts = _redshifts(objects, np.hypot(blue, red)[:size], rng)
    return [
        write_fits(folder / f"coadd-{ending}", hdus),
        write_fits(folder / f"redrock-{ending}", [fits.PrimaryHDU(), redshifts, hdus[1]]),
    ]


def _signal(flux: npt.NDArray[Any], ivar: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the median signal-to-noise ratio per pixel, ``[B]``."""
    return np.median(np.abs(flux) * np.sqrt(ivar), axis=1) - 0.6745


def _fibermap(tile: int, objects: MockObjects, skies: int, dead: int) -> fits.BinTableHDU:
    count = len(objects) + skies + dead
    extra = np.arange(skies + dead)
    centre = objects.ra.mean(), objects.dec.mean()
    status = np.concatenate([np.zeros(len(objects) + skies), np.ones(dead)])
    kinds = np.array(["TGT"] * len(objects) + ["SKY"] * skies + ["   "] * dead)
    ids = np.concatenate([objects.object_id, -(np.int64(tile) * 1000 + extra) - 1])
    columns = [
        fits.Column("TARGETID", "K", array=ids),
        fits.Column("PETAL_LOC", "I", array=np.zeros(count)),
        fits.Column("FIBER", "J", array=np.arange(count)),
        fits.Column("COADD_FIBERSTATUS", "J", array=status),
        fits.Column("TARGET_RA", "D", "deg", array=np.concatenate([objects.ra, centre[0] + 1e-3 * extra])),
        fits.Column("TARGET_DEC", "D", "deg", array=np.concatenate([objects.dec, centre[1] + 1e-3 * extra])),
        fits.Column("OBJTYPE", "3A", array=kinds),
        fits.Column("TILEID", "J", array=np.full(count, tile)),
    ]
    return fits.BinTableHDU.from_columns(columns, name="FIBERMAP")


def _redshifts(objects: MockObjects, signal: npt.NDArray[Any], rng: np.random.Generator) -> fits.BinTableHDU:
    """Return redrock's table: the redshift measured, and a warning for what is too faint to have one."""
    size = len(objects)
    error = (
        3e-5 * (1 + objects.redshift) * (1 + 1 / np.clip(signal, 0.05, None)) * np.where(objects.kind == GALAXY, 1, 3)
    )
    failed = rng.random(size) < np.exp(-3.0 * np.clip(signal, 0, None)) * 0.7
    z = np.where(failed, rng.uniform(-0.005, 1.7, size), objects.redshift + error * rng.normal(size=size))
    columns = [
        fits.Column("TARGETID", "K", array=objects.object_id),
        fits.Column("Z", "D", array=z),
        fits.Column("ZERR", "D", array=error),
        fits.Column("ZWARN", "K", array=np.where(failed, 4, 0)),
        fits.Column("SPECTYPE", "6A", array=np.array([SPECTYPES[KINDS[k]] for k in objects.kind])),
        fits.Column("DELTACHI2", "D", array=np.where(failed, 3.0, 20 + 400 * np.clip(signal, 0, None) ** 2)),
    ]
    return fits.BinTableHDU.from_columns(columns, name="REDSHIFTS")
