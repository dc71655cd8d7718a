"""The sketch depends on the data only: not on order, batches, or how partial sketches were merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aion_core.contract import AionError, InputError
from aion_core.tokenizers.sketch import FEW, LIMIT, REACH, QuantileSketch

MANY = settings(max_examples=150, deadline=None)
ANY_FLOATS = hnp.arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32))
#: Many near each other, some far: keys that merge at different levels.
CLUSTERED = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.one_of(
        st.floats(1, 1 + 2**-13, width=32), st.floats(-(2.0**100), 2.0**100, width=32), st.sampled_from([0.0, 1.0])
    ),
)
LIMITS = st.sampled_from([2, 3, 8, 64, LIMIT])

Values = npt.NDArray[np.float32]


def sketch(values: npt.ArrayLike, limit: int = LIMIT) -> QuantileSketch:
    made = QuantileSketch(limit)
    made.add(values)
    return made


def assert_equal(a: QuantileSketch, b: QuantileSketch) -> None:
    x, y = a.state(), b.state()
    assert x.keys() == y.keys()
    for name in x:
        assert x[name].dtype == y[name].dtype
        np.testing.assert_array_equal(x[name], y[name], err_msg=name)


@MANY
@given(values=st.one_of(ANY_FLOATS, CLUSTERED), limit=LIMITS, data=st.data())
def test_order_and_batches_do_not_matter(values: Values, limit: int, data: Any) -> None:
    shuffled = values[data.draw(st.permutations(range(len(values))))] if len(values) else values
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    parts = QuantileSketch(limit)
    for part in np.split(shuffled, cuts):
        parts.add(part)
        if data.draw(st.booleans()):
            parts.state()  # sorts in what was gathered so far
    assert_equal(parts, sketch(values, limit))


@MANY
@given(values=st.one_of(ANY_FLOATS, CLUSTERED), limit=LIMITS, data=st.data())
def test_partial_sketches_may_be_merged_in_any_way(values: Values, limit: int, data: Any) -> None:
    owner = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values))), dtype=int)
    sketches = [sketch(values[owner == i], limit) for i in range(4)]
    while len(sketches) > 1:
        into, from_ = data.draw(st.permutations(range(len(sketches))))[:2]
        sketches[into].merge(sketches[from_])
        del sketches[from_]
    assert_equal(sketches[0], sketch(values, limit))


@MANY
@given(values=st.one_of(ANY_FLOATS, CLUSTERED), limit=LIMITS)
def test_no_more_bits_are_dropped_than_it_takes(values: Values, limit: int) -> None:
    made = sketch(values, limit)
    bits = np.unique(values[np.isfinite(values)] + np.float32(0)).view(np.int32).astype(np.int64)
    keys = np.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits)
    assert len(set(keys >> made.level)) == len(made.state()["keys"]) <= limit
    assert made.level == 0 or len(set(keys >> (made.level - 1))) > limit


@MANY
@given(values=hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)))
def test_quantiles_are_exact_while_all_values_fit(values: Values) -> None:
    q = np.linspace(0, 1, 17)
    np.testing.assert_array_equal(sketch(values).quantile(q), np.quantile(values + 0.0, q, method="inverted_cdf"))


@MANY
@given(values=CLUSTERED, limit=LIMITS)
def test_quantiles_ascend_within_the_exact_range(values: Values, limit: int) -> None:
    made = sketch(values, limit)
    found = made.quantile(np.linspace(0, 1, 50))
    assert (np.diff(found) >= 0).all()
    assert found[0] == values.min()
    assert found[-1] == values.max()


@MANY
@given(values=CLUSTERED, limit=LIMITS, q=st.floats(0, 1))
def test_rank_inverts_quantile(values: Values, limit: int, q: float) -> None:
    made = sketch(values, limit)
    assert made.rank(made.quantile(q)) >= q * len(values) - 1e-6 * len(values)
    assert made.rank(values.max()) == len(values)
    assert made.rank(np.nextafter(values.min(), -np.inf)) == 0


@MANY
@given(values=CLUSTERED, limit=LIMITS, q=hnp.arrays(np.float64, 20, elements=st.floats(0, 1)))
def test_a_gap_is_as_far_from_the_data_as_they_allow_and_orders_them_alike(values: Values, limit: int, q: Any) -> None:
    made = sketch(values, limit)
    at = made.quantile(q).astype(np.float32)
    found = made.gap(at)
    assert (found >= at).all()
    if made.level == 0:
        for before, after in zip(at, found, strict=True):
            np.testing.assert_array_equal(values <= before, values <= after)
            lower, upper = values[values <= before], values[values > before]
            if len(upper):
                middle = (float(lower.max()) + float(upper.min())) / 2
                assert after == pytest.approx(middle, rel=1e-6, abs=1e-44)
    assert made.gap(values.max()) == values.max()
    assert made.gap(-3e38) == np.float32(-3e38)


@MANY
@given(values=CLUSTERED, limit=LIMITS, n=st.integers(1, 60))
def test_edges_of_few_data_move_to_the_widest_gap_nearby_and_none_past_another(
    values: Values, limit: int, n: int
) -> None:
    made = sketch(values, limit)
    at = made.shares(n).astype(np.float32)
    found = made.clear(at)
    assert (np.diff(found) >= 0).all()
    assert found[-1] == values.max()
    moved = np.abs(made.rank(found) - made.rank(at))
    assert (moved <= REACH).all()
    assert not moved.any() or len(values) <= FEW * n
    assert np.isin(at, found).all() or len(values) > n  # where every datum has an edge, none is left alone
    distinct = np.diff(at) > 0
    assert (np.diff(found)[distinct] > 0).all() or made.level
    if made.level == 0:
        data = np.unique(values + np.float32(0)).astype(np.float64)
        widths = np.append(np.diff(data), np.inf)
        assert (widths[np.searchsorted(data, found)] >= widths[np.searchsorted(data, at)]).all()


def test_edges_go_to_a_wide_gap_two_data_away_and_not_to_one_three_away() -> None:
    near = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert sketch([*near, 500.0, 501.0, 502.0]).clear([5.0, 502.0]).tolist() == [7.0, 502.0]
    assert sketch([*near, 500.0, 501.0, 502.0]).clear([4.0, 502.0]).tolist() == [4.0, 502.0]
    assert sketch([-500.0, *near]).clear([1.0, 7.0]).tolist() == [-500.0, 7.0]
    assert sketch([*near, 500.0]).clear([6.0, 7.0, 500.0]).tolist() == [6.0, 7.0, 500.0]  # there is one already
    assert sketch([*near, 7.0, 7.0, 500.0]).clear([6.0, 500.0]).tolist() == [6.0, 500.0]  # three data, all of one value


def test_where_data_are_many_no_edge_moves() -> None:
    values = np.random.default_rng(2).standard_t(2, size=FEW * 64 + 1)
    made = sketch(values)
    at = made.shares(64).astype(np.float32)
    assert made.clear(at).tolist() == at.tolist()
    assert made.clear(np.append(at, at[-1])).tolist() != np.append(at, at[-1]).tolist()


@MANY
@given(values=CLUSTERED, data=st.data())
def test_a_median_of_ranks_is_that_of_these_data(values: Values, data: Any) -> None:
    below = data.draw(st.integers(0, len(values) - 1))
    upto = data.draw(st.integers(below + 1, len(values)))
    chosen = np.sort(values + np.float32(0)).astype(np.float64)[below:upto]
    assert sketch(values).median(below, upto) == np.median(chosen)


SHARES = st.integers(1, 40)


def holdings(values: Values, upto: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return how many of some values lie in each share: above the end of the one before, up to its own."""
    return np.bincount(np.searchsorted(upto[:-1], values.astype(np.float64)), minlength=len(upto))


#: Of these in twenty shares, one is full with a value, but for the rounding of sums.
ROUNDED = np.array(
    [2, -1, 1, -10, -11, -5, -7, 0, -5, -13, 5, 6, -2, -8, -9, -6, -14, -15, -3, -12, 3, 4, -4, -4], "f4"
)


@MANY
@example(values=ROUNDED, n=20)
@given(values=hnp.arrays(np.float32, st.integers(1, 300), elements=st.integers(-60, 60)), n=SHARES)
def test_a_share_is_full_with_its_last_value_and_not_before(values: Values, n: int) -> None:
    upto = sketch(values).shares(n)
    distinct, counts = np.unique(values, return_counts=True)
    assert upto[-1] == values.max()
    assert (np.diff(upto) >= 0).all()
    if len(distinct) <= n:
        assert np.isin(distinct, upto).all()
        return
    share_of = np.searchsorted(upto[:-1], distinct)
    for share in np.unique(share_of):
        assert counts[share_of == share][:-1].sum() < len(values) / n


@MANY
@given(values=hnp.arrays(np.float32, st.integers(41, 300), elements=st.floats(0, 1, width=32), unique=True), n=SHARES)
def test_shares_of_data_of_which_no_two_are_equal_are_quantiles(values: Values, n: int) -> None:
    made = sketch(values)
    assert np.array_equal(made.shares(n), made.quantile(np.arange(1, n + 1) / n))


@pytest.mark.parametrize("limit", [LIMIT, 11_000])
def test_what_many_data_have_in_common_takes_one_share_and_the_others_are_even(limit: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=20_000).astype(np.float32)
    values[rng.random(20_000) < 0.4] = 1e-3
    made = sketch(values, limit)
    assert 0 <= made.level <= 10
    held = holdings(values, made.gap(made.shares(256)).astype(np.float64))
    assert held[0] == (values <= 1e-3).sum()
    assert held[1:].min() > 0.8 * held[1:].mean()
    assert held[1:].max() < 1.2 * held[1:].mean()


def test_of_wide_keys_none_is_taken_for_a_single_value() -> None:
    made = sketch(np.concatenate([np.linspace(1, 2, 1000), np.geomspace(1e-30, 1e30, 1000)]), limit=256)
    assert made.level > 10
    assert np.array_equal(made.shares(64), made.quantile(np.arange(1, 65) / 64))


def test_within_the_range_of_a_key_a_gap_is_where_it_was() -> None:
    made = sketch([1.0, 1.25, 1.5, 1.75, 8.0, 9.0, 10.0, 11.0], limit=2)
    assert made.level
    assert made.gap([1.5, 9.5]).tolist() == [1.5, 9.5]


def test_within_the_range_of_a_key_values_count_as_evenly_spread() -> None:
    made = sketch(np.linspace(1, 2, 1001), limit=2)
    assert len(made.state()["keys"]) == 2
    q = np.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(made.quantile(q), 1 + q, atol=2e-3)
    np.testing.assert_allclose(made.rank(made.quantile(q)), q * 1001)


def test_quantiles_of_twenty_bits_of_detail_are_within_a_ten_thousandth() -> None:
    values = np.random.default_rng(1).lognormal(3, 2, 2_000_000).astype(np.float32)
    made = sketch(values)
    assert made.level > 0
    q = np.arange(1, 1024) / 1024
    np.testing.assert_allclose(made.quantile(q), np.quantile(values, q), rtol=3e-4)


def test_nan_and_infinities_are_counted_and_left_out() -> None:
    made = sketch([1.0, np.nan, np.inf, -np.inf, np.inf, 3.0, np.nan, np.nan])
    assert (made.n, made.n_nan, made.n_positive_inf, made.n_negative_inf) == (2, 3, 2, 1)
    assert made.quantile([0, 1]).tolist() == [1.0, 3.0]


def test_negative_zero_counts_as_zero() -> None:
    assert_equal(sketch([-0.0, 0.0, -0.0]), sketch([0.0, 0.0, 0.0]))


def test_what_was_added_may_be_overwritten_afterwards() -> None:
    values = np.array([1.0, 2.0], np.float32)
    made = sketch(values)
    values[:] = 9
    assert made.quantile(1.0) == 2.0


@MANY
@given(values=st.one_of(ANY_FLOATS, CLUSTERED), more=CLUSTERED, limit=LIMITS)
def test_a_stored_sketch_goes_on_where_it_was(values: Values, more: Values, limit: int) -> None:
    again = QuantileSketch.from_state(sketch(values, limit).state())
    again.add(more)
    assert_equal(again, sketch(np.concatenate([values, more]), limit))


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("counts"),
        lambda s: s.update(keys=s["keys"][::-1]),
        lambda s: s.update(counts=s["counts"][:1]),
        lambda s: s.update(counts=s["counts"] * 0),
        lambda s: s.update(seen=s["seen"][:2]),
        lambda s: s.update(seen=np.array([LIMIT, 40, 0, 0, 0])),
    ],
)
def test_a_damaged_state_is_refused(damage: Any) -> None:
    state = sketch([1.0, 2.0, 3.0]).state()
    damage(state)
    with pytest.raises(InputError, match="not a quantile sketch"):
        QuantileSketch.from_state(state)


def test_there_are_no_quantiles_of_nothing() -> None:
    for values in ([], [np.nan], [np.inf, -np.inf]):
        with pytest.raises(AionError, match="Nothing finite was observed"):
            sketch(values).quantile(0.5)


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan])
def test_a_quantile_is_a_fraction(q: float) -> None:
    with pytest.raises(AionError, match="fractions in 0 … 1"):
        sketch([1.0]).quantile(q)


def test_sketches_of_different_size_are_not_merged() -> None:
    with pytest.raises(AionError, match="cannot be merged"):
        sketch([1.0], 8).merge(sketch([1.0], 16))
