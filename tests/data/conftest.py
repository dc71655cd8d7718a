"""Token spaces of every geometry, and stores of random tokens over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aion_core.contract import ModalitySpec, Provenance, Slot, TokenSpace, provenance_id
from aion_core.data.store import StoreWriter, TokenStore

Codes = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., ModalitySpec]:
    """``make_spec(key, vocab_size, shape, position)``; sequences get items of five tokens."""

    def make(key: str, vocab_size: int, shape: tuple[int, ...], position: str = "seq1d", **fields) -> ModalitySpec:
        if fields.get("order") == "causal":
            fields = {"item_tokens": 5, "kind": "source_list"} | fields
        provenance = Provenance(id=provenance_id(key), instrument="none", release="none")
        common = {"survey": "Test", "title": key, "citation": "none", "quantity": "phot.flux", "units": ""}
        return ModalitySpec(
            key=key, vocab_size=vocab_size, shape=shape, position=position, provenance=provenance,
            **({"kind": "scalar"} | common | fields),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def make_space() -> Callable[..., TokenSpace]:
    return lambda *specs, **fields: TokenSpace(slots=tuple(Slot(spec=spec, **fields) for spec in specs))


@pytest.fixture(scope="session")
def space(make_spec, make_space) -> TokenSpace:
    """A grid, a scalar, a wide vocabulary, a sequence, and a second scalar."""
    return make_space(
        make_spec("test_image", 4375, (6, 6), "grid2d"),
        make_spec("test_r", 1024, (1,), "scalar"),
        make_spec("test_wide", 100_000, (7,)),
        make_spec("test_sources", 3468, (20,), order="causal"),
        make_spec("test_g", 1024, (1,), "scalar"),
    )


@pytest.fixture(scope="session")
def draw_codes() -> Callable[..., Codes]:
    """``draw_codes(space, n, rng, present=0.7)``: codes ``[n, n_tokens]`` of every modality, −1 where absent."""

    def draw(space: TokenSpace, n: int, rng: np.random.Generator, present: float = 0.7) -> Codes:
        codes = {}
        for spec in space.specs():
            first = 204 if spec.order == "causal" else 0
            codes[spec.key] = rng.integers(first, spec.vocab_size, (n, spec.n_tokens))
            if spec.order == "causal":
                items = rng.integers(1, spec.n_tokens // spec.item_tokens + 1, n)
                codes[spec.key][np.arange(spec.n_tokens) >= items[:, None] * spec.item_tokens] = -1
            codes[spec.key][rng.random(n) >= present] = -1
        return codes

    return draw


@pytest.fixture(scope="session")
def write_store(draw_codes) -> Callable[..., tuple[TokenStore, Codes]]:
    """``write_store(path, space, n, …)`` writes n objects all over the sky; also gives what was written."""

    def write(
        path: Path,
        space: TokenSpace,
        n: int,
        seed: int = 0,
        present: float = 0.7,
        chunk_rows: int = 16,
        name: str = "object",
    ) -> tuple[TokenStore, Codes]:
        rng = np.random.default_rng(seed)
        codes = draw_codes(space, n, rng, present)
        ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
        ids = [f"{name}-{i}" for i in range(n)]
        with StoreWriter(path, space, chunk_rows=chunk_rows) as writer:
            writer.write(ids, ra, dec, {k: (v, np.arange(n)) for k, v in codes.items()})
        return TokenStore(path), codes

    return write
