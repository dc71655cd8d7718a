"""What GPUs can do, for plans and for the share of it that a run uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from aion_core.contract import AionError, did_you_mean


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes
    ----------
    peak
        Dense bf16 matrix products, FLOP/s (data sheets; the figures with sparsity are twice that).
    memory
        Bytes that PyTorch sees, somewhat less than the name says.
    """

    title: str
    peak: float
    memory: int


GIB = 1 << 30
#: By the name that `--device` takes, which is part of what the driver calls the GPU.
GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "a100": Gpu("A100 SXM 80 GB", 312e12, int(79.2 * GIB)),
        "h100": Gpu("H100 SXM 80 GB", 989e12, int(79.1 * GIB)),
        "h200": Gpu("H200 SXM 141 GB", 989e12, int(139.8 * GIB)),
    }
)


def find_gpu(name: str) -> Gpu:
    """Return a GPU by the name that people type."""
    try:
        return GPUS[name.lower()]
    except KeyError:
        raise AionError(f"No GPU {name!r} is known ({', '.join(GPUS)}).{did_you_mean(name.lower(), GPUS)}") from None


def gpu_of(device: torch.device) -> Gpu | None:
    """Return what a device can do; None for a CPU, and for GPUs that are not in the table."""
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    for name, gpu in GPUS.items():
        if name in found.name.lower():
            return Gpu(found.name, gpu.peak, found.total_memory)
    return None
