"""The demo's transformer: a configuration as `aion train` takes it, and its training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from aion_core.cli.demo.settings import SPLIT
from aion_core.contract import AionError, TokenSpace
from aion_core.mock import generator
from aion_core.model import AionModel
from aion_core.train import HeldOut, Progress, TrainConfig, Trainer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from aion_core.cli.demo.settings import DemoSettings
    from aion_core.model.embeddings import DecoderEmbedding, EncoderEmbedding

#: The quantity that posteriors are shown of, and its weight in the loss: as much as a third of forty modalities.
TARGET, WEIGHT = "src.redshift", 20.0
#: Tokens that a sample shows and asks for.
INPUT, TARGETS = 128, 40
EVALUATED = 384
#: Of the functions that embeddings begin as: typical waves over the whole codebook, and sizes of entries.
FASTEST, EMBEDDING, OUTPUT = 4.0, 0.5, 0.05


def target_of(space: TokenSpace) -> str | None:
    """Return the key of the scalar that posteriors are shown of; None if no survey has it."""
    return next((spec.key for spec in space.specs() if spec.quantity == TARGET and spec.n_tokens == 1), None)


def training_config(out: Path, settings: DemoSettings, space: TokenSpace, real: bool) -> TrainConfig:
    """Return the configuration of the run in ``out/run``; it is left there for `aion train`."""
    sizes, steps = settings.sizes, settings.scaled(settings.sizes.model_steps)
    target = target_of(space)
    sources: list[dict[str, Any]] = [{"stores": [str(out / "stores/views.arrow")], "weight": 9}]
    if real:
        sources.append({"stores": [str(out / "stores/real.arrow")], "weight": 1})
    longest = max((spec.item_tokens + 1 for spec in space.specs() if spec.order == "causal"), default=1)
    return TrainConfig.parse(
        {
            "run": {"folder": str(out / "run"), "seed": settings.seed, "precision": "fp32"},
            "data": {
                "train": sources,
                "validation": [str(out / "stores/judged.arrow")],
                "modalities": list(space.keys),
                "batch_size": sizes.batch,
                "split": SPLIT.model_dump(),
            },
            "model": dict(sizes.model),
            "masking": {"input_budget": INPUT, "target_budget": max(TARGETS, longest)},
            "loss": {"weights": {target: WEIGHT} if target else {}},
            "optimizer": {
                "steps": steps,
                "lr": 4e-3,
                "embedding_lr": 3,
                "warmup_steps": min(50, steps // 4),
                "final_lr": 2e-5,
            },
            "evaluate": {"every": max(1, steps // 6), "samples": EVALUATED},
            "checkpoint": {"every": max(1, steps // 4), "keep": 1},
        }
    )


def train(config: TrainConfig, bar: Bar) -> tuple[Trainer, tuple[HeldOut, ...]]:
    """Train, or continue, or find that all is done."""
    task = bar.add_task("training the model", total=config.optimizer.steps)

    def show(done: Progress) -> None:
        bar.update(task, completed=done.step, description=f"training the model, loss {done.loss:.3f}")

    trainer = Trainer(config, show)
    if not trainer.step:
        order_codes(trainer.model, config.run.seed)
    outcome = trainer.run()
    if not outcome.finished:
        raise AionError(f"The demo was stopped at step {outcome.step} by {outcome.stopped_by}; start it again.")
    bar.update(task, completed=config.optimizer.steps)
    return trainer, outcome.held_out


@torch.no_grad()
def order_codes(model: AionModel, seed: int) -> None:
    """Let neighbouring codes of numbers begin with nearly the same embeddings, and outputs.

    The codes of a number are in the order of its values. A large training finds that out; a small one, which meets each
    code a few times, is given it: smooth random functions of the code (random Fourier features, Rahimi & Recht 2007)
    in the place of independent random vectors.
    """
    for spec in model.space.specs():
        if spec.kind not in ("scalar", "coefficients"):
            continue
        rng = generator("demo embeddings", seed, spec.key)
        for table, spread in _tables(model, spec.key):
            count, dim = table.shape
            frequency, phase = np.abs(rng.normal(0, FASTEST, dim)), rng.uniform(0, 2 * np.pi, dim)
            waves = np.cos(2 * np.pi * np.arange(count)[:, None] / count * frequency + phase)
            table.copy_(torch.from_numpy(spread * np.sqrt(2) * waves))


def _tables(model: AionModel, key: str) -> Iterator[tuple[torch.Tensor, float]]:
    """Yield the embeddings and the outputs of a modality's codes, and how large their entries are to be."""
    if key in model.encoder_embeddings:
        yield cast("EncoderEmbedding", model.encoder_embeddings[key]).token_emb.weight, EMBEDDING
    if key in model.decoder_embeddings:
        yield cast("DecoderEmbedding", model.decoder_embeddings[key]).to_logits.weight, OUTPUT
