"""benchmarks/scaling.py: losses by size of the model, with and without some modalities, all judged alike."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from aion_core.data import StoreWriter, TokenStore

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def words(make_store, tmp_path):
    store = TokenStore(make_store())
    more = tmp_path / "stores" / "more.arrow"  # 300 objects of which nothing is known but what is added
    with StoreWriter(more, store.space.select(["test_b"])) as writer:
        rows = np.arange(300)
        names = [f"more-{i}" for i in rows]
        writer.write(names, store.ra[rows], store.dec[rows], {"test_b": (rows[:, None] % 12, rows)})
    return [
        *("--stores", str(more.parent), "--steps", "4", "--batch", "32", "--budgets", "4", "4", "--order", "6"),
        *("--sizes", "16x1", "32x1", "--folder", str(tmp_path / "runs"), "--out", str(tmp_path / "found.json")),
    ]


def test_every_model_is_judged_on_the_same_tokens_of_the_modalities_that_all_know(scaling, words, tmp_path) -> None:
    assert scaling.main([*words, "--added", "test_b"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(run["size"], run["arm"]) for run in found["runs"]] == [
        (size, arm) for size in ("16x1", "32x1") for arm in ("without", "with", "with, longer")
    ]
    assert [set(run["losses"]) for run in found["runs"]] == [{"test_a", "test_noise", "test_c"}] * 6
    assert {run["arm"]: run["steps"] for run in found["runs"]} == {"without": 4, "with": 4, "with, longer": 6}
    assert len({tuple(run["targets"].values()) for run in found["runs"]}) == 1
    assert found["runs"][0]["parameters"] < found["runs"][1]["parameters"] < found["runs"][3]["parameters"]
    for run, row in zip(found["runs"], found["table"], strict=True):
        assert row["overall"] == pytest.approx(sum(run["losses"].values()) / 3)
        assert row["coefficients"] == run["losses"]["test_c"]


def test_what_is_added_must_be_some_modalities_and_not_all(scaling, words, capsys) -> None:
    for added in ("test_", "gaia_"):
        assert scaling.main([*words, "--added", added]) == 2
        assert "expected the beginning of some keys, not of all" in capsys.readouterr().err
