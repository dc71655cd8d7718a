"""What a training runs on: the device, the precision of its forward passes, and the memory that it took."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor

from aion_core.contract import AionError


def choose_device(name: str) -> torch.device:
    """Return the device of a name: auto, cpu, cuda, cuda:1 …; under torchrun, each process has a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise AionError(f"run.device is {name!r}; expected auto, cpu, or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise AionError(f"run.device is {name!r}, but this machine has no usable GPU.")
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def without_denormals() -> Iterator[None]:
    """Let a CPU take numbers below 1.2e-38 for 0: it is some hundred times slower with them.

    Activations that fade (GELU of −13) and their gradients are full of them: the training of an image tokenizer is
    more than twice as fast without. To be entered before the first tensor is computed with, since threads of torch
    take the setting over when they begin.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16.

    A CPU without them imitates them, about three times more slowly than it computes in float32.
    """
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def computes_bf16(device: torch.device, precision: str) -> bool:
    """Return whether matrix products are in bfloat16 for a run's `precision`: auto, bf16 or fp32."""
    return precision == "bf16" or (precision == "auto" and multiplies_bf16(device))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the precision of forward passes: bf16 over float32 parameters, or float32 throughout."""
    half = computes_bf16(device, precision)
    return torch.autocast(device.type, dtype=torch.bfloat16) if half else nullcontext()


def on_its_way(numbers: Tensor) -> Callable[[], list[float]]:
    """Begin to copy numbers to the host; what is returned waits for them, but not for what is queued behind them."""
    if numbers.device.type != "cuda":
        return numbers.tolist
    held = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    held.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.current_stream(numbers.device).record_event()

    def read() -> list[float]:
        arrived.synchronize()
        return held.tolist()

    return read


def keep_memory() -> None:
    """Let the allocator of a CPU's memory keep what is freed, in pieces of up to 32 MB, where it can (glibc)."""
    if tune := getattr(ctypes.CDLL(None), "mallopt", None):
        tune(-1, -1)  # M_TRIM_THRESHOLD: nothing is given back unasked
        tune(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its most: what is larger comes from the system and goes back to it


class _Heap(ctypes.Structure):
    """What glibc's ``mallinfo2`` tells of the allocator; the ninth number is what it holds free, in bytes."""

    _fields_: ClassVar = [(f"n{i}", ctypes.c_size_t) for i in range(10)]


def give_back_memory(most: int) -> None:
    """Hand what the allocator of a CPU's memory holds free back to the system, where it can (glibc).

    Unless that is more than `most` bytes: then it lies in pieces that what comes next fits, and would have to be
    fetched again.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return
    libc.mallinfo2.restype = _Heap
    if libc.mallinfo2().n8 <= most:
        libc.malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use: of the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
