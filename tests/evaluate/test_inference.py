"""Posteriors and embeddings of many objects, a batch at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aion_core.contract import InputError, ModalitySpec, Provenance, Slot, TokenizerSpec, TokenSpace, provenance_id
from aion_core.evaluate import embed_groups, scalar_posterior
from aion_core.model import AionConfig, AionModel
from aion_core.observations import Scalar
from aion_core.tokenizers import build_tokenizer


def spec(key: str, shape: tuple[int, ...], vocab_size: int = 32) -> ModalitySpec:
    return ModalitySpec(
        key=key, survey="Test", title=key, citation="none", kind="scalar", quantity="phot.flux", units="",
        vocab_size=vocab_size, shape=shape, position="scalar" if shape == (1,) else "seq1d",
        provenance=Provenance(id=provenance_id(key), instrument="none", release="none"),
        tokenizer=TokenizerSpec(path="aion_core.tokenizers.scalar:QuantileTokenizer"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> AionModel:
    specs = (spec("test_r", (1,)), spec("test_s", (9,)), spec("test_z", (1,)))
    config = AionConfig(dim=16, encoder_depth=1, decoder_depth=1, num_heads=2)
    return AionModel(config, TokenSpace(slots=tuple(Slot(spec=one) for one in specs)), seed=3).eval()


@pytest.fixture(scope="module")
def tokens() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = {"test_r": rng.integers(0, 32, (7, 1)), "test_s": rng.integers(0, 32, (7, 9))}
    codes["test_s"][4:] = -1
    codes["test_r"][2] = -1
    return codes


def test_embeddings_are_means_over_each_group_whatever_the_batch(model, tokens):
    groups = [["test_r"], ["test_s", "test_z"]]
    found = embed_groups(model, tokens, groups, batch=3)
    assert found.shape == (7, 32)
    np.testing.assert_allclose(found, embed_groups(model, tokens, groups, batch=7), atol=1e-6)
    seen = model.embed({key: torch.from_numpy(codes) for key, codes in tokens.items()})
    spectrum = (seen.modality == 1) & seen.valid
    expected = (seen.values * spectrum[..., None]).sum(1)[:4] / 9
    np.testing.assert_allclose(found[:4, 16:], expected.numpy(), atol=1e-6)
    assert (found[4:, 16:] == 0).all()
    assert (found[2, :16] == 0).all()
    assert (found[[0, 1, 3], :16] != 0).all()


def test_a_posterior_is_over_what_the_codes_decode_to(model, tokens):
    tokenizer = build_tokenizer(model.space["test_z"].spec)
    tokenizer.observe(Scalar(np.random.default_rng(1).normal(size=5000).astype(np.float32)))
    tokenizer.finish()
    found = scalar_posterior(model, tokenizer, tokens, batch=2)
    whole = model.posterior({key: torch.from_numpy(codes) for key, codes in tokens.items()}, "test_z")
    np.testing.assert_allclose(found.probability, whole.numpy(), atol=1e-6)
    values = tokenizer.decode(torch.arange(32)[:, None]).value.numpy().ravel()
    assert ((found.edges[:-1] < values) & (values < found.edges[1:])).all()
    with pytest.raises(InputError, match="given others"):
        scalar_posterior(model, tokenizer, {"test_z": np.zeros((2, 1), np.int64)})
