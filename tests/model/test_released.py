"""What is wrong with files of the release's layout is one sentence each; needs no released package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aion_core.contract import AionError, InputError, Slot, TokenSpace
from aion_core.model import AionConfig, AionModel
from aion_core.model.files import read_space

from .conftest import SPECS

CONFIG = AionConfig(dim=16, encoder_depth=1, decoder_depth=1, num_heads=2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A small model in the release's layout, of modalities that no plugin declares."""
    monkeypatch.setenv("AION_PLUGINS", "")
    specs = [s.model_copy(update={"upstream_key": f"tok_{s.key}"}) for s in SPECS]
    model = AionModel(CONFIG, TokenSpace(slots=tuple(Slot(spec=s) for s in specs)))
    model.save_pretrained(tmp_path / "m", layout="release")
    return tmp_path / "m"


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_the_layout_is_read_without_any_plugin(folder) -> None:
    model = AionModel.from_pretrained(folder)
    assert model.space.keys == tuple(f"tok_{s.key}" for s in SPECS)
    assert model.space == read_space(folder)
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_normm": True}, "'qk_normm', which is no switch of AION-1's. Did you mean 'qk_norm'"),
        ({"domains_out": None}, "does not say 'domains_out'"),
        ({"act_layer": "Mish"}, "act_layer 'Mish'"),
        ({"num_heads": 3}, "must be a multiple"),
        ({"num_register_tokens": -1}, "num_register_tokens -1"),
        ({"domains_in": ["tok_test_image", "tok_test_image"]}, "names a modality twice"),
        ({"domains_in": "tok_test_image"}, "is a list of modalities, not 'tok_test_image'"),
        ({"domains_in": ["tok_nothing"]}, "names the modality 'tok_nothing', of which the file has no tensors"),
        ({"domains_in": ["tok_test_image"]}, "encoder_embeddings.*no place for"),
        ({"num_register_tokens": 1}, "has no register_tokens, which its configuration asks for"),
        ({"qk_norm": False}, "k_norm.*no place for"),
        ({"norm_bias": None}, "does not say 'norm_bias'"),
        ({"qkv_bias": None}, "has no encoder.0.attn.qkv.bias"),  # left out, the release takes it for true
        ({"encoder_depth": 2}, "has no encoder.1."),
        ({"dim": 32}, "the configuration expects .codes, 32."),
        ({"mlp_ratio": 2}, "fc1.weight is .42, 16.; the configuration expects .21, 16."),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_one_sentence(folder, changes: dict[str, Any], message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(InputError, match=message) as caught:
        AionModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder_proj_context.weight"), "has no decoder_proj_context.weight"),
        (lambda t: t.pop("encoder_embeddings.tok_test_r.token_emb.weight"), "has no encoder_embeddings.tok_test_r"),
        (lambda t: t.update(extra=torch.ones(3)), "has extra, which its configuration has no place for"),
        (lambda t: t.update(mask_token=torch.ones(1, 1, 8)), "mask_token is .1, 1, 8.; .*expects .1, 1, 16."),
        (lambda t: t.update(mask_token=torch.ones(1, 1, 16).int()), "mask_token holds torch.int32"),
        (lambda t: t["encoder_norm.bias"].add_(1), "encoder_norm.bias is not zero, but .*norm_bias"),
        (lambda t: t["decoder_embeddings.tok_test_r.to_logits.weight"].resize_(16, 20), "is .16, 20."),
        (lambda t: t.update({"encoder_embeddings.tok_test_r.mod_emb": torch.ones(1, 1, 16)}), "differ, .* one"),
        (lambda t: t["encoder_embeddings.tok_test_image.pos_emb"].add_(1), "differ, but a token's position"),
        (lambda t: [t[f"{s}coder_embeddings.tok_test_image.pos_emb"].add_(1) for s in ("en", "de")], "fixed sines"),
        (lambda t: t["decoder_embeddings.tok_test_r.token_emb.weight"].resize_(10, 32), "is .10, 32.; .* .20, 16."),
    ],
)
def test_wrong_tensors_are_one_sentence(folder, change: Callable[[dict[str, torch.Tensor]], Any], message: str) -> None:
    change_tensors(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        AionModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        AionModel.from_pretrained(folder)


def test_pickled_weights_are_never_loaded(folder) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickle"):
        AionModel.from_pretrained(folder)


def test_what_is_never_used_may_be_missing(folder, tmp_path) -> None:
    whole = AionModel.from_pretrained(folder)
    change_tensors(folder, lambda t: [t.pop(n) for n in list(t) if n.endswith("norm.bias") or (".token_emb" in n
                                      and n.startswith("decoder_embeddings.tok_test_image"))])  # fmt: skip
    stripped = AionModel.from_pretrained(folder)
    tokens = {"tok_test_image": torch.arange(16)[None]}
    assert torch.equal(stripped.embed(tokens).values, whole.embed(tokens).values)


def test_half_precision_files_are_read_into_float32(folder) -> None:
    change_tensors(folder, lambda t: t.update({name: tensor.bfloat16() for name, tensor in t.items()}))
    model = AionModel.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_an_installed_plugin_that_means_something_else_is_an_error(folder, monkeypatch) -> None:
    """A new meaning is a new key: 20 codes cannot be the 1024 of a plugin."""
    monkeypatch.delenv("AION_PLUGINS")
    config = (folder / "config.json").read_text().replace("tok_test_r", "tok_flux_r")
    (folder / "config.json").write_text(config)
    change_tensors(folder, lambda t: t.update({n.replace("tok_test_r", "tok_flux_r"): t.pop(n) for n in list(t)}))
    with pytest.raises(AionError, match=r"20 codes .* installed plugin's .* 1024 codes"):
        AionModel.from_pretrained(folder)


def test_a_modality_without_a_name_in_the_release_cannot_be_exported(model, tmp_path) -> None:
    with pytest.raises(AionError, match=r"test_image has no name in the AION-1 release.*--layout aion"):
        model.save_pretrained(tmp_path, layout="release")
    with pytest.raises(AionError, match="layout must be"):
        model.save_pretrained(tmp_path, layout="peer")


def test_inputs_and_outputs_that_differ_survive_our_own_layout(folder, tmp_path) -> None:
    inputs, outputs = ["test_image", "test_r"], ["test_r", "test_g"]
    space = TokenSpace(slots=tuple(Slot(spec=s) for s in SPECS if s.key in {*inputs, *outputs}))
    AionModel(CONFIG, space, inputs=inputs, outputs=outputs).save_pretrained(tmp_path / "m2")
    again = AionModel.from_pretrained(tmp_path / "m2")
    assert (again.inputs, again.outputs) == (frozenset(inputs), frozenset(outputs))
    image = {"test_image": torch.arange(16)[None]}
    assert again.logits(image, ["test_g"])["test_g"].shape == (1, 1, 20)
    with pytest.raises(AionError, match="test_g can only be asked for"):
        again.embed({**image, "test_g": torch.zeros(1, 1).long()})
    with pytest.raises(AionError, match="test_image can only be given"):
        again.logits({"test_r": torch.zeros(1, 1).long()}, ["test_image"])


def test_a_releases_leftovers_do_not_outlive_it(folder, model) -> None:
    AionModel.from_pretrained(folder).save_pretrained(folder / "ours")
    assert (folder / "ours" / "release.safetensors").is_file()
    model.save_pretrained(folder / "ours")
    assert not (folder / "ours" / "release.safetensors").exists()
    assert AionModel.from_pretrained(folder / "ours").space == model.space


def test_a_release_that_is_written_over_a_model_of_ours_is_read_as_a_release(folder, model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "there")
    whole = AionModel.from_pretrained(folder)
    whole.save_pretrained(tmp_path / "there", layout="release")
    assert not (tmp_path / "there" / "manifest.json").exists()
    assert AionModel.from_pretrained(tmp_path / "there").space == whole.space
