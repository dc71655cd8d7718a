"""Weights of images that are damaged, or not what they are said to be: one sentence each."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_images import spec_of, tokenizers

from aion_core.contract import InputError
from aion_core.contract.modality import Weights
from aion_core.tokenizers import load_tokenizer
from aion_core.tokenizers.base import read_tokenizer

SPEC = spec_of("hsc_image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizers()[0].save_pretrained(tmp_path)
    return tmp_path / "codecs" / "image"


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def own(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        known = json.loads((folder / "config.json").read_text())["aion_core"]
        config(aion_core=known | changes)(folder)

    return change


def tensors(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        edit(found)
        save_file(found, folder / "model.safetensors")

    return change


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "more channels than the weights": (config(hidden_dims=32), r"do not fit: \S+ is torch\.float32"),
    "more layers than the weights": (config(num_consecutive=2), "have no tensor model"),
    "fewer layers than the weights": (config(n_compressions=1, hidden_dims=8), "do not fit"),
    "other levels than the weights": (config(quantizer_levels=[5, 7, 5, 5, 5]), r"levels are \[7, 5, 5, 5, 5\]"),
    "levels that are none": (config(quantizer_levels=[7, 1, 5, 5, 5]), "levels"),
    "a width that is a word": (config(hidden_dims="wide"), "hidden_dims"),
    "band table of another length": (own(bands=[None] * 8), "names 8 channels; the weights have 9"),
    "damaged band table": (own(bands=[{"name": "HSC-G"}] * 9), "band table"),
    "first channels beyond all": (own(first_channels=10), "first trained with 10 of 9"),
    "tensor missing": (tensors(lambda t: t.pop("pre_quant_proj.bias")), r"no tensor pre_quant_proj\.bias"),
    "tensor that belongs to nothing": (tensors(lambda t: t.update(extra=torch.zeros(1))), "extra belongs to nothing"),
    "tensor of another shape": (tensors(lambda t: t.update({"subsample_in.weight": torch.zeros(3, 9)})), "do not fit"),
    "integers": (tensors(lambda t: t.update({"pre_quant_proj.bias": torch.zeros(5, dtype=torch.int32)})), "int32"),
    "truncated": (truncate, "not a whole safetensors file"),
    "a pickle in its place": (pickle, "may be a pickle"),
    "config that is no JSON": (lambda f: (f / "config.json").write_text("{"), "not a readable JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_in_one_sentence(fault: str, folder: Path) -> None:
    damage, words = FAULTS[fault]
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        read_tokenizer(SPEC, folder.parents[1])
    assert "\n" not in str(caught.value)


def test_weights_of_another_sha256_than_published_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder.parents[1]
    digest = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    for value in (digest, "0" * 64):
        weights = Weights(repo=str(root), sha256=value)
        spec = SPEC.model_copy(update={"tokenizer": SPEC.tokenizer.model_copy(update={"weights": weights})})
        registry: Any = type("OneKey", (), {"resolve": lambda self, key, spec=spec: spec})()
        if value == digest:
            load_tokenizer("hsc_image", registry=registry)
        else:
            with pytest.raises(InputError, match="has SHA-256"):
                load_tokenizer("hsc_image", registry=registry)
