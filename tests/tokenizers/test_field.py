"""Scalar fields: what users of the release met, what holds for any input, and what is read from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file
from toy_images import field_tokenizer, spec_of

from aion_core.contract import InputError
from aion_core.observations import ScalarField
from aion_core.tokenizers.base import read_tokenizer
from aion_core.tokenizers.field import ScalarFieldTokenizer

TOKENIZER = field_tokenizer()


def maps(count: int, side: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed))


def test_defect_batch_norm_with_the_statistics_of_the_batch() -> None:
    value = maps(8)
    expected = TOKENIZER.encode(ScalarField(value))
    tokenizer = field_tokenizer().train()
    assert torch.equal(tokenizer.encode(ScalarField(value)), expected)
    assert tokenizer.network.training
    assert tokenizer.fingerprint == TOKENIZER.fingerprint


def test_defect_one_bad_pixel_spoils_all_tokens() -> None:
    tokenizer = field_tokenizer(side=12)
    value = maps(16, 96)
    clean = tokenizer.encode(ScalarField(value))
    assert len(clean.unique()) >= 100
    for bad in (float("nan"), float("inf")):
        spoilt = value.clone()
        spoilt[:, 10, 83] = bad
        tokens = tokenizer.encode(ScalarField(spoilt))
        assert (tokens >= 0).all()
        assert (tokens == clean)[:, 5:].all()


@pytest.mark.parametrize("shape", [(23, 24), (4, 4), (12, 90)])
def test_defect_small_maps_give_fewer_tokens(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="24 × 24 pixels"):
        TOKENIZER.encode(ScalarField(torch.zeros(1, *shape)))


def test_larger_maps_are_cropped_and_the_callers_are_left_alone() -> None:
    value = 3 * maps(4, 31) - 1
    kept = value.clone()
    assert torch.equal(TOKENIZER.encode(ScalarField(value)), TOKENIZER.encode(ScalarField(value[:, 3:27, 3:27])))
    assert torch.equal(TOKENIZER.encode(ScalarField(value)), TOKENIZER.encode(ScalarField(value.clamp(0, 1))))
    assert torch.equal(value, kept)


def test_a_map_without_a_finite_pixel_has_no_tokens_and_decodes_to_nan() -> None:
    value = maps(3)
    value[1] = torch.nan
    tokens = TOKENIZER.encode(ScalarField(value))
    assert (tokens[1] == -1).all()
    decoded = TOKENIZER.decode(tokens)
    assert decoded.value[1].isnan().all()
    assert decoded.value[[0, 2]].min() >= 0
    assert decoded.value[[0, 2]].max() <= 1


@settings(max_examples=25, deadline=None)
@given(arrays(np.float32, (3, 24, 24), elements=st.floats(width=32), fill=st.floats(0, 1, width=32)))
def test_no_input_gives_a_code_outside_the_vocabulary(value: Any) -> None:
    tokens = TOKENIZER.encode(ScalarField(value))
    nothing = ~np.isfinite(value).any(axis=(1, 2))
    assert ((tokens >= 0) & (tokens < 1000))[~nothing].all()
    assert (tokens[nothing] == -1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 29), min_size=1, max_size=30))
def test_tokens_do_not_depend_on_the_rest_of_the_batch(seed: int, rows: list[int]) -> None:
    obs = ScalarField(maps(30, seed=seed))
    assert torch.equal(TOKENIZER.encode(obs)[rows], TOKENIZER.encode(obs[rows]))


def test_what_is_quantized_is_the_same_to_the_last_bit_in_any_batch() -> None:
    network, value = TOKENIZER.network.eval(), maps(40)[:, None]
    with torch.no_grad():
        everything = network.steady_features(value)
        different = [
            n for n in (1, 2, 5, 7, 16, 39) if not torch.equal(network.steady_features(value[:n]), everything[:n])
        ]
    assert different == []


def test_the_loss_is_the_mean_square_over_good_pixels_and_reaches_every_parameter() -> None:
    value = maps(4)
    value[0, :3], value[2] = torch.nan, torch.nan
    tokenizer = field_tokenizer().eval()
    _, truth, decoded = tokenizer.reconstruct(ScalarField(value))
    errors = [((truth - decoded)[i] ** 2).nanmean() for i in (0, 1, 3)]
    loss = tokenizer.loss(ScalarField(value))["reconstruction"]
    torch.testing.assert_close(loss, sum(errors) / 3)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tokenizer.parameters())
    assert tokenizer.loss(ScalarField(value[2:3]))["reconstruction"] == 0


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    again = read_tokenizer(TOKENIZER.spec, tmp_path)
    assert again.fingerprint == TOKENIZER.fingerprint
    assert again.artifact().same(TOKENIZER.artifact())
    path = tmp_path / "codecs" / "segmentation_map" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "ema.module.encode_proj.bias": torch.zeros(4)}, path)
    assert read_tokenizer(TOKENIZER.spec, tmp_path).fingerprint == again.fingerprint
    save_file({**tensors, "stranger": torch.zeros(4)}, path)
    with pytest.raises(InputError, match="stranger belongs to nothing"):
        read_tokenizer(TOKENIZER.spec, tmp_path)


@pytest.mark.parametrize("wrong", [{"variational": True}, {"embedding_dim": 7}, {"encoder_output_dim": 4}])
def test_a_configuration_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"does not fit.*{next(iter(wrong))}"):
        ScalarFieldTokenizer.build([spec_of("legacy_segmap")], **wrong)


def test_an_uneven_use_of_codes_is_a_term_of_the_loss_where_that_is_asked_for() -> None:
    tokenizer = field_tokenizer()
    obs = ScalarField(maps(8))
    (reconstruction,) = tokenizer.loss(obs).values()
    tokenizer.evening = 0.5
    terms = tokenizer.loss(obs)
    assert torch.equal(terms["reconstruction"], reconstruction)
    numbers = tokenizer.network.features(obs.value[:, None])
    torch.testing.assert_close(terms["unevenness"], 0.5 * tokenizer.network._quantizer.unevenness(numbers))
    terms["unevenness"].backward()
    assert tokenizer.network.encode_proj.weight.grad.abs().max() > 0
    nothing = tokenizer.loss(ScalarField(torch.full((2, 24, 24), torch.nan)))
    assert {name: term.item() for name, term in nothing.items()} == {"reconstruction": 0, "unevenness": 0}
