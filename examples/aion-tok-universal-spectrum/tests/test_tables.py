"""The package's own format, what is simulated in it, the way of other plugins' spectra into it, and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aion_tok_universal.collect import collect, main
from aion_tok_universal.reader import TableReader
from aion_tok_universal.simulator import METALS, SpectrographsSimulator, absorbed, instruments
from aion_tok_universal.tables import write_table
from aion_tok_universal.tokenizer import UniversalSpectrumTokenizer
from astropy.io import fits
from astropy.units import Unit

from aion_core.cli import main as aion
from aion_core.contract import InputError
from aion_core.data.files import find_reader
from aion_core.mock import STAR, draw, generator
from aion_core.plugins import load_registry
from aion_core.testing import ReaderContract
from aion_core.tokenizers import load_tokenizer


def table(path: Path, size: int = 5, low: float = 4000, high: float = 9000) -> Path:
    rng = np.random.default_rng(0)
    flux, ivar = rng.normal(5, 1, (size, 80)), rng.uniform(0.5, 2, (size, 80))
    bad = rng.random((size, 80)) < 0.1
    names = np.array([f"object {i}" for i in range(size)])
    return write_table(path, names, rng.uniform(0, 360, size), rng.uniform(-90, 90, size),
                       np.linspace(low, high, 80), np.where(bad, np.nan, flux), ivar, bad)  # fmt: skip


class TestReader(ReaderContract):
    reader = "universal_table"

    def files(self, folder):
        return [table(folder / "optical.fits"), table(folder / "infrared.fits", 3, 15000, 17000)]


def read(path: Path) -> dict[str, np.ndarray]:
    (batch,) = TableReader().read(path, 100)
    return {key: rows for key, (_, rows) in batch.data.items()}


def test_the_middle_of_a_spectrum_says_which_modality_it_is(tmp_path) -> None:
    assert read(table(tmp_path / "a.fits")).keys() == {"universal_optical"}
    assert read(table(tmp_path / "b.fits", low=9700, high=18900)).keys() == {"universal_infrared"}


def test_a_unit_in_the_file_is_heeded(tmp_path) -> None:
    path = table(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[1].columns["FLUX"].unit = "erg / (s cm2 Angstrom)"
    (batch,) = TableReader().read(path, 100)
    assert Unit(batch.data["universal_optical"][0].unit) == Unit("erg / (s cm2 Angstrom)")
    with fits.open(path, mode="update") as hdus:
        hdus[1].columns["FLUX"].unit = "parrots"
    with pytest.raises(InputError, match="parrots"):
        list(TableReader().read(path, 100))


def test_each_instrument_sees_the_objects_that_it_is_for(tmp_path) -> None:
    objects = draw(0, 0, 60)
    written = SpectrographsSimulator().observe(objects, tmp_path, generator("test"))
    assert {path.name.rpartition("-")[0] for path in written} == {"optical", "h-band", "near-infrared"}
    stars = set(objects.object_id[objects.kind == STAR].astype(str))
    (batch,) = TableReader().read(next(tmp_path.glob("h-band*")), 100)
    assert set(batch.object_id) <= stars
    gap = ((wave := batch.data["universal_infrared"][0].wavelength[0]) > 15810) & (wave < 15850)
    assert batch.data["universal_infrared"][0].mask[:, gap].all()


def test_resolutions_span_those_of_surveys() -> None:
    resolving = {
        i.name: float(np.median(i.arm.wavelength / (2.3548 * i.arm.sigma * np.gradient(i.arm.wavelength))))
        for i in instruments()
    }
    assert 1500 < resolving["optical"] < 2500
    assert 1500 < resolving["near-infrared"] < 4000
    assert 20_000 < resolving["h-band"] < 30_000


def test_cool_stars_have_metals_and_hot_ones_hydrogen() -> None:
    at = np.array([METALS[0], 16811.1])
    cool, hot = absorbed(np.array([3500.0, 7500.0]), at)
    assert cool[0] < 0.7 < hot[0]
    assert hot[1] < 0.7 < cool[1]


def test_spectra_of_another_plugin_are_collected(tmp_path, sample_dir) -> None:
    """Real SDSS files, read by whichever installed plugin reads them, come out as they went in."""
    source = sample_dir / "sdss" / "legacy_lite" / "spec-0403-51871-0462.fits"
    spec, reader = find_reader(source, load_registry())
    (written,) = collect([source], tmp_path)
    (before,), (after,) = reader.read(source, 1), TableReader().read(written, 10)
    one, other = before.data[spec.modalities[0]][0], after.data["universal_optical"][0]
    assert list(after.object_id) == list(before.object_id)
    for name in ("flux", "wavelength", "ivar", "mask"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-6)


def test_collecting_says_what_is_wrong_in_a_sentence(tmp_path, capsys) -> None:
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_recipe_trains_both_modalities_as_one_network(tmp_path) -> None:
    (tmp_path / "files").mkdir()
    table(tmp_path / "files" / "optical.fits", 16)
    table(tmp_path / "files" / "infrared.fits", 16, 15000, 17000)
    short = {
        "optimizer.steps": 2, "optimizer.warmup_steps": 0, "data.batch_size": 4, "data.split.fraction": 0.3,
        "evaluate.objects": 4, "evaluate.page": 0,
    }  # fmt: skip
    small = {f"network.{name}": value for name, value in UniversalSpectrumTokenizer.small.items()}
    words = [word for name, value in (short | small).items() for word in ("--set", f"{name}={value}")]
    recipe = Path(__file__).parents[1] / "universal.toml"
    out = tmp_path / "set"
    assert (
        aion(["tokenizer", "train", str(tmp_path / "files"), "--config", str(recipe), *words, "--out", str(out)]) == 0
    )
    assert [folder.name for folder in (out / "codecs").iterdir()] == ["universal"]
    one, other = (load_tokenizer(f"universal_{band}", out) for band in ("optical", "infrared"))
    assert one.fingerprint == other.fingerprint
    assert one.config.dim == UniversalSpectrumTokenizer.small["dim"]
