"""Loading by key, and tokenizer sets: a folder with a manifest that its files must agree with."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aion_core.contract import AionError, InputError, ModalitySpec, TokenizerSpec, TokenSpaceError, UnknownKeyError
from aion_core.files import read_safetensors, write_safetensors
from aion_core.observations import Scalar
from aion_core.plugins import Registry, load_registry
from aion_core.release import Artifact
from aion_core.tokenizers import Tokenizer, TokenizerSet, build_tokenizer, load_tokenizer
from aion_core.tokenizers.scalar import QuantileTokenizer

VALUES = Scalar(np.random.default_rng(0).normal(size=5000))


def fit(spec: ModalitySpec) -> Tokenizer:
    tokenizer: Any = build_tokenizer(spec)
    n = spec.n_tokens
    tokenizer.observe(Scalar(VALUES.value[:, None].expand(-1, n)))
    tokenizer.finish()
    return tokenizer


@pytest.fixture
def registry(toy: SimpleNamespace) -> Registry:
    return load_registry()


@pytest.fixture
def folder(toy: SimpleNamespace, registry: Registry, specs: dict[str, ModalitySpec]) -> Path:
    TokenizerSet(map(fit, specs.values()), registry).save(toy.out)
    return toy.out


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change fields of the first slot; a dotted name means one of its spec."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, value in changes.items():
        target = manifest["slots"][0]
        (target["spec"] if name in target["spec"] else target)[name] = value
    path.write_text(json.dumps(manifest))


def test_a_set_comes_back_as_it_was(folder: Path, registry: Registry, specs: dict[str, ModalitySpec]) -> None:
    again = TokenizerSet.load(folder, registry)
    assert list(again) == [spec.key for spec in specs.values()]
    assert again.space.slots[0].distribution == "aion-tok-toy"
    assert [slot.fingerprint for slot in again.space.slots] == [t.fingerprint for t in again.values()]
    assert not any(t.training for t in again.values())
    tokens = again["toy_plain"].encode(VALUES)
    assert torch.equal(tokens, fit(specs["plain"]).encode(VALUES))


def test_a_set_answers_to_upstream_keys_and_suggests_near_ones(folder: Path, registry: Registry) -> None:
    tokenizers = TokenizerSet.load(folder, registry)
    assert tokenizers["tok_plain"] is tokenizers["toy_plain"]
    assert "tok_plain" in tokenizers
    with pytest.raises(UnknownKeyError, match="Did you mean 'toy_plain'"):
        tokenizers["toy_plane"]


def test_only_wanted_keys_are_read(folder: Path, registry: Registry) -> None:
    (folder / "codecs" / "toy_log" / "config.json").unlink()
    assert list(TokenizerSet.load(folder, registry, keys=["tok_plain"])) == ["toy_plain"]
    with pytest.raises(AionError, match=r"has no config\.json"):
        TokenizerSet.load(folder, registry)
    with pytest.raises(AionError, match="has no tokenizer for 'toy_image'; it has toy_plain, toy_log"):
        TokenizerSet.load(folder, registry, keys=["toy_image"])


def test_the_folder_is_in_the_layout_of_the_release(folder: Path) -> None:
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    names = ("Z", "toy_coefficients", "toy_log", "toy_plain")
    both = [f"codecs/{name}/{file}" for name in names for file in ("config.json", "model.safetensors")]
    assert files == [*both, "manifest.json"]


@pytest.mark.parametrize("name", ["toy_plain", "toy_coefficients", "Z"])
def test_an_altered_file_is_noticed(folder: Path, registry: Registry, name: str) -> None:
    path = folder / "codecs" / name / "model.safetensors"
    tensors, metadata = read_safetensors(path)
    tensors = {k: torch.nextafter(v, torch.tensor(-torch.inf)) for k, v in tensors.items()}
    write_safetensors(path, tensors, metadata)
    with pytest.raises(AionError, match="is not what the manifest says: fingerprint"):
        TokenizerSet.load(folder, registry)
    key = "toy_grid" if name == "Z" else name
    with pytest.raises(AionError, match="is not what the manifest says"):
        load_tokenizer(key, folder, registry=registry)


def test_another_meaning_of_a_key_is_an_error(folder: Path, registry: Registry) -> None:
    edit_manifest(folder, vocab_size=2048)
    with pytest.raises(TokenSpaceError, match="vocab_size is 1024 here and 2048 there"):
        TokenizerSet.load(folder, registry)


def test_a_tokenizer_whose_plugin_is_not_installed_is_left_out_and_named(folder: Path, registry: Registry) -> None:
    edit_manifest(folder, key="other_plain", distribution="aion-tok-other")
    tokenizers = TokenizerSet.load(folder, registry)
    assert list(tokenizers) == ["toy_log", "toy_coefficients", "toy_grid"]
    for attempt in (
        lambda: tokenizers["other_plain"],
        lambda: TokenizerSet.load(folder, registry, keys=["other_plain"]),
    ):
        with pytest.raises(AionError, match="other_plain needs a plugin that is not installed: pip install aion-tok-"):
            attempt()


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text[:-20] + b"\xff"])
def test_a_damaged_manifest_is_named(folder: Path, registry: Registry, damage: Callable[[bytes], bytes]) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(damage(manifest.read_bytes()))
    for attempt in (
        lambda: TokenizerSet.load(folder, registry),
        lambda: load_tokenizer("toy_plain", folder, registry=registry),
    ):
        with pytest.raises(AionError, match=r"/manifest\.json: The manifest is not JSON"):
            attempt()


def test_only_a_misspelt_key_is_guessed(folder: Path, registry: Registry) -> None:
    for key in ("toy_plane", "tok_plian"):
        with pytest.raises(UnknownKeyError, match=r"Did you mean 'to._plain'\?"):
            TokenizerSet.load(folder, registry, keys=[key])
    (folder / "codecs" / "toy_log").rename(folder / "codecs" / "elsewhere")
    (folder / "manifest.json").unlink()
    with pytest.raises(UnknownKeyError, match=r"no tokenizer for 'toy_log'; it has [\w, ]+\.$"):
        TokenizerSet.load(folder, registry, keys=["toy_log"])


def test_a_misspelt_key_of_a_plugin_that_is_not_installed_is_guessed(folder: Path, registry: Registry) -> None:
    edit_manifest(folder, key="other_plain", distribution="aion-tok-other")
    with pytest.raises(UnknownKeyError, match="Did you mean 'other_plain'"):
        TokenizerSet.load(folder, registry, keys=["other_plane"])


def test_a_key_wanted_twice_is_read_once(folder: Path, registry: Registry) -> None:
    assert list(TokenizerSet.load(folder, registry, keys=["toy_plain", "tok_plain"])) == ["toy_plain"]


def test_a_release_without_a_manifest_is_read_by_the_names_of_its_codecs(folder: Path, registry: Registry) -> None:
    (folder / "manifest.json").unlink()
    assert list(TokenizerSet.load(folder, registry)) == ["toy_plain", "toy_log", "toy_coefficients", "toy_grid"]
    assert load_tokenizer("toy_log", folder, registry=registry).spec.key == "toy_log"


def test_a_folder_that_is_no_set_is_an_error(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(AionError, match=r"is not a tokenizer set: it has neither manifest\.json nor"):
        TokenizerSet.load(tmp_path, registry)
    with pytest.raises(AionError, match="there is no such folder"):
        TokenizerSet.load(tmp_path / "missing", registry)


def test_saving_replaces_a_set_but_nothing_else(folder: Path, registry: Registry, tmp_path: Path) -> None:
    one = TokenizerSet.load(folder, registry, keys=["toy_plain"])
    one.save(folder)
    assert [p.name for p in (folder / "codecs").iterdir()] == ["toy_plain"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(AionError, match=r"holds chapter\.tex, so it is not a tokenizer set"):
        one.save(tmp_path / "thesis")
    with pytest.raises(AionError, match="is a file"):
        one.save(tmp_path / "thesis" / "chapter.tex")


def test_a_set_that_cannot_be_written_leaves_the_old_one(folder: Path, specs: dict[str, ModalitySpec]) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(AionError, match="has no table yet"):
        TokenizerSet([fit(specs["plain"]), build_tokenizer(specs["log"])]).save(folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert len(list(folder.parent.glob(".*"))) == 0


class Shared(QuantileTokenizer):
    """Two modalities, one codec."""

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Any:
        tokenizer = super().from_artifact(spec, artifact)
        tokenizer.sibling = None if sibling is None else sibling.spec.key
        return tokenizer


def test_a_shared_codec_is_written_once_and_passed_on_when_read(
    tmp_path: Path, specs: dict[str, ModalitySpec], monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    monkeypatch.setattr("aion_core.tokenizers.scalar.Shared", Shared, raising=False)
    tokenizer = TokenizerSpec(path="aion_core.tokenizers.scalar:Shared")
    one = specs["plain"].model_copy(update={"upstream_codec": "both", "tokenizer": tokenizer})
    provenance = one.provenance.model_copy(update={"id": 7})
    two = one.model_copy(update={"key": "toy_second", "upstream_key": None, "provenance": provenance})
    plugin = registry.plugins[0].__class__(**{**vars(registry.plugins[0]), "modalities": (one, two)})
    registry = Registry({one.key: one, two.key: two}, (), (), (plugin,), ())
    TokenizerSet([fit(one), fit(two)], registry).save(tmp_path / "set")
    assert [p.name for p in (tmp_path / "set" / "codecs").iterdir()] == ["both"]
    again: Any = TokenizerSet.load(tmp_path / "set", registry)
    assert (again["toy_plain"].sibling, again["toy_second"].sibling) == (None, "toy_plain")
    other = fit(two)
    other.observe(Scalar([100.0] * 1000))
    other.finish()
    with pytest.raises(AionError, match="toy_plain and toy_second share the codec 'both', but have different weights"):
        TokenizerSet([fit(one), other], registry).save(tmp_path / "set")


def test_a_folder_may_hold_one_codec_only(tmp_path: Path, registry: Registry, specs: dict[str, ModalitySpec]) -> None:
    fit(specs["log"]).save_pretrained(tmp_path)
    tokenizer = load_tokenizer("tok_log", tmp_path, registry=registry)
    assert tokenizer.spec.key == "toy_log"
    assert not tokenizer.training
    with pytest.raises(InputError, match=r"holds no codec 'toy_plain' for toy_plain .* found toy_log"):
        load_tokenizer("toy_plain", tmp_path, registry=registry)


def test_without_weights_anywhere_the_error_says_what_to_do(registry: Registry) -> None:
    with pytest.raises(AionError, match=r"declares no default weights; give a folder .* aion tokenizer train PATH"):
        load_tokenizer("toy_plain", registry=registry)


def test_a_modality_without_a_tokenizer_says_so(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(AionError, match="toy_image declares no tokenizer"):
        load_tokenizer("toy_image", tmp_path, registry=registry)


def test_an_unknown_key_is_told_with_the_nearest(registry: Registry) -> None:
    with pytest.raises(UnknownKeyError, match="Did you mean 'toy_plain'"):
        load_tokenizer("toy_plian", registry=registry)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("missing.module:X", "cannot be imported"), ("aion_core.observations:Scalar", "is not a subclass")],
)
def test_a_class_that_is_no_tokenizer_is_refused(path: str, expected: str, specs: dict[str, ModalitySpec]) -> None:
    with pytest.raises(AionError, match=expected):
        build_tokenizer(specs["plain"].model_copy(update={"tokenizer": TokenizerSpec(path=path)}))


def declare(registry: Registry, **weights: Any) -> Registry:
    """Return a registry in which toy_plain declares default weights."""
    spec = registry.modalities["toy_plain"]
    tokenizer = TokenizerSpec.model_validate({**spec.tokenizer.model_dump(), "weights": weights})
    changed = spec.model_copy(update={"tokenizer": tokenizer})
    return Registry({**registry.modalities, "toy_plain": changed}, (), (), registry.plugins, ())


def test_declared_weights_are_used_and_checked(folder: Path, registry: Registry) -> None:
    good = sha256((folder / "codecs" / "toy_plain" / "model.safetensors").read_bytes()).hexdigest()
    declared = declare(registry, repo=str(folder.parent), subfolder=folder.name, sha256=good)
    assert load_tokenizer("toy_plain", registry=declared).spec.key == "toy_plain"
    declared = declare(registry, repo=str(folder.parent), subfolder=folder.name, sha256="0" * 64)
    with pytest.raises(InputError, match="000000000000… was published"):
        load_tokenizer("toy_plain", registry=declared)


def test_a_repository_is_asked_for_one_codec_only(
    folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **k: asked.update(k, name=name) or str(folder)
    )
    load_tokenizer("toy_plain", registry=declare(registry, repo="team/x", revision="v1"), local_files_only=True)
    codec = "codecs/toy_plain"
    assert asked == {
        "name": "team/x",
        "revision": "v1",
        "local_files_only": True,
        "allow_patterns": ["manifest.json", f"{codec}/config.json", f"{codec}/model.safetensors"],
    }


def test_inputs_are_moved_to_the_tokenizers_device(specs: dict[str, ModalitySpec]) -> None:
    tokenizer = fit(specs["plain"]).to("meta")
    assert tokenizer.accept(VALUES).device.type == "meta"


@pytest.mark.parametrize("key", ["catalog_redshift", "hsc_image", "desi_spectrum", "gaia_xp_bp", "legacy_segmap"])
def test_every_code_lies_at_a_place_of_its_own_between_0_and_1(key: str) -> None:
    tokenizer = build_tokenizer(load_registry().modalities[key])
    places = tokenizer.code_vectors()
    assert places is not None
    assert tokenizer.spec.vocab_size - 1 <= len(places) <= tokenizer.spec.vocab_size  # the release reserves one of Z
    assert places.min() == 0
    assert places.max() == 1
    assert len(places.unique(dim=0)) == len(places)
