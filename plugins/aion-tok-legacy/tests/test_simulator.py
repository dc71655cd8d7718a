"""A mock brick, read back by the readers of real ones."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("speclite")

from aion_tok_legacy import simulator
from aion_tok_legacy.bricks import brick_at, centres
from aion_tok_legacy.images import ImageReader
from aion_tok_legacy.reader import CatalogueReader
from aion_tok_legacy.simulator import BANDS, BrickSimulator, filters

from aion_core.mock import GALAXY, QUASAR, STAR, draw, generator


@pytest.fixture(scope="module")
def objects():
    return draw(25, 0, 60)


@pytest.fixture(scope="module")
def files(objects, tmp_path_factory):
    return BrickSimulator().observe(objects, tmp_path_factory.mktemp("legacy"), generator("legacy", 1))


@pytest.fixture(scope="module")
def catalogue(files):
    path = next(file for file in files if file.name.startswith("tractor"))
    assert CatalogueReader().claims(path)
    (batch,) = CatalogueReader().read(path, 10_000)
    return batch


@pytest.fixture(scope="module")
def stamps(files):
    path = next(file for file in files if "image-g" in file.name)
    assert ImageReader().claims(path)
    assert set(ImageReader().group(path)) == set(files)
    return next(ImageReader().read(path, 64))


def matched(objects, batch):
    """Return rows of a batch and of the objects at the same positions."""
    away = np.hypot(batch.ra[:, None] - objects.ra, batch.dec[:, None] - objects.dec)
    rows = np.flatnonzero(away.min(1) < 1e-7)
    return rows, away[rows].argmin(1)


def test_nearly_all_objects_are_in_the_catalogue_and_fainter_ones_too(objects, catalogue):
    rows, _ = matched(objects, catalogue)
    assert len(rows) > 0.7 * len(objects)
    assert len(catalogue) > 2 * len(rows)
    assert len(set(catalogue.object_id)) == len(catalogue)


def test_every_source_has_the_reddening_of_its_own_place(objects, catalogue):
    value, rows = catalogue.data["legacy_ebv"]
    mine, which = matched(objects, catalogue)
    assert rows.tolist() == list(range(len(catalogue)))
    np.testing.assert_allclose(value.value[mine], objects.ebv[which], rtol=1e-6)
    assert len(np.unique(value.value)) == len(catalogue)  # fainter ones, too


def test_fluxes_are_true_within_the_stated_errors(objects, files, catalogue):
    from astropy.table import Table

    from aion_core.mock.instruments import photometry

    table = Table.read(next(file for file in files if file.name.startswith("tractor")))
    rows, which = matched(objects, catalogue)
    true = photometry(objects, filters(tuple(BANDS)))
    for band in BANDS:
        pull = table[f"FLUX_{band.upper()}"][rows] - 1e9 * true[band][which]
        chi = pull**2 * table[f"FLUX_IVAR_{band.upper()}"][rows]
        assert chi.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / len(rows)))


def test_shapes_are_those_of_galaxies_and_none_of_points(objects, catalogue):
    rows, which = matched(objects, catalogue)
    radius, at = catalogue.data["legacy_shape_r"]
    measured = dict(zip(at.tolist(), radius.value.numpy().ravel().tolist(), strict=True))
    values = np.array([measured.get(int(row), np.nan) for row in rows])
    points = np.isin(objects.kind[which], (STAR, QUASAR))
    assert (values[points] == 0).all()
    galaxies = (objects.kind[which] == GALAXY) & (objects.radius[which] > 0.5)
    np.testing.assert_allclose(np.median(values[galaxies] / objects.radius[which][galaxies]), 1, atol=0.1)


def test_stamps_have_their_object_in_the_middle_in_every_band(objects, stamps):
    image, rows = stamps.data["legacy_image"]
    assert image.bands == ("DES-G", "DES-R", "DES-I", "DES-Z")
    mine, which = matched(objects, stamps)
    flux = np.where(image.mask, 0, image.flux)
    bright = [k for k, o in zip(mine, which, strict=True) if objects.kind[o] == QUASAR]
    assert bright
    for k in bright:
        row = int(np.flatnonzero(rows == k)[0])
        if image.mask[row, :, 44:53, 44:53].any():
            continue
        centre = flux[row, :, 46:51, 46:51].max((1, 2))
        ring = np.median(flux[row], axis=(1, 2))
        assert (centre > ring + 0.01).all()


def noise_of(flux, ivar, mask):
    """Return the spread of differences of neighbouring pixels in units of their stated noise.

    Of pixels in the dark half of the sky, as told by a pixel a little to the left, which knows nothing of their noise.
    """
    good = ~mask[:, :, :-3] & ~mask[:, :, 2:-1] & ~mask[:, :, 3:] & (flux[:, :, :-3] < np.median(flux[~mask]))
    left, right = (part[:, :, 2:-1][good] for part in (flux, ivar)), (part[:, :, 3:][good] for part in (flux, ivar))
    (a, weight_a), (b, weight_b) = left, right
    pull = (b - a) / np.sqrt(1 / weight_a + 1 / weight_b)
    return 1.4826 * np.median(np.abs(pull - np.median(pull)))


def test_the_sky_is_as_noisy_as_the_inverse_variance_says(stamps):
    image, _ = stamps.data["legacy_image"]
    for band in range(4):
        planes = (part[:, band].numpy() for part in (image.flux, image.ivar, image.mask))
        assert noise_of(*planes) == pytest.approx(1, abs=0.05)


def test_bad_pixels_have_no_weight_and_are_masked(stamps):
    image, _ = stamps.data["legacy_image"]
    assert (image.ivar[image.mask] == 0).all()
    assert 0 < image.mask.float().mean() < 0.3


def test_a_field_outside_of_the_footprint_is_not_observed(objects, tmp_path, monkeypatch):
    monkeypatch.setattr(simulator, "SOUTH", 89.0)
    assert BrickSimulator().observe(objects, tmp_path, generator(1)) == []


def test_a_brick_is_found_by_its_own_centre():
    numbers = np.array([1, 2, 1000, 250_000, 657_438, 662_174])
    np.testing.assert_array_equal(brick_at(*centres(numbers)), numbers)
