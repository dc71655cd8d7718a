"""AION: plugin-based tokenizers and masked modelling for multi-survey astronomy.

The public names are resolved on first use (PEP 562), so that ``import aion_core`` costs milliseconds
and imports neither torch nor astropy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load_registry": "aion_core.plugins",
    "Registry": "aion_core.plugins",
    "ModalitySpec": "aion_core.contract",
    "TokenSpace": "aion_core.contract",
    "AionError": "aion_core.contract",
    "Image": "aion_core.observations",
    "Spectrum": "aion_core.observations",
    "Scalar": "aion_core.observations",
    "ScalarField": "aion_core.observations",
    "SourceList": "aion_core.observations",
    "Tokenizer": "aion_core.tokenizers",
    "load_tokenizer": "aion_core.tokenizers",
    "TokenStore": "aion_core.data",
    "AionModel": "aion_core.model",
    "Trainer": "aion_core.train",
}

if TYPE_CHECKING:
    from aion_core.contract import AionError as AionError
    from aion_core.contract import ModalitySpec as ModalitySpec
    from aion_core.contract import TokenSpace as TokenSpace
    from aion_core.data import TokenStore as TokenStore
    from aion_core.model import AionModel as AionModel
    from aion_core.observations import Image as Image
    from aion_core.observations import Scalar as Scalar
    from aion_core.observations import ScalarField as ScalarField
    from aion_core.observations import SourceList as SourceList
    from aion_core.observations import Spectrum as Spectrum
    from aion_core.plugins import Registry as Registry
    from aion_core.plugins import load_registry as load_registry
    from aion_core.tokenizers import Tokenizer as Tokenizer
    from aion_core.tokenizers import load_tokenizer as load_tokenizer
    from aion_core.train import Trainer as Trainer

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'aion_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
