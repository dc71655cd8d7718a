"""Held-out losses: by modality under the training's own masking, and of one modality given others.

Beside each stands the *unconditional entropy*, the score of a model that ignores its input: the cross-entropy of the
held-out tokens under the training tokens' frequencies, or the entropy of those frequencies where that is lower (it is
for few tokens, whose frequencies look more uneven than they are). A model has learned something about a modality when
its loss is below both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aion_core.contract import AionError, TokenSpace
from aion_core.data.batches import TokenBatch, conditional_batch
from aion_core.data.store import TokenStore
from aion_core.engine import World
from aion_core.model import AionModel

#: Objects whose tokens estimate the codes' frequencies, at most, spread over all stores: more would tell no more.
FREQUENCY_ROWS = 200_000
#: Objects that go through the model at once in conditional evaluation.
CONDITIONAL_BATCH = 256

Rows = npt.NDArray[np.int64]
#: The objects of some stores, each with the row numbers that count.
Selection = Sequence[tuple[TokenStore, Rows]]


@dataclass(frozen=True)
class HeldOut:
    """One held-out loss, in nats per token, beside the entropy that ignoring the input would give."""

    target: str
    given: tuple[str, ...] | None
    loss: float
    entropy: float | None
    targets: int

    @property
    def name(self) -> str:
        """The target, and from what it was predicted, if that was not random masking."""
        return self.target if self.given is None else f"{self.target} from {', '.join(self.given)}"

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def fromdict(cls, values: dict[str, Any]) -> Self:
        """Read what `asdict` gave, by way of JSON."""
        return cls(**{**values, "given": None if values["given"] is None else tuple(values["given"])})


@torch.no_grad()
def masked_losses(
    model: AionModel,
    batches: Iterable[tuple[TokenBatch, bool]],
    entropies: dict[str, float],
    autocast: Any,
    world: World,
) -> list[HeldOut]:
    """Return the held-out loss of every modality that is a target in some batch, under random masking.

    Each process judges its own batches, as many as every other one; of one that is not to count (True: it counts)
    nothing is added up.
    """
    sums = torch.zeros(len(model.space), dtype=torch.float64)
    counts = torch.zeros(len(model.space), dtype=torch.int64)
    for batch, counting in batches:
        with autocast():
            found = model(batch.to(model.device)).double().cpu()
        if counting:
            sums += found
            counts += torch.tensor(batch.target_counts)
    sums, counts = world.sum(sums), world.sum(counts)
    return [
        HeldOut(key, None, float(sums[i] / counts[i]), entropies.get(key), int(counts[i]))
        for i, key in enumerate(model.space.keys)
        if counts[i]
    ]


@torch.no_grad()
def conditional_loss(
    model: AionModel,
    selection: Selection,
    target: str,
    given: Sequence[str],
    entropy: float | None,
    autocast: Any,
    world: World,
) -> HeldOut | None:
    """Return the held-out loss of one modality given all tokens of some others; None where no object has them."""
    names = [model.space[key].key for key in given]
    goal = model.space[target].key
    total, count = 0.0, 0
    for tokens, counting in _complete_objects(selection, [*names, goal], world):
        batch = conditional_batch(tokens, names, [goal], model.space)
        with autocast():
            found = float(model(batch.to(model.device)).sum())
        total += found * counting
        count += sum(batch.target_counts) * counting
    both = world.sum(torch.tensor([total, count], dtype=torch.float64))
    total, count = float(both[0]), int(both[1])
    return HeldOut(goal, tuple(names), total / count, entropy, count) if count else None


def _complete_objects(selection: Selection, keys: list[str], world: World) -> Iterator[tuple[dict[str, Rows], bool]]:
    """Yield this process's part of the objects that have some modalities, and whether it counts.

    All processes must go through a sharded model equally often: one for which nothing is left repeats an object.
    """
    for store, rows in selection:
        if not all(key in store.space for key in keys):
            continue
        for start in range(0, len(rows), CONDITIONAL_BATCH):
            tokens = store.tokens(rows[start : start + CONDITIONAL_BATCH], keys)
            whole = np.flatnonzero(np.logical_and.reduce([(codes >= 0).any(1) for codes in tokens.values()]))
            if len(whole):
                mine = whole[world.rank :: world.size]
                yield {key: codes[mine if len(mine) else whole[:1]] for key, codes in tokens.items()}, len(mine) > 0


def pairs(selection: Selection, space: TokenSpace, least: int) -> list[tuple[str, str, Selection]]:
    """Return ``source, target, objects`` for every pair of modalities that `least` objects have both of.

    Of the objects as many as go through the model at once, spread over all of them.
    """
    present = [_presence(store, rows, space) for store, rows in selection]
    found: list[tuple[str, str, Selection]] = []
    for source, target in permutations(range(len(space)), 2):
        both = [rows[there[:, source] & there[:, target]] for (_, rows), there in zip(selection, present, strict=True)]
        total = sum(map(len, both))
        if total >= least:
            step = -(-total // CONDITIONAL_BATCH)
            objects = [(store, rows[::step]) for (store, _), rows in zip(selection, both, strict=True) if len(rows)]
            found.append((space.keys[source], space.keys[target], objects))
    return found


def _presence(store: TokenStore, rows: Rows, space: TokenSpace) -> npt.NDArray[np.bool_]:
    """Return which of the modalities of a space some objects of a store have, ``[n, S]``."""
    there = np.zeros((len(rows), len(space)), bool)
    lengths = store.lengths(rows) > 0
    for slot, key in enumerate(store.space.keys):
        if key in space:
            there[:, space.index(key)] = lengths[:, slot]
    return there


def code_counts(selection: Selection, space: TokenSpace) -> dict[str, Rows]:
    """Return how often each code of each modality occurs, int64 ``[V]`` by key, in one pass over the stores."""
    counts = {spec.key: np.zeros(spec.vocab_size, np.int64) for spec in space.specs()}
    step = max(1, -(-sum(len(rows) for _, rows in selection) // FREQUENCY_ROWS))
    for store, rows in selection:
        keys = [key for key in space.keys if key in store.space]
        chosen = rows[::step]
        for start in range(0, len(chosen), 4096):
            for key, codes in store.tokens(chosen[start : start + 4096], keys).items():
                counts[key] += np.bincount(codes[codes >= 0], minlength=len(counts[key]))
    return counts


def unconditional_entropy(train: Rows, held_out: Rows) -> float:
    """Return the lower of two estimates of a modality's entropy, in nats per token.

    One is the cross-entropy of the held-out codes under the training frequencies (one added to each count, so that an
    unseen code costs a finite number); the other the entropy of the training frequencies themselves. Taking the lower
    makes it the harder mark to beat.
    """
    if not train.sum() or not held_out.sum():
        raise AionError("an entropy needs tokens on both sides of the split")
    smooth = np.log((train + 1) / (train.sum() + len(train)))
    observed = train[train > 0] / train.sum()
    return float(min(-(held_out * smooth).sum() / held_out.sum(), -(observed * np.log(observed)).sum()))


def modality_loss(sums: Tensor, counts: Sequence[int], weights: Tensor, by: str) -> Tensor:
    """Return the training loss of a step from cross-entropy sums ``[S]`` and total target counts by slot.

    By modality: the weighted mean over the modalities present of each one's mean cross-entropy (the release's
    ``loss_type: mod``). By token: the weighted mean over tokens.
    """
    total = torch.tensor(counts, dtype=sums.dtype).to(sums.device, non_blocking=True)
    present = weights * (total > 0)
    if by == "token":
        return (sums * weights).sum() / (total * weights).sum().clamp(min=1e-12)
    return (sums * present / total.clamp(min=1)).sum() / present.sum().clamp(min=1e-12)
