"""Training networks from the command line: recipes, sources, what a training begins with, and its display."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.contract import AionError, ModalitySpec

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from aion_core.data.stream import ObservationStream
    from aion_core.data.survey_files import SurveyFiles
    from aion_core.engine import World
    from aion_core.plugins import Registry
    from aion_core.tokenizers import Tokenizer, TokenizerSet
    from aion_core.tokenizers.training import Outcome, TokenizerConfig


@dataclass(frozen=True)
class Training:
    """One network's training, over or stopped, and the tokenizers that came of it."""

    name: str
    config: TokenizerConfig
    outcome: Outcome
    tokenizers: dict[str, Tokenizer]

    def summary(self) -> dict[str, Any]:
        """Return how it ended, as JSON."""
        o = self.outcome
        how = {"step": o.step, "finished": o.finished, "stopped_by": o.stopped_by}
        return {"folder": str(self.config.run.folder), "modalities": list(self.tokenizers), **how}


def recipes(args: argparse.Namespace) -> list[TokenizerConfig]:
    """Return the configurations that the command names, its own settings applied."""
    if not (args.preset or args.config):
        given = [f"--{n}" for n in ("set", "ratio", "sweep", "grow") if getattr(args, n)] + ["--from"] * bool(
            args.start
        )
        if given:
            raise AionError(f"{given[0]} is about networks: name a recipe, too (--preset NAME or --config FILE.toml).")
        return []
    from aion_core.tokenizers.training import TokenizerConfig

    changes = list(args.set)
    if args.ratio is not None:
        if len(args.ratio) != len(args.paths):
            raise AionError(f"--ratio has {len(args.ratio)} numbers for {len(args.paths)} PATHs; give one for each.")
        changes.append(f"data.ratio={args.ratio}")
    folder = str(args.out.with_name(f"{args.out.name}.training"))
    found = [TokenizerConfig.preset(name, changes, folder) for name in args.preset]
    return found + [TokenizerConfig.from_toml(path, changes, folder) for path in args.config]


def recipe_for(spec: ModalitySpec, recipes: Sequence[TokenizerConfig]) -> TokenizerConfig | None:
    """Return the recipe for a modality: one for its kind, or else one for any."""
    for kind in (spec.kind, None):
        for recipe in recipes:
            if recipe.kind == kind:
                return recipe
    return None


def train(
    args: argparse.Namespace,
    files: SurveyFiles,
    registry: Registry,
    keys: Sequence[str],
    recipes: Sequence[TokenizerConfig],
    base: TokenizerSet | None,
    world: World,
    bar: Bar,
) -> list[Training]:
    """Train every network that some modalities need, one after another; a stopped one is the last."""
    done: list[Training] = []
    for name, specs in groups(registry, keys).items():
        config = recipe_for(specs[0], recipes)
        assert config is not None, "modalities without a recipe were refused before"
        config = in_folder(config, config.run.folder / name)
        start = _beginning(specs, config, base, args.grow)
        done.append(train_one(name, config, start, sources(config, files, args.paths, registry), world, bar))
        if not done[-1].outcome.finished:
            break
    return done


def groups(registry: Registry, keys: Sequence[str]) -> dict[str, list[ModalitySpec]]:
    """Return modalities by the artifact that they share."""
    from aion_core.tokenizers.base import codec_name

    found: dict[str, list[ModalitySpec]] = {}
    for key in (key for key in registry.modalities if key in keys):
        spec = registry.modalities[key]
        found.setdefault(codec_name(spec), []).append(spec)
    return found


def in_folder(config: TokenizerConfig, folder: Path) -> TokenizerConfig:
    """Return a configuration with another run folder."""
    return config.model_copy(update={"run": config.run.model_copy(update={"folder": folder})})


def _beginning(
    specs: Sequence[ModalitySpec], config: TokenizerConfig, base: TokenizerSet | None, grow: bool
) -> list[Tokenizer]:
    """Return untrained tokenizers, or those of a set, grown by what they lack if that is wanted."""
    from aion_core.tokenizers.training.beginning import begin

    return begin(specs, config, base, grow)


def train_one(
    name: str,
    config: TokenizerConfig,
    tokenizers: Sequence[Tokenizer],
    sources: Sequence[SurveyFiles],
    world: World,
    bar: Bar,
) -> Training:
    """Train one network."""
    from aion_core.tokenizers.training import Progress, TokenizerTrainer

    keys = [tokenizer.spec.key for tokenizer in tokenizers]
    stream = _stream(config, [source.having(keys) for source in sources], world)
    task = bar.add_task(name, total=config.optimizer.steps)

    def show(done: Progress) -> None:
        text = f"{name}  loss {done.loss:.3f}  lr {done.lr:.1e}  {done.objects_per_second:.0f}/s"
        bar.update(task, completed=done.step, description=text)

    trainer = TokenizerTrainer(config, tokenizers, stream, world, show)
    bar.update(task, completed=trainer.step)
    outcome = trainer.run()
    trainer.settle()
    return Training(name, config, outcome, trainer.tokenizers)


def sources(
    config: TokenizerConfig, files: SurveyFiles, paths: Sequence[Path], registry: Registry
) -> list[SurveyFiles]:
    """Return what a network is trained on: all paths as one source, or each as its own, to be mixed by ratio."""
    from aion_core.data.survey_files import SurveyFiles

    return (
        [files]
        if config.data.ratio is None
        else [SurveyFiles([path], registry, options=files.options) for path in paths]
    )


def _stream(config: TokenizerConfig, sources: Sequence[SurveyFiles], world: World) -> ObservationStream:
    from aion_core.data.split import SplitConfig
    from aion_core.data.stream import Mixing, ObservationStream

    data = config.data
    return ObservationStream(
        sources,
        data.batch_size,
        data.ratio,
        SplitConfig(**data.split.model_dump()),
        Mixing(config.run.seed, data.interleave, data.window),
        lanes=data.lanes,
        world_size=world.size,
        rank=world.rank,
        prefetch=data.prefetch,
    )
