"""What a run trains on and what it is judged by: stores opened, their token spaces joined, the sky split."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import cached_property, lru_cache

import numpy as np

from aion_core.contract import AionError, TokenSpace, UnknownKeyError, did_you_mean
from aion_core.data.batches import TokenBatch
from aion_core.data.loader import Position, TokenLoader
from aion_core.data.masking import MaskingConfig
from aion_core.data.split import split_mask
from aion_core.data.store import TokenStore
from aion_core.engine import World
from aion_core.train.beginning import Beginning
from aion_core.train.config import DataSettings
from aion_core.train.evaluation import Rows, code_counts, unconditional_entropy


class TrainingData:
    """The stores of a run, seen by one of the processes that share its batches.

    Attributes
    ----------
    found
        The token space of all stores together, in the order in which they were named, or of `modalities`.
    space
        The model's: that of the stores, unless the run begins with a model or appends to one.
    """

    def __init__(
        self,
        settings: DataSettings,
        masking: MaskingConfig,
        seed: int,
        world: World,
        beginning: Beginning | None = None,
    ) -> None:
        self.settings, self.masking, self.seed = settings, masking, seed
        self.world = world
        self.share = world.share(settings.batch_size, "data.batch_size")
        groups = {str(i): TokenStore.open(source.stores) for i, source in enumerate(settings.train)}
        stores = [store for group in groups.values() for store in group]
        judged = TokenStore.open(settings.validation) if settings.validation else stores
        self.accept = _resolved(settings.accept_fingerprints, [*stores, *judged])
        self.found = joint_space([*stores, *judged], settings.modalities, self.accept)
        self.space = beginning.run_space(self.found, self.accept) if beginning else self.found
        self._stores = stores
        self._judged = judged
        weights = {name: source.weight for name, source in zip(groups, settings.train, strict=True)}
        self.loader = TokenLoader(
            groups,
            self.space,
            self.share,
            masking,
            seed,
            split="train",
            split_config=settings.split,
            weights=weights if len(weights) > 1 else None,
            accept=self.accept,
            ignore=_ignored(stores, self.found),
            world_size=world.size,
            rank=world.rank,
            prefetch=1 + settings.accumulate,  # all that the next step takes
            pin=world.device.type == "cuda",
        )

    @property
    def objects(self) -> list[int]:
        """How many objects each source has to train on."""
        return [int(size) for size in self.loader.order.sizes]

    @cached_property
    def train(self) -> list[tuple[TokenStore, Rows]]:
        """The stores that are trained on, with the rows of that side of the split."""
        return [(store, self._rows(store, validation=False)) for store in self._stores]

    @cached_property
    def validation(self) -> list[tuple[TokenStore, Rows]]:
        """The stores that are judged, with the rows that are held out."""
        return [(store, self._rows(store, validation=True)) for store in self._judged]

    def batches(self, position: Position) -> Generator[tuple[TokenBatch, Position], None, None]:
        """Yield training batches without end, each with the position behind it; closing it ends the prefetching."""
        yield from self.loader.batches(**position)

    def held_out(self, samples: int) -> list[tuple[TokenStore, Rows]]:
        """Return at most `samples` objects of the validation side, spread evenly over the rows of all its stores."""
        total = sum(len(rows) for _, rows in self.validation)
        step = max(1, -(-total // samples))
        return [(store, rows[::step]) for store, rows in self.validation]

    def validation_batches(self, samples: int) -> Iterator[tuple[TokenBatch, bool]]:
        """Yield this process's share of the masked batches of held-out objects, and whether each counts.

        They are the same each time, and the same for any number of processes. All processes get equally many, for a
        sharded model needs all of them at once: one for which none is left repeats the last, which does not count.
        """
        total = min(samples, sum(len(rows) for _, rows in self.validation))
        if not total:
            return
        batches = -(-total // self.settings.batch_size)
        size = total // batches  # equal batches, so that fewer objects than there are batches are left out
        most = min(size, self.share)
        starts = range(0, batches * size, most)
        loader = self._validation_loader(size)
        for first in range(0, len(starts), self.world.size):
            mine = first + self.world.rank
            begin = starts[min(mine, len(starts) - 1)]
            yield loader.samples(0, begin, min(most, batches * size - begin)), mine < len(starts)

    @lru_cache(maxsize=1)  # noqa: B019 - one loader, for as long as the run: finding its rows reads every store
    def _validation_loader(self, size: int) -> TokenLoader:
        return TokenLoader(
            self._judged,
            self.space,
            size,
            self.masking,
            self.seed,
            split="validation",
            split_config=self.settings.split,
            accept=self.accept,
            ignore=_ignored(self._judged, self.found),
            prefetch=0,
        )

    def object_names(self, samples: Sequence[int]) -> list[str]:
        """Return ``store: object_id`` for the loader's sample numbers, which count the rows of all stores in order."""
        ends = np.cumsum([len(store) for store in self._stores])
        names = []
        for sample in samples:
            which = int(np.searchsorted(ends, sample, side="right"))
            row = sample - int(ends[which]) + len(self._stores[which])
            names.append(f"{self._stores[which].path.name}: {self._stores[which].ids[row].as_py()}")
        return names

    @cached_property
    def entropies(self) -> dict[str, float]:
        """Unconditional entropy of each modality that both sides have, in nats per token."""
        train, held_out = (code_counts(side, self.found) for side in (self.train, self.validation))
        return {
            key: unconditional_entropy(train[key], held_out[key])
            for key in self.found.keys
            if train[key].any() and held_out[key].any()
        }

    def _rows(self, store: TokenStore, validation: bool) -> Rows:
        split = self.settings.split
        side = split_mask(store.healpix, store.ids, split.fraction, split.order, split.seed) == validation
        known = [key for key in store.space.keys if key in self.found]
        return np.flatnonzero(side & store.present(known))


def joint_space(
    stores: Sequence[TokenStore], modalities: Sequence[str] | None, accept: Sequence[str] = ()
) -> TokenSpace:
    """Return one token space for several stores, whose tokens must mean the same wherever they share a key."""
    space = TokenSpace()
    for store in stores:
        try:
            space.check_readable(store.space, accept)
        except AionError as error:
            raise type(error)(f"{store.path}: {error}") from None
        space = space.append(slot for slot in store.space.slots if slot.key not in space)
    return space if modalities is None else space.select(modalities)


def _resolved(keys: Sequence[str], stores: Sequence[TokenStore]) -> tuple[str, ...]:
    """Return keys by their own names; one that no store has is an error, for it would silently accept nothing."""
    names = {name: s.key for store in stores for s in store.space.specs() for name in (s.key, s.upstream_key) if name}
    for key in keys:
        if key not in names:
            raise UnknownKeyError(f"--accept-fingerprint {key}: no store has this modality.{did_you_mean(key, names)}")
    return tuple(names[key] for key in keys)


def _ignored(stores: Sequence[TokenStore], space: TokenSpace) -> set[str]:
    """What the configuration leaves out; everything else of the stores is in the joint space."""
    return {key for store in stores for key in store.space.keys if key not in space}
