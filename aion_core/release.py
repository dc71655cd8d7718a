"""The layout of the AION-1 release, which tokenizer sets, models and checkpoints share.

::

    config.json  model.safetensors               the transformer
    manifest.json                                our own addition: the token space (absent from the release)
    release.safetensors                          our own addition: what a release held and the model does not use
    codecs/<name>/config.json                    one tokenizer
    codecs/<name>/model.safetensors
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.contract import InputError
from aion_core.files import read_json, read_safetensors, replacing, write_json, write_safetensors
from aion_core.hub import require

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, MANIFEST, CODECS = "config.json", "model.safetensors", "manifest.json", "codecs"
LEFTOVERS = "release.safetensors"


@dataclass(frozen=True)
class Artifact:
    """What one folder of the layout holds: a configuration, tensors by name, and the weights file's own header."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def same(self, other: Artifact) -> bool:
        """Whether both hold the same numbers and settings, bit for bit."""
        return (
            dict(self.config) == dict(other.config)
            and dict(self.metadata) == dict(other.metadata)
            and self.tensors.keys() == other.tensors.keys()
            and all(_identical(tensor, other.tensors[name]) for name, tensor in self.tensors.items())
        )


def codec_folder(root: Path, name: str) -> Path:
    """Return the folder of a codec in a release."""
    return root / CODECS / name


def codec_names(root: Path) -> list[str]:
    """Return the names of the codecs that a release holds."""
    return sorted(folder.name for folder in (root / CODECS).glob("*") if (folder / CONFIG).is_file())


def read_artifact(folder: Path) -> Artifact:
    """Read a folder's configuration and weights; what is missing or damaged is an `InputError`."""
    config = read_json(require(folder, CONFIG))
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG} is not a JSON object.")
    tensors, metadata = read_safetensors(require(folder, WEIGHTS))
    return Artifact(config, tensors, metadata)


def write_artifact(folder: Path, artifact: Artifact) -> None:
    """Write a folder with a configuration and weights, whole or not at all; an older one is replaced."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / CONFIG, dict(artifact.config))
        write_safetensors(temporary / WEIGHTS, artifact.tensors, artifact.metadata)


def _identical(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bytes (so that NaN equals NaN)."""
    import torch

    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))
