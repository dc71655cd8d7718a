"""In which type a network computes: float32 and nothing less when it is to be exact, bfloat16 when it is to be fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from aion_core.engine.device import multiplies_bf16


def fast_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies matrices in it, else float32.

    A CPU without instructions for bfloat16 imitates them, four times more slowly than it does float32.
    """
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute float32 in float32, whatever the caller allows its own networks.

    cuDNN rounds the factors of convolutions to TF32 by default, matrix products are rounded where a program asks for it
    (``torch.set_float32_matmul_precision``), and autocast converts them: each of these gives other tokens.
    """
    able = torch.amp.is_autocast_available(device.type)
    with torch.autocast(device.type, enabled=False) if able else nullcontext(), ExitStack() as restore:
        found = [(part, name, value, _read(part, name)) for part, name, value in _switches()]
        for part, name, _, before in reversed(found):  # so that the older ones are restored first
            if before is not None:
                restore.callback(setattr, part, name, before)
        for part, name, value, _ in found:
            setattr(part, name, value)
        yield


class _MatrixProducts:
    """The older switch for matrix products, as an attribute."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Return what allows less than float32, as object, attribute and the value that forbids it.

    Newer switches override the older ones, and torch refuses to work where the two contradict one another.
    """
    backends: Any = torch.backends
    older = [(_MatrixProducts(), "precision", "highest"), (backends.cudnn, "allow_tf32", False)]
    if not hasattr(backends, "fp32_precision"):  # torch before 2.9
        return older
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    places = (backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
    return [*older, *((place, "fp32_precision", "ieee") for place in places)]


def _read(part: Any, name: str) -> Any:
    """Return a switch; None where the caller's own switches contradict one another, and it cannot be read."""
    try:
        return getattr(part, name)
    except RuntimeError:
        return None
