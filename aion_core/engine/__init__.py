"""What the trainings of tokenizers and of the model share: optimiser, schedule, checkpoints, metrics, ranks."""

from aion_core.engine.average import WeightAverage
from aion_core.engine.checkpoint import Checkpoint, Checkpoints
from aion_core.engine.device import (
    autocast,
    choose_device,
    give_back_memory,
    keep_memory,
    peak_memory,
    without_denormals,
)
from aion_core.engine.distributed import World, open_world
from aion_core.engine.metrics import MetricsLog
from aion_core.engine.optimizer import (
    build_optimizer,
    halve_gradients,
    learning_rate,
    set_learning_rate,
    take_step,
    total_norm,
)
from aion_core.engine.settings import CheckpointSettings, OptimizerSettings, RunSettings, Settings
from aion_core.engine.signals import StopFlag
from aion_core.engine.skipping import SkipRule
from aion_core.engine.toml import differences

__all__ = [
    "Checkpoint",
    "CheckpointSettings",
    "Checkpoints",
    "MetricsLog",
    "OptimizerSettings",
    "RunSettings",
    "Settings",
    "SkipRule",
    "StopFlag",
    "WeightAverage",
    "World",
    "autocast",
    "build_optimizer",
    "choose_device",
    "differences",
    "give_back_memory",
    "halve_gradients",
    "keep_memory",
    "learning_rate",
    "open_world",
    "peak_memory",
    "set_learning_rate",
    "take_step",
    "total_norm",
    "without_denormals",
]
