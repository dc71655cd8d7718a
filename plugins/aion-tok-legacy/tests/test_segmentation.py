"""Segmentation maps of sources whose place and extent are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aion_tok_legacy.images import ImageReader
from aion_tok_legacy.segmentation import _matched, segmentation
from hypothesis import given, settings
from hypothesis import strategies as st


def scene(*sources: tuple[float, float, float], seed: int = 0, size: int = 96) -> np.ndarray:
    """Gaussian sources (x, y, peak in standard deviations of the noise) in three bands."""
    y, x = np.mgrid[:size, :size]
    image = np.random.default_rng(seed).normal(0, 1, (3, size, size))
    for cx, cy, peak in sources:
        image += peak * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 3.0**2))
    return image.astype(np.float32)


def weights(flux: np.ndarray) -> np.ndarray:
    return np.ones_like(flux)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(45, 50), st.floats(45, 50), st.floats(10, 85), st.floats(10, 20))
def test_the_object_is_1_its_neighbours_a_half_and_the_sky_0(
    seed: int, x: float, y: float, other_x: float, other_y: float
) -> None:
    flux = scene((x, y, 40), (other_x, other_y, 40), seed=seed)
    field = segmentation(flux, weights(flux), np.zeros(flux.shape, bool))
    assert set(np.unique(field)) <= {0, 0.5, 1}
    assert field[round(y), round(x)] == 1
    assert field[round(other_y), round(other_x)] == 0.5
    assert field[90, 5] == 0
    assert 60 < (field == 1).sum() < 400  # a Gaussian of 3 pixels


def test_touching_sources_are_told_apart() -> None:
    flux = scene((47, 48, 60), (61, 48, 60))
    field = segmentation(flux, weights(flux), np.zeros(flux.shape, bool))
    assert (field[48, 47], field[48, 61]) == (1, 0.5)


def test_an_empty_sky_has_hardly_any_source_and_no_object() -> None:
    flux = scene()
    field = segmentation(flux, weights(flux), np.zeros(flux.shape, bool))
    assert (field > 0).mean() < 0.01
    assert (field == 1).sum() == 0


@pytest.mark.parametrize("weight", [0.01, 1.0, 400.0])
def test_the_matched_filter_counts_in_standard_deviations_of_the_noise(weight: float) -> None:
    noise = np.random.default_rng(0).normal(0, weight**-0.5, (300, 300))
    assert _matched(noise * weight, np.full(noise.shape, weight)).std() == pytest.approx(1, rel=0.03)


def test_bad_pixels_belong_to_nothing_and_do_not_make_sources() -> None:
    flux = scene((47, 48, 60))
    bad = np.zeros(flux.shape, bool)
    bad[:, 10:20, 10:20] = bad[:, 48, 47] = True
    flux[bad] = np.nan
    flux[0, 70, 70], bad[0, 70, 70] = 1e30, True  # bad in one band only
    field = segmentation(flux, weights(flux), bad)
    assert (field[10:20, 10:20] == 0).all()
    assert field[48, 47] == 0
    assert field[48, 49] == 1
    assert field[70, 70] == 0


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_unit_of_the_flux_makes_no_difference(scale: float) -> None:
    flux = scene((47, 48, 60), (20, 20, 30))
    expected = segmentation(flux, weights(flux), np.zeros(flux.shape, bool))
    scaled = segmentation(flux * np.float32(scale), weights(flux) / np.float32(scale**2), np.zeros(flux.shape, bool))
    assert (scaled != expected).mean() < 0.002


def test_without_weights_the_noise_is_that_of_the_pixels() -> None:
    flux = scene((47, 48, 60), (20, 20, 30))
    none = np.zeros(flux.shape, bool)
    with_weights, without = segmentation(flux, weights(flux), none), segmentation(flux, None, none)
    assert (with_weights != without).mean() < 0.02
    assert not segmentation(np.zeros_like(flux), None, none).any()
    assert not segmentation(flux, None, ~none).any()


def test_a_crowded_stamp_has_a_map() -> None:
    rng = np.random.default_rng(1)
    flux = scene(*((x, y, 50.0) for x, y in rng.uniform(0, 96, (600, 2))))
    assert segmentation(flux, weights(flux), np.zeros(flux.shape, bool)).any()


def test_the_real_galaxy_is_the_object_of_its_map(sample_dir: Path) -> None:
    path = sample_dir / "legacysurvey/pysersic/cutout_59.1067_-30.4848.fits"
    (batch,) = ImageReader().read(path, 1)
    field, image = batch.data["legacy_segmap"][0].value[0], batch.data["legacy_image"][0]
    y, x = divmod(int(image.flux[0, 1].argmax()), 96)
    assert field[y, x] == 1
    assert 500 < (field == 1).sum() < 2000
    assert field[75, 94] == field[19, 90] == 0.5  # two neighbours
    assert (field == 0).float().mean() > 0.7
