"""Finite scalar quantization: codes and vectors are one to one, and gradients pass."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.tokenizers.fsq import FiniteScalarQuantizer

LEVELS = st.lists(st.integers(2, 17), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(LEVELS)
def test_every_code_decodes_to_the_vector_that_encodes_to_it(levels: list[int]) -> None:
    fsq = FiniteScalarQuantizer(levels)
    codes = torch.arange(prod(levels))
    vectors = fsq.decode(codes)
    assert vectors.shape == (prod(levels), len(levels))
    assert len(vectors.unique(dim=0)) == prod(levels)
    # What lies at a level before it is squeezed: the squeeze undone.
    half, reach = fsq.levels // 2, (fsq.levels - 1) * 1.001 / 2
    offset = torch.where(fsq.levels % 2 == 1, 0.0, 0.5)
    z = torch.atanh(((vectors * half + offset) / reach).clamp(-0.9999, 0.9999)) - torch.atanh(offset / reach)
    assert torch.equal(fsq.encode(z), codes)
    torch.testing.assert_close(fsq(z), vectors)


@settings(max_examples=60, deadline=None)
@given(LEVELS, st.lists(st.floats(width=32), min_size=4, max_size=4))
def test_no_number_gives_a_code_outside_the_codebook(levels: list[int], numbers: list[float]) -> None:
    fsq = FiniteScalarQuantizer(levels)
    codes = fsq.encode(torch.tensor([numbers[: len(levels)]]))
    assert int(codes.min()) >= 0
    assert int(codes.max()) < prod(levels)


def test_gradients_pass_the_rounding_as_those_of_the_squeeze() -> None:
    fsq = FiniteScalarQuantizer([7, 8])
    z = torch.randn(5, 2, 3, requires_grad=True)
    (fsq(z) * torch.arange(1.0, 31).reshape(5, 2, 3)).sum().backward()
    given = z.grad.clone()
    z.grad = None
    (fsq.bound(z.movedim(1, -1)) / (fsq.levels // 2)).movedim(-1, 1).mul(
        torch.arange(1.0, 31).reshape(5, 2, 3)
    ).sum().backward()
    torch.testing.assert_close(given, z.grad)
    assert (given != 0).all()


@pytest.mark.parametrize("levels", [[], [1, 5], [5.0], [True, 5], [256, 256, 256]])
def test_levels_that_make_no_codebook_are_refused(levels: list[int]) -> None:
    with pytest.raises(InputError, match="levels"):
        FiniteScalarQuantizer(levels)


def test_places_of_codes_are_their_levels_between_the_lowest_and_the_highest() -> None:
    quantizer = FiniteScalarQuantizer([7, 4])
    places, values = quantizer.places(), quantizer.decode(torch.arange(28))
    assert places.shape == (28, 2)
    assert places.amin(0).tolist() == [0, 0]
    assert places.amax(0).tolist() == [1, 1]
    for number, step in enumerate((1 / 3, 1 / 2)):  # levels are as far apart as what they decode to
        count = quantizer.sizes[number] - 1
        torch.testing.assert_close(places[:, number] * count * step, values[:, number] + 1)


def test_unevenness_is_none_where_all_codes_are_used_alike_and_grows_with_what_is_not() -> None:
    fsq = FiniteScalarQuantizer([7, 5, 5])
    generator = torch.Generator().manual_seed(0)
    reach = (fsq.levels - 1) * 1.001 / 2
    levels = (torch.rand(4000, 3, generator=generator) - 0.5) * fsq.levels
    even = torch.atanh((levels / reach).clamp(-0.9999, 0.9999))
    assert 0 <= float(fsq.unevenness(even)) < 0.1
    alike = even.clone()
    alike[:, 2] = alike[:, 1]  # one number tells the other: codes lack at least the entropy of five levels
    assert float(fsq.unevenness(alike)) > 1.5
    one = torch.zeros(4000, 3) + 1e-3 * torch.randn(4000, 3, generator=generator)
    assert float(fsq.unevenness(one)) > 4  # of log(175) = 5.2 nats; levels are chosen softly
    assert float(fsq.unevenness(even.T.reshape(1, 3, 40, 100))) == pytest.approx(float(fsq.unevenness(even)), abs=1e-4)


def test_the_gradient_of_unevenness_spreads_numbers_that_share_a_code() -> None:
    fsq = FiniteScalarQuantizer([5, 5])
    z = (0.05 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))).requires_grad_()
    before = len(fsq.encode(z).unique())
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        fsq.unevenness(z).backward()
        optimizer.step()
    counts = torch.bincount(fsq.encode(z), minlength=25).double() / 2000
    perplexity = float(torch.exp(-(counts * counts.clamp(min=1e-12).log()).sum()))
    assert before == 1
    assert perplexity > 15
