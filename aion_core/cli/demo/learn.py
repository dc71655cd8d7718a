"""The demo's transformer: a configuration as `aion train` takes it, and its training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from aion_core.cli.demo.settings import SPLIT
from aion_core.cli.demo.views import places, uses_of
from aion_core.contract import AionError, TokenSpace
from aion_core.data import TokenStore
from aion_core.engine import MetricsLog
from aion_core.mock import generator
from aion_core.model import AionModel
from aion_core.train import HeldOut, Progress, TrainConfig, Trainer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from aion_core.cli.demo.settings import DemoSettings
    from aion_core.model.embeddings import DecoderEmbedding, EncoderEmbedding
    from aion_core.tokenizers import TokenizerSet

#: The quantity that posteriors are shown of, and its weight in the loss: as much as a third of forty modalities.
TARGET, WEIGHT = "src.redshift", 20.0
#: What a sample shows and asks for: of numbers alone, and of everything. There, targets are shared out evenly: by the
#: paper's distribution, numbers would hardly ever be asked for beside hundreds of tokens of images and spectra.
FEW: dict[str, Any] = {"input_budget": 24, "target_budget": 12}
MANY: dict[str, Any] = {"input_budget": 128, "target_budget": 24, "target_beta": (1, 1)}
EVALUATED = 384
#: Of what embeddings begin with: typical waves over a number's codebook, and sizes of the entries of a code's
#: embedding, of its modality's, and of its output.
WAVES, EMBEDDING, MODALITY, OUTPUT = 2.0, 1.0, 1.0, 0.3


def target_of(space: TokenSpace) -> str | None:
    """Return the key of the scalar that posteriors are shown of; None if no survey has it."""
    return next((spec.key for spec in space.specs() if spec.quantity == TARGET and spec.n_tokens == 1), None)


def training_configs(
    out: Path, settings: DemoSettings, space: TokenSpace, real: bool
) -> tuple[TrainConfig, TrainConfig]:
    """Return the configurations of two runs, of numbers alone and then of everything; `aion train` takes them too.

    The first is in ``out/numbers``, the second, which begins with its weights, in ``out/run``.
    """
    sizes, target = settings.sizes, target_of(space)
    longest = max((spec.item_tokens + 1 for spec in space.specs() if spec.order == "causal"), default=1)
    # Views of numbers alone name no images: what both runs are about is told by what they are judged by, too. Of the
    # views of everything, which are beside it, nothing is held out.
    judged = [out / "stores/judged.arrow", out / "stores/views.arrow"]
    known = {key for path in judged for key in TokenStore(path).space.keys}
    views: list[dict[str, Any]] = [{"stores": [str(judged[1])], "weight": 9}]
    if real:
        views.append({"stores": [str(out / "stores/real.arrow")], "weight": 1})
    found: list[TrainConfig] = []
    for name, sources, phase, masking in (
        ("numbers", [{"stores": [str(out / "stores/numbers.arrow")]}], sizes.numbers, FEW),
        ("run", views, sizes.everything, MANY),
    ):
        steps = settings.scaled(phase.steps)
        values = {
            "run": {"folder": str(out / name), "seed": settings.seed, "precision": "fp32"},
            "data": {
                "train": sources,
                "validation": [str(path) for path in judged],
                "modalities": [key for key in space.keys if key in known],
                "batch_size": phase.batch,
                "split": SPLIT.model_dump(),
            },
            "model": {"start": str(out / "numbers")} if found else dict(sizes.model),
            "masking": masking | {"target_budget": max(masking["target_budget"], longest)},
            "loss": {"weights": {target: WEIGHT} if target else {}},
            "optimizer": {
                "steps": steps,
                "lr": phase.lr,
                "warmup_steps": min(phase.warmup, steps // 4),
                "final_lr": 2e-5,
            },
            "evaluate": {"every": max(1, steps // 3), "samples": EVALUATED},
            "checkpoint": {"every": max(1, steps // 4), "keep": 1},
        }
        found.append(TrainConfig.parse(values))
    return found[0], found[1]


def train(
    configs: tuple[TrainConfig, TrainConfig], tokenizers: TokenizerSet, bar: Bar
) -> tuple[Trainer, tuple[HeldOut, ...]]:
    """Train, or continue, or find that all is done."""
    for config, what in zip(configs, ("on numbers", "on everything"), strict=True):
        task = bar.add_task(f"training the model {what}", total=config.optimizer.steps)

        def show(done: Progress, task: TaskID = task, what: str = what) -> None:
            bar.update(task, completed=done.step, description=f"training the model {what}, loss {done.loss:.3f}")

        trainer = Trainer(config, show)
        if not trainer.step and config is configs[0]:
            order_codes(trainer.model, tokenizers, TokenStore(config.data.train[0].stores[0]), config.run.seed)
        outcome = trainer.run()
        if not outcome.finished:
            raise AionError(f"The demo was stopped at step {outcome.step} by {outcome.stopped_by}; start it again.")
        bar.update(task, completed=config.optimizer.steps)
    return trainer, outcome.held_out


def history(configs: tuple[TrainConfig, TrainConfig]) -> Iterator[dict[str, Any]]:
    """Yield what both runs have written down, the steps of the second counted on from those of the first."""
    before = 0
    for config in configs:
        for line in MetricsLog(config.run.folder / "metrics.jsonl", silent=True).read():
            yield line | {"step": before + line["step"]}
        before += config.optimizer.steps


@torch.no_grad()
def order_codes(model: AionModel, tokenizers: TokenizerSet, numbers: TokenStore, seed: int) -> None:
    """Let codes that stand for nearly the same begin with nearly the same embeddings, and outputs.

    A large training finds out which codes are neighbours; a small one, which meets each code a few times, is given it:
    smooth random functions of where a code lies (random Fourier features, Rahimi & Recht 2007) in the place of
    independent random vectors. Of numbers, that is among those in a store. What is to be told of modalities, their
    embeddings, begins as large as those functions.
    """
    rows = np.arange(len(numbers))
    for spec in model.space.specs():
        rng = generator("demo embeddings", seed, spec.key)
        for own in _modality(model, spec.key):
            own.copy_(torch.from_numpy(MODALITY * rng.normal(size=tuple(own.shape))))
        vectors = tokenizers[spec.key].code_vectors()
        if vectors is None:
            continue
        where = vectors.cpu().double().numpy()
        if spec.kind == "scalar" and spec.key in numbers.space:
            where = places(uses_of(numbers, rows, spec))[: len(where), None]
        for table, spread in _tables(model, spec.key):
            frequency = rng.normal(0, WAVES / where.shape[1], (where.shape[1], table.shape[1]))
            phase = rng.uniform(0, 2 * np.pi, table.shape[1])
            waves = np.cos(2 * np.pi * where @ frequency + phase)
            table[: len(waves)].copy_(torch.from_numpy(spread * np.sqrt(2) * waves))


def _tables(model: AionModel, key: str) -> Iterator[tuple[torch.Tensor, float]]:
    """Yield the embeddings and the outputs of a modality's codes, and how large their entries are to be."""
    if key in model.encoder_embeddings:
        yield cast("EncoderEmbedding", model.encoder_embeddings[key]).token_emb.weight, EMBEDDING
    if key in model.decoder_embeddings:
        yield cast("DecoderEmbedding", model.decoder_embeddings[key]).to_logits.weight, OUTPUT


def _modality(model: AionModel, key: str) -> Iterator[torch.Tensor]:
    """Yield the embeddings that say of which modality a token is."""
    for side in (model.encoder_embeddings, model.decoder_embeddings):
        own = cast("EncoderEmbedding | DecoderEmbedding", side[key]).mod_emb if key in side else None
        if own is not None:
            yield own
