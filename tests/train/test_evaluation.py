"""Evaluation in the loop: pairs of modalities, several processes, TensorBoard, the page of curves."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from aion_core.cli import main
from aion_core.data import TokenStore
from aion_core.engine import MetricsLog, World
from aion_core.train import TrainConfig
from aion_core.train.data import TrainingData
from aion_core.train.evaluation import _complete_objects, pairs


def open_data(config: TrainConfig, rank: int = 0, size: int = 1) -> TrainingData:
    return TrainingData(config.data, config.masking, config.run.seed, World(rank, size, torch.device("cpu")))


@pytest.fixture
def config(make_store, make_config):
    make_store()
    return TrainConfig.from_toml(make_config())


@pytest.mark.parametrize("size", [2, 4])
def test_processes_share_the_held_out_objects_and_go_equally_often_through_the_model(config, size) -> None:
    alone = [batch.index.tolist() for batch, _ in open_data(config).validation_batches(400)]
    shared = [list(open_data(config, rank, size).validation_batches(400)) for rank in range(size)]
    assert len({len(batches) for batches in shared}) == 1
    judged = [i for batches in shared for batch, counting in batches if counting for i in batch.index.tolist()]
    assert sorted(judged) == sorted(i for batch in alone for i in batch)
    assert len(set(judged)) == len(judged) > 100


@pytest.mark.parametrize("size", [1, 3, 400])
def test_processes_share_the_objects_of_a_pair(config, size) -> None:
    data = open_data(config)
    (store, rows), keys = data.held_out(400)[0], ["test_a", "test_b"]
    shared = [list(_complete_objects([(store, rows)], keys, World(r, size, data.world.device))) for r in range(size)]
    assert len({len(parts) for parts in shared}) == 1
    codes = np.concatenate([part["test_a"] for parts in shared for part, counting in parts if counting])
    whole = store.tokens(rows, keys)
    assert sorted(codes[:, 0]) == sorted(whole["test_a"][whole["test_b"][:, 0] >= 0, 0])


def test_pairs_are_those_that_enough_objects_have(config) -> None:
    data = open_data(config)
    selection = data.held_out(400)
    have_b = int((selection[0][0].tokens(selection[0][1], ["test_b"])["test_b"] >= 0).sum())
    total = len(selection[0][1])
    assert 100 < have_b < total
    assert len(pairs(selection, data.space, have_b)) == 4 * 3
    without_b = pairs(selection, data.space, have_b + 1)
    assert len(without_b) == 3 * 2
    assert "test_b" not in {key for source, target, _ in without_b for key in (source, target)}
    assert all(len(objects[0][1]) == total for _, _, objects in without_b)


def test_a_run_reports_every_pair_and_draws_its_curves(make_store, make_config, tmp_path, capsys) -> None:
    make_store()
    words = ["--set", "evaluate.pairs=20", "--set", "run.tensorboard=true", "--set", "evaluate.conditional=[]"]
    assert main(["train", str(make_config()), *words]) == 0
    printed = capsys.readouterr().out
    assert "curves in" in printed
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    judged = next(line for line in lines if line["kind"] == "evaluation")
    given = {(h["target"], h["given"][0]) for h in judged["held_out"] if h["given"]}
    assert len(given) == 12
    assert judged["loss"]["test_b from test_a"] == next(
        h["loss"] for h in judged["held_out"] if (h["target"], h["given"]) == ("test_b", ["test_a"])
    )
    board = _tensorboard(tmp_path / "run/tensorboard")
    train = [line for line in lines if line["kind"] == "train"]
    assert [e.step for e in board.Scalars("train/loss")] == [line["step"] for line in train]
    assert board.Scalars("train/loss")[-1].value == pytest.approx(train[-1]["loss"])
    names = set(board.Tags()["scalars"])
    assert {"train/data_wait", "train/lr", "train/grad_norm", "train/tokens_per_second", "train/peak_memory_bytes",
            "train/loss_by_modality/test_c", "evaluation/loss/test_b from test_a"} <= names  # fmt: skip


def _tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return board


def test_without_tensorboard_asking_for_it_is_one_sentence(
    make_store, make_config, tmp_path, capsys, monkeypatch
) -> None:
    make_store()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("aion_core.engine.metrics.find_spec", lambda name: None)
    assert main(["train", str(make_config()), "--set", "run.tensorboard=true"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'aion-core[tensorboard]'" in error
    assert not (tmp_path / "run").exists()


def test_nothing_logged_is_nothing_drawn(tmp_path) -> None:
    from aion_core.train.page import draw_curves

    assert not draw_curves(MetricsLog(tmp_path / "metrics.jsonl"), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_a_store_without_the_modality_is_passed_over(config, tmp_path) -> None:
    store = TokenStore(tmp_path / "stores/store.arrow")
    assert list(_complete_objects([(store, np.arange(5))], ["test_a", "test_q"], open_data(config).world)) == []
