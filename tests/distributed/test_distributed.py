"""`aion train` in one, two and four processes over gloo, of which each sees modalities that no other sees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aion_core.contract import AionError
from aion_core.data import TokenStore
from aion_core.data.loader import TokenLoader
from aion_core.data.split import SplitConfig
from aion_core.engine.sharded import SavedTensors
from aion_core.train import TrainConfig, Trainer
from aion_core.train.state import load_model_from_checkpoint

STEPS = 12


def metrics(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(run: Path) -> np.ndarray:
    return np.array([[line["loss"], line["grad_norm"]] for line in metrics(run)])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_model_from_checkpoint(run).state_dict()


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def last_files(run: Path) -> dict[str, bytes]:
    """Return the files of the last checkpoint that hold numbers."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))}


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)


class TestTheSameRunInAnyNumberOfProcesses:
    @pytest.mark.parametrize("ranks", [2, 4])
    def test_no_two_ranks_ever_see_the_same_modality(self, made, ranks) -> None:
        store = TokenStore(made / "store.arrow")
        seen = [np.zeros(len(store.space), bool) for _ in range(ranks)]
        for rank, mine in enumerate(seen):
            loader = TokenLoader(
                [store], store.space, 16 // ranks, split="train", prefetch=0, world_size=ranks, rank=rank,
                split_config=SplitConfig(fraction=0.2, order=6),
            )  # fmt: skip
            for step in range(STEPS):
                batch = loader.batch(0, 16 * step)
                mine[np.unique(batch.target_slot[batch.target_slot >= 0])] = True
                mine[np.unique(batch.input_slot[batch.input_slot >= 0])] = True
        assert (np.sum(seen, axis=0) == 1).all()

    @pytest.mark.parametrize("other", ["two", "four", "hybrid", "full", "accumulated"])
    def test_losses_norms_and_final_parameters_are_equal(self, made, found, other) -> None:
        assert set(found["one"]["codes"] + found[other]["codes"]) == {0}, found[other]["err"]
        assert losses(made / "one").shape == (STEPS, 2)
        assert np.allclose(losses(made / "one"), losses(made / other), rtol=1e-5, atol=0)
        assert losses(made / "one")[-1, 0] < 0.95 * losses(made / "one")[0, 0]
        assert close(weights(made / "one"), weights(made / other))

    @pytest.mark.parametrize("other", ["two", "four", "hybrid"])
    def test_held_out_losses_are_equal(self, found, other) -> None:
        one, more = (json.loads(found[name]["out"])["held_out"] for name in ("one", other))
        assert [h["target"] for h in one] == [h["target"] for h in more]
        assert [h["targets"] for h in one] == [h["targets"] for h in more]
        assert np.allclose([h["loss"] for h in one], [h["loss"] for h in more], rtol=1e-4)

    def test_weights_are_gathered_once_a_step_in_however_many_passes(self, made, found) -> None:
        blocks_and_root = 3 + 1
        assert found["lost"]["out"][0] == f"{blocks_and_root}\n"

    def test_only_the_first_rank_prints(self, made, found) -> None:
        assert json.loads(found["four"]["out"])["finished"]
        assert not any((made / f"four-{rank}.out").read_text() for rank in (1, 2, 3))

    def test_bf16_over_float32_masters_trains_as_in_one_process(self, made, found) -> None:
        assert found["bf16_two"]["codes"] == [0, 0], found["bf16_two"]["err"]
        one, two = losses(made / "bf16_one"), losses(made / "bf16_two")
        assert np.allclose(one[:, 0], two[:, 0], rtol=5e-3)
        assert not np.allclose(two, losses(made / "two")[:6], rtol=1e-6)
        assert {tensor.dtype for tensor in weights(made / "bf16_two").values()} == {torch.float32}

    def test_rates_are_those_of_all_ranks_together(self, made, found) -> None:
        for name, size in (("one", 1), ("four", 4)):
            for line in metrics(made / name):
                assert line["processes"] == size
                assert line["samples"] == 16 * line["step"]
                assert line["tokens_per_second"] == pytest.approx(8 * line["samples_per_second"])
                assert 0 <= line["data_wait"] <= 1
                assert line["peak_memory_bytes"] > 1e7
                assert line["flops_per_second"] > 0

    def test_a_batch_that_cannot_be_shared_is_refused(self, made, found) -> None:
        assert found["odd"]["codes"] == [2] * 4
        assert "data.batch_size is 6, which 4 processes cannot share evenly" in found["odd"]["err"][0]
        assert found["odd_replicas"]["codes"] == [2] * 4
        assert "parallel.replicate is 3, but 4 processes" in found["odd_replicas"]["err"][0]
        for name in ("odd", "odd_replicas"):
            assert all(text.count("\n") == 1 for text in found[name]["err"])
            assert not (made / name).exists()


class TestCheckpoints:
    def test_each_rank_writes_its_own_part(self, made, found) -> None:
        names = set(last_files(made / "four"))
        parts = {f"{stem}-{rank:05d}-of-00004.safetensors" for stem in ("model", "optimizer") for rank in range(1, 5)}
        assert names == parts
        assert set(last_files(made / "one")) == {"model.safetensors", "optimizer.safetensors"}

    def test_replicas_write_once(self, made, found) -> None:
        assert "model-00002-of-00002.safetensors" in last_files(made / "hybrid")
        assert len(last_files(made / "hybrid")) == 4

    def test_four_ranks_continue_bitwise(self, made, found) -> None:
        assert found["four_again"]["codes"] == [0] * 4, found["four_again"]["err"]
        assert last_files(made / "four_again") == last_files(made / "four")

    @pytest.mark.parametrize("name", ["four_to_two", "two_to_hybrid", "hybrid_to_one"])
    def test_a_run_continues_in_another_number_of_processes(self, made, found, name) -> None:
        assert set(found[name]["codes"]) == {0}, found[name]["err"]
        assert np.allclose(losses(made / "one"), losses(made / name), rtol=1e-5, atol=0)
        assert close(weights(made / "one"), weights(made / name))
        assert checkpoints(made / name) == ["step-00000006", "step-00000012"]

    def test_other_samples_per_step_are_refused_but_not_the_same_in_other_pieces(self, made, found) -> None:
        for change in ("data.batch_size=32", "data.accumulate=2"):
            config = TrainConfig.from_toml(made / "train.toml", [f"run.folder='{made / 'one'}'", change])
            with pytest.raises(AionError, match=r"batch_size × data\.accumulate: 16 → 32"):
                Trainer(config)
        pieces = ["data.batch_size=4", "data.accumulate=4"]
        config = TrainConfig.from_toml(made / "train.toml", [f"run.folder='{made / 'one'}'", *pieces])
        assert Trainer(config).step == STEPS

    def test_torchs_distributed_checkpoints_read_them(self, made, found) -> None:
        import torch.distributed.checkpoint as dcp

        folder = made / "four/checkpoints/step-00000012"
        with SavedTensors(folder, "model") as saved:
            read = {name: torch.full(shape, torch.nan) for name, shape in saved.shapes.items()}
        dcp.load(read, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
        ours = weights(made / "four")
        assert set(ours) == set(read)
        assert all(torch.equal(ours[name], read[name]) for name in ours)


class TestGrowth:
    NEW = ("encoder_embeddings.test_b3.", "decoder_embeddings.test_b3.")

    def test_a_grown_model_trains_in_two_processes_as_in_one(self, made, found) -> None:
        assert set(found["grown_one"]["codes"] + found["grown_two"]["codes"]) == {0}, found["grown_two"]["err"]
        assert np.allclose(losses(made / "grown_one"), losses(made / "grown_two"), rtol=1e-5, atol=0)
        assert close(weights(made / "grown_one"), weights(made / "grown_two"))
        with SavedTensors(made / "grown_two/checkpoints/step-00000006", "optimizer") as saved:
            steps = {n.removesuffix("/step"): int(saved.read(n)) for n in saved.shapes if n.endswith("/step")}
        assert {(name.startswith(self.NEW), step) for name, step in steps.items()} == {(True, 6), (False, 12)}

    def test_it_continues_bitwise(self, made, found) -> None:
        assert found["grown_again"]["codes"] == [0, 0], found["grown_again"]["err"]
        assert last_files(made / "grown_again") == last_files(made / "grown_two")

    @pytest.mark.parametrize("name", ["frozen_two", "frozen_again"])
    def test_what_is_frozen_stays_bit_for_bit_in_shards_and_after_another_number_of_processes(
        self, made, found, name
    ) -> None:
        assert set(found[name]["codes"]) == {0}, found[name]["err"]
        before, after = weights(made / "young"), weights(made / name)
        assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
        new = {key for key in after if key.startswith(self.NEW)}
        assert set(after) - set(before) == new
        assert len(new) == 3
        assert close(weights(made / "frozen_two"), after)
        assert not any(torch.equal(after[key], weights(made / "grown_one")[key]) for key in new)


class TestFaults:
    def test_a_batch_that_is_not_finite_on_one_rank_is_skipped_on_all_and_named(self, made, found) -> None:
        assert found["poisoned"]["codes"] == [0, 0], found["poisoned"]["err"]
        (skipped,) = metrics(made / "poisoned", "skipped")
        assert skipped["step"] == 5
        of_the_second_rank = np.load(made / "rows.npy")[4 * 16 + 8 : 5 * 16]
        assert skipped["samples"] == [f"store.arrow: object-{i}" for i in of_the_second_rank]
        after = losses(made / "poisoned")
        assert np.isnan(after[4].astype(float)).any()
        assert np.isfinite(np.delete(after, 4, axis=0).astype(float)).all()

    def test_a_rank_that_ends_ends_the_others_with_a_sentence_and_costs_no_checkpoint(self, made, found) -> None:
        assert found["lost"]["codes"] == [2, 2], found["lost"]["err"]
        lines = [[line for line in text.splitlines() if "Profiler" not in line] for text in found["lost"]["err"]]
        (left,), (gave_up,) = lines
        assert gave_up == "there is something wrong here"
        assert left.startswith("Another process of this run has ended")
        assert "step-00000002" in checkpoints(made / "lost")

    def test_too_many_in_a_row_end_all_ranks_with_a_sentence(self, made, found) -> None:
        assert found["spoiled"]["codes"] == [2, 2]
        assert all("3 steps in a row had a non-finite loss" in text for text in found["spoiled"]["err"])
        assert len(metrics(made / "spoiled", "skipped")[0]["samples"]) == 16

    def test_a_full_disk_costs_one_checkpoint_and_nothing_else(self, made, found) -> None:
        assert found["full_disk"]["codes"] == [0, 0], found["full_disk"]["err"]
        assert checkpoints(made / "full_disk") == ["step-00000004", "step-00000012"]
        told = found["full_disk"]["out"][0].splitlines()
        assert len(told) == 1
        assert told[0].startswith("The checkpoint of step 8 could not be written (")
        assert "File too large" in told[0]
        assert "that of step 4 is untouched" in told[0]
        assert metrics(made / "full_disk", "unsaved")[0]["reason"] in told[0].replace("The", "the", 1)
        assert last_files(made / "full_disk") == last_files(made / "two")

    def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_bitwise(self, made, found) -> None:
        assert found["stopped"]["codes"] == [0, 0]
        outcome = json.loads(found["stopped"]["out"])
        assert outcome["stopped_by"] == "another process"
        assert 2 <= outcome["step"] < 24
        assert not outcome["finished"]
        assert found["stopped_again"]["codes"] == [0, 0], found["stopped_again"]["err"]
        assert last_files(made / "stopped") == last_files(made / "long")
        steps = [line["step"] for line in metrics(made / "stopped")]
        assert steps == list(range(1, 25))

    def test_killed_in_the_middle_of_a_save_the_previous_checkpoint_serves(self, made, found) -> None:
        killed = found["killed"]
        assert killed["codes"] == [-signal.SIGKILL] * 2
        assert killed["torn"], "no kill hit the middle of a save"
        assert killed["whole"]
        assert max(killed["whole"]) < killed["torn"][0].strip(".").removesuffix(".tmp")
        assert found["killed_again"]["codes"] == [0, 0], found["killed_again"]["err"]
        assert last_files(made / "killed") == last_files(made / "long")
        assert not list((made / "killed/checkpoints").glob(".*"))


@pytest.mark.slow
def test_torchrun_starts_it(made, found) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    folder = made / "torchrun"
    config = ["aion_core.cli", "train", str(made / "train.toml"), "--json", "--set", f"run.folder='{folder}'"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*command, *config], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["finished"]
    assert last_files(folder) == last_files(made / "two")
