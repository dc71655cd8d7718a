"""Pixels in order, bad ones bridged, and linear interpolation, beside NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aion_core.observations import Spectrum
from aion_core.tokenizers.resampling import EXTREME, Interpolation, Pixels

grids = st.integers(0, 30).flatmap(lambda n: hnp.arrays(np.float32, n, elements=st.floats(3000, 9000, width=32)))


@settings(max_examples=100, deadline=None)
@given(source=grids, target=grids, data=st.data())
def test_interpolation_is_numpys_inside_and_zero_outside(source: Any, target: Any, data: Any) -> None:
    source = np.sort(source)
    values = data.draw(hnp.arrays(np.float32, (2, len(source)), elements=st.floats(-5, 5, width=32)))
    found = Interpolation.between(*(torch.from_numpy(a)[None] for a in (source, target)))(torch.from_numpy(values))
    inside = (target >= source[0]) & (target <= source[-1]) if len(source) else np.zeros(len(target), bool)
    assert found.shape == (2, len(target))
    assert (found[:, ~inside] == 0).all()
    distinct = len(np.unique(source)) == len(source) and (len(source) < 2 or np.diff(source).min() > 0.1)
    if distinct and inside.any():
        expected = np.stack([np.interp(target[inside], source, v) for v in values])
        np.testing.assert_allclose(found[:, inside], expected, atol=2e-3)
    assert found.isfinite().all()


def test_a_grid_for_each_object_gives_the_same_as_one_object_at_a_time() -> None:
    source = (torch.rand(5, 20) * 100).sort(1).values
    target, values = torch.rand(5, 30) * 120 - 10, torch.randn(5, 20)
    together = Interpolation.between(source, target)(values)
    apart = [Interpolation.between(source[i : i + 1], target[i : i + 1])(values[i : i + 1]) for i in range(5)]
    assert torch.equal(together, torch.cat(apart))
    shared = Interpolation.between(source[:1], target)(values)
    assert torch.equal(shared[1], Interpolation.between(source[:1], target[1:2])(values[1:2])[0])


def test_pixels_are_in_the_order_of_wavelength_and_keep_their_fields() -> None:
    wavelength = torch.tensor([[5.0, 0.0, 3.0, float("nan"), 4.0]])
    mask = torch.tensor([[True, False, False, False, False]])
    pixels = Pixels.of(Spectrum([[50.0, 1, 30, 2, 40]], wavelength, [[5.0, 1, 3, 1, 4]], mask))
    assert pixels.wavelength.tolist() == [[3, 4, 5, np.inf, np.inf]]
    assert pixels.flux[0, :3].tolist() == [30, 40, 50]
    assert pixels.ivar[0, :3].tolist() == [3, 4, 5]
    assert pixels.masked.tolist() == [[False, False, True, True, True]]
    assert pixels.good.tolist() == [[True, True, False, False, False]]


def test_values_that_are_no_numbers_become_ones_that_can_be_computed_with() -> None:
    nan, inf = float("nan"), float("inf")
    pixels = Pixels.of(Spectrum([[nan, inf, -inf, 3e38, 1]], torch.arange(1.0, 6), [[1, 1, nan, inf, -1]]))
    assert pixels.flux.tolist() == [[0, 0, 0, torch.tensor(EXTREME).item(), 1]]
    assert pixels.ivar.isfinite().all()
    assert (pixels.ivar >= 0).all()
    assert pixels.good.tolist() == [[False, False, False, True, False]]


def test_bad_pixels_are_bridged_by_a_straight_line_in_wavelength_and_ends_become_zero() -> None:
    wavelength = torch.tensor([1.0, 2, 3, 5, 6, 7])
    good = torch.tensor([[0, 1, 0, 0, 1, 0]]).bool()
    pixels = Pixels.of(Spectrum(torch.zeros(1, 6), wavelength, mask=~good))
    values = torch.tensor([[9.0, 10, 99, 99, 50, 9]])
    assert pixels.bridged(values).tolist() == [[0, 10, 20, 40, 50, 0]]
    assert values[0, 2] == 99


@pytest.mark.parametrize("good", [[0, 0, 0], [0, 1, 0]])
def test_bridging_needs_no_two_good_pixels(good: list[int]) -> None:
    mask = ~torch.tensor([good]).bool()
    pixels = Pixels.of(Spectrum(torch.zeros(1, 3), torch.arange(1.0, 4), mask=mask))
    assert pixels.bridged(torch.tensor([[7.0, 8, 9]])).tolist() == [[0, 8 * good[1], 0]]
