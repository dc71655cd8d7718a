"""A model over many objects, a batch at a time: posteriors of scalars, and embeddings by group of modalities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aion_core.contract import InputError
from aion_core.data.batches import batch_of_tokens
from aion_core.evaluate.posterior import BinnedPosterior
from aion_core.model import AionModel
from aion_core.tokenizers import Tokenizer

Codes = npt.NDArray[np.int64]
#: Tokens that go through the model at once.
PLACES = 1 << 15


def scalar_posterior(
    model: AionModel, tokenizer: Tokenizer, tokens: Mapping[str, Codes], batch: int | None = None
) -> BinnedPosterior:
    """Return the posteriors of the value of a scalar modality, given the tokens of others.

    Parameters
    ----------
    model
        In whichever mode; it is left in eval mode.
    tokenizer
        Of the scalar that is asked for.
    tokens
        ``{key: codes [B, n]}``, −1 where an object lacks something; none of them the scalar itself.
    batch
        Objects at a time; None: as many as memory allows without a thought.
    """
    spec = tokenizer.spec
    if spec.n_tokens != 1 or spec.key in tokens:
        raise InputError(f"{spec.key}: a posterior is that of one scalar, given others.")
    decoded: Any = tokenizer.decode(torch.arange(spec.vocab_size)[:, None])
    values = np.asarray(decoded.value.cpu(), np.float64).reshape(-1)
    model.eval()
    parts = [model.posterior(part, spec.key).cpu().double().numpy() for part in _parts(tokens, batch)]
    return BinnedPosterior.of_codes(values, np.concatenate(parts))


def embed_groups(
    model: AionModel, tokens: Mapping[str, Codes], groups: Sequence[Sequence[str]], batch: int | None = None
) -> npt.NDArray[np.float64]:
    """Return each object's mean embedding over the tokens of each group of modalities, ``[B, len(groups) · D]``.

    Means by group, so that a few numbers are not drowned by the hundreds of tokens of an image. Where an object has
    nothing of a group, its place is 0.
    """
    model.eval()
    slots = [torch.tensor([model.space.index(key) for key in group], dtype=torch.int64) for group in groups]
    found = []
    count = np.sum([(codes >= 0).sum(1) for codes in tokens.values()], axis=0)
    order = np.argsort(count, kind="stable")  # objects with about as many tokens go together
    for part in _parts({key: codes[order] for key, codes in tokens.items()}, batch):
        values, slot = _encoded(model, part)
        means = []
        for group in slots:
            mine = torch.isin(slot, group.to(slot.device))
            means.append((values * mine[..., None]).sum(1) / mine.sum(1, keepdim=True).clamp(min=1))
        found.append(torch.cat(means, dim=1).cpu().double().numpy())
    embedded = np.concatenate(found)
    return embedded[np.argsort(order)]


@torch.no_grad()
def _encoded(model: AionModel, tokens: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings ``[B, N, D]`` and slots ``[B, N]`` (−1: none), as `AionModel.embed` does.

    Places that no object of the batch needs are left out: what objects lack costs as much as what they have.
    """
    packed = batch_of_tokens(model.space, tokens, {}).packed().to(model.device)
    values, _ = model.encode(packed)
    return values[:, model.config.num_register_tokens :], packed.input_slot


def _parts(tokens: Mapping[str, Codes], batch: int | None) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tokens of some objects at a time; columns that none of them has are left out, if any remains."""
    size = len(next(iter(tokens.values())))
    batch = batch or max(1, PLACES // sum(codes.shape[1] for codes in tokens.values()))
    for start in range(0, size, batch):
        part = {key: torch.from_numpy(codes[start : start + batch]) for key, codes in tokens.items()}
        yield {key: codes for key, codes in part.items() if (codes >= 0).any()} or part
