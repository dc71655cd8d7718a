"""A model on disk: ``config.json``, ``model.safetensors`` (names as in the release) and ``manifest.json``."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from aion_core.contract import AionError, InputError, TokenSpace
from aion_core.files import read_json, read_safetensors, write_json, write_safetensors
from aion_core.hub import resolve
from aion_core.model.aion import AionModel
from aion_core.model.config import AionConfig
from aion_core.release import CONFIG, MANIFEST, WEIGHTS


def save_model(model: AionModel, folder: Path) -> None:
    """Write a model into a folder, the weights last, so that a folder with weights is complete."""
    save_description(model, folder)
    write_safetensors(folder / WEIGHTS, model.state_dict(), {"format": "pt"})


def save_description(model: AionModel, folder: Path) -> None:
    """Write what a model is, without its weights."""
    keys = list(model.space.keys)
    write_json(folder / CONFIG, {**model.config.model_dump(), "domains_in": keys, "domains_out": keys})
    write_json(folder / MANIFEST, model.space.manifest())


def load_model(source: str | Path, revision: str | None = None, local_files_only: bool = False) -> AionModel:
    """Read a model that `save_model` wrote, from a folder or a Hub repository."""
    folder = resolve(source, [CONFIG, WEIGHTS, MANIFEST], revision=revision, local_files_only=local_files_only)
    model = AionModel(_read_config(folder / CONFIG), read_space(folder))
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def read_space(folder: Path) -> TokenSpace:
    """Return the token space that a model or a checkpoint was trained on."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} has no {MANIFEST}, so nothing says what its tokens mean.")
    return TokenSpace.from_file(path)


def load_weights(model: AionModel, path: Path) -> None:
    """Load weights in place; every name and shape must match the model's."""
    tensors, _ = read_safetensors(path)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        name = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise InputError(
            f"{path} does not fit its configuration: {name} is {found.get(name, 'missing')} in the file and "
            f"{expected.get(name, 'not expected')} in the model."
        )
    model.load_state_dict(tensors)


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
