"""The mock sky as SDSS would see it: one "lite" spec-PLATE-MJD-FIBER file per object, each field a plate of its own.

Plates are of either spectrograph: SDSS-I/II (3″ fibres, bright objects, lower-case columns) or BOSS (2″, fainter ones).
Noise, resolution and wavelength range are read off spectra of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from aion_core.mock import KINDS, QUASAR, MockObjects, replacing
from aion_core.mock.instruments import Spectrograph, fibre_share

STEP = 1e-4  # of log10 wavelength
#: Mask bits: no exposure left after rejection; the sky too bright.
FULLREJECT, BRIGHTSKY = 1 << 18, 1 << 23
#: Sky (1e-17 erg s⁻¹ cm⁻² Å⁻¹) from which pixels are flagged so.
BRIGHT = 40.0
SOUTH, NORTH = -5.0, 70.0
FIRST_PLATE, MJD = 10000, 55555
CLASSES = dict(zip(KINDS, ("GALAXY", "STAR", "QSO"), strict=True))


@dataclass(frozen=True)
class Survey:
    """One spectrograph and what it was pointed at.

    Attributes
    ----------
    first, count
        log10 of the first wavelength, and pixels.
    dispersion, noise
        (wavelength, value): line spread in pixels; noise of a faint object between sky lines.
    faintest, brightest
        Limits of the mean flux between 6000 and 7200 Å in the fibre.
    """

    instrument: str
    run: str
    first: float
    count: int
    fibre: float
    faintest: float
    brightest: float
    dispersion: tuple[tuple[float, float], ...]
    noise: tuple[tuple[float, float], ...]
    lower_case: bool

    def spectrograph(self) -> Spectrograph:
        wavelength = 10 ** (self.first + STEP * np.arange(self.count))
        at, sigma = np.array(self.dispersion).T
        knots, noise = np.array(self.noise).T
        return Spectrograph(
            wavelength, np.interp(wavelength, at, sigma), np.exp(np.interp(wavelength, knots, np.log(noise)))
        )


LEGACY = Survey(
    "SDSS", "26", 3.5810, 3838, 3.0, 4.0, 500.0,
    ((3800, 1.03), (4400, 0.88), (5000, 0.79), (5900, 0.76), (5950, 0.92), (7100, 0.80), (8000, 0.71), (9200, 0.66)),
    ((3800, 1.7), (4100, 1.1), (4700, 0.95), (5600, 0.92), (5900, 0.83), (6500, 0.62), (7400, 0.64), (8300, 0.78),
     (9200, 1.15)),
    True,
)  # fmt: skip
BOSS = Survey(
    "BOSS", "v5_13_0", 3.5515, 4635, 2.0, 0.35, 250.0,
    ((3560, 1.10), (4500, 0.92), (5500, 0.85), (6000, 0.80), (6300, 1.05), (7500, 0.90), (9000, 0.85), (10300, 1.40)),
    ((3560, 1.30), (3900, 0.62), (4200, 0.45), (4800, 0.34), (5500, 0.31), (6000, 0.33), (6400, 0.25), (7000, 0.20),
     (8700, 0.20), (9200, 0.22), (9800, 0.34), (10300, 0.75)),
    False,
)  # fmt: skip


class SpectrumSimulator:
    """Observes each field as a plate."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        written = []
        for field, part in objects.fields():
            survey = LEGACY if rng.random() < 0.3 else BOSS
            share = fibre_share(part, survey.fibre, 1.3)
            flux = part.mean_flux(np.array([6000.0, 7200.0]))[:, 0] * share
            seen = (part.dec > SOUTH) & (part.dec < NORTH) & (flux > survey.faintest) & (flux < survey.brightest)
            if seen.any():
                written += _plate(FIRST_PLATE + field, survey, part[seen], share[seen], folder, rng)
        return written


def _plate(
    plate: int,
    survey: Survey,
    objects: MockObjects,
    share: npt.NDArray[np.floating],
    folder: Path,
    rng: np.random.Generator,
) -> list[Path]:
    arm = survey.spectrograph()
    expected = arm.expected(objects) * share.astype(np.float32)[:, None]
    depth = np.exp(0.25 * rng.normal() + 0.15 * rng.normal(size=len(objects)))
    flux, ivar, bad = arm.observe(expected, depth, rng)
    sky = arm.sky().astype(np.float32)
    table = np.zeros(survey.count, dtype=_columns(survey.lower_case))
    names = list(table.dtype.names or ())
    table[names[1]] = np.log10(arm.wavelength)
    table[names[5]], table[names[6]] = arm.sigma, sky
    # The brightest sky lines are flagged on some plates; what they leave behind is noise all the same.
    bright = np.where((sky > BRIGHT) & (rng.random() < 0.5), BRIGHTSKY, 0)
    rows = _measured(plate, survey, objects, flux, ivar, rng)
    # astropy takes 40 ms to build such a file, so it builds the headers once.
    primary = fits.PrimaryHDU()
    for key, value in (("PLATEID", plate), ("MJD", MJD), ("COEFF0", survey.first), ("COEFF1", STEP), ("VACUUM", True)):
        primary.header[key] = value
    headers = [
        hdu.header.tostring().encode()
        for hdu in (primary, fits.BinTableHDU(table, name="COADD"), fits.BinTableHDU(rows[:1], name="SPECOBJ"))
    ]
    files = [f"spec-{plate}-{MJD}-{fibre:04d}.fits" for fibre in rows["FIBERID"]]
    own = folder / str(plate)
    with replacing(own) as temporary:
        temporary.mkdir()
        for i, name in enumerate(files):
            table[names[0]], table[names[2]], table[names[7]] = flux[i], ivar[i], expected[i]
            table[names[3]] = table[names[4]] = np.where(bad[i], FULLREJECT, 0) | bright
            parts = (headers[0], headers[1], _padded(table), headers[2], _padded(rows[i : i + 1]))
            (temporary / name).write_bytes(b"".join(parts))
    return [own / name for name in files]


def _padded(table: npt.NDArray[np.void]) -> bytes:
    """Return a table's bytes, filled up to a whole FITS block."""
    data = table.tobytes()
    return data + bytes(-len(data) % 2880)


def _columns(lower: bool) -> list[tuple[str, str]]:
    names = ("flux", "loglam", "ivar", "and_mask", "or_mask", "wdisp", "sky", "model")
    return [(n if lower else n.upper(), ">i4" if n.endswith("mask") else ">f4") for n in names]


def _measured(
    plate: int,
    survey: Survey,
    objects: MockObjects,
    flux: npt.NDArray[np.floating],
    ivar: npt.NDArray[np.floating],
    rng: np.random.Generator,
) -> npt.NDArray[np.void]:
    """Return what the pipeline says of each object: position, class, redshift and how sure of it, a row each."""
    size = len(objects)
    signal = np.median(flux * np.sqrt(ivar), axis=1)
    error = (
        4e-5 * (1 + objects.redshift) * (1 + 1 / np.clip(signal, 0.05, None)) * np.where(objects.kind == QUASAR, 6, 1)
    )
    failed = rng.random(size) < 0.7 * np.exp(-2.0 * np.clip(signal, 0, None))
    columns = {
        "INSTRUMENT": ("S4", survey.instrument),
        "RUN2D": ("S7", survey.run),
        "SPECPRIMARY": ("u1", 1),
        "PLATE": (">i4", plate),
        "MJD": (">i4", MJD),
        "FIBERID": (">i4", objects.number + 1),
        "PLUG_RA": (">f8", objects.ra),
        "PLUG_DEC": (">f8", objects.dec),
        "CLASS": ("S6", [CLASSES[KINDS[kind]] for kind in objects.kind]),
        "Z": (">f4", np.where(failed, rng.uniform(0, 1.5, size), objects.redshift + error * rng.normal(size=size))),
        "Z_ERR": (">f4", error),
        "ZWARNING": (">i4", np.where(failed, 4, 0)),
        "SN_MEDIAN_ALL": (">f4", signal),
    }
    rows = np.zeros(size, [(name, kind) for name, (kind, _) in columns.items()])
    for name, (_, values) in columns.items():
        rows[name] = values
    return rows
