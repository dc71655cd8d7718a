"""Spectra on the rest-frame grid, and off it."""

from __future__ import annotations

import numpy as np
from astropy import units as u
from astropy.modeling.physical_models import BlackBody
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.mock import grid


def test_the_pixels_follow_each_other_without_gap():
    assert (np.diff(grid.WAVELENGTH) > 0).all()
    assert (grid.EDGES[:-1] < grid.WAVELENGTH).all()
    assert (grid.EDGES[1:] > grid.WAVELENGTH).all()
    assert grid.WAVELENGTH[0] < 701
    assert grid.WAVELENGTH[-1] > 2.9e5


def test_the_number_of_a_wavelength_is_that_of_its_pixel():
    numbers = grid.index_of(np.log10(grid.WAVELENGTH))
    np.testing.assert_allclose(numbers, np.arange(grid.SIZE), atol=1e-6)


def test_a_black_body_is_that_of_astropy():
    wave = np.array([1000.0, 4000.0, 9000.0, 50000.0])
    for temperature in (3000.0, 5772.0, 30000.0):
        body = BlackBody(temperature * u.K, scale=1 * u.Unit("erg / (s cm2 Angstrom sr)"))
        expected = np.pi * body(wave * u.AA).value
        np.testing.assert_allclose(grid.planck(wave, np.array([temperature]))[0], expected, rtol=1e-4)


def test_between_pixels_a_spectrum_is_linear():
    ramp = np.arange(grid.SIZE, dtype=np.float64)[None]
    at = np.array([[0.0, 10.25, 5000.5, grid.SIZE - 2.5]])
    np.testing.assert_allclose(grid.sample(ramp, at), at)


def test_outside_the_grid_there_is_nothing():
    ones = np.ones((1, grid.SIZE))
    assert grid.sample(ones, np.array([[-0.5, grid.SIZE - 0.5]])).sum() == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1000, 20000), min_size=2, max_size=40, unique=True), st.integers(0, 9))
def test_whatever_the_bins_they_hold_the_flux_between_their_edges(edges, seed):
    rng = np.random.default_rng(seed)
    flux = rng.random((1, grid.SIZE)) * 10.0 ** rng.integers(-3, 3)
    edges = np.sort(edges)
    keep = np.concatenate([[True], np.diff(edges) > 1e-3])
    edges = edges[keep]
    if len(edges) < 2:
        return
    widths = np.diff(edges)
    index = grid.index_of(np.log10(edges))[None]
    fine = grid.bin_means(flux, index, widths[None])[0].astype(np.float64)
    whole = grid.bin_means(flux, index[:, [0, -1]], np.array([[edges[-1] - edges[0]]]))[0, 0]
    np.testing.assert_allclose((fine * widths).sum() / (edges[-1] - edges[0]), whole, rtol=1e-5)


def test_a_line_holds_its_luminosity_and_width():
    flux = np.zeros((2, grid.SIZE))
    velocity = np.array([150.0, 600.0])
    grid.add_lines(flux, np.array([6564.61]), np.array([[3.0], [5.0]]), velocity)
    total = flux @ grid.WIDTH
    np.testing.assert_allclose(total, [3.0, 5.0], rtol=1e-3)
    mean = flux @ (grid.WIDTH * grid.WAVELENGTH) / total
    np.testing.assert_allclose(mean, 6564.61, atol=0.05)
    spread = np.sqrt((flux * grid.WIDTH * (grid.WAVELENGTH - mean[:, None]) ** 2).sum(1) / total)
    np.testing.assert_allclose(spread / 6564.61 * grid.SPEED_OF_LIGHT, velocity, rtol=0.01)


def test_smoothing_keeps_the_flux_and_widens_a_line():
    flux = np.zeros((1, grid.SIZE))
    flux[0, 8000] = 1.0
    wide = grid.smooth(flux, 300.0)[0]
    np.testing.assert_allclose(wide.sum(), 1.0)
    pixels = np.arange(grid.SIZE)
    spread = np.sqrt((wide * (pixels - 8000) ** 2).sum()) * grid.STEP * np.log(10) * grid.SPEED_OF_LIGHT
    np.testing.assert_allclose(spread, 300.0, rtol=0.01)
