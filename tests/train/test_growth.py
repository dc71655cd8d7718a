"""`aion train --grow`: a modality appended to a trained model, from a checkpoint to the last step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from aion_core.cli import main
from aion_core.contract import AionError
from aion_core.data import StoreWriter, TokenStore
from aion_core.data.loader import TokenLoader
from aion_core.data.masking import MaskingConfig
from aion_core.files import read_safetensors
from aion_core.model import AionModel
from aion_core.model.growth import belongs
from aion_core.train import TrainConfig, Trainer
from aion_core.train.state import load_model_from_checkpoint

from .conftest import TOML, make_space

OLD, NEW = ("test_a", "test_b", "test_noise"), "test_c"
STEPS = 6


def write_store(path: Path, keys: tuple[str, ...], fingerprint: str = "a" * 64, n: int = 300) -> Path:
    """Objects over the whole sky, of which test_c follows from test_a; a third of them lacks it."""
    rng = np.random.default_rng(0)
    rows, a, some = np.arange(n), rng.integers(12, size=n), np.flatnonzero(rng.random(n) < 0.7)
    tokens = {"test_a": (a[:, None], rows), "test_b": (a[some][:, None], some)}
    tokens["test_noise"] = (rng.integers(12, size=(n, 1)), rows)
    tokens["test_c"] = ((a[some, None] + np.arange(3)) % 12, some)
    with StoreWriter(path, make_space(fingerprint).select(keys)) as writer:
        places = rng.uniform(0, 360, n), rng.uniform(-60, 60, n)
        writer.write([f"object-{i}" for i in rows], *places, {key: tokens[key] for key in keys})
    return path


class Runs:
    """A folder with stores, and `aion train` on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old, self.new = (write_store(folder / f"{name}.arrow", keys) for name, keys in
                              (("old", OLD), ("new", (*OLD, NEW))))  # fmt: skip

    def words(self, run: str, *more: str, stores: Path | None = None, steps: int = STEPS) -> list[str]:
        path = self.folder / f"{run}.toml"
        path.write_text(TOML.format(folder=self.folder / run, stores=stores or self.new, steps=steps))
        sets = ["checkpoint.every=3", "evaluate.samples=100", "run.log_every=3"]
        return ["train", str(path), "--json", *(w for s in sets for w in ("--set", s)), *more]

    def start(self, run: str = "old") -> list[str]:
        return ["--set", f"model.start='{self.folder / run}'"]

    def tensors(self, run: str, stem: str = "model") -> dict[str, torch.Tensor]:
        return read_safetensors(sorted((self.folder / run / "checkpoints").glob("step-*"))[-1] / f"{stem}.safetensors")[
            0
        ]

    def files(self, run: str) -> dict[str, bytes]:
        last = sorted((self.folder / run / "checkpoints").glob("step-*"))[-1]
        return {name: (last / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer")}

    def trainer(self, run: str, *changes: str) -> Trainer:
        words = self.words(run)
        sets = [word for before, word in pairwise(words) if before == "--set"]
        return Trainer(TrainConfig.from_toml(words[1], [*sets, *changes]))

    def held_out(self, run: str, name: str) -> float:
        lines = [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]
        return float([line for line in lines if line["kind"] == "evaluation"][-1]["loss"][name])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run on three modalities, and what grew from it: trained whole, and with the old parts frozen."""
    runs = Runs(tmp_path_factory.mktemp("growth"))
    assert main(runs.words("old", stores=runs.old)) == 0
    assert main(runs.words("grown", *runs.start(), "--grow", NEW)) == 0
    assert main(runs.words("frozen", *runs.start(), "--grow", NEW, "--freeze-old")) == 0
    return runs


def new_names(runs: Runs) -> set[str]:
    return {name for name in runs.tensors("grown") if belongs(name, [NEW])}


class TestBeforeTheFirstStep:
    def test_weights_and_moments_of_what_is_old_are_those_of_the_checkpoint(self, runs) -> None:
        trainer = runs.trainer("begun", f"model.start={runs.folder / 'old'}", f"model.grow=['{NEW}']")
        weights, moments = runs.tensors("old"), runs.tensors("old", "optimizer")
        assert len(weights) > 20
        assert len(moments) == 3 * len(weights)
        for name, tensor in trainer.model.state_dict().items():
            state = trainer.optimizer.state.get(trainer.local[name], {})
            if belongs(name, [NEW]):
                assert state.get("step", 0) == 0
            else:
                assert torch.equal(tensor, weights[name])
                assert all(torch.equal(state[entry], moments[f"{name}/{entry}"]) for entry in ("exp_avg", "exp_avg_sq"))
                assert state["step"] == STEPS
        assert not (runs.folder / "begun").exists()

    def test_objects_without_the_new_modality_are_masked_as_before(self, runs) -> None:
        store, budgets = TokenStore(runs.old), MaskingConfig(input_budget=2, target_budget=1)
        larger = store.space.append([make_space()[NEW]])
        before, after = (TokenLoader([store], s, 64, budgets, prefetch=0).batch(0, 0) for s in (store.space, larger))
        assert after.target_counts == (*before.target_counts, 0)
        for name in ("input_code", "input_slot", "target_code", "target_slot", "target_order", "index"):
            assert torch.equal(getattr(before, name), getattr(after, name)), name


class TestTraining:
    def test_what_is_new_has_made_fewer_steps_than_what_is_old(self, runs) -> None:
        moments = runs.tensors("grown", "optimizer")
        steps = {name.removesuffix("/step"): int(value) for name, value in moments.items() if name.endswith("/step")}
        new = new_names(runs)
        assert {steps[name] for name in new} == {STEPS}
        assert {steps[name] for name in set(steps) - new} == {2 * STEPS}
        initial = AionModel(load_model_from_checkpoint(runs.folder / "old").config, make_space()).state_dict()
        for name in new:
            assert not torch.equal(runs.tensors("grown")[name], initial[name])

    def test_with_the_old_parts_frozen_they_stay_bit_for_bit(self, runs) -> None:
        old, frozen, new = runs.tensors("old"), runs.tensors("frozen"), new_names(runs)
        assert set(frozen) - new == set(old)
        assert all(torch.equal(frozen[name], tensor) for name, tensor in old.items())
        assert {path.rpartition("/")[0] for path in runs.tensors("frozen", "optimizer")} == new
        assert all(not torch.equal(frozen[name], runs.tensors("grown")[name]) for name in new)

    def test_held_out_losses_of_old_modalities_from_old_ones_are_what_they_were(self, runs) -> None:
        name = "test_b from test_a"
        assert runs.held_out("frozen", name) == runs.held_out("old", name)
        assert runs.held_out("grown", name) != runs.held_out("old", name)

    def test_the_new_modality_learns_beside_frozen_ones(self, runs) -> None:
        trainer = runs.trainer("begun", f"model.start={runs.folder / 'frozen'}")
        before, after = runs.trainer(
            "begun", f"model.start={runs.folder / 'old'}", f"model.grow=['{NEW}']"
        ).evaluate(), trainer.evaluate()  # fmt: skip
        losses = [next(h.loss for h in found if h.target == NEW and h.given is None) for found in (before, after)]
        assert losses[1] < losses[0] - 0.05

    @pytest.mark.parametrize(("run", "more"), [("grown", []), ("frozen", ["--freeze-old"])])
    def test_a_grown_run_continues_bitwise_without_what_it_grew_from(self, runs, run, more) -> None:
        again = f"{run}-again"
        middle = f"checkpoints/step-{STEPS // 2:08d}"
        copytree(runs.folder / run / middle, runs.folder / again / middle)
        aside = (runs.folder / "old").rename(runs.folder / "aside")
        try:
            assert main(runs.words(again, *runs.start(), "--grow", NEW, *more)) == 0
        finally:
            aside.rename(runs.folder / "old")
        assert runs.files(again) == runs.files(run)

    def test_the_manifest_and_the_log_say_what_grew_from_what(self, runs, capsys) -> None:
        source = runs.folder / f"old/checkpoints/step-{STEPS:08d}"
        assert main(["checkpoint", "inspect", str(runs.folder / "grown"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(g["modalities"], g["source"]) for g in found["grown"]] == [([NEW], str(source))]
        assert main(["checkpoint", "export", str(source), "--out", str(runs.folder / "exported"), "--json"]) == 0
        assert found["grown"][0]["sha256"] == json.loads(capsys.readouterr().out)["sha256"]
        first = json.loads((runs.folder / "grown/metrics.jsonl").read_text().splitlines()[0])
        assert (first["kind"], first["modalities"], first["from"]["source"]) == ("grown", [NEW], str(source))


class TestARunThatGrowsOnItsWay:
    @pytest.fixture
    def run(self, runs, tmp_path) -> Callable[..., int]:
        """Continue a copy of the old run, on stores that have the new modality, for one step more."""
        copytree(runs.folder / "old", tmp_path / "run")

        def go_on(*more: str, steps: int = STEPS + 2) -> int:
            changes = [w for name in ("optimizer.steps", "data.train") for w in ("--accept-change", name)]
            folder = f"run.folder='{tmp_path / 'run'}'"
            return main(runs.words("on", "--set", folder, *changes, *more, steps=steps))

        return go_on

    def test_it_goes_on_from_its_last_step_with_its_moments(self, runs, run, tmp_path) -> None:
        assert run("--grow", NEW) == 0
        moments, _ = read_safetensors(tmp_path / f"run/checkpoints/step-{STEPS + 2:08d}/optimizer.safetensors")
        for name, value in moments.items():
            if name.endswith("/step"):
                assert value == (2 if belongs(name, [NEW]) else STEPS + 2)
        assert run(steps=STEPS + 3) == 0  # it has grown: that need not be said again, but may
        assert run("--grow", NEW, steps=STEPS + 3) == 0
        model = load_model_from_checkpoint(tmp_path / "run")
        assert model.space.keys == (*OLD, NEW)
        assert model.space.newest() == (NEW,)

    def test_the_old_parts_may_be_frozen_and_set_free_again(self, runs, run, tmp_path) -> None:
        assert run("--grow", NEW, "--freeze-old", steps=STEPS + 1) == 0
        frozen = load_model_from_checkpoint(tmp_path / "run").state_dict()
        assert all(torch.equal(frozen[name], tensor) for name, tensor in runs.tensors("old").items())
        assert run() == 2  # unfrozen without saying so
        assert run("--accept-change", "model.freeze_old") == 0
        moments, _ = read_safetensors(tmp_path / f"run/checkpoints/step-{STEPS + 2:08d}/optimizer.safetensors")
        assert {int(v) for name, v in moments.items() if name.endswith("/step") and belongs(name, [NEW])} == {2}
        assert {int(v) for name, v in moments.items() if name.endswith("/step") and not belongs(name, [NEW])} == {1}

    def test_without_being_told_it_does_not(self, run, capsys) -> None:
        assert run() == 2
        assert f"the model lacks {NEW}" in capsys.readouterr().err


class TestStartingWithoutGrowth:
    def test_what_the_command_line_has_grown_goes_on_with_the_moments_of_its_checkpoint(self, runs, tmp_path) -> None:
        words = ["--add", "gaia_flux_g", "--seed", "5", "--out", str(tmp_path / "out"), "--json"]
        assert main(["checkpoint", "grow", str(runs.folder / "old"), *words]) == 0
        start = f"model.start={tmp_path / 'out'}"
        trainer = runs.trainer("grown-before", start, f"data.modalities={list(OLD)}")
        assert trainer.model.space.newest() == ("gaia_flux_g",)
        steps = {name: int(trainer.optimizer.state.get(p, {}).get("step", 0)) for name, p in trainer.local.items()}
        assert {step for name, step in steps.items() if belongs(name, ["gaia_flux_g"])} == {0}
        assert {step for name, step in steps.items() if not belongs(name, ["gaia_flux_g"])} == {STEPS}
        frozen = runs.trainer("grown-before", start, f"data.modalities={list(OLD)}", "model.freeze_old=true")
        trained = {name for name, p in frozen.local.items() if p.requires_grad}
        assert trained == {name for name in frozen.local if belongs(name, ["gaia_flux_g"])}

    def test_a_model_begins_a_run_whose_stores_have_some_of_its_modalities(self, runs, capsys) -> None:
        trainer = runs.trainer("some", f"model.start={runs.folder / 'grown'}", "data.modalities=['test_c','test_a']",
                               "evaluate.conditional=[]", "evaluate.pairs=1")  # fmt: skip
        assert trainer.model.space.keys == (*OLD, NEW)
        batch = trainer.data.loader.samples(0, 0, 100)
        assert set(batch.input_slot.unique().tolist()) == {-1, 0, 3}
        assert set(trainer.data.entropies) == {"test_a", NEW}
        assert {h.target for h in trainer.evaluate()} == {"test_a", NEW}

    def test_a_new_tokenizer_that_is_accepted_is_written_down(self, runs, tmp_path) -> None:
        other = write_store(tmp_path / "other.arrow", OLD, "b" * 64)
        changes = [f"model.start={runs.folder / 'old'}", f"data.train=[{{stores=['{other}']}}]"]
        with pytest.raises(AionError, match=r"old/checkpoints/.*test_a: tokens were made by another tokenizer"):
            runs.trainer("other", *changes)
        trainer = runs.trainer("other", *changes, f"data.accept_fingerprints={list(OLD)}")
        assert {slot.fingerprint for slot in trainer.data.space.slots} == {"b" * 64}

    def test_what_a_model_can_only_be_asked_for_cannot_be_trained(self, runs, tmp_path) -> None:
        old = load_model_from_checkpoint(runs.folder / "old")
        AionModel(old.config, old.space, inputs=OLD[:2]).save_pretrained(tmp_path / "m")
        with pytest.raises(AionError, match=r"test_noise can only be asked for .* leave it out of data\.modalities"):
            runs.trainer("sides", f"model.start={tmp_path / 'm'}", f"data.modalities={list(OLD)}")
        few = runs.trainer("sides", f"model.start={tmp_path / 'm'}", "data.modalities=['test_a','test_b']",
                           "evaluate.conditional=[]")  # fmt: skip
        assert "test_noise" not in few.model.inputs


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--grow", NEW], "has no checkpoint, so there is no model to append to; name one with model.start"),
        (["--freeze-old"], "--freeze-old: .* has no checkpoint"),
        (["START"], f"stores have tokens of {NEW}, which the model of .*old.* lacks: append them with --grow {NEW}"),
        (["START", "--grow", "test_cc"], "--grow test_cc: no store has tokens of it.*Did you mean 'test_c'.*tokenize"),
        (["START", "--grow", NEW, "--grow", "test_a"], "--grow test_a: the model of .* has it already"),
        (["START", "--set", f"data.modalities={list(OLD)}", "--freeze-old"], "Nothing was appended to this model"),
        (["START", "--grow", NEW, "--set", "model.dim=64"], r"model\.dim is 64, but 32 in the model of"),
        (["--set", "model.start='nowhere/at_all/'"], "nowhere/at_all/: there is no such folder"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [False, True])
def test_what_cannot_be_grown_is_one_sentence_and_leaves_nothing(runs, capsys, more, message, dry) -> None:
    more = [word for m in more for word in (runs.start() if m == "START" else [m])]
    assert main(runs.words("refused", *more, *(["--dry-run"] if dry else []))) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not (runs.folder / "refused").exists()


def test_a_dry_run_says_what_would_be_appended_and_trained(runs, capsys) -> None:
    words = runs.words("dry", *runs.start(), "--grow", NEW, "--dry-run")
    assert main(words) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main([*words, "--freeze-old"]) == 0
    frozen = json.loads(capsys.readouterr().out)
    begins, size = whole["begins_with"], 12 * 32 + 32 + 12 * 32
    assert begins["from"].endswith(f"old/checkpoints/step-{STEPS:08d}")
    assert begins["moments"]
    assert begins["appended"][NEW] == {"vocab_size": 12, "tokens": 3, "parameters": size, "fingerprint": "a" * 64}
    assert (begins["trained"], begins["parameters_trained"]) == ("all", whole["parameters"]["total"])
    assert (frozen["begins_with"]["trained"], frozen["begins_with"]["parameters_trained"]) == (
        "what was appended",
        size,
    )
    assert frozen["memory"]["optimiser"] == 8 * size
    assert frozen["memory"]["activations"] < whole["memory"]["activations"]
    assert not (runs.folder / "dry").exists()
    assert main([word for word in words if word != "--json"]) == 0
    assert f"{size:,}" in capsys.readouterr().out
