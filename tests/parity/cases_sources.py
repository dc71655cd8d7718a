"""Source lists: cases of parity, and a mutation for every step and every tensor.

The release neither sorts nor chooses, nor rounds: it is given the sources that ours must choose, in ours' order, found
here in another way. Its codes lack the 204 reserved ids, and its padding is 9999.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from aion.codecs.catalog import CatalogCodec
from aion.modalities import LegacySurveyCatalog
from cases_image import to
from parity_table import Case, Mutation, Pair
from torch import Tensor

from aion_core.observations import SourceList
from aion_core.plugins import load_registry
from aion_core.tokenizers import sources as module
from aion_core.tokenizers.base import read_tokenizer

REGISTRY = load_registry()
NAMES = ("X", "Y", "SHAPE_E1", "SHAPE_E2", "SHAPE_R")
Table = np.ndarray[Any, Any]


def drawn(count: int, most: int, seed: int = 1) -> list[Table]:
    """Lists of 1 … most sources, ``[n, 5]``: many points (no shape), some beyond the cutout."""
    rng = np.random.default_rng(seed)
    lists = []
    for n in rng.integers(1, most + 1, count):
        shape = np.stack([rng.normal(0, 0.2, n), rng.normal(0, 0.2, n), rng.lognormal(0, 0.7, n)], 1)
        shape *= rng.random((n, 1)) < 0.7
        position = rng.uniform(-4, 99, (n, 2))
        position[0] = 47.5 + rng.normal(0, 1, 2)
        lists.append(np.hstack([position, shape]).astype(np.float32))
    return lists


def chosen(sources: Table) -> Table:
    """The ten nearest the centre, of those in the cutout."""
    inside = [s for s in sources.tolist() if all(-0.5 <= v < 95.5 for v in s[:2])]
    nearest = sorted(inside, key=lambda s: (s[0] - 47.5) ** 2 + (s[1] - 47.5) ** 2)[:10]
    return np.array(nearest, np.float32).reshape(-1, 5)


def padded(lists: list[Table], value: float) -> Tensor:
    most = max(map(len, lists))
    return torch.from_numpy(np.stack([
        np.vstack([t, np.full((most - len(t), 5), value, np.float32)]) for t in lists]))  # fmt: skip


def make_pair(lists: list[Table]) -> Pair:
    codec = CatalogCodec().eval()
    rng = np.random.default_rng(0)
    samples = torch.from_numpy(np.vstack(drawn(12_000, 20, seed=2))[:100_000])
    for column, quantizer in list(enumerate(codec.quantizer.quantizers.values()))[2:]:
        quantizer._update_reservoirs(samples[rng.permutation(len(samples)), column])
    with tempfile.TemporaryDirectory() as folder:
        codec.save_pretrained(folder, modality=LegacySurveyCatalog)
        tokenizer: Any = read_tokenizer(REGISTRY.resolve("catalog_sources"), Path(folder))
    best = padded([chosen(t) for t in lists], 9999)
    columns = {name: best[..., i] for i, name in enumerate(NAMES)}
    columns |= {name: columns[name].round().long() for name in ("X", "Y")}
    given = padded(lists, np.nan)

    def peer_encode() -> Tensor:
        codes = codec.encode(LegacySurveyCatalog(**columns)).long()
        return torch.where(codes == 9999, -1, codes + 204)

    def peer_decode(codes: Tensor) -> Tensor:
        found = codec.decode(torch.where(codes < 0, 9999, codes - 204))
        values = torch.stack([getattr(found, name).float() for name in NAMES], -1).flatten(1)
        return values.masked_fill(codes < 0, torch.nan)

    def decode(codes: Tensor) -> Tensor:
        found = tokenizer.decode(codes, at="edge")
        return torch.stack([getattr(found, name) for name in module.ATTRIBUTES], -1).flatten(1)

    return Pair(peer_encode, lambda: tokenizer.encode(SourceList(*given.unbind(-1))), peer_decode, decode, tokenizer)


def case(what: str, lists: Callable[[], list[Table]]) -> Case:
    return Case("catalog_sources", "released", what, lambda: make_pair(lists()))


BASE = case("300 lists of up to 20", partial(drawn, 300, 20))
CASES = [BASE, case("2000 lists of up to 40", partial(drawn, 2000, 40, seed=3))]


def patched(path: str, name: str, change: Callable[[Any], Any]) -> Callable[[Any], AbstractContextManager[Any]]:
    """Replace an attribute of what lies at a dotted path within the tokenizer by a function of it."""

    def apply(tokenizer: Any) -> AbstractContextManager[Any]:
        target = tokenizer
        for part in filter(None, path.split(".")):
            target = getattr(target, part)
        return patch.object(target, name, change(getattr(target, name)))

    return apply


CHOOSE = module.SourceListTokenizer._choose


def choosing(change: Callable[[Tensor], Tensor]) -> Callable[[Any], AbstractContextManager[Any]]:
    return to(module.SourceListTokenizer, "_choose", lambda self, obs: change(CHOOSE(self, obs)))


ENCODE: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "not sorted": to(Tensor, "argsort", lambda self, dim, stable: torch.arange(self.shape[1]).expand(self.shape)),
    "farthest first": to(Tensor, "argsort", lambda self, dim, stable, a=Tensor.argsort: a(
        self.nan_to_num(posinf=-1), dim=dim, stable=stable, descending=True)),
    "centre at pixel 48": to(torch, "hypot", lambda x, y, h=torch.hypot: h(x - 0.5, y - 0.5)),
    "sources beyond the cutout kept": to(module, "SIDE", 200),
    "nine sources": choosing(lambda c: torch.where(torch.arange(10)[:, None] < 9, c, torch.nan)),
    "x and y swapped": choosing(lambda c: c[..., [1, 0, 2, 3, 4]]),
    "e1 and e2 swapped": choosing(lambda c: c[..., [0, 1, 3, 2, 4]]),
    "pixel: rounded down": choosing(lambda c: torch.cat([c[..., :2].floor(), c[..., 2:]], -1)),
    "offsets of the attributes removed": patched("", "first", lambda first: first * 0 + 204),
    "reserved ids not added": patched("", "first", lambda first: first - 204),
    "tables of e1 and e2 swapped": patched("shapes", "edge", lambda edge: edge[[1, 0, 2]]),
    "table of the radius used for all": patched("shapes", "edge", lambda edge: edge[[2, 2, 2]]),
    "lower edge": patched("shapes", "edge", lambda edge: torch.cat([edge[:, 1:], edge[:, -1:] + 1], 1)),
}  # fmt: skip
DECODE: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "reserved ids not subtracted": patched("", "first", lambda first: first - 204),
    "edges 0.1 % lower": patched("shapes", "table", lambda table: table * 0.999),
    "tables of e1 and e2 swapped": patched("shapes", "table", lambda table: table[[1, 0, 2]]),
    "padding decoded": patched("", "first", lambda first: first * 0),
}
MUTATIONS = [
    *(Mutation(BASE, step, "encode", apply) for step, apply in ENCODE.items()),
    *(Mutation(BASE, step, "decode", apply) for step, apply in DECODE.items()),
]
