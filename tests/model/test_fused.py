"""Attention in float32 on a CPU: computed and differentiated by the kernel that PyTorch chooses, and kept by half."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from aion_core.model import AionConfig, linear
from aion_core.model.layers import Attention, CrossAttention
from aion_core.model.linear import attended

MASKS = {
    "none": None,
    "of keys": torch.tensor([[True] * 7, [True] * 3 + [False] * 4])[:, None, None],
    "of pairs": (torch.arange(70).view(2, 1, 5, 7) * 7 % 5 > 1),
    "a query that may attend to nothing": (torch.arange(5) > 0)[:, None].expand(2, 1, 5, 7),
}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def layer(qk_norm: bool, frozen: bool) -> CrossAttention:
    made = CrossAttention(AionConfig(dim=24, num_heads=3, qk_norm=qk_norm))
    for seed, parameter in enumerate(made.parameters()):
        parameter.data = draw(*parameter.shape, seed=seed).detach()
    made.q_norm.requires_grad_(not frozen)
    return made


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize(("qk_norm", "frozen"), [(True, False), (True, True), (False, False)])
def test_no_bit_of_a_gradient_differs_from_that_of_the_plain_formula(
    mask: Tensor | None, qk_norm: bool, frozen: bool, monkeypatch
) -> None:
    attention = layer(qk_norm, frozen)
    x, context, up = draw(2, 5, 24, seed=10), draw(2, 7, 24, seed=11), draw(2, 5, 24, seed=12).detach()
    leaves = [x, context, *(p for p in attention.parameters() if p.requires_grad)]

    def plain() -> Tensor:
        return attention.proj(attended(attention._made, mask, attention.q(x), attention.kv(context)))

    called = []
    apply = linear._Fused.apply
    monkeypatch.setattr(linear._Fused, "apply", lambda *args: called.append(1) or apply(*args))
    found, expected = attention(x, context, mask), plain()
    assert called == [1]
    assert torch.equal(found, expected)
    pairs = zip(torch.autograd.grad(found, leaves, up), torch.autograd.grad(expected, leaves, up), strict=True)
    assert [i for i, (a, b) in enumerate(pairs) if not torch.equal(a, b)] == []


def test_where_another_kernel_is_chosen_that_one_is_taken() -> None:
    attention, x = Attention(AionConfig(dim=24, num_heads=3)), draw(2, 5, 24, seed=1)
    with sdpa_kernel(SDPBackend.MATH):
        other = attention(x, None)
        (slope,) = torch.autograd.grad(other.square().sum(), x)
    fused = attention(x, None)
    torch.testing.assert_close(fused, other)
    torch.testing.assert_close(torch.autograd.grad(fused.square().sum(), x)[0], slope)


@pytest.mark.parametrize("shape", [(0, 5, 24), (2, 0, 24)])
def test_nothing_attends_to_nothing(shape: tuple[int, ...]) -> None:
    attention = Attention(AionConfig(dim=24, num_heads=3))
    found = attention(draw(*shape, seed=1), None)
    assert found.shape == shape
    found.sum().backward()
