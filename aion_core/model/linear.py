"""Linear layers and attention: what they keep for the backward pass, and bfloat16 at full speed where the processor has
no instructions for it.

Under autocast a CPU without them imitates each instruction, three to four times more slowly than it computes in
float32. Products of bfloat16 numbers are exact in float32, and what has such instructions adds them up in float32 too:
so numbers are rounded to bfloat16, multiplied in float32, and the sums rounded. That is the same arithmetic but for the
order of sums, and for gradients of inputs in float32, which are not rounded on their way there; what is kept for the
backward pass is in bfloat16 as ever.

What is cheap to compute is computed again in the backward pass and not kept: the input of a feed-forward layer's last
product everywhere (half of what a block would keep, for one per cent of its time), and on CPUs, where memory is what a
training lacks first, what lies between the products of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from aion_core.engine.device import multiplies_bf16

BF16 = torch.bfloat16
#: Products of matrices, and what the names of attention's operations begin with.
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
ATTENTION = ("_scaled_dot_product", "_flash_attention", "flex_attention")
#: Whether this processor has instructions for it.
NATIVE = multiplies_bf16(torch.device("cpu"))


class Linear(nn.Linear):
    """``torch.nn.Linear`` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x [..., K]`` times ``weight [O, K]``, plus ``bias [O]``: ``[..., O]``, in bfloat16 under autocast."""
    if rounds(x):
        return _Rounded.apply(_itself, weight, bias, x)  # type: ignore[no-untyped-call]
    return F.linear(x, weight, bias)


def linear_of(
    make: Callable[..., Tensor], inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return `linear` of ``make(*inputs)``, which has no parameters and is made again in the backward pass."""
    if not (torch.is_grad_enabled() and inputs[0].requires_grad):
        return linear(make(*inputs), weight, bias)
    if rounds(inputs[0]):
        return _Rounded.apply(make, weight, bias, *inputs)  # type: ignore[no-untyped-call]
    return again(lambda *tensors: F.linear(make(*tensors), weight, bias), *inputs)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return scaled dot-product attention of ``[B, H, N, d]`` queries, keys and values, in the type of the values."""
    if rounds(v):
        with torch.autocast("cpu", enabled=False):
            exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
        return exact.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def projected(heads: Callable[..., Tensor], proj: Linear, *inputs: Tensor | None) -> Tensor:
    """Return ``proj(heads(*inputs))``; on a CPU, what attention is given is made again in the backward pass.

    What it gives is kept, for `proj` needs it; where numbers are rounded on the way, it is computed again, too.
    """
    x = inputs[0]
    if x is None or not (torch.is_grad_enabled() and x.requires_grad and on_cpu(x)):
        return cast(Tensor, proj(heads(*inputs)))
    if rounds(x):
        return cast(Tensor, proj(again(heads, *inputs)))
    return cast(Tensor, proj(again(heads, *inputs, context_fn=keeping_products)))


def keeping_products() -> Any:
    """Let a checkpoint keep what costs more to compute than to read again: products of matrices, and attention."""
    return create_selective_checkpoint_contexts(_keep)


def _keep(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = operation.name().partition("::")[2]
    kept = name.partition(".")[0] in PRODUCTS or name.startswith(ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def again(function: Callable[..., Tensor], *inputs: Tensor | None, **options: Any) -> Tensor:
    """Call a function whose intermediate results are not kept for the backward pass.

    Recomputation ends when all is there that backward needs: a product of matrices at the end is not done twice.
    """
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **options))


def on_cpu(x: Tensor) -> bool:
    """Whether x is computed with as it is on this processor.

    A tensor without contents is there to plan for another device.
    """
    return x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def rounds(x: Tensor) -> bool:
    """Whether products with x are to be in bfloat16, by rounding numbers that are multiplied in float32."""
    return not NATIVE and on_cpu(x) and torch.is_autocast_enabled("cpu")


def _itself(x: Tensor) -> Tensor:
    return x


class _Rounded(torch.autograd.Function):
    """`linear` of ``make(*inputs)``: keeps the inputs, or where nothing is made, what it rounded."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        half = make(*inputs).to(BF16)
        ctx.make = make
        ctx.save_for_backward(weight, *([half] if make is _itself else inputs))
        ctx.types = inputs[0].dtype, weight.dtype, None if bias is None else bias.dtype
        with torch.autocast("cpu", enabled=False):
            return F.linear(half.float(), _round(weight), None if bias is None else _round(bias)).to(BF16)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.types
        _, needs_weight, needs_bias, *needs = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            made, leaves = _made(ctx.make, saved) if ctx.make is not _itself else (saved[0], [])
            grad = _round(grad)
            rows = grad.flatten(0, -2)
            of_made = (grad @ _round(weight)).to(made.dtype if leaves else of_x) if any(needs) else None
            back = torch.autograd.grad(made, leaves, of_made) if leaves else [of_made]
            # Rounded, as what multiplies in bfloat16 gives it: so half of it can be kept without a loss.
            product = rows.T @ made.detach().to(BF16).flatten(0, -2).float() if needs_weight else None
            return (
                None,
                None if product is None else product.to(BF16).to(of_weight),
                rows.sum(0).to(of_bias) if needs_bias else None,
                *back,
            )


def _made(make: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Make it again from inputs that gradients can be asked for."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        return make(*leaves), leaves


def _round(x: Tensor) -> Tensor:
    return x.to(BF16).float()
