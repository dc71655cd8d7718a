"""A training step beside the release's package: same weights, same tokens and masks, interleaved.

    python benchmarks/train_step.py --peer [--batch 4] [--precision bf16] [--repeats 5] [--threads 2] [--out FILE.json]
    python benchmarks/train_step.py --peer --again full --precision bf16 --batch 16
    python benchmarks/train_step.py --peer --precision bf16 --without-bf16
    python benchmarks/train_step.py --peer --device cuda --compile --precision bf16 --batch 256

Forward, backward and AdamW at budgets 256/128, every modality in the vocabulary; L is ``--dim 1024 --depth 24``, XL
``--dim 2048 --depth 24``. The losses of both sides have to agree before and after. FLOP/s are those of the model's own
count (`aion_core.model.flops`) for both sides: what either computes beyond it does not count. Each round also times the
products of the blocks' matrices alone, forward and backward: the ceiling. Where a CPU has no instructions for bfloat16,
PyTorch imitates them and we multiply rounded numbers in float32 (`aion_core.model.linear`), each below its own ceiling;
``--without-bf16`` keeps both sides and the ceilings from such instructions on a CPU that has them.
Each side has a process of its own, which waits while the other one steps: in one process a side would find memory that
the other gave back to the system, or governs the allocator of both. Peak memory is that of a step, above what the
process held before its model was built.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine

TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
#: What libraries are told of a CPU that is to be taken for one without instructions for bfloat16.
WITHOUT_BF16 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"}


def build(name: str, args: argparse.Namespace, work: Any, device: torch.device) -> Any:
    from train_step_sides import Ours, Peer

    return (
        Peer(work, config(args), device)
        if name == "peer"
        else Ours(work, config(args), device, args.compile, args.again, args.precision)
    )


def config(args: argparse.Namespace) -> Any:
    from aion_core.model import AionConfig

    shape = {"encoder_depth": args.depth, "decoder_depth": args.depth, "num_heads": args.dim // 64}
    return AionConfig(dim=args.dim, **shape)


def workload(args: argparse.Namespace) -> Any:
    from train_step_sides import work

    from aion_core.plugins import load_registry

    return work(load_registry().token_space(), args.batch, seed=0)


def do_without_bf16() -> None:
    """Use no instructions for bfloat16, here and in processes started from here; before anything is computed."""
    import aion_core.engine.device as device

    os.environ.update(WITHOUT_BF16)
    device.multiplies_bf16 = lambda device: device.type != "cpu"


def memory(name: str) -> float:
    """Return a figure of this process's memory (``VmRSS``: now, ``VmHWM``: the most), in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def serve(args: argparse.Namespace) -> None:
    """Be one side: do a step, or measure the memory of one, whenever a line asks for it; answer in JSON."""
    device, todo = torch.device(args.device), workload(args)
    gc.collect()
    before = memory("VmRSS")
    side = build(args.serve, args, todo, device)
    first = side.step(args.precision)  # the moments of AdamW are made
    print(json.dumps(asdict(first) | {"parameters": sum(p.numel() for p in side.model.parameters())}), flush=True)
    for line in sys.stdin:
        answer = peak(side, args.precision, device, before) if line == "peak\n" else asdict(side.step(args.precision))
        print(json.dumps(answer), flush=True)


def peak(side: Any, precision: str, device: torch.device, before: float) -> dict[str, float]:
    """Return what a step of one side takes in MiB: in all, and above weights, gradients and moments."""
    state = 4 * sum(p.numel() for p in side.model.parameters())
    state += sum(t.nbytes for values in side.optimizer.state.values() for t in values.values())
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        side.step(precision)
        total = torch.cuda.max_memory_allocated() / 2**20
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        side.step(precision)
        total = memory("VmHWM") - before
    return {"total_mib": total, "above_weights_and_moments_mib": total - state / 2**20}


class Apart:
    """One side in a process of its own; `first` is its first step."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        options = ["--serve", name, "--batch", args.batch, "--dim", args.dim, "--depth", args.depth]
        options += ["--threads", args.threads, "--device", args.device, "--again", args.again]
        options += ["--precision", args.precision, *(["--compile"] if args.compile else [])]
        options += ["--without-bf16"] if args.without_bf16 else []
        command = [sys.executable, str(Path(__file__).resolve()), *map(str, options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer = self._answer()
        self.parameters = answer.pop("parameters")
        self.first = answer

    def ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A side ended early, with exit status {self.process.wait()}.")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from train_step_sides import Step, matmul_seconds

    from aion_core.engine.device import multiplies_bf16
    from aion_core.model.flops import training_flops

    device, todo = torch.device(args.device), workload(args)
    native = multiplies_bf16(device)
    sides = {name: Apart(name, args) for name in (["peer", "ours"] if args.peer else ["ours"])}
    multiplies = dict.fromkeys(sides, args.precision)
    if not native:
        multiplies["ours"] = "fp32"
    steps: dict[str, list[Any]] = {name: [] for name in sides}
    ceilings: dict[str, list[float]] = {}
    budgets = todo.batch.input_slot.shape[1], todo.batch.target_slot.shape[1]
    first = {name: Step(**side.first) for name, side in sides.items()}
    _agree([step.loss for step in first.values()], TOLERANCE[args.precision])
    for _ in range(args.repeats):
        for name in dict.fromkeys(multiplies.values()):
            dtype = torch.bfloat16 if name == "bf16" else torch.float32
            flops, seconds = matmul_seconds(config(args), args.batch, budgets, dtype, device)
            ceilings.setdefault(name, []).append(flops / seconds)
        for name, side in sides.items():
            steps[name].append(Step(**side.ask("step")))
        _agree([rows[-1].loss for rows in steps.values()], 5 * TOLERANCE[args.precision])
    heads = [(c, s.vocab_size) for c, s in zip(todo.batch.target_counts, todo.space.specs(), strict=True)]
    flops = training_flops(config(args), *budgets) * args.batch + 6 * args.dim * sum(n * v for n, v in heads)
    ceiling = {name: statistics.median(values) for name, values in ceilings.items()}
    found: dict[str, Any] = {
        "modalities": len(todo.space),
        "budgets": budgets,
        "targets": sum(todo.batch.target_counts),
        "flops_per_step": flops,
        "matmul_flops_per_second": ceiling,
        "bf16_native": native,
    }
    for name, rows in steps.items():
        second = statistics.median(row.total for row in rows)
        found[name] = {
            "multiplies_in": multiplies[name],
            "parameters": sides[name].parameters,
            "step_seconds": [row.total for row in rows],
            "median_seconds": second,
            "parts": {k: statistics.median(row.seconds[k] for row in rows) for k in rows[0].seconds},
            "processor_seconds": statistics.median(row.cpu_seconds for row in rows),
            "samples_per_second": args.batch / second,
            "flops_per_second": flops / second,
            "fraction_of_ceiling": flops / second / ceiling[multiplies[name]],
            "losses": [first[name].loss, *(row.loss for row in rows)],
            "peak": sides[name].ask("peak"),
        }
        sides[name].close()
    return found


def ratios(peer: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    """Return how many times faster than the peer we are, and our shares of its memory."""
    return {
        "speed": peer["median_seconds"] / ours["median_seconds"],
        "speed_by_processor_time": peer["processor_seconds"] / ours["processor_seconds"],
        **{f"memory_{k}": v / peer["peak"][k] for k, v in ours["peak"].items()},
    }


def _agree(losses: list[float], tolerance: float) -> None:
    if not all(abs(loss - losses[0]) <= tolerance * abs(losses[0]) for loss in losses):  # nor if one is no number
        raise SystemExit(f"The sides do not train the same model on the same tokens: losses {losses}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="measure the release's package beside ours")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12, help="of the encoder and of the decoder")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--without-bf16", action="store_true", help="as on a CPU without instructions for bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile our blocks")
    choices = ("none", "selective", "full")
    parser.add_argument("--again", choices=choices, default="none", help="our activations that are computed twice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    parser.add_argument("--serve", choices=("peer", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.without_bf16:
        do_without_bf16()
    if args.serve:
        serve(args)
        return
    ran_on = machine(args.device)
    found = measure(args)
    result = {"benchmark": "train_step", "machine": ran_on, "settings": _settings(args), **found}
    if args.peer:
        result["times_the_peer"] = ratios(found["peer"], found["ours"])
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    names = ("dim", "depth", "batch", "precision", "without_bf16", "compile", "again", "device", "repeats", "threads")
    return {name: getattr(args, name) for name in names}


if __name__ == "__main__":
    main()
