"""`aion train`, as a user types it: learning, resuming, refusing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from aion_core.cli import main
from aion_core.data import StoreWriter, TokenStore
from aion_core.engine import StopFlag
from aion_core.model import AionModel
from aion_core.train import TrainConfig, Trainer
from aion_core.train.evaluation import modality_loss, unconditional_entropy


def parameters(run: Path) -> dict[str, bytes]:
    """The last checkpoint's files that training decides."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {name: (last / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def start(config: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aion_core.cli", "train", str(config), "--json", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    deadline = time.monotonic() + 60
    while not list((run / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_it_learns_what_can_be_known_and_nothing_else(make_store, make_config, capsys) -> None:
    make_store()
    assert main(["train", str(make_config(steps=800)), "--json"]) == 0
    held_out = {(h["target"], bool(h["given"])): h for h in json.loads(capsys.readouterr().out)["held_out"]}
    followed = held_out["test_b", True]
    assert followed["loss"] < 0.1 * followed["entropy"]
    noise = held_out["test_noise", True]
    assert noise["loss"] > 0.95 * noise["entropy"]
    assert noise["entropy"] == pytest.approx(np.log(12), abs=0.05)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_parameters_as_one_that_was_not(make_store, make_config, tmp_path) -> None:
    make_store()
    assert start(make_config("whole", 100)).wait() == 0
    config = make_config("killed", 100)
    process = start(config)
    wait_for_checkpoint(process, tmp_path / "killed")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed = start(config)
    out, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert json.loads(out)["finished"]
    assert parameters(tmp_path / "killed") == parameters(tmp_path / "whole")
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert set(steps) == set(range(101))


@pytest.mark.slow  # tests/distributed does so with several processes
def test_a_run_asked_to_stop_saves_and_continues_bitwise(make_store, make_config, tmp_path) -> None:
    make_store()
    twice = ("--set", "data.accumulate=2", "--set", "data.batch_size=16")
    assert start(make_config("whole", 100), "--set", "checkpoint.every=100", *twice).wait() == 0
    config = make_config("stopped", 100)
    process = start(config, *twice)
    wait_for_checkpoint(process, tmp_path / "stopped")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 0, err
    outcome = json.loads(out)
    assert outcome["stopped_by"] == "SIGTERM"
    assert not outcome["finished"]
    assert start(config, *twice).wait() == 0
    assert parameters(tmp_path / "stopped") == parameters(tmp_path / "whole")


def test_held_out_objects_are_never_trained_on(make_store, make_config) -> None:
    make_store("one")
    make_store("two", seed=1)
    data = Trainer(TrainConfig.from_toml(make_config())).data
    drawn = np.concatenate([data.loader.batch(0, i).index.numpy() for i in range(0, len(data.loader), 32)])
    held_out = np.concatenate([rows + 600 * i for i, (_, rows) in enumerate(data.validation)])
    assert len(held_out) > 200
    assert not np.isin(drawn, held_out).any()
    assert set(drawn.tolist()) | set(held_out.tolist()) == set(range(1200))


def test_a_checkpoint_is_a_model(make_store, make_config, tmp_path) -> None:
    make_store()
    assert main(["train", str(make_config()), "--quiet", "--json"]) == 0
    model = AionModel.from_pretrained(tmp_path / "run/checkpoints/step-00000020")
    assert model.posterior({"test_a": torch.tensor([[3]])}, "test_b").shape == (1, 12)


def test_accumulated_batches_train_like_one_large_batch(make_store, make_config, tmp_path) -> None:
    make_store()
    for folder, batch, accumulate in (("large", 64, 1), ("small", 16, 4)):
        changes = [f"data.batch_size={batch}", f"data.accumulate={accumulate}", "optimizer.steps=6"]
        assert main(["train", str(make_config(folder)), "--json", *(w for c in changes for w in ("--set", c))]) == 0
    large, small = (
        AionModel.from_pretrained(sorted((tmp_path / f / "checkpoints").glob("step-*"))[-1]).state_dict()
        for f in ("large", "small")
    )
    for name, tensor in large.items():
        assert torch.allclose(tensor, small[name], rtol=1e-3, atol=1e-4), name


def test_a_non_finite_step_changes_nothing_and_names_its_samples(make_store, make_config, tmp_path) -> None:
    make_store()
    trainer = Trainer(TrainConfig.from_toml(make_config()))
    trainer._open_folder()
    stream = trainer.data.batches(trainer.position)
    with torch.no_grad():
        trainer.model.mask_token[0, 0, 0] = float("nan")
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    batch, _ = next(stream)
    stream.close()
    trainer.train_step([batch])
    after = trainer.model.state_dict()
    assert all(torch.equal(before[k].nan_to_num(9), after[k].nan_to_num(9)) for k in before)
    line = next(line for line in trainer.metrics.read() if line["kind"] == "skipped")
    assert line["samples"] == [f"store.arrow: store-{i}" for i in batch.index]
    assert line["step"] == 1


def test_rates_are_means_over_the_steps_since_the_last_line(make_store, make_config) -> None:
    make_store()
    trainer = Trainer(TrainConfig.from_toml(make_config(), ["run.log_every=3"]))
    trainer._open_folder()
    batch, nothing = trainer.data.loader.batch(0, 0), [0.0] * 4
    for step in range(1, 7):
        trainer.step = step
        trainer._report([batch], [1] * 4, nothing, 1.0, 1.0, 0.1, waited=float(step), seconds=1.0)
    lines = [line for line in trainer.metrics.read() if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [3, 6]
    assert [line["samples_per_second"] for line in lines] == pytest.approx([3 * 32 / 9, 3 * 32 / 18])
    assert [line["data_wait"] for line in lines] == pytest.approx([6 / 9, 15 / 18])


def test_a_run_that_diverges_ends_with_a_sentence(make_store, make_config, tmp_path, capsys) -> None:
    make_store()
    changes = ("optimizer.lr=1e38", "optimizer.clip_norm=1e38", "optimizer.max_skipped=3", "optimizer.warmup_steps=0")
    words = [word for change in changes for word in ("--set", change)]
    assert main(["train", str(make_config()), *words]) == 2
    error = capsys.readouterr().err
    assert "3 steps in a row had a non-finite loss" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lrr=1", "there is no setting 'optimizer.lrr'. Did you mean 'lr'?"),
        ("optimiser.lr=1", "there is no setting 'optimiser'. Did you mean 'optimizer'?"),
        ("model.dimm=8", "there is no setting 'dimm'. Did you mean 'dim'?"),
        ("model.dim=30", "multiple of 4"),
        ("model.preset='aion-bb'", "Did you mean 'aion-b'?"),
        ("optimizer.steps=0", "greater than or equal to 1"),
        ("optimizer.warmup_steps=50", "must be below steps"),
        ("run.precision='fp8'", "'bf16' or 'fp32'"),
        ("run.device='gpu'", "expected auto, cpu, or cuda"),
        ("run.device='meta'", "expected auto, cpu, or cuda"),
        ("run.seed=99999999999999999999999", "run.seed"),
        ("optimizer.betas=[2,3]", "less than 1"),
        ("optimizer.lr=inf", "finite"),
        ("loss.weights={test_noise=-1}", "greater than or equal to 0"),
        ("data.accept_fingerprints=['test_bb']", "Did you mean 'test_b'?"),
        ("evaluate.conditional=[{target='test_a', given=['test_a']}]", "name each modality once"),
        ("evaluate.conditional=[{target='test_a', gven=['test_b']}]", "Did you mean 'given'?"),
        ("data.modalities=['test_bb']", "Did you mean 'test_b'?"),
        ("loss.weights={test_nois=2.0}", "Did you mean 'test_noise'?"),
        ("evaluate.conditional=[{target='test_d', given=['test_a']}]", "No modality 'test_d'"),
        ("data.train=[{stores=['nowhere']}]", "nowhere"),
        ("novalue", "expected NAME.NAME=VALUE"),
    ],
)
def test_bad_settings_are_one_sentence_and_leave_nothing(
    make_store, make_config, tmp_path, capsys, change, message
) -> None:
    make_store()
    assert main(["train", str(make_config()), "--set", change]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("aion: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_other_settings_are_refused_on_resume(make_store, make_config, capsys) -> None:
    make_store()
    config = make_config()
    assert main(["train", str(config), "--json"]) == 0
    capsys.readouterr()
    assert main(["train", str(config), "--set", "optimizer.lr=0.5"]) == 2
    assert "optimizer.lr: 0.01 → 0.5" in capsys.readouterr().err
    assert main(["train", str(config), "--set", "evaluate.samples=50", "--set", "run.device='cpu'", "--json"]) == 0


def test_another_setting_is_taken_where_the_change_is_said_to_be_intended(make_store, make_config, tmp_path) -> None:
    make_store()
    assert main(["train", str(make_config()), "--json"]) == 0
    words = ["train", str(make_config()), "--set", "optimizer.lr=0.005", "--set", "optimizer.steps=25", "--json"]
    assert main([*words, "--accept-change", "optimizer.lr"]) == 2
    assert main([*words, "--accept-change", "optimizer", "--dry-run"]) == 0
    assert main([*words, "--accept-change", "optimizer.lr", "--accept-change", "optimizer.steps"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (changed,) = (line for line in lines if line["kind"] == "changed")
    assert (changed["step"], changed["settings"]) == (20, ["optimizer.lr: 0.01 → 0.005", "optimizer.steps: 20 → 25"])
    assert [line["lr"] < 0.005 for line in lines if line["kind"] == "train" and line["step"] > 20] == [True] * 5
    assert main([*words]) == 0  # the settings are the run's own now


def test_a_store_that_has_grown_is_refused_until_that_is_said_to_be_intended(make_store, make_config, capsys) -> None:
    make_store()
    words = ["train", str(make_config()), "--json"]
    assert main(words) == 0
    make_store("more", n=200, seed=1)
    capsys.readouterr()
    assert main(words) == 2
    assert "data.train, objects of its sources: [" in capsys.readouterr().err
    assert main([*words, "--accept-change", "data.train"]) == 0


class TestStoresOfOtherModalitiesThanTheCheckpoints:
    @pytest.fixture
    def run(self, make_store, make_config, tmp_path):
        """Return a function that trains on a store's modalities, or on some of them."""
        store = TokenStore(make_store().rename(tmp_path / "whole.arrow"))

        def train(name: str, keys: list[str], *changes: str) -> int:
            path = tmp_path / f"{name}.arrow"
            with StoreWriter(path, store.space.select(keys)) as writer:
                rows, tokens = np.arange(len(store)), store.tokens(np.arange(len(store)), keys)
                writer.write(store.ids.to_pylist(), store.ra, store.dec, {k: (v, rows) for k, v in tokens.items()})
            changes = (f"data.train=[{{stores=['{path}']}}]", "evaluate.conditional=[]", *changes)
            options = ["--accept-change", "data.train", "--json"]
            return main(["train", str(make_config()), *options, *(w for c in changes for w in ("--set", c))])

        assert train("ac", ["test_a", "test_c"]) == 0
        return train

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            (["test_a", "test_c", "test_noise"], "the model lacks test_noise"),
            (["test_a"], "these stores lack test_c"),
            (["test_a", "test_noise"], "these stores lack test_c and the model lacks test_noise"),
            (["test_c", "test_a"], "their order differs"),
        ],
    )
    def test_they_are_refused_with_a_sentence(self, run, capsys, tmp_path, keys, words) -> None:
        before = (tmp_path / "run/metrics.jsonl").read_bytes()
        capsys.readouterr()
        assert run("other", keys) == 2
        error = capsys.readouterr().err
        assert f"was trained on other modalities: {words}. Name those of the model in data.modalities" in error
        assert error.count("\n") == 1
        assert (tmp_path / "run/metrics.jsonl").read_bytes() == before

    def test_what_the_sentence_advises_helps(self, run) -> None:
        assert run("more", ["test_c", "test_noise", "test_a"], "data.modalities=['test_a','test_c']") == 0


def test_stores_of_different_tokenizers_do_not_mix(make_store, make_config, capsys) -> None:
    make_store("one")
    make_store("two", fingerprint="b" * 64)
    config = str(make_config())
    assert main(["train", config]) == 2
    assert "made by another tokenizer" in capsys.readouterr().err
    words = [w for key in ("test_a", "test_b", "test_noise", "test_c") for w in ("--accept-fingerprint", key)]
    assert main(["train", config, "--json", *words]) == 0


def test_a_checkpoint_refuses_tokens_of_another_tokenizer(make_store, make_config, capsys) -> None:
    make_store()
    config = str(make_config())
    assert main(["train", config, "--json"]) == 0
    make_store(fingerprint="b" * 64)
    capsys.readouterr()
    assert main(["train", config, "--set", "evaluate.samples=50"]) == 2
    assert "test_a: tokens were made by another tokenizer" in capsys.readouterr().err
    words = [w for key in ("test_a", "test_b", "test_noise", "test_c") for w in ("--accept-fingerprint", key)]
    assert main(["train", config, "--json", *words]) == 0


def test_a_dry_run_leaves_an_existing_run_alone(make_store, make_config, tmp_path) -> None:
    make_store()
    config = str(make_config())
    assert main(["train", config, "--json"]) == 0
    metrics = tmp_path / "run/metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"kind": "train", "step": 21}\n')  # as another process would that is training there
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main(["train", config, "--dry-run", "--json"]) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files


def test_a_run_stopped_before_its_first_step_can_be_started_again(
    make_store, make_config, tmp_path, monkeypatch
) -> None:
    make_store()

    trainer = Trainer(TrainConfig.from_toml(make_config()))
    enter = StopFlag.__enter__
    monkeypatch.setattr(StopFlag, "__enter__", lambda flag: (enter(flag), os.kill(os.getpid(), signal.SIGTERM))[0])
    outcome = trainer.run()
    monkeypatch.undo()
    assert outcome.stopped_by == "SIGTERM"
    assert not (tmp_path / "run/checkpoints").exists()
    assert main(["train", str(make_config()), "--json"]) == 0


def test_embeddings_and_norms_do_not_decay_and_matrices_do(make_store, make_config) -> None:
    """AdamW would shrink the embeddings of modalities that a step does not see (DESIGN section 8)."""
    make_store()
    trainer = Trainer(TrainConfig.from_toml(make_config()))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for p in trainer.local.values():
        p.grad = torch.zeros_like(p)
    trainer.optimizer.step()
    shrunk = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    blocks = {name for name, p in before.items() if p.ndim == 2 and "_embeddings." not in name}
    assert shrunk == blocks
    assert {name.split(".")[0] for name in blocks} == {"encoder", "decoder", "decoder_proj_context"}


def test_a_finished_run_is_not_evaluated_again(make_store, make_config, tmp_path, capsys) -> None:
    make_store()
    config = str(make_config())
    assert main(["train", config, "--json"]) == 0
    first, metrics = capsys.readouterr().out, (tmp_path / "run/metrics.jsonl").read_text()
    assert main(["train", config, "--json"]) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "run/metrics.jsonl").read_text() == metrics
    (tmp_path / "run/metrics.jsonl").unlink()
    assert main(["train", config, "--json"]) == 0
    assert capsys.readouterr().out == first


def test_without_held_out_objects_a_run_ends_and_says_so(make_store, make_config, capsys) -> None:
    make_store()
    assert main(["train", str(make_config()), "--set", "data.split.fraction=0"]) == 0
    assert "No object is held out" in capsys.readouterr().out


def test_a_modality_of_the_held_out_stores_alone_has_a_loss_and_no_entropy(
    make_store, make_config, tmp_path, capsys
) -> None:
    kept = make_store("kept")
    whole = make_store("whole", seed=1).rename(tmp_path / "whole.arrow")
    changes = [
        f"data.train=[{{stores=['{kept}']}}]", f"data.validation=['{whole}']", "data.split.fraction=0.5",
        "data.modalities=['test_a','test_b','test_noise']",
    ]  # fmt: skip
    only_a = tmp_path / "only.arrow"
    store = TokenStore(kept)
    with StoreWriter(only_a, store.space.select(["test_a", "test_noise"])) as writer:
        tokens = store.tokens(np.arange(len(store)), ["test_a", "test_noise"])
        rows = np.arange(len(store))
        writer.write(store.ids.to_pylist(), store.ra, store.dec, {k: (v, rows) for k, v in tokens.items()})
    changes[0] = f"data.train=[{{stores=['{only_a}']}}]"
    assert main(["train", str(make_config()), "--json", *(w for c in changes for w in ("--set", c))]) == 0
    held_out = json.loads(capsys.readouterr().out)["held_out"]
    assert next(h for h in held_out if h["target"] == "test_b" and h["given"])["entropy"] is None
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_bf16_trains_to_nearly_the_same_loss(make_store, make_config, capsys) -> None:
    make_store()
    losses = {}
    for precision in ("fp32", "bf16"):
        config = make_config(precision, 100)
        assert main(["train", str(config), "--json", "--set", f"run.precision='{precision}'"]) == 0
        held_out = json.loads(capsys.readouterr().out)["held_out"]
        losses[precision] = next(h["loss"] for h in held_out if h["target"] == "test_c")
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.2)


class TestLoss:
    def test_by_modality_a_single_token_weighs_as_much_as_a_hundred(self) -> None:
        sums, weights = torch.tensor([2.0, 100.0, 0.0]), torch.ones(3)
        assert modality_loss(sums, [1, 100, 0], weights, "modality") == pytest.approx(1.5)
        assert modality_loss(sums, [1, 100, 0], weights, "token") == pytest.approx(102 / 101)

    def test_weights_are_relative(self) -> None:
        sums = torch.tensor([2.0, 100.0])
        assert modality_loss(sums, [1, 100], torch.tensor([3.0, 1.0]), "modality") == pytest.approx((6 + 1) / 4)

    def test_no_target_at_all_costs_nothing(self) -> None:
        assert modality_loss(torch.zeros(2), [0, 0], torch.ones(2), "modality") == 0
        assert modality_loss(torch.zeros(2), [0, 0], torch.ones(2), "token") == 0


class TestEntropy:
    def test_even_use_of_codes_gives_the_logarithm_of_their_number(self) -> None:
        even = np.full(8, 1000)
        assert unconditional_entropy(even, even) == pytest.approx(np.log(8), abs=1e-3)

    def test_it_is_of_the_held_out_codes_under_the_training_frequencies(self) -> None:
        train = np.array([90_000, 10_000])
        assert unconditional_entropy(train, np.array([10, 0])) == pytest.approx(-np.log(0.9), abs=1e-3)
        plug_in = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
        assert unconditional_entropy(train, np.array([0, 10])) == pytest.approx(plug_in, abs=1e-3)

    def test_one_code_gives_none(self) -> None:
        one = np.array([1000, 0, 0])
        assert unconditional_entropy(one, one) == 0
