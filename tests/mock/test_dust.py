"""Extinction and absorption against the libraries of the field."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.cosmology import FlatLambdaCDM

from aion_core.mock import cosmology, dust


def test_galactic_extinction_is_that_of_the_library():
    models = pytest.importorskip("dust_extinction.parameter_averages")
    wave = np.array([1200.0, 1800.0, 2175.0, 3500.0, 5495.0, 7000.0, 12000.0, 30000.0])
    expected = models.CCM89(Rv=3.1)(wave * u.AA)
    np.testing.assert_allclose(dust.cardelli(wave), expected, rtol=1e-3)


def test_the_attenuation_law_is_one_in_the_visual_and_joins_its_branches():
    np.testing.assert_allclose(dust.calzetti(np.array([5500.0])), 1.0, rtol=0.01)
    around = dust.calzetti(np.array([6299.0, 6301.0]))
    np.testing.assert_allclose(around[0], around[1], rtol=0.01)
    assert (np.diff(dust.calzetti(np.linspace(1200, 22000, 200))) < 0).all()


def test_hydrogen_absorbs_blueward_of_lyman_alpha_only_and_ever_more_with_redshift():
    redshift = np.array([1.0, 2.5, 4.0])
    at = np.array([[1180.0], [1300.0]]) * (1 + redshift)
    inside = np.diag(dust.intergalactic(at[0], redshift))
    outside = np.diag(dust.intergalactic(at[1], redshift))
    np.testing.assert_array_equal(outside, 1.0)
    assert (np.diff(inside) < 0).all()
    np.testing.assert_allclose(inside[1], np.exp(-3.6e-3 * (1180 * 3.5 / 1215.67) ** 3.46), rtol=1e-6)


def test_nothing_comes_through_beyond_the_lyman_limit_at_high_redshift():
    assert dust.intergalactic(np.array([[850.0 * 5]]), np.array([4.0]))[0, 0] < 0.05


def test_distances_and_ages_are_those_of_astropy():
    model = FlatLambdaCDM(H0=cosmology.HUBBLE, Om0=cosmology.MATTER)
    z = np.array([0.01, 0.3, 1.0, 4.0])
    np.testing.assert_allclose(cosmology.luminosity_distance(z), model.luminosity_distance(z).value, rtol=1e-4)
    np.testing.assert_allclose(cosmology.arcsec_per_kpc(z), model.arcsec_per_kpc_proper(z).value, rtol=1e-4)
    np.testing.assert_allclose(cosmology.age(z), model.age(z).value, rtol=2e-3)
