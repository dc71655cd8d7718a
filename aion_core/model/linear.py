"""Linear layers and attention that compute in bfloat16 at full speed where the processor has no instructions for it.

Under autocast a CPU without them imitates each instruction, three to four times more slowly than it computes in
float32. Products of bfloat16 numbers are exact in float32, and what has such instructions adds them up in float32 too:
so numbers are rounded to bfloat16, multiplied in float32, and the sums rounded. That is the same arithmetic but for the
order of sums, and for gradients of what is in float32, which are not rounded on their way there; what is kept for the
backward pass is in bfloat16 as ever.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_core.engine.device import multiplies_bf16

BF16 = torch.bfloat16
#: Whether this processor has instructions for it.
NATIVE = multiplies_bf16(torch.device("cpu"))


class Linear(nn.Linear):
    """``torch.nn.Linear`` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x [..., K]`` times ``weight [O, K]``, plus ``bias [O]``: ``[..., O]``, in bfloat16 under autocast."""
    if rounds(x):
        return _Rounded.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return F.linear(x, weight, bias)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return scaled dot-product attention of ``[B, H, N, d]`` queries, keys and values, in the type of the values."""
    if rounds(v):
        with torch.autocast("cpu", enabled=False):
            exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
        return exact.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def rounds(x: Tensor) -> bool:
    """Whether products with x are to be in bfloat16, by rounding numbers that are multiplied in float32."""
    if x.device.type != "cpu" or NATIVE or not torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    return type(x) in (Tensor, nn.Parameter)  # a tensor without contents is there to plan for another device


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = x.to(BF16)
        ctx.save_for_backward(half, weight)
        ctx.types = x.dtype, weight.dtype, None if bias is None else bias.dtype
        with torch.autocast("cpu", enabled=False):
            return F.linear(half.float(), _round(weight), None if bias is None else _round(bias)).to(BF16)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        half, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.types
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            grad = _round(grad)
            rows = grad.flatten(0, -2)
            return (
                (grad @ _round(weight)).to(of_x) if needs_x else None,
                (rows.T @ half.flatten(0, -2).float()).to(of_weight) if needs_weight else None,
                rows.sum(0).to(of_bias) if needs_bias else None,
            )


def _round(x: Tensor) -> Tensor:
    return x.to(BF16).float()
