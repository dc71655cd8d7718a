"""What masking promises: budgets kept, no token twice, targets for every sample, the same in any batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import SEQUENCE_IDS, AionError, TokenSpace
from aion_core.data import selecting
from aion_core.data.keyed import key
from aion_core.data.masking import NO_REFERENCE, Masking, MaskingConfig, Places, Selection, beta_table

#: Token counts of single-survey samples, masked modalities and then the items of a sequence of five tokens each.
SAMPLES = {
    "hsc": ([576] + [1] * 13, 0),
    "legacy": ([576, 144] + [1] * 12, 0),
    "legacy with its sources": ([576, 144] + [1] * 12, 10),
    "one source": ([], 1),
    "sources and redshift": ([1], 10),
    "desi": ([273], 0),
    "desi and redshift": ([273, 1], 0),
    "desi, redshift and sources": ([273, 1], 10),
    "gaia": ([55, 55] + [1] * 6, 0),
    "gaia without coefficients": ([1] * 6, 0),
    "one scalar": ([1], 0),
}


@pytest.fixture(scope="module")
def sample_space(make_spec, make_space):
    """``sample_space(masked token counts, items of a sequence)``: the token space, and the lengths of one sample."""

    def build(masked: list[int], items: int) -> tuple[TokenSpace, np.ndarray]:
        specs = [make_spec(f"test_{i}", 1024, (n,)) for i, n in enumerate(masked)]
        if items:
            specs.append(make_spec("test_sources", 3468, (5 * items,), order="causal"))
        return make_space(*specs), np.array([*masked, *([5 * items] if items else [])])

    return build


@pytest.fixture(scope="module")
def five(make_spec, make_space) -> TokenSpace:
    return make_space(
        make_spec("test_a", 9, (40,)),
        make_spec("test_b", 9, (1,)),
        make_spec("test_s", 999, (30,), order="causal", item_tokens=3),
        make_spec("test_c", 9, (7,)),
        make_spec("test_t", 999, (12,), order="causal", item_tokens=1),
    )


def columns(places: Places, sample: int) -> np.ndarray:
    """Slot, reference and position of what is there; the rest is empty, and last."""
    rows = np.stack([places.slot[sample], places.reference[sample], places.position[sample]])
    there = int((rows[0] >= 0).sum())
    assert (rows[0, there:] == -1).all()
    assert (rows[1:, there:] == 0).all()
    return rows[:, :there]


def tokens(places: Places, sample: int) -> list[tuple[int, int]]:
    slot, reference, _ = columns(places, sample)
    return [(s, r) for s, r in zip(slot.tolist(), reference.tolist(), strict=True) if r >= 0]


def check_sample(space: TokenSpace, lengths: np.ndarray, selection: Selection, sample: int, config) -> None:
    """Everything that holds for one sample, whatever was drawn."""
    seen, asked = tokens(selection.inputs, sample), tokens(selection.targets, sample)
    assert len(set(seen + asked)) == len(seen) + len(asked), "a token twice"
    assert all(reference < lengths[slot] for slot, reference in seen + asked)
    assert bool(asked) == bool(lengths.sum()), "no targets"
    if 0 < lengths.sum() <= config.input_budget:
        assert len(seen) < lengths.sum()
    for places, budget in ((selection.inputs, config.input_budget), (selection.targets, config.target_budget)):
        slot, reference, position = columns(places, sample)
        assert len(slot) <= budget == places.slot.shape[1]
        assert (np.diff(slot) >= 0).all()
        for index, spec in enumerate(space.specs()):
            mine = slot == index
            if spec.order == "causal":
                assert position[mine].tolist() == list(range(mine.sum()))
            else:
                assert (position[mine] == reference[mine]).all()
                assert (reference[mine] >= 0).all()
        if places is selection.targets:
            check_targets(space, slot, reference, lengths, selection, sample)
    check_budgets_are_spent(space, lengths, selection, sample, seen, config)


def check_budgets_are_spent(space, lengths, selection, sample, seen, config) -> None:
    """Places stay empty only where no single token is left for them; sequences may be too coarse to fill them."""
    single = [i for i, spec in enumerate(space.specs()) if spec.order == "masked"]
    unseen = {i: lengths[i] - sum(slot == i for slot, _ in seen) for i in single}
    slot = columns(selection.targets, sample)[0]
    if len(slot) < config.target_budget:
        assert all((slot == i).sum() == unseen[i] for i in single), "target budget not spent"
    if lengths.sum() > config.input_budget > len(columns(selection.inputs, sample)[0]):
        assert sum(count > 0 for count in unseen.values()) <= 1, "input budget not spent: only the first may have more"


def check_targets(space, slot, reference, lengths, selection, sample) -> None:
    previous = selection.previous[sample, : len(slot)]
    assert (selection.previous[sample, len(slot) :] == NO_REFERENCE).all()
    for index, spec in enumerate(space.specs()):
        if spec.order != "causal":
            assert (previous[slot == index] == NO_REFERENCE).all()
            continue
        if not (slot == index).any():
            continue
        label, before = reference[slot == index].tolist(), previous[slot == index].tolist()
        assert before[1:] == label[:-1], "not teacher-forced by one"
        assert before[0] == -1 - SEQUENCE_IDS.first_sentinel
        end = -1 - SEQUENCE_IDS.end
        assert end not in label[:-1]
        inputs = columns(selection.inputs, sample)
        shown = inputs[1, inputs[0] == index].tolist()
        if label[-1] == end:
            runs: dict[int, list[int]] = {}
            for place in [before[0], *label[:-1]]:
                if place < 0:
                    runs[place] = []
                else:
                    runs[next(reversed(runs))].append(place)
            whole = [t for place in shown or list(runs) for t in (runs[place] if place < 0 else [place])]
            assert whole == list(range(lengths[index])), "input and target do not make up the sequence"
        else:
            assert len([t for t in label if t >= 0]) % spec.item_tokens == 0, "cut within an item"


lengths_of_five = st.tuples(
    st.sampled_from([0, 40]), st.sampled_from([0, 1]), st.integers(0, 10).map(lambda n: 3 * n),
    st.sampled_from([0, 7]), st.integers(0, 12),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(lengths_of_five, min_size=1, max_size=8),
    input_budget=st.integers(1, 60),
    target_budget=st.integers(4, 40),
    beta=st.tuples(st.floats(0.05, 2), st.floats(0.5, 3)),
    seed=st.integers(0, 2**32),
)
def test_every_sample_keeps_the_rules(five, lengths, input_budget, target_budget, beta, seed) -> None:
    config = MaskingConfig(input_budget=input_budget, target_budget=target_budget, target_beta=beta)
    lengths = np.array(lengths)
    selection = Masking(five, config).select(lengths, key(seed, np.arange(len(lengths))))
    for sample in range(len(lengths)):
        check_sample(five, lengths[sample], selection, sample, config)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(lengths_of_five, min_size=2, max_size=8), seed=st.integers(0, 2**32))
def test_the_mask_of_a_sample_does_not_depend_on_the_rest_of_the_batch(five, lengths, seed) -> None:
    masking = Masking(five, MaskingConfig(input_budget=20, target_budget=10))
    lengths, keys = np.array(lengths), key(seed, np.arange(len(lengths)))
    together = masking.select(lengths, keys)
    for sample in range(len(lengths)):
        alone = masking.select(lengths[sample : sample + 1], keys[sample : sample + 1])
        for a, b in ((alone.inputs, together.inputs), (alone.targets, together.targets)):
            assert np.array_equal(columns(a, 0), columns(b, sample))
        assert np.array_equal(alone.previous[0], together.previous[sample])


def test_another_key_is_another_mask(five) -> None:
    lengths = np.tile([40, 1, 30, 7, 12], (200, 1))
    selection = Masking(five, MaskingConfig(input_budget=30, target_budget=20)).select(lengths, key(1, np.arange(200)))
    found = {(*tokens(selection.inputs, i), None, *tokens(selection.targets, i)) for i in range(200)}
    assert len(found) > 197


@pytest.mark.parametrize("name", SAMPLES)
def test_every_modality_of_a_sample_is_a_target_in_at_least_a_tenth_of_draws(name, sample_space) -> None:
    space, lengths = sample_space(*SAMPLES[name])
    masking, often = Masking(space, MaskingConfig()), np.zeros(len(space))
    draws, batch = 4000, 1000
    for start in range(0, draws, batch):
        selection = masking.select(np.tile(lengths, (batch, 1)), key(0, np.arange(start, start + batch)))
        often += (counts(selection.targets, len(space)) > 0).sum(axis=0)
    assert (often / draws).min() >= 0.10, dict(zip(space.keys, often / draws, strict=True))


def select_many(space: TokenSpace, lengths, config: MaskingConfig, n: int = 20_000) -> Selection:
    return Masking(space, config).select(np.tile(lengths, (n, 1)), key(3, np.arange(n)))


def counts(places: Places, slots: int) -> np.ndarray:
    """Places of each slot, ``[B, S]``."""
    return np.stack([(places.slot == slot).sum(axis=1) for slot in range(slots)], axis=1)


def test_the_first_modality_keeps_a_uniform_number_of_tokens(sample_space) -> None:
    space, lengths = sample_space([300], 0)
    kept = counts(select_many(space, lengths, MaskingConfig(input_budget=256)).inputs, 1)[:, 0]
    share = np.bincount(np.minimum(kept // 32, 8), minlength=9) / len(kept)
    assert share == pytest.approx([*[32 / 301] * 8, 45 / 301], abs=0.012)


def test_a_scalar_that_comes_first_is_kept_in_every_other_draw(sample_space) -> None:
    space, lengths = sample_space([1, 400], 0)
    seen = counts(select_many(space, lengths, MaskingConfig(input_budget=256)).inputs, 2)[:, 0]
    # First in half of the draws; else it fills what the image leaves, which keeps fewer than 256 of 0 … 400 tokens.
    assert seen.mean() == pytest.approx(0.5 * 0.5 + 0.5 * 256 / 401, abs=0.015)


def test_the_first_target_takes_all_that_it_may_where_it_has_far_more(sample_space) -> None:
    space, lengths = sample_space([1000, 1000], 0)
    config = MaskingConfig(input_budget=1, target_budget=100, target_beta=(1e-4, 1.0))
    alone = (counts(select_many(space, lengths, config).targets, 2) == 100).any(axis=1)
    # 1 … 1000 or 999 tokens, all numbers equally likely: 100 or more; the other one is hardly ever given a share.
    assert alone.mean() == pytest.approx(0.901, abs=0.012)


def test_where_all_tokens_fit_the_budget_itself_is_uniform(sample_space) -> None:
    space, lengths = sample_space([20, 20], 0)
    kept = counts(select_many(space, lengths, MaskingConfig(input_budget=256)).inputs, 2).sum(axis=1)
    # One modality alone cannot fill the budget: it is what both can hold, and never all forty.
    assert kept.max() == 39
    assert np.bincount(kept, minlength=40)[:20] / len(kept) == pytest.approx(np.full(20, 1 / 40), abs=0.006)


def test_the_rest_of_the_input_is_filled_uniformly_over_tokens(sample_space) -> None:
    sizes, budget = np.array([600, 300, 100]), 64
    space, lengths = sample_space(sizes.tolist(), 0)
    found = counts(select_many(space, lengths, MaskingConfig(input_budget=budget)).inputs, 3)
    assert (found.sum(axis=1) == budget).all()
    kept = [np.minimum(np.arange(n + 1), budget).mean() for n in sizes]
    expected = [
        np.mean(
            [kept[i] if i == first else (budget - kept[first]) * sizes[i] / (1000 - sizes[first]) for first in range(3)]
        )
        for i in range(3)
    ]
    assert found.mean(axis=0) == pytest.approx(expected, abs=0.6)


def test_which_tokens_of_a_grid_are_drawn_is_uniform(sample_space) -> None:
    space, lengths = sample_space([60, 40], 0)
    selection = select_many(space, lengths, MaskingConfig(input_budget=20, target_budget=10))
    for places in (selection.inputs, selection.targets):
        for slot, size in enumerate((60, 40)):
            share = np.bincount(places.reference[places.slot == slot], minlength=size).astype(float)
            assert share / share.mean() == pytest.approx(np.ones(size), abs=0.08)


def test_draw_counts_is_hypergeometric() -> None:
    available, n, pool = np.array([30, 10, 5, 0, 1]), 30_000, np.zeros(46, np.int32)
    for amount in (1, 8, 23, 40, 46, 60):
        state, drawn = np.array([amount], np.uint64), np.zeros((n, 5), np.int64)
        for row in drawn:
            assert selecting.draw_counts(available, amount, row, pool, state) == min(amount, 46)
        amount = min(amount, 46)
        assert (drawn.sum(axis=1) == amount).all()
        assert (drawn <= available).all()
        p, total = available / 46, 46
        assert drawn.mean(axis=0) == pytest.approx(amount * p, abs=0.05)
        variance = amount * p * (1 - p) * (total - amount) / (total - 1)
        assert drawn.var(axis=0) == pytest.approx(variance, abs=0.08)


def test_random_numbers_are_uniform_and_independent_of_their_neighbours() -> None:
    state = np.array([11], np.uint64)
    die = np.array([selecting.below(6, state) for _ in range(60_000)])
    assert np.bincount(die) / 1e4 == pytest.approx(np.ones(6), abs=0.04)
    pairs = np.bincount(die[:-1] * 6 + die[1:], minlength=36) / len(die) * 36
    assert pairs == pytest.approx(np.ones(36), abs=0.12)
    u = np.array([selecting.unit(state) for _ in range(20_000)])
    assert np.sort(u) == pytest.approx(np.linspace(0, 1, len(u)), abs=0.015)


def shares(left: list[int], budget: int, beta: tuple[float, float], n: int) -> np.ndarray:
    """What `count_shares` gives to modalities, none of which was chosen first: ``[n, S]``."""
    work = selecting.workspace(np.ones(len(left), np.int64), np.zeros(len(left), bool), sum(left))
    work.left[:], work.state[0] = left, 5
    parameters, table, given = np.array(beta), beta_table(*beta), np.zeros((n, len(left)), np.int64)
    for row in given:
        work.asked[:] = 0
        total = selecting.count_shares(work, -1, budget, parameters, table)
        row[:] = work.asked
        assert total == row.sum() <= budget
    return given


def test_shares_of_the_other_modalities_are_skewed_to_zero() -> None:
    given = shares([100] * 300, 10**6, (0.1, 1.0), 200)
    assert given.mean() == pytest.approx(100 * 0.1 / 1.1, abs=0.4)
    assert (given == 0).mean() == pytest.approx(0.01**0.1 * 10 / 11, abs=0.01), "rounding is not stochastic"
    tight = shares([100] * 3, 5, (0.1, 1.0), 10_000)
    assert tight.sum(axis=1).max() == 5
    assert tight.mean(axis=0) == pytest.approx(np.full(3, tight.mean()), rel=0.05)


#: Distribution functions that can be written down.
BETAS = {
    (0.1, 1.0): lambda x: x**0.1,
    (1.0, 3.0): lambda x: 1 - (1 - x) ** 3,
    (2.0, 2.0): lambda x: 3 * x**2 - 2 * x**3,
    (0.5, 0.5): lambda x: 2 / np.pi * np.arcsin(np.sqrt(x)),
    (0.5, 2.0): lambda x: 1.5 * np.sqrt(x) - 0.5 * x**1.5,
    (3.0, 0.5): lambda x: 1 - np.sqrt(1 - x) * (3 * x**2 + 4 * x + 8) / 8,
}


@pytest.mark.parametrize(("parameters", "below"), BETAS.items(), ids=map(str, BETAS))
def test_shares_follow_the_beta_distribution_that_is_asked_for(parameters, below) -> None:
    u, table = np.linspace(0, 1, 1001), beta_table(*parameters)
    found = np.array([selecting.share(value, *parameters, table) for value in u])
    assert below(found) == pytest.approx(u, abs=1e-5)


def test_both_parameters_of_the_beta_distribution_count() -> None:
    for a, b in ((0.1, 1.0), (0.1, 4.0), (2.0, 1.0)):
        assert shares([1000] * 400, 10**6, (a, b), 100).mean() == pytest.approx(1000 * a / (a + b), abs=8)
    with pytest.raises(ValueError, match="greater than 0"):
        MaskingConfig(target_beta=(0.1, 0.0))


def test_sequences_take_part_in_filling_both_budgets(sample_space) -> None:
    space, lengths = sample_space([10] * 7, 40)
    selection = select_many(
        space, lengths, MaskingConfig(input_budget=60, target_budget=60, target_beta=(1e-3, 1.0)), 5000
    )
    for places in (selection.inputs, selection.targets):
        assert (counts(places, 8)[:, 7] > 0).mean() > 0.9


def test_a_target_budget_too_small_for_an_item_is_refused(make_spec, make_space) -> None:
    space = make_space(make_spec("test_sources", 3468, (50,), order="causal"))
    with pytest.raises(AionError, match="cannot hold one item of test_sources"):
        Masking(space, MaskingConfig(target_budget=5))
    Masking(space, MaskingConfig(target_budget=6))


def test_a_sample_without_tokens_selects_nothing(five) -> None:
    selection = Masking(five, MaskingConfig()).select(np.zeros((3, 5)), key(1, np.arange(3)))
    for places in (selection.inputs, selection.targets):
        assert (places.slot == -1).all()
