"""The toolkit that plugins build tokenizers from. Names are resolved on first use (PEP 562)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Tokenizer": "aion_core.tokenizers.base",
    "build_tokenizer": "aion_core.tokenizers.base",
    "load_tokenizer": "aion_core.tokenizers.base",
    "TokenizerSet": "aion_core.tokenizers.sets",
}

if TYPE_CHECKING:
    from aion_core.tokenizers.base import Tokenizer as Tokenizer
    from aion_core.tokenizers.base import build_tokenizer as build_tokenizer
    from aion_core.tokenizers.base import load_tokenizer as load_tokenizer
    from aion_core.tokenizers.sets import TokenizerSet as TokenizerSet

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'aion_core.tokenizers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
