"""Coefficients as read, rebuilt by GaiaXPy, against the archive's own sampled spectrum of the same source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from aion_tok_gaia.reader import ArchiveReader
from aion_tok_gaia.spectra import WAVELENGTH, sampled_spectrum
from astropy.table import Table

from aion_core.contract import InputError

NAME = "Gaia_DR3_5937083312263887616"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(sample_dir: Path) -> Path:
    return sample_dir / "gaia/astroquery"


@pytest.mark.parametrize("kind", ["csv", "fits"])
def test_the_spectrum_from_the_coefficients_is_the_archives(folder: Path, kind: str) -> None:
    (batch,) = ArchiveReader().read(folder / f"XP_CONTINUOUS-{NAME}.{kind}", 10)
    bp, rp = (batch.data[key][0].value.numpy() for key in ("gaia_xp_bp", "gaia_xp_rp"))
    sampled = Table.read(folder / f"XP_SAMPLED-{NAME}.{kind}")
    expected, sigma = np.asarray(sampled["flux"], float), np.asarray(sampled["flux_error"], float)
    np.testing.assert_array_equal(sampled["wavelength"], WAVELENGTH)
    flux = sampled_spectrum(bp, rp)[0]
    # Below 350 nm the archive's calibration differs from the released one by up to 5e-4, a hundredth of the error.
    np.testing.assert_allclose(flux, expected, rtol=1e-3)
    assert (np.abs(flux - expected) < 0.01 * sigma).all()
    assert np.median(np.abs(flux / expected - 1)) < 1e-6


def test_the_order_of_bands_and_sources_is_kept(folder: Path) -> None:
    (batch,) = ArchiveReader().read(folder.parent / "gaiaxpy/XP_CONTINUOUS_RAW.csv", 10)
    bp, rp = (batch.data[key][0].value.numpy() for key in ("gaia_xp_bp", "gaia_xp_rp"))
    both = sampled_spectrum(bp, rp, [400.0, 700.0, 900.0])
    np.testing.assert_array_equal(both[::-1], sampled_spectrum(bp[::-1], rp[::-1], [400.0, 700.0, 900.0]))
    assert both[0, 2] > 10 * both[0, 0]  # Proxima Centauri is red


@pytest.mark.parametrize(
    ("bp", "rp", "wavelength", "message"),
    [
        (np.ones((2, 51)), np.ones((2, 51)), [400], r"bp has shape \[2, 51\]; expected \[B, 55\]"),
        (np.ones((2, 55)), np.ones((1, 55)), [400], r"rp has shape \[1, 55\]"),
        (np.full((1, 55), np.nan), np.ones((1, 55)), [400], "bp holds values that are not finite"),
        (np.ones((1, 55)), np.ones((1, 55)), [500, 400], "ascending"),
        (np.ones((1, 55)), np.ones((1, 55)), [4000, 5000], "within 330"),
    ],
)
def test_what_does_not_fit_is_refused(bp: np.ndarray, rp: np.ndarray, wavelength: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampled_spectrum(bp, rp, wavelength)


def test_no_source_gives_no_spectrum() -> None:
    assert sampled_spectrum(np.empty((0, 55)), np.empty((0, 55))).shape == (0, len(WAVELENGTH))


def test_the_example_prints_the_deviation_and_draws(folder: Path, tmp_path: Path) -> None:
    files = [folder / f"{product}-{NAME}.fits" for product in ("XP_CONTINUOUS", "XP_SAMPLED")]
    command = [sys.executable, "-W", "ignore", ROOT / "examples/gaia_xp_reconstruction.py", *files]
    done = subprocess.run([*command, "--plot", tmp_path / "x.png"], capture_output=True, text=True, check=True)
    assert "343 samples, 336 to 1020 nm" in done.stdout
    assert "median 3" in done.stdout
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([*command[:-2], tmp_path / "none", files[1]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_plots_are_drawn_as_before(folder: Path) -> None:
    code = (
        "import matplotlib as m; from aion_tok_gaia.spectra import sampled_spectrum; import numpy as np; "
        "sampled_spectrum(np.ones((1, 55)), np.ones((1, 55))); print(m.rcParams['text.usetex'])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_reading_needs_no_gaiaxpy(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from aion_tok_gaia.reader import ArchiveReader; "
        "import aion_tok_gaia.spectra; list(ArchiveReader().read(Path(sys.argv[1]), 5)); "
        "assert 'gaiaxpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, folder / f"XP_CONTINUOUS-{NAME}.csv"], check=True)
