"""Training tokenizers by gradients. Names are resolved on first use (PEP 562)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ObservationSource": "aion_core.tokenizers.training.source",
    "Outcome": "aion_core.tokenizers.training.trainer",
    "Progress": "aion_core.tokenizers.training.trainer",
    "TokenizerConfig": "aion_core.tokenizers.training.config",
    "TokenizerTrainer": "aion_core.tokenizers.training.trainer",
    "TrainingBatch": "aion_core.tokenizers.training.source",
}

if TYPE_CHECKING:
    from aion_core.tokenizers.training.config import TokenizerConfig as TokenizerConfig
    from aion_core.tokenizers.training.source import ObservationSource as ObservationSource
    from aion_core.tokenizers.training.source import TrainingBatch as TrainingBatch
    from aion_core.tokenizers.training.trainer import Outcome as Outcome
    from aion_core.tokenizers.training.trainer import Progress as Progress
    from aion_core.tokenizers.training.trainer import TokenizerTrainer as TokenizerTrainer

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'aion_core.tokenizers.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
