"""Held-out losses: by modality under the training's own masking, and of one modality given others.

Beside each stands the *unconditional entropy*, the score of a model that ignores its input: the cross-entropy of the
held-out tokens under the training tokens' frequencies, or the entropy of those frequencies where that is lower (it is
for few tokens, whose frequencies look more uneven than they are). A model has learned something about a modality when
its loss is below both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aion_core.contract import AionError, TokenSpace
from aion_core.data.batches import TokenBatch, conditional_batch
from aion_core.data.store import TokenStore
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

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def fromdict(cls, values: dict[str, Any]) -> Self:
        """Read what `asdict` gave, by way of JSON."""
        return cls(**{**values, "given": None if values["given"] is None else tuple(values["given"])})


@torch.no_grad()
def masked_losses(
    model: AionModel, batches: Iterable[TokenBatch], entropies: dict[str, float], autocast: Any
) -> list[HeldOut]:
    """Return the held-out loss of every modality that is a target in some batch, under random masking."""
    sums = torch.zeros(len(model.space), dtype=torch.float64)
    counts = torch.zeros(len(model.space), dtype=torch.int64)
    for batch in batches:
        with autocast():
            sums += model(batch.to(model.device)).double().cpu()
        counts += torch.tensor(batch.target_counts)
    return [
        HeldOut(key, None, float(sums[i] / counts[i]), entropies.get(key), int(counts[i]))
        for i, key in enumerate(model.space.keys)
        if counts[i]
    ]


@torch.no_grad()
def conditional_loss(
    model: AionModel, selection: Selection, target: str, given: Sequence[str], entropy: float | None, autocast: Any
) -> HeldOut | None:
    """Return the held-out loss of one modality given all tokens of some others; None where no object has them."""
    names = [model.space[key].key for key in given]
    goal = model.space[target].key
    total, count = 0.0, 0
    for tokens in _complete_objects(selection, [*names, goal]):
        batch = conditional_batch(tokens, names, [goal], model.space)
        with autocast():
            total += float(model(batch.to(model.device)).sum())
        count += sum(batch.target_counts)
    return HeldOut(goal, tuple(names), total / count, entropy, count) if count else None


def _complete_objects(selection: Selection, keys: list[str]) -> Iterator[dict[str, Rows]]:
    for store, rows in selection:
        if not all(key in store.space for key in keys):
            continue
        for start in range(0, len(rows), CONDITIONAL_BATCH):
            tokens = store.tokens(rows[start : start + CONDITIONAL_BATCH], keys)
            whole = np.logical_and.reduce([(codes >= 0).any(1) for codes in tokens.values()])
            if whole.any():
                yield {key: codes[whole] for key, codes in tokens.items()}


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
