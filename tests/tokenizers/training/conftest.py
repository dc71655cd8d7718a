"""An invented survey with a small network that learns in seconds: maps of two modalities that share one artifact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aion_core.contract import ModalitySpec, Provenance, TokenizerSpec, provenance_id

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
    return [ReaderSpec(name="tiny_arrays", title="NumPy archives", patterns=("*.npz",), reader="tiny_reader:TinyReader",
                       modalities=tuple(spec.key for spec in aion_modalities()))]
"""

READER = """
import numpy as np
from aion_core.contract import InputError
from aion_core.data.reader import ObservationBatch, Reader
from aion_core.observations import ScalarField, Scalar

class TinyReader(Reader):
    def claims(self, path):
        with np.load(path) as file:
            return "ra" in file

    def read(self, path, batch_size):
        with np.load(path) as file:
            arrays = dict(file)
        ra, dec = arrays.pop("ra"), arrays.pop("dec")
        broken = int(arrays.pop("broken_at", -1))
        for start in range(0, len(ra), batch_size):
            if 0 <= broken <= start:
                raise InputError(f"{path}: row {start} is damaged.")
            rows = np.arange(start, min(start + batch_size, len(ra)))
            ids = np.array([f"{path.stem}-{i}" for i in rows])
            data = {k: ((Scalar if v.ndim == 1 else ScalarField)(v[rows]), np.arange(len(rows)))
                    for k, v in arrays.items()}
            yield ObservationBatch(ids, ra[rows], dec[rows], data)
"""

NETWORK = """
import torch
from torch import nn
from aion_core.contract import AionError
from aion_core.engine.initialise import keyed_generator
from aion_core.observations import ScalarField
from aion_core.release import Artifact
from aion_core.tokenizers import Tokenizer
from aion_core.tokenizers.base import fitting_tensor
from aion_core.tokenizers.fsq import FiniteScalarQuantizer

class Network(nn.Module):
    def __init__(self, width, levels):
        super().__init__()
        self.width, self.levels = width, tuple(levels)
        self.quantizer = FiniteScalarQuantizer(self.levels)
        self.encode = nn.Sequential(nn.Linear(64, width), nn.ELU(), nn.Linear(width, 4 * len(levels)))
        self.decode = nn.Sequential(nn.Linear(4 * len(levels), width), nn.ELU(), nn.Linear(width, 64))

class TinyTokenizer(Tokenizer):
    observation = ScalarField

    def __init__(self, spec, network=None, width=16, levels=(5, 5)):
        super().__init__(spec)
        self.network = network or Network(width, levels)

    @classmethod
    def build(cls, specs, seed=0, **config):
        first = cls(specs[0], **config)
        with torch.no_grad():
            for name, p in first.named_parameters():
                p.normal_(0, 0.3, generator=keyed_generator(name, seed)) if p.ndim > 1 else p.zero_()
        return first, *(cls(spec, first.network) for spec in specs[1:])

    @classmethod
    def codebook(cls, codes):
        side = int(codes ** 0.5)
        return side ** 2, {"levels": [side] * 2}

    def _z(self, value):
        return self.network.encode(value.reshape(-1, 64)).reshape(len(value), 4, -1).movedim(-1, 1)

    def _out(self, z):
        return self.network.decode(z.movedim(1, -1).reshape(len(z), -1)).reshape(-1, 8, 8)

    def loss(self, *observations):
        value = torch.cat([self.accept(obs).value for obs in observations])
        error = self._out(self.network.quantizer(self._z(value))) - value
        return {"square": error.square().mean(), "size": 1e-3 * value.square().mean()}

    def _encode(self, obs):
        return self.network.quantizer.encode(self._z(obs.value)).reshape(-1, 2, 2)

    def _decode(self, tokens):
        return ScalarField(self._out(self.network.quantizer.decode(tokens.reshape(-1, 4))))

    def encode_tensors(self):
        return dict(self.network.encode.state_dict())

    def artifact(self):
        n = self.network
        return Artifact({"width": n.width, "levels": list(n.levels)}, n.state_dict())

    @classmethod
    def from_artifact(cls, spec, artifact, sibling=None):
        made = cls(spec, getattr(sibling, "network", None), **artifact.config)
        if sibling is None:
            made.network.load_state_dict(dict(artifact.tensors))
        return made
"""

CONFIG = """
kind = "scalar_field"
[run]
precision = "fp32"
log_every = 1
[data]
batch_size = 16
window = 64
split = {{ fraction = 0.25, order = 4 }}
[network]
width = 24
[optimizer]
steps = {steps}
lr = 1e-2
{optimizer}
[evaluate]
every = 1000
objects = 64
page = 0
[checkpoint]
every = {every}
"""


def make_spec(name: str, **fields: Any) -> ModalitySpec:
    key = f"tiny_{name}"
    defaults = {
        "key": key, "upstream_codec": "tiny", "survey": "Tiny", "title": name, "citation": "none",
        "kind": "scalar_field", "quantity": "phot.flux", "units": "", "vocab_size": 25, "shape": (2, 2),
        "position": "grid2d", "provenance": Provenance(id=provenance_id(key), instrument="none", release="none"),
        "tokenizer": TokenizerSpec(path="tiny_network:TinyTokenizer"),
    }  # fmt: skip
    return ModalitySpec(**defaults | fields)


SCALAR = {"kind": "scalar", "shape": (1,), "position": "scalar", "vocab_size": 16, "upstream_codec": None}
TABLE = TokenizerSpec(path="aion_core.tokenizers.scalar:QuantileTokenizer")
SPECS = [make_spec("left"), make_spec("right"), make_spec("number", tokenizer=TABLE, **SCALAR)]


def maps(count: int, seed: int) -> np.ndarray:
    """Maps that two numbers describe, and noise."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, count, 1, 1))
    y, x = np.mgrid[:8, :8] / 4 - 1
    return (a * np.sin(2 * x) + b * np.cos(3 * y) + 0.02 * rng.normal(size=(count, 8, 8))).astype(np.float32)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Install the plugin, here and in processes that are started; make files and configurations for it."""
    site = tmp_path / "site"
    info = site / "aion_tok_tiny-0.1.dist-info"
    info.mkdir(parents=True)
    texts = ", ".join(repr(spec.model_dump_json()) for spec in SPECS)
    sources = {"tiny_plugin": PLUGIN.format(specs=texts), "tiny_reader": READER, "tiny_network": NETWORK}
    for name, text in sources.items():
        (site / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aion-tok-tiny\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[aion.plugins]\ntiny = tiny_plugin\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("AION_PLUGINS", "tiny")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def write(name: str, count: int = 100, seed: int = 0, keys: tuple[str, ...] = ("left",), **more: Any) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed + 1000)
        arrays = {f"tiny_{key}": maps(count, seed + i) for i, key in enumerate(keys)}
        np.savez(path, ra=rng.uniform(0, 360, count), dec=rng.uniform(-60, 60, count), **arrays, **more)
        return path

    def config(name: str = "recipe", steps: int = 20, optimizer: str = "", every: int = 5) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(CONFIG.format(steps=steps, optimizer=optimizer, every=every))
        return path

    return SimpleNamespace(write=write, config=config, data=tmp_path / "data", out=tmp_path / "set", site=site)


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start ``aion tokenizer …`` in a process of its own, or in several under torchrun."""

    def run(*words: Any, processes: int = 1) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "aion_core.cli", "tokenizer"]
        words = tuple(map(str, words))
        return subprocess.Popen(
            [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
        )

    return run


def losses(run: Path) -> list[float]:
    """Return the logged losses of a run folder."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def parameters(run: Path) -> dict[str, bytes]:
    """Return the files of the last checkpoint that hold numbers."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {str(p.relative_to(last)): p.read_bytes() for p in sorted(last.rglob("*.safetensors"))}


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    deadline = time.monotonic() + 60
    while not list((run / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    process.send_signal(number)
    return process.communicate()


@pytest.fixture
def runs() -> SimpleNamespace:
    """What tests do with run folders and processes."""
    return SimpleNamespace(losses=losses, parameters=parameters, wait=wait_for_checkpoint, stop=stop)
