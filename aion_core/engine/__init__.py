"""What the trainings of tokenizers and of the model share: optimiser, schedule, checkpoints, metrics, signals."""

from aion_core.engine.checkpoint import Checkpoint, Checkpoints
from aion_core.engine.metrics import MetricsLog
from aion_core.engine.optimizer import build_optimizer, learning_rate, set_learning_rate
from aion_core.engine.settings import CheckpointSettings, OptimizerSettings
from aion_core.engine.signals import StopFlag

__all__ = [
    "Checkpoint",
    "CheckpointSettings",
    "Checkpoints",
    "MetricsLog",
    "OptimizerSettings",
    "StopFlag",
    "build_optimizer",
    "learning_rate",
    "set_learning_rate",
]
