"""The same plugin in another process, whose hashes, memory and modules are others: what it declares and encodes there.

The other process is a new interpreter. It loads each plugin as the only one and looks at what that imported, and then
reads tokenizers and observations from files and encodes. It answers with one JSON document.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from aion_core.observations import Observation
    from aion_core.testing.subject import Subject

#: What no plugin may need merely to say what it has.
HEAVY = (
    *("torch", "numpy", "astropy", "pyarrow", "scipy", "pandas", "h5py", "matplotlib", "sklearn", "polars"),
    *("safetensors", "huggingface_hub", "requests", "jax", "tensorflow", "skimage", "photutils", "specutils"),
)
_CHILD = "from aion_core.testing.elsewhere import answer; answer()"
#: Objects whose tokens are compared, and their seed.
SIZE, SEED = 3, 11


@dataclass(frozen=True)
class Elsewhere:
    """What another process found.

    Attributes
    ----------
    heavy
        Large packages that were imported with the plugin.
    failures
        What discovery had to say where the plugin was the only one.
    declarations
        The specs as JSON, by name.
    fingerprints, tokens
        By key.
    errors
        Why a modality could not be encoded, by key.
    ended
        How the process ended, if it ended before it could answer.
    """

    heavy: Sequence[str] = ()
    failures: Sequence[str] = ()
    declarations: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    ended: str = ""


# --- asking


def found_elsewhere(subject: Subject) -> Elsewhere:
    """Return what another process found; no rule on it applies where it ended, which one of them tells."""
    from aion_core.testing.rules import NotApplicableError

    if subject.elsewhere.ended:
        raise NotApplicableError("the other process ended, see stands_alone")
    return subject.elsewhere


def ask(subjects: Sequence[Subject], folder: Path) -> dict[str, Elsewhere]:
    """Return what another process, one for all, finds of some plugins.

    Raises
    ------
    RuntimeError
        If that process ends without an answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request = {subject.name: _prepare(subject, folder / subject.name) for subject in subjects}
    (folder / "request.json").write_text(json.dumps(request))
    environment = {k: v for k, v in os.environ.items() if k not in ("AION_PLUGINS", "PYTHONHASHSEED")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the other process ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    answers = json.loads((folder / "answer.json").read_text())
    return {name: Elsewhere(**found) for name, found in answers.items()}


def _prepare(subject: Subject, folder: Path) -> list[str]:
    """Write tokenizers and observations into a folder, and return the keys for which that succeeded."""
    from aion_core.testing.examples import Batch

    keys = []
    for key, spec in subject.modalities.items():
        try:
            subject.tokenizer(spec).save_pretrained(folder / key)
            write_observation(subject.observe(spec, Batch(SIZE, SEED)), folder / key / "observation.safetensors")
            keys.append(key)
        except Exception:  # there is no such tokenizer, or other rules say what is wrong
            continue
    return keys


def write_observation(obs: Observation, path: Path) -> None:
    """Write an observation: its tensors, and everything else as JSON."""
    import torch
    from safetensors.torch import save_file

    tensors = {n: v.contiguous().clone() for n, v in vars(obs).items() if isinstance(v, torch.Tensor)}
    others = {n: v for n, v in vars(obs).items() if n not in tensors}
    kind = type(obs)
    about = {"class": f"{kind.__module__}:{kind.__qualname__}", "others": json.dumps(others)}
    save_file(tensors, path, metadata=about)


def read_observation(path: Path) -> Observation:
    """Return an observation that was written."""
    from safetensors import safe_open

    from aion_core.plugins import import_object

    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        fields: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no mapping
    for name, value in json.loads(about["others"]).items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    obs: Observation = object.__new__(import_object(about["class"]))
    for name, value in fields.items():
        object.__setattr__(obs, name, value)
    return obs


# --- answering, in the other process


def answer() -> None:
    """Do what ``request.json`` in the folder given asks for, and write ``answer.json``."""
    folder = Path(sys.argv[1])
    request: dict[str, list[str]] = json.loads((folder / "request.json").read_text())
    answers = {name: _declared(name) for name in request}  # first of all plugins, while nothing heavy is imported
    for name, keys in request.items():
        os.environ["AION_PLUGINS"] = name
        answers[name] |= _encoded(folder / name, keys)
    (folder / "answer.json").write_text(json.dumps(answers))


def _declared(name: str) -> dict[str, Any]:
    from aion_core.plugins import load_registry

    os.environ["AION_PLUGINS"] = name
    before = set(sys.modules)
    registry = load_registry()
    heavy = [module for module in HEAVY if module in sys.modules and module not in before]
    parts: list[Any] = [p for q in registry.plugins for p in (*q.modalities, *q.readers, *q.simulators)]
    return {
        "heavy": heavy,
        "failures": [str(failure) for failure in registry.failures],
        "declarations": {
            f"{type(p).__name__} {getattr(p, 'key', getattr(p, 'name', ''))}": p.model_dump_json() for p in parts
        },
    }


def _encoded(folder: Path, keys: Sequence[str]) -> dict[str, Any]:
    from aion_core.plugins import load_registry
    from aion_core.testing.rules import told
    from aion_core.tokenizers.base import read_tokenizer

    specs = {spec.key: spec for plugin in load_registry().plugins for spec in plugin.modalities}
    found: dict[str, dict[str, Any]] = {"fingerprints": {}, "tokens": {}, "errors": {}}
    for key in keys:
        try:
            tokenizer = read_tokenizer(specs[key], folder / key)
            found["fingerprints"][key] = tokenizer.fingerprint
            tokens: Tensor = tokenizer.encode(read_observation(folder / key / "observation.safetensors"))
            found["tokens"][key] = tokens.tolist()
        except Exception as error:
            found["errors"][key] = told(error)
    return found
