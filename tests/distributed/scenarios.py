"""Runs of `aion train` in one, two and four processes, one after the other; what they found goes into found.json.

PyTorch is imported once: the ranks are forks of this process, with the environment that torchrun gives them.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from aion_core.cli import main
from aion_core.contract import AionError
from aion_core.data import TokenStore
from aion_core.data.loader import TokenLoader
from aion_core.engine import choose_device, open_world
from aion_core.engine.sharded import local_rows
from aion_core.train import TrainConfig, Trainer

for heavy in ("pandas", "safetensors.torch", "torch._dynamo", "torch.onnx", "torch.profiler", "torch._inductor.config"):
    import_module(heavy)  # once, before the forks, which would each do so

FOLDER = Path(sys.argv[1])
STORE = TokenStore(FOLDER / "store.arrow")
TokenLoader([STORE], STORE.space, 1, prefetch=0).batch(0, 0)  # loads the machine code of masks, for the same reason
FOUND: dict[str, Any] = {}


def fork(rank: int, size: int, port: int, name: str, work: Callable[[], int]) -> int:
    """Start one rank; its output goes to files beside the run."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({k: str(v) for k, v in where.items()})
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(FOLDER / f"{name}-{rank}.{stream}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        code = work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(name: str, size: int, work: Callable[[], int]) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [fork(rank, size, port, name, work) for rank in range(size)]


def wait(pids: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def words(name: str, *changes: str) -> list[str]:
    changes = (f"run.folder='{FOLDER / name}'", *changes)
    return ["train", str(FOLDER / "train.toml"), "--json", *(w for c in changes for w in ("--set", c))]


def run(name: str, size: int, *changes: str) -> None:
    """Do a whole run with the command line; keep its exit codes, and what its first rank printed."""
    begun = time.monotonic()
    codes = wait(start(name, size, partial(main, words(name, *changes))))
    FOUND[name] = {
        "codes": codes,
        "out": (FOLDER / f"{name}-0.out").read_text(),
        "err": [(FOLDER / f"{name}-{rank}.err").read_text() for rank in range(size)],
        "seconds": time.monotonic() - begun,
    }


def go_on(name: str, of: str, step: int, size: int, *changes: str) -> None:
    """Continue another run from one of its checkpoints."""
    checkpoint = f"checkpoints/step-{step:08d}"
    shutil.copytree(FOLDER / of / checkpoint, FOLDER / name / checkpoint)
    shutil.copy(FOLDER / of / "metrics.jsonl", FOLDER / name / "metrics.jsonl")
    run(name, size, *changes)


def within(name: str, size: int, work: Callable[[Trainer, int], None], *changes: str) -> None:
    """Run a trainer in each rank, which `work` may meddle with before."""

    def trains() -> int:
        config = TrainConfig.from_toml(FOLDER / "train.toml", [f"run.folder='{FOLDER / name}'", *changes])
        try:
            with open_world(choose_device("cpu")) as world:
                trainer = Trainer(config, on_problem=lambda sentence: print(sentence), world=world)
                work(trainer, world.rank)
                trainer.run()
        except AionError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    begun = time.monotonic()
    codes = wait(start(name, size, trains))
    texts = {s: [(FOLDER / f"{name}-{rank}.{s}").read_text() for rank in range(size)] for s in ("out", "err")}
    FOUND[name] = {"codes": codes, **texts, "seconds": time.monotonic() - begun}


def until(condition: Callable[[], Any], pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert all(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in pids), "a rank has ended"
        time.sleep(0.0005)


def has_checkpoint(name: str) -> bool:
    return any((FOLDER / name / "checkpoints").glob("step-*"))


# -- what is done to runs --------------------------------------------------------------------------------------------


def poison(trainer: Trainer, rank: int) -> None:
    """Spoil what the encoder knows of four objects that the second rank sees in step 5, and only there."""
    rows = np.load(FOLDER / "rows.npy")[4 * 16 + 12 : 5 * 16]
    first, local = local_rows(trainer.model.state_dict()["encoder_embeddings.test_a3.token_emb.weight"])
    for row in rows:
        if first <= row < first + len(local):
            local[row - first] = float("nan")


def spoil_all(trainer: Trainer, rank: int) -> None:
    with torch.no_grad():
        trainer.model.decoder_norm.weight.fill_(float("nan"))


def fill_disk(trainer: Trainer, rank: int) -> None:
    """Let the second rank write no file of more than a few bytes while the checkpoint of step 8 is due."""

    def limit(progress: Any) -> None:
        if rank == 1 and progress.step in (7, 11):
            size = 64 if progress.step == 7 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    trainer.on_step = limit


def count_and_leave(trainer: Trainer, rank: int) -> None:
    """Print how often weights are gathered in the second step; let the second rank give up in the fifth."""
    step = trainer.train_step

    def counted(*args: Any) -> None:
        if trainer.step == 4 and rank == 1:
            raise AionError("there is something wrong here")
        with profile(activities=[ProfilerActivity.CPU]) if trainer.step == 1 else nullcontext() as profiler:
            step(*args)
        if profiler is not None and rank == 0:
            print(sum(event.name.split(" ")[0] == "FSDP::all_gather" for event in profiler.events()))

    trainer.train_step = counted


def stop_one(name: str, *changes: str) -> None:
    """Ask one rank of two to stop in the middle of a run."""
    pids = start(name, 2, partial(main, words(name, *changes)))
    until(lambda: has_checkpoint(name), pids)
    os.kill(pids[1], signal.SIGTERM)
    FOUND[name] = {"codes": wait(pids), "out": (FOLDER / f"{name}-0.out").read_text()}


def kill_while_saving(name: str, *changes: str) -> None:
    """Kill two ranks by force while a checkpoint after the first is half written; repeat until it is so."""
    torn: list[str] = []
    checkpoints = FOLDER / name / "checkpoints"
    for _ in range(20):
        pids = start(name, 2, partial(main, words(name, *changes)))
        try:
            until(lambda: has_checkpoint(name) and any(checkpoints.glob(".step-*.tmp/*")), pids)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        codes = wait(pids)
        if torn := [path.name for path in checkpoints.glob(".step-*.tmp")]:
            break
    FOUND[name] = {"codes": codes, "torn": torn, "whole": sorted(p.name for p in checkpoints.glob("step-*"))}


def grow(*changes: str) -> None:
    """Train on all modalities but one, then append that, in one process and in two, whole and with the rest frozen."""
    keys = [f"test_{name}{group}" for group in range(4) for name in "ab"]
    run("young", 1, f"data.modalities={keys[:-1]}", *changes)
    start = (f"model.start='{FOLDER / 'young'}'", f"model.grow={keys[-1:]}", *changes)
    run("grown_one", 1, *start)
    run("grown_two", 2, *start)
    run("frozen_two", 2, *start, "model.freeze_old=true", "parallel.sharding='full'", "data.accumulate=2",
        "data.batch_size=8")  # fmt: skip
    go_on("grown_again", "grown_two", 3, 2, *start)
    go_on("frozen_again", "frozen_two", 3, 1, *start, "model.freeze_old=true")


def everything() -> None:
    short = ("optimizer.steps=6", "evaluate.every=100")
    for name, size in (("one", 1), ("two", 2), ("four", 4)):
        run(name, size)
    run("hybrid", 4, "parallel.replicate=2")
    run("full", 2, "parallel.sharding='full'", "parallel.activation_checkpointing='full'")
    run("accumulated", 2, "data.batch_size=8", "data.accumulate=2", "parallel.activation_checkpointing='selective'")
    run("bf16_one", 1, "run.precision='bf16'", *short)
    run("bf16_two", 2, "run.precision='bf16'", *short)
    go_on("four_again", "four", 6, 4)
    go_on("four_to_two", "four", 6, 2, "data.batch_size=8", "data.accumulate=2")
    go_on("two_to_hybrid", "two", 6, 4, "parallel.replicate=2")
    go_on("hybrid_to_one", "hybrid", 6, 1)
    grow(*short, "checkpoint.every=3")
    run("odd", 4, "data.batch_size=6")
    run("odd_replicas", 4, "parallel.replicate=3")
    within("poisoned", 2, poison)
    within("spoiled", 2, spoil_all, "optimizer.max_skipped=3")
    within("full_disk", 2, fill_disk, "checkpoint.every=4")
    within("lost", 2, count_and_leave, "data.batch_size=8", "data.accumulate=2", "checkpoint.every=2")
    long = ("optimizer.steps=24", "checkpoint.every=2", "evaluate.every=1000")
    run("long", 2, *long)
    stop_one("stopped", *long)
    run("stopped_again", 2, *long, f"run.folder='{FOLDER / 'stopped'}'")
    kill_while_saving("killed", *long)
    run("killed_again", 2, *long, f"run.folder='{FOLDER / 'killed'}'")


if __name__ == "__main__":
    everything()
    (FOLDER / "found.json").write_text(json.dumps(FOUND))
