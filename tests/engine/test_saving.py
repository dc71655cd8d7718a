"""Checkpoints are written beside the training, become visible as a whole, and fail without taking anything along."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from aion_core.engine import Checkpoints, World
from aion_core.engine.saving import Saver
from aion_core.engine.sharded import SavedTensors


@pytest.fixture
def saver(tmp_path) -> Saver:
    return Saver(Checkpoints(tmp_path / "checkpoints"), World(0, 1, torch.device("cpu")), keep=2)


def names(saver: Saver) -> list[str]:
    return sorted(path.name for path in saver.checkpoints.folder.iterdir())


def nothing(folder: Path) -> None:
    pass


def full_disk(folder: Path) -> None:
    raise OSError(28, "No space left on device")


def test_a_checkpoint_is_seen_when_all_of_it_is_written_and_not_before(saver) -> None:
    tensor, go_on = torch.ones(3), threading.Event()
    saver.start(1, {"model": {"a": tensor}}, lambda folder: (go_on.wait(60), (folder / "state.json").touch())[1])
    tensor.zero_()  # training goes on
    assert saver.pending
    assert saver.busy
    assert saver.checkpoints.latest() is None
    go_on.set()
    assert saver.finish() is None
    assert not saver.pending
    assert names(saver) == ["step-00000001"]
    folder = saver.checkpoints.latest().folder
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "state.json"]
    from safetensors.torch import load_file

    assert torch.equal(load_file(folder / "model.safetensors")["a"], torch.ones(3))


def test_only_the_last_few_stay(saver) -> None:
    for step in (1, 2, 3):
        assert saver.start(step, {"model": {"a": torch.ones(1)}}, nothing) is None
    assert saver.finish() is None
    assert names(saver) == ["step-00000002", "step-00000003"]


def test_an_old_checkpoint_is_hidden_before_it_is_removed_and_costs_nothing_if_it_cannot(saver, monkeypatch) -> None:
    """Over a network file system, a folder of which somebody reads a file is not empty when it is to go."""
    removed = []

    def busy(folder: Path, **options: object) -> None:
        removed.append(folder.name)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr("aion_core.engine.checkpoint.rmtree", busy)
    for step in (1, 2, 3):
        assert saver.start(step, {"model": {"a": torch.ones(1)}}, nothing) is None
    assert saver.finish() is None
    assert saver.saved == 3
    assert removed == [".old-step-00000001.tmp"]
    assert names(saver) == [".old-step-00000001.tmp", "step-00000002", "step-00000003"]
    monkeypatch.undo()
    saver.start(4, {"model": {"a": torch.ones(1)}}, nothing)
    assert saver.finish() is None
    assert names(saver) == ["step-00000003", "step-00000004"]


def test_a_reader_that_has_opened_a_checkpoint_reads_it_whole_though_it_is_removed(saver) -> None:
    whole = torch.arange(1000.0)
    saver.start(1, {"model": {"a": whole}}, nothing)
    assert saver.finish() is None
    with SavedTensors(saver.checkpoints.latest().folder, "model") as reader:
        for step in (2, 3):
            saver.start(step, {"model": {"a": torch.zeros(1000)}}, nothing)
        assert saver.finish() is None
        assert "step-00000001" not in names(saver)
        assert torch.equal(reader.read("a"), whole)


def test_a_save_that_fails_is_told_and_leaves_the_one_before(saver) -> None:
    saver.start(1, {"model": {"a": torch.ones(1)}}, nothing)
    saver.start(2, {"model": {"a": torch.ones(1)}}, full_disk)
    failure = saver.finish()
    assert (
        failure
        == "the checkpoint of step 2 could not be written (No space left on device); that of step 1 is untouched"
    )
    assert names(saver) == ["step-00000001"]
    assert saver.saved == 1
    assert saver.start(3, {"model": {"a": torch.ones(1)}}, nothing) is None
    assert saver.finish() is None
    assert names(saver) == ["step-00000001", "step-00000003"]


def test_the_next_save_tells_of_one_that_failed(saver) -> None:
    saver.start(1, {"model": {"a": torch.ones(1)}}, full_disk)
    assert "step 1 could not be written" in saver.start(2, {"model": {"a": torch.ones(1)}}, nothing)
    assert saver.finish() is None


def test_what_a_killed_run_left_behind_goes_with_the_next_save(saver) -> None:
    torn = saver.checkpoints.folder / ".step-00000009.tmp"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half")
    saver.start(1, {"model": {"a": torch.ones(1)}}, nothing)
    assert saver.finish() is None
    assert names(saver) == ["step-00000001"]


def test_nothing_to_finish_is_no_failure(saver) -> None:
    assert saver.finish() is None
    assert saver.settle() is None
