"""A modality that is appended changes nothing of what a model made of the others, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from aion_core.contract import ModalitySpec, Origin, Slot, TokenSpace, TokenSpaceError
from aion_core.data.batches import batch_of_tokens, conditional_batch
from aion_core.model import AionConfig, AionModel
from aion_core.model.growth import belongs, freeze_old, grown

from .conftest import CONFIG, SPECS, spec

IMAGE = spec("new_image", 40, (3, 3), "grid2d")
SEQUENCE = spec("new_sources", 250, (10,), "seq1d", "causal")
SCALAR = spec("new_r", 9, (1,), "scalar")
NEW = (IMAGE, SEQUENCE, SCALAR)
OLD = ("test_image", "test_r", "test_coefficients", "test_sources", "test_g")
GIVEN = (("test_image",), ("test_r", "test_g"), ("test_coefficients", "test_sources"), OLD[:4])
SWITCHES = (
    {},
    {"share_modality_embeddings": False, "num_register_tokens": 2},
    {"decoder_sep_mask": False, "norm_bias": True, "qkv_bias": True, "qk_norm": False},
)


def slots(*specs: ModalitySpec) -> list[Slot]:
    return [Slot(spec=s, fingerprint="f" * 64, distribution="aion-tok-new", version="1.2") for s in specs]


def digest(tensors: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def trained(config: AionConfig, space: TokenSpace) -> AionModel:
    """Random weights, norms and biases included."""
    model = AionModel(config, space)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def outputs(model: AionModel, tokens) -> dict[str, str]:
    """Hash what a model makes of several sets of old modalities: embeddings, and logits of all others."""
    found = {}
    for given in GIVEN:
        some = tokens(3, *given)
        some[given[0]][1] = -1
        asked = [key for key in OLD if key not in given and key != "test_sources"]
        found[f"embed {given}"] = digest([model.embed(some).values])
        found |= {f"{k} from {given}": digest([v]) for k, v in model.logits(some, asked).items()}
    both = conditional_batch(tokens(3, "test_sources", "test_g"), ["test_g"], ["test_sources"], model.space)
    found["sequence"] = digest([model(both)[[model.space.index(key) for key in OLD]]])
    return found


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@torch.no_grad()
def test_all_outputs_for_old_modalities_are_bit_identical(space, tokens, switches) -> None:
    model = trained(CONFIG.model_copy(update=switches), space)
    before = outputs(model, tokens)
    larger = grown(model, slots(*NEW))
    assert len(set(before.values())) == len(before)
    assert outputs(larger, tokens) == before
    assert outputs(model, tokens) == before
    for name, old in model.state_dict().items():
        assert torch.equal(old, larger.state_dict()[name])


@pytest.mark.parametrize("new", NEW, ids=lambda s: s.key)
@torch.no_grad()
def test_also_where_objects_lack_the_new_modality(model, tokens, new) -> None:
    """Absent tokens are padding: beside equally much padding, the model before growing gives the same bits."""
    larger = grown(model, slots(new))
    some, asked = tokens(3, "test_image", "test_r"), {"test_g": tokens(3, "test_g")["test_g"]}
    absent = torch.full((3, new.n_tokens), -1)
    batch = batch_of_tokens(
        larger.space, some | {new.key: absent}, asked | {new.key: absent} if new is IMAGE else asked
    )
    as_before = replace(batch, target_counts=batch.target_counts[:-1])
    assert digest(larger.encode(batch)[:1]) == digest(model.encode(as_before)[:1])
    assert digest([larger(batch)[:-1]]) == digest([model(as_before)])
    assert larger(batch)[-1] == 0
    embedded, alone = larger.embed(some | {new.key: absent}), model.embed(some)
    assert torch.allclose(embedded.values[:, :17], alone.values, atol=1e-6)
    assert not embedded.valid[:, 17:].any()


def test_the_new_modality_can_be_given_asked_for_and_trained(model, tokens) -> None:
    larger = grown(model, slots(*NEW))
    given = tokens(2, "test_r") | {"new_image": torch.zeros(2, 9, dtype=torch.int64)}
    assert larger.logits(given, ["new_r"])["new_r"].shape == (2, 1, 9)
    assert larger.embed(given, pool="mean").shape == (2, 32)
    with_new, without = larger.logits(given, ["test_g"])["test_g"], larger.logits(tokens(2, "test_r"), ["test_g"])
    assert not torch.allclose(with_new, without["test_g"])
    sequence = {"new_sources": torch.full((2, 10), 210), "test_r": tokens(2, "test_r")["test_r"]}
    larger(conditional_batch(sequence, ["test_r"], ["new_sources"], larger.space)).sum().backward()
    head = larger.get_parameter("decoder_embeddings.new_sources.to_logits.weight")
    assert head.grad is not None
    assert head.grad.any()


def test_initial_values_are_those_of_a_new_model_whatever_is_appended_when(model) -> None:
    fresh = AionModel(CONFIG, model.space.append(slots(*NEW)), seed=7).state_dict()
    at_once = grown(model, slots(*NEW), seed=7).state_dict()
    by_and_by = grown(grown(model, slots(SCALAR), seed=7), slots(SEQUENCE, IMAGE), seed=7).state_dict()
    new = [name for name in fresh if belongs(name, [s.key for s in NEW])]
    assert len(new) == 3 + 3 + 3 + 1  # tokens, provenance, head; what precedes in a sequence
    for name in new:
        assert torch.equal(at_once[name], fresh[name])
        assert torch.equal(at_once[name], by_and_by[name])
        assert not torch.equal(at_once[name], grown(model, slots(*NEW), seed=8).state_dict()[name])


def test_only_what_was_appended_is_trained_with_the_old_parts_frozen(model, tokens) -> None:
    larger = grown(model, slots(SCALAR, IMAGE))
    freeze_old(larger, ["new_r", "new_image"])
    assert {name for name, p in larger.named_parameters() if p.requires_grad} == {
        f"{side}_embeddings.{key}.{part}"
        for key in ("new_r", "new_image")
        for side, part in (("encoder", "token_emb.weight"), ("encoder", "mod_emb"), ("decoder", "to_logits.weight"))
    }


def test_a_modality_that_can_only_be_given_stays_so(space) -> None:
    model = AionModel(CONFIG, space, inputs=OLD[:3], outputs=OLD[2:])
    larger = grown(model, slots(SCALAR))
    assert (larger.inputs, larger.outputs) == ({*OLD[:3], "new_r"}, {*OLD[2:], "new_r"})


def test_the_manifest_says_what_was_appended_to_what(model, tmp_path) -> None:
    first, second = (Origin(source=name, sha256=letter * 64) for name, letter in (("first", "1"), ("second", "2")))
    larger = grown(grown(model, slots(SCALAR), origin=first), slots(IMAGE, SEQUENCE), origin=second)
    larger.save_pretrained(tmp_path / "m")
    read = AionModel.from_pretrained(tmp_path / "m").space
    assert read == larger.space
    assert [slot.grown_from for slot in read.slots] == [None] * 5 + [first, second, second]
    assert read.newest() == ("new_image", "new_sources")
    assert model.space.newest() == ()
    assert "grown_from" not in model.space.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "test_r is there already; only what is new"),
        ({"vocab_size": 21}, "test_r: vocab_size is 20 here and 21 there.*needs a new key"),
        ({"shape": (4,), "position": "grid2d"}, "test_r: shape is"),
        ({"provenance": SPECS[0].provenance}, "test_r: provenance ID .* two different measurements"),
        ({"key": "new_x"}, "new_x has the provenance ID .* which is that of test_r here"),
        ({"key": "new_x", "upstream_key": "test_r", "provenance": SCALAR.provenance}, "test_r: provenance ID"),
        ({"key": "new_x", "upstream_key": "test_r"}, "new_x is there already as test_r"),
    ],
)
def test_what_has_another_meaning_or_is_there_is_refused(space, changes, message) -> None:
    with pytest.raises(TokenSpaceError, match=message):
        space.grow([Slot(spec=ModalitySpec.model_validate({**SPECS[1].model_dump(), **changes}))])
