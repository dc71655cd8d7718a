"""Train a model on token stores, as a TOML file says; run the same command again to continue an interrupted run.

The run folder receives the resolved configuration, metrics.jsonl, and checkpoints, each of which can be loaded as a
model. A run stopped by SIGTERM or SIGUSR1 saves before it ends; one that was killed continues from its last
checkpoint, to bitwise the same parameters.

example:
  aion train train.toml
  aion train train.toml --set optimizer.lr=1e-4 --set run.folder=runs/second
  aion train train.toml --dry-run --gpus 64 --device h100 --mfu 0.5
  aion train grown.toml --set model.start=runs/first --grow lsst_image --freeze-old
  torchrun --nproc-per-node=8 -m aion_core.cli train train.toml

the smallest train.toml, one of the paper's runs (aion-b, aion-l, aion-xl); any setting of it can be given as well:
  preset = "aion-b"
  [run]
  folder = "runs/first"
  [[data.train]]
  stores = ["stores"]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aion_core.cli.console import print_json, progress
from aion_core.cli.training_tables import print_held_out, print_plan
from aion_core.contract import AionError

if TYPE_CHECKING:
    from aion_core.train import TrainConfig

#: The page of curves, in the run folder.
CURVES = "curves.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion train``."""
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting")
    parser.add_argument(
        "--accept-fingerprint",
        action="append",
        default=[],
        metavar="KEY",
        help="tokens of KEY were made by another tokenizer, and that is intended; recorded in the run",
    )
    parser.add_argument(
        "--accept-change",
        action="append",
        default=[],
        metavar="NAME",
        help="go on with another value of a setting than the run began with, such as optimizer.lr; written to its log",
    )
    parser.add_argument(
        "--grow",
        action="append",
        default=[],
        metavar="KEY",
        help="append a modality of the stores to the trained model that the run begins with (model.start) or goes on "
        "from; everything old stays bit for bit as it is",
    )
    parser.add_argument(
        "--freeze-old", action="store_true", help="train only what was appended last: its embeddings and its head"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the plan, train nothing")
    planning = parser.add_argument_group("with --dry-run")
    planning.add_argument("--gpus", type=int, metavar="N", help="plan for so many; default: the processes there are")
    planning.add_argument("--device", metavar="KIND", help="a100, h100, h200; default: the GPU here, or else h100")
    planning.add_argument("--mfu", type=float, default=0.5, help="fraction of the dense bf16 peak (default: 0.5)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress display")


def run(args: argparse.Namespace) -> int:
    """Train, or plan to."""
    from aion_core.engine import choose_device, open_world, without_denormals
    from aion_core.train import Progress, TrainConfig, Trainer
    from aion_core.train.memory import telling_what_is_too_little
    from aion_core.train.page import draw_curves

    config = TrainConfig.from_toml(args.config, args.set).accepting(args.accept_fingerprint)
    config = config.growing(args.grow, args.freeze_old)
    if args.dry_run:
        return _plan(args, config)
    with (
        telling_what_is_too_little(),
        without_denormals(),
        open_world(choose_device(config.run.device)) as world,
        progress(args.quiet or not world.lead) as bar,
    ):
        task = bar.add_task("training", total=config.optimizer.steps)

        def show(done: Progress) -> None:
            text = f"loss {done.loss:.3f}  lr {done.lr:.1e}  {done.tokens_per_second / 1e3:.1f}k tokens/s"
            bar.update(task, completed=done.step, description=text)

        def tell(sentence: str) -> None:
            print(f"aion: {sentence}", file=sys.stderr)

        trainer = Trainer(config, show, tell, world, args.accept_change)
        bar.update(task, completed=trainer.step)
        outcome = trainer.run()
        if not world.lead:
            return 0
    if args.json:
        print_json(
            {
                "folder": str(outcome.folder),
                "step": outcome.step,
                "finished": outcome.finished,
                "stopped_by": outcome.stopped_by,
                "held_out": [h.asdict() for h in outcome.held_out],
            }
        )
        return 0
    if outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by} at step {outcome.step}, saved; run the same command to continue")
        return 0
    print_held_out(outcome.held_out)
    drawn = draw_curves(trainer.metrics, outcome.folder / CURVES)
    curves = f", curves in {outcome.folder / CURVES}" if drawn else ""
    print(f"{outcome.folder}: {outcome.step} steps done, checkpoint in {trainer.checkpoints.folder}{curves}")
    return 0


def _plan(args: argparse.Namespace, config: TrainConfig) -> int:
    """Print the plan, on one of the processes that there may be."""
    from aion_core.engine import choose_device
    from aion_core.engine.distributed import is_lead
    from aion_core.engine.hardware import find_gpu, gpu_of
    from aion_core.train.plan import Machine, plan

    here = gpu_of(choose_device(config.run.device))
    gpus = args.gpus if args.gpus is not None else int(os.environ.get("WORLD_SIZE", "1"))
    if gpus < 1 or not 0 < args.mfu <= 1:
        raise AionError(f"--gpus {gpus} --mfu {args.mfu:g}: expected one GPU or more, and an MFU above 0 and up to 1.")
    gpu = here if args.device is None and here is not None else find_gpu(args.device or "h100")
    found = plan(config, Machine(gpus, gpu, args.mfu), args.accept_change)
    if is_lead():
        print_json(found) if args.json else print_plan(found)
    return 0
