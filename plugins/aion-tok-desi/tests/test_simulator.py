"""Mock coadds, read back by the reader of real ones."""

from __future__ import annotations

import numpy as np
import pytest
from aion_tok_desi.reader import DesiReader
from aion_tok_desi.simulator import CoaddSimulator, spectrographs

from aion_core.mock import GALAXY, draw, generator


@pytest.fixture(scope="module")
def objects():
    return draw(21, 0, 160)


@pytest.fixture(scope="module")
def files(objects, tmp_path_factory):
    folder = tmp_path_factory.mktemp("desi")
    return CoaddSimulator().observe(objects, folder, generator("desi", 1))


@pytest.fixture(scope="module")
def batch(files):
    reader = DesiReader()
    assert reader.claims(files[0])
    assert reader.group(files[0]) == tuple(files)
    (batch,) = reader.read(files[0], 500)
    return batch


def test_objects_come_back_with_identifier_and_position(objects, batch):
    rows = [objects.object_id.tolist().index(int(name)) for name in batch.object_id]
    np.testing.assert_array_equal(batch.ra, objects.ra[rows])
    np.testing.assert_array_equal(batch.dec, objects.dec[rows])
    assert len(batch) > 100


def test_sky_fibres_and_dead_ones_are_skipped_with_their_reasons(batch):
    reasons = " ".join(skipped.reason for skipped in batch.skipped)
    assert "blank sky" in reasons
    assert "no target" in reasons


def test_the_flux_is_the_true_one_within_the_stated_noise(objects, batch):
    spectrum, rows = batch.data["desi_spectrum"]
    points = [i for i in rows if objects.kind[objects.object_id.tolist().index(int(batch.object_id[i]))] != GALAXY]
    truth = objects[[objects.object_id.tolist().index(int(batch.object_id[i])) for i in points]]
    arm = spectrographs()["R"]
    expected = arm.expected(truth)[:, 200:2000]  # clear of the overlaps with the other cameras
    first = int(np.flatnonzero(np.isclose(spectrum.wavelength[0].numpy(), arm.wavelength[200]))[0])
    part = slice(first, first + expected.shape[1])
    flux, ivar, mask = (x[points][:, part].numpy() for x in (spectrum.flux, spectrum.ivar, spectrum.mask))
    chi = ((flux - expected) ** 2 * ivar)[~mask]
    assert chi.mean() == pytest.approx(1, abs=0.02)
    assert 0 < mask.mean() < 0.05


def test_good_redshifts_are_true_and_bad_ones_are_warned_of(objects, batch):
    redshift, rows = batch.data["catalog_redshift"]
    truth = {int(i): z for i, z in zip(objects.object_id, objects.redshift, strict=True)}
    expected = np.array([truth[int(batch.object_id[row])] for row in rows])
    assert np.abs(redshift.value.numpy().ravel() - expected).max() < 0.01
    assert len(rows) > 0.7 * len(batch)


def test_another_draw_of_noise_is_another_file_and_the_same_draw_the_same(objects, files, tmp_path):
    again = CoaddSimulator().observe(objects, tmp_path, generator("desi", 1))
    assert again[0].read_bytes() == files[0].read_bytes()
    (tmp_path / "other").mkdir()
    other = CoaddSimulator().observe(objects, tmp_path / "other", generator("desi", 2))
    assert other[0].read_bytes() != files[0].read_bytes()


def test_faint_objects_are_not_targets(objects, batch):
    flux = objects.mean_flux(np.array([6000.0, 7200.0]))[:, 0]
    unseen = ~np.isin(objects.object_id.astype(str), batch.object_id)
    assert flux[unseen & (objects.kind != GALAXY)].size == 0 or np.median(flux[unseen]) < np.median(flux[~unseen])
