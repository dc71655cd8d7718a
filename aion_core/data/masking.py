"""Which tokens are input and which are targets: AION-1's masking (paper section 4; REFERENCE section 3), by counting.

For each sample a modality is drawn and keeps a random number of its tokens; the rest of the input budget is filled
uniformly from the other modalities. Targets come from what is left: one modality takes a number drawn without
constraint, the others numbers from a Beta distribution skewed to zero, and what is left of the budget is filled
uniformly. Where that leaves room, it is read as follows.

- Both first modalities are drawn among the modalities that have tokens (left), each as likely as another.
- The first one of the input keeps 0 … n tokens, all numbers equally likely, cut to the budget. Where all the tokens
  would fit the budget, the budget is drawn from 0 … total − 1 instead, so that something is left to predict.
- "Without constraint" is 1 … n, all equally likely, cut to the budget: every sample has targets.
- The others take ``Beta(a, b)`` of what they have left, in random order while the budget lasts, rounded up or down
  at random so that the mean is kept: a scalar is taken in a share a / (a + b) of the draws.
- Sequences count in whole items (`aion_core.data.sequences`); what they cannot use goes to single tokens.

First the *numbers* of tokens by modality are drawn, for the whole batch at once; then each modality's tokens are those
that a keyed permutation puts first (input) and next (targets). No token is touched that is not selected, and nothing
depends on the batch: all draws are keyed by the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat

from aion_core.contract import AionError, TokenSpace
from aion_core.contract.modality import Frozen
from aion_core.data.keyed import U64, Float, key, permute, uniform
from aion_core.data.sequences import Sequences, affordable

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

#: What stands before a target that is not part of a sequence: the mask token.
NO_REFERENCE = np.iinfo(np.int32).min


class MaskingConfig(Frozen):
    """How many tokens the encoder sees and how many the decoder predicts."""

    input_budget: int = Field(default=256, ge=1)
    target_budget: int = Field(default=128, ge=1)
    target_beta: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.1, 1.0), description="a and b of Beta(a, b), of which a modality takes its share of the targets"
    )


@dataclass(frozen=True)
class Places:
    """Selected places of a batch, flat, sorted by sample and then slot; int64 ``[E]`` each.

    Attributes
    ----------
    sample, slot
        Whose, and of which modality.
    column
        Place within the sample, 0 …
    reference
        The token's index in the modality; −1 − id for a reserved id of a sequence (sentinel, end).
    position
        Where the model is told that the token stands: the index in a grid, the place in a sequence.
    previous
        The reference before, which the decoder sees instead of a mask token; `NO_REFERENCE` outside sequences. None
        where no sequence is asked for.
    """

    sample: Int
    slot: Int
    column: Int
    reference: Int
    position: Int
    previous: Int | None


@dataclass(frozen=True)
class Selection:
    """What a batch shows to the encoder, and what it asks of the decoder."""

    inputs: Places
    targets: Places


class Masking:
    """The masking of one token space.

    Parameters
    ----------
    space
        The model's token space.
    config
        Budgets. A target budget in which no whole item of a sequence fits is an `AionError`.
    """

    def __init__(self, space: TokenSpace, config: MaskingConfig) -> None:
        self.config = config
        self._share = beta_quantile(*config.target_beta)
        self.width = np.array([spec.item_tokens for spec in space.specs()], np.int64)
        self.causal = np.array([spec.order == "causal" for spec in space.specs()], bool)
        for spec in space.specs():
            if spec.order == "causal" and spec.item_tokens + 1 > config.target_budget:
                raise AionError(
                    f"A target budget of {config.target_budget} cannot hold one item of {spec.key} "
                    f"({spec.item_tokens} tokens and the end); make it {spec.item_tokens + 1} or more."
                )

    def select(self, lengths: npt.NDArray[Any], keys: U64) -> Selection:
        """Draw the input and the targets of B samples.

        Parameters
        ----------
        lengths
            Tokens of each sample in each slot, ``[B, S]``; 0 where absent.
        keys
            One key for each sample, ``[B]``: all that its draws depend on, besides its lengths.
        """
        lengths = np.asarray(lengths, np.int64)
        sequences = {
            int(slot): Sequences.of(lengths[:, slot] // self.width[slot], int(self.width[slot]), key(keys, 1, slot))
            for slot in np.flatnonzero(self.causal & (lengths > 0).any(axis=0))
        }
        inputs, seen = self._input_counts(lengths, keys, sequences)
        targets = self._target_counts(lengths, inputs, keys, sequences, seen)
        tokens = key(keys[:, None], 2, np.arange(lengths.shape[1]))
        shown = {slot: s.inputs(seen[slot]) for slot, s in sequences.items()}
        asked = {slot: s.targets(seen[slot]) for slot, s in sequences.items()}
        return Selection(
            self._places(inputs, np.zeros_like(inputs), lengths, tokens, shown, 0),
            self._places(targets, inputs, lengths, tokens, asked, 1),
        )

    # --- how many ---

    def _input_counts(self, lengths: Int, keys: U64, sequences: Mapping[int, Sequences]) -> tuple[Int, dict[int, Int]]:
        """Return the input places of each slot ``[B, S]``, sentinels included, and the items seen of each sequence."""
        total, row = lengths.sum(axis=1), np.arange(len(lengths))
        u = uniform(key(keys[:, None], 3, np.arange(3)))
        limit = self.config.input_budget
        budget = np.where(total <= limit, np.floor(u[:, 0] * total).astype(np.int64), limit)
        first = _pick(lengths > 0, u[:, 1])
        kept = np.floor(u[:, 2] * (lengths[row, first] // self.width[first] + 1)).astype(np.int64)
        counts = np.zeros_like(lengths)
        counts[row, first] = np.where(self.causal[first], 0, np.minimum(kept, budget))
        seen = {}
        for slot, s in sequences.items():
            seen[slot] = affordable(s.input_cost, np.where(first == slot, kept, 0), budget)
            counts[:, slot] += s.input_cost[row, seen[slot]]
        others = lengths.copy()
        others[row, first] = 0
        budget -= counts.sum(axis=1)
        drawn = draw_counts(others, np.minimum(budget, others.sum(axis=1)), key(keys, 4))
        for slot, s in sequences.items():
            more = affordable(s.input_cost, s.items, drawn[:, slot])
            drawn[:, slot] = s.input_cost[row, more]
            seen[slot] += more
        counts += drawn
        return counts + self._top_up(others - drawn, budget - drawn.sum(axis=1), key(keys, 5)), seen

    def _target_counts(
        self, lengths: Int, inputs: Int, keys: U64, sequences: Mapping[int, Sequences], seen: Mapping[int, Int]
    ) -> Int:
        """Return the target places of each slot ``[B, S]``, sentinels and ends included."""
        left, row, limit = lengths - inputs, np.arange(len(lengths)), self.config.target_budget
        costs = {slot: s.target_cost(seen[slot]) for slot, s in sequences.items()}
        hidden = {slot: s.items - seen[slot] for slot, s in sequences.items()}
        for slot, cost in costs.items():
            left[:, slot] = cost[row, hidden[slot]]
        u = uniform(key(keys[:, None], 6, np.arange(2)))
        first = _pick(left > 0, u[:, 0])
        counts = np.zeros_like(left)
        most = left[row, first]
        counts[row, first] = np.minimum(np.minimum(1 + np.floor(u[:, 1] * most).astype(np.int64), most), limit)
        for slot, cost in costs.items():
            wanted = 1 + np.floor(u[:, 1] * hidden[slot]).astype(np.int64)
            items = affordable(cost, wanted, np.full_like(wanted, limit))
            counts[:, slot] = np.where(first == slot, cost[row, items], 0)
        others = left.copy()
        others[row, first] = 0
        counts += self._beta_counts(others, limit - counts.sum(axis=1), keys)
        rest = left - counts
        counts += draw_counts(rest, np.minimum(limit - counts.sum(axis=1), rest.sum(axis=1)), key(keys, 7))
        for slot, cost in costs.items():
            counts[:, slot] = cost[row, affordable(cost, hidden[slot], counts[:, slot])]
        return counts + self._top_up(left - counts, limit - counts.sum(axis=1), key(keys, 8))

    def _beta_counts(self, left: Int, budget: Int, keys: U64) -> Int:
        """Return Beta-distributed shares of what is left, in random order of the modalities while the budget lasts."""
        slots = np.arange(left.shape[1])
        u = uniform(key(keys[:, None, None], 9, slots[:, None], np.arange(3)))
        share = self._share(u[..., 0]) * left
        wanted: Int = np.minimum(np.floor(share + u[..., 1]).astype(np.int64), left)
        order = np.argsort(u[..., 2], axis=1)
        wanted = np.take_along_axis(wanted, order, axis=1)
        before = np.cumsum(wanted, axis=1) - wanted
        given = np.clip(budget[:, None] - before, 0, wanted)
        counts = np.empty_like(given)
        np.put_along_axis(counts, order, given, axis=1)
        return counts

    def _top_up(self, available: Int, budget: Int, keys: U64) -> Int:
        """Spend on single tokens what sequences could not use, because they take whole items only."""
        available = np.where(self.causal, 0, available)
        amount = np.minimum(budget, available.sum(axis=1))
        return draw_counts(available, amount, keys) if amount.any() else np.zeros_like(available)

    # --- which ones ---

    def _places(
        self, counts: Int, skip: Int, lengths: Int, keys: U64, references: Mapping[int, Int], shift: int
    ) -> Places:
        """List the places that `counts` stand for, leaving out the first `skip` tokens of each permutation.

        Sequences take theirs from `references`, `shift` further on; what stands before is then the previous one.
        """
        size, slots = counts.shape
        per_cell, per_sample = counts.ravel(), counts.sum(axis=1)
        sample = np.repeat(np.arange(size), per_sample)
        slot = np.repeat(np.tile(np.arange(slots), size), per_cell)
        column = _count_up(per_sample)
        nth = _count_up(per_cell, np.where(self.causal, 0, skip).ravel())
        chosen = {index: np.flatnonzero(slot == index) for index in references}
        turn = nth.copy() if references else nth
        for places in chosen.values():
            turn[places] = 0
        most = np.where(self.causal, 1, lengths).astype(np.uint32).ravel()
        reference = permute(turn, np.repeat(most, per_cell), np.repeat(keys.ravel(), per_cell)).astype(np.int64)
        position, previous = reference, None
        if references:
            position, previous = reference.copy(), np.full(len(sample), NO_REFERENCE)
        for index, table in references.items():
            where, place = sample[chosen[index]], nth[chosen[index]]
            reference[chosen[index]] = table[where, place + shift]
            position[chosen[index]] = place
            if shift and previous is not None:
                previous[chosen[index]] = table[where, place]
        return Places(sample, slot, column, reference, position, previous if shift else None)


def beta_quantile(a: float, b: float, steps: int = 4096) -> Callable[[Float], Float]:
    """Return the inverse of the distribution function of Beta(a, b), vectorised: of uniform numbers it makes such.

    For x = (1 − (1 − w)^(1/b))^(1/a), w is uniform if a or b is 1 (Kumaraswamy 1980). Else its density is proportional
    to ((1 − x) / (1 − xᵃ))^(b − 1), which lies between 1 and a^(1 − b): that is integrated numerically.
    """
    if b == 1:
        return lambda u: np.power(u, 1 / a)

    def share(w: Float) -> Float:
        return np.asarray((1 - (1 - w) ** (1 / b)) ** (1 / a))

    grid = np.linspace(0, 1, steps + 1)
    x = share(grid[:-1])
    logarithm = (b - 1) * np.append(np.log1p(-x) - np.log1p(-(x**a)), -np.log(a))
    density = np.exp(logarithm - logarithm.max())
    below = np.append(0.0, np.cumsum(density[1:] + density[:-1]))
    below /= below[-1]
    return lambda u: share(np.interp(u, below, grid))


def draw_counts(available: Int, amount: Int, keys: U64) -> Int:
    """Return how many of `amount` tokens drawn uniformly, none twice, fall on each slot: int64 ``[B, S]``.

    Exact (multivariate hypergeometric): the tokens are laid side by side, and those counted whose place a keyed
    permutation puts first; or those left out, where they are fewer.
    """
    size, slots = available.shape
    total = available.sum(axis=1)
    rest = total - amount
    drawn = np.minimum(amount, rest)
    sample = np.repeat(np.arange(size), drawn)
    owner = np.repeat(np.tile(np.arange(slots, dtype=np.uint16), size), available.ravel())
    place = permute(_count_up(drawn), np.repeat(total.astype(np.uint32), drawn), np.repeat(keys, drawn))
    place += np.repeat((np.cumsum(total) - total).astype(np.uint32), drawn)
    counts = np.bincount(sample * slots + owner[place], minlength=size * slots).reshape(size, slots)
    return np.where((rest < amount)[:, None], available - counts, counts)


def _count_up(counts: Int, start: Int | None = None) -> Int:
    """Return 0 … c − 1 (or, from a start on, as many) for each count c, one after another."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(before if start is None else before - start, counts)


def _pick(allowed: Bool, u: Float) -> Int:
    """Return for each sample one of the slots allowed, all equally likely; 0 where none is."""
    nth = np.floor(u * allowed.sum(axis=1)).astype(np.int64)
    return np.asarray((np.cumsum(allowed, axis=1) > nth[:, None]).argmax(axis=1))
