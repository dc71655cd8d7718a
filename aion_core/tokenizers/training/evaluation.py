"""Reconstructions of observations: how good they are, and what they look like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aion_core.observations import Observation
from aion_core.tokenizers.base import Tokenizer
from aion_core.tokenizers.quality import Quality, compare
from aion_core.tokenizers.training.page import Gallery
from aion_core.tokenizers.training.source import Observations

#: Objects reconstructed at a time.
BATCH = 64


def assess(
    tokenizers: Mapping[str, Tokenizer], observations: Observations, page: Path | None = None, examples: int = 0
) -> dict[str, Quality]:
    """Return the quality of reconstructions by modality, and draw the first few of each as ``<page>-<key>.png``."""
    found: dict[str, Quality] = {}
    shown: dict[str, Gallery] = {}
    for key, obs in observations:
        gallery = shown.setdefault(key, Gallery(examples if page is not None else 0))
        part = assess_one(tokenizers[key], obs, gallery)
        found[key] = found[key] + part if key in found else part
    for key, gallery in shown.items():
        if page is not None:
            gallery.draw(page.with_name(f"{page.name}-{key}.png"), f"{key}: {page.name}")
    return {key: found[key] for key in tokenizers if key in found}


def assess_one(tokenizer: Tokenizer, obs: Observation, gallery: Gallery | None = None) -> Quality:
    """Return the quality of the reconstructions of observations, a batch at a time; a gallery keeps the first few."""
    total: Quality | None = None
    for start in range(0, len(obs), BATCH):
        part = obs[start : start + BATCH]
        tokens, values, decoded = tokenizer.reconstruct(part)
        if gallery is not None:
            gallery.add(tokenizer, part, values, decoded)
        found = compare(tokenizer, part, tokens, values, decoded)
        total = found if total is None else total + found
    assert total is not None, "observations to assess are never empty"
    return total
