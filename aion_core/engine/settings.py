"""Settings that both trainings have; frozen, and strict about names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """A frozen section of a configuration file; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """AdamW with linear warm-up, then a schedule; defaults are the paper's for the model (REFERENCE section 3).

    Without weight decay, AdamW is Adam.
    """

    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    embedding_lr: float = Field(default=1.0, gt=0, description="rate of token embeddings, in units of lr")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="after the warm-up")
    final_lr: float = Field(default=0.0, ge=0, description="learning rate at the last step of a cosine")
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.05, ge=0, description="of weight matrices; embeddings and norms have none")
    warmup_steps: int = Field(default=0, ge=0)
    steps: int = Field(ge=1, description="optimiser steps of the whole run")
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest gradient norm; none: no clipping")
    max_skipped: int = Field(default=10, ge=1, description="non-finite steps in a row before the run is given up")

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        return self


class RunSettings(Settings):
    """Where the run lives, and what it runs on."""

    folder: Path
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1 …")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="of matrix products; auto: bf16 where the device has instructions for it, else fp32"
    )
    log_every: int = Field(default=10, ge=1, description="steps between lines of metrics.jsonl")
    tensorboard: bool = Field(default=False, description="the same numbers for TensorBoard")


class CheckpointSettings(Settings):
    """When checkpoints are written, and how many are kept."""

    every: int = Field(default=1000, ge=1, description="steps")
    keep: int = Field(default=3, ge=1, description="latest checkpoints that stay")
