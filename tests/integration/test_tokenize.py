"""``aion tokenize`` on real files: from the survey's format to a store that opens, and what it says about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from aion_core.cli import main
from aion_core.data import TokenStore
from aion_core.data.pipeline import SOURCE
from aion_core.plugins import load_registry
from aion_core.tokenizers import TokenizerSet
from aion_core.tokenizers.spectrum import SpectrumTokenizer

SURVEYS = ("gaia", "legacysurvey")


@pytest.fixture(scope="module")
def tokenizers(sample_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set fitted to the sample itself."""
    folder = tmp_path_factory.mktemp("set") / "tokenizers"
    paths = [str(sample_dir / survey) for survey in SURVEYS]
    assert main(["tokenizer", "train", *paths, "--out", str(folder)]) == 0
    return folder


def aion(*words: str | Path) -> int:
    return main(["tokenize", *map(str, words)])


def document(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = aion(*words, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_real_files_become_stores_whose_tokens_decode_to_what_was_measured(
    sample_dir: Path, tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [sample_dir / survey for survey in SURVEYS]
    code, found = document(capsys, *paths, "--tokenizers", tokenizers, "--out", tmp_path)
    assert code == 0
    states = [file["status"] for file in found["files"]]
    found_states = {state: states.count(state) for state in sorted(set(states))}
    assert found_states == {"done": 19, "not claimed": 7, "nothing": 2, "part": 1}  # images have no fitted tokenizer
    stores = TokenStore.open(tmp_path)
    assert sum(map(len, stores)) == found["objects"] == 2815 + 884 + 57 + 10 + 1001 + 24 + 1 + 2 + 2
    for store in stores:
        store.verify()
    catalogue = sample_dir / "legacysurvey/desitarget/targets.fits"
    (store,) = (s for s in stores if s.path.name.startswith("targets-"))
    fitted = TokenizerSet.load(tokenizers)
    codes = store.tokens(range(len(store)), ["legacy_flux_r"])["legacy_flux_r"]
    import torch

    decoded = fitted["legacy_flux_r"].decode(torch.from_numpy(codes)).value.numpy()
    np.testing.assert_allclose(decoded, fits.getdata(catalogue, 1)["FLUX_R"], rtol=0.05)
    assert found["tokens"]["gaia_xp_bp"] == 55 * found["modalities"]["gaia_xp_bp"] == 55 * 2826


def test_an_object_without_bp_has_no_bp_token(
    sample_dir: Path, tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sample_dir / "gaia/gaiaxpy/XP_CONTINUOUS_RAW_with_missing_BP.csv"
    some = ("--modalities", "gaia_xp_bp", "gaia_xp_rp")
    code, found = document(capsys, path, "--tokenizers", tokenizers, "--out", tmp_path, *some)
    assert code == 0
    (file,) = found["files"]
    store = TokenStore(file["store"])
    tokens = store.tokens(range(3))
    place = store.ids.to_pylist().index("5405570973190252288")
    assert (tokens["gaia_xp_bp"] >= 0).all(axis=1).tolist() == [i != place for i in range(3)]
    assert (tokens["gaia_xp_rp"] >= 0).all()
    assert np.isnan(store.ra).all()


def test_a_second_run_finds_everything_done(
    sample_dir: Path, tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (sample_dir / "gaia/legacypipe", "--tokenizers", tokenizers, "--out", tmp_path, "--modalities")
    _, first = document(capsys, *words, "gaia_flux_g", "gaia_flux_bp")
    _, second = document(capsys, *words, "gaia_flux_g", "gaia_flux_bp")
    assert {file["status"] for file in first["files"]} == {"done"}
    assert {file["status"] for file in second["files"]} == {"present"}
    assert second["tokens"] == first["tokens"]
    _, fewer = document(capsys, *words, "tok_flux_bp_gaia")
    assert fewer["tokens"] == {"gaia_flux_bp": 832}
    assert fewer["left_out"]["gaia_flux_g"] == 884


def test_fast_encoding_is_asked_for_by_a_word_and_recorded(
    sample_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = load_registry().resolve("sdss_spectrum")
    (small,) = SpectrumTokenizer.build([spec], **SpectrumTokenizer.small)
    TokenizerSet([small]).save(tmp_path / "set")
    path = next((sample_dir / "sdss").rglob("spec-*.fits"))
    words = (path, "--tokenizers", tmp_path / "set", "--out", tmp_path / "out")
    told: list[tuple[str, dict[str, str]]] = []
    for more in ((), ("--fast",), ("--fast",), ()):
        code, found = document(capsys, *words, *more)
        assert code == 0
        (file,) = found["files"]
        told.append((file["status"], json.loads(TokenStore(file["store"]).metadata[SOURCE])["precision"]))
    exact, fast = {spec.key: "float32"}, {spec.key: "bfloat16"}
    assert told == [("done", exact), ("done", fast), ("present", fast), ("done", exact)]


def test_one_failing_file_gives_exit_code_2_after_the_others_are_done(
    sample_dir: Path, tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sample_dir / "gaia/legacypipe/chunk-05483.fits"
    cut = tmp_path / "cut.fits"
    cut.write_bytes(good.read_bytes()[:50_000])
    code = aion(cut, good, "--tokenizers", tokenizers, "--out", tmp_path / "out", "--modalities", "gaia_ra")
    told = capsys.readouterr()
    assert code == 2
    assert "the file is cut short" in told.out
    assert "884 objects in 2 files: done 1, failed 1." in " ".join(told.out.split())
    assert len(TokenStore.open(tmp_path / "out")) == 1


def test_a_named_file_that_nobody_claims_fails_and_one_in_a_folder_does_not(
    sample_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sample_dir / "gaia/astroquery"
    code, found = document(capsys, folder, "--describe")
    assert code == 0
    assert [file["status"] for file in found["files"]].count("not claimed") == 2
    code, found = document(capsys, folder, folder / "XP_SAMPLED-Gaia_DR3_5937083312263887616.fits", "--describe")
    assert code == 2
    assert found["failed"] == 1


def test_describing_says_reader_objects_and_modalities(sample_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = document(capsys, sample_dir / "legacysurvey/fastspecfit", "--describe")
    assert code == 0
    (file,) = found["files"]
    assert (file["reader"], file["objects"], file["status"], file["store"]) == ("legacy_catalogue", 1, "readable", None)
    bands = [f"legacy_flux_{band}" for band in ("g", "r", "z", "w1", "w2", "w3", "w4")]
    shapes = [f"legacy_shape_{axis}" for axis in ("r", "e1", "e2")]
    assert list(file["modalities"]) == [*bands, "legacy_ebv", *shapes, "catalog_sources"]
    assert aion(sample_dir / "gaia/gaiaxpy", "--describe") == 0
    assert "3: gaia_xp_rp; 2: gaia_xp_bp" in capsys.readouterr().out


def test_a_run_without_success_says_why_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.fits").write_text("This is no such file.")
    assert aion(tmp_path, "--describe") == 2
    told = capsys.readouterr()
    assert told.err.startswith("aion: The file cannot be used: ")
    assert len(told.err.splitlines()) == 1


def test_missing_options_paths_and_keys_are_one_sentence(
    tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aion(tmp_path) == 2
    assert "needs --tokenizers DIR and --out DIR" in capsys.readouterr().err
    some = ("--tokenizers", tokenizers, "--out", tmp_path, "--modalities", "gaia_ra")
    assert aion(tmp_path / "nowhere", *some) == 2
    assert "nowhere" in capsys.readouterr().err
    assert aion(tmp_path, "--tokenizers", tmp_path, "--out", tmp_path) == 2
    assert "not a tokenizer set" in capsys.readouterr().err
    assert aion(tmp_path, "--tokenizers", tokenizers, "--out", tmp_path, "--modalities", "gaia_xp_bq") == 2
    assert "gaia_xp_bq" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        aion(tmp_path, *some, "--batch-size", "0")
    assert refused.value.code == 2
