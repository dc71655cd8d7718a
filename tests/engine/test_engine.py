"""Schedule, optimiser groups, metrics, signals, checkpoints."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from aion_core.contract import InputError
from aion_core.engine import (
    Checkpoints,
    MetricsLog,
    OptimizerSettings,
    StopFlag,
    build_optimizer,
    give_back_memory,
    halve_gradients,
    learning_rate,
    set_learning_rate,
    take_step,
    total_norm,
)
from aion_core.engine import optimizer as optimizer_module
from aion_core.files import read_json, read_safetensors, replacing, write_json, write_safetensors


def make_training(steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    settings = OptimizerSettings(steps=10, lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(model, settings, decays=lambda name, p: p.ndim == 2)
    for _ in range(steps):
        train_once(model, optimizer)
    return model, optimizer


def train_once(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.arange(8.0).view(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


class TestSchedule:
    settings = OptimizerSettings(steps=100, lr=1.0, final_lr=0.1, warmup_steps=10)

    def test_warms_up_to_the_peak_and_falls_to_the_final_rate(self) -> None:
        rates = [learning_rate(step, self.settings) for step in range(100)]
        assert rates[:11] == sorted(rates[:11])
        assert rates[10] == pytest.approx(1.0)
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert learning_rate(100, self.settings) == pytest.approx(0.1)
        assert min(rates) > 0

    def test_half_way_down_is_the_mean_of_peak_and_final(self) -> None:
        assert learning_rate(55, self.settings) == pytest.approx(0.55)

    def test_a_warm_up_that_never_ends_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="must be below steps"):
            OptimizerSettings(steps=10, warmup_steps=10)


def test_parameters_without_decay_and_without_gradient_stay_bit_identical() -> None:
    table, matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))
    model = nn.ParameterDict({"table": table, "matrix": matrix})
    optimizer = build_optimizer(model, OptimizerSettings(steps=2, lr=0.1, weight_decay=0.5), lambda n, p: p.ndim == 2)
    table.grad, matrix.grad = torch.zeros(3), torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(table, torch.ones(3))
    assert (matrix < 1).all()


def test_embeddings_learn_at_a_rate_of_their_own() -> None:
    model = nn.ParameterDict({"table": nn.Parameter(torch.ones(3)), "matrix": nn.Parameter(torch.ones(2, 2))})
    settings = OptimizerSettings(steps=2, lr=0.1, embedding_lr=7.0)
    optimizer = build_optimizer(model, settings, lambda n, p: p.ndim == 2, lambda n: n == "table")
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model["matrix"])] == 0.5
    assert rates[id(model["table"])] == 3.5


class TestCheckpoints:
    def save(self, folder, model, optimizer, step, keep=2):
        write = lambda path: write_safetensors(path / "model.safetensors", model.state_dict())  # noqa: E731
        state = {"step": step, "position": 0, "skipped": 0, "config": {}}
        return Checkpoints(folder).save(step, model, write, optimizer, state, keep)

    def test_training_continues_bitwise_from_a_checkpoint(self, tmp_path) -> None:
        from safetensors.torch import load_file

        model, optimizer = make_training(3)
        saved = self.save(tmp_path, model, optimizer, 3)
        train_once(model, optimizer)
        again, fresh = make_training(0)
        again.load_state_dict(load_file(saved.folder / "model.safetensors"))
        saved.load_optimizer(fresh, again)
        train_once(again, fresh)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

    def test_only_the_last_few_stay(self, tmp_path) -> None:
        model, optimizer = make_training(1)
        for step in (1, 2, 3, 10):
            self.save(tmp_path, model, optimizer, step)
        assert [c.step for c in Checkpoints(tmp_path).all()] == [3, 10]
        assert Checkpoints(tmp_path).latest().state()["step"] == 10

    def test_folders_of_other_names_are_not_checkpoints(self, tmp_path) -> None:
        self.save(tmp_path, *make_training(1), 1)
        for name in ("step-00000009.bak", "step-", "notes"):
            (tmp_path / name).mkdir()
        assert [c.step for c in Checkpoints(tmp_path).all()] == [1]

    def test_an_optimizer_without_steps_is_restored_as_such(self, tmp_path) -> None:
        model, optimizer = make_training(0)
        state = {"step": 2, "position": 0, "skipped": 2, "config": {}}
        saved = Checkpoints(tmp_path).save(2, model, lambda path: None, optimizer, state, 1)
        again, fresh = make_training(0)
        saved.load_optimizer(fresh, again)
        assert not fresh.state

    def test_missing_moments_are_told(self, tmp_path) -> None:
        model, optimizer = make_training(1)
        saved = self.save(tmp_path, model, optimizer, 1)
        moments, _ = read_safetensors(saved.folder / "optimizer.safetensors")
        kept = {name: tensor for name, tensor in moments.items() if not name.startswith("0.weight")}
        write_safetensors(saved.folder / "optimizer.safetensors", kept)
        with pytest.raises(InputError, match=r"disagree on 0\.weight"):
            saved.load_optimizer(optimizer, model)

    @pytest.mark.parametrize("content", ["{}", "[]", '{"step": 1}'])
    def test_a_state_without_its_fields_is_a_sentence(self, tmp_path, content) -> None:
        saved = self.save(tmp_path, *make_training(1), 1)
        (saved.folder / "state.json").write_text(content)
        with pytest.raises(InputError, match="not the state of a run"):
            saved.state()

    def test_what_a_killed_process_left_behind_is_not_a_checkpoint(self, tmp_path) -> None:
        model, optimizer = make_training(1)
        torn = tmp_path / ".step-00000009.123.tmp"
        torn.mkdir()
        (torn / "model.safetensors").write_bytes(b"half")
        assert Checkpoints(tmp_path).latest() is None
        self.save(tmp_path, model, optimizer, 1)
        assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]

    def test_a_failed_save_leaves_the_previous_checkpoint(self, tmp_path) -> None:
        model, optimizer = make_training(1)
        self.save(tmp_path, model, optimizer, 1)

        def full_disk(path) -> None:
            (path / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            Checkpoints(tmp_path).save(2, model, full_disk, optimizer, {}, 2)
        assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]

    def test_a_damaged_optimizer_file_is_a_sentence(self, tmp_path) -> None:
        model, optimizer = make_training(1)
        saved = self.save(tmp_path, model, optimizer, 1)
        (saved.folder / "optimizer.safetensors").write_bytes(b"\x00" * 64)
        with pytest.raises(InputError, match="not a whole safetensors file"):
            saved.load_optimizer(optimizer, model)


class TestMetrics:
    def test_lines_after_the_checkpoint_are_dropped_on_resume(self, tmp_path) -> None:
        log = MetricsLog(tmp_path / "metrics.jsonl")
        for step in (1, 2, 3):
            log.write("train", step, {"loss": 1.0 / step})
        with log.path.open("a") as file:
            file.write('{"kind": "train", "step": 4, "lo')  # the process died here
        log.resume_at(2)
        assert [line["step"] for line in log.read()] == [1, 2]
        log.write("train", 3, {"loss": 0.0})
        assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2, 3]

    def test_damaged_lines_in_the_middle_do_not_stop_a_run(self, tmp_path) -> None:
        log = MetricsLog(tmp_path / "metrics.jsonl")
        log.write("train", 1, {})
        with log.path.open("ab") as file:
            file.write(b'{"kind": "tra\n\xff\xfe\n{"no": "step"}\n[1]\n')
        log.write("train", 2, {})
        log.resume_at(5)
        assert [line["step"] for line in log.read()] == [1, 2]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    def test_a_full_disk_costs_lines_and_not_the_run(self) -> None:
        MetricsLog(Path("/dev/full")).write("train", 1, {"loss": 1.0})

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_full_disk_costs_what_tensorboard_shows_and_not_the_run(self, tmp_path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log = MetricsLog(tmp_path / "metrics.jsonl", tensorboard=True)
        log.write("train", 1, {"loss": 1.0})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        try:
            for step in range(2, 7):
                log.write("train", step, {f"much_{i}": 1.0 for i in range(400)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.write("train", 7, {"loss": 2.0})
        board = EventAccumulator(str(tmp_path / "tensorboard"))
        board.Reload()
        assert [e.step for e in board.Scalars("train/loss")] == [1, 7]
        assert log.path.stat().st_size > 0

    def test_what_is_not_finite_is_null(self, tmp_path) -> None:
        log = MetricsLog(tmp_path / "metrics.jsonl")
        log.write("train", 1, {"loss": float("nan"), "by": {"a": [float("inf"), 1.0]}})
        assert json.loads(log.path.read_text()) == {"kind": "train", "step": 1, "loss": None, "by": {"a": [None, 1.0]}}


def test_a_signal_raises_a_flag_and_the_handler_goes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        assert stop.raised is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.raised is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_off_the_main_thread_signals_are_left_alone() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def enter() -> object:
        with StopFlag() as stop:
            return stop.raised

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() is None


class TestFiles:
    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path) -> None:
        path = tmp_path / "a.json"
        write_json(path, {"old": 1})
        with pytest.raises(RuntimeError), replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
        assert read_json(path) == {"old": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"]

    def test_a_reader_of_the_old_file_keeps_it_whole(self, tmp_path) -> None:
        path = tmp_path / "a.json"
        write_json(path, {"old": 1})
        with path.open() as reader:
            write_json(path, {"new": 2})
            assert json.load(reader) == {"old": 1}
        assert read_json(path) == {"new": 2}

    def test_a_folder_is_replaced_as_a_whole(self, tmp_path) -> None:
        for name in ("first", "second"):
            with replacing(tmp_path / "set") as temporary:
                temporary.mkdir()
                (temporary / name).write_text(name)
        assert [p.name for p in (tmp_path / "set").iterdir()] == ["second"]
        assert [p.name for p in tmp_path.iterdir()] == ["set"]

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
    def test_damaged_json_is_a_sentence(self, tmp_path, content) -> None:
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(InputError, match="not a readable JSON"):
            read_json(tmp_path / "a.json")


@pytest.mark.parametrize("largest", [0.01, 1e3, math.inf])
@pytest.mark.parametrize("portions", [1, 2, 50])
def test_gradients_kept_in_bfloat16_give_the_step_of_the_same_numbers_in_float32(
    largest: float, portions: int, monkeypatch
) -> None:
    monkeypatch.setattr(optimizer_module, "PORTIONS", portions)
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    start, given = [draw(7, 5) for _ in range(4)], [[draw(7, 5).bfloat16() for _ in range(4)] for _ in range(3)]
    found = {}
    for halved in (False, True):
        weights = {str(i): nn.Parameter(w.clone()) for i, w in enumerate(start)}
        optimizer = build_optimizer(weights, OptimizerSettings(steps=3, lr=0.1), lambda name, p: True)
        if halved:
            halve_gradients([weights["1"], weights["3"]])
        for gradients in given:
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                weight.grad = gradient if halved and name in "13" else gradient.float()
            norm = total_norm(p.grad for p in weights.values())
            assert norm.dtype == torch.float32
            take_step(optimizer, norm, largest)
            optimizer.zero_grad()
        found[halved] = [*weights.values(), norm]
    assert all(torch.equal(a, b) for a, b in zip(found[False], found[True], strict=True))
    assert not torch.equal(found[True][1], start[1])


def test_a_step_with_a_norm_that_is_not_finite_leaves_weights_with_halved_gradients_as_they_are() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = build_optimizer({"w": weight}, OptimizerSettings(steps=1), lambda name, p: True)
    halve_gradients([weight])
    weight.grad = torch.full((3, 2), math.nan).bfloat16()
    optimizer.found_inf = torch.ones(())
    take_step(optimizer, total_norm([weight.grad]), 1.0)
    assert torch.equal(weight, torch.ones(3, 2))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_freed_in_pieces_goes_back_to_the_system() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    pieces = [torch.ones(25_000) for _ in range(2_000)]  # 200 MB, each piece too small to be mapped on its own
    kept = pieces[::100]
    del pieces
    there = resident()
    give_back_memory(100_000_000)
    assert resident() > there - 20e6  # more is free than that: it is left
    give_back_memory(1 << 40)
    assert resident() - before < 40e6
    assert all((piece == 1).all() for piece in kept)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_is_kept_does_not_come_from_the_system_again() -> None:
    """In a process of its own, for the allocator stays as it was told."""
    code = """
import ctypes, resource, sys
from aion_core.engine import keep_memory
if sys.argv[1:]:
    keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [libc.malloc(20_000_000) for _ in range(8)]
    for piece in pieces:
        ctypes.memset(piece, 1, 20_000_000)
    for piece in pieces:
        libc.free(piece)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    by_itself, kept = (
        int(subprocess.run([sys.executable, "-c", code, *told], check=True, stdout=subprocess.PIPE).stdout)
        for told in ([], ["keep"])
    )
    assert kept < 1_000 < 20_000 < by_itself
