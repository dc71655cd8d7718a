"""Images of the generic camera."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest

from aion_core.mock import MockObjects, draw
from aion_core.mock.camera import BULGE, DISC, Camera, bulge_share, render, sersic_transform
from aion_core.mock.instruments import Filter
from aion_core.mock.scene import pivot, scene

CAMERA = Camera(pixel_scale=0.2, seeing=0.8, zero_point=25.0, noise=0.1, gain=100.0)


def shaped(radius, ratio=1.0, angle=0.0):
    values = {"object_id": [1], "radius": [radius], "axis_ratio": [ratio], "position_angle": [angle]}
    return MockObjects(MappingProxyType({name: np.array(value, float) for name, value in values.items()}))


POINT = shaped(0.0, np.nan, np.nan)


def image(objects, size=257, x=128.0, y=128.0, counts=1000.0, bulge=0.0):
    values = {"r": np.array([counts])}
    return render({"r": CAMERA}, (size, size), np.array([x]), np.array([y]), values, objects, {"r": np.array([bulge])})[
        "r"
    ].astype(np.float64)


def moments(picture):
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    total = picture.sum()
    mx, my = (picture * x).sum() / total, (picture * y).sum() / total
    return mx, my, *((picture * a).sum() / total for a in ((x - mx) ** 2, (y - my) ** 2, (x - mx) * (y - my)))


@pytest.mark.parametrize("objects", [POINT, shaped(1.2), shaped(0.6, 0.3, 40.0)])
def test_flux_is_conserved(objects):
    assert image(objects, bulge=0.4).sum() == pytest.approx(1000, rel=1e-3)


def test_the_psf_has_the_stated_width():
    picture = image(POINT)
    line = picture[128] / picture.max()
    half = np.interp(0.5, line[128:140][::-1], np.arange(12)[::-1])
    # Half of the FWHM, in pixels; the pixel itself widens it by a little.
    assert 2 * half * CAMERA.pixel_scale == pytest.approx(CAMERA.seeing, rel=0.03)


def test_a_point_lies_where_it_is_put():
    mx, my, *_ = moments(image(POINT, x=120.3, y=131.75))
    assert mx == pytest.approx(120.3, abs=0.02)
    assert my == pytest.approx(131.75, abs=0.02)


def test_half_of_the_light_of_a_disc_is_within_its_half_light_radius():
    picture = image(shaped(3.0 / DISC))
    y, x = np.mgrid[:257, :257]
    radius = np.hypot(x - 128, y - 128) * CAMERA.pixel_scale
    assert picture[radius < 3.0].sum() / picture.sum() == pytest.approx(0.5, abs=0.02)


def test_the_major_axis_points_from_north_through_east():
    # Position angle 45°: north-east, which is up and left.
    *_, xx, yy, xy = moments(image(shaped(1.5, 0.3, 45.0)))
    assert xx == pytest.approx(yy, rel=0.01)
    assert xy < -0.3 * xx
    *_, xx, yy, xy = moments(image(shaped(1.5, 0.3, 0.0)))
    assert yy > 1.5 * xx


def test_what_is_beyond_the_edge_is_left_out():
    assert image(POINT, x=-0.5).sum() == pytest.approx(500, rel=0.01)
    assert image(POINT, x=-200.0).sum() == 0


def test_noise_has_the_variance_that_is_stated():
    clean = image(shaped(1.0), counts=5000.0)
    seen, variance = CAMERA.noisy(clean, np.random.default_rng(2))
    chi = (seen - clean) ** 2 / variance
    assert chi.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / chi.size))
    assert variance.min() == pytest.approx(0.01, rel=0.01)
    assert variance.max() > 2 * variance.min()


def test_counts_are_magnitudes_from_the_zero_point():
    assert CAMERA.counts(np.array([10 ** (-0.4 * 25)])) == pytest.approx(1)


def test_the_transform_of_a_profile_is_that_of_its_definition():
    # Half of the light of a de Vaucouleurs profile lies within one radius: the transform back, in rings.
    k = np.linspace(1e-3, 250, 200_000)
    from aion_core.mock.camera import _bessel

    at = 1.0
    # Light within r is r ∫ F(k) J1(k r) dk = 1 − ∫ r … ; J1 = −J0', by parts with F' on the grid.
    slope = np.gradient(sersic_transform(4.0, k), k)
    inside = sersic_transform(4.0, k[:1])[0] + np.sum((slope * _bessel(k * at))[1:] * np.diff(k))
    assert inside == pytest.approx(0.5, abs=0.02)


def test_bulges_are_redder_than_discs():
    objects = draw(3, 0, 100)
    blue, red = bulge_share(objects, 4800.0), bulge_share(objects, 9000.0)
    assert (red >= blue).all()
    assert (red > blue).any()
    assert ((blue >= 0) & (red <= 1)).all()


def test_a_scene_has_the_objects_first_and_the_same_faint_galaxies_for_any_of_them():
    objects = draw(3, 0, 100)
    whole, part = scene(objects), scene(objects[40:50])
    assert whole.sources.object_id[:100].tolist() == objects.object_id.tolist()
    np.testing.assert_array_equal(whole.sources.ra[100:], part.sources.ra[10:])
    assert not np.isin(whole.sources.object_id[100:], objects.object_id).any()


def test_the_light_of_a_scene_is_that_of_its_objects_and_faint_for_the_others():
    objects = draw(3, 0, 50)
    curve = Filter(np.linspace(5500, 7000, 50), np.ones(50))
    flux = scene(objects).maggies({"r": curve})["r"]
    magnitude = -2.5 * np.log10(flux[50:])
    assert magnitude.min() > 21.5
    assert magnitude.max() < 25.2
    assert pivot(curve) == pytest.approx(6235, abs=5)


def test_bulge_and_disc_are_the_stated_parts_of_the_size():
    assert BULGE < 1 < DISC


def test_a_bright_star_has_wings_and_no_rings():
    picture = image(POINT, x=128.3, y=127.6, counts=1e6) / 1e6
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    far = (np.hypot(x - 128.3, y - 127.6) > 20) & (picture != 0)
    assert far.sum() > 1000
    across = picture[1:-1, 1:-1] - (picture[2:, 1:-1] + picture[:-2, 1:-1] + picture[1:-1, 2:] + picture[1:-1, :-2]) / 4
    assert np.abs(across[far[1:-1, 1:-1]]).mean() < 3e-8
    assert picture.min() > -1e-7
