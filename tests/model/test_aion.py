"""What the transformer promises to whoever trains it or embeds with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from aion_core.contract import AionError, InputError, Slot, TokenSpace, UnknownKeyError
from aion_core.data.batches import batch_of_tokens
from aion_core.model import AionConfig, AionModel

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_a_modality_that_an_object_lacks_changes_nothing(model, tokens) -> None:
    given = tokens(3, "test_image", "test_r")
    without = model.embed(given)
    absent = model.embed({**given, "test_coefficients": torch.full((3, 7), -1)})
    kept = absent.valid[0]
    assert kept.sum() == 17
    assert torch.allclose(absent.values[:, kept], without.values, **CLOSE)
    assert (absent.modality[:, ~kept] == -1).all()


def test_objects_do_not_see_each_other(model, tokens) -> None:
    given = tokens(5, "test_image", "test_r", "test_coefficients")
    given["test_r"][2] = -1
    together = model.embed(given, pool="mean")
    for i in range(5):
        alone = model.embed({k: v[i : i + 1] for k, v in given.items()}, pool="mean")
        assert torch.allclose(together[i], alone[0], **CLOSE)


def test_a_packed_batch_has_no_place_that_nobody_needs_and_says_the_same(model, tokens) -> None:
    given, wanted = tokens(3, "test_image", "test_r", "test_coefficients"), tokens(3, "test_g")
    given["test_image"][:, 4:] = -1
    given["test_r"][1] = given["test_image"][1, 1] = -1
    batch = batch_of_tokens(model.space, given, wanted)
    packed = batch.packed()
    assert packed.input_slot.shape[1] == 4 + 1 + 7 < batch.input_slot.shape[1]
    assert not packed.input_full
    for before, after in zip(batch.input_slot, packed.input_slot, strict=True):
        assert after[after >= 0].tolist() == before[before >= 0].tolist()
    assert torch.allclose(model(packed), model(batch), **CLOSE)


def test_mean_pooling_is_over_valid_tokens_only(model, tokens) -> None:
    given = tokens(2, "test_image", "test_r")
    given["test_image"][1, 3:] = -1
    full = model.embed(given)
    pooled = model.embed(given, pool="mean")
    assert torch.allclose(pooled[1], full.values[1][full.valid[1]].mean(0), **CLOSE)


def test_an_object_with_no_token_at_all_gives_finite_predictions(model, tokens) -> None:
    given = tokens(2, "test_r", "test_image")
    given["test_r"][0] = -1
    given["test_image"][0] = -1
    assert model.logits(given, ["test_g"])["test_g"].isfinite().all()
    model(batch_of_tokens(model.space, given, tokens(2, "test_g"))).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_positions_and_provenance_are_told_apart(model) -> None:
    """The same code at two places of a grid, or in two modalities, must not embed alike."""
    same = model.embed({"test_image": torch.zeros(1, 16, dtype=torch.long)}).values[0]
    assert torch.pdist(same).min() > 1e-3
    two = model.embed({"test_r": torch.zeros(1, 1, dtype=torch.long), "test_g": torch.zeros(1, 1, dtype=torch.long)})
    assert (two.values[0, 0] - two.values[0, 1]).norm() > 1e-3


def test_the_loss_is_the_cross_entropy_of_the_logits(model, tokens) -> None:
    given, wanted = tokens(4, "test_image", "test_g"), tokens(4, "test_r", "test_coefficients", seed=2)
    sums = model(batch_of_tokens(model.space, given, wanted))
    logits = model.logits(given, ["test_r", "test_coefficients"])
    for key in wanted:
        expected = F.cross_entropy(logits[key].flatten(0, 1), wanted[key].flatten(), reduction="sum")
        assert torch.allclose(sums[model.space.index(key)], expected, **CLOSE)
    assert sums[model.space.index("test_image")] == 0


def test_targets_attend_within_their_modality_only(model, tokens) -> None:
    given = tokens(2, "test_image")
    alone = model.logits(given, ["test_coefficients"])["test_coefficients"]
    beside = model.logits(given, ["test_r", "test_coefficients", "test_g"])["test_coefficients"]
    assert torch.allclose(alone, beside, **CLOSE)


def test_targets_of_one_modality_see_each_other(model, tokens) -> None:
    """Attention within a modality is open: leaving out half of a grid's targets changes the rest."""
    given = tokens(1, "test_image")
    whole = batch_of_tokens(model.space, given, {"test_coefficients": torch.zeros(1, 7, dtype=torch.long)})
    part = batch_of_tokens(model.space, given, {"test_coefficients": torch.tensor([[0, 0, 0, -1, -1, -1, -1]])})
    with torch.no_grad():
        a = model.decode(whole, *model.encode(whole))[0, :3]
        b = model.decode(part, *model.encode(part))[0, :3]
    assert (a - b).abs().max() > 1e-3


def test_a_sequence_sees_its_past_and_not_its_future(model, tokens) -> None:
    given = tokens(1, "test_image")
    codes = tokens(1, "test_sources")["test_sources"]
    batch = batch_of_tokens(model.space, given, {"test_sources": codes})

    def decoded(previous: torch.Tensor) -> torch.Tensor:
        teacher = replace(batch, target_input=previous)
        with torch.no_grad():
            return model.decode(teacher, *model.encode(teacher))[0]

    changed = codes.clone()
    changed[0, 10] = 210 if codes[0, 10] != 210 else 211
    before, after = decoded(codes), decoded(changed)
    assert torch.allclose(before[:10], after[:10], **CLOSE)
    assert (before[10:] - after[10:]).abs().amax(-1).min() > 1e-4


def test_a_sequence_is_fed_the_embedding_of_its_previous_token(model, tokens) -> None:
    """Of that very code in that very modality: the table holds the mask token and all sequences together."""
    codes = torch.full((1, 20), 250)
    batch = batch_of_tokens(model.space, tokens(1, "test_image"), {"test_sources": codes})
    batch = replace(batch, target_input=codes)
    table = model.decoder_embeddings["test_sources"].token_emb.weight

    def changed_by(row: int) -> bool:
        with torch.no_grad():
            before = model.decode(batch, *model.encode(batch))
            table[row, 0] += 3
            after = model.decode(batch, *model.encode(batch))
            table[row, 0] -= 3
        return not torch.allclose(before, after, **CLOSE)

    assert [row for row in (0, 249, 250, 251) if changed_by(row)] == [250]


def test_every_parameter_takes_part_in_every_step(model, tokens) -> None:
    """Else ranks that see different modalities would disagree on what to reduce (DESIGN section 7)."""
    batch = batch_of_tokens(model.space, tokens(2, "test_image"), tokens(2, "test_r", seed=3))
    model(batch).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    absent = model.encoder_embeddings["test_g"].token_emb.weight.grad
    assert absent is not None
    assert (absent == 0).all()


def test_initial_weights_do_not_depend_on_the_other_modalities(space) -> None:
    config = AionConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=4)
    small = AionModel(config, space.select(["test_r", "test_image"]), seed=3).state_dict()
    large = AionModel(config, space, seed=3).state_dict()
    assert all(torch.equal(large[name], tensor) for name, tensor in small.items())
    other = AionModel(config, space, seed=4).state_dict()
    assert not torch.equal(other["mask_token"], large["mask_token"])


def test_initial_matrices_are_xavier_uniform_with_q_k_v_apart(space) -> None:
    config = AionConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=4)
    state = AionModel(config, space).state_dict()
    limit = (6 / (32 + 32)) ** 0.5
    for name in ("encoder.0.attn.qkv.weight", "decoder.0.cross_attn.kv.weight", "decoder.0.cross_attn.q.weight"):
        assert 0.98 * limit < state[name].abs().max() <= limit


def test_posteriors_are_probabilities(model, tokens) -> None:
    posterior = model.posterior(tokens(3, "test_image"), "test_r")
    assert posterior.shape == (3, 20)
    assert torch.allclose(posterior.sum(-1), torch.ones(3))
    assert model.posterior(tokens(3, "test_r"), "test_image").shape == (3, 16, 50)


def test_no_objects_give_empty_results(model, tokens) -> None:
    none = tokens(0, "test_image", "test_r")
    assert model.embed(none, pool="mean").shape == (0, 32)
    assert model.logits(none, ["test_g"])["test_g"].shape == (0, 1, 20)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"test_imge": torch.zeros(1, 16)}, UnknownKeyError, "Did you mean 'test_image'"),
        ({"test_image": torch.zeros(1, 15, dtype=torch.long)}, InputError, "15 tokens an object, expected 16"),
        ({"test_r": torch.full((1, 1), 20)}, InputError, "0 … 19"),
        ({"test_r": torch.zeros(1, 1).long(), "test_g": torch.zeros(2, 1).long()}, InputError, "one batch size"),
        ({}, InputError, "no modality at all"),
    ],
)
def test_wrong_tokens_are_refused_with_a_sentence(model, given, error, text) -> None:
    with pytest.raises(error, match=text.replace("…", ".")):
        model.embed(given)


def test_a_sequence_is_not_predicted_in_one_go(model, tokens) -> None:
    with pytest.raises(AionError, match="generated"):
        model.logits(tokens(1, "test_image"), ["test_sources"])


def test_a_saved_model_is_the_same_and_needs_no_plugin(model, tokens, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AION_PLUGINS", "")
    model.save_pretrained(tmp_path / "m")
    again = AionModel.from_pretrained(tmp_path / "m")
    given = tokens(2, "test_image", "test_sources")
    assert torch.equal(again.embed(given).values, model.embed(given).values)
    assert again.space == model.space


def test_weights_that_do_not_fit_are_refused(model, tmp_path, space) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "manifest.json").write_text(TokenSpace(slots=(Slot(spec=space.slots[0].spec),)).to_json())
    with pytest.raises(InputError, match="does not fit its configuration"):
        AionModel.from_pretrained(tmp_path)


def test_a_truncated_file_is_refused(model, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        AionModel.from_pretrained(tmp_path)


def test_an_empty_token_space_makes_no_model() -> None:
    with pytest.raises(AionError, match="empty"):
        AionModel(AionConfig(dim=32, num_heads=4), TokenSpace())


@pytest.mark.parametrize("tokens", [torch.tensor([[3.7]]), [[True]], torch.tensor(3), [[2.0]]])
def test_tokens_that_are_not_integers_are_refused(model, tokens) -> None:
    with pytest.raises(InputError, match="tokens are integers"):
        model.embed({"test_r": tokens})


def test_lists_of_tokens_are_taken(model) -> None:
    assert torch.equal(model.embed({"test_r": [[3]]}).values, model.embed({"test_r": torch.tensor([[3]])}).values)
