"""Weights come from a folder or the Hub's cache, as JSON and safetensors, or not at all."""

from __future__ import annotations

import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from aion_core.contract import AionError, InputError
from aion_core.files import read_safetensors, write_json, write_safetensors
from aion_core.hub import check_sha256, require, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WANTED = ["config.json", "model.safetensors"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache with one repository, laid out by hand: a branch, a tag, one snapshot."""
    repository = tmp_path / "cache" / "models--team--tokenizers"
    for name, text in (("refs/main", COMMIT), ("refs/v1", COMMIT)):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    snapshot = repository / "snapshots" / COMMIT
    write_json(snapshot / "config.json", {"a": 1})
    write_safetensors(snapshot / "model.safetensors", {"x": torch.arange(3.0)})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return snapshot


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve(tmp_path, WANTED) == tmp_path
    assert resolve(str(tmp_path), WANTED, local_files_only=True) == tmp_path


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_a_repository_is_found_in_the_cache_without_the_network(cache: Path, revision: str | None) -> None:
    assert resolve("team/tokenizers", WANTED, revision=revision, local_files_only=True) == cache


def test_a_folder_named_like_a_repository_comes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "team" / "tokenizers").mkdir(parents=True)
    monkeypatch.chdir(cache)
    assert resolve("team/tokenizers", WANTED) == Path("team/tokenizers")


@pytest.mark.parametrize(("name", "revision"), [("team/other", None), ("team/tokenizers", "v2")])
@pytest.mark.usefixtures("cache")
def test_what_the_cache_lacks_is_an_error_that_says_how_to_get_it(name: str, revision: str | None) -> None:
    with pytest.raises(AionError, match=r"not in the local Hub cache; allow the network"):
        resolve(name, WANTED, revision=revision, local_files_only=True)


@pytest.mark.parametrize("source", ["./missing", "/missing/folder", "missing", "a/b/c", "~/missing", "team/"])
def test_a_folder_that_does_not_exist_is_never_taken_for_a_repository(source: str) -> None:
    with pytest.raises(AionError, match="there is no such folder"):
        resolve(source, WANTED)


def test_a_path_object_is_never_taken_for_a_repository() -> None:
    with pytest.raises(AionError, match="there is no such folder"):
        resolve(Path("team/tokenizers-that-are-not-here"), WANTED)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(AionError, match="has no revision 'main'"):
        resolve(tmp_path, WANTED, revision="main")


@pytest.mark.parametrize("pattern", ["*", "model.bin", "codecs/*/pytorch_model.pt", "*.py"])
def test_only_json_and_safetensors_are_ever_asked_for(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(AionError, match=r"only .json and .safetensors"):
        resolve(tmp_path, [pattern])


def test_only_the_wanted_files_are_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.update(k) or str(tmp_path))
    assert resolve("team/tokenizers", WANTED, revision="v1") == tmp_path
    assert asked == {"revision": "v1", "allow_patterns": WANTED, "local_files_only": False}


def test_a_repository_that_is_refused_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("404 Client Error.\n\nRepository Not Found for url: …")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(AionError, match=r"team/x at revision 'v1' cannot be fetched from the Hub: 404 Client Error\.$"):
        resolve("team/x", WANTED, revision="v1")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl", "model.pth"])
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    for attempt in (
        lambda: require(tmp_path, "model.safetensors"),
        lambda: resolve(tmp_path / name, WANTED),
        lambda: resolve(str(tmp_path / name), WANTED),
    ):
        with pytest.raises(InputError, match="pickle, which can run any code and is never loaded"):
            attempt()
    with pytest.raises(InputError, match="other formats are never loaded"):
        read_safetensors(tmp_path / name)


def test_a_pickle_renamed_to_safetensors_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_safetensors(tmp_path / "model.safetensors")


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no model\.safetensors\.$"):
        require(tmp_path, "model.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        require(tmp_path / "missing", "config.json")


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_a_truncated_safetensors_file_is_an_input_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"x": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_safetensors(path)


def test_a_file_must_have_the_published_sha256(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"abc")
    check_sha256(path, sha256(b"abc").hexdigest())
    path.write_bytes(b"abd")
    with pytest.raises(InputError, match=r"has SHA-256 a52d159f262b…, but ba7816bf8f01… was published"):
        check_sha256(path, sha256(b"abc").hexdigest())
