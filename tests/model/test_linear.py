"""bfloat16 by rounding what is multiplied in float32: the arithmetic that autocast asks for, on any processor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from aion_core.model import linear as module
from aion_core.model.linear import Linear, attention, linear

BF16 = torch.bfloat16
#: Two numbers that were rounded from nearly the same sum differ by no more than the last bit.
LAST_BIT = 2.0**-7


@pytest.fixture(autouse=True)
def without_instructions(monkeypatch):
    monkeypatch.setattr(module, "NATIVE", False)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(product, x, weight, bias, up):
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", dtype=BF16):
        y = product(*leaves)
    y.backward(up)
    return [y, *(leaf.grad for leaf in leaves)]


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), k=st.integers(1, 70), o=st.integers(1, 9))
def test_products_and_gradients_are_those_of_bfloat16_but_for_the_order_of_sums(shape, k, o) -> None:
    x, weight, bias = draw(*shape, k, seed=1), draw(o, k, seed=2), draw(o, seed=3)
    up = draw(*shape, o, seed=4).to(BF16)
    ours, theirs = gradients(linear, x, weight, bias, up), gradients(F.linear, x, weight, bias, up)
    for found, expected in zip(ours, theirs, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        scale = expected.abs().max().item() + 1e-3
        assert (found - expected).abs().max().item() <= LAST_BIT * scale


def test_numbers_are_rounded_before_they_are_multiplied() -> None:
    fine = torch.full((1, 1), 1 + 2.0**-9)  # one in bfloat16
    with torch.autocast("cpu", dtype=BF16):
        assert linear(256 * fine, fine).item() == 256
        assert linear(fine, torch.ones(1, 1), torch.full((1,), 2.0**-9)).item() == 1


def test_without_autocast_nothing_is_rounded() -> None:
    x, weight = draw(3, 5, seed=1), draw(2, 5, seed=2)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_tensors_without_contents_are_multiplied_as_on_a_device_with_instructions() -> None:
    """They tell how much memory a step takes there."""
    with FakeTensorMode(), torch.autocast("cpu", dtype=BF16):
        x, weight = torch.empty(3, 5), torch.empty(2, 5, requires_grad=True)
        names = [type(linear(x, weight).grad_fn).__name__, type(F.linear(x, weight).grad_fn).__name__]
    assert names[0] == names[1]


def test_nothing_in_float32_is_kept_for_the_backward_pass_but_the_weights() -> None:
    layer, kept = Linear(16, 8), []
    x = draw(4, 16, seed=1).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # noqa: SIM117
        with torch.autocast("cpu", dtype=BF16):
            layer(x)
    mine = [t for t in kept if t.data_ptr() != layer.weight.data_ptr()]
    assert [t.dtype for t in mine] == [BF16]


def test_attention_is_that_of_bfloat16_to_the_last_bit() -> None:
    q, k, v = (draw(2, 3, 7, 8, seed=seed).to(BF16) for seed in range(3))
    mask = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()
    with torch.autocast("cpu", dtype=BF16):
        found = attention(q, k, v, mask)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    assert found.dtype == BF16
    assert torch.equal(found, exact.to(BF16)) or (found - exact).abs().max() <= LAST_BIT * exact.abs().max() / 2
