"""Mock cut-outs with their catalogue, read back by the readers of real ones."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

pytest.importorskip("speclite")

from aion_tok_hsc import simulator
from aion_tok_hsc.images import ImageReader
from aion_tok_hsc.reader import CatalogueReader
from aion_tok_hsc.simulator import BANDS, CutoutSimulator, filters

from aion_core.mock import GALAXY, draw, generator
from aion_core.mock.instruments import photometry


@pytest.fixture(scope="module")
def objects():
    """Some objects of a field in the footprint, brought together so that a small cut-out holds them."""
    seed = next(s for s in range(100) if 0 < draw(s, 0, 1).field_dec[0] < 4)
    objects = draw(seed, 0, 400)
    near = np.hypot(objects.ra - objects.field_ra, objects.dec - objects.field_dec) < 0.018
    return objects[near]


@pytest.fixture(scope="module")
def files(objects, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "SIZE", 900)
        return CutoutSimulator().observe(objects, tmp_path_factory.mktemp("hsc"), generator("hsc", 1))


@pytest.fixture(scope="module")
def batch(files):
    reader = ImageReader()
    assert reader.claims(files[0])
    assert reader.group(files[0]) == tuple(files)
    return next(reader.read(files[0], 128))


@pytest.fixture(scope="module")
def catalogue(files):
    assert CatalogueReader().claims(files[-1])
    (batch,) = CatalogueReader().read(files[-1], 10_000)
    return batch


def rows_of(objects, batch):
    order = {str(i): k for k, i in enumerate(objects.object_id)}
    pairs = [(row, order[name]) for row, name in enumerate(batch.object_id) if name in order]
    return np.array(pairs).T


def test_objects_come_back_with_number_and_position(objects, catalogue):
    rows, which = rows_of(objects, catalogue)
    assert len(rows) > 0.7 * len(objects)
    np.testing.assert_array_equal(catalogue.ra[rows], objects.ra[which])
    np.testing.assert_array_equal(catalogue.dec[rows], objects.dec[which])


def test_every_source_has_the_extinction_of_its_own_place(objects, catalogue):
    value, rows = catalogue.data["hsc_extinction_r"]
    mine, which = rows_of(objects, catalogue)
    assert rows.tolist() == list(range(len(catalogue)))
    np.testing.assert_allclose(value.value[mine], simulator.EXTINCTION["r"] * objects.ebv[which], rtol=1e-6)
    assert len(np.unique(value.value)) == len(catalogue) > len(mine)


def test_magnitudes_are_true_within_the_stated_errors(objects, files, catalogue):
    table = fits.getdata(files[-1], 1)
    rows, which = rows_of(objects, catalogue)
    true = photometry(objects, filters())
    for band in BANDS:
        pull = table[f"{band}_cmodel_mag"][rows] + 2.5 * np.log10(true[band][which])
        bright = table[f"{band}_cmodel_magerr"][rows] < 0.1
        chi = (pull / table[f"{band}_cmodel_magerr"][rows])[bright] ** 2
        assert chi.mean() == pytest.approx(1, abs=6 * np.sqrt(2 / bright.sum()))


def test_moments_of_points_are_round_and_those_of_galaxies_larger(objects, catalogue):
    rows, which = rows_of(objects, catalogue)
    size = {}
    for ij in ("11", "22", "12"):
        value, at = catalogue.data[f"hsc_shape_{ij}"]
        size[ij] = value.value.numpy().ravel()[np.searchsorted(at, rows)]
    points = objects.kind[which] != GALAXY
    large = objects.radius[which] > 1
    assert np.median(np.abs(size["12"][points] / size["11"][points])) < 0.05
    assert size["11"][large].min() > 1.5 * np.median(size["11"][points])


def noise_of(flux, ivar, mask):
    """Return the spread of differences of neighbouring pixels in units of their stated noise.

    Of pixels in the dark half of the sky, as told by a pixel a little to the left, which knows nothing of their noise.
    """
    good = ~mask[:, :, :-3] & ~mask[:, :, 2:-1] & ~mask[:, :, 3:] & (flux[:, :, :-3] < np.median(flux[~mask]))
    left, right = (part[:, :, 2:-1][good] for part in (flux, ivar)), (part[:, :, 3:][good] for part in (flux, ivar))
    (a, weight_a), (b, weight_b) = left, right
    pull = (b - a) / np.sqrt(1 / weight_a + 1 / weight_b)
    return 1.4826 * np.median(np.abs(pull - np.median(pull)))


def test_stamps_have_five_bands_and_noise_as_stated(batch):
    image, _ = batch.data["hsc_image"]
    assert image.bands == tuple(f"HSC-{band.upper()}" for band in BANDS)
    for band in range(5):
        planes = (part[:, band].numpy() for part in (image.flux, image.ivar, image.mask))
        assert noise_of(*planes) == pytest.approx(1, abs=0.05)


def test_what_was_interpolated_is_masked(batch):
    image, _ = batch.data["hsc_image"]
    assert 0 < image.mask.float().mean() < 0.2


def test_planes_are_laid_out_as_the_cut_out_service_does(files):
    with fits.open(files[0]) as hdus:
        assert [hdu.header.get("EXTTYPE") for hdu in hdus[1:]] == ["IMAGE", "MASK", "VARIANCE"]
        assert 2.5 * np.log10(hdus[0].header["FLUXMAG0"]) == pytest.approx(27.0)
        assert hdus[2].header["MP_SAT"] == 1


def test_a_field_outside_of_the_footprint_is_not_observed(objects, tmp_path, monkeypatch):
    monkeypatch.setattr(simulator, "SOUTH", 89.0)
    assert CutoutSimulator().observe(objects, tmp_path, generator(1)) == []
