"""Causal sequences under masking: which items are seen, what stands for the others, what is to be predicted.

A sequence is made of items of a fixed number of tokens. Each run of hidden items is replaced by one sentinel in the
input; the target is ``[S_0, run 0, S_1, run 1, …, end]``, of which the decoder sees all but the last and predicts all
but the first (teacher forcing, shifted by one). Sentinels and the end cost places like tokens.

Two rules keep small budgets sensible. A sequence none of whose items is seen leaves no lone sentinel in the input, just
as if it had not been given. A target that does not fit is cut behind its last whole item that does, so it has no end.

Everything here is about *references*: 0 or more is a token of the sequence, −1 − id a reserved id itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aion_core.contract import SEQUENCE_IDS
from aion_core.data.keyed import U64, key, uniform

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

IMPOSSIBLE = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Sequences:
    """The sequences of one modality of n samples, with at most m items each.

    Attributes
    ----------
    rank
        In which order items become visible, int64 ``[n, m]``: a permutation of 0 … items − 1, then what is no item.
    items
        Items of each sample, ``[n]``.
    width
        Tokens of an item.
    input_cost
        Places that seeing v items costs in the input, ``[n, m + 1]``.
    """

    rank: Int
    items: Int
    width: int
    input_cost: Int

    @classmethod
    def of(cls, items: Int, width: int, keys: U64) -> Sequences:
        """Draw the order in which items become visible, from a key for each sample."""
        most = int(items.max(initial=0))
        number = np.arange(most)
        draws = uniform(key(keys[:, None], number))
        draws[number >= items[:, None]] = 2.0
        rank = np.argsort(draws, axis=1)
        # Showing an item changes the number of hidden runs by its hidden neighbours less one.
        edge = np.full((len(items), 1), -1)
        sides = np.hstack([edge, np.where(number < items[:, None], rank, -1), edge])
        change = (sides[:, :-2] > rank).astype(np.int64) + (sides[:, 2:] > rank) - 1
        runs = np.ones((len(items), most + 1), np.int64)
        np.put_along_axis(runs, rank + 1, change, axis=1)
        runs = np.cumsum(runs, axis=1)
        cost = np.arange(most + 1) * width + runs
        cost[runs > SEQUENCE_IDS.n_sentinels] = IMPOSSIBLE
        cost[:, 0] = 0
        return cls(rank, items, width, cost)

    def visible(self, seen: Int) -> Bool:
        """Return which items are seen when `seen` of each sample are: ``[n, m]``."""
        return self.rank < seen[:, None]

    def inputs(self, seen: Int) -> Int:
        """Return the input's references ``[n, most cost]``, meaningful up to each sample's cost."""
        visible = self.visible(seen)
        hidden = self._exist() & ~visible
        begins = _begins(hidden)
        length = visible * self.width + begins
        return self._write(visible, begins, length)

    def target_cost(self, seen: Int) -> Int:
        """Return the places that predicting the first h hidden items costs, ``[n, m + 1]``; `IMPOSSIBLE` beyond."""
        hidden = self._exist() & ~self.visible(seen)
        begins = _begins(hidden)
        nth = np.cumsum(hidden, axis=1)
        # Tokens, and the sentinels of all runs so far, of which the first is seen but not predicted; at last the end.
        behind = np.cumsum(hidden * self.width + begins, axis=1) - 1
        behind += nth == nth[:, -1:]
        cost = np.full((len(hidden), hidden.shape[1] + 1), IMPOSSIBLE, np.int64)
        cost[:, 0] = 0
        rows, columns = np.nonzero(hidden)
        cost[rows, nth[rows, columns]] = behind[rows, columns]
        return cost

    def targets(self, seen: Int) -> Int:
        """Return the references of the whole target sequence, from its first sentinel to the end.

        ``[n, most]``: of c places, the decoder sees references 0 … c − 1 and predicts 1 … c.
        """
        hidden = self._exist() & ~self.visible(seen)
        begins = _begins(hidden)
        references = self._write(hidden, begins, hidden * self.width + begins)
        length = (hidden * self.width + begins).sum(axis=1)
        references = np.hstack([references, np.zeros((len(references), 1), np.int64)])
        references[np.arange(len(length)), length] = -1 - SEQUENCE_IDS.end
        return references

    def _exist(self) -> Bool:
        return np.arange(self.rank.shape[1]) < self.items[:, None]

    def _write(self, shown: Bool, begins: Bool, length: Int) -> Int:
        """Lay out, item after item, the sentinel of a run that begins there and the tokens of a shown item."""
        behind = np.cumsum(length, axis=1)
        references = np.zeros((len(length), int(behind[:, -1:].max(initial=0))), np.int64)
        rows, columns = np.nonzero(begins)
        run = np.cumsum(begins, axis=1)[rows, columns] - 1
        first = (behind - length)[rows, columns]
        references[rows, first] = -1 - (SEQUENCE_IDS.first_sentinel + run)
        rows, columns = np.nonzero(shown)
        tokens = np.arange(self.width)
        first = behind[rows, columns, None] - self.width + tokens
        references[rows[:, None], first] = columns[:, None] * self.width + tokens
        return references


def affordable(cost: Int, wanted: Int, places: Int) -> Int:
    """Return the most items, up to `wanted` ``[n]``, whose cost ``[n, m + 1]`` is within so many places: ``[n]``."""
    count = np.arange(cost.shape[1])
    fits = (count <= wanted[:, None]) & (cost <= places[:, None])
    return np.asarray(np.where(fits, count, 0).max(axis=1, initial=0))


def _begins(hidden: Bool) -> Bool:
    """Whether a run of hidden items begins at each item."""
    begins = hidden.copy()
    begins[:, 1:] &= ~hidden[:, :-1]
    return begins
