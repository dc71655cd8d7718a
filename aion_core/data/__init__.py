"""From survey files to what the model consumes: readers, the token store, order, masking.

The public names are resolved on first use (PEP 562): finding files must not pay for pyarrow or torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ObservationBatch": "aion_core.data.reader",
    "Reader": "aion_core.data.reader",
    "Skipped": "aion_core.data.reader",
    "find_files": "aion_core.data.files",
    "find_reader": "aion_core.data.files",
    "sample_files": "aion_core.data.files",
    "tokenize_files": "aion_core.data.pipeline",
    "StoreWriter": "aion_core.data.store",
    "TokenStore": "aion_core.data.store",
    "TokenBatch": "aion_core.data.batches",
    "TokenLoader": "aion_core.data.loader",
}

if TYPE_CHECKING:
    from aion_core.data.batches import TokenBatch as TokenBatch
    from aion_core.data.files import find_files as find_files
    from aion_core.data.files import find_reader as find_reader
    from aion_core.data.files import sample_files as sample_files
    from aion_core.data.loader import TokenLoader as TokenLoader
    from aion_core.data.pipeline import tokenize_files as tokenize_files
    from aion_core.data.reader import ObservationBatch as ObservationBatch
    from aion_core.data.reader import Reader as Reader
    from aion_core.data.reader import Skipped as Skipped
    from aion_core.data.store import StoreWriter as StoreWriter
    from aion_core.data.store import TokenStore as TokenStore

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'aion_core.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
