"""Spectrum and photometry of the same object agree as far as the fibre lets them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aion_tok_desi.photometry import compare, main, synthetic_fluxes

from aion_core.observations import Spectrum

WAVELENGTH = np.arange(3600.0, 9825.0, 0.8)


def test_the_galaxys_spectrum_has_the_flux_that_the_imaging_sees_in_the_fibre(sample_dir: Path) -> None:
    rows = list(compare(sample_dir / "desi/fastspecfit/coadd-4-80613-thru20210324.fits"))
    assert [row.filter for row in rows] == ["BASS-g", "BASS-r", "MzLS-z"]  # north of 32.375 degrees
    assert [row.total for row in rows] == pytest.approx([3.237, 5.947, 8.338], abs=1e-3)
    for row in rows:
        assert row.spectrum / row.fibre == pytest.approx(1, abs=0.2)
    # Of the total it lacks what lies beyond the fibre, more than a star (for which the flux is calibrated) would.
    assert [row.spectrum / row.total for row in rows] == pytest.approx([0.87, 0.79, 0.74], abs=0.01)


def test_a_flat_spectrum_has_the_magnitude_it_should() -> None:
    jansky = 3.631e-6 * 2.99792458e-5 / WAVELENGTH**2 * 1e17  # 22.5 mag AB: a nanomaggy, in 1e-17 erg/s/cm2/A
    found = synthetic_fluxes(Spectrum(jansky[None], WAVELENGTH), ("BASS-g", "BASS-r"))
    assert found[0] == pytest.approx([1, 1], rel=1e-3)
    bad = np.zeros(jansky.shape, bool)
    bad[3500:3510] = True  # in the middle of r
    spoilt = np.where(bad, 1e6, jansky)
    assert synthetic_fluxes(Spectrum(spoilt[None], WAVELENGTH, mask=bad[None]), ("BASS-r",))[0] == pytest.approx(
        [1], rel=1e-3
    )


def test_the_table_in_the_readme_is_what_the_command_prints(
    sample_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sample_dir / "desi/fastspecfit/coadd-4-80613-thru20210324.fits")]) == 0
    readme = Path(__file__).parents[1] / "README.md"
    assert capsys.readouterr().out in readme.read_text()


def test_the_command_prints_a_row_a_band(sample_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sample_dir / "desi/specutils/coadd-sv3-dark-26065.fits")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 3
    assert "decamDR1-z" in lines[3]
    assert main([str(sample_dir / "desi/picca/coadd-sv3-dark-9144.fits")]) == 2
    assert "no photometry to compare with" in capsys.readouterr().err
