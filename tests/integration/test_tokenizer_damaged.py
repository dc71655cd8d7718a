"""`aion tokenizer` on folders with damaged files in them, and what it says of wrong names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aion_core.cli import main


@pytest.fixture
def folder(sample_dir: Path, tmp_path: Path) -> Path:
    """One good catalogue, one cut short, one empty."""
    good = sample_dir / "gaia/legacypipe/chunk-05483.fits"
    (tmp_path / "raw").mkdir()
    shutil.copy(good, tmp_path / "raw/good.fits")
    (tmp_path / "raw/cut.fits").write_bytes(good.read_bytes()[:50_000])
    (tmp_path / "raw/empty.fits").touch()
    return tmp_path / "raw"


def test_damaged_files_in_a_folder_are_left_out_and_told(folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["tokenizer", "train", str(folder), "--out", str(tmp_path / "set"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["modalities"]["gaia_flux_g"]["objects"] == 884
    assert {Path(path).name for path in found["damaged"]} == {"cut.fits", "empty.fits"}
    assert main(["tokenizer", "eval", str(folder), "--tokenizers", str(tmp_path / "set")]) == 0
    assert "Left out: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cut.fits", "empty.fits"])
def test_a_damaged_file_that_was_named_is_an_error(folder: Path, tmp_path: Path, capsys, name: str) -> None:
    assert main(["tokenizer", "train", str(folder / name), "--out", str(tmp_path / "set")]) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_modality_named_twice_counts_once_and_a_misspelt_one_is_guessed(folder: Path, tmp_path: Path, capsys) -> None:
    train = ["tokenizer", "train", str(folder / "good.fits"), "--out", str(tmp_path / "set"), "--json"]
    assert main([*train, "--modalities", "gaia_flux_g", "tok_flux_g_gaia"]) == 0
    assert list(json.loads(capsys.readouterr().out)["modalities"]) == ["gaia_flux_g"]
    words = [folder / "good.fits", "--tokenizers", tmp_path / "set", "--out", tmp_path / "stores"]
    tokenize = ["tokenize", *map(str, words)]
    assert main([*tokenize, "--modalities", "gaia_flux_q"]) == 2
    assert "Did you mean 'gaia_flux_g'?" in capsys.readouterr().err
    assert main([*tokenize, "--modalities", "gaia_flux_g", "gaia_flux_g"]) == 0


def test_a_damaged_manifest_is_named(folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["tokenizer", "train", str(folder), "--out", str(tmp_path / "set"), "--json"]) == 0
    manifest = tmp_path / "set/manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20] + b"\xff")
    assert main(["tokenizer", "eval", str(folder), "--tokenizers", str(tmp_path / "set")]) == 2
    assert str(manifest) in capsys.readouterr().err
