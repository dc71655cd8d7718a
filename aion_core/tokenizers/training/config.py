"""The configuration of a tokenizer's training, frozen and validated once; and the presets that come with it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from aion_core.contract import AionError, did_you_mean
from aion_core.contract.modality import Kind
from aion_core.engine import toml
from aion_core.engine.settings import Beta, CheckpointSettings, OptimizerSettings, RunSettings, Settings

PRESETS = "aion_core.tokenizers.training.presets"


class HoldOutSettings(Settings):
    """Which objects are never trained on: patches of sky; by identifier where a position is unknown."""

    fraction: float = Field(default=0.02, ge=0, lt=1)
    order: int = Field(default=6, ge=0, le=29, description="HEALPix order of a patch; 6 is 0.9 degrees")
    seed: int = Field(default=0, ge=0)


class DataSettings(Settings):
    """How observations are drawn."""

    batch_size: int = Field(default=64, ge=1, description="objects of an optimiser step, all processes together")
    ratio: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None, description="share of each PATH, relative to the others; none: all are one source"
    )
    window: int = Field(default=512, ge=1, description="objects that are shuffled together")
    interleave: int = Field(default=4, ge=1, description="files that are read in turn")
    lanes: int | None = Field(default=None, ge=1, description="parts of the data; default: one for each process")
    prefetch: int = Field(default=2, ge=0, description="batches prepared ahead")
    band_dropout: float = Field(
        default=0.0, ge=0, le=1, description="share of the images that lose bands, so that such images are known"
    )
    split: HoldOutSettings = HoldOutSettings()


class TokenizerOptimizer(OptimizerSettings):
    """As the model's, with the defaults of AdamW, and a moving average of the weights where asked for."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0, description="of weight matrices and kernels")
    encoder_lr: float = Field(
        default=1.0,
        gt=0,
        description="rate of all that codes depend on, in units of lr: a slow encoder keeps its codes",
    )
    average: float | None = Field(default=None, gt=0, lt=1, description="decay of the averaged weights, as 0.9999")


class EvaluateSettings(Settings):
    """Reconstruction of held-out objects."""

    every: int = Field(default=1000, ge=1, description="steps")
    objects: int = Field(default=512, ge=1, description="held-out objects of each modality, at most")
    page: int = Field(default=6, ge=0, description="objects on the page of reconstructions; 0: no page")


class TokenizerConfig(Settings):
    """A whole training.

    Examples
    --------
    >>> TokenizerConfig.preset("aion1-spectrum", ["run.folder=run", "data.batch_size=8"]).data.batch_size
    8
    """

    kind: Kind | None = Field(default=None, description="modalities that it is for; none: any")
    train_only: Literal["all", "new"] = Field(default="all", description="new: what growing has added, alone")
    run: RunSettings
    data: DataSettings = DataSettings()
    network: dict[str, Any] = Field(default_factory=dict, description="settings of the tokenizer's own class")
    optimizer: TokenizerOptimizer
    evaluate: EvaluateSettings = EvaluateSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    @classmethod
    def from_toml(cls, path: str | Path, overrides: Sequence[str] = (), folder: str | None = None) -> TokenizerConfig:
        """Read a TOML file and apply overrides such as ``optimizer.lr=1e-4``; `folder` is the run's default."""
        values = toml.read_toml(path)
        toml.override(values, overrides)
        if folder is not None and isinstance(run := values.setdefault("run", {}), dict):
            run.setdefault("folder", folder)
        return toml.parse(cls, values, str(path))

    @classmethod
    def preset(cls, name: str, overrides: Sequence[str] = (), folder: str | None = None) -> TokenizerConfig:
        """Return a preset with overrides."""
        names = preset_names()
        if name not in names:
            raise AionError(f"There is no preset {name!r} ({', '.join(names)}).{did_you_mean(name, names)}")
        return cls.from_toml(str(files(PRESETS) / f"{name}.toml"), overrides, folder)


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(file.name.removesuffix(".toml") for file in files(PRESETS).iterdir() if file.name.endswith(".toml"))
