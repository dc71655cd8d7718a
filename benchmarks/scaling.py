"""Held-out loss by size of the model, trained with and without the tokens of one survey (the paper's appendix F).

    python benchmarks/scaling.py [--stores stores ...] [--added gaia_] [--sizes 64x2 128x4 256x6] [--steps 1000]
                                 [--seeds 0] [--folder runs/scaling] [--out FILE.json]

Every model is judged on the same masked tokens of held-out sky: those of the modalities that are not added, so that a
model that knows more is not given more. Three trainings of each size: without the survey; with it, for as many steps,
so that each of the other modalities is seen less often (as in the paper, where adding Gaia raised the losses); and with
it, for as many more steps as makes the others' samples equally many, which tells whether it is their share or the
survey itself that costs. The overall loss is the mean over modalities. Without ``--stores``, those of
`aion demo --quick` are made first. Started again, it continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aion_core.cli import main as aion
from aion_core.contract import AionError, ModalitySpec
from aion_core.data import TokenStore
from aion_core.data.batches import TokenBatch
from aion_core.engine import World, choose_device
from aion_core.train import TrainConfig, Trainer
from aion_core.train.data import TrainingData, joint_space
from aion_core.train.evaluation import masked_losses

WITHOUT, WITH, LONGER = "without", "with", "with, longer"


def configure(args: argparse.Namespace, size: str, seed: int, arm: str, keys: Sequence[str], steps: int) -> TrainConfig:
    dim, depth = map(int, size.split("x"))
    return TrainConfig.parse(
        {
            "run": {"folder": args.folder / f"{size} {arm} {seed}".replace(",", ""), "seed": seed},
            "data": {
                "train": [{"stores": args.stores}],
                "modalities": keys,
                "batch_size": args.batch,
                "split": {"fraction": args.held_out, "order": args.order},
            },
            "model": {"dim": dim, "encoder_depth": depth, "decoder_depth": depth, "num_heads": max(1, dim // 32)},
            "masking": {"input_budget": args.budgets[0], "target_budget": args.budgets[1]},
            "optimizer": {"steps": steps, "lr": args.lr, "warmup_steps": steps // 10, "embedding_lr": 5},
            "evaluate": {"every": steps, "samples": args.samples},
            "checkpoint": {"every": max(1, steps // 4), "keep": 1},
        }
    )


def open_data(config: TrainConfig) -> TrainingData:
    world = World(0, 1, choose_device(config.run.device))
    return TrainingData(config.data, config.masking, 0, world)  # one seed: all models are asked the same


def batches_for(model: Any, data: TrainingData, samples: int) -> Iterator[tuple[TokenBatch, bool]]:
    """Yield the held-out batches for a model whose space begins with that of the data."""
    more = (0,) * (len(model.space) - len(data.space))
    for batch, counting in data.validation_batches(samples):
        yield replace(batch, target_counts=(*batch.target_counts, *more)), counting


def train_and_judge(config: TrainConfig, data: TrainingData, args: argparse.Namespace) -> dict[str, Any]:
    def show(done: Any) -> None:
        if done.step % max(1, done.steps // 10) == 0:
            print(f"  {config.run.folder.name}: step {done.step}, loss {done.loss:.3f}", file=sys.stderr)

    trainer = Trainer(config, show)
    if not trainer.run().finished:
        raise AionError("The benchmark was stopped; started again, it continues.")
    model = trainer.model.eval()
    found = masked_losses(model, batches_for(model, data, args.samples), {}, nullcontext, data.world)
    blocks = [p.numel() for n, p in model.named_parameters() if "_embeddings." not in n]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_without_embeddings_and_heads": sum(blocks),
        "steps": config.optimizer.steps,
        "losses": {h.target: h.loss for h in found},
        "targets": {h.target: h.targets for h in found},
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    specs = {spec.key: spec for spec in joint_space(TokenStore.open(args.stores), None).specs()}
    added = [key for key in specs if key.startswith(args.added)]
    base = [key for key in specs if key not in added]
    if not added or not base:
        raise AionError(f"--added {args.added}: expected the beginning of some keys, not of all ({', '.join(specs)}).")
    data = open_data(configure(args, args.sizes[0], 0, WITHOUT, base, args.steps))
    everything = open_data(configure(args, args.sizes[0], 0, WITH, [*base, *added], args.steps))
    objects = {WITHOUT: len(data.loader), WITH: len(everything.loader)}
    longer = round(args.steps * objects[WITH] / objects[WITHOUT])
    arms = {WITHOUT: (base, args.steps), WITH: ([*base, *added], args.steps), LONGER: ([*base, *added], longer)}
    runs = []
    for size in args.sizes:
        for arm, (keys, steps) in arms.items():
            for seed in args.seeds:
                found = train_and_judge(configure(args, size, seed, arm, keys, steps), data, args)
                runs.append({"size": size, "arm": arm, "seed": seed} | found)
    return {
        "stores": [str(path) for path in args.stores],
        "added": added,
        "training_objects": objects,
        "batch": args.batch,
        "kinds": {key: specs[key].kind for key in base},
        "runs": runs,
        "table": table(runs, [specs[key] for key in base]),
    }


def _has(attribute: str, value: str, spec: ModalitySpec) -> bool:
    return bool(getattr(spec, attribute) == value)


def table(runs: Sequence[dict[str, Any]], base: Sequence[ModalitySpec]) -> list[dict[str, Any]]:
    """Return the mean over modalities of each training's losses: all of them, by survey, and by kind."""
    groups: dict[str, Callable[[ModalitySpec], bool]] = {"overall": lambda spec: True}
    groups |= {name: partial(_has, "survey", name) for name in dict.fromkeys(s.survey for s in base)}
    groups |= {name: partial(_has, "kind", name) for name in dict.fromkeys(s.kind for s in base)}
    rows = []
    for run in runs:
        losses = run["losses"]
        means = {
            name: statistics.mean(chosen)
            for name, belongs in groups.items()
            if (chosen := [losses[s.key] for s in base if belongs(s) and s.key in losses])
        }
        rows.append({name: run[name] for name in ("size", "arm", "seed", "steps")} | means)
    return rows


def show(found: dict[str, Any]) -> None:
    names = list(found["table"][0])[4:]
    print("Held-out loss, nats per token, mean over modalities; added: " + ", ".join(found["added"]))
    print(f"{'size':>8} {'':14}{'seed':>5}{'steps':>8}" + "".join(f"{name[:18]:>20}" for name in names))
    for row in found["table"]:
        head = f"{row['size']:>8} {row['arm']:14}{row['seed']:>5}{row['steps']:>8}"
        print(head + "".join(f"{row[name]:20.4f}" for name in names))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=Path, nargs="+", help="token stores, or folders of them")
    parser.add_argument("--added", default="gaia_", help="beginning of the keys that are added (%(default)s)")
    parser.add_argument("--sizes", nargs="+", default=["64x2", "128x4", "256x6"], metavar="DIMxDEPTH")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--budgets", type=int, nargs=2, default=(64, 32), metavar=("INPUT", "TARGET"))
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--samples", type=int, default=4096, help="held-out objects, at most")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the sky (%(default)s)")
    parser.add_argument("--order", type=int, default=12, help="HEALPix order of its cells: high for small fields")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, default=Path("runs/scaling"), help="of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    args = parse(words)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.stores is None:
        demo = args.folder / "demo"
        args.stores = [demo / "stores"]
        if not (demo / "run").exists() and aion(["demo", "--quick", "--out", str(demo), "--json"]):
            return 1
    try:
        found = measure(args)
    except AionError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    show(found)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
