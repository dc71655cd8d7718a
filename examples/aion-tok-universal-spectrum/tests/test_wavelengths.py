"""Where patches lie, and what is measured in them."""

from __future__ import annotations

from math import log

import numpy as np
import torch
from aion_tok_universal.wavelengths import CodeScale, Ladder, Layout, encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

SCALE = CodeScale(log(1e3), log(3e5), 4375)


def ladder(low: float, high: float, places: int = 20) -> Ladder:
    ends = (SCALE.place(torch.tensor([log(edge)])) for edge in (low, high))
    return Ladder.of(*(end.round().long() for end in ends), SCALE, places)


def layout(positions: object, places: int = 20, harmonics: int = 3) -> Layout:
    return Layout.of(torch.as_tensor(positions, dtype=torch.float64)[None], places, harmonics)


def waves(positions: np.ndarray, place: int, harmonics: int) -> np.ndarray:
    """The definition: half-waves around a place that fade out towards its neighbours."""
    u = positions - place
    m = np.arange(1, harmonics + 1)[:, None]
    every = np.concatenate([np.ones((1, len(u))), np.cos(np.pi * m * u), np.sin(np.pi * m * u)])
    return np.clip(1 - np.abs(u), 0, None) * every


def test_a_ladder_reaches_from_the_first_wavelength_to_the_last_within_a_step_of_its_codes() -> None:
    centres = ladder(3600, 9824).centres[0].exp().numpy()
    np.testing.assert_allclose(centres[[0, -1]], [3600, 9824], rtol=SCALE.step)
    np.testing.assert_allclose(np.diff(np.log(centres)), np.log(9824 / 3600) / 19, rtol=2e-2)


def test_neighbouring_pixels_are_told_apart_at_a_resolution_of_30000() -> None:
    pixels = 16000 * (1 + torch.arange(100) / 1e5)
    position, inside = ladder(15100, 17000).along(pixels[None])
    assert inside.all()
    steps = position.diff()[0]
    assert float(steps.min()) > 0.97 * float(steps.mean())  # of the logarithm in single precision it is 0.9


def test_what_is_no_wavelength_lies_nowhere() -> None:
    _, inside = ladder(3600, 9824).along(torch.tensor([[0.0, -1.0, torch.nan, torch.inf, 1e4, 5000.0]]))
    assert inside.tolist() == [[False, False, False, False, False, True]]


def test_any_two_codes_are_a_range() -> None:
    found = Ladder.of(torch.tensor([7, 4374]), torch.tensor([7, 0]), SCALE, 5)
    assert (found.step > 0).all()


positions = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 19))


@settings(deadline=None, max_examples=30)
@given(positions, st.integers(0, 2**32 - 1))
def test_sums_are_those_of_the_definition_in_any_order_and_however_crowded(where: np.ndarray, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(2, len(where)))
    found = layout(where).analyse(torch.tensor(values, dtype=torch.float32)[None])[0]
    for place in range(20):
        expected = values @ waves(where, place, 3).T
        np.testing.assert_allclose(found[place], expected, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(positions, st.integers(0, 2**32 - 1))
def test_composing_is_the_transpose_of_analysing(where: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, amplitudes = (
        torch.tensor(rng.normal(size=s), dtype=torch.float32) for s in ((1, 1, len(where)), (1, 20, 1, 7))
    )
    here = layout(where)
    one, other = (here.analyse(values) * amplitudes).sum(), (here.compose(amplitudes) * values).sum()
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_pixels_in_one_crowd_do_not_cost_more_than_even_ones() -> None:
    even, crowd = layout(np.linspace(0, 19, 2000)), layout(np.full(2000, 5.5))
    assert crowd.waves.numel() <= 1.5 * even.waves.numel()


def test_the_encoding_tells_wavelengths_and_spacings_apart() -> None:
    one, other, denser = (encoded(ladder(*ends), 16) for ends in ((3600, 9824), (3650, 9824), (15100, 17000)))
    assert one.shape == (1, 20, 33)
    assert float((one[0, 0] - other[0, 0]).abs().max()) > 0.1
    assert float((one[0, :, -1] - denser[0, :, -1]).abs().min()) > 1
