"""What masking promises about sequences: nothing hidden is seen, and input and target together give the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import SEQUENCE_IDS
from aion_core.data.keyed import key
from aion_core.data.sequences import IMPOSSIBLE, Sequences, affordable

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


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    width=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_references_and_costs_are_those_of_the_definition(items, width, seed, data) -> None:
    sequences = Sequences.of(np.array(items), width, key(seed, np.arange(len(items))))
    seen = np.array([data.draw(st.integers(0, n)) for n in items])
    visible, inputs, targets = sequences.visible(seen), sequences.inputs(seen), sequences.targets(seen)
    target_cost = sequences.target_cost(seen)
    for row, n in enumerate(items):
        assert visible[row, :n].sum() == seen[row]
        shown, asked = expected(visible[row, :n].tolist(), width)
        assert sequences.input_cost[row, seen[row]] == (len(shown) if seen[row] else 0)
        assert inputs[row, : len(shown)].tolist() == shown
        if seen[row] < n:
            assert targets[row, : len(asked)].tolist() == asked
        assert target_cost[row, 0] == 0
        assert (target_cost[row, n - seen[row] + 1 :] == IMPOSSIBLE).all()
        last = 0
        for hidden in range(1, n - seen[row] + 1):
            cost = target_cost[row, hidden]
            predicted = asked[1 : 1 + cost]
            assert sum(reference >= 0 for reference in predicted) == hidden * width
            assert predicted[-1] >= 0 or predicted[-1] == END, "cut inside an item or behind a sentinel"
            assert (predicted[-1] == END) == (hidden == n - seen[row])
            assert cost > last
            last = cost


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 500), places=st.integers(0, 700), wanted=st.integers(0, 500), width=st.integers(1, 3))
def test_what_is_affordable_fits_and_keeps_to_the_sentinels_there_are(n, places, wanted, width) -> None:
    sequences = Sequences.of(np.array([n]), width, key(7, [n]))
    seen = affordable(sequences.input_cost, np.array([wanted]), np.array([places]))
    assert seen[0] <= min(wanted, n)
    assert sequences.input_cost[0, seen[0]] <= places
    references = sequences.targets(seen)
    assert references.min() >= -SEQUENCE_IDS.first_code
    assert ((references < 0).sum() - 1) <= SEQUENCE_IDS.n_sentinels
    if places >= n * width and wanted >= n:
        assert seen[0] == n


def test_there_are_never_more_runs_than_sentinels() -> None:
    """Of 1200 single-token items, half seen, some 300 runs would be hidden."""
    sequences = Sequences.of(np.full(20, 1200), 1, key(7, np.arange(20)))
    seen = affordable(sequences.input_cost, np.full(20, 600), np.full(20, 5000))
    runs = (sequences.inputs(seen) < 0).sum(axis=1)
    assert runs.max() <= SEQUENCE_IDS.n_sentinels
    assert runs.min() > SEQUENCE_IDS.n_sentinels - 10, "far fewer items are seen than could be"


def test_a_sequence_of_which_nothing_is_seen_costs_no_input() -> None:
    sequences = Sequences.of(np.array([4]), 5, key(1, [0]))
    assert sequences.input_cost[0, 0] == 0


def test_all_items_become_visible_equally_often() -> None:
    sequences = Sequences.of(np.full(20_000, 7), 5, key(3, np.arange(20_000)))
    share = sequences.visible(np.full(20_000, 3)).mean(axis=0)
    assert share == pytest.approx(np.full(7, 3 / 7), abs=0.02)


def test_a_draw_does_not_depend_on_the_longest_sequence_of_the_batch() -> None:
    keys = key(5, np.arange(3))
    alone = Sequences.of(np.array([4]), 5, keys[1:2])
    among = Sequences.of(np.array([9, 4, 0]), 5, keys)
    assert np.array_equal(alone.rank[0], among.rank[1, :4])
    assert np.array_equal(alone.input_cost[0], among.input_cost[1, :5])
