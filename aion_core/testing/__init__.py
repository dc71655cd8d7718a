"""The conformance suite: what a plugin must hold, as tests that it inherits and as ``aion plugins check``.

Names are resolved on first use (PEP 562): the process that looks at what importing a plugin costs imports this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "PluginContract": "aion_core.testing.contract",
    "ReaderContract": "aion_core.testing.contract",
    "memory_growth": "aion_core.testing.memory",
}

if TYPE_CHECKING:
    from aion_core.testing.contract import PluginContract as PluginContract
    from aion_core.testing.contract import ReaderContract as ReaderContract
    from aion_core.testing.memory import memory_growth as memory_growth

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'aion_core.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
