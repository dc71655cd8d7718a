"""Images that lack some of their bands, made of images that have them all: a tokenizer has to know such ones, too."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from aion_core.observations import Image


def without_some_bands(image: Image, share: float, keys: Sequence[str]) -> Image:
    """Return the images, in a share of which a random number of bands is masked; one band stays at least.

    Parameters
    ----------
    image
        B images; they are left as they are.
    share
        Of the images that lose bands, 0 … 1.
    keys
        One for each image: what is drawn for it depends on nothing else.
    """
    count = len(image.bands)
    lost = torch.from_numpy(np.array([_lost(key, count, share) for key in keys], bool).reshape(-1, count))
    lost = lost.to(image.flux.device)[:, :, None, None]
    mask = lost.expand(image.flux.shape) if image.mask is None else image.mask | lost
    return Image(
        image.flux,
        image.bands,
        ivar=image.ivar,
        mask=mask,
        zero_point=image.zero_point,
        pixel_scale=image.pixel_scale,
        unit=image.unit,
    )


def _lost(key: str, count: int, share: float) -> list[bool]:
    """Return which of an image's bands are masked."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16]))
    if rng.random() >= share or count < 2:
        return [False] * count
    kept = rng.permutation(count)[: rng.integers(1, count)]
    return [band not in kept for band in range(count)]
