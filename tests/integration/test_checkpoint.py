"""`aion checkpoint inspect` and `export`, on checkpoints of modalities that are and are not installed."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file

from aion_core.cli import main
from aion_core.contract import TokenSpace
from aion_core.engine.sharded import Part, file_name, write_parts
from aion_core.hub import sha256
from aion_core.model import AionConfig, AionModel
from aion_core.plugins import load_registry

CONFIG = AionConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=2)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    space: TokenSpace = load_registry().token_space(["gaia_flux_g", "tok_flux_r"])
    AionModel(CONFIG, space).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def inspect(capsys, path: Path) -> dict:
    assert main(["checkpoint", "inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_counts_parameters_and_names_plugins(model_folder, capsys) -> None:
    found = inspect(capsys, model_folder)
    model = AionModel.from_pretrained(model_folder)
    assert found["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert found["parameters"]["heads"] == 2 * 1024 * 32
    assert [(m["key"], m["plugin"], m["here"]) for m in found["modalities"]] == [
        ("gaia_flux_g", "aion-tok-gaia 0.1.0", "yes"),
        ("legacy_flux_r", "aion-tok-legacy 0.1.0", "yes"),
    ]


def test_it_says_what_to_install_for_what_is_missing(model_folder, capsys, monkeypatch) -> None:
    monkeypatch.setenv("AION_PLUGINS", "gaia")
    here = {m["key"]: m["here"] for m in inspect(capsys, model_folder)["modalities"]}
    assert here == {"gaia_flux_g": "yes", "legacy_flux_r": "no: pip install aion-tok-legacy"}


def test_people_get_tables(model_folder, capsys) -> None:
    assert main(["checkpoint", "inspect", str(model_folder)]) == 0
    printed = capsys.readouterr().out
    assert "legacy_flux_r" in printed
    assert ", total " in printed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", None, "no manifest.json"),
        ("manifest.json", b"{}", "not a token-space manifest"),
        ("manifest.json", b'{"aion_manifest": 99, "aion_core": "9.9"}', "Upgrade aion-core"),
        ("model.safetensors", b"", "not a whole safetensors file"),
        ("config.json", b"{", "not a readable JSON file"),
    ],
)
def test_damage_is_one_sentence(model_folder, capsys, name: str, content: bytes | None, message: str) -> None:
    path = model_folder / name
    path.unlink() if content is None else path.write_bytes(content)
    assert main(["checkpoint", "inspect", str(model_folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path, capsys) -> None:
    assert main(["checkpoint", "inspect", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_release_without_a_manifest_is_described_by_its_tensors(model_folder, tmp_path, capsys, monkeypatch) -> None:
    AionModel.from_pretrained(model_folder).save_pretrained(tmp_path / "release", layout="release")
    assert not (tmp_path / "release" / "manifest.json").exists()
    monkeypatch.setenv("AION_PLUGINS", "gaia")
    known, unknown = inspect(capsys, tmp_path / "release")["modalities"]
    assert (known["key"], known["here"], known["fingerprint"]) == ("gaia_flux_g", "yes", "unknown")
    assert (unknown["key"], unknown["vocab_size"], unknown["here"]) == ("tok_flux_r", 1024, "no")


def test_another_version_of_a_plugin_is_named(model_folder, capsys) -> None:
    path = model_folder / "manifest.json"
    path.write_text(path.read_text().replace('"version": "0.1.0"', '"version": "0.0.9"'))
    assert {m["here"] for m in inspect(capsys, model_folder)["modalities"]} == {"yes, version 0.1.0"}


def export(capsys, *words: object) -> dict:
    assert main(["checkpoint", "export", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_latest_checkpoint_of_a_run_is_exported_without_its_training(model_folder, tmp_path, capsys) -> None:
    steps = tmp_path / "run" / "checkpoints"
    copytree(model_folder, steps / "step-00000001")
    copytree(model_folder, steps / "step-00000002")
    latest = AionModel(CONFIG, AionModel.from_pretrained(model_folder).space, seed=1)
    latest.save_pretrained(steps / "step-00000002")
    (steps / "step-00000002" / "optimizer.safetensors").write_bytes(b"x")
    found = export(capsys, tmp_path / "run", "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip
    exported = AionModel.from_pretrained(tmp_path / "out")
    assert torch.equal(exported.mask_token, latest.mask_token)
    assert found["sha256"] == sha256(tmp_path / "out" / "model.safetensors")
    assert found["parameters"] == sum(p.numel() for p in latest.parameters())


def test_what_several_processes_wrote_is_exported_as_one_file(model_folder, tmp_path, capsys) -> None:
    model = AionModel.from_pretrained(model_folder)
    parts: list[dict[str, Part]] = [{}, {}]
    for name, tensor in model.state_dict().items():
        half = -(-len(tensor) // 2)
        for part, first, rows in zip(parts, (0, half), (tensor[:half], tensor[half:]), strict=True):
            if len(rows):
                part[name] = Part(first, rows.clone())
    (model_folder / "model.safetensors").unlink()
    for rank, part in enumerate(parts):
        write_parts(model_folder / file_name("model", rank, 2), part)
    assert inspect(capsys, model_folder)["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    export(capsys, model_folder, "--out", tmp_path / "out")
    whole = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(whole[name], tensor) for name, tensor in model.state_dict().items())
    (model_folder / file_name("model", 1, 2)).unlink()
    assert main(["checkpoint", "export", str(model_folder), "--out", str(tmp_path / "other")]) == 2
    assert "not a whole checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_an_export_to_the_releases_layout_has_its_names_and_no_manifest(model_folder, tmp_path, capsys) -> None:
    found = export(capsys, model_folder, "--out", tmp_path / "out", "--layout", "release")
    assert found["layout"] == "release"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["domains_in"] == ["tok_flux_g_gaia", "tok_flux_r"]
    assert inspect(capsys, tmp_path / "out")["modalities"][0]["key"] == "gaia_flux_g"


@pytest.mark.parametrize(("path", "out", "message"), [("model", "model", "exists"), ("nowhere", "out", "no folder")])
def test_an_export_that_cannot_be_is_one_sentence(model_folder, capsys, path: str, out: str, message: str) -> None:
    parent = model_folder.parent
    assert main(["checkpoint", "export", str(parent / path), "--out", str(parent / out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert AionModel.from_pretrained(model_folder).space.keys == ("gaia_flux_g", "legacy_flux_r")


def test_an_export_that_fails_leaves_nothing(model_folder, tmp_path, capsys) -> None:
    (model_folder / "model.safetensors").write_bytes(b"torn")
    assert main(["checkpoint", "export", str(model_folder), "--out", str(tmp_path / "out")]) == 2
    assert "not a whole safetensors file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_export_that_finds_no_room_is_one_sentence_and_leaves_nothing(model_folder, tmp_path, capsys) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the weights are larger
    try:
        assert main(["checkpoint", "export", str(model_folder), "--out", str(tmp_path / "out")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert "model.safetensors" in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
