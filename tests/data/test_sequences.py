"""What masking promises about sequences: nothing hidden is seen, and input and target together give the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import SEQUENCE_IDS
from aion_core.data import selecting

END = -1 - SEQUENCE_IDS.end


def sentinel(run: int) -> int:
    return -1 - (SEQUENCE_IDS.first_sentinel + run)


def expected(visible: list[bool], width: int) -> tuple[list[int], list[int]]:
    """Input and target references of one sequence, written down item by item."""
    shown, asked, run, hidden_before = [], [], -1, False
    for item, seen in enumerate(visible):
        tokens = list(range(item * width, (item + 1) * width))
        if seen:
            shown += tokens
        else:
            if not hidden_before:
                run += 1
                shown.append(sentinel(run))
                asked.append(sentinel(run))
            asked += tokens
        hidden_before = not seen
    return shown, [*asked, END]


def drawn(items: int, seed: int) -> np.ndarray:
    rank = np.full(items, -1)
    selecting.draw_order(items, items, rank, np.array([seed], np.uint64))
    assert sorted(rank) == list(range(items))
    return rank


def input_cost(rank: np.ndarray, width: int) -> np.ndarray:
    cost = np.full(len(rank) + 1, -7)
    selecting.input_costs(rank, width, cost)
    return cost


def shown_references(rank: np.ndarray, width: int, seen: int) -> list[int]:
    reference = np.full(len(rank) * (width + 1) + 1, 99_999)
    return reference[: selecting.write_shown(rank, width, seen, reference)].tolist()


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 12), width=st.integers(1, 5), seed=st.integers(0, 10**6), data=st.data())
def test_references_and_costs_are_those_of_the_definition(n, width, seed, data) -> None:
    rank, seen = drawn(n, seed), data.draw(st.integers(0, n))
    shown, asked = expected((rank < seen).tolist(), width)
    assert input_cost(rank, width)[seen] == (len(shown) if seen else 0)
    assert shown_references(rank, width, seen) == shown
    cost = np.full(n + 1, -7)
    selecting.target_costs(rank, width, seen, cost)
    assert cost[0] == 0
    for hidden in range(1, n - seen + 1):
        assert cost[hidden] > cost[hidden - 1]
        reference, previous = np.full((2, cost[hidden]), 99_999)
        selecting.write_asked(rank, width, seen, cost[hidden], reference, previous)
        assert reference.tolist() == asked[1 : 1 + cost[hidden]]
        assert previous.tolist() == asked[: cost[hidden]]
        assert (reference >= 0).sum() == hidden * width
        assert reference[-1] >= 0 or reference[-1] == END, "cut inside an item or behind a sentinel"
        assert (reference[-1] == END) == (hidden == n - seen)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 500), places=st.integers(0, 700), wanted=st.integers(0, 500), width=st.integers(1, 3))
def test_what_is_affordable_fits_and_keeps_to_the_sentinels_there_are(n, places, wanted, width) -> None:
    rank = drawn(n, 7)
    cost = input_cost(rank, width)
    most = min(wanted, n)
    seen = selecting.affordable(cost, most, places)
    assert seen <= most
    assert cost[seen] <= places
    assert (cost[seen + 1 : most + 1] > places).all()
    references = np.array(shown_references(rank, width, seen) if seen else [0])
    assert references.min() >= -SEQUENCE_IDS.first_code
    assert (references < 0).sum() <= SEQUENCE_IDS.n_sentinels
    if places >= n * width and wanted >= n:
        assert seen == n


def test_there_are_never_more_runs_than_sentinels() -> None:
    """Of 1200 single-token items, half seen, some 300 runs would be hidden."""
    runs = []
    for seed in range(20):
        rank = drawn(1200, seed)
        seen = selecting.affordable(input_cost(rank, 1), 600, 5000)
        runs.append((np.array(shown_references(rank, 1, seen)) < 0).sum())
    assert max(runs) <= SEQUENCE_IDS.n_sentinels
    assert min(runs) > SEQUENCE_IDS.n_sentinels - 10, "far fewer items are seen than could be"
    assert input_cost(drawn(1200, 0), 1)[600] == selecting.IMPOSSIBLE


def test_a_sequence_of_which_nothing_is_seen_costs_no_input() -> None:
    assert input_cost(drawn(4, 1), 5)[0] == 0


def test_all_items_become_visible_equally_often() -> None:
    share = np.mean([drawn(7, seed) < 3 for seed in range(20_000)], axis=0)
    assert share == pytest.approx(np.full(7, 3 / 7), abs=0.02)
