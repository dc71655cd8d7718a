"""Stars: who there is, and their spectra: black bodies with line blanketing, Balmer lines and jump, molecular bands.

The spectra are a model for tests and demos, of the right shape and with real lines, not a synthesis of atmospheres.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.mock.grid import FINE, PARSEC, SIZE, SOLAR_RADIUS, SPEED_OF_LIGHT, WAVELENGTH, Float, logistic, planck
from aion_core.mock.lines import BALMER, METAL, TITANIUM_OXIDE

Columns = dict[str, npt.NDArray[Any]]

#: Bolometric magnitudes from which and to which stars are drawn, and by how much in dex there are more a magnitude on.
BRIGHTEST, FAINTEST, GROWTH = 14.0, 20.0, 0.2


@lru_cache(maxsize=1)
def _features() -> Float:
    """Return the optical depths of the features that spectra are made of, ``[5, SIZE]``.

    Balmer lines broadened by pressure; the same, narrow; the Balmer continuum; metals; titanium oxide.
    """
    wave = WAVELENGTH
    depths = np.zeros((5, SIZE))
    for n, (line, _) in enumerate(BALMER):
        x = (wave - line) / line * SPEED_OF_LIGHT
        strength = 1.1 * 0.90**n
        depths[0] += strength / (1 + (x / (1000 - 45 * n)) ** 2)
        depths[1] += strength * np.exp(-0.5 * (x / 170) ** 2)
    # The higher lines merge into the continuum, which sets in over some tens of Å.
    depths[2] = np.where(wave > 912, (np.clip(wave, 912, None) / 3646) ** 2.5, 1) * logistic((3690 - wave) / 18)
    for line, strength, width in METAL:
        x = (wave - line) / line * SPEED_OF_LIGHT
        depths[3] += 0.36 * strength * np.exp(-0.5 * (x / (0.6 * width)) ** 2)
    depths[3] += _weak_lines()
    for head, depth, length in TITANIUM_OXIDE:
        x = wave - head
        depths[4] += depth * np.exp(-np.clip(x, 0, None) / length) * logistic(x / 2.5)
    return depths.astype(np.float32)


def _weak_lines() -> Float:
    """Return the depth of the thousands of weak metal lines, ever denser to the blue, as a fixed forest of them."""
    generator = np.random.default_rng(20010612)
    wave = WAVELENGTH[:FINE]
    mean = 0.50 * logistic((3950 - wave) / 60) + 0.07 * np.exp(-(((wave - 4300) / 600) ** 2))
    mean += 0.03 * np.exp(-(((wave - 5200) / 700) ** 2)) + 0.012
    mean *= np.where(wave < 3000, (3000 / wave) ** 1.2, 1)
    spikes = generator.gamma(0.25, 4.0, len(wave))
    forest = np.convolve(spikes, np.exp(-0.5 * (np.arange(-6, 7) / 1.4) ** 2) / 3.5, mode="same")
    depth = np.zeros(SIZE)
    depth[:FINE] = mean * (0.55 + 0.45 * forest)
    return depth


def surface_flux(teff: Float, logg: Float, feh: Float) -> Float:
    """Return the flux at stars' surfaces on the rest grid, erg s⁻¹ cm⁻² Å⁻¹, float32 ``[B, SIZE]``.

    Effective temperature in K, log₁₀ of the surface gravity in cm s⁻², [Fe/H] in dex. The continuum is hotter than the
    effective temperature by what the lines take.
    """
    teff, logg, feh = (np.asarray(x, np.float64) for x in (teff, logg, feh))
    balmer = np.exp(-((np.log(teff / 9300) / np.where(teff > 9300, 0.75, 0.36)) ** 2))
    broad = np.clip((logg - 1) / 3, 0.25, 2.2)
    metals = 10 ** (0.38 * feh) * np.clip((5800 / teff) ** 3.0, 0, 1.7) / (1 + (teff / 14000) ** 4)
    strengths = np.stack(
        (
            0.85 * balmer * broad,
            0.45 * np.exp(-((np.log(teff / 6800) / 0.30) ** 2)),
            1.35 * balmer * np.clip(logg / 3.5, 0.4, 1.2),
            metals * (1.0 + 0.06 * (4.4 - logg)),
            np.clip((4000 - teff) / 600, 0, 1.9) * 10 ** (0.2 * feh),
        ),
        axis=1,
    )
    depth = strengths.astype(np.float32) @ _features()
    warmer = 1 + 0.06 * np.clip(metals, 0, 1)
    flux = (planck(WAVELENGTH, teff * warmer) / warmer[:, None] ** 4).astype(np.float32)
    flux *= np.exp(-depth)
    return flux


def spectra(columns: Columns) -> Float:
    """Return stars' spectra above the Galaxy's dust on the rest grid, 1e-17 erg s⁻¹ cm⁻² Å⁻¹, ``[B, SIZE]``."""
    flux = surface_flux(*(columns[name].astype(np.float64) for name in ("teff", "logg", "feh")))
    dilution = (columns["stellar_radius"] * SOLAR_RADIUS / (columns["distance"] * PARSEC)) ** 2 * 1e17
    return flux * dilution.astype(np.float32)[:, None]


def draw(rng: np.random.Generator, count: int) -> Columns:
    """Draw stars as surveys between 14th magnitude, above which they saturate, and 20th meet them at high latitude.

    Dwarfs of spectral types A to M, giants, and a few white dwarfs; thin disc, thick disc and halo with their
    metallicities and distances. Masses and radii of dwarfs follow power laws (Demircan & Kahraman 1991, Ap&SS
    181, 313).
    """
    kind = rng.choice(4, count, p=(0.56, 0.26, 0.15, 0.03))  # F to K dwarfs, M dwarfs, giants, white dwarfs
    normal = rng.normal(size=(count, 4))
    teff = np.choose(
        kind,
        (
            np.clip(5700 + 750 * normal[:, 0] + 900 * np.clip(normal[:, 1] - 1, 0, None), 4000, 9800),
            np.clip(3500 + 260 * normal[:, 0], 2700, 4100),
            np.clip(4750 + 320 * normal[:, 0], 3600, 5600),
            np.clip(13000 * np.exp(0.4 * normal[:, 0]), 6500, 40000),
        ),
    )
    mass = np.clip((teff / 5772) ** 1.75, 0.09, 3.0)
    radius = np.where(mass < 1, mass**0.85, mass**0.75)
    logg = 4.438 + np.log10(mass / radius**2) + 0.04 * normal[:, 1]
    giant, white = kind == 2, kind == 3
    logg = np.where(giant, np.clip(2.5 + (teff - 4750) / 400 + 0.35 * normal[:, 1], 0.3, 3.6), logg)
    logg = np.where(white, 8.0 + 0.15 * normal[:, 1], logg)
    mass = np.where(giant, 1.05, np.where(white, 0.6, mass))
    radius = np.sqrt(mass / 10 ** (logg - 4.438))
    population = rng.choice(3, count, p=(0.55, 0.30, 0.15))
    feh = np.choose(population, (-0.08, -0.5, -1.4)) + np.choose(population, (0.18, 0.25, 0.4)) * normal[:, 2]
    # Draw how bright it looks, and put it where it looks so: counts grow by 0.2 dex per magnitude.
    growth = GROWTH * np.log(10)
    bright = BRIGHTEST + np.log1p(rng.random(count) * np.expm1(growth * (FAINTEST - BRIGHTEST))) / growth
    absolute = 4.74 - 10 * np.log10(teff / 5772) - 5 * np.log10(radius) + 0.2
    distance = np.clip(10 ** ((bright - absolute) / 5 + 1), 4.0, 60000.0)
    return {
        "teff": teff,
        "logg": logg,
        "feh": np.clip(feh, -2.5, 0.5),
        "distance": distance,
        "stellar_radius": radius,
        "redshift": rng.normal(0, 1, count) * np.choose(population, (35.0, 60.0, 140.0)) / SPEED_OF_LIGHT,
    }
