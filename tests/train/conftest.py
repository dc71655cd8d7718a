"""A small store in which one modality follows from another, and one from nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aion_core.contract import ModalitySpec, Provenance, Slot, TokenSpace, provenance_id
from aion_core.data import StoreWriter

TOML = """
[run]
folder = "{folder}"
precision = "fp32"
log_every = 1

[[data.train]]
stores = ["{stores}"]

[data]
batch_size = 32
split = {{ fraction = 0.25, order = 6 }}

[model]
dim = 32
encoder_depth = 1
decoder_depth = 1
num_heads = 2

[masking]
input_budget = 8
target_budget = 8

[optimizer]
steps = {steps}
lr = 1e-2
warmup_steps = 2

[evaluate]
every = 1000
samples = 400
conditional = [ {{ target = "test_b", given = ["test_a"] }}, {{ target = "test_noise", given = ["test_a"] }} ]

[checkpoint]
every = 5
"""


def make_space(fingerprint: str = "a" * 64) -> TokenSpace:
    def spec(key: str, shape: tuple[int, ...]) -> ModalitySpec:
        return ModalitySpec(
            key=key, survey="Test", title=key, citation="none", kind="coefficients" if shape[0] > 1 else "scalar",
            quantity="phot.flux", units="", vocab_size=12, shape=shape, position="grid2d" if shape[0] > 1 else "scalar",
            provenance=Provenance(id=provenance_id(key), instrument="none", release="none"),
        )  # fmt: skip

    shapes = {"test_a": (1,), "test_b": (1,), "test_noise": (1,), "test_c": (3,)}
    return TokenSpace(slots=tuple(Slot(spec=spec(k, s), fingerprint=fingerprint) for k, s in shapes.items()))


@pytest.fixture
def space() -> TokenSpace:
    """The modalities of the store."""
    return make_space()


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    """Write a store of n objects over the whole sky: b = a, c = a + (0, 1, 2), noise independent; some lack b."""

    def make(name: str = "store", n: int = 600, fingerprint: str = "a" * 64, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        a = rng.integers(12, size=n)
        have_b = np.flatnonzero(rng.random(n) < 0.9)
        rows = np.arange(n)
        tokens = {
            "test_a": (a[:, None], rows),
            "test_b": (a[have_b][:, None], have_b),
            "test_noise": (rng.integers(12, size=(n, 1)), rows),
            "test_c": ((a[:, None] + np.arange(3)) % 12, rows),
        }
        path = tmp_path / "stores" / f"{name}.arrow"
        path.parent.mkdir(exist_ok=True)
        with StoreWriter(path, make_space(fingerprint)) as writer:
            identifiers = np.array([f"{name}-{i}" for i in range(n)])
            writer.write(identifiers, rng.uniform(0, 360, n), rng.uniform(-60, 60, n), tokens)
        return path

    return make


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Path]:
    """Write a training configuration."""

    def make(folder: str = "run", steps: int = 20) -> Path:
        path = tmp_path / f"{folder}.toml"
        path.write_text(TOML.format(folder=tmp_path / folder, stores=tmp_path / "stores", steps=steps))
        return path

    return make
