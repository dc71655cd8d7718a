"""A model on disk: ``config.json``, ``model.safetensors`` (names as in the release) and ``manifest.json``.

Without a manifest it is a release of AION-1's (`aion_core.model.released`), with tensors of its own beside these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from aion_core.contract import AionError, InputError, TokenSpace
from aion_core.engine.sharded import SavedTensors
from aion_core.files import read_json, write_json, write_safetensors
from aion_core.hub import require, resolve
from aion_core.model.aion import AionModel
from aion_core.model.config import AionConfig
from aion_core.model.released import (
    is_released,
    load_released,
    read_leftovers,
    read_released_description,
    write_leftovers,
)
from aion_core.release import CONFIG, LEFTOVERS, MANIFEST, WEIGHTS

STEM = WEIGHTS.partition(".")[0]


@dataclass(frozen=True)
class Description:
    """What a model on disk is, without its weights; `inputs` and `outputs` are keys that can be given and asked for."""

    config: AionConfig
    space: TokenSpace
    inputs: frozenset[str]
    outputs: frozenset[str]


def save_model(model: AionModel, folder: Path) -> None:
    """Write a model into a folder, the weights last, so that a folder with weights is complete."""
    save_description(model, folder)
    write_safetensors(folder / WEIGHTS, model.state_dict(), {"format": "pt"})


def save_description(model: AionModel, folder: Path) -> None:
    """Write what a model is, without its weights."""
    write_json(folder / CONFIG, model_config(model))
    write_leftovers(model, folder)
    write_json(folder / MANIFEST, model.space.manifest())


def load_model(source: str | Path, revision: str | None = None, local_files_only: bool = False) -> AionModel:
    """Read a model that `save_model` or a training wrote, or a release of AION-1's: a folder or a Hub repository."""
    files = [CONFIG, WEIGHTS, MANIFEST, LEFTOVERS]
    folder = resolve(source, files, revision=revision, local_files_only=local_files_only)
    if is_released(folder):
        return load_released(folder)
    found = read_description(folder)
    if not list(folder.glob(f"{STEM}-*-of-*.safetensors")):  # the parts that processes of a training wrote
        require(folder, WEIGHTS)
    with torch.device("meta"):
        model = AionModel(found.config, found.space, inputs=found.inputs, outputs=found.outputs)
    with SavedTensors(folder, STEM) as saved:
        saved.check({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, "its configuration")
        state = {name: saved.read(name).to(torch.float32) for name in saved.shapes}
    model.load_state_dict(state, assign=True)
    model.export_only = read_leftovers(folder)
    return model.eval()


def model_config(model: AionModel) -> dict[str, Any]:
    """Return what ``config.json`` says of a model: its shape, and which modalities can be given and asked for."""
    sides = {"domains_in": list(model.encoder_embeddings), "domains_out": list(model.decoder_embeddings)}
    return {**model.config.model_dump(), **sides}


def read_description(folder: Path) -> Description:
    """Return what a model or a checkpoint in a folder is; of a release, the token space is read off its tensors."""
    if is_released(folder):
        config, space, given, asked = read_released_description(folder)
        return Description(config, space, frozenset(given), frozenset(asked))
    config, space = _read_config(folder / CONFIG), read_space(folder)
    inputs, outputs = (_side(folder / CONFIG, name, space) for name in ("domains_in", "domains_out"))
    return Description(config, space, inputs, outputs)


def read_space(folder: Path) -> TokenSpace:
    """Return the token space that a model or a checkpoint was trained on."""
    path = folder / MANIFEST
    if is_released(folder):
        return read_released_description(folder)[1]
    if not path.is_file():
        raise InputError(f"{folder} has no {MANIFEST}, so nothing says what its tokens mean.")
    return TokenSpace.from_file(path)


def _side(path: Path, name: str, space: TokenSpace) -> frozenset[str]:
    """Return which modalities can be given, or asked for; all where nothing is said."""
    keys = read_json(path).get(name)
    return frozenset(keys if isinstance(keys, list) else space.keys)


def _read_config(path: Path) -> AionConfig:
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a JSON object.")
    known = {k: v for k, v in values.items() if k not in ("domains_in", "domains_out")}
    try:
        return AionConfig(**known)
    except ValidationError as error:
        first = error.errors()[0]
        raise AionError(f"{path}: {'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}.") from None
