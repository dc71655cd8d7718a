"""Train a model on token stores, as a TOML file says; run the same command again to continue an interrupted run.

The run folder receives the resolved configuration, metrics.jsonl, and checkpoints, each of which can be loaded as a
model. A run stopped by SIGTERM or SIGUSR1 saves before it ends; one that was killed continues from its last
checkpoint, to bitwise the same parameters.

example:
  aion train train.toml
  aion train train.toml --set optimizer.lr=1e-4 --set run.folder=runs/second
  aion train train.toml --dry-run --json
  torchrun --nproc-per-node=8 -m aion_core.cli train train.toml

the smallest train.toml:
  [run]
  folder = "runs/first"
  [[data.train]]
  stores = ["stores"]
  [model]
  preset = "aion-b"
  [optimizer]
  steps = 1000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aion_core.cli.console import print_json, print_table, progress

if TYPE_CHECKING:
    from aion_core.train import HeldOut


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
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the plan, train nothing")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress display")


def run(args: argparse.Namespace) -> int:
    """Train, or plan to."""
    from aion_core.engine import choose_device, open_world
    from aion_core.train import Progress, TrainConfig, Trainer

    config = TrainConfig.from_toml(args.config, args.set).accepting(args.accept_fingerprint)
    with open_world(choose_device(config.run.device)) as world, progress(args.quiet or not world.lead) as bar:
        task = bar.add_task("training", total=config.optimizer.steps)

        def show(done: Progress) -> None:
            text = f"loss {done.loss:.3f}  lr {done.lr:.1e}  {done.tokens_per_second / 1e3:.1f}k tokens/s"
            bar.update(task, completed=done.step, description=text)

        def tell(sentence: str) -> None:
            print(f"aion: {sentence}", file=sys.stderr)

        trainer = Trainer(config, show, tell, world)
        if args.dry_run:
            if world.lead:
                print_plan(trainer.plan(), args.json)
            return 0
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
    print(f"{outcome.folder}: {outcome.step} steps done, checkpoint in {trainer.checkpoints.folder}")
    return 0


def print_held_out(held_out: tuple[HeldOut, ...]) -> None:
    """Print held-out losses beside their unconditional entropies."""
    if not held_out:
        print("No object is held out, so there is no held-out loss: raise data.split.fraction, or data.split.order.")
        return
    rows = [
        (
            h.target,
            "random masking" if h.given is None else ", ".join(h.given),
            f"{h.loss:.3f}",
            "" if h.entropy is None else f"{h.entropy:.3f}",
            "" if h.entropy is None else f"{h.entropy - h.loss:+.3f}",
            h.targets,
        )
        for h in held_out
    ]
    columns = ("modality", "given", ">loss (nats)", ">entropy", ">gain", ">targets")
    print_table("Held-out loss, beside the entropy that ignoring the input would give", columns, rows)


def print_plan(plan: dict[str, object], as_json: bool) -> None:
    """Print what a run would do."""
    if as_json:
        print_json(plan)
    else:
        print_table("Plan", ("", ""), list(plan.items()))
