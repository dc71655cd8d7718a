"""Photometry and spectra as generic instruments measure them."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest

from aion_core.mock import GALAXY, STAR, MockObjects, draw
from aion_core.mock.grid import planck
from aion_core.mock.instruments import SKY_CONTINUUM, Filter, Spectrograph, fibre_share, fit_error, photometry
from aion_core.mock.lines import SKY

LIGHT = 2.99792458e18


@pytest.fixture(scope="module")
def objects():
    return draw(11, 0, 60)


def with_spectrum(objects: MockObjects, flux):
    """Return one object whose spectrum by rest wavelength is given; its redshift and dust are none."""
    one = objects[:1]
    made = MockObjects(MappingProxyType({**one.columns, "redshift": np.zeros(1)}))
    made.__dict__["_rest"] = flux[None].astype(np.float32)
    return made


@pytest.fixture
def bands():
    wave = np.linspace(4000, 5500, 200)
    return {"blue": Filter(wave, np.exp(-(((wave - 4700) / 400) ** 2))), "red": Filter(wave + 2000, np.ones(200))}


def test_a_flat_spectrum_per_frequency_has_the_same_magnitude_in_every_filter(objects, bands):
    from aion_core.mock.grid import WAVELENGTH

    flat = 3.6307805e-20 * LIGHT / WAVELENGTH**2 * 1e17 * 1e-8
    for flux in photometry(with_spectrum(objects, flat), bands).values():
        np.testing.assert_allclose(flux, 1e-8, rtol=2e-3)


@pytest.mark.parametrize("temperature", [3500.0, 6000.0, 15000.0])
def test_the_colours_of_a_black_body_are_right_to_a_hundredth(objects, bands, temperature):
    from aion_core.mock.grid import WAVELENGTH

    body = with_spectrum(objects, planck(WAVELENGTH, np.array([temperature]))[0])
    seen = photometry(body, bands)
    expected = {}
    for name, f in bands.items():
        wave = np.linspace(f.wavelength[0], f.wavelength[-1], 20001)
        response = np.interp(wave, f.wavelength, f.response)
        flux = planck(wave, np.array([temperature]))[0]
        expected[name] = np.sum(flux * wave * response) / np.sum(response / wave)
    assert seen["blue"][0] / seen["red"][0] == pytest.approx(expected["blue"] / expected["red"], rel=0.01)


def test_a_line_between_the_samples_of_a_filter_is_not_lost(objects, bands):
    from aion_core.mock.grid import SIZE, WAVELENGTH, WIDTH

    fluxes = []
    for pixel in range(8200, 8210):
        flux = np.zeros(SIZE)
        flux[pixel] = 1 / WIDTH[pixel]
        fluxes.append(photometry(with_spectrum(objects, flux), {"red": bands["red"]})["red"][0] / WAVELENGTH[pixel])
    np.testing.assert_allclose(fluxes, fluxes[0], rtol=2e-3)


def spectrograph(**changes):
    wave = 5000 + 0.8 * np.arange(1500)
    return Spectrograph(**{"wavelength": wave, "sigma": 0.9, "noise": np.full(1500, 0.2)} | changes)


def test_the_line_spread_conserves_flux_and_has_the_stated_width(objects):
    from aion_core.mock.grid import SIZE, WAVELENGTH, WIDTH, index_of

    flux = np.zeros(SIZE)
    pixel = int(index_of(np.log10(5600.0)))
    flux[pixel] = 100 / WIDTH[pixel]
    arm = spectrograph(sigma=1.8)
    seen = arm.expected(with_spectrum(objects, flux))[0].astype(np.float64)
    assert seen.sum() * 0.8 == pytest.approx(100, rel=1e-3)
    mean = (seen * arm.wavelength).sum() / seen.sum()
    assert mean == pytest.approx(WAVELENGTH[pixel], abs=0.05)
    spread = np.sqrt((seen * (arm.wavelength - mean) ** 2).sum() / seen.sum())
    # The line itself fills a pixel of the sky's grid, the half pixels of the sum another little.
    assert spread == pytest.approx(np.sqrt((1.8 * 0.8) ** 2 + (WIDTH[pixel] ** 2 + 0.4**2) / 12), rel=0.01)


def test_resampling_conserves_the_flux_of_real_spectra(objects):
    arm = spectrograph()
    seen = arm.expected(objects)
    edges = arm.edges()
    whole = objects.mean_flux(edges[[20, -21]])[:, 0]
    np.testing.assert_allclose(seen[:, 20:-20].mean(1), whole, rtol=3e-3)


def test_noise_is_what_the_inverse_variance_says(objects):
    arm = spectrograph(bad_pixels=0.0)
    expected = arm.expected(objects)
    flux, ivar, bad = arm.observe(expected, np.full(len(objects), 1.0), np.random.default_rng(1))
    good = ~bad
    chi = ((flux - expected) ** 2 * ivar)[good]
    assert chi.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / good.sum()))
    assert (ivar[bad] == 0).all()
    assert (ivar[good] > 0).all()


def test_depth_divides_the_variance(objects):
    arm = spectrograph()
    flux = arm.expected(objects[:2])
    shallow, deep = arm.deviation(flux[:1], np.ones(1)), arm.deviation(flux[:1], np.full(1, 4.0))
    np.testing.assert_allclose(shallow / deep, 2, rtol=1e-5)


def test_noise_is_higher_on_sky_lines_and_under_bright_objects():
    wave = 8700 + 0.8 * np.arange(500)
    arm = Spectrograph(wave, 0.9, np.full(500, 0.1))
    line = np.abs(wave - 8828.8) < 0.5
    quiet = np.abs(wave - 8812.0) < 2
    faint = arm.deviation(np.zeros((1, 500)), np.ones(1))[0]
    assert faint[line].min() > 3 * faint[quiet].max()
    bright = arm.deviation(np.full((1, 500), 30.0), np.ones(1))[0]
    assert (bright > 2 * faint)[quiet].all()
    assert faint[quiet].mean() == pytest.approx(0.1, rel=0.05)


def test_sky_lines_hold_their_strength():
    wave = 5400 + 0.5 * np.arange(800)
    sky = Spectrograph(wave, 2.0, np.ones(800)).sky()
    strengths = sum(s for at, s in SKY if 5410 < at < 5790)
    assert (sky - SKY_CONTINUUM).sum() * 0.5 == pytest.approx(strengths, rel=1e-3)


def test_a_fibre_takes_all_of_a_point_and_less_of_what_is_larger(objects):
    share = fibre_share(objects, 1.5, 1.1)
    np.testing.assert_allclose(share[objects.kind == STAR], 1.0)
    galaxies = objects.kind == GALAXY
    order = np.argsort(objects.radius[galaxies])
    assert (np.diff(share[galaxies][order]) <= 0).all()
    assert (share[galaxies] > 0).all()


def test_fluxes_of_galaxies_in_catalogues_are_less_certain_than_those_of_points():
    objects = draw(5, 0, 200)
    error = fit_error(objects)
    assert error[objects.kind == GALAXY].min() > 3 * error[objects.kind != GALAXY].max() > 0
