"""Images that lack some of their bands, made of images that have them all: a tokenizer has to know such ones, too."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aion_core.engine.initialise import keyed_generator
from aion_core.observations import Image


def without_some_bands(image: Image, share: float, keys: Sequence[str], seed: int = 0) -> Image:
    """Return the images, in a share of which a random number of bands is masked; one band stays at least.

    Parameters
    ----------
    image
        B images; they are left as they are.
    share
        Of the images that lose bands, 0 … 1.
    keys, seed
        One key for each image: what is drawn for it depends on nothing else but the seed.
    """
    count = len(image.bands)
    lost = torch.zeros(len(image), count, dtype=torch.bool)
    for row, key in enumerate(keys):
        lost[row] = _lost(keyed_generator(key, seed), count, share)
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


def _lost(generator: torch.Generator, count: int, share: float) -> torch.Tensor:
    """Return which of an image's bands are masked, bool ``[count]``."""
    lost = torch.zeros(count, dtype=torch.bool)
    if count > 1 and float(torch.rand((), generator=generator)) < share:
        kept = int(torch.randint(1, count, (), generator=generator))
        lost[torch.randperm(count, generator=generator)[kept:]] = True
    return lost
