"""What the split promises: one patch of sky, one object, is on one side, in every store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.data.split import hash_strings, split_mask
from aion_core.data.store import healpix_of

RNG = np.random.default_rng(0)
PIXELS = healpix_of(RNG.uniform(0, 360, 20_000), np.degrees(np.arcsin(RNG.uniform(-1, 1, 20_000))))
IDS = np.array([f"object {i}" for i in range(len(PIXELS))])


def test_objects_in_one_pixel_are_on_one_side() -> None:
    mask = split_mask(PIXELS, IDS, 0.3, order=4, seed=0)
    coarse = PIXELS >> 50
    for pixel in np.unique(coarse)[:500]:
        assert len(set(mask[coarse == pixel])) == 1
    assert len({bool(mask[coarse == pixel][0]) for pixel in np.unique(coarse)}) == 2


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 1.0])
def test_the_fraction_of_the_sky_is_kept(fraction) -> None:
    mask = split_mask(PIXELS, IDS, fraction, order=8, seed=0)
    assert mask.mean() == pytest.approx(fraction, abs=0.012)
    if fraction in (0.0, 1.0):
        assert mask.mean() == fraction


def test_the_side_depends_on_nothing_but_the_pixel() -> None:
    """Not on the identifier, the other objects, or their order."""
    mask = split_mask(PIXELS, IDS, 0.3, order=6, seed=0)
    shuffled = RNG.permutation(len(PIXELS))[:5000]
    assert np.array_equal(split_mask(PIXELS[shuffled], IDS[:5000], 0.3, order=6, seed=0), mask[shuffled])
    assert not np.array_equal(split_mask(PIXELS, IDS, 0.3, order=6, seed=1), mask)


def test_objects_without_position_go_by_their_identifier() -> None:
    unknown = np.full(20_000, -1)
    mask = split_mask(unknown, IDS, 0.3, order=6, seed=0)
    assert mask.mean() == pytest.approx(0.3, abs=0.02)
    shuffled = RNG.permutation(20_000)[:3000]
    for names in (IDS[shuffled], pa.array(IDS[shuffled].tolist()), pa.chunked_array([IDS[shuffled].tolist()])):
        assert np.array_equal(split_mask(unknown[:3000], names, 0.3, order=6, seed=0), mask[shuffled])
    mixed = np.where(np.arange(20_000) % 2, PIXELS, -1)
    both = split_mask(mixed, IDS, 0.3, order=6, seed=0)
    known = split_mask(PIXELS, IDS, 0.3, order=6, seed=0)
    assert np.array_equal(both, np.where(np.arange(20_000) % 2, known, mask))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=30))
def test_the_hash_of_a_string_is_its_own(strings) -> None:
    """Equal for equal strings wherever they stand in whatever array; different for different ones."""
    together = hash_strings(pa.array(strings, pa.string()))
    apart = [int(hash_strings(pa.array(["before", s]))[1]) for s in strings]
    assert together.tolist() == apart
    assert len(set(apart)) == len(set(strings))
    assert len(set(hash_strings(["ab", "ba", "aab", "aba", "", "a", "a\0"]).tolist())) == 7
    sliced = pa.array(["x", *strings], pa.string()).slice(1)
    assert hash_strings(sliced).tolist() == apart
