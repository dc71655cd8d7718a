"""Galaxies from star-forming to quiescent: stellar populations, gas, dust; who there is in a survey.

Simple stellar populations are integrals of the stars of `stars` over an initial mass function along a schematic main
sequence and giant branch. A galaxy is their sum over a delayed exponential star-formation history, dimmed by dust
that glows again in the infrared, with the lines of its ionised gas.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from aion_core.mock.dust import calzetti
from aion_core.mock.grid import (
    SIZE,
    SOLAR_LUMINOSITY,
    WAVELENGTH,
    WIDTH,
    Float,
    add_lines,
    planck,
    smooth,
)
from aion_core.mock.lines import BALMER, NEBULAR
from aion_core.mock.stars import Columns, surface_flux

#: Ages (Gyr) and metallicities ([Fe/H]) of the simple stellar populations.
AGES = np.array([0.003, 0.01, 0.025, 0.06, 0.12, 0.25, 0.5, 0.9, 1.6, 2.8, 4.5, 7.0, 10.0, 13.0])
METALLICITIES = np.array([-1.0, -0.3, 0.3])
#: Between the ages, and from now to the beginning.
_BINS = np.concatenate(([0.0], np.sqrt(AGES[1:] * AGES[:-1]), [14.0]))
#: Stellar velocity dispersion of all galaxies, km/s.
DISPERSION = 150.0
#: Luminosity of Hα (erg/s) per solar mass and year: Kennicutt & Evans 2012 (ARA&A 50, 531), table 1.
HALPHA = 10**41.27
#: Giants: share of their light by temperature (K) and log g.
_GIANTS = ((5400.0, 3.3, 0.25), (4950.0, 2.5, 0.40), (4500.0, 1.7, 0.23), (3800.0, 0.9, 0.12))


@lru_cache(maxsize=1)
def populations() -> Float:
    """Return the spectra of the simple stellar populations, L☉ Å⁻¹ per M☉ formed, ``[ages × metallicities, SIZE]``."""
    mass = np.geomspace(0.1, 60, 90)
    light = _luminosity(mass)
    lifetime = 10.0 * mass / light  # Gyr
    # Kroupa 2001 (MNRAS 322, 231)
    number = np.where(mass < 0.5, mass**-1.3, 0.5 * mass**-2.3)
    weight = number * np.gradient(mass)
    weight /= np.sum(weight * mass)
    radius = np.where(mass < 1, mass**0.8, mass**0.57)
    teff = np.clip(5772 * light**0.25 / radius**0.5, 2800, 42000)
    logg = 4.438 + np.log10(mass / radius**2)
    result = []
    for feh in METALLICITIES:
        hotter = teff * 10 ** (-0.015 * feh)
        dwarfs = surface_flux(hotter, logg, np.full_like(teff, feh)) / _bolometric(hotter)
        giants = _giants(feh)
        for age in AGES:
            alive = 1 / (1 + (age / lifetime) ** 12)
            share = weight * light * alive
            evolved = np.interp(np.log10(age), [-2.5, -2, -1, -0.3, 0.2, 1.1], [0.02, 0.3, 0.35, 0.9, 1.8, 3.6])
            result.append(share @ dwarfs + evolved * share.sum() * giants)
    return smooth(np.array(result, dtype=np.float32), DISPERSION).astype(np.float32)


def _luminosity(mass: Float) -> Float:
    """Return L/L☉ of main-sequence masses: piecewise power laws (Salaris & Cassisi 2005)."""
    return np.select([mass < 0.43, mass < 2, mass < 55], [0.23 * mass**2.3, mass**4, 1.4 * mass**3.5], 32000 * mass)


def _bolometric(teff: Float) -> Float:
    """Return σT⁴ in erg s⁻¹ cm⁻², ``[B, 1]``."""
    return 5.670374419e-5 * teff[:, None] ** 4


def _giants(feh: float) -> Float:
    teff, logg, share = np.array(_GIANTS).T
    teff = teff - 140 * feh
    flux = surface_flux(teff, logg, np.full_like(teff, feh)) / _bolometric(teff)
    return share @ flux


def history(onset: Float, tau: Float) -> Float:
    """Return the share of the stars that formed in each age bin, ``[B, len(AGES)]``.

    The rate is t·exp(−t/τ) since `onset` (Gyr ago).
    """

    def formed(time: Float) -> Float:
        x = np.clip(time, 0, None) / tau[:, None]
        return 1 - (1 + x) * np.exp(-x)

    since = formed(onset[:, None] - _BINS[None])
    shares = since[:, :-1] - since[:, 1:]
    return shares / shares.sum(1, keepdims=True)


def spectra(columns: Columns) -> Float:
    """Return galaxies' rest-frame spectra on the grid, 1e-17 · L☉ Å⁻¹ ... as luminosities L☉ Å⁻¹, ``[B, SIZE]``."""
    onset, tau, feh, a_v, mass = (
        columns[n].astype(np.float64) for n in ("onset", "tau", "metallicity", "a_v", "log_mass")
    )
    shares = history(onset, tau)
    position = np.clip(np.interp(feh, METALLICITIES, np.arange(3.0)), 0, 1.999)
    low = position.astype(int)
    weights = np.zeros((len(onset), 3, len(AGES)))
    rows = np.arange(len(onset))
    weights[rows, low] = shares * (1 - position + low)[:, None]
    weights[rows, low + 1] = shares * (position - low)[:, None]
    flux = weights.reshape(len(onset), -1).astype(np.float32) @ populations()
    bright = flux @ WIDTH.astype(np.float32)
    flux *= np.exp(-0.921 * a_v[:, None].astype(np.float32) * calzetti(WAVELENGTH).astype(np.float32))
    flux += (bright - flux @ WIDTH.astype(np.float32))[:, None] * _glow()
    _add_gas(flux, columns)
    flux *= (10**mass).astype(np.float32)[:, None]
    return flux


@lru_cache(maxsize=1)
def _glow() -> Float:
    """Return the spectrum of dust in the infrared, per Å and unit luminosity, ``[SIZE]``.

    Cold dust (25 K, beyond the grid: 70 % of the light), warm (60 and 180 K) and hot dust, and the bands of aromatic
    hydrocarbons at 3.3, 6.2, 7.7, 8.6, 11.3 and 12.7 µm (Draine & Li 2007, ApJ 657, 810).
    """
    wave = WAVELENGTH
    warm = planck(wave, np.array([60.0, 180.0, 600.0]))
    warm /= _bolometric(np.array([60.0, 180.0, 600.0]))
    bands = np.zeros(SIZE)
    for centre, width, share in ((3.3, 0.03, 0.02), (6.2, 0.1, 0.2), (7.7, 0.3, 0.45), (8.6, 0.2, 0.12), (11.3, 0.15, 0.14), (12.7, 0.25, 0.07)):  # fmt: skip  # noqa: E501
        x = (wave / 1e4 - centre) / width
        bands += share * np.exp(-0.5 * x**2) / (width * 1e4 * np.sqrt(2 * np.pi))
    return (0.14 * warm[0] + 0.05 * warm[1] + 0.01 * warm[2] + 0.09 * bands).astype(np.float32)


def _add_gas(flux: Float, columns: Columns) -> None:
    """Add the emission lines of gas ionised by young stars, and in some galaxies by an active nucleus; in place."""
    rate = 10.0 ** columns["log_ssfr"]  # M☉/yr per M☉
    hbeta = rate * HALPHA / SOLAR_LUMINOSITY / 2.86
    oxygen, nucleus = columns["metallicity"].astype(np.float64), columns["nucleus"].astype(np.float64)
    hbeta = hbeta + 10**nucleus * 1e-3  # the nucleus's lines scale with the mass of the galaxy
    active = (10**nucleus * 1e-3) / hbeta
    # Line ratios along the star-forming sequence and towards active nuclei: Kewley et al. 2013 (ApJ 774, 100).
    ratios = {
        "OIII": 1.335 * ((1 - active) * 10 ** np.clip(-0.35 - 1.1 * oxygen, -0.6, 0.75) + active * 6.0),
        "OII": (1 - active) * 10 ** np.clip(0.35 - 0.35 * oxygen, 0.0, 0.6) + active * 2.5,
        "NII": 1.34 * 2.86 * ((1 - active) * 10 ** np.clip(-0.5 + 0.75 * oxygen, -1.6, -0.3) + active * 0.9),
        "SII": 1.75 * 2.86 * ((1 - active) * 0.18 + active * 0.35),
        "SIII": 0.5 + 0 * oxygen,
        "HeI": 0.17 + 0 * oxygen,
        "PaG": 0.09 + 0 * oxygen,
    }
    wavelength = np.array([line for line, *_ in (*BALMER, *NEBULAR)])
    strength = [hbeta * ratio for _, ratio in BALMER] + [hbeta * ratios[ion] * share for _, ion, share in NEBULAR]
    # Gas sees more dust than stars do: E(B−V) of stars is 0.44 of the gas's (Calzetti et al. 2000).
    depth = 0.921 * (columns["a_v"] / 0.44)[:, None] * calzetti(wavelength)[None]
    add_lines(flux, wavelength, np.stack(strength, axis=1) * np.exp(-depth), columns["line_width"].astype(np.float64))


def draw(rng: np.random.Generator, count: int, age_of_universe: Float, redshift: Float) -> Columns:
    """Draw galaxies at redshifts; `age_of_universe` (Gyr) is that at those redshifts.

    Mass rises with redshift as in a flux-limited survey; the quiescent fraction rises with mass; radii follow
    van der Wel et al. 2014 (ApJ 788, 28), metallicities Gallazzi et al. 2005 (MNRAS 362, 41).
    """
    normal = rng.normal(size=(count, 6))
    mass = 9.85 + 1.9 * np.clip(redshift, 0, 0.75) ** 0.55 + 0.5 * normal[:, 0] - 0.8 * np.clip(redshift - 0.9, 0, 1)
    mass = np.clip(mass, 7.5, 11.9)
    quiescent = rng.random(count) < 0.85 / (1 + np.exp(-(mass - 10.75 + 0.5 * redshift) / 0.25))
    fraction = np.where(quiescent, rng.uniform(0.7, 0.95, count), rng.uniform(0.25, 0.9, count))
    onset = fraction * age_of_universe
    # How many e-folding times have passed: many where star formation has ended.
    passed = np.where(quiescent, rng.uniform(6, 14, count), np.exp(rng.normal(0.2, 0.55, count)))
    tau = onset / passed
    shares = history(onset, tau)
    young = AGES < 0.1
    rate = shares[:, young].sum(1) / (_BINS[np.count_nonzero(young)] * 1e9)
    metallicity = np.clip(-0.25 + 0.4 * (mass - 10.3) + 0.13 * normal[:, 1], -1.0, 0.3)
    a_v = np.where(quiescent, 0.12, 0.35 * 10 ** (0.3 * (mass - 10))) * np.exp(0.5 * normal[:, 2])
    size = np.where(quiescent, 3.4 * 10 ** (0.72 * (mass - 10.7)), 5.4 * 10 ** (0.24 * (mass - 10.7)))
    bulge = np.where(
        quiescent, np.clip(0.75 + 0.2 * normal[:, 3], 0.2, 1.0), np.clip(0.12 + 0.15 * normal[:, 3], 0, 0.7)
    )
    return {
        "redshift": redshift,
        "log_mass": mass,
        "log_ssfr": np.log10(np.clip(rate, 1e-14, None)),
        "age": shares @ AGES,
        "onset": onset,
        "tau": tau,
        "metallicity": metallicity,
        "a_v": np.clip(a_v, 0, 2.5),
        "nucleus": np.where(rng.random(count) < 0.12, -1.6 + 0.6 * normal[:, 4], -9.0),
        "line_width": np.clip(90 + 45 * normal[:, 5] + 60 * (mass - 10), 45, 280),
        "radius_kpc": np.clip(size * (1 + redshift) ** -0.9 * np.exp(0.4 * normal[:, 4]), 0.3, 25),
        "bulge_fraction": bulge,
        "axis_ratio": np.where(rng.random(count) < bulge, rng.uniform(0.5, 1, count), rng.uniform(0.15, 1, count)),
        "position_angle": rng.uniform(0, 180, count),
    }
