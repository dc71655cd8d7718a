"""The configuration of a training run: TOML in, frozen and validated once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from aion_core.contract import AionError, did_you_mean
from aion_core.data.masking import MaskingConfig
from aion_core.data.split import SplitConfig
from aion_core.engine import toml
from aion_core.engine.settings import CheckpointSettings, OptimizerSettings, RunSettings, Settings
from aion_core.model.config import PRESETS, AionConfig

#: Where the presets of whole runs are.
RUNS = "aion_core.train.presets"


class Source(Settings):
    """Token stores that are sampled as one: files, or folders of them."""

    stores: tuple[Path, ...] = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0, description="share of the samples, relative to other sources")


class DataSettings(Settings):
    """What is trained on, and what is held out."""

    train: tuple[Source, ...] = Field(min_length=1)
    validation: tuple[Path, ...] = Field(default=(), description="stores to evaluate on; default: those of `train`")
    modalities: tuple[str, ...] | None = Field(default=None, description="default: all that the stores have")
    batch_size: int = Field(default=64, ge=1, description="samples per forward pass, of all processes together")
    accumulate: int = Field(default=1, ge=1, description="forward passes per optimiser step")
    split: SplitConfig = SplitConfig()
    accept_fingerprints: tuple[str, ...] = Field(default=(), description="keys whose other fingerprint is intended")


class ModelSettings(Settings):
    """A preset of the paper, with fields of `AionConfig` to override it; or a trained model to begin with.

    With `start`, the shape is that model's, and what is said of it here must agree.
    """

    preset: str | None = None
    start: str | None = Field(
        default=None,
        description="weights to begin with: a checkpoint, run, model or release, in a folder or on the Hub",
    )
    grow: tuple[str, ...] = Field(default=(), description="modalities of the stores to append to the trained model")
    freeze_old: bool = Field(default=False, description="train only what was appended last")
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "config" in values:
            return values
        own = {name: value for name, value in values.items() if name in cls.model_fields}
        return {**own, "config": {name: value for name, value in values.items() if name not in own}}

    @model_validator(mode="after")
    def _builds(self) -> Self:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"no preset {self.preset!r} ({', '.join(PRESETS)}).{did_you_mean(self.preset, PRESETS)}")
        try:
            self.build()
        except ValidationError as error:
            raise ValueError(toml.sentence(error, AionConfig).removesuffix(".")) from None
        return self

    @property
    def given(self) -> dict[str, Any]:
        """What is said of the model's shape."""
        return {**PRESETS.get(self.preset or "", {}), **self.config}

    def build(self) -> AionConfig:
        """Return the model's configuration."""
        return AionConfig(**self.given)


class LossSettings(Settings):
    """How the modalities' cross-entropies are weighed against each other (REFERENCE section 3)."""

    by: Literal["modality", "token"] = "modality"
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="key: weight; 1 where not named"
    )


class Conditional(Settings):
    """A held-out loss to report: one modality predicted from some others."""

    target: str
    given: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.target in self.given or len(set(self.given)) < len(self.given):
            raise ValueError(f"{self.target} from {', '.join(self.given)}: name each modality once")
        return self


class ParallelSettings(Settings):
    """How several processes share the model, and what is kept for the backward pass; none of it changes the loss.

    With ``sharding = "zero2"``, gradients and optimiser states are sharded, and each weight is gathered once a step;
    ``"full"`` frees gathered weights after each block and gathers them again for the backward pass.
    """

    sharding: Literal["zero2", "full"] = "zero2"
    replicate: int = Field(default=1, ge=1, description="groups that shard on their own (HSDP): usually the nodes")
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        default="none", description="selective: all but matrix products and attention is computed again; full: all"
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto", description="compile the model's blocks; auto: on a GPU"
    )


class EvaluateSettings(Settings):
    """Held-out losses, on sky cells that training never sees."""

    every: int = Field(default=1000, ge=1, description="steps")
    samples: int = Field(default=2048, ge=1, description="held-out objects, at most")
    conditional: tuple[Conditional, ...] = ()
    pairs: int = Field(
        default=0, ge=0, description="every modality from every other one that so many held-out objects have; 0: none"
    )


class TrainConfig(Settings):
    """A whole training run.

    Examples
    --------
    >>> config = TrainConfig.model_validate({
    ...     "run": {"folder": "runs/first"}, "data": {"train": [{"stores": ["stores"]}]},
    ...     "optimizer": {"steps": 100}, "model": {"preset": "aion-b"}})
    >>> config.masking.input_budget
    256
    """

    run: RunSettings
    data: DataSettings
    model: ModelSettings = ModelSettings(preset="aion-b")
    masking: MaskingConfig = MaskingConfig()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings
    parallel: ParallelSettings = ParallelSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    @classmethod
    def from_toml(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
        """Read a TOML file and apply overrides such as ``optimizer.lr=1e-4``; relative paths are the caller's.

        With ``preset = "aion-b"`` at its top, the file is laid over that preset.
        """
        values = toml.read_toml(path)
        toml.override(values, overrides)
        if (name := values.pop("preset", None)) is not None:
            values = toml.merge(_preset(name), values)
        return cls.parse(values, str(path))

    def accepting(self, keys: Sequence[str]) -> TrainConfig:
        """Return the configuration with further keys whose other fingerprint is intended."""
        accepted = (*self.data.accept_fingerprints, *keys)
        return self.model_copy(update={"data": self.data.model_copy(update={"accept_fingerprints": accepted})})

    def growing(self, keys: Sequence[str], freeze_old: bool = False) -> TrainConfig:
        """Return the configuration with further modalities to append, and whether only they are trained."""
        settings = {"grow": (*self.model.grow, *keys), "freeze_old": self.model.freeze_old or freeze_old}
        return self.model_copy(update={"model": self.model.model_copy(update=settings)})

    @classmethod
    def parse(cls, values: Any, where: str = "the configuration") -> TrainConfig:
        """Validate a dictionary; the first fault is an `AionError` of one sentence."""
        return toml.parse(cls, values, where)


def preset_names() -> list[str]:
    """Return the names of the presets of whole runs."""
    return sorted(file.name.removesuffix(".toml") for file in files(RUNS).iterdir() if file.name.endswith(".toml"))


def _preset(name: Any) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        raise AionError(f"There is no preset {name!r} ({', '.join(names)}).{did_you_mean(str(name), names)}")
    return toml.read_toml(str(files(RUNS) / f"{name}.toml"))
