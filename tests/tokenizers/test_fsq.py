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
