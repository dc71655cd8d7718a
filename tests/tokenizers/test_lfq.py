"""Lookup-free quantization: bits, codes, and the terms of the loss beside a plain softmax over all codes."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aion_core.tokenizers.lfq import LookupFreeQuantizer


@given(bits=st.integers(1, 12))
def test_every_code_decodes_to_a_corner_that_encodes_to_it(bits: int) -> None:
    quantizer, codes = LookupFreeQuantizer(bits), torch.arange(2**bits)
    corners = quantizer.decode(codes)
    assert corners.abs().eq(1).all()
    assert torch.equal(quantizer.encode(corners), codes)


def test_the_first_number_is_the_most_significant_bit_and_zero_is_not_set() -> None:
    quantizer = LookupFreeQuantizer(3)
    x = torch.tensor([[0.1, -2, -0.5], [-1, 0.0, 3], [1, 1, 1], [float("nan"), 1, -1]])
    assert quantizer.encode(x).tolist() == [4, 1, 7, 2]


def test_gradients_pass_as_if_nothing_had_moved() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(5, 4)
    quantized = LookupFreeQuantizer(4).quantize(x)
    assert torch.equal(quantized, torch.where(x > 0, 1.0, -1.0))
    (quantized * weight).sum().backward()
    assert torch.equal(x.grad, weight)


def plain(x: torch.Tensor, inverse_temperature: float) -> dict[str, float]:
    """Return the terms by definition: a table of all codes, a softmax over it."""
    corners = torch.tensor(list(product([-1.0, 1.0], repeat=x.shape[1])), dtype=torch.float64)
    p = (2 * inverse_temperature * x.double() @ corners.T).softmax(1)
    entropy = torch.special.entr(p).sum(1).mean()
    together = torch.special.entr(p.mean(0)).sum()
    commitment = (x.double() - x.double().sign()).square().mean()
    return {
        "commitment": 0.25 * float(commitment),
        "entropy": 0.1 * float(entropy),
        "diversity": -0.1 * float(together),
    }


@pytest.mark.parametrize("spread", [0.002, 0.02, 1.0])
@pytest.mark.parametrize("bits", [1, 5, 10])
def test_the_terms_are_those_of_a_softmax_over_all_codes(spread: float, bits: int) -> None:
    x = torch.randn(200, bits, generator=torch.Generator().manual_seed(0)) * spread
    found = LookupFreeQuantizer(bits).terms(x)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(plain(x, 100.0), rel=1e-4, abs=1e-5)


def test_the_loss_is_the_releases() -> None:
    lfq = pytest.importorskip("aion.codecs.quantizers.lookup_free_quantization")
    theirs = lfq.LFQ(dim=10, codebook_size=1024).train()
    x = torch.randn(4, 272, 10, generator=torch.Generator().manual_seed(1)) * 0.1
    expected = theirs(x, inv_temperature=100.0)
    quantizer = LookupFreeQuantizer(10)
    assert torch.equal(quantizer.encode(x), expected.indices.long())
    assert float(sum(quantizer.terms(x).values())) == pytest.approx(float(expected.entropy_aux_loss), abs=1e-3)


def test_the_terms_are_finite_with_gradients_for_any_size_of_numbers() -> None:
    for size in (0.0, 1e-8, 1.0, 1e4):
        x = (torch.randn(50, 10) * size).requires_grad_()
        sum(LookupFreeQuantizer(10).terms(x).values()).backward()
        assert x.grad.isfinite().all()


def test_spread_codes_cost_less_than_one_code() -> None:
    x = torch.randn(500, 10, generator=torch.Generator().manual_seed(0)).sign()
    terms = LookupFreeQuantizer(10).terms(x), LookupFreeQuantizer(10).terms(x[:1].expand(500, -1))
    assert terms[0]["diversity"] < terms[1]["diversity"] == pytest.approx(0.0, abs=1e-6)
