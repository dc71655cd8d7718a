"""``aion tokenizer train`` and ``eval``: from files to a tokenizer set and its figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aion_core.cli import main
from aion_core.plugins import load_registry
from aion_core.tokenizers import TokenizerSet

RNG = np.random.default_rng(0)


@pytest.fixture
def survey(toy: SimpleNamespace) -> SimpleNamespace:
    toy.write("a.npz", plain=RNG.normal(size=9000), log=RNG.lognormal(size=9000), image=np.zeros((5, 8, 8)))
    toy.write("b.npz", plain=RNG.normal(size=9000), coefficients=RNG.normal(size=(9000, 5)), deep=np.zeros((5, 8, 8)))
    (toy.data / "README.txt").write_text("nothing to read")
    return toy


def aion(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main(["tokenizer", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_training_writes_a_set_that_loads_and_reports_its_figures(
    survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = aion(capsys, "train", survey.data, "--out", survey.out, "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found["modalities"]) == ["toy_plain", "toy_log", "toy_coefficients"]
    plain = found["modalities"]["toy_plain"]
    assert (plain["objects"], plain["units"], plain["codes_used"]) == (18_000, "mas", 1024)
    assert plain["fraction"] > 0.99
    assert plain["r2"] > 0.999
    tokenizers = TokenizerSet.load(survey.out, load_registry())
    assert {k: t.fingerprint for k, t in tokenizers.items()} == {
        k: v["fingerprint"] for k, v in found["modalities"].items()
    }
    assert found["left_out"] == {
        "toy_image": "its plugin declares no tokenizer",
        "toy_deep": "Network is trained by gradients; name a recipe (--preset NAME or --config FILE.toml)",
    }
    assert [path.rpartition("/")[2] for path in found["skipped"]] == ["README.txt"]


def test_the_order_of_the_files_does_not_matter(survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    prints = []
    for i, order in enumerate((("a.npz", "b.npz"), ("b.npz", "a.npz"))):
        paths = [survey.data / name for name in order]
        _, out, _ = aion(capsys, "train", *paths, "--out", survey.out.with_name(f"set{i}"), "--json")
        prints.append({k: v["fingerprint"] for k, v in json.loads(out)["modalities"].items()})
    assert prints[0] == prints[1]


def test_the_table_shows_keys_and_what_was_left_out(
    survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = aion(capsys, "train", survey.data, "--out", survey.out)
    assert code == 0
    for text in ("toy_plain", "18,000", "1,024 of 1,024", "toy_image: its plugin declares no tokenizer", "README.txt"):
        assert text in out
    assert "fewer than 10 objects per code" in out
    assert "out only: toy_log, toy_coefficients." in out


def test_evaluation_reads_the_set_and_agrees_with_training(
    survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    _, trained, _ = aion(capsys, "train", survey.data, "--out", survey.out, "--json")
    code, out, _ = aion(capsys, "eval", survey.data, "--tokenizers", survey.out, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["modalities"] == json.loads(trained)["modalities"]
    assert set(found["left_out"]) == {"toy_image", "toy_deep"}


def test_only_the_modalities_asked_for_are_fitted(survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--out", survey.out, "--modalities", "tok_log", "toy_plain", "--json")
    _, out, _ = aion(capsys, "train", survey.data, *words)
    assert list(json.loads(out)["modalities"]) == ["toy_plain", "toy_log"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--modalities", "toy_plane"], "Did you mean 'toy_plain'"),
        (["--modalities", "toy_grid"], "No object in .* has toy_grid"),
        (["--modalities", "toy_image"], "toy_image cannot be fitted here: its plugin declares no tokenizer"),
        (["--modalities", "toy_deep"], "toy_deep cannot be fitted here: Network is trained by gradients"),
    ],
)
def test_a_modality_that_cannot_be_fitted_is_one_sentence_and_nothing_is_written(
    words: list[str], expected: str, survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = aion(capsys, "train", survey.data, "--out", survey.out, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(expected, err)
    assert not survey.out.exists()


def test_an_older_set_is_replaced_only_if_asked(survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", survey.data, "--out", survey.out, "--json")
    assert aion(capsys, *words)[0] == 0
    code, _, err = aion(capsys, *words)
    assert code == 2
    assert "choose another --out, or replace that tokenizer set with --overwrite" in err
    assert aion(capsys, *words, "--overwrite", "--modalities", "toy_log")[0] == 0
    assert list(TokenizerSet.load(survey.out, load_registry())) == ["toy_log"]


def test_overwriting_never_touches_what_is_no_set(survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = aion(capsys, "train", survey.data, "--out", survey.data, "--overwrite")
    assert code == 2
    assert "so it is not a tokenizer set" in err
    assert (survey.data / "a.npz").exists()


def test_a_damaged_file_that_was_named_stops_training_and_nothing_is_written(
    survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    survey.write("c.npz", broken=[1.0])
    code, _, err = aion(capsys, "train", survey.data / "a.npz", survey.data / "c.npz", "--out", survey.out)
    assert code == 2
    assert "c.npz: the file is damaged" in err
    assert not survey.out.exists()
    assert not list(survey.out.parent.glob(".set*"))


@pytest.mark.parametrize("fault", ["broken", "unreadable"])
def test_a_damaged_file_in_a_folder_is_left_out_and_told(
    survey: SimpleNamespace, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    survey.write("c.npz", **{fault: [1.0]})
    code, out, _ = aion(capsys, "train", survey.data, "--out", survey.out, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["modalities"]["toy_plain"]["objects"] == 18_000
    ((path, reason),) = found["damaged"].items()
    assert path == str(survey.data / "c.npz")
    assert reason.startswith(path)


def test_a_damaged_file_is_not_blamed_for_what_the_others_lack(
    survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    survey.write("c.npz", broken=[1.0])
    code, _, err = aion(capsys, "train", survey.data, "--out", survey.out, "--modalities", "toy_grid")
    assert code == 2
    assert "has toy_grid" in err


def test_where_all_files_are_damaged_the_error_says_how(
    survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    aion(capsys, "train", survey.data, "--out", survey.out)
    bad = survey.write("c.npz", folder=survey.data.with_name("bad"), broken=[1.0]).parent
    for words in (("train", bad, "--out", survey.out.with_name("other")), ("eval", bad, "--tokenizers", survey.out)):
        code, out, err = aion(capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "c.npz: the file is damaged" in err
    (bad / "c.npz").write_bytes(b"")
    code, _, err = aion(capsys, "eval", bad, "--tokenizers", survey.out)
    assert code == 2
    assert "c.npz: the file is empty" in err
    assert not survey.out.with_name("other").exists()


def test_a_named_file_that_nobody_reads_is_an_error(
    survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = aion(capsys, "train", survey.data / "a.npz", survey.data / "README.txt", "--out", survey.out)
    assert code == 2
    assert "README.txt: no installed reader takes a file of this name" in err
    code, _, err = aion(capsys, "train", survey.site, "--out", survey.out)
    assert code == 2
    assert "No installed reader reads any file in" in err


@pytest.mark.parametrize("values", [{"image": np.zeros((5, 8, 8))}, {"plain": [np.nan, np.nan]}])
def test_where_nothing_can_be_fitted_the_error_says_so(
    values: dict[str, Any], toy: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.write("a.npz", **values)
    code, _, err = aion(capsys, "train", toy.data, "--out", toy.out)
    assert code == 2
    assert "can be fitted: toy_image" in err or "toy_plain cannot be fitted: Nothing finite" in err


def test_evaluation_without_a_match_is_an_error(survey: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    aion(capsys, "train", survey.data, "--out", survey.out, "--modalities", "toy_log")
    code, _, err = aion(capsys, "eval", survey.data / "b.npz", "--tokenizers", survey.out)
    assert code == 2
    assert "is of a modality that" in err
    code, _, err = aion(capsys, "eval", survey.data, "--tokenizers", survey.out / "missing")
    assert code == 2
    assert "there is no such folder" in err


def test_real_survey_files_give_even_codebooks(
    sample_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = aion(capsys, "train", sample_dir / "gaia", "--out", tmp_path / "set", "--json")
    found = json.loads(out)["modalities"]
    assert code == 0
    for key in ("gaia_xp_bp", "gaia_xp_rp"):
        assert found[key]["objects"] > 2800
        assert found[key]["perplexity"] > 1000
    for key in ("gaia_flux_g", "gaia_flux_bp", "gaia_flux_rp", "gaia_ra", "gaia_dec"):
        assert found[key]["perplexity"] > 0.98 * min(1024, found[key]["codes_used"])
        assert found[key]["r2"] > 0.999


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tokenizer", "--help"])
    assert "aion tokenizer train survey/ --out my-tokenizers" in capsys.readouterr().out
