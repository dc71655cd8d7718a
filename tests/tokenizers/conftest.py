"""Specs of an invented survey, and a plugin for it that is installed for the time of a test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import exp
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aion_core.contract import ModalitySpec, Provenance, TokenizerSpec, provenance_id
from aion_core.observations import Scalar
from aion_core.tokenizers import Tokenizer, build_tokenizer

# Lets the tests here import the modules beside them.
if (HERE := str(Path(__file__).parent)) not in sys.path:
    sys.path.insert(0, HERE)

SCALAR = "aion_core.tokenizers.scalar"


def make_spec(name: str, cls: str = "QuantileTokenizer", n: int = 1, **fields: Any) -> ModalitySpec:
    key = f"toy_{name}"
    tokenizer = {"path": f"{SCALAR}:{cls}" if ":" not in cls else cls} | fields.pop("tokenizer", {})
    defaults = {
        "key": key,
        "upstream_key": f"tok_{name}",
        "survey": "Toy",
        "title": name,
        "citation": "none",
        "kind": "scalar" if n == 1 else "coefficients",
        "quantity": "phot.flux",
        "units": "mas",
        "vocab_size": 1024,
        "shape": (n,),
        "position": "scalar" if n == 1 else "grid2d",
        "provenance": Provenance(id=provenance_id(f"urn:{key}"), instrument="none", release="none"),
        "tokenizer": TokenizerSpec(**tokenizer),
    }
    return ModalitySpec(**defaults | fields)


SPECS = {
    "plain": make_spec("plain"),
    "log": make_spec("log", "LogQuantileTokenizer", tokenizer={"config": {"min_value": exp(-3)}}),
    "coefficients": make_spec("coefficients", "CoefficientTokenizer", n=5),
    "grid": make_spec(
        "grid",
        "GridTokenizer",
        vocab_size=1025,
        units="",
        upstream_codec="Z",
        tokenizer={"config": {"codes": 1024}, "range": (0.0, 6.0)},
    ),
}

PLUGIN = """
from aion_core.contract import ModalitySpec, ReaderSpec
from aion_core.plugins import hookimpl

api_version = 1
SPECS = [{specs}]

@hookimpl
def aion_modalities():
    return [ModalitySpec.model_validate_json(text) for text in SPECS]

@hookimpl
def aion_readers():
    return [ReaderSpec(name="toy_arrays", title="NumPy archives", patterns=("*.npz",), reader="toy_reader:ToyReader",
                       modalities=tuple(spec.key for spec in aion_modalities()))]
"""

READER = """
import numpy as np
from aion_core.contract import InputError
from aion_core.data.reader import ObservationBatch, Reader
from aion_core.observations import ScalarField, Scalar

class ToyReader(Reader):
    def claims(self, path):
        with np.load(path) as file:
            return "toy" in file

    def read(self, path, batch_size):
        with np.load(path) as file:
            arrays = {key: file[key] for key in file if key != "toy"}
        size = max(map(len, arrays.values()))
        if "toy_broken" in arrays:
            raise InputError(f"{path}: the file is damaged.")
        if "toy_unreadable" in arrays:
            raise OSError(5, "Input/output error", str(path))
        for start in range(0, size, batch_size):
            rows = np.arange(min(batch_size, size - start))
            data = {}
            for key, values in arrays.items():
                part = values[start : start + batch_size]
                kind = ScalarField if part.ndim == 3 else Scalar
                data[key] = kind(part), np.arange(len(part))
            yield ObservationBatch(rows.astype(str), np.zeros(len(rows)), np.zeros(len(rows)), data)
"""


@pytest.fixture
def specs() -> dict[str, ModalitySpec]:
    return dict(SPECS)


@pytest.fixture
def spec_maker() -> Callable[..., ModalitySpec]:
    return make_spec


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Install a plugin with the four specs, one without a tokenizer, and one whose tokenizer is no table."""
    more = [
        make_spec("image", kind="scalar_field", shape=(2, 2), position="grid2d").model_copy(update={"tokenizer": None}),
        make_spec("deep", "toy_network:Network", kind="scalar_field", shape=(2, 2), position="grid2d"),
    ]
    site = tmp_path / "site"
    info = site / "aion_tok_toy-0.1.dist-info"
    info.mkdir(parents=True)
    texts = ", ".join(repr(spec.model_dump_json()) for spec in [*SPECS.values(), *more])
    (site / "toy_plugin.py").write_text(PLUGIN.format(specs=texts))
    (site / "toy_reader.py").write_text(READER)
    (site / "toy_network.py").write_text("from aion_core.tokenizers import Tokenizer\nclass Network(Tokenizer): ...\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aion-tok-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[aion.plugins]\ntoy = toy_plugin\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("AION_PLUGINS", "toy")
    for module in ("toy_plugin", "toy_reader", "toy_network"):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)

    def write(name: str, folder: Path = tmp_path / "data", **arrays: Any) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / name
        np.savez(path, toy=1, **{f"toy_{key}": np.asarray(value) for key, value in arrays.items()})
        return path

    return SimpleNamespace(write=write, data=tmp_path / "data", out=tmp_path / "set", site=site)


def sample(kind: str, size: int = 20_000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "coefficients":
        return rng.standard_cauchy((size, 5)) * [1e4, 1e2, 1.0, 1e-2, 0.0]
    if kind == "log":
        return rng.lognormal(4, 1.5, size)
    return rng.normal(1, 2, size) if kind == "plain" else rng.uniform(0, 6, size)


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
    """Data of a kind of tokenizer: ``draw(kind, size, seed)``."""
    return sample


@pytest.fixture(scope="session")
def fitted() -> Callable[..., Tokenizer]:
    """A fitted tokenizer of each kind, fitted once; nothing may change it."""
    made: dict[str, Any] = {}

    def build(kind: str) -> Any:
        if kind not in made:
            made[kind] = build_tokenizer(SPECS[kind])
            made[kind].observe(Scalar(sample(kind)))
            made[kind].finish()
        return made[kind]

    return build
