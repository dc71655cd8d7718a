"""In which type a network computes when it is asked to be fast."""

from __future__ import annotations

import torch


def fast_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies matrices in it, else float32.

    A CPU without instructions for bfloat16 imitates them, four times more slowly than it does float32.
    """
    if device.type != "cpu":
        return torch.bfloat16
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
