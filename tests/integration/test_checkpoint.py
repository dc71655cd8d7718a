"""`aion checkpoint inspect`, on checkpoints of modalities that are and are not installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aion_core.cli import main
from aion_core.contract import TokenSpace
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
    assert "parameters: total" in printed


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
