"""What a scalar tokenizer saves: the release's layout, a fingerprint of what encoding reads, refused if damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aion_core.contract import InputError, ModalitySpec
from aion_core.observations import Scalar
from aion_core.release import Artifact, read_artifact, write_artifact
from aion_core.tokenizers import build_tokenizer
from aion_core.tokenizers.scalar import OWN, ScalarTokenizer

KINDS = ["plain", "log", "coefficients", "grid"]
Build = Callable[..., ScalarTokenizer]
Draw = Callable[..., np.ndarray]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_is_loaded(
    kind: str, fitted: Build, specs: dict[str, ModalitySpec], tmp_path: Path, draw: Draw
) -> None:
    tokenizer = fitted(kind)
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_artifact(specs[kind], read_artifact(tmp_path / "codecs" / tokenizer.codec))
    assert again.artifact().same(tokenizer.artifact())
    assert again.fingerprint == tokenizer.fingerprint
    values = Scalar(draw(kind, 500, seed=3))
    tokens = tokenizer.encode(values)
    assert torch.equal(again.encode(values), tokens)
    assert torch.equal(again.decode(tokens).value, tokenizer.decode(tokens).value)


def test_a_codec_costs_kilobytes(fitted: Build, tmp_path: Path) -> None:
    fitted("plain").save_pretrained(tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_reads_what_encoding_reads_and_nothing_else(
    kind: str, fitted: Build, specs: dict[str, ModalitySpec]
) -> None:
    tokenizer = fitted(kind)
    artifact = tokenizer.artifact()
    table = next(name for name in artifact.tensors if name.endswith(("_index_to_val", "buckets")))

    def changed(name: str, index: int, by: float) -> str:
        tensor = artifact.tensors[name].clone()
        tensor[index] += by
        other = Artifact(artifact.config, {**artifact.tensors, name: tensor}, artifact.metadata)
        return type(tokenizer).from_artifact(specs[kind], other).fingerprint

    assert changed(table, 0, -1e-3) != tokenizer.fingerprint
    assert changed(table, -1, 1.0) == tokenizer.fingerprint  # no value is compared with the last edge
    if kind != "grid":
        assert changed(table.replace("_index_to_val", "_reservoir"), 3, 0.5) == tokenizer.fingerprint


def test_the_minimum_of_a_logarithm_is_part_of_the_fingerprint(fitted: Build, specs: dict[str, ModalitySpec]) -> None:
    tokenizer = fitted("log")
    artifact = tokenizer.artifact()
    other = Artifact({**artifact.config, "min_log_value": -2}, artifact.tensors, artifact.metadata)
    assert type(tokenizer).from_artifact(specs["log"], other).fingerprint != tokenizer.fingerprint


def _without(artifact: Artifact, part: str) -> Artifact:
    return Artifact(artifact.config, {k: v for k, v in artifact.tensors.items() if part not in k}, artifact.metadata)


def _with(artifact: Artifact, change: Callable[[Tensor], Tensor]) -> Artifact:
    return Artifact(artifact.config, {k: change(v) for k, v in artifact.tensors.items()}, artifact.metadata)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda a: _without(a, "quantizer"), "have no tensor"),
        (lambda a: _with(a, lambda t: t[:-1]), r"do not fit: .* is torch.float32 \[1023\], expected floats \[1024\]"),
        (lambda a: _with(a, lambda t: t.long()), "is torch.int64"),
        (lambda a: _with(a, lambda t: t.flip(0)), "edges of its codes do not ascend"),
        (lambda a: _with(a, lambda t: t * torch.nan), "edges of its codes do not ascend"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    kind: str, damage: Any, expected: str, fitted: Build, specs: dict[str, ModalitySpec]
) -> None:
    artifact = damage(fitted(kind).artifact())
    with pytest.raises(InputError, match=f"weights for toy_{kind} .*{expected}"):
        type(fitted(kind)).from_artifact(specs[kind], artifact)


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        ("plain", {"codebook_size": 512}, "have 512 codes; the modality has 1024"),
        ("log", {"min_log_value": "low"}, "min_log_value 'low'; expected a number"),
        ("log", {"min_log_value": 1e9}, "expected a number"),
        ("coefficients", {"num_quantizers": 7}, "have 7 coefficients; the modality has 5"),
        ("coefficients", {"compression_fns": ["log"]}, r"compress by \['log'\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    kind: str, config: dict[str, Any], expected: str, fitted: Build, specs: dict[str, ModalitySpec]
) -> None:
    artifact = fitted(kind).artifact()
    with pytest.raises(InputError, match=expected):
        type(fitted(kind)).from_artifact(
            specs[kind], Artifact({**artifact.config, **config}, artifact.tensors, artifact.metadata)
        )


def test_a_long_reservoir_is_read_past_and_codes_decode_to_the_middle(specs: dict[str, ModalitySpec]) -> None:
    table = torch.arange(1024.0) ** 2
    for prefix in ("quantizer.", "_quantizer."):
        tensors = {f"{prefix}_reservoir": torch.zeros(100_000), f"{prefix}_index_to_val": table}
        tokenizer = type(build_tokenizer(specs["plain"])).from_artifact(specs["plain"], Artifact({}, tensors))
        decoded = tokenizer.decode(torch.tensor([0, 1, 10])).value
        assert decoded.tolist() == [0.0, 0.5, (81 + 100) / 2]


def test_a_repeated_edge_of_foreign_weights_is_a_value_and_decodes_as_it(specs: dict[str, ModalitySpec]) -> None:
    table = torch.cat([torch.linspace(-1, 0, 500), torch.zeros(24), torch.linspace(1, 2, 500)])
    tensors = {"quantizer._index_to_val": table}
    tokenizer = type(build_tokenizer(specs["plain"])).from_artifact(specs["plain"], Artifact({}, tensors))
    assert float(tokenizer.decode(tokenizer.encode(Scalar([0.0]))).value) == 0.0


def test_a_reservoir_holds_centres_only_where_the_file_says_so(specs: dict[str, ModalitySpec]) -> None:
    table = torch.arange(1024.0)
    tensors = {"quantizer._reservoir": table - 0.25, "quantizer._index_to_val": table}
    cls = type(build_tokenizer(specs["plain"]))
    token = torch.tensor([7])
    assert float(cls.from_artifact(specs["plain"], Artifact({}, tensors, OWN)).decode(token).value) == 6.75
    assert float(cls.from_artifact(specs["plain"], Artifact({}, tensors)).decode(token).value) == 6.5


def test_a_written_codec_with_a_truncated_file_is_an_input_error(fitted: Build, tmp_path: Path) -> None:
    write_artifact(tmp_path / "x", fitted("plain").artifact())
    path = tmp_path / "x" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_artifact(tmp_path / "x")
