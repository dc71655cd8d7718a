"""Small networks for images and spectra, trained by the library's own presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aion_core.cli.demo.memory import Memory
from aion_core.cli.demo.settings import SPLIT
from aion_core.cli.demo.sky import yielding
from aion_core.contract import AionError, ModalitySpec
from aion_core.files import read_json, write_json
from aion_core.plugins import Registry
from aion_core.tokenizers import Tokenizer, TokenizerSet
from aion_core.tokenizers.base import is_fittable
from aion_core.tokenizers.field import ScalarFieldTokenizer
from aion_core.tokenizers.image import ImageTokenizer
from aion_core.tokenizers.image_start import begin_linear
from aion_core.tokenizers.lfq import LookupFreeQuantizer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from aion_core.cli.demo.settings import DemoSettings
    from aion_core.data.survey_files import SurveyFiles
    from aion_core.engine import World
    from aion_core.observations import Image
    from aion_core.tokenizers.training import TokenizerConfig

PRESET = "small-"
#: Observations of a step, by kind of modality: in so short a training, many small steps reach farther than few large
#: ones; but an even use of codes is that of a step's images.
BATCH = {"image": 16}
SMALL = 8
#: Of codes that are signs: how softly they are taken to be chosen in the loss, and what their even use weighs in it.
SOFT, DIVERSE = 2.0, 5.0
#: Of images: the network's sizes, the rate of its encoder in units of the others', for how long the size of gradients
#: is remembered; the side of the crop that it is trained on, the error that the loss forgives, and what an uneven use
#: of codes weighs in it. It begins linear (`aion_core.tokenizers.image_start`).
IMAGES = {
    "network.hidden_dims": 32,
    "optimizer.lr": 5e-3,
    "optimizer.encoder_lr": 0.1,
    "optimizer.betas": "[0.9, 0.99]",
    "run.precision": "auto",
}
CROP, FORGIVEN, EVENING = 48, 0.018, 0.1
#: Of maps: what an uneven use of codes weighs.
MAPS_EVENING = 0.003
#: Observations whose principal components an untrained network of images begins with, of each modality.
SEEN_FIRST = 32
#: Held-out objects of each modality that a network is judged by.
JUDGED = 128


@dataclass(frozen=True)
class Networks:
    """Trained tokenizers by key, how well they reconstruct held-out mock objects, and why others are missing."""

    tokenizers: dict[str, Tokenizer]
    quality: dict[str, dict[str, Any]]
    left_out: dict[str, str]


def train_networks(
    out: Path,
    settings: DemoSettings,
    registry: Registry,
    files: SurveyFiles,
    simulated: set[str],
    world: World,
    bar: Bar,
) -> Networks:
    """Train a network for each artifact that simulated modalities need; one that was trained before is read."""
    from aion_core.cli.tokenizer.networks import groups

    keys = [key for key, spec in registry.modalities.items() if key in simulated and not is_fittable(spec)]
    found = Networks({}, {}, {})
    for name, specs in groups(registry, keys).items():
        config = _config(out / "training" / name, specs[0], settings) if specs[0].tokenizer else None
        if config is None:
            why = "its plugin declares no tokenizer" if specs[0].tokenizer is None else "no small preset for its kind"
            found.left_out.update(dict.fromkeys((spec.key for spec in specs), why))
            continue
        folder = out / "tokenizers" / name
        quality = out / "tokenizers" / f"{name}.json"
        if not quality.exists():
            _train(name, specs, config, files, world, bar, registry, folder, quality)
        found.tokenizers.update(TokenizerSet.load(folder, registry).items())
        found.quality.update(read_json(quality))
    return found


def _train(
    name: str,
    specs: list[ModalitySpec],
    config: TokenizerConfig,
    files: SurveyFiles,
    world: World,
    bar: Bar,
    registry: Registry,
    folder: Path,
    quality: Path,
) -> None:
    from aion_core.tokenizers.training import TokenizerTrainer
    from aion_core.tokenizers.training.beginning import begin

    keys = [spec.key for spec in specs]
    bar.console.print(f"Training a network for {', '.join(keys)}", markup=False)
    batch = config.data.batch_size
    memory = Memory(yielding(files, registry, keys), keys, batch, config.evaluate.objects, config.run.seed)
    tokenizers = spreading(begin(specs, config), memory)
    task = bar.add_task(f"training {name}", total=config.optimizer.steps)
    trainer = TokenizerTrainer(config, tokenizers, memory, world, lambda done: bar.update(task, completed=done.step))
    outcome = trainer.run()
    trainer.settle()
    if not outcome.finished:
        raise AionError(f"The demo was stopped by {outcome.stopped_by}; start it again, and it goes on from there.")
    TokenizerSet(settled(tokenizers), registry).save(folder)
    write_json(quality, {key: figures.to_dict() for key, figures in outcome.held_out.items()})


def spreading(tokenizers: list[Tokenizer], memory: Memory) -> list[Tokenizer]:
    """Let codes spread within the few steps that there are.

    With the release's temperature only numbers next to zero are moved to even out the use of codes that are signs,
    which takes ten thousands of steps. Encoders of images begin as principal components, and training sees what is
    around the objects. All this is of the training alone: it is no part of the tokenizer.
    """
    images = [tokenizer for tokenizer in tokenizers if isinstance(tokenizer, ImageTokenizer)]
    for tokenizer in tokenizers:
        if isinstance(tokenizer, ScalarFieldTokenizer):
            tokenizer.evening = MAPS_EVENING
        quantizer = getattr(tokenizer, "quantizer", None)
        if isinstance(quantizer, LookupFreeQuantizer):
            cast("Any", tokenizer).quantizer = replace(quantizer, inverse_temperature=SOFT, diversity=DIVERSE)
    for tokenizer in images:
        tokenizer.trained_size, tokenizer.forgiven = min(CROP, tokenizer.size), FORGIVEN
        tokenizer.evening = EVENING
    if images:
        given = {t.spec.key: t for t in images}
        begin_linear([(given[key], cast("Image", obs)) for key, obs in memory.sample(SEEN_FIRST)])
    return tokenizers


def settled(tokenizers: list[Tokenizer]) -> list[Tokenizer]:
    """Return tokenizers whose training is over."""
    for tokenizer in tokenizers:
        if isinstance(tokenizer, ImageTokenizer):
            tokenizer.trained_size, tokenizer.forgiven = None, None
        if isinstance(tokenizer, ImageTokenizer | ScalarFieldTokenizer):
            tokenizer.evening = 0.0
    return [tokenizer.eval() for tokenizer in tokenizers]


def _config(folder: Path, spec: ModalitySpec, settings: DemoSettings) -> TokenizerConfig | None:
    """Return the small preset of a modality's kind, shortened; None if there is none."""
    from aion_core.tokenizers.training.config import TokenizerConfig, preset_names

    steps = settings.sizes.steps.get(spec.kind)
    name = PRESET + spec.kind.replace("_", "-")
    if steps is None or name not in preset_names():
        return None
    steps = settings.scaled(steps)
    changes: dict[str, Any] = {
        "optimizer.steps": steps,
        "optimizer.warmup_steps": min(20, steps // 4),
        "evaluate.every": steps,
        "evaluate.objects": min(JUDGED, settings.objects),
        "evaluate.page": 0,
        "checkpoint.every": 100,
        "checkpoint.keep": 1,
        "data.batch_size": BATCH.get(spec.kind, SMALL),
        "data.band_dropout": 0,  # simulated images have all their bands
        "data.window": min(512, settings.objects),
        "data.split.fraction": SPLIT.fraction,
        "data.split.order": SPLIT.order,
        "data.split.seed": SPLIT.seed,
        "run.seed": settings.seed,
    }
    changes |= IMAGES if spec.kind == "image" else {}
    return TokenizerConfig.preset(name, [f"{key}={value}" for key, value in changes.items()], str(folder))
