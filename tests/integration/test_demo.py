"""`aion demo`, as a newcomer types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aion_core.cli import main

#: Three surveys whose files are small: spectra, numbers, tables.
FEW = "catalog,desi,gaia"
TINY = ["--objects", "50", "--quick", "--effort", "0.02", "--json"]


def report(capsys, folder: Path, *words: str):
    """Run a demo and return what it found."""
    code = main(["demo", "--out", str(folder), *words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def written(folder: Path, *patterns: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in sorted(folder.glob(pattern))}


def test_a_demo_leaves_a_page_and_whatever_is_missing_later_is_all_that_is_done_again(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("AION_PLUGINS", FEW)
    monkeypatch.delenv("AION_SAMPLE_DIR", raising=False)
    monkeypatch.setattr("aion_tok_gaia.simulator.ArchiveSimulator.observe", _fail)
    folder = tmp_path / "demo"
    facts = report(capsys, folder, *TINY)
    assert facts["objects"] == sum(facts["kinds"].values()) == 50
    assert {t["key"] for t in facts["tokenizers"]} >= {"desi_spectrum", "catalog_redshift", "catalog_sources"}
    assert all(t["perplexity"] >= 1 for t in facts["tokenizers"])
    # What a simulator's failure costs is its own survey, and said.
    assert "no such filter" in facts["left_out"]["simulator gaia_archive"]
    # Two steps teach nothing, and the report does not hide it.
    assert any("entropy" in sentence for sentence in facts["falls_short"])
    page = (folder / "report/index.html").read_text()
    assert page.count("data:image/png;base64") >= 4
    assert 'src="http' not in page
    assert "<link" not in page
    assert "<script" not in page
    assert all(sentence.split(":")[0] in page for sentence in facts["falls_short"])

    assert report(capsys, folder, *TINY) == facts
    before = written(folder, "stores/*.arrow", "tokenizers/**/*.safetensors", "mock/**/*.fits", "run/checkpoints/*")
    shutil.rmtree(folder / "report")
    (folder / "stores/views.arrow").unlink()
    again = report(capsys, folder, *TINY)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in facts.items() if k != "seconds"}
    after = written(folder, "stores/*.arrow", "tokenizers/**/*.safetensors", "mock/**/*.fits", "run/checkpoints/*")
    assert {path.name for path in before if before[path] != after[path]} == {"views.arrow"}

    assert main(["demo", "--out", str(folder), *TINY, "--seed", "5"]) == 2
    assert "holds a demo with other settings (seed: 0 there, 5 now)" in capsys.readouterr().err


def _fail(*args: object) -> None:
    raise ValueError("no such filter")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objects", "0"], "too few to learn from"),
        (["--objects", "10000000000"], "A demo of 10,000,000,000 objects leaves some 4,000,000.2 GB, and "),
        (["--effort", "0"], "out of range"),
        (["--data", "nowhere"], "there is no such file or folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, capsys, words: list[str], said: str) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_cannot_be_had_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("precious")
    for folder in ("thesis", "thesis/thesis.tex", "thesis/thesis.tex/below"):
        assert main(["demo", "--out", str(tmp_path / folder), *TINY]) == 2
        assert str(tmp_path / "thesis") in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_without_a_simulator_it_says_so(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("AION_PLUGINS", "")
    assert main(["demo", "--out", str(tmp_path / "demo"), *TINY]) == 2
    assert "No installed plugin has a simulator" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


ALL = ("catalog", "desi", "gaia", "hsc", "legacy", "sdss")


@pytest.mark.slow
@pytest.mark.parametrize("missing", ALL)
def test_it_takes_what_is_installed(tmp_path: Path, monkeypatch, capsys, missing: str) -> None:
    installed = [name for name in ALL if name != missing]
    monkeypatch.setenv("AION_PLUGINS", ",".join(installed))
    facts = report(capsys, tmp_path / "demo", *TINY)
    assert {t["key"].split("_")[0] for t in facts["tokenizers"]} == set(installed)


@pytest.mark.slow
def test_the_whole_demo_has_all_its_parts_and_learns_redshifts_and_spectra(
    tmp_path: Path, sample_dir: Path, capsys
) -> None:
    """What else is not reached is in the report's own words."""
    facts = report(capsys, tmp_path / "demo", "--data", str(sample_dir), "--json")
    by_key = {t["key"]: t for t in facts["tokenizers"]}
    assert facts["seconds"]["all"] < 3600  # eight minutes on two quiet cores
    assert {t["kind"] for t in by_key.values()} >= {"scalar", "coefficients", "spectrum", "image", "scalar_field"}
    assert [key for key, t in by_key.items() if t["percent"] < 10 or t["r2"] < 0.8] == []
    spectra = [t for t in by_key.values() if t["kind"] == "spectrum"]
    assert all(t["r2"] > t["baseline"] for t in spectra)
    narrowing = facts["narrowing"]
    assert [row["given"] for row in narrowing] == ["photometry", "+ image", "+ spectrum"]
    for figure in ("nll", "crps"):
        first, second, third = (row[figure] for row in narrowing)
        assert first > second > third
    assert narrowing[0]["nll"] < -1
    assert all(0.60 <= row["coverage"] <= 0.76 for row in narrowing)
    assert {probe["property"].split()[0] for probe in facts["probes"]} == {"stellar", "age", "Teff"}
    redshift = next(h for h in facts["held_out"] if h["target"] == facts["target"])
    assert redshift["loss"] < redshift["entropy"]
