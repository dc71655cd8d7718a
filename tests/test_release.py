"""The release layout: folders are written whole, and what is read is what was written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from aion_core.contract import InputError
from aion_core.release import Artifact, codec_folder, codec_names, read_artifact, write_artifact

ARTIFACT = Artifact(
    {"codebook_size": 4, "name": "η"},
    {"a": torch.tensor([0.0, torch.nan]), "b": torch.ones(2, 3, dtype=torch.bfloat16), "c": torch.tensor(0)},
    {"format": "pt", "note": "x"},
)


def test_an_artifact_comes_back_bit_for_bit(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path, "one")
    write_artifact(folder, ARTIFACT)
    assert folder == tmp_path / "codecs" / "one"
    assert read_artifact(folder).same(ARTIFACT)


@pytest.mark.parametrize(
    "other",
    [
        Artifact({"codebook_size": 5, "name": "η"}, ARTIFACT.tensors, ARTIFACT.metadata),
        Artifact(ARTIFACT.config, {**ARTIFACT.tensors, "d": torch.zeros(1)}, ARTIFACT.metadata),
        Artifact(ARTIFACT.config, {**ARTIFACT.tensors, "c": torch.tensor(4)}, ARTIFACT.metadata),
        Artifact(ARTIFACT.config, {**ARTIFACT.tensors, "c": torch.tensor(0, dtype=torch.float64)}, ARTIFACT.metadata),
        Artifact(ARTIFACT.config, {**ARTIFACT.tensors, "c": torch.tensor([0])}, ARTIFACT.metadata),
        Artifact(ARTIFACT.config, ARTIFACT.tensors, {"format": "pt"}),
    ],
)
def test_artifacts_that_differ_in_anything_are_not_the_same(other: Artifact) -> None:
    assert not ARTIFACT.same(other)


def test_writing_again_replaces_the_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path, "one")
    write_artifact(folder, ARTIFACT)
    (folder / "stale.json").write_text("{}")
    write_artifact(folder, Artifact({"new": 1}, {"x": torch.zeros(1)}))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert read_artifact(folder).config == {"new": 1}
    assert sorted(p.name for p in (tmp_path / "codecs").iterdir()) == ["one"]


def test_a_failed_write_leaves_the_old_folder_and_no_rest(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path, "one")
    write_artifact(folder, ARTIFACT)
    with pytest.raises(ValueError):
        write_artifact(folder, Artifact({"bad": float("nan")}, {}))
    assert read_artifact(folder).same(ARTIFACT)
    assert sorted(p.name for p in (tmp_path / "codecs").iterdir()) == ["one"]


def test_what_is_written_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_artifact(tmp_path / "one", ARTIFACT)
    finally:
        os.umask(before)
    assert {oct(p.stat().st_mode & 0o777) for p in (tmp_path / "one").iterdir()} == {"0o644"}


def test_codecs_are_the_folders_that_have_a_configuration(tmp_path: Path) -> None:
    write_artifact(codec_folder(tmp_path, "b"), ARTIFACT)
    write_artifact(codec_folder(tmp_path, "a"), ARTIFACT)
    (tmp_path / "codecs" / "empty").mkdir()
    assert codec_names(tmp_path) == ["a", "b"]
    assert codec_names(tmp_path / "missing") == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"a": 1'])
def test_a_configuration_that_is_no_json_object_is_an_input_error(tmp_path: Path, text: str) -> None:
    write_artifact(tmp_path / "one", ARTIFACT)
    (tmp_path / "one" / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json is not a"):
        read_artifact(tmp_path / "one")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_artifact(tmp_path / "one", ARTIFACT)
    (tmp_path / "one" / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}"):
        read_artifact(tmp_path / "one")
