"""bfloat16 on a CPU: the memory that a weight's copy and its gradient share, and attention's backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_core.engine import halve_gradients
from aion_core.model import AionConfig
from aion_core.model import linear as module
from aion_core.model.layers import CrossAttention
from aion_core.model.linear import Linear, projected, share_memory

BF16 = torch.bfloat16
needs_grad_dtype = pytest.mark.skipif(not hasattr(nn.Parameter(torch.ones(1)), "grad_dtype"), reason="PyTorch 2.10")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(shared: bool) -> Linear:
    made = Linear(6, 4, bias=False)
    made.weight = nn.Parameter(draw(4, 6, seed=0))
    halve_gradients([made.weight])
    if shared:
        share_memory([made.weight])
    return made


def halved(layer: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=BF16):
        return layer(*inputs)


@pytest.fixture(params=[True, False], ids=["native", "imitated"])
def native(request, monkeypatch) -> bool:
    monkeypatch.setattr(module, "NATIVE", request.param)
    return request.param


# -- weights -----------------------------------------------------------------------------------------------------------


@needs_grad_dtype
def test_a_gradient_takes_the_memory_of_the_rounded_copy_and_is_the_same(native: bool) -> None:
    with_memory, without = layer(True), layer(False)
    for step in range(3):
        x = draw(5, 6, seed=1 + step)
        results = [halved(each, x) for each in (with_memory, without)]
        assert torch.equal(*results)
        for y in results:
            y.square().sum().backward()
        weight = with_memory.weight
        assert weight.grad.dtype == BF16
        assert weight.grad.data_ptr() == weight.shared.data_ptr()
        assert torch.equal(weight.grad, without.weight.grad)
        for each in (with_memory, without):
            each.weight.data -= 0.1 * each.weight.grad.float()
            each.weight.grad = None


@needs_grad_dtype
def test_a_gradient_that_is_there_is_not_overwritten_by_another_forward_pass() -> None:
    each = layer(True)
    halved(each, draw(5, 6, seed=1)).sum().backward()
    first = each.weight.grad.clone()
    y = halved(each, draw(5, 6, seed=2))
    assert torch.equal(each.weight.grad, first)
    y.sum().backward()
    alone = layer(False)
    halved(alone, draw(5, 6, seed=2)).sum().backward()
    assert torch.equal(each.weight.grad, first + alone.weight.grad)


@needs_grad_dtype
def test_two_forward_passes_before_a_backward_pass_are_an_error_and_no_wrong_gradient() -> None:
    each = layer(True)
    both = [halved(each, draw(5, 6, seed=seed)).sum() for seed in (1, 2)]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sum(both).backward()


def test_without_memory_to_share_no_rounded_copy_of_a_weight_is_kept() -> None:
    each, kept = layer(False), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        halved(each, draw(5, 6, seed=1))
    assert [t.dtype for t in kept if t.shape == each.weight.shape and t is not each.weight] == []


# -- attention ---------------------------------------------------------------------------------------------------------

MASKS = {
    "none": None,
    "of keys": torch.tensor([[True] * 7, [True] * 3 + [False] * 4])[:, None, None],
    "of pairs": draw(2, 1, 5, 7, seed=9) > 0,
    "a query that may attend to nothing": (torch.arange(5) > 0)[:, None].expand(2, 1, 5, 7),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("cache", [1, 1 << 20], ids=["a sample at a time", "all together"])
def test_gradients_of_attention_are_as_near_the_exact_ones_as_those_of_the_fused_kernel(
    mask: Tensor | None, qk_norm: bool, cache: int, native: bool, monkeypatch
) -> None:
    monkeypatch.setattr("aion_core.model.linear.CACHE", cache)
    attention = CrossAttention(AionConfig(dim=24, num_heads=3, qk_norm=qk_norm)).requires_grad_(True)
    norms = [*attention.q_norm.parameters(), *attention.k_norm.parameters()]
    for seed, parameter in enumerate(norms):
        parameter.data = 1 + 0.3 * draw(*parameter.shape, seed=seed)
    q, kv = draw(2, 5, 24, seed=3).to(BF16), draw(2, 7, 48, seed=4).to(BF16)
    up = draw(2, 5, 24, seed=5)

    def gradients(attend, dtype: torch.dtype) -> list[Tensor]:
        leaves = [t.to(dtype).requires_grad_() for t in (q, kv)]
        return torch.autograd.grad(attend(*leaves), [*leaves, *norms], up.to(dtype))

    def ours(q: Tensor, kv: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=BF16):
            return projected(attention._made, (attention.q_norm, attention.k_norm), nn.Identity(), mask, q, kv)

    def fused(q: Tensor, kv: Tensor) -> Tensor:
        made = (t.to(BF16).transpose(1, 2) for t in attention._made(q, kv))
        return F.scaled_dot_product_attention(*made, attn_mask=mask).transpose(1, 2).flatten(2)

    def exact(q: Tensor, kv: Tensor) -> Tensor:
        made = (t.double().transpose(1, 2) for t in attention._made(q.float(), kv.float()))
        return F.scaled_dot_product_attention(*made, attn_mask=mask).transpose(1, 2).flatten(2)

    expected = gradients(exact, torch.float64)
    for found, other, truth in zip(gradients(ours, BF16), gradients(fused, BF16), expected, strict=True):
        errors = [((t - truth).norm() / truth.norm()).item() for t in (found.double(), other.double())]
        assert errors[0] < 2 * errors[1]
