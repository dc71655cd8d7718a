"""What decides a demo's result, and how large everything in it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aion_core.contract import AionError
from aion_core.data.split import SplitConfig

#: A fifth of the sky is held out, in cells of 1.7 arcmin: the mock's fields are 6 arcmin wide.
SPLIT = SplitConfig(fraction=0.2, order=11)
#: Fewest held-out objects for which a number is worth a line.
FEWEST = 12
FEWEST_OBJECTS = 40
OBJECTS, QUICK_OBJECTS = 2000, 500


@dataclass(frozen=True)
class Phase:
    """Part of the model's training: optimiser steps, samples of a step, and the learning rate."""

    steps: int
    batch: int
    lr: float
    warmup: int


@dataclass(frozen=True)
class Sizes:
    """How much is trained.

    Attributes
    ----------
    steps
        Of the network tokenizers, by kind of modality; others are left out.
    copies
        Views of each object that the model is trained on.
    model
        The transformer's configuration.
    numbers, everything, question
        Its training on numbers alone, which are few tokens and learned in many cheap steps, then on everything, and
        of a copy on the one question that posteriors answer.
    """

    steps: dict[str, int]
    copies: int
    model: dict[str, int]
    numbers: Phase
    everything: Phase
    question: Phase


FULL = Sizes(
    steps={"image": 1400, "spectrum": 200, "scalar_field": 300},
    copies=24,
    model={"dim": 64, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 4},
    numbers=Phase(steps=800, batch=128, lr=3e-3, warmup=50),
    everything=Phase(steps=220, batch=96, lr=2e-3, warmup=10),
    question=Phase(steps=640, batch=96, lr=3e-3, warmup=10),
)
QUICK = Sizes(
    steps={"image": 150, "spectrum": 80, "scalar_field": 80},
    copies=8,
    model={"dim": 64, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 4},
    numbers=Phase(steps=200, batch=64, lr=3e-3, warmup=50),
    everything=Phase(steps=60, batch=64, lr=2e-3, warmup=10),
    question=Phase(steps=120, batch=64, lr=2e-3, warmup=10),
)


@dataclass(frozen=True)
class DemoSettings:
    """What a user chooses.

    Attributes
    ----------
    data
        Folder of real survey files, besides those that installed readers name.
    objects
        Of the mock sky.
    effort
        How long everything is trained, in units of the sizes above: tests take less than 1.
    """

    data: Path | None = None
    objects: int = OBJECTS
    quick: bool = False
    effort: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objects < FEWEST_OBJECTS:
            raise AionError(f"--objects {self.objects} is too few to learn from; {FEWEST_OBJECTS} or more.")
        if self.data is not None and not self.data.exists():
            raise AionError(f"{self.data}: there is no such file or folder of survey files.")
        if not 0 < self.effort <= 100:
            raise AionError(f"--effort {self.effort} is out of range; above 0, and 100 at most.")

    @property
    def sizes(self) -> Sizes:
        return QUICK if self.quick else FULL

    def scaled(self, steps: int) -> int:
        """Return a number of steps at the effort chosen, at least 2."""
        return max(2, round(steps * self.effort))

    def document(self) -> dict[str, Any]:
        """Return what must be the same for a demo to be continued, as JSON."""
        return {
            "data": str(self.data) if self.data else None,
            "objects": self.objects,
            "quick": self.quick,
            "effort": self.effort,
            "seed": self.seed,
        }
