"""Searching numbers in sorted tables: exactly `torch.bucketize`, several times as fast on a CPU.

Every number has a bucket, found by arithmetic alone, and a table says how many edges lie below the whole bucket; the
edges inside it (one or two) are then compared with the number itself. Bucket numbers never descend where numbers
ascend, which is all that exactness asks for. They are taken from the bits of ``|x − middle| + scale``, and so are
evenly spaced near the middle and logarithmically far from it, as quantiles of most data are.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

#: Numbers at a time: what is between two steps stays in the processor's cache.
CHUNK = 1 << 16
#: Comparisons after the bucket is known, at the most; and buckets of one table, at the most.
MOST_STEPS, MOST_BUCKETS = 3, 1 << 16
#: Coarsenesses tried: powers of two of units in the last place that fall into one bucket.
SHIFTS = range(18, 7, -1)


@dataclass(frozen=True)
class EdgeSearch:
    """Tables of n columns, made by `build`.

    Attributes
    ----------
    middle, scale
        Of each column, float32 ``[n]``.
    shift, top
        How coarse buckets are, and the greatest number of one; −top − 1 is the least.
    below
        Of each column and bucket, how many distinct edges lie below all of it: int16, flat, ``[n · 2 (top + 1)]``.
    edges
        Distinct edges of each column, ascending, followed by infinity: float32, flat, ``[n · m]``.
    codes
        How many edges lie below a number that exceeds so many distinct ones: flat, ``[n · m]``; None: just as many.
    steps
        Most edges in one bucket.
    """

    middle: Tensor
    scale: Tensor
    shift: int
    top: int
    below: Tensor
    edges: Tensor
    codes: Tensor | None
    steps: int

    @classmethod
    def build(cls, edges: Tensor) -> EdgeSearch | None:
        """Return the search in edges ``[n, m]``, float32 and ascending; None if it would not be a fast one.

        A NaN, which only the first edges may be, lies below everything.
        """
        known = [row[~row.isnan()] for row in edges]
        if any(len(row) == 0 or not row.isfinite().all() for row in known):
            return None
        unique = [row.unique() for row in known]
        middle = torch.stack([row[len(row) // 2] for row in unique])
        table = torch.nn.utils.rnn.pad_sequence(unique, batch_first=True, padding_value=torch.inf)
        best: tuple[int, int, Tensor] | None = None
        for share in (0.02, 0.1, 0.3, 1.0):
            scale = torch.stack([_spread((row - mid).abs(), share) for row, mid in zip(unique, middle, strict=True)])
            if not (scale.isfinite() & (scale > 0)).all():
                continue
            for shift in SHIFTS:
                key = _keys(table, middle[:, None], scale[:, None], shift)
                if 2 * (int(key.masked_fill(table.isinf(), 0).abs().max()) + 2) > MOST_BUCKETS:
                    break
                steps = _most_alike(key, table.isfinite())
                if best is None or (steps, -shift) < best[:2]:
                    best = (steps, -shift, scale)
        if best is None or best[0] > MOST_STEPS:
            return None
        return cls._tables(edges, unique, middle, best[2], -best[1], best[0])

    @classmethod
    def _tables(
        cls, edges: Tensor, unique: list[Tensor], middle: Tensor, scale: Tensor, shift: int, steps: int
    ) -> EdgeSearch:
        keys = [_keys(row, m, s, shift) for row, m, s in zip(unique, middle, scale, strict=True)]
        top = max(int(key.abs().max()) for key in keys) + 1
        buckets = torch.arange(-top - 1, top + 1, dtype=torch.int32)
        length = max(map(len, unique)) + steps
        padded = torch.full((len(unique), length), torch.inf)
        codes = torch.zeros((len(unique), length), dtype=torch.int32)
        for i, row in enumerate(unique):
            padded[i, : len(row)] = row
            missing = int(edges[i].isnan().sum())
            codes[i, 0] = missing
            codes[i, 1 : len(row) + 1] = missing + torch.searchsorted(edges[i, missing:].contiguous(), row, right=True)
        below = torch.cat([torch.searchsorted(key, buckets) for key in keys])
        plain = torch.arange(length, dtype=torch.int32)
        distinct = all(torch.equal(c[: len(u) + 1], plain[: len(u) + 1]) for c, u in zip(codes, unique, strict=True))
        places = torch.int16 if length < 1 << 15 else torch.int32
        start = None if distinct else codes.reshape(-1)
        return cls(middle, scale, shift, top, below.to(places), padded.reshape(-1), start, steps)

    def __call__(self, values: Tensor) -> Tensor:
        """Return how many edges lie below each number ``[B, n]``, int64 ``[B, n]``; of NaN, any code."""
        n = len(self.middle)
        column = torch.arange(n, dtype=torch.int32)
        rows = max(1, CHUNK // n)
        of_columns: tuple[Tensor, ...] = (
            self.middle,
            self.scale,
            self.scale.view(torch.int32),
            column * (2 * (self.top + 1)) + self.top + 1,  # where its buckets begin, and its edges
            column * (len(self.edges) // n),
        )
        if n > 1:  # repeated for every row: what is stored in one piece is walked through faster
            of_columns = tuple(one.repeat(min(rows, len(values))) for one in of_columns)
        flat, found = values.reshape(-1), torch.empty(values.shape, dtype=torch.int64)
        parts = [slice(at, at + rows * n) for at in range(0, len(flat), rows * n)]

        def search(part: slice) -> None:
            self._search(flat[part], found.view(-1)[part], *of_columns)

        # Threads of our own, with whole chunks: torch's would meet after every step, and wait where others compute.
        if len(parts) > 1 and (threads := torch.get_num_threads()) > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(search, parts))
        else:
            for part in parts:
                search(part)
        return found

    def _search(
        self,
        values: Tensor,
        found: Tensor,
        middle: Tensor,
        scale: Tensor,
        scale_bits: Tensor,
        bucket: Tensor,
        edge: Tensor,
    ) -> None:
        """Search a chunk of whole rows, all of them flat."""
        if len(middle) > 1:
            middle, scale, scale_bits, bucket, edge = (
                one[: len(values)] for one in (middle, scale, scale_bits, bucket, edge)
            )
        away = values - middle
        bits = away.abs().add_(scale).view(torch.int32)
        key = bits.sub_(scale_bits).bitwise_right_shift_(self.shift).clamp_(max=self.top)
        key.bitwise_xor_(away.view(torch.int32).bitwise_right_shift_(31)).add_(bucket)
        place = self.below.index_select(0, key)
        for step in range(self.steps):
            larger = values > self.edges.index_select(0, torch.add(place, edge))
            last = step == self.steps - 1 and self.codes is None
            place = torch.add(place, larger, out=found if last else None)
        if self.codes is not None:
            found.copy_(self.codes.index_select(0, torch.add(place, edge)))


def _keys(values: Tensor, middle: Tensor, scale: Tensor, shift: int) -> Tensor:
    """Return the bucket of each number, not limited: int32 that never descend where the numbers ascend."""
    away = values - middle
    key = ((away.abs() + scale).view(torch.int32) - scale.view(torch.int32)) >> shift
    return key ^ (away.view(torch.int32) >> 31)


def _most_alike(keys: Tensor, valid: Tensor) -> int:
    """Return how many neighbours in a row ``[n, m]`` are alike, at the most; no more than one above `MOST_STEPS`."""
    for step in range(1, min(MOST_STEPS + 1, keys.shape[1])):
        if not ((keys[:, step:] == keys[:, :-step]) & valid[:, step:]).any():
            return step
    return min(MOST_STEPS + 1, keys.shape[1])


def _spread(away: Tensor, share: float) -> Tensor:
    """Return the distance from the middle within which this share of the edges lies, above zero."""
    ascending = away.sort().values
    wanted = ascending[int(share * (len(away) - 1))]
    positive = ascending[ascending > 0]
    return wanted if wanted > 0 else positive[0] if len(positive) else torch.ones(())
