"""Mock spectrum files, read back by the reader of real ones."""

from __future__ import annotations

import numpy as np
import pytest
from aion_tok_sdss.reader import SpectrumReader
from aion_tok_sdss.simulator import BOSS, LEGACY, SpectrumSimulator
from astropy.io import fits

from aion_core.mock import GALAXY, draw, generator


@pytest.fixture(scope="module")
def objects():
    return draw(22, 0, 120)


@pytest.fixture(scope="module", params=[0, 1])
def plate(request, objects, tmp_path_factory):
    """A plate of either spectrograph: the first random number decides."""
    for key in range(100):
        rng = generator("sdss", key)
        if (generator("sdss", key).random() < 0.3) == bool(request.param):
            break
    files = SpectrumSimulator().observe(objects, tmp_path_factory.mktemp("sdss"), rng)
    return (LEGACY if request.param else BOSS), files


def read(path):
    reader = SpectrumReader()
    assert reader.claims(path)
    (batch,) = reader.read(path, 8)
    return batch


def test_files_are_whole_fits_of_their_spectrograph(plate):
    survey, files = plate
    with fits.open(files[0]) as hdus:
        hdus.verify("exception")
        assert hdus[1].columns.names[0] == ("flux" if survey.lower_case else "FLUX")
        assert len(hdus[1].data) == survey.count
        assert hdus[2].data["INSTRUMENT"][0] == survey.instrument


def test_each_file_has_its_object_at_its_position_with_its_redshift(objects, plate):
    _, files = plate
    good = 0
    for path in files:
        batch = read(path)
        fibre = int(path.stem.rpartition("-")[2])
        one = objects[objects.number == fibre - 1]
        assert batch.ra[0] == one.ra[0]
        assert batch.dec[0] == one.dec[0]
        if "catalog_redshift" in batch.data and len(batch.data["catalog_redshift"][1]):
            good += 1
            assert abs(float(batch.data["catalog_redshift"][0].value[0]) - one.redshift[0]) < 0.01
    assert good > 0.4 * len(files)


def test_the_flux_is_the_true_one_within_the_stated_noise(objects, plate):
    survey, files = plate
    arm, chi, masked = survey.spectrograph(), [], []
    for path in files:
        one = objects[objects.number == int(path.stem.rpartition("-")[2]) - 1]
        if one.kind[0] == GALAXY:
            continue
        spectrum = read(path).data["sdss_spectrum"][0]
        flux, ivar, mask = (x[0].numpy() for x in (spectrum.flux, spectrum.ivar, spectrum.mask))
        expected = arm.expected(one)[0]
        chi.append(((flux - expected) ** 2 * ivar)[~mask])
        masked.append(mask.mean())
    assert np.concatenate(chi).mean() == pytest.approx(1, abs=0.03)
    assert 0 < np.mean(masked) < 0.1


def test_wavelengths_are_those_of_the_spectrograph(plate):
    survey, files = plate
    wave = read(files[0]).data["sdss_spectrum"][0].wavelength[0].numpy()
    np.testing.assert_allclose(wave, survey.spectrograph().wavelength, rtol=2e-6)
