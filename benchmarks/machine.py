"""What a benchmark ran on and with, for its JSON result."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("aion-core", "torch", "numpy", "pyarrow", "polymathic-aion")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return processor or GPU, memory, load, and the versions of what computes."""
    cpu = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": os.getloadavg()[0],
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
    }
    if not device.startswith("cuda"):
        return cpu
    gpu = torch.cuda.get_device_properties(device)
    return cpu | {"gpu": gpu.name, "gpu_memory_gib": round(gpu.total_memory / 2**30, 1), "cuda": torch.version.cuda}


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """Return the version of a package, None if it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
