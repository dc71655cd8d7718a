"""`aion demo`, as a newcomer types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aion_core.cli import main

FEW = ["--objects", "1500", "--quick", "--json"]


@pytest.fixture
def demo(tmp_path: Path, sample_dir: Path, capsys: pytest.CaptureFixture[str]):
    """Run a small demo and return its exit code, what it printed, and its folder."""

    def run(*words: str, out: str = "demo"):
        code = main(["demo", "--data", str(sample_dir), "--out", str(tmp_path / out), *words])
        return code, capsys.readouterr(), tmp_path / out

    return run


def test_a_demo_leaves_a_report_and_is_not_done_twice(demo) -> None:
    code, printed, folder = demo(*FEW)
    assert code == 0, printed.err
    facts = json.loads(printed.out)
    assert facts["real_objects"] > 4000
    assert {h["target"] for h in facts["held_out"] if h["given"]} >= {"legacy_flux_r", "gaia_flux_rp"}
    assert all(t["perplexity"] > 0 for t in facts["tokenizers"])
    assert {p.name for p in (folder / "report").iterdir()} == {
        "index.html", "report.json", "held_out.png", "training.png", "codebooks.png", "predictions.png",
    }  # fmt: skip
    assert "disturbed copies" in (folder / "report/index.html").read_text()
    written = {p: p.stat().st_mtime_ns for p in folder.rglob("*.arrow")}
    code, printed, _ = demo(*FEW)
    assert code == 0, printed.err
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.arrow")} == written
    assert json.loads(printed.out)["held_out"] == facts["held_out"]


@pytest.mark.slow
@pytest.mark.parametrize("plugins", ["gaia", "legacy", "catalog,desi,gaia,hsc,sdss", "catalog,desi,hsc,legacy,sdss"])
def test_a_demo_takes_what_is_installed(demo, monkeypatch, plugins: str) -> None:
    monkeypatch.setenv("AION_PLUGINS", plugins)
    code, printed, _ = demo(*FEW)
    assert code == 0, printed.err
    assert {t["key"].split("_")[0] for t in json.loads(printed.out)["tokenizers"]} <= set(plugins.split(","))


@pytest.mark.parametrize(
    ("plugins", "reason"),
    [("", "No installed reader claims any sample file"), ("hsc", "can be fitted in one pass")],
)
def test_without_anything_to_fit_it_says_what_to_install(demo, monkeypatch, plugins: str, reason: str) -> None:
    monkeypatch.setenv("AION_PLUGINS", plugins)
    code, printed, folder = demo(*FEW)
    assert code == 2
    assert reason in printed.err
    assert not (folder / "tokenizers").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(demo, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/thesis.tex").write_text("precious")
    code, printed, folder = demo(*FEW)
    assert code == 2
    assert "is not empty, and not a demo" in printed.err
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


def test_too_few_objects_are_refused(demo) -> None:
    code, printed, folder = demo("--objects", "0")
    assert code == 2
    assert "too few" in printed.err
    assert not folder.exists()


@pytest.mark.slow
def test_colours_follow_from_colours_and_codebooks_are_used(demo) -> None:
    """Held-out real objects: every flux from its neighbours, below the entropy that ignoring them would give.

    Codebooks: at least a tenth of the codes, but for those in which most objects share one value (a point source has
    no shape; a flux below exp(-3) is clamped by the release's own arithmetic).
    """
    code, printed, _ = demo("--json")
    assert code == 0, printed.err
    facts = json.loads(printed.out)
    conditional = [h for h in facts["held_out"] if h["given"]]
    assert len(conditional) == 8
    assert all(h["loss"] < h["entropy"] - 0.5 for h in conditional)
    sparse = {"legacy_shape_r", "legacy_shape_e1", "legacy_shape_e2", "legacy_flux_w4"}
    assert {t["key"] for t in facts["tokenizers"] if t["percent"] < 10} <= sparse
