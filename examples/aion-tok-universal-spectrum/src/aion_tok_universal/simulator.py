"""The mock sky as three unlike spectrographs would see it: sample data for tests and trainings, with known truth.

- *optical*: 3600 to 9900 Å, R 2000, all objects, from the ground;
- *h-band*: 15 100 to 17 000 Å, R 22 500, stars, with the gaps between three detectors, after APOGEE (Majewski et al.
  2017, AJ 154, 94);
- *near-infrared*: 9700 to 18 900 Å in even steps, R 1800 to 3500, galaxies and quasars, from space, after the
  high-resolution gratings of NIRSpec (Jakobsen et al. 2022, A&A 661, A80).

The mock sky's stars have no lines beyond 12 500 Å. The *h-band* gives them hydrogen's Brackett series and the strongest
lines of magnesium and aluminium, with strengths that go with the temperature as they roughly do: enough for the
spectra to differ, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.mock import GALAXY, QUASAR, STAR, MockObjects
from aion_core.mock.instruments import Spectrograph, fibre_share
from aion_tok_universal.tables import write_table

Floats = npt.NDArray[np.floating[Any]]

SEEING = 1.0  # FWHM, arcsec
#: Vacuum wavelengths (Å) of Mg I and Al I; of n → 4 in hydrogen, by Rydberg's formula.
METALS = np.array([15745.0, 15753.3, 15770.1, 16723.5, 16755.1, 16767.9])
BRACKETT = 1 / (1.0967758e-3 * (1 / 16 - 1 / np.arange(10.0, 21.0) ** 2))
#: Between the detectors of the h-band, Å.
GAPS = ((15808.0, 15858.0), (16433.0, 16473.0))


@dataclass(frozen=True)
class Instrument:
    """A spectrograph and what it is pointed at: kinds of objects, and the least mean flux (1e-17 erg s⁻¹ cm⁻² Å⁻¹)."""

    name: str
    arm: Spectrograph
    kinds: tuple[int, ...]
    faintest: float
    aperture: float  # arcsec
    lines: bool = False
    gaps: tuple[tuple[float, float], ...] = ()


class SpectrographsSimulator:
    """Observes each field with every spectrograph: a table each."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        """Write files into a folder, and return them; `rng` is the only source of chance."""
        written = []
        for field, part in objects.fields():
            for instrument in instruments():
                light = part.mean_flux(instrument.arm.wavelength[[0, -1]])[:, 0]
                share = fibre_share(part, instrument.aperture, SEEING)
                seen = np.isin(part.kind, instrument.kinds) & (light * share > instrument.faintest)
                if seen.any():
                    path = folder / f"{instrument.name}-{field:06d}.fits"
                    written.append(_observed(instrument, part[seen], share[seen], path, rng))
        return written


def instruments() -> tuple[Instrument, ...]:
    """Return the three spectrographs."""
    optical = 10 ** np.arange(3.5563, 3.9956, 1e-4)
    h_band = 10 ** (4.179 + 6e-6 * np.arange(8575))
    infrared = np.arange(9700.0, 18900.0, 2.35)
    blue = 0.22 * (1 + 3 * np.exp(-(optical - 3600) / 350))
    return (
        Instrument("optical", Spectrograph(optical, 1.0, blue), (GALAXY, STAR, QUASAR), 0.3, 2.0),
        Instrument("h-band", Spectrograph(h_band, 1.35, _even(h_band, 0.05)), (STAR,), 0.8, 2.0, True, GAPS),
        Instrument(
            "near-infrared",
            Spectrograph(infrared, 1.1, _even(infrared, 0.06), sky_share=0.0),
            (GALAXY, QUASAR),
            0.2,
            1.0,
        ),
    )


def _even(wavelength: Floats, noise: float) -> Floats:
    return np.full(len(wavelength), noise)


def _observed(
    instrument: Instrument, objects: MockObjects, share: Floats, path: Path, rng: np.random.Generator
) -> Path:
    arm = instrument.arm
    light = arm.expected(objects) * share.astype(np.float32)[:, None]
    if instrument.lines:
        light *= absorbed(objects.teff, arm.wavelength)
    flux, ivar, bad = arm.observe(light, np.exp(0.3 * rng.normal(size=len(objects))), rng)
    for low, high in instrument.gaps:
        bad |= (arm.wavelength > low) & (arm.wavelength < high)
    ivar[bad] = 0
    return write_table(path, objects.object_id, objects.ra, objects.dec, arm.wavelength, flux, ivar, bad)


def absorbed(teff: Floats, wavelength: Floats) -> Floats:
    """Return what lines in the H band leave of the light of stars of some temperatures (K), float32 ``[B, L]``."""
    heat = np.clip((np.asarray(teff, np.float64)[:, None] - 3500) / 4000, 0, 1)
    left = np.ones((len(heat), len(wavelength)))
    for line in BRACKETT[:8]:
        left -= 0.35 * heat**2 * np.exp(-0.5 * ((wavelength - line) / 12.0) ** 2)
    for line in METALS:
        left -= 0.4 * (1 - heat) ** 0.5 * np.exp(-0.5 * ((wavelength - line) / 0.6) ** 2)
    return np.clip(left, 0.05, None).astype(np.float32)
