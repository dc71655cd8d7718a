"""Stamps are cut from strips, which does not show in them."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.data.stamps import cut_stamps


class Counting:
    """An image that counts the rows read of it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape, self.rows = pixels, pixels.shape, 0

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        self.rows += len(self.pixels[key])
        return self.pixels[key]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 3), st.integers(0, 12))
def test_every_stamp_holds_the_pixels_around_its_position(seed: int, size: int, strip: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(17, 13)).astype(">f4")
    rows, columns = rng.integers(0, 17, count), rng.integers(0, 13, count)
    with patch("aion_core.data.stamps.STRIP", strip):
        stamps = cut_stamps({"flux": image}, rows, columns, size)
    padded = np.pad(image, size)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        first_row, first_column = row + size - size // 2, column + size - size // 2
        expected = padded[first_row : first_row + size, first_column : first_column + size]
        np.testing.assert_array_equal(stamps.pixels["flux"][i], expected)
        assert stamps.pixels["flux"][i][size // 2, size // 2] == image[row, column]


def test_many_stamps_read_the_image_a_few_times_over_and_never_as_a_whole() -> None:
    image = Counting(np.zeros((1000, 50)))
    cut_stamps({"flux": image}, np.arange(1000), np.full(1000, 25), 10)
    assert image.rows < 2 * 1000
    few = Counting(np.zeros((1000, 50)))
    cut_stamps({"flux": few}, [5, 900], [25, 25], 10)
    assert few.rows == 20
