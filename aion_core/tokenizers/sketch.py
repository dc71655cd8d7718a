"""A mergeable sketch of a distribution, whose result depends on the values only, not on their order or partition.

A histogram over float32 bit patterns. The bits, mapped to unsigned integers that sort as the floats do, are the keys;
while all distinct values fit (`LIMIT` keys) the sketch is exact, and beyond that the lowest bits of all keys are
dropped, one at a time, until they fit. The number of dropped bits is thereby the smallest at which the *whole* data
fits; no partial sketch can have dropped more; and counts are integers. So any order, any batches, any number of
processes merged in any way give the same sketch, bit for bit. (Reservoir sampling gives another codebook on every run,
and t-digests depend on the order of merging.)

With L bits dropped, a key spans 2^(L−23) of its value or less; L = 16 suffices for any data whatever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import AionError, InputError

LIMIT = 65_536
#: Bits that keys may lack for one to be taken for a single value: it spans 1e-4 of itself then.
WIDEST = 10
#: How many data an edge may move past to a wider gap, where there are no more than so many data an edge.
REACH, FEW = 2, 8
#: By how much of itself a rank may exceed a number of data and still be it: sums and shares are rounded.
ROUNDING = 1e-12
#: Values are gathered up to this number before they are sorted in.
BUFFER = 1 << 18

Keys = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class QuantileSketch:
    """Counts of values by key.

    NaN is only counted (`n_nan`). Infinities are counted, too (`n_positive_inf`, `n_negative_inf`), but are no part of
    the distribution that `quantile` and `rank` describe: a value of a finite code is to be decoded finite.
    Negative zero counts as zero. `minimum` and `maximum` are exact.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        if limit < 2:
            raise AionError(f"A sketch needs room for two keys at least, not {limit}.")
        self.limit = limit
        self.n_nan = self.n_positive_inf = self.n_negative_inf = 0
        self.minimum, self.maximum = np.inf, -np.inf
        self._level = 0
        self._keys: Keys = np.empty(0, np.uint32)
        self._counts: Counts = np.empty(0, np.int64)
        self._pending: list[Floats] = []
        self._pending_size = 0

    @property
    def n(self) -> int:
        """Number of finite values."""
        return int(self._flushed()._counts.sum())

    @property
    def level(self) -> int:
        """Number of bits that the keys lack."""
        return self._flushed()._level

    def add(self, values: npt.ArrayLike) -> None:
        """Take values of any shape into account; they are read as float32."""
        flat = np.asarray(values, dtype=np.float32).ravel()
        finite = np.isfinite(flat)
        if not finite.all():
            self.n_nan += int(np.isnan(flat).sum())
            self.n_positive_inf += int(np.isposinf(flat).sum())
            self.n_negative_inf += int(np.isneginf(flat).sum())
            flat = flat[finite]
        if flat.size:
            self.minimum = min(self.minimum, float(flat.min()) + 0.0)
            self.maximum = max(self.maximum, float(flat.max()) + 0.0)
            self._pending.append(flat + np.float32(0))  # a copy, and −0 becomes 0
            self._pending_size += flat.size
        if self._pending_size >= BUFFER:
            self._flushed()

    def merge(self, other: QuantileSketch) -> None:
        """Take into account what another sketch has seen."""
        if other.limit != self.limit:
            raise AionError(f"Sketches of {self.limit} and {other.limit} keys cannot be merged.")
        other._flushed()
        self._flushed()._insert(other._keys, other._counts, other._level)
        self.n_nan += other.n_nan
        self.n_positive_inf += other.n_positive_inf
        self.n_negative_inf += other.n_negative_inf
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def quantile(self, q: npt.ArrayLike) -> Doubles:
        """Return the values below or at which the fractions `q` of the data lie (the inverse distribution function).

        Within the range of one key, values count as evenly spread. ``quantile(0)`` is the minimum, ``quantile(1)``
        the maximum. Raises `AionError` if there are no finite values, or a fraction lies outside 0 … 1.
        """
        fractions = np.asarray(q, dtype=np.float64)
        if not ((fractions >= 0) & (fractions <= 1)).all():
            raise AionError("Quantiles are fractions in 0 … 1.")
        return self.at(fractions * self.n)

    def at(self, rank: npt.ArrayLike) -> Doubles:
        """Return the values up to which so many of the data lie: ``at(1)`` is the least; the inverse of `rank`."""
        low, high, upto = self._cells()
        return _at(np.asarray(rank, dtype=np.float64), low, high, self._counts, upto)

    def median(self, below: npt.ArrayLike, upto: npt.ArrayLike) -> Doubles:
        """Return the medians of the data of ranks above `below`, up to `upto`; of two in the middle, their mean."""
        middle = (np.asarray(below, dtype=np.float64) + np.asarray(upto, dtype=np.float64)) / 2
        return self.at(middle) / 2 + self.at(middle + 0.5) / 2

    def shares(self, n: int) -> Doubles:
        """Return n ascending values, at or below each of which lies one more n-th of the data; the last is the maximum.

        A value that more data have than that (a bound, a zero that stands for what was not measured) counts as one
        share, and the other data are shared out among what remains: else most of the values returned would be that one.
        Where keys are wide (`WIDEST`), what shares one may be many values, and counts as what it is.
        """
        low, high, _ = self._cells()
        counts = _capped(self._counts, n) if self._level <= WIDEST else self._counts
        upto = np.cumsum(counts, dtype=np.float64)
        return _at(np.arange(1, n + 1) / n * upto[-1], low, high, counts, upto)

    def rank(self, values: npt.ArrayLike) -> Doubles:
        """Return how many of the data lie below or at some values; the inverse of `quantile`, times n."""
        x = np.asarray(values, dtype=np.float64)
        low, high, upto = self._cells()
        cell = np.searchsorted(low, x, side="right") - 1
        at = np.maximum(cell, 0)
        width = high[at] - low[at]
        inside = np.where(width > 0, (x - low[at]) / np.where(width > 0, width, 1.0), 1.0)
        before = upto[at] - self._counts[at]
        return np.where(cell < 0, 0.0, before + np.clip(inside, 0.0, 1.0) * self._counts[at])

    def clear(self, values: npt.ArrayLike) -> Floats:
        """Return ascending float32 values moved to the widest gap that is no more than `REACH` data away from each.

        That is where there are so `FEW` data a value that one of them may lie far from the next: both come apart then.
        No value moves past another or to where one is, nor from the maximum or within the range of a key.
        """
        moved = np.asarray(values, dtype=np.float32).copy()
        low, high, upto = self._cells()
        if self.n > FEW * moved.size:
            return moved
        cell, between = _ends(moved, low, high)
        first = np.searchsorted(upto, upto[cell] - REACH, side="left")
        last = np.minimum(np.searchsorted(upto, upto[cell] + REACH, side="right") - 1, len(upto) - 2)
        widths = low[1:] - high[:-1]
        following = np.append(cell[1:], len(upto))
        taken = -1
        for i, own in enumerate(cell.tolist()):
            best = own
            if between[i]:
                start = max(int(first[i]), min(taken + 1, own))
                stop = min(int(last[i]), max(int(following[i]) - 1, own))
                widest = start + int(np.argmax(widths[start : stop + 1]))
                best = widest if widths[widest] > widths[own] else own
                moved[i] = high[best]
            taken = max(taken, best)
        return moved

    def gap(self, values: npt.ArrayLike) -> Floats:
        """Return float32 values as far from the data on either side as the data allow, which order the data as these.

        A value at which no data lie until the next larger datum moves to the middle between both: what lies between
        two data then counts to the nearer one. A value within the range of a key stays, and so does the maximum.
        """
        x = np.asarray(values, dtype=np.float32)
        low, high, _ = self._cells()
        cell, between = _ends(x, low, high)
        above = low[np.minimum(cell + 1, len(low) - 1)].astype(np.float32)
        middle = (high[cell] / 2 + above / 2.0).astype(np.float32)
        return np.where(between, np.minimum(middle, np.nextafter(above, np.float32(-np.inf))), x)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the sketch as arrays, equal for equal data; `from_state` reads them back."""
        self._flushed()
        seen = (self.limit, self._level, self.n_nan, self.n_positive_inf, self.n_negative_inf)
        return {
            "keys": self._keys.copy(),
            "counts": self._counts.copy(),
            "seen": np.array(seen, dtype=np.int64),
            "range": np.array([self.minimum, self.maximum], dtype=np.float32),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> QuantileSketch:
        """Read back what `state` returned; arrays that cannot be a sketch are an `InputError`."""
        try:
            keys, counts = np.asarray(state["keys"]), np.asarray(state["counts"])
            limit, level, *others = (int(v) for v in state["seen"])
            low, high = (float(v) for v in state["range"])
            nan, positive, negative = others
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"These arrays are not a quantile sketch ({error!r}).") from None
        ascending = keys.ndim == 1 and keys.shape == counts.shape and bool((keys[1:] > keys[:-1]).all())
        if not ascending or not 0 <= level < 32 or len(keys) > limit or (counts < 1).any():
            raise InputError("These arrays are not a quantile sketch: keys ascend, and every key has a count.")
        sketch = cls(limit)
        sketch._keys, sketch._counts, sketch._level = keys.astype(np.uint32), counts.astype(np.int64), level
        sketch.n_nan, sketch.n_positive_inf, sketch.n_negative_inf = nan, positive, negative
        sketch.minimum, sketch.maximum = low, high
        return sketch

    def _flushed(self) -> QuantileSketch:
        """Sort in what was gathered."""
        if self._pending:
            keys = _keys(np.concatenate(self._pending))
            self._pending, self._pending_size = [], 0
            keys >>= np.uint32(self._level)
            distinct, counts = np.unique(keys, return_counts=True)
            self._insert(distinct, counts.astype(np.int64), self._level)
        return self

    def _insert(self, keys: Keys, counts: Counts, level: int) -> None:
        """Add counted keys of a level, and drop as many bits as it takes for all to fit."""
        common = max(level, self._level)
        joined = np.concatenate([self._keys >> np.uint32(common - self._level), keys >> np.uint32(common - level)])
        keys, counts = _total(joined, np.concatenate([self._counts, counts]))
        while len(keys) > self.limit:
            common += 1
            keys, counts = _total(keys >> np.uint32(1), counts)
        self._keys, self._counts, self._level = keys, counts, common

    def _cells(self) -> tuple[Doubles, Doubles, Doubles]:
        """Return the least and greatest value of every key, and the number of data up to its end."""
        self._flushed()
        if not len(self._keys):
            raise AionError("Nothing finite was observed, so there are no quantiles.")
        first, last = (int(k) for k in _keys(np.array([self.minimum, self.maximum], np.float32)))
        start = self._keys.astype(np.int64) << self._level
        ends = np.stack([start, start + (1 << self._level) - 1]).clip(first, last)
        low, high = _values(ends.astype(np.uint32)).astype(np.float64)
        return low, high, np.cumsum(self._counts).astype(np.float64)


def _ends(x: Floats, low: Doubles, high: Doubles) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the last cell that ends at or below each value, and whether the value lies between it and the next."""
    cell = np.searchsorted(high, x, side="right") - 1
    following = np.searchsorted(low, x, side="right")  # the first one that begins above
    return cell, (cell >= 0) & (following == cell + 1) & (following < len(low))


def _at(rank: Doubles, low: Doubles, high: Doubles, counts: Counts | Doubles, upto: Doubles) -> Doubles:
    """Return the values of some ranks in data of which so many, evenly spread, lie in each cell."""
    cell = np.minimum(np.searchsorted(upto, rank * (1 - ROUNDING), side="left"), len(upto) - 1)
    inside = (rank - (upto[cell] - counts[cell])) / counts[cell]
    values: Doubles = low[cell] + inside * (high - low)[cell]
    return values.clip(low[cell], high[cell])


def _capped(counts: Counts, n: int) -> Doubles:
    """Return counts cut at a share: at that number which is an n-th of the sum of what is left of them.

    Of no more than n counts, there is no such number; all are one then.
    """
    if len(counts) <= n:
        return np.ones(len(counts))
    falling = np.sort(counts)[::-1][: n + 1]
    larger = np.arange(n)  # how many are cut
    share = (counts.sum() - np.cumsum(falling[:n]) + falling[:n]) / (n - larger)
    return np.minimum(counts, share[np.argmax(falling[:n] <= share)])


def _total(keys: Keys, counts: Counts) -> tuple[Keys, Counts]:
    """Return the distinct keys in ascending order, and the sum of the counts of each."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")  # radix or merging: the input is a few sorted runs
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts[order], starts)


def _keys(values: Floats) -> Keys:
    """Return unsigned integers that sort as the floats do."""
    bits = values.view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))


def _values(keys: Keys) -> Floats:
    """Return the floats that `_keys` came from."""
    return np.where(keys >> np.uint32(31), keys & np.uint32((1 << 31) - 1), ~keys).view(np.float32)
