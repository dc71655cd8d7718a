"""`aion checkpoint grow`: a stranger's plugin, a tokenizer set and the AION-1 layout, as a user types it."""

from __future__ import annotations

import hashlib
import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aion_core.cli import main
from aion_core.contract import TokenSpace
from aion_core.hub import sha256
from aion_core.model import AionConfig, AionModel
from aion_core.observations import Scalar
from aion_core.plugins import load_registry
from aion_core.tokenizers import TokenizerSet
from aion_core.tokenizers.base import build_tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "aion-tok-clauds"
OLD = ("gaia_flux_g", "legacy_flux_r", "catalog_redshift")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three installed modalities."""
    config = AionConfig(dim=16, encoder_depth=1, decoder_depth=1, num_heads=2)
    AionModel(config, load_registry().token_space(OLD)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def clauds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example plugin, as if it were installed; taken away again by `AION_PLUGINS`."""
    info = tmp_path / "site" / "aion_tok_clauds-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aion-tok-clauds\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[aion.plugins]\nclauds = aion_tok_clauds.plugin\n")
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    monkeypatch.syspath_prepend(str(info.parent))


def grow(capsys, *words: object) -> dict:
    assert main(["checkpoint", "grow", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def inspect(capsys, path: Path) -> dict:
    assert main(["checkpoint", "inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    capsys.readouterr()
    assert main(["checkpoint", "grow", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def outputs(folder: Path) -> str:
    """Hash what a model makes of old modalities."""
    model, generator = AionModel.from_pretrained(folder), torch.Generator().manual_seed(0)
    given = {key: torch.randint(1000, (4, 1), generator=generator) for key in OLD[:2]}
    made = [model.embed(given).values, *model.logits(given, OLD).values(), model.embed({OLD[2]: given[OLD[0]]}).values]
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in made)).hexdigest()


def test_a_strangers_modality_is_appended_and_everything_old_stays(
    folder, clauds, tmp_path, capsys, monkeypatch
) -> None:
    before = outputs(folder)
    found = grow(capsys, folder, "--add", "clauds_image", "tok_parallax", "--out", tmp_path / "out")
    assert outputs(tmp_path / "out") == before
    assert list(found["appended"]) == ["clauds_image", "gaia_parallax"]
    assert found["appended"]["clauds_image"] == {
        "vocab_size": 4375, "parameters": 2 * 4375 * 16 + 16, "given_by": "aion-tok-clauds 0.1.0",
        "fingerprint": "unknown",
    }  # fmt: skip
    assert found["parameters"] - found["parameters_before"] == 2 * (4375 + 1024) * 16 + 2 * 16
    assert (found["from_sha256"], found["sha256"]) == (
        sha256(folder / "model.safetensors"), sha256(tmp_path / "out/model.safetensors"),
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip
    grown = inspect(capsys, tmp_path / "out")
    assert [m["first_row"] for m in grown["modalities"]] == [0, 1024, 2048, 3073, 3073 + 4375]
    assert grown["grown"] == [
        {"modalities": list(found["appended"]), "source": str(folder), "sha256": found["from_sha256"]}
    ]
    assert grown["missing"] == []
    monkeypatch.setenv("AION_PLUGINS", "gaia,catalog")
    assert inspect(capsys, tmp_path / "out")["missing"] == [
        "pip install aion-tok-legacy",
        "pip install aion-tok-clauds",
    ]
    assert main(["checkpoint", "inspect", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"clauds_image +image .* aion-tok-clauds 0\.1\.0 +no: pip install aion-tok-clauds", printed)
    assert f"{found['from_sha256'][:12]}" in printed


@pytest.fixture
def tokenizers(tmp_path: Path) -> Path:
    """A tokenizer set that has one modality."""
    registry = load_registry()
    tokenizer: Any = build_tokenizer(registry.resolve("gaia_parallax"))
    tokenizer.observe(Scalar(torch.linspace(-1, 5, 5000)))
    tokenizer.finish()
    TokenizerSet([tokenizer], registry).save(tmp_path / "set")
    return tmp_path / "set"


def test_the_tokenizers_fingerprints_are_written_down(folder, tokenizers, tmp_path, capsys) -> None:
    words = ("--tokenizers", tokenizers, "--out", tmp_path / "out")
    found = grow(capsys, folder, "--add", "gaia_parallax", *words)
    fingerprint = TokenizerSet.load(tokenizers)["gaia_parallax"].fingerprint
    assert found["appended"]["gaia_parallax"]["fingerprint"] == fingerprint
    assert AionModel.from_pretrained(tmp_path / "out").space["gaia_parallax"].fingerprint == fingerprint
    words = ("--tokenizers", tokenizers, "--out", tmp_path / "other")
    assert "has no tokenizer for 'gaia_ra'; it has gaia_parallax" in refused(capsys, folder, "--add", "gaia_ra", *words)
    manifest = tokenizers / "manifest.json"
    manifest.write_text(manifest.read_text().replace(fingerprint, "0" * 64))
    assert "gaia_parallax" in refused(capsys, folder, "--add", "gaia_parallax", *words)


def test_a_set_whose_plugin_is_not_installed_says_what_to_install(
    folder, tokenizers, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("AION_PLUGINS", "legacy,catalog")
    words = ("--add", "gaia_parallax", "--tokenizers", tokenizers, "--out", tmp_path / "out")
    assert "pip install aion-tok-gaia" in refused(capsys, folder, *words)


def test_a_release_grows_and_keeps_what_it_held_besides(folder, tmp_path, capsys) -> None:
    AionModel.from_pretrained(folder).save_pretrained(tmp_path / "release", layout="release")
    tensors = load_file(tmp_path / "release/model.safetensors")
    found = grow(capsys, tmp_path / "release", "--add", "gaia_parallax", "--out", tmp_path / "out")
    assert found["from_sha256"] == sha256(tmp_path / "release/model.safetensors")
    assert outputs(tmp_path / "out") == outputs(folder)
    export = ["checkpoint", "export", str(tmp_path / "out"), "--out", str(tmp_path / "again"), "--layout", "release"]
    assert main(export) == 0
    again = load_file(tmp_path / "again/model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert {name.split(".")[1] for name in set(again) - set(tensors)} == {"tok_parallax"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--add", "gaia_flux_g"], "gaia_flux_g is there already; only what is new"),
        (["--add", "gaia_flx_bp"], "No installed plugin declares 'gaia_flx_bp'. Did you mean 'gaia_flux_bp'?"),
        (["--add", "lsst_image"], "If its plugin is not installed: pip install aion-tok-lsst."),
        (["--add", "gaia_ra", "--out", "MODEL"], "exists; choose another --out"),
        (["--add", "gaia_ra", "--seed", "-1"], "--seed is -1; it is 0 or more"),
        (["--add", "gaia_ra", "--tokenizers", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_appended_is_one_sentence_and_leaves_nothing(folder, tmp_path, capsys, words, message) -> None:
    words = [str(folder) if word == "MODEL" else word for word in words]
    files = {path: path.read_bytes() for path in folder.iterdir()}
    assert message in refused(capsys, folder, "--out", tmp_path / "out", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vocab_size", 1023, "gaia_flux_g: vocab_size is 1023 here and 1024 there; .* a changed one needs a new key"),
        ("provenance", {"id": 77, "instrument": "x", "release": "y"}, "gaia_flux_g: provenance ID 77 here"),
    ],
)
def test_a_key_of_another_meaning_is_refused(folder, tmp_path, capsys, field, value, message) -> None:
    space = json.loads((folder / "manifest.json").read_text())
    space["slots"][0]["spec"][field] = value
    changed = TokenSpace.from_json(json.dumps(space))
    config = AionModel.from_pretrained(folder).config
    AionModel(config, changed).save_pretrained(tmp_path / "other")
    assert re.search(message, refused(capsys, tmp_path / "other", "--add", "gaia_flux_g", "--out", tmp_path / "out"))
    here = inspect(capsys, tmp_path / "other")["modalities"][0]["here"]
    assert here.startswith("no, something else: gaia_flux_g:")


def test_what_is_no_model_and_what_is_torn_leave_nothing(folder, tmp_path, capsys) -> None:
    words = ("--add", "gaia_ra", "--out", tmp_path / "out")
    assert "is no folder" in refused(capsys, tmp_path / "nowhere", *words)
    (tmp_path / "empty").mkdir()
    assert "config.json does not exist" in refused(capsys, tmp_path / "empty", *words)
    (folder / "optimizer-00001-of-00002.safetensors").write_bytes(b"x")
    assert "not a whole checkpoint" in refused(capsys, folder, *words)
    (folder / "model.safetensors").write_bytes(b"torn")
    assert "not a whole safetensors file" in refused(capsys, folder, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, tmp_path, capsys) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        assert "model.safetensors" in refused(capsys, folder, "--add", "gaia_ra", "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
