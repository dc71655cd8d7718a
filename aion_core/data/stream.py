"""Observations streamed from survey files to train on: shuffled, mixed by ratio, and exact on resume.

Files are read in a keyed pseudo-random order, several at a time in turn; what was read is shuffled within windows of
some hundred objects, so memory does not grow with the files. Sources are mixed by ratio; one that is exhausted starts
again, in another order, until all are exhausted (REFERENCE section 2).

The data is divided into *lanes*, one for each process unless more are asked for: a lane has every n-th file of the
permuted order, or, where there are fewer files than lanes, every n-th object. What a lane yields depends on the seed
and the number of lanes only, so a run with a given number of lanes sees the same batches at every world size that
divides it. The position of a lane says which files are open and how much of each was read; continuing from it costs the
re-reading of those files up to there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from aion_core.contract import AionError
from aion_core.data.keyed import key, permute
from aion_core.data.prefetch import prefetched
from aion_core.data.reader import ObservationBatch
from aion_core.data.split import SplitConfig, split_mask
from aion_core.data.survey_files import SurveyFiles
from aion_core.data.writer import healpix_of
from aion_core.observations import Observation
from aion_core.tokenizers.training.source import Observations, Position, TrainingBatch

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mixing:
    """How objects are mixed: files read in turn, and objects of one window."""

    seed: int = 0
    interleave: int = 4
    window: int = 512

    @property
    def read(self) -> int:
        """Objects read from a file at a time."""
        return max(1, self.window // self.interleave)


@dataclass(frozen=True)
class _Pool:
    """Observations of one key that can be one batch, and the names of their objects."""

    key: str
    obs: Observation
    names: npt.NDArray[np.str_]


class ObservationStream:
    """Satisfies `aion_core.tokenizers.training.ObservationSource`.

    Parameters
    ----------
    sources
        Files that are sampled as one, each; all of the same keys.
    batch_size
        Objects of a batch, all processes together.
    ratio
        Share of each source, relative to the others; needed if there are several.
    split
        Which objects are held out: by sky where their position is known, by identifier elsewhere.
    lanes
        Parts that the data is divided into; a multiple of `world_size`.
    prefetch
        Batches that a thread prepares ahead; 0: none.

    Raises
    ------
    AionError
        If the numbers of sources and ratios, or of lanes, objects of a batch and processes do not fit.
    """

    def __init__(
        self,
        sources: Sequence[SurveyFiles],
        batch_size: int,
        ratio: Sequence[float] | None = None,
        split: SplitConfig | None = None,
        mixing: Mixing | None = None,
        *,
        lanes: int | None = None,
        world_size: int = 1,
        rank: int = 0,
        prefetch: int = 2,
    ) -> None:
        self.sources, self.split, self.mixing = sources, split or SplitConfig(), mixing or Mixing()
        self.ratio = [1.0] * len(sources) if ratio is None else list(ratio)
        self.lanes, self.prefetch = lanes or world_size, prefetch
        if len(self.ratio) != len(sources) or not all(np.isfinite(r) and r > 0 for r in self.ratio):
            raise AionError(f"{len(sources)} sources need as many ratios above 0, found {list(self.ratio)}.")
        if self.lanes % world_size or batch_size % self.lanes:
            raise AionError(
                f"data.batch_size {batch_size} cannot be drawn evenly from {self.lanes} lanes by {world_size} "
                "processes; choose a batch_size that data.lanes divides, and a data.lanes that the processes divide."
            )
        self._each = batch_size // self.lanes
        self._mine = range(rank, self.lanes, world_size)

    def batches(self, position: Position | None = None) -> Generator[tuple[TrainingBatch, Position], None, None]:
        """Yield this process's batches without end, each with the position of its lanes behind it."""
        lanes = {number: _Lane(self, number) for number in self._mine}
        if position is not None:
            if len(position) not in (self.lanes, len(lanes)):
                raise AionError(f"The position is one of {len(position)} lanes; set data.lanes to that.")
            for number, lane in lanes.items():
                lane.restore(position[str(number)])
        yield from prefetched(self._drawn(lanes), self.prefetch)

    def _drawn(self, lanes: Mapping[int, _Lane]) -> Iterator[tuple[TrainingBatch, Position]]:
        while True:
            pools = _joined([pool for lane in lanes.values() for pool in lane.draw(self._each)])
            names = tuple(str(name) for pool in pools for name in pool.names)
            batch = TrainingBatch(tuple((pool.key, pool.obs) for pool in pools), names)
            yield batch, {str(number): lane.state() for number, lane in lanes.items()}

    def held_out(self, limit: int) -> Observations:
        """Return at most `limit` held-out objects of each modality, from the first files of each source that have any.

        Where there are fewer, every file is read.
        """
        found: dict[str, list[_Pool]] = {}
        for number, source in enumerate(self.sources):
            quota = -(-limit // len(self.sources))
            counts: dict[str, int] = {}
            for file in permute(np.arange(len(source)), len(source), key(self.mixing.seed, 21, number)).tolist():
                if source.keys is not None and all(counts.get(k, 0) >= quota for k in source.keys):
                    break
                for batch in source.read(file, self.mixing.read):
                    for pool in _chosen(batch, source, file, _validates(batch, self.split)):
                        kept = pool.obs[: max(0, quota - counts.get(pool.key, 0))]
                        counts[pool.key] = counts.get(pool.key, 0) + len(kept)
                        found.setdefault(pool.key, []).append(_Pool(pool.key, kept, pool.names[: len(kept)]))
        joined = _joined([pool for pools in found.values() for pool in pools if len(pool.obs)])
        return tuple((pool.key, pool.obs) for pool in joined)


class _Lane:
    """A part of the data: one feed for each source, drawn from in turn so that the ratio holds at any moment."""

    def __init__(self, stream: ObservationStream, number: int) -> None:
        self.number, self.ratio = number, stream.ratio
        self.feeds = [_Feed(stream, source, index, number) for index, source in enumerate(stream.sources)]
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        self.drawn = [0] * len(self.feeds)
        self.exhausted = [False] * len(self.feeds)
        for feed in self.feeds:
            feed.begin(epoch, 0)

    def draw(self, count: int) -> list[_Pool]:
        """Return the next objects."""
        rows: dict[int, tuple[_Pool, list[int]]] = {}
        for _ in range(count):
            pool, row = self._next()
            rows.setdefault(id(pool), (pool, []))[1].append(row)
        return [_Pool(pool.key, pool.obs[np.array(chosen)], pool.names[chosen]) for pool, chosen in rows.values()]

    def _next(self) -> tuple[_Pool, int]:
        while True:
            # The source that lacks most of its share; (n + 1/2) / ratio is the rule of Webster and Sainte-Laguë.
            source = min(range(len(self.feeds)), key=lambda i: (self.drawn[i] + 0.5) / self.ratio[i])
            item = self.feeds[source].take()
            if item is not None:
                self.drawn[source] += 1
                return item
            self._ended(source)

    def _ended(self, source: int) -> None:
        """Let an exhausted source start again, or all of them, if it was the last."""
        feed = self.feeds[source]
        if not feed.given:
            raise AionError(feed.complaint())
        self.exhausted[source] = True
        if all(self.exhausted):
            self._begin(self.epoch + 1)
        else:
            feed.begin(self.epoch, feed.lap + 1)

    def state(self) -> dict[str, Any]:
        """Return the position as JSON."""
        feeds = [feed.state() for feed in self.feeds]
        return {"epoch": self.epoch, "drawn": list(self.drawn), "exhausted": list(self.exhausted), "feeds": feeds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue at a position."""
        self.epoch, self.drawn, self.exhausted = state["epoch"], list(state["drawn"]), list(state["exhausted"])
        for feed, inner in zip(self.feeds, state["feeds"], strict=True):
            feed.restore(self.epoch, inner)


class _Feed:
    """A lane's walk over the files of one source, lap by lap, window by window.

    Attributes
    ----------
    lap
        How often the source was begun in this epoch, less one.
    given
        Whether this lap has given an object yet.
    """

    def __init__(self, stream: ObservationStream, source: SurveyFiles, index: int, lane: int) -> None:
        self.source, self.index, self.lane = source, index, lane
        self.lanes, self.split, self.mixing = stream.lanes, stream.split, stream.mixing
        self.by_rows = len(source) < stream.lanes
        self.begin(0, 0)

    def begin(self, epoch: int, lap: int) -> None:
        """Start a lap: another order of the files."""
        self._place(epoch, {"lap": lap, "given": False, "next": 0, "open": [], "window": 0, "drawn": 0})

    def _place(self, epoch: int, state: Mapping[str, Any]) -> None:
        self.epoch, self.lap, self.given = epoch, state["lap"], state["given"]
        count = len(self.source)
        order = permute(np.arange(count), count, key(self.mixing.seed, 11, self.index, epoch, self.lap)).tolist()
        self.files: list[int] = order if self.by_rows else order[self.lane :: self.lanes]
        self.next: int = state["next"]
        self.open = [_Open(self.source, file, self.mixing.read, done) for file, done in state["open"]]
        self.window, self.drawn = state["window"], 0
        self.pools: list[_Pool] = []
        self.order: list[tuple[int, int]] = []
        self._before = self._state()

    def restore(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Continue where a state says: its window is read again."""
        self._place(epoch, state)
        if state["drawn"]:
            self._fill()
            self.drawn, self.given = state["drawn"], True

    def state(self) -> dict[str, Any]:
        """Return the position as JSON: that of the present window's beginning, and how much of it was drawn."""
        return {**self._before, "drawn": self.drawn} if self.drawn < len(self.order) else self._state()

    def _state(self) -> dict[str, Any]:
        opened = [[file.index, file.done] for file in self.open]
        return {
            "lap": self.lap,
            "given": self.given,
            "next": self.next,
            "open": opened,
            "window": self.window,
            "drawn": 0,
        }

    def take(self) -> tuple[_Pool, int] | None:
        """Return the next object, as a row of a pool; None at the end of the lap."""
        while self.drawn >= len(self.order):
            if not self.open and self.next >= len(self.files):
                return None
            self._fill()
        pool, row = self.order[self.drawn]
        self.drawn += 1
        self.given = True
        return self.pools[pool], row

    def _fill(self) -> None:
        """Read the next window, a part of each open file in turn, and shuffle it."""
        self._before = self._state()
        parts: list[_Pool] = []
        size = turn = 0
        while size < self.mixing.window:
            while len(self.open) < self.mixing.interleave and self.next < len(self.files):
                self.open.append(_Open(self.source, self.files[self.next], self.mixing.read))
                self.next += 1
            if not self.open:
                break
            turn %= len(self.open)
            batch = self.open[turn].read()
            if batch is None:
                del self.open[turn]
                continue
            found = self._mine(batch, self.open[turn])
            parts += found
            size += sum(len(pool.obs) for pool in found)
            turn += 1
        self.pools = _joined(parts)
        rows = [(i, row) for i, pool in enumerate(self.pools) for row in range(len(pool.obs))]
        keys = key(self.mixing.seed, 12, self.index, self.epoch, self.lap, self.lane, self.window)
        self.order = [rows[i] for i in permute(np.arange(len(rows)), max(1, len(rows)), keys).tolist()]
        self.window += 1
        self.drawn = 0

    def _mine(self, batch: ObservationBatch, file: _Open) -> list[_Pool]:
        chosen = ~_validates(batch, self.split)
        if self.by_rows:
            chosen &= (file.rows - len(batch) + np.arange(len(batch))) % self.lanes == self.lane
        return _chosen(batch, self.source, file.index, chosen)

    def complaint(self) -> str:
        """Return why there is nothing to draw."""
        what = " or ".join(self.source.keys or ()) or "any modality"
        where = "" if self.lanes == 1 else f" in the part of process or lane {self.lane} of {self.lanes}"
        return (
            f"There is no object to train on with {what}{where} among {len(self.source)} files of "
            f"{self.source.files[0][0].parent}; check the paths and data.split, or use fewer processes."
        )


class _Open:
    """A file that is being read: how many batches of it were."""

    def __init__(self, source: SurveyFiles, index: int, size: int, done: int = 0) -> None:
        self.index, self.done, self.rows = index, 0, 0
        self._batches = source.read(index, size)
        while self.done < done and self.read() is not None:
            pass

    def read(self) -> ObservationBatch | None:
        """Return the next batch; None at the end of the file."""
        batch = next(self._batches, None)
        if batch is not None:
            self.done += 1
            self.rows += len(batch)
        return batch


def _validates(batch: ObservationBatch, split: SplitConfig) -> npt.NDArray[np.bool_]:
    pixels = healpix_of(batch.ra, batch.dec)
    return split_mask(pixels, batch.object_id, split.fraction, split.order, split.seed)


def _chosen(batch: ObservationBatch, source: SurveyFiles, file: int, chosen: npt.NDArray[np.bool_]) -> list[_Pool]:
    """Return the observations of some objects that are wanted."""
    prefix = source.files[file][0].name
    pools = []
    for name, (obs, rows) in batch.data.items():
        if source.keys is not None and name not in source.keys:
            continue
        source.seen.add(name)
        kept = np.flatnonzero(chosen[rows])
        if len(kept):
            names = np.array([f"{prefix}: {batch.object_id[row]}" for row in rows[kept]])
            pools.append(_Pool(name, obs[kept], names))
    return pools


def _joined(pools: Sequence[_Pool]) -> list[_Pool]:
    """Concatenate what fits together: one key, one shape, the same bands and units."""
    groups: dict[Any, list[_Pool]] = {}
    for pool in pools:
        groups.setdefault((pool.key, _form(pool.obs)), []).append(pool)
    return [
        _Pool(
            members[0].key,
            type(members[0].obs).concatenate([p.obs for p in members]),
            np.concatenate([p.names for p in members]),
        )
        for members in groups.values()
    ]


def _form(obs: Observation) -> tuple[Any, ...]:
    """Return what observations must have in common to be one batch."""
    values = ((f.name, getattr(obs, f.name)) for f in fields(obs))
    return tuple((name, v.shape[1:] if isinstance(v, Tensor) else v) for name, v in values)
