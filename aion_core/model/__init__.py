"""The encoder–decoder transformer: configuration, embeddings, blocks, and `AionModel`."""

from aion_core.model.aion import AionModel, Embeddings
from aion_core.model.config import PRESETS, AionConfig

__all__ = ["PRESETS", "AionConfig", "AionModel", "Embeddings"]
