"""What the order promises: every row once, any position on its own, the same for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import AionError
from aion_core.data.keyed import key, permute
from aion_core.data.order import Draws, Order

chunks = st.lists(st.integers(0, 30), min_size=1, max_size=25)
groups = st.lists(chunks, min_size=1, max_size=4).filter(lambda g: sum(map(sum, g)) > 0)


def columns(draws: Draws) -> np.ndarray:
    return np.stack([draws.epoch, draws.group, draws.row, draws.lap])


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**63))
def test_a_keyed_permutation_is_a_bijection(size, seed) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key(seed))), np.arange(size))


@pytest.mark.parametrize("size", [2, 3, 5, 8, 12, 31, 50, 200])
def test_keyed_permutations_of_many_keys_are_uniform(size) -> None:
    """Chi-squared of where two places go, over many keys: within seven standard deviations of what chance gives."""
    trials = 60_000
    keys = key(5, np.arange(trials))
    moved = [permute(np.full(trials, place), size, keys).astype(np.int64) for place in (0, size // 2)]
    found = np.bincount(moved[0] * size + moved[1], minlength=size * size).reshape(size, size)
    assert not found.diagonal().any()
    cells = size * (size - 1)
    chi2 = ((found[~np.eye(size, dtype=bool)] - trials / cells) ** 2).sum() / (trials / cells)
    assert abs(chi2 - (cells - 1)) < 7 * np.sqrt(2 * max(cells - 1, 1))


@settings(max_examples=60, deadline=None)
@given(groups=groups, seed=st.integers(0, 10**6), epoch=st.integers(0, 5), window=st.integers(1, 40))
def test_every_row_is_drawn_exactly_once_an_epoch(groups, seed, epoch, window) -> None:
    order = Order(groups, seed, window=window)
    draws = order.rows(epoch, 0, len(order))
    assert len(order) == sum(map(sum, groups))
    for number, sizes in enumerate(groups):
        assert sorted(draws.row[draws.group == number]) == list(range(sum(sizes)))
    assert set(draws.epoch) == {epoch}
    assert not draws.lap.any()


@settings(max_examples=60, deadline=None)
@given(groups=groups, data=st.data(), seed=st.integers(0, 10**6))
def test_groups_are_mixed_by_weight_until_all_are_exhausted(groups, data, seed) -> None:
    weights = data.draw(st.lists(st.floats(0.2, 5), min_size=len(groups), max_size=len(groups)))
    order = Order(groups, seed, weights)
    draws = order.rows(0, 0, len(order))
    share = np.array([w if sum(g) else 0 for w, g in zip(weights, groups, strict=True)])
    share = share / share.sum()
    for number, sizes in enumerate(groups):
        mine = draws.group == number
        assert abs(mine.sum() - share[number] * len(order)) <= len(groups)
        assert set(draws.row[mine]) == set(range(sum(sizes))), "not exhausted"
        laps = draws.lap[mine]
        for lap in range(laps.max(initial=-1) + 1):
            rows = draws.row[mine][laps == lap]
            assert len(set(rows)) == len(rows), "a row twice in one lap"
    one_less = order.rows(0, 0, max(len(order) - 1024, 0))
    assert len(order) <= 1024 or any(
        len(set(one_less.row[one_less.group == n])) < sum(sizes) for n, sizes in enumerate(groups)
    ), "the epoch goes on after all are exhausted"


def test_an_epoch_ends_when_the_last_group_is_exhausted() -> None:
    assert abs(len(Order([[10], [10]], 0, [1.0, 4.0])) - 50) <= 3
    assert abs(len(Order([[7, 3], [90], [100]], 0, [1.0, 1.0, 2.0])) - 360) <= 4


@settings(max_examples=60, deadline=None)
@given(groups=groups, data=st.data(), weighted=st.booleans())
def test_any_stretch_can_be_drawn_on_its_own(groups, data, weighted) -> None:
    """So resuming is exact, from any position, with other batch sizes, across the end of an epoch."""
    order = Order(groups, 3, [1.0 + i for i in range(len(groups))] if weighted else None)
    whole = np.concatenate([columns(order.rows(epoch, 0, len(order))) for epoch in range(3)], axis=1)
    start = data.draw(st.integers(0, 2 * len(order)))
    stop = data.draw(st.integers(start, min(start + 500, 3 * len(order))))
    again = Order(groups, 3, [1.0 + i for i in range(len(groups))] if weighted else None)
    epoch, index = again.position(0, start)
    assert np.array_equal(columns(again.rows(epoch, index, index + stop - start)), whole[:, start:stop])


@settings(max_examples=30, deadline=None)
@given(groups=groups, batch=st.integers(1, 6), world=st.integers(1, 4))
def test_the_sequence_does_not_depend_on_how_many_ranks_share_it(groups, batch, world) -> None:
    order = Order(groups, 9)
    alone = columns(order.rows(0, 0, 5 * batch * world))
    shared = [
        columns(order.rows(0, step + rank * batch, step + (rank + 1) * batch))
        for step in range(0, 5 * batch * world, batch * world)
        for rank in range(world)
    ]
    assert np.array_equal(np.concatenate(shared, axis=1), alone)


@pytest.mark.parametrize("sizes", [[300], [1] * 300], ids=["rows of one chunk", "chunks of one row"])
def test_another_seed_epoch_group_or_lap_is_another_order(sizes) -> None:
    """Looked at below the interleaving of groups, which would hide it."""
    orders = {seed: Order([sizes, sizes], seed, window=1) for seed in (1, 2)}
    found = [
        orders[seed]._row(epoch, group, lap, np.arange(300)).tobytes()
        for seed in (1, 2) for epoch in (0, 1) for group in (0, 1) for lap in (0, 1)
    ]  # fmt: skip
    assert len(set(found)) == 16


def test_a_window_reads_few_chunks_at_once() -> None:
    """Chunk locality: consecutive samples come from as many chunks as the window has, and rows within are mixed."""
    order = Order([[64] * 100], seed=4, window=4)
    for start in range(0, 6400, 256):
        rows = order.rows(0, start, start + 256).row
        assert len(set(rows // 64)) == 4
        assert np.corrcoef(np.arange(256), rows % 64)[0, 1] < 0.3


def test_groups_are_spread_evenly_over_an_epoch_and_over_ranks() -> None:
    order = Order([[5000], [5000], [2500]], seed=0)
    draws = order.rows(0, 0, len(order))
    for start in range(0, 12_288, 1024):
        share = np.bincount(draws.group[start : start + 1024], minlength=3) / 1024
        assert share == pytest.approx([0.4, 0.4, 0.2], abs=0.003)


def test_groups_do_not_alternate_in_step_with_the_ranks() -> None:
    draws = Order([[5000], [5000]], seed=0).rows(0, 0, 10_000)
    assert draws.group[::2].mean() == pytest.approx(0.5, abs=0.03)


def test_huge_epochs_are_computed_exactly() -> None:
    order = Order([np.full(250_000, 4000), np.full(77, 1_000_000)], seed=0)
    assert len(order) == 1_077_000_000
    late = order.rows(0, len(order) - 5000, len(order))
    assert late.row[late.group == 0].max() < 1_000_000_000
    assert (late.lap == 0).all()


def test_faults_are_named() -> None:
    with pytest.raises(AionError, match="not one row"):
        Order([[0, 0], []], seed=0)
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")], [1.0, -1.0]):
        with pytest.raises(AionError, match="2 groups need as many weights above 0"):
            Order([[5], [5]], 0, weights)
