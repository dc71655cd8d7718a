"""Distances and ages in a flat ΛCDM universe, Planck 2018 (A&A 641, A6, table 2): H0 = 67.66, Ωm = 0.3111.

Integrated here because astropy's cosmology needs SciPy, which the core does not have; a test compares the two.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from aion_core.mock.grid import SPEED_OF_LIGHT, Float

HUBBLE, MATTER = 67.66, 0.3111
_LAMBDA = 1 - MATTER


@lru_cache(maxsize=1)
def _table() -> tuple[Float, Float]:
    z = np.linspace(0, 8, 16001)
    rate = 1 / np.sqrt(MATTER * (1 + z) ** 3 + _LAMBDA)
    distance = np.concatenate(([0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(z))))
    return z, distance * SPEED_OF_LIGHT / HUBBLE


def comoving_distance(redshift: Float) -> Float:
    """Return the line-of-sight comoving distance in Mpc."""
    return np.interp(redshift, *_table())


def luminosity_distance(redshift: Float) -> Float:
    """Return the luminosity distance in Mpc."""
    return comoving_distance(redshift) * (1 + redshift)


def arcsec_per_kpc(redshift: Float) -> Float:
    """Return how many arcseconds a proper kiloparsec spans."""
    return 206264.806 * (1 + redshift) / (1000 * comoving_distance(redshift))


def age(redshift: Float) -> Float:
    """Return the age of the universe in Gyr."""
    gyr = 977.792 / HUBBLE
    return 2 / (3 * np.sqrt(_LAMBDA)) * gyr * np.arcsinh(np.sqrt(_LAMBDA / MATTER) * (1 + redshift) ** -1.5)
