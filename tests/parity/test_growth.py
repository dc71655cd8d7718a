"""A model that the released package has written grows here, is trained, and is what it was in both packages."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from aion_core.cli import main
from aion_core.data import StoreWriter
from aion_core.model import AionModel
from aion_core.plugins import load_registry
from aion_core.train.state import load_model_from_checkpoint

pytest.importorskip("aion.model")
cases = pytest.importorskip("transformer_cases")

SWITCHES = {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2}
OLD, NEW = ("tok_xp_bp", "tok_mag_g", "tok_z"), "tok_parallax"
TOML = """
[run]
folder = "{folder}/run"
precision = "fp32"
[[data.train]]
stores = ["{folder}/store.arrow"]
[data]
batch_size = 8
split = {{ fraction = 0.2, order = 6 }}
[model]
start = "{folder}/release"
[masking]
input_budget = 16
target_budget = 16
[optimizer]
steps = 2
lr = 1e-2
"""


@pytest.fixture
def theirs(tmp_path: Path):
    """The release's own model, with random weights, in `release`."""
    from aion.model import AION

    model = AION({**cases.RELEASED, **SWITCHES}).eval()
    cases.randomize(model, SWITCHES["num_heads"])
    with redirect_stdout(StringIO()):
        model.save_pretrained(tmp_path / "release")
    return model


def made_of(model: AionModel) -> list[torch.Tensor]:
    tokens = cases.random_tokens(OLD[:2])
    return [model.embed(tokens).values, *model.logits(tokens, ["tok_z", "tok_xp_bp"]).values()]


def test_an_imported_release_grows_and_is_trained_without_changing_in_the_old(theirs, tmp_path, capsys) -> None:
    before = made_of(AionModel.from_pretrained(tmp_path / "release"))
    grow = ["checkpoint", "grow", str(tmp_path / "release"), "--add", NEW, "--out", str(tmp_path / "grown")]
    assert main(grow) == 0
    assert all(map(torch.equal, made_of(AionModel.from_pretrained(tmp_path / "grown")), before))
    space = load_registry().token_space(["gaia_xp_bp", "hsc_mag_g", "catalog_redshift", "gaia_parallax"])
    rng, rows = np.random.default_rng(0), np.arange(60)
    with StoreWriter(tmp_path / "store.arrow", space) as writer:
        codes = {s.key: (rng.integers(1024, size=(60, s.n_tokens)), rows) for s in space.specs()}
        writer.write([str(i) for i in rows], rng.uniform(0, 360, 60), rng.uniform(-60, 60, 60), codes)
    (tmp_path / "train.toml").write_text(TOML.format(folder=tmp_path))
    train = ["train", str(tmp_path / "train.toml"), "--grow", "gaia_parallax", "--freeze-old", "--json"]
    capsys.readouterr()
    assert main(train) == 0
    assert any(h["target"] == "gaia_parallax" for h in json.loads(capsys.readouterr().out)["held_out"])
    trained = load_model_from_checkpoint(tmp_path / "run")
    assert all(map(torch.equal, made_of(trained), before))
    assert not torch.equal(
        trained.state_dict()["decoder_embeddings.gaia_parallax.to_logits.weight"],
        AionModel.from_pretrained(tmp_path / "grown").state_dict()["decoder_embeddings.gaia_parallax.to_logits.weight"],
    )
    trained.save_pretrained(tmp_path / "again", layout="release")
    tokens = {name: codes.clamp(min=0) for name, codes in cases.random_tokens(OLD[:2]).items()}
    redshift = type("Target", (), {"token_key": "tok_z", "num_tokens": 1})
    with torch.no_grad(), cases.in_order(), redirect_stdout(StringIO()):
        again = type(theirs).from_pretrained(str(tmp_path / "again")).eval()
        first, second = (model(tokens, [redshift])["tok_z"] for model in (theirs, again))
    assert torch.equal(first, second)
