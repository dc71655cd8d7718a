"""The release's own files: read here, written again bit for bit, and loaded by the released package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from aion_core.cli import main
from aion_core.model import AionConfig, AionModel
from aion_core.plugins import load_registry

peer = pytest.importorskip("aion.model")
cases = pytest.importorskip("transformer_cases")

SMALL: dict[str, Any] = {
    **cases.RELEASED, "dim": 16, "num_heads": 2, "encoder_depth": 1, "decoder_depth": 1,
    "domains_in": ["tok_xp_bp", "catalog", "tok_z", "tok_ebv"],
    "domains_out": ["tok_xp_bp", "catalog", "tok_mag_g", "tok_segmap"],
}  # fmt: skip
SWITCHES: list[dict[str, Any]] = [
    {},
    {**cases.SEPARATE, **cases.BIASES, "num_register_tokens": 2, "drop_path_rate_encoder": 0.1},
    {"gated_mlp": False, "act_layer": "GELU", "qk_norm": False, "decoder_sep_mask": False, "mlp_ratio": 2.5},
]


def released(folder: Path, **switches: Any) -> Any:
    """Write a random model in the release's layout by the release's own package."""
    model = peer.AION({**SMALL, **switches}).eval()
    cases.randomize(model, SMALL["num_heads"])
    model.save_pretrained(folder)
    return model


def same_files(a: Path, b: Path) -> bool:
    """Whether two files of weights hold the same tensors, bit for bit, under the same names, and the same header."""
    x, y = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    headers = [safe_open(f / "model.safetensors", "pt").metadata() or {} for f in (a, b)]
    return headers[0] == headers[1] and x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def sorted_domains(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    return {k: sorted(v) if isinstance(v, list) else v for k, v in config.items()}


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("plugins", ["", "catalog,gaia", None])
def test_a_release_survives_being_read_and_written(tmp_path, monkeypatch, plugins, switches) -> None:
    """Also by way of our own layout, and whichever of its modalities an installed plugin knows."""
    if plugins is not None:
        monkeypatch.setenv("AION_PLUGINS", plugins)
    released(tmp_path / "a", **switches)
    AionModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "ours")
    AionModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "b", layout="release")
    assert same_files(tmp_path / "a", tmp_path / "b")
    assert sorted_domains(tmp_path / "a") == sorted_domains(tmp_path / "b")


@pytest.mark.parametrize("which", ["encoder", "decoder", "both"])
def test_a_shared_embedding_is_read_under_either_name_and_written_as_it_was(tmp_path, which: str) -> None:
    model = released(tmp_path)
    path, tensors = tmp_path / "model.safetensors", load_file(tmp_path / "model.safetensors")
    value = tensors.pop("decoder_embeddings.tok_xp_bp.mod_emb")
    sides = ("encoder", "decoder") if which == "both" else (which,)
    tensors |= {f"{side}_embeddings.tok_xp_bp.mod_emb": value.clone() for side in sides}
    save_file(tensors, path)
    ours = AionModel.from_pretrained(tmp_path)
    assert torch.equal(ours.encoder_embeddings["gaia_xp_bp"].mod_emb, model.encoder_embeddings["tok_xp_bp"].mod_emb)
    ours.save_pretrained(tmp_path / "b", layout="release")
    assert load_file(tmp_path / "b" / "model.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize("plugins", ["", None])
def test_stored_tokens_of_modalities_without_a_plugin_are_embedded_and_predicted(
    tmp_path, monkeypatch, plugins
) -> None:
    theirs = released(tmp_path)
    if plugins is not None:
        monkeypatch.setenv("AION_PLUGINS", plugins)
    ours = AionModel.from_pretrained(tmp_path)
    expected = ("gaia_xp_bp", "catalog_sources", "catalog_redshift", "legacy_ebv", "hsc_mag_g", "legacy_segmap")
    upstream = ("tok_xp_bp", "catalog", "tok_z", "tok_ebv", "tok_mag_g", "tok_segmap")
    assert ours.space.keys == (upstream if plugins == "" else expected)
    tokens = cases.random_tokens(("tok_xp_bp", "tok_ebv"), batch=2)
    given = {name: codes.clamp(min=0) for name, codes in tokens.items()}
    with torch.no_grad():
        embedded = theirs.encode(given)
        target = type("Target", (), {"token_key": "tok_segmap", "num_tokens": 144})
        logits = theirs(given, [target])["tok_segmap"]
    assert (ours.embed(given).values - embedded).abs().max() < 1e-4
    assert (ours.logits(given, ["tok_segmap"], target_attention="mean")["tok_segmap"] - logits).abs().max() < 1e-4


def test_geometry_is_read_off_the_stored_positions(tmp_path, monkeypatch) -> None:
    released(tmp_path)
    monkeypatch.setenv("AION_PLUGINS", "")
    specs = AionModel.from_pretrained(tmp_path).space.specs()
    found = {s.key: (s.position, s.shape, s.order, s.vocab_size) for s in specs}
    assert found == {
        "tok_xp_bp": ("grid2d", (55,), "masked", 1024),
        "catalog": ("seq1d", (256,), "causal", 3468),  # as many as the release's table of 512 has places for
        "tok_z": ("scalar", (1,), "masked", 1025),
        "tok_ebv": ("scalar", (1,), "masked", 1024),
        "tok_mag_g": ("scalar", (1,), "masked", 1024),
        "tok_segmap": ("grid2d", (12, 12), "masked", 1000),
    }


@pytest.mark.parametrize("switches", SWITCHES[:2])
def test_a_model_of_ours_is_loaded_by_the_release_with_the_same_logits(tmp_path, switches) -> None:
    known = {k: v for k, v in switches.items() if k in AionConfig.model_fields}
    space = load_registry().token_space(["gaia_xp_bp", "hsc_mag_g", "catalog_redshift", "catalog_sources"])
    config = AionConfig(dim=16, num_heads=2, encoder_depth=1, decoder_depth=1, **known)
    ours = AionModel(config, space).eval()
    cases.randomize(ours, config.num_heads)
    ours.save_pretrained(tmp_path / "ours")
    assert (
        main(["checkpoint", "export", str(tmp_path / "ours"), "--out", str(tmp_path / "out"), "--layout", "release"])
        == 0
    )
    theirs = peer.AION.from_pretrained(tmp_path / "out", strict=True)
    tokens = {k: v.clamp(min=204) for k, v in cases.random_tokens(("tok_xp_bp", "tok_mag_g", "catalog")).items()}
    target = type("Target", (), {"token_key": "tok_z", "num_tokens": 1})
    with torch.no_grad():
        expected = theirs(tokens, [target])["tok_z"]
    found = ours.logits(tokens, ["tok_z"])["tok_z"]
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-4
    never_trained = theirs.decoder_embeddings["tok_xp_bp"].token_emb.weight
    assert 0.015 < never_trained.std() < 0.025  # at its initial values


def test_a_model_that_was_trained_on_keeps_what_the_release_held(tmp_path) -> None:
    released(tmp_path / "a")
    ours = AionModel.from_pretrained(tmp_path / "a")
    with torch.no_grad():
        ours.mask_token.add_(1)
    ours.save_pretrained(tmp_path / "b", layout="release")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert [name for name in a if not torch.equal(a[name], b[name])] == ["mask_token"]
