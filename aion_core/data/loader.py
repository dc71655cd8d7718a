"""From token stores to the batches that a model trains on: order, gathering and masking together.

Every batch is a function of its position, so a loader keeps no state, and several threads may prepare batches ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch

from aion_core.contract import AionError, InputError, TokenSpace
from aion_core.data.batches import TokenBatch
from aion_core.data.keyed import key
from aion_core.data.masking import Masking, MaskingConfig, Selection
from aion_core.data.order import Order
from aion_core.data.split import Side, SplitConfig, split_mask
from aion_core.data.store import TokenStore

#: That prepare batches: more would take the interpreter from the training.
MOST_THREADS = 4

Int = npt.NDArray[np.int64]


class Position(TypedDict):
    """Where a pass over the data stands: all that an exact resume needs, at any world size."""

    epoch: int
    index: int
    seed: int


@dataclass(frozen=True)
class _Source:
    """A store, which of its slots are which of the model's, and the rows that may be drawn (None: all)."""

    store: TokenStore
    slots: Mapping[int, int]
    rows: npt.NDArray[np.uint32] | None
    first_sample: int

    def __len__(self) -> int:
        return len(self.store) if self.rows is None else len(self.rows)

    def is_wide(self, n_slots: int) -> npt.NDArray[np.bool_]:
        """Which of the model's slots have codes of four bytes in the store."""
        wide = np.zeros(n_slots, bool)
        wide[list(self.slots.values())] = self.store.is_wide[list(self.slots)]
        return wide

    def chunk_sizes(self) -> Int:
        """Drawable rows of each chunk."""
        ends = self.store.chunks if self.rows is None else np.searchsorted(self.rows, self.store.chunks)
        return np.diff(ends).astype(np.int64)


@dataclass(frozen=True)
class _Group:
    """Stores that are sampled as one, and at which row of the group each begins."""

    sources: tuple[_Source, ...]
    first_row: Int


class TokenLoader:
    """Draws masked batches from token stores.

    Parameters
    ----------
    stores
        Stores to sample as one, or ``{name: stores}`` for several groups that `weights` mix.
    space
        The model's token space. The stores' modalities are found in it by key.
    batch_size
        Samples of a batch on this rank.
    masking
        Token budgets.
    seed
        Of the order and the masks.
    split, split_config
        Draw only from this side of the split by sky; None: from everything.
    weights
        Share of the samples for each group, relative to the others; None: by the groups' sizes.
    accept
        Keys whose tokens may have been made by another tokenizer than the model's.
    ignore
        Modalities of the stores that are left out; the model need not have them.
    world_size, rank
        Each global batch of ``world_size * batch_size`` samples is cut into one piece for each rank.
    prefetch
        Batches that are prepared ahead, by as many threads but no more than four; 0: none.
    pin
        Whether to leave batches in page-locked memory, for a GPU.

    Raises
    ------
    AionError
        If a store has modalities that the model lacks, tokens that mean something else, or if no row is left.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore] | Mapping[str, Sequence[TokenStore]],
        space: TokenSpace,
        batch_size: int,
        masking: MaskingConfig | None = None,
        seed: int = 0,
        *,
        split: Side | None = None,
        split_config: SplitConfig | None = None,
        weights: Mapping[str, float] | None = None,
        accept: Collection[str] = (),
        ignore: Collection[str] = (),
        world_size: int = 1,
        rank: int = 0,
        prefetch: int = 2,
        pin: bool = False,
    ) -> None:
        if not 0 <= rank < world_size or batch_size < 1:
            raise AionError(f"Rank {rank} of {world_size} with batches of {batch_size} makes no sense.")
        groups = stores if isinstance(stores, Mapping) else {"all": stores}
        if weights is not None and set(weights) != set(groups):
            raise AionError(f"Weights are given for {sorted(weights)}, but the groups are {sorted(groups)}.")
        self.space, self.batch_size, self.seed = space, batch_size, seed
        self.world_size, self.rank, self.prefetch, self.pin = world_size, rank, prefetch, pin
        self.config = masking or MaskingConfig()
        self._masking = Masking(space, self.config)
        self._groups: list[_Group] = []
        sample = 0
        for group in groups.values():
            sources = []
            for store in group:
                sources.append(_source(store, space, sample, split, split_config or SplitConfig(), accept, ignore))
                sample += len(store)
            self._groups.append(_Group(tuple(sources), np.cumsum([0, *map(len, sources)], dtype=np.int64)))
        chunks = [np.concatenate([np.zeros(0, np.int64), *(s.chunk_sizes() for s in g.sources)]) for g in self._groups]
        self.order = Order(chunks, seed, None if weights is None else [weights[name] for name in groups])

    def __len__(self) -> int:
        """Samples in an epoch, of all ranks together."""
        return len(self.order)

    def batches(self, epoch: int = 0, index: int = 0, seed: int | None = None) -> Iterator[tuple[TokenBatch, Position]]:
        """Yield this rank's batches from a position on, without end, each with the position behind it.

        `index` counts samples of all ranks together. ``loader.batches(**position)`` continues exactly, on any number
        of ranks.
        """
        if seed is not None and seed != self.seed:
            raise AionError(f"The position was reached with seed {seed}, but this loader's is {self.seed}.")
        step = self.batch_size * self.world_size
        if not self.prefetch:
            while True:
                yield self.batch(epoch, index), self._position(epoch, index + step)
                epoch, index = self.order.position(epoch, index + step)
        with ThreadPoolExecutor(min(self.prefetch, MOST_THREADS), "batches") as pool:
            ahead: deque[tuple[Future[TokenBatch], Position]] = deque()
            try:
                while True:
                    while len(ahead) <= self.prefetch:
                        ahead.append((pool.submit(self.batch, epoch, index), self._position(epoch, index + step)))
                        epoch, index = self.order.position(epoch, index + step)
                    future, position = ahead.popleft()
                    yield future.result(), position
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _position(self, epoch: int, index: int) -> Position:
        epoch, index = self.order.position(epoch, index)
        return Position(epoch=epoch, index=index, seed=self.seed)

    def batch(self, epoch: int, index: int) -> TokenBatch:
        """Return this rank's part of the global batch that begins at a position."""
        batch = self.samples(epoch, index + self.rank * self.batch_size, self.batch_size)
        return batch.pinned() if self.pin else batch

    def samples(self, epoch: int, start: int, size: int) -> TokenBatch:
        """Return the samples from a position on, whichever rank's they are."""
        draws = self.order.rows(epoch, start, start + size)
        size = len(draws)
        sample = np.zeros(size, np.int64)
        lengths = np.zeros((size, len(self.space)), np.int32)
        begins = np.zeros((size, len(self.space)), np.int64)
        parts = []
        for source, places, rows in self._located(draws.group, draws.row):
            starts, counts = source.store.spans(rows)
            for theirs, ours in source.slots.items():
                begins[places, ours], lengths[places, ours] = starts[:, theirs], counts[:, theirs]
            sample[places] = source.first_sample + rows
            parts.append((source, places))
        selection = self._masking.select(lengths, key(self.seed, 4, draws.epoch, draws.lap, sample))
        return _assemble(len(self.space), sample, selection, partial(_codes, parts, begins))

    def _located(self, group: Int, row: Int) -> Iterator[tuple[_Source, Int, Int]]:
        """Yield each source that is drawn from, with places in the batch and rows in its store."""
        for number in np.unique(group):
            members = self._groups[number]
            mine = np.flatnonzero(group == number)
            which = np.searchsorted(members.first_row, row[mine], side="right") - 1
            for index in np.unique(which):
                source, places = members.sources[index], mine[which == index]
                rows = row[places] - members.first_row[index]
                yield source, places, rows if source.rows is None else source.rows[rows].astype(np.int64)


def _source(
    store: TokenStore,
    space: TokenSpace,
    first_sample: int,
    split: Side | None,
    config: SplitConfig,
    accept: Collection[str],
    ignore: Collection[str],
) -> _Source:
    """Match a store to the model and choose the rows that may be drawn: those of the side, with a usable token."""
    slots = _matching_slots(store, space, ignore)
    try:
        space.check_readable(store.space, accept)
    except AionError as error:
        raise type(error)(f"{store.path}: {error}") from None
    chosen = store.present(store.space.keys[theirs] for theirs in slots)
    if split is not None:
        validates = split_mask(store.healpix, store.ids, config.fraction, config.order, config.seed)
        chosen &= validates if split == "validation" else ~validates
    rows = None if chosen.all() else np.flatnonzero(chosen).astype(np.uint32)
    return _Source(store, slots, rows, first_sample)


def _matching_slots(store: TokenStore, space: TokenSpace, ignore: Collection[str]) -> dict[int, int]:
    """Return {slot in the store: slot in the model}; by either's key or key in the release."""
    slots, lacking = {}, []
    for theirs, spec in enumerate(store.space.specs()):
        if spec.key in ignore:
            continue
        name = next((name for name in (spec.key, spec.upstream_key) if name in space), None)
        if name is not None:
            slots[theirs] = space.index(name)
        else:
            lacking.append(spec.key)
    if lacking:
        raise AionError(
            f"{store.path} has tokens of {', '.join(lacking)}, which the model does not know. Grow the model by "
            "them, or say that they are to be ignored."
        )
    return slots


def _codes(parts: Sequence[tuple[_Source, Int]], begins: Int, slot: Int, reference: Int) -> torch.Tensor:
    """Return the codes that references of slots stand for, ``[B, n]``: 0 where no slot is, −1 for the mask token."""
    from aion_core.data.selecting import look_up  # the compiler is loaded where something is drawn, only

    codes = np.empty_like(slot)
    for source, samples in parts:
        narrow, wide = source.store.codes
        if look_up(codes, narrow, wide, source.is_wide(begins.shape[1]), begins, samples, slot, reference):
            raise InputError(f"{source.store.path}: damaged, tokens lie outside the file. Copy or write it again.")
    return torch.from_numpy(codes)


def _assemble(n_slots: int, sample: Int, selection: Selection, codes: Callable[[Int, Int], torch.Tensor]) -> TokenBatch:
    """Look up the codes of a selection, and count its targets."""
    inputs, targets = selection.inputs, selection.targets
    there = np.flatnonzero(targets.slot >= 0)
    slots = targets.slot.ravel()[there]
    return TokenBatch(
        input_code=codes(inputs.slot, inputs.reference),
        input_slot=torch.from_numpy(inputs.slot),
        input_position=torch.from_numpy(inputs.position),
        target_code=codes(targets.slot, targets.reference),
        target_slot=torch.from_numpy(targets.slot),
        target_position=torch.from_numpy(targets.position),
        target_input=codes(targets.slot, selection.previous),
        target_order=torch.from_numpy(there[np.argsort(slots.astype(np.uint16), kind="stable")]),
        target_counts=tuple(np.bincount(slots, minlength=n_slots).tolist()),
        input_full=bool((inputs.slot[:, -1] >= 0).all()),
        target_full=len(there) == targets.slot.size,
        index=torch.from_numpy(sample),
    )
