"""Training a model on token stores."""

from aion_core.train.config import TrainConfig
from aion_core.train.evaluation import HeldOut
from aion_core.train.trainer import Outcome, Progress, Trainer

__all__ = ["HeldOut", "Outcome", "Progress", "TrainConfig", "Trainer"]
