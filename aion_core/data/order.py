"""In which order rows are read: a function of position, so that resuming is looking up.

The chunks of a group of stores are permuted, and then the rows within each window of consecutive permuted chunks:
random enough to train on, sequential enough for a parallel file system, and without a shuffle buffer, because any
position can be computed on its own. Several groups are mixed by weights; one that is exhausted starts again, in
another order, until all are exhausted. A position is ``{epoch, index, seed}``; how many ranks share the work is not
part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aion_core.contract import AionError
from aion_core.data.keyed import U64, key, permute

#: Consecutive positions among which the groups are interleaved at random.
MIX_BLOCK = 1024
#: Weights become integers that sum to about this, for exact arithmetic.
SHARES = 1 << 20

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draws:
    """n samples in order: which row of which group, and in which lap over the group; all int64 ``[n]``.

    A lap is one pass over a group; in one epoch, group rows repeat in later laps only.
    """

    epoch: Int
    group: Int
    row: Int
    lap: Int

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class _Lap:
    """One pass over a group: its chunks in permuted order, and where windows of them end, counted in rows."""

    first_row: Int
    chunk_ends: Int
    window_ends: Int


class Order:
    """The order of the rows of several groups.

    Parameters
    ----------
    groups
        For each group, the number of rows in each of its chunks.
    seed
        Another seed gives another order.
    weights
        Share of the samples of each group, relative to the others. None: by size, which makes an epoch visit every
        row exactly once.
    window
        Chunks among which rows are mixed.

    Examples
    --------
    >>> order = Order([[3, 2]], seed=0)
    >>> sorted(order.rows(epoch=0, start=0, stop=len(order)).row.tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        groups: Sequence[npt.ArrayLike],
        seed: int,
        weights: Sequence[float] | None = None,
        window: int = 32,
    ) -> None:
        self.chunks = [np.asarray(sizes, np.int64).reshape(-1) for sizes in groups]
        self.sizes = np.array([sizes.sum() for sizes in self.chunks], np.int64)
        self.seed, self.window = seed, window
        if not self.sizes.sum():
            raise AionError("There is not one row to put in order; check the stores and the split.")
        self._shares = self._integer_shares(weights)
        self._length = self._epoch_length()
        self._lap = lru_cache(maxsize=4 * len(self.chunks))(self._make_lap)

    def _integer_shares(self, weights: Sequence[float] | None) -> Int:
        if weights is None:
            return self.sizes
        if len(weights) != len(self.sizes) or not all(np.isfinite(w) and w > 0 for w in weights):
            raise AionError(f"{len(self.sizes)} groups need as many weights above 0, found {list(weights)}.")
        there = np.where(self.sizes > 0, np.asarray(weights, np.float64), 0.0)
        return np.where(there > 0, np.maximum(np.rint(there / there.sum() * SHARES), 1), 0).astype(np.int64)

    def __len__(self) -> int:
        """Samples in an epoch: until the last group is exhausted."""
        return self._length

    def rows(self, epoch: int, start: int, stop: int) -> Draws:
        """Return the samples at positions start … stop − 1 of an epoch; positions past its end are the next one's."""
        index = np.arange(start, stop, dtype=np.int64)
        epochs, index = epoch + index // self._length, index % self._length
        group, ordinal = self._source(epochs, index)
        lap, place = np.divmod(ordinal, np.maximum(self.sizes[group], 1))
        row = np.empty_like(place)
        for e, g, n, chosen in _equal(epochs, group, lap):
            row[chosen] = self._row(e, g, n, place[chosen])
        return Draws(epochs, group, row, lap)

    def position(self, epoch: int, index: int) -> tuple[int, int]:
        """Return the same position with an index inside its epoch."""
        return epoch + index // self._length, index % self._length

    # --- which group ---

    def _counts(self, upto: Int) -> Int:
        """Return how many of the first `upto` samples (before interleaving) come from each group: ``[groups, n]``.

        The groups are split off one after another: of m samples, a group with share a of A takes the rounded a·m/A,
        and the others share the rest in the same way. So any prefix is as near to the weights as integers allow.
        """
        counts = np.empty((len(self._shares), len(upto)), np.int64)
        left, shares = upto.copy(), int(self._shares.sum())
        for group, share in enumerate(self._shares.tolist()):
            counts[group] = (left * share + shares // 2) // shares if share < shares else left
            left -= counts[group]
            shares = max(shares - share, 1)
        return counts

    def _source(self, epochs: Int, index: Int) -> tuple[Int, Int]:
        """Return the group of each position, and how many samples of that group came before it in the epoch."""
        if len(self.chunks) == 1:
            return np.zeros_like(index), index
        block = index // MIX_BLOCK * MIX_BLOCK
        size = np.minimum(MIX_BLOCK, self._length - block)
        mixed = block + permute(index - block, size, key(self.seed, 1, epochs, block))
        before, after = self._counts(mixed), self._counts(mixed + 1)
        group = np.argmax(after > before, axis=0)
        return group, before[group, np.arange(len(group))]

    def _epoch_length(self) -> int:
        """Return the smallest number of samples that exhausts every group, by bisection."""
        low, high = int(self.sizes.sum()), int(self.sizes.sum())
        while not self._exhausts(high):
            low, high = high, 2 * high
        low = min(low, int(self.sizes.max())) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._exhausts(middle) else (middle, high)
        return high

    def _exhausts(self, samples: int) -> bool:
        return bool((self._counts(np.array([samples], np.int64))[:, 0] >= self.sizes).all())

    # --- which row ---

    def _row(self, epoch: int, group: int, lap: int, place: Int) -> Int:
        plan = self._lap(epoch, group, lap)
        window = np.searchsorted(plan.window_ends, place, side="right")
        begin = np.where(window > 0, plan.window_ends[window - 1], 0)
        keys = key(self.seed, 2, epoch, group, lap, window)
        moved = begin + permute(place - begin, plan.window_ends[window] - begin, keys)
        chunk = np.searchsorted(plan.chunk_ends, moved, side="right")
        before = np.where(chunk > 0, plan.chunk_ends[chunk - 1], 0)
        return plan.first_row[chunk] + moved - before

    def _make_lap(self, epoch: int, group: int, lap: int) -> _Lap:
        sizes = self.chunks[group]
        keys: U64 = key(self.seed, 3, epoch, group, lap)
        order = permute(np.arange(len(sizes)), len(sizes), keys).astype(np.int64)
        ends = np.cumsum(sizes[order])
        last = np.minimum(np.arange(self.window, len(sizes) + self.window, self.window), len(sizes)) - 1
        return _Lap((np.cumsum(sizes) - sizes)[order], ends, ends[last])


def _equal(*columns: Int) -> Iterator[tuple[int, int, int, Int]]:
    """Yield each combination of values that occurs, with the places where it does."""
    together = np.stack(columns)
    if together.shape[1] and (together == together[:, :1]).all():  # as a rule
        yield *together[:, 0].tolist(), np.arange(len(columns[0]))
        return
    unique, inverse = np.unique(together, axis=1, return_inverse=True)
    for i, values in enumerate(unique.T.tolist()):
        yield *values, np.flatnonzero(inverse.ravel() == i)
