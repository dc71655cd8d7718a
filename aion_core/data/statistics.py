"""What is in token stores, counted in one pass with memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.data.columns import HEALPIX_ORDER
from aion_core.data.store import TokenStore
from aion_core.tokenizers.report import perplexity

#: Patches in which the extent on the sky is counted: HEALPix order 6, of 0.84 square degrees each.
PATCH_ORDER = 6
PATCHES = 12 << 2 * PATCH_ORDER


@dataclass
class _Modality:
    objects: int = 0
    tokens: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, column: Any) -> None:
        """Count one chunk of a modality's column."""
        codes = (column.flatten() if hasattr(column, "flatten") else column).drop_null().to_numpy()
        self.objects += len(column) - column.null_count
        self.tokens += len(codes)
        found = np.bincount(codes, minlength=len(self.counts))
        found[: len(self.counts)] += self.counts
        self.counts = found


def token_counts(stores: Sequence[TokenStore]) -> dict[str, tuple[int, int]]:
    """Return ``{key: (objects, tokens)}`` of some stores together, from their metadata: no token is read."""
    found: dict[str, tuple[int, int]] = {}
    for store in stores:
        for key in store.space.keys:
            objects, tokens = found.get(key, (0, 0))
            for chunk in store.column(key).chunks:
                there = len(chunk) - chunk.null_count
                objects += there
                # A list's tokens lie between its first and its last offset; a null takes none.
                tokens += chunk.offsets[-1].as_py() - chunk.offsets[0].as_py() if hasattr(chunk, "offsets") else there
            found[key] = objects, tokens
    return found


def store_statistics(
    stores: Sequence[TokenStore], done: Callable[[TokenStore], None] = lambda _: None
) -> dict[str, Any]:
    """Return JSON-serialisable facts about some stores, taken together and one by one.

    Parameters
    ----------
    stores
        Any stores; their token spaces may differ.
    done
        Called after each store has been read.
    """
    total = sum(len(store) for store in stores)
    modalities: dict[str, _Modality] = {}
    files = []
    for store in stores:
        for key in store.space.keys:
            modality = modalities.setdefault(key, _Modality())
            for chunk in store.column(key).chunks:
                modality.add(chunk)
        files.append(
            {
                "path": str(store.path),
                "objects": len(store),
                "bytes": store.path.stat().st_size,
                "chunks": len(store.chunks) - 1,
                "modalities": list(store.space.keys),
            }
        )
        done(store)
    slots = {slot.key: slot for store in stores for slot in store.space.slots}
    bound = {key: sorted({s.space[key].fingerprint or "" for s in stores if key in s.space.keys}) for key in slots}
    return {
        "objects": total,
        "tokens": sum(m.tokens for m in modalities.values()),
        "bytes": sum(store.path.stat().st_size for store in stores),
        "stores": files,
        "plugins": _plugins(stores),
        "sky": _sky(stores),
        "modalities": {
            key: {
                "objects": m.objects,
                "missing": 1 - m.objects / total if total else 0.0,
                "tokens": m.tokens,
                "vocab_size": slots[key].spec.vocab_size,
                "codes_used": int((m.counts > 0).sum()),
                "perplexity": perplexity(m.counts),
                "plugin": slots[key].distribution,
                "fingerprints": [fingerprint for fingerprint in bound[key] if fingerprint],
            }
            for key, m in modalities.items()
        },
    }


def _plugins(stores: Sequence[TokenStore]) -> list[dict[str, str | None]]:
    """Return the plugins, with versions, that gave the modalities of the stores."""
    found = {(s.distribution, s.version) for store in stores for s in store.space.slots if s.distribution}
    return [{"distribution": name, "version": version} for name, version in sorted(found, key=str)]


def _sky(stores: Sequence[TokenStore]) -> dict[str, Any] | None:
    """Return the extent on the sky; right ascension as the shortest arc, which may pass through 0."""
    degrees, covered = np.zeros(360, bool), np.zeros(PATCHES, bool)
    dec, known = [np.inf, -np.inf], 0
    for store in stores:
        here = store.healpix >= 0
        if here.any():
            known += int(here.sum())
            degrees[np.floor(store.ra[here] % 360).astype(np.int64) % 360] = True
            covered[store.healpix[here] >> 2 * (HEALPIX_ORDER - PATCH_ORDER)] = True
            dec = [min(dec[0], store.dec[here].min()), max(dec[1], store.dec[here].max())]
    if not known:
        return None
    begin = _behind_largest_gap(degrees)
    ends = [np.inf, -np.inf]
    for store in stores:
        ra = (store.ra[store.healpix >= 0] - begin) % 360
        ends = [min(ends[0], ra.min(initial=np.inf)), max(ends[1], ra.max(initial=-np.inf))]
    return {
        "objects": known,
        "ra": [float((begin + end) % 360) for end in ends],
        "dec": [float(d) for d in dec],
        "patches": int(covered.sum()),
        "fraction": float(covered.mean()),
    }


def _behind_largest_gap(occupied: npt.NDArray[np.bool_]) -> int:
    """Return the first occupied place behind the longest empty stretch of a circle."""
    if occupied.all():
        return 0
    places = np.flatnonzero(occupied)
    gaps = np.diff(places, append=places[0] + len(occupied))
    return int(places[(gaps.argmax() + 1) % len(places)])
