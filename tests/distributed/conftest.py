"""A store in which every rank of one, two or four finds modalities that no other rank has, and all runs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aion_core.contract import ModalitySpec, Provenance, Slot, TokenSpace, provenance_id
from aion_core.data import StoreWriter, TokenStore
from aion_core.data.loader import TokenLoader
from aion_core.data.split import SplitConfig

OBJECTS, BATCH, STEPS = 320, 16, 12
SPLIT = {"fraction": 0.2, "order": 6}
SHAPES = {"a": (1,), "b": (3,)}
CONFIG = """
[run]
folder = "run"
precision = "fp32"
log_every = 1
[[data.train]]
stores = ["{store}"]
[data]
batch_size = {batch}
split = {{ fraction = {fraction}, order = {order} }}
[model]
dim = 16
encoder_depth = 1
decoder_depth = 2
num_heads = 2
[masking]
input_budget = 4
target_budget = 4
[optimizer]
steps = {steps}
lr = 1e-2
warmup_steps = 2
[evaluate]
every = 5
samples = 40
conditional = [ {{ target = "test_a0", given = ["test_b0"] }} ]
[checkpoint]
every = 6
"""


def make_space() -> TokenSpace:
    """Four groups of a scalar and a vector; the scalar of the last group has a code for every object."""

    def spec(key: str, shape: tuple[int, ...], vocab_size: int) -> ModalitySpec:
        return ModalitySpec(
            key=key, survey="Test", title=key, citation="none", kind="coefficients" if shape[0] > 1 else "scalar",
            quantity="phot.flux", units="", vocab_size=vocab_size, shape=shape,
            position="grid2d" if shape[0] > 1 else "scalar",
            provenance=Provenance(id=provenance_id(key), instrument="none", release="none"),
        )  # fmt: skip

    keys = [(f"test_{name}{group}", shape) for group in range(4) for name, shape in SHAPES.items()]
    sizes = {"test_a3": OBJECTS}
    slots = (Slot(spec=spec(key, shape, sizes.get(key, 13)), fingerprint="a" * 64) for key, shape in keys)
    return TokenSpace(slots=tuple(slots))


def write_store(path: Path, groups: np.ndarray) -> None:
    """Write objects over the whole sky, each with the modalities of its group: b = a + (0, 1, 2)."""
    rng = np.random.default_rng(1)
    rows = np.arange(OBJECTS)
    codes = np.where(groups == 3, rows, rng.integers(13, size=OBJECTS))
    tokens = {}
    for group in range(4):
        mine = np.flatnonzero(groups == group)
        a = codes[mine][:, None]
        tokens |= {f"test_a{group}": (a, mine), f"test_b{group}": ((a + np.arange(3)) % 13, mine)}
    with StoreWriter(path, make_space()) as writer:
        names = np.array([f"object-{i}" for i in rows])
        writer.write(names, rng.uniform(0, 360, OBJECTS), rng.uniform(-60, 60, OBJECTS), tokens)


def order_of_training(path: Path) -> np.ndarray:
    """Return the rows of a store in the order in which the first epoch trains on them."""
    store = TokenStore(path)
    loader = TokenLoader([store], store.space, 1, split="train", split_config=SplitConfig(**SPLIT), prefetch=0)
    return loader.samples(0, 0, len(loader)).index.numpy()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a configuration and a store; position p is in group (p mod 16) // 4.

    So each of four ranks, whose share of a batch of 16 is four samples in a row, has a group of its own, and each of
    two ranks has two.
    """
    folder = tmp_path_factory.mktemp("distributed")
    store = folder / "store.arrow"
    write_store(store, np.arange(OBJECTS) % 4)
    rows = order_of_training(store)
    assert len(rows) >= STEPS * BATCH
    groups = np.arange(OBJECTS) % 4
    groups[rows] = np.arange(len(rows)) % BATCH // 4
    write_store(store, groups)
    assert (order_of_training(store) == rows).all()
    (folder / "train.toml").write_text(CONFIG.format(store=store, batch=BATCH, steps=STEPS, **SPLIT))
    np.save(folder / "rows.npy", rows)
    return folder


@pytest.fixture(scope="session")
def found(made: Path) -> dict[str, Any]:
    """Return what all scenarios of `scenarios.py` found; they run once, one after the other."""
    script = Path(__file__).with_name("scenarios.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, str(script), str(made)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((made / "found.json").read_text())
