"""What the model is trained on: many views of each object, as single surveys and matched sets would have it.

A few thousand objects are too few for vocabularies of a thousand codes: most codes of a number would be seen once or
never, and nothing tells the model that neighbouring codes mean nearly the same. So each object is shown several times,
its numbers disturbed by a few codes, as another measurement would be. And an object with hundreds of tokens of images
and spectra would hardly ever show its numbers within the budgets, nor be asked for them: a view has all its numbers,
and with some probability only its images, its spectra and whatever else is large, each kind whole or not at all. Many
views are of numbers alone: masking then asks for half of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aion_core.contract import ModalitySpec
from aion_core.data.split import SplitConfig, split_mask
from aion_core.data.store import StoreWriter, TokenStore
from aion_core.mock import generator

#: Scatter of a number, as a share of all objects that lie between; and how often a code occurs that stands for
#: something of its own (a point source has no radius) and is left alone.
SCATTER, OF_ITS_OWN = 0.008, 0.03
#: Probability that a view has the images, the spectra, …, unless another is asked for.
SHARE = 0.35
PART = 500

Int = npt.NDArray[np.int64]


def write_views(
    joined: TokenStore,
    path: Path,
    copies: int,
    split: SplitConfig,
    seed: int = 0,
    progress: Callable[[int], None] = lambda objects: None,
    *,
    share: float = SHARE,
    held_out: bool = False,
) -> None:
    """Write `copies` views of every object of a store that is not held out, or of those that are, undisturbed.

    `share` is the probability that a view has the images, the spectra, …; 0: numbers alone.
    """
    apart = split_mask(joined.healpix, joined.ids, split.fraction, split.order, split.seed)
    rows = np.flatnonzero(apart == held_out)
    names, ra, dec = np.asarray(joined.ids.to_pylist(), dtype=np.str_), joined.ra, joined.dec
    uses = {spec.key: uses_of(joined, rows, spec) for spec in joined.space.specs() if spec.kind == "scalar"}
    with StoreWriter(path, joined.space) as writer:
        for copy in range(copies):
            rng = generator("demo views", seed, copy)
            for start in range(0, len(rows), PART):
                part = rows[start : start + PART]
                tokens = {}
                kinds = {spec.kind: rng.random(len(part)) < share for spec in joined.space.specs()}
                for spec in joined.space.specs():
                    if spec.kind == "scalar":
                        codes = joined.tokens(part, [spec.key])[spec.key]
                        shown = codes if held_out else disturbed(codes, uses[spec.key], rng)
                        tokens[spec.key] = shown, np.arange(len(part))
                    else:
                        there = np.flatnonzero(kinds[spec.kind])
                        tokens[spec.key] = joined.tokens(part[there], [spec.key])[spec.key], there
                writer.write(np.char.add(names[part], f"~{copy}"), ra[part], dec[part], tokens)
                progress(copy * len(rows) + start + len(part))


def disturbed(codes: Int, uses: Int, rng: np.random.Generator) -> Int:
    """Return the codes of a number ``[B, 1]``, which are used so often ``[V]``, moved by a few; −1 stays.

    So do codes that stand for something of their own.
    """
    place = places(uses)
    moved = np.searchsorted(place, place[np.maximum(codes, 0)] + SCATTER * rng.normal(size=codes.shape))
    moved = np.clip(moved, 0, max(int(codes.max(initial=0)), 0))
    stays = (codes < 0) | (uses > OF_ITS_OWN * max(uses.sum(), 1))[np.maximum(codes, 0)]
    return np.where(stays, codes, moved)


def places(uses: Int) -> npt.NDArray[np.float64]:
    """Return where codes that are used so often ``[V]`` lie among all that is used: ``[V]``, 0 … 1, ascending.

    Codes of equal width may have nearly all objects within a few of them: what is near is told by how many lie
    between. Codes that nobody uses lie a little apart, too.
    """
    even = np.full(len(uses), 1 / len(uses))
    share = 0.9 * uses / max(uses.sum(), 1) + (0.1 if uses.any() else 1.0) * even
    return np.asarray(np.cumsum(share) - share / 2)


def uses_of(store: TokenStore, rows: Int, spec: ModalitySpec) -> Int:
    """Return how often each code of a modality occurs in some rows of a store, ``[V]``."""
    codes = store.tokens(rows, [spec.key])[spec.key]
    return np.bincount(codes[codes >= 0], minlength=spec.vocab_size)
