"""Mock archive rows, read back by the reader of real ones, and calibrated by GaiaXPy."""

from __future__ import annotations

import numpy as np
import pytest
from aion_tok_gaia.reader import ArchiveReader
from aion_tok_gaia.simulator import BASES, XP, ArchiveSimulator, coefficients
from aion_tok_gaia.spectra import import_gaiaxpy

from aion_core.mock import STAR, draw, generator

import_gaiaxpy()  # before anything else imports it and lets matplotlib typeset by LaTeX


@pytest.fixture(scope="module")
def objects():
    return draw(23, 0, 500)


@pytest.fixture(scope="module")
def batch(objects, tmp_path_factory):
    (path,) = ArchiveSimulator().observe(objects, tmp_path_factory.mktemp("gaia"), generator("gaia", 1))
    reader = ArchiveReader()
    assert reader.claims(path)
    (batch,) = reader.read(path, 1000)
    return batch


def of(objects, batch):
    order = {int(i): k for k, i in enumerate(objects.object_id)}
    return objects[[order[int(i)] for i in batch.object_id]]


def test_positions_and_parallaxes_are_true_to_the_stated_precision(objects, batch):
    truth = of(objects, batch)
    assert np.abs(batch.dec - truth.dec).max() * 3.6e6 < 6  # mas
    parallax, rows = batch.data["gaia_parallax"]
    bright = np.flatnonzero((truth.kind == STAR) & (truth.parallax > 1))
    measured = parallax.value.numpy().ravel()[np.searchsorted(rows, bright)]
    assert np.median(np.abs(measured - truth.parallax[bright])) < 0.3


def test_colours_follow_temperature(objects, batch):
    truth = of(objects, batch)
    blue, red = (batch.data[f"gaia_flux_{band}"][0].value.numpy().ravel() for band in ("bp", "rp"))
    stars = (truth.kind == STAR) & (red > 300)
    assert np.corrcoef(np.log(truth.teff[stars]), np.log(blue / red)[stars])[0, 1] > 0.9


def test_the_bright_have_spectra_and_the_faint_have_none(batch):
    flux = batch.data["gaia_flux_g"][0].value.numpy().ravel()
    for band in XP:
        spectrum, rows = batch.data[f"gaia_xp_{band}"]
        assert spectrum.value.shape == (len(rows), BASES)
        assert flux[rows].min() > np.delete(flux, rows).max() * 0.98


@pytest.mark.parametrize("band", list(XP))
def test_gaiaxpy_calibrates_the_coefficients_to_the_true_spectrum(objects, band):
    from gaiaxpy.calibrator.external_instrument_model import ExternalInstrumentModel
    from gaiaxpy.config.paths import config_path
    from gaiaxpy.spectrum.sampled_basis_functions import SampledBasisFunctions

    stars = objects[(objects.kind == STAR) & (objects.teff > 3600)]
    version, (first, last), *_ = XP[band]
    wave = np.arange(first + 20.0, last - 20.0, 4.0)
    parts = (f"{config_path}/{band}C03_{version}_{part}.csv" for part in ("dispersion", "response", "bases"))
    model = ExternalInstrumentModel.from_config_csv(*parts)
    design = SampledBasisFunctions.from_external_instrument_model(wave, np.ones_like(wave), model).design_matrix
    flux = coefficients(stars, band) @ design * 1e19  # W m⁻² nm⁻¹ -> 1e-17 erg s⁻¹ cm⁻² Å⁻¹
    # The instrument resolves some 10 nm: compare means over 20 nm.
    true = stars.mean_flux(np.append(wave - 2, wave[-1] + 2) * 10)
    size = len(wave) // 5
    seen, expected = (f[:, : 5 * size].reshape(len(stars), size, 5).mean(2) for f in (flux, true))
    ratio = seen / expected
    assert np.median(ratio) == pytest.approx(1, abs=0.02)
    assert np.percentile(np.abs(ratio - 1), 80) < 0.08
