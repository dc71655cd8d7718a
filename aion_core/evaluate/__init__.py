"""What a model knows: posteriors beside the truth, linear probes, neighbours. Names are resolved on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "BinnedPosterior": "aion_core.evaluate.posterior",
    "Calibration": "aion_core.evaluate.posterior",
    "Probe": "aion_core.evaluate.probe",
    "calibrate": "aion_core.evaluate.posterior",
    "embed_groups": "aion_core.evaluate.inference",
    "linear_probe": "aion_core.evaluate.probe",
    "nearest": "aion_core.evaluate.neighbours",
    "scalar_posterior": "aion_core.evaluate.inference",
}

if TYPE_CHECKING:
    from aion_core.evaluate.inference import embed_groups as embed_groups
    from aion_core.evaluate.inference import scalar_posterior as scalar_posterior
    from aion_core.evaluate.neighbours import nearest as nearest
    from aion_core.evaluate.posterior import BinnedPosterior as BinnedPosterior
    from aion_core.evaluate.posterior import Calibration as Calibration
    from aion_core.evaluate.posterior import calibrate as calibrate
    from aion_core.evaluate.probe import Probe as Probe
    from aion_core.evaluate.probe import linear_probe as linear_probe

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'aion_core.evaluate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
