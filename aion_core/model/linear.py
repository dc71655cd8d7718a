"""Linear layers and attention: what they keep for the backward pass, and bfloat16 on a CPU.

Under autocast a CPU would keep a rounded copy of each weight, and round its gradient into float32 and back. Here copies
are made anew in the backward pass, or a copy and then the gradient have one piece of memory in turn (`share_memory`).
Backward through attention is by its formula: as products of matrices it takes half the time of the fused kernel.

A CPU without instructions for bfloat16 imitates each, three to four times more slowly than it computes in float32.
Products of bfloat16 numbers are exact in float32, and what has such instructions adds them up in float32 too: so there,
numbers are rounded to bfloat16, multiplied in float32, and the sums rounded. That is the same arithmetic but for the
order of sums, and for gradients of inputs in float32, which are not rounded on their way there; what is kept for the
backward pass is in bfloat16 as ever.

What is cheap to compute is computed again in the backward pass and not kept: the input of a feed-forward layer's last
product everywhere (half of what a block would keep, for one per cent of its time), and on CPUs, where memory is what a
training lacks first, what lies between the products of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
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
#: Bytes that what is made of one set of scores in the backward pass of attention may take: a processor's cache.
CACHE = 2 << 20
#: Whether this processor has instructions for it.
NATIVE = multiplies_bf16(torch.device("cpu"))


class Linear(nn.Linear):
    """``torch.nn.Linear`` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x [..., K]`` times ``weight [O, K]``, plus ``bias [O]``: ``[..., O]``, in bfloat16 under autocast."""
    if halves(x):
        return _Half.apply(_itself, weight, bias, x)  # type: ignore[no-untyped-call]
    return F.linear(x, weight, bias)


def linear_of(
    make: Callable[..., Tensor], inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return `linear` of ``make(*inputs)``, which has no parameters and is made again in the backward pass."""
    if not (torch.is_grad_enabled() and inputs[0].requires_grad):
        return linear(make(*inputs), weight, bias)
    if halves(inputs[0]):
        return _Half.apply(make, weight, bias, *inputs)  # type: ignore[no-untyped-call]
    return again(lambda *tensors: F.linear(make(*tensors), weight, bias), *inputs)


def rounded(x: Tensor) -> Tensor:
    """Return what several products are given: where each would round it for itself and keep that, rounded once."""
    return x.to(BF16) if halves(x) else x


def share_memory(weights: Iterable[nn.Parameter]) -> None:
    """Give weights whose gradients are kept in bfloat16 memory for their rounded copy, or else their gradient.

    From then on, a forward pass that is to be differentiated needs its backward pass before the next.
    """
    for weight in weights:
        if weight.requires_grad and getattr(weight, "grad_dtype", None) == BF16:
            weight.shared = torch.empty_like(weight, dtype=BF16)  # type: ignore[attr-defined]


def attended(make: Callable[..., Sequence[Tensor]], mask: Tensor | None, *inputs: Tensor) -> Tensor:
    """Return the attention ``[B, N, H·d]`` of the ``[B, N, H, d]`` queries, keys and values ``make(*inputs)``."""
    q, k, v = make(*inputs)
    # Under autocast the norms return float32 while v is in bfloat16; attention wants one type.
    q, k = q.to(v.dtype), k.to(v.dtype)
    return attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask).transpose(1, 2).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return scaled dot-product attention of ``[B, H, N, d]`` queries, keys and values, in the type of the values."""
    if halves(v) and not NATIVE:
        with torch.autocast("cpu", enabled=False):
            exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
        return exact.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def projected(
    make: Callable[..., Sequence[Tensor]],
    norms: Iterable[nn.Module],
    proj: Linear,
    mask: Tensor | None,
    *inputs: Tensor,
) -> Tensor:
    """Return ``proj(attended(make, mask, *inputs))``; on a CPU, what `make` gives is made again in the backward pass.

    `norms` are what `make` has parameters in. What attention gives is kept, for `proj` needs it.
    """
    x = inputs[0]
    if not (torch.is_grad_enabled() and x.requires_grad and on_cpu(x)):
        return cast(Tensor, proj(attended(make, mask, *inputs)))
    # The switch of the fused kernel is that of every device; the kernel itself divides by how many there are.
    if not halves(x) and not (torch.backends.cuda.flash_sdp_enabled() and all(t.numel() for t in inputs)):
        return cast(Tensor, proj(again(partial(attended, make, mask), *inputs, context_fn=keeping_products)))
    trained = [p for norm in norms for p in norm.parameters() if p.requires_grad]
    function = _Attended if halves(x) else _Fused
    heads = function.apply(make, mask, len(inputs), *inputs, *trained)  # type: ignore[no-untyped-call]
    return cast(Tensor, proj(heads))


def keeping_products() -> Any:
    """Let a checkpoint keep what costs more to compute than to read again: products of matrices, and attention."""
    return create_selective_checkpoint_contexts(_keep)


def _keep(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = operation.name().partition("::")[2]
    kept = name.partition(".")[0] in PRODUCTS or name.startswith(ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def again(function: Callable[..., Tensor], *inputs: Tensor, **options: Any) -> Tensor:
    """Call a function whose intermediate results are not kept for the backward pass.

    Recomputation ends when all is there that backward needs: a product of matrices at the end is not done twice.
    """
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **options))


def on_cpu(x: Tensor) -> bool:
    """Whether x is computed with as it is on this processor.

    A tensor without contents is there to plan for another device.
    """
    return x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def halves(x: Tensor) -> bool:
    """Whether products with x are to be in bfloat16, by our own arithmetic and not by autocast's."""
    return on_cpu(x) and torch.is_autocast_enabled("cpu")


def _itself(x: Tensor) -> Tensor:
    return x


class _Half(torch.autograd.Function):
    """`linear` of ``make(*inputs)``: keeps the inputs, or where nothing is made, what it rounded."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        half = make(*inputs).to(BF16)
        shared = getattr(weight, "shared", None) if weight.grad is None and ctx.needs_input_grad[1] else None
        low = weight.to(BF16) if shared is None else shared.copy_(weight)
        ctx.make, ctx.shared = make, shared is not None
        ctx.save_for_backward(weight if shared is None else shared, *([half] if make is _itself else inputs))
        ctx.types = inputs[0].dtype, _gradients_type(weight), None if bias is None else bias.dtype
        with torch.autocast("cpu", enabled=False):
            return F.linear(_exact(half), _exact(low), None if bias is None else _exact(bias.to(BF16))).to(BF16)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.types
        _, needs_weight, needs_bias, *needs = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            made, leaves = _made(ctx.make, saved) if ctx.make is not _itself else (saved[0], [])
            grad = _exact(grad.to(BF16))
            rows = grad.flatten(0, -2)
            of_made = (grad @ _exact(weight.to(BF16))).to(made.dtype if leaves else of_x) if any(needs) else None
            back = torch.autograd.grad(made, leaves, of_made) if leaves else [of_made]
            product = None
            if needs_weight:
                # Rounded, as what multiplies in bfloat16 gives it: so half of it can be kept without a loss.
                factors = rows.T, _exact(made.detach().to(BF16).flatten(0, -2))
                # The copy has done its work. A second name of its memory can be taken for the gradient as it is.
                product = _multiply(*factors, weight).detach() if ctx.shared else _multiply(*factors).to(of_weight)
            return None, product, rows.sum(0).to(of_bias) if needs_bias else None, *back


class _Attended(torch.autograd.Function):
    """`attended` of ``make(*inputs)``, whose parameters follow the inputs: keeps the inputs."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Any], mask: Tensor | None, count: int, *tensors: Tensor) -> Tensor:
        inputs = tensors[:count]
        ctx.make, ctx.parameters = make, tensors[count:]
        ctx.save_for_backward(mask, *inputs)
        with torch.autocast("cpu", enabled=False):
            made = make(*(t.detach() for t in inputs))
        return attended(lambda: made, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mask, *inputs = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            made, leaves = _made(ctx.make, inputs)
            grads = _through_attention([t.detach() for t in made], mask, grad.unflatten(-1, made[0].shape[2:]))
            return None, None, None, *torch.autograd.grad(made, [*leaves, *ctx.parameters], grads)


class _Fused(torch.autograd.Function):
    """`_Attended` in float32, by the kernel that PyTorch chooses, and bit by bit what it gives.

    It also keeps what that kernel's own backward pass asks for: the sums of softmax, and what attention gave.
    """

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Any], mask: Tensor | None, count: int, *tensors: Tensor) -> Tensor:
        inputs = tensors[:count]
        ctx.make, ctx.parameters = make, tensors[count:]
        q, k, v = (t.transpose(1, 2) for t in make(*(t.detach() for t in inputs)))
        bias = None if mask is None else _bias(mask, -torch.inf, q.dtype)
        heads, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)
        heads = heads.transpose(1, 2).flatten(2)  # as it lies
        ctx.save_for_backward(mask, heads, sums, *inputs)
        return cast(Tensor, heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mask, heads, sums, *inputs = ctx.saved_tensors
        made, leaves = _made(ctx.make, inputs)
        shape = made[0].shape[2:]
        q, k, v, heads, grad = (
            t.detach().transpose(1, 2) for t in (*made, heads.unflatten(-1, shape), grad.unflatten(-1, shape))
        )
        bias = None if mask is None else _bias(mask, -torch.inf, q.dtype)
        through = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grads = [t.transpose(1, 2) for t in through(grad, q, k, v, heads, sums, 0.0, False, attn_mask=bias)]
        return None, None, None, *torch.autograd.grad(made, [*leaves, *ctx.parameters], grads)


def _bias(mask: Tensor, never: float, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores: `never` where a query may not attend."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(mask.logical_not(), never)


def _through_attention(made: Sequence[Tensor], mask: Tensor | None, grad: Tensor) -> Sequence[Tensor]:
    """Return the gradients of the queries, keys and values ``[B, N, H, d]``, given that of what they attend to.

    A few samples after another: so all that is ``[…, N, M]`` stays in the cache of a processor.
    """
    q, k, v = made
    size, n, heads, d = q.shape
    dtype = _exact(q[:0]).dtype
    few = max(1, CACHE // (heads * n * k.shape[1] * dtype.itemsize))
    bias = q.new_zeros((), dtype=dtype)
    if mask is not None:
        # No weight is left before such a number. Where a query may attend to nothing, nothing depends on its weights.
        bias = _bias(mask, -1e30, dtype)
        grad = grad * mask.any(-1).transpose(1, 2)[..., None]
    bias = bias.expand(size, heads, n, k.shape[1])
    found = [torch.empty_like(t) for t in made]
    for first in range(0, size, few):
        part = slice(first, first + few)
        qi, ki, vi, gi = (_exact(t[part].transpose(1, 2).flatten(0, 1).contiguous()) for t in (q, k, v, grad))
        weights = torch.baddbmm(bias[part].flatten(0, 1), qi, ki.mT, alpha=d**-0.5)
        torch.softmax(weights, -1, out=weights)
        slopes = gi @ vi.mT
        of_v = weights.mT @ gi
        torch._softmax_backward_data(slopes, weights, -1, dtype, grad_input=slopes)
        slopes.mul_(d**-0.5)
        for whole, own in zip(found, (slopes @ ki, slopes.mT @ qi, of_v), strict=True):
            whole[part] = own.unflatten(0, (-1, heads)).transpose(1, 2)
    return found


def _made(make: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Make it again from inputs that gradients can be asked for."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        return make(*leaves), leaves


def _gradients_type(weight: Tensor) -> torch.dtype:
    """Return what a gradient is kept in: another type on its way there would be two more copies."""
    return (weight.is_leaf and getattr(weight, "grad_dtype", None)) or weight.dtype


def _exact(x: Tensor) -> Tensor:
    """Return what is in bfloat16 as this processor multiplies it."""
    return x if NATIVE else x.float()


def _multiply(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the product of two matrices in bfloat16, in the memory of `out` if there is one."""
    if NATIVE:
        # Of a transposed matrix that is the smaller one, a copy costs less than what its strides do.
        return torch.mm(a.contiguous() if a.numel() < b.numel() else a, b, out=out)
    product = a @ b
    return product.to(BF16) if out is None else out.copy_(product)
