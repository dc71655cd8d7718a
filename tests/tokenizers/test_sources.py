"""Source lists: which sources are chosen, that codes fit the transformer's table, and the release's defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aion_core.contract import AionError, InputError, ModalitySpec, Provenance, TokenizerSpec
from aion_core.data.store import StoreWriter, TokenStore
from aion_core.observations import SourceList
from aion_core.release import Artifact
from aion_core.tokenizers import TokenizerSet, build_tokenizer
from aion_core.tokenizers.base import Fittable, read_tokenizer
from aion_core.tokenizers.sources import SourceListTokenizer

SPEC = ModalitySpec(
    key="toy_sources",
    survey="Toy",
    title="sources",
    citation="none",
    kind="source_list",
    quantity="src.morph.param",
    units="",
    vocab_size=3468,
    shape=(50,),
    position="seq1d",
    order="causal",
    item_tokens=5,
    provenance=Provenance(id=1, instrument="none", release="none"),
    tokenizer=TokenizerSpec(path="aion_core.tokenizers.sources:SourceListTokenizer"),
)


def lists(objects: int, most: int, seed: int = 0) -> SourceList:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 95, (2, objects, most))
    e1, e2 = rng.normal(0, 0.2, (2, objects, most))
    radius = rng.lognormal(0, 0.7, (objects, most))
    absent = np.arange(most) >= rng.integers(1, most + 1, objects)[:, None]
    return SourceList(*(np.where(absent, np.nan, v) for v in (x, y, e1, e2, radius)))


@pytest.fixture(scope="module")
def fitted() -> Any:
    tokenizer: Any = build_tokenizer(SPEC)
    tokenizer.observe(lists(2000, 20))
    tokenizer.finish()
    return tokenizer


def test_the_catalog_pad_is_within_the_vocabulary(fitted: Any) -> None:
    tokens = fitted.encode(lists(100, 20))
    assert int(tokens.min()) == -1
    assert 204 <= int(tokens[tokens >= 0].min()) <= int(tokens.max()) < SPEC.vocab_size


def test_the_catalog_has_50_tokens_for_20_objects_as_the_table_has(fitted: Any) -> None:
    tokens = fitted.encode(SourceList(*torch.rand(5, 3, 20)))
    assert tokens.shape == (3, 50)
    assert (tokens >= 0).all()


def test_the_ten_sources_nearest_the_centre_are_encoded_nearest_first(fitted: Any) -> None:
    rng = np.random.default_rng(1)
    distance = rng.permutation(20) * 2.0
    x = np.where(np.arange(20) % 2, 47.5 + distance, 47.5 - distance)[None]
    decoded = fitted.decode(fitted.encode(SourceList(x, np.full_like(x, 47.5), *rng.normal(size=(3, 1, 20)))))
    assert (decoded.x[0] - 47.5).abs().round().tolist() == [0, *range(2, 20, 2)]


def test_sources_outside_the_cutout_or_without_a_number_are_left_out(fitted: Any) -> None:
    x = [[-0.6, 10.0, 20.0, 95.4, 95.6, float("nan"), float("inf")]]
    e1 = [[0.1, float("nan"), 0.1, 0.1, 0.1, 0.1, 0.1]]
    rest = np.full((1, 7), 0.2)
    decoded = fitted.decode(fitted.encode(SourceList(x, rest, e1, rest, rest)))
    assert sorted(decoded.x[~decoded.x.isnan()].tolist()) == [20.0, 95.0]


def test_what_is_missing_comes_after_all_codes_and_decodes_to_nan(fitted: Any) -> None:
    obs = lists(50, 14)
    tokens = fitted.encode(obs)
    there = tokens >= 0
    assert torch.equal(there, torch.arange(50) < there.sum(1, keepdim=True))
    assert torch.equal(fitted.decode(tokens).x.isnan(), ~there[:, ::5])
    nothing = fitted.encode(SourceList(*torch.full((5, 2, 3), torch.nan)))
    assert nothing.shape == (2, 50)
    assert (nothing == -1).all()


def test_decoding_comes_near_what_was_encoded(fitted: Any) -> None:
    _, values, decoded = fitted.reconstruct(lists(500, 8, seed=2))
    assert torch.equal(values.isnan(), decoded.isnan())
    error = (values - decoded).unflatten(1, (10, 5))
    assert float(error[..., :2].abs().nan_to_num().max()) <= 0.5
    assert float(error[..., 2:].abs().nanmean()) < 0.01
    assert float(fitted.loss(lists(50, 8))["reconstruction"]) < 0.3


def test_a_token_that_is_no_code_of_its_attribute_decodes_to_nan_there(fitted: Any) -> None:
    tokens = fitted.encode(lists(1, 1)).clone()
    tokens[0, 2] = 204  # a code of x in the place of e1
    tokens[0, 3] = 3  # a reserved id
    decoded = fitted.decode(tokens)
    assert decoded.e1[0, 0].isnan()
    assert decoded.e2[0, 0].isnan()
    assert decoded.x[0, 0].isfinite()
    assert decoded.radius[0, 0].isfinite()


def test_a_sequence_that_ends_within_a_source_decodes_to_what_there_is(fitted: Any) -> None:
    tokens = fitted.encode(lists(1, 3))[:, :7]
    decoded = fitted.decode(tokens)
    assert decoded.x.shape == (1, 2)
    assert decoded.radius[0].isfinite().tolist() == [True, False]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), objects=st.integers(0, 5), most=st.integers(0, 24))
def test_every_list_has_codes_of_the_table_whatever_else_is_in_the_batch(
    data: Any, objects: int, most: int, fitted: Any
) -> None:
    numbers = hnp.arrays(np.float32, (5, objects, most), elements=st.floats(-200, 200, width=32) | st.just(np.nan))
    values = data.draw(numbers) if data.draw(st.booleans()) else data.draw(
        hnp.arrays(np.float32, (5, objects, most), elements=st.floats(width=32)))  # fmt: skip
    kept = values.copy()
    obs = SourceList(*values)
    tokens = fitted.encode(obs)
    np.testing.assert_array_equal(values, kept)
    assert tokens.shape == (objects, 50)
    codes = tokens.reshape(objects, 10, 5)
    low = torch.tensor([204, 300, 396, 1420, 2444])
    high = torch.tensor([300, 396, 1420, 2444, 3468])
    assert (((codes >= low) & (codes < high)) | (codes == -1).all(-1, keepdim=True)).all()
    for i in range(objects):
        assert torch.equal(fitted.encode(obs[i])[0], tokens[i])


def test_fitting_in_parts_and_in_any_order_gives_the_same_tables(fitted: Any) -> None:
    obs, parts = lists(2000, 20), [build_tokenizer(SPEC) for _ in range(2)]
    for part, rows in zip(parts, (slice(700, None), slice(0, 700)), strict=True):
        assert isinstance(part, Fittable)
        part.observe(obs[rows])
    parts[0].merge(parts[1])
    parts[0].finish()
    assert parts[0].fingerprint == fitted.fingerprint


def test_only_sources_that_are_encoded_are_fitted_to() -> None:
    tokenizer: Any = build_tokenizer(SPEC)
    radius = np.where(np.arange(20) < 10, 1.0, 100.0)[None]
    x = 47.5 + np.arange(20.0)[None]
    tokenizer.observe(SourceList(x, np.full_like(x, 47.5), radius, radius, radius))
    tokenizer.finish()
    assert float(tokenizer.shapes.table.max()) == 1.0


def test_a_saved_list_tokenizer_comes_back_as_it_was(fitted: Any, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path)
    again: Any = read_tokenizer(SPEC, tmp_path)
    obs = lists(100, 20, seed=5)
    assert again.fingerprint == fitted.fingerprint
    assert torch.equal(again.encode(obs), fitted.encode(obs))
    for at in ("centre", "edge"):
        tokens = fitted.encode(obs)
        torch.testing.assert_close(
            again.decode(tokens, at=at).radius, fitted.decode(tokens, at=at).radius, equal_nan=True, rtol=0, atol=0
        )


def test_source_lists_go_through_a_store(fitted: Any, tmp_path: Path) -> None:
    obs = lists(20, 14)
    tokens = fitted.encode(obs)
    with StoreWriter(tmp_path / "a.arrow", TokenizerSet([fitted]).space) as writer:
        writer.write([str(i) for i in range(20)], np.zeros(20), np.zeros(20), {"toy_sources": (tokens, np.arange(20))})
    column = TokenStore(tmp_path / "a.arrow").column("toy_sources").to_pylist()
    assert column == [row[row >= 0].tolist() for row in tokens]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: {k: v for k, v in t.items() if "radius" not in k}, "have no tensor .*radius"),
        (lambda t: {k: v[:100] if v.ndim else v for k, v in t.items()}, r"\[100\], expected floats"),
        (lambda t: {k: v.flip(0) if v.ndim else v for k, v in t.items()}, "do not ascend"),
        (lambda t: {k: v if v.ndim else v * 2 for k, v in t.items()}, "cutouts of 192 pixels"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, expected: str, fitted: Any) -> None:
    artifact = fitted.artifact()
    with pytest.raises(InputError, match=f"weights for toy_sources .*{expected}"):
        SourceListTokenizer.from_artifact(SPEC, Artifact(artifact.config, change(dict(artifact.tensors))))


@pytest.mark.parametrize("update", [{"shape": (48,)}, {"vocab_size": 3264}])
def test_a_modality_that_source_lists_do_not_fit_is_refused(update: dict[str, Any]) -> None:
    with pytest.raises(AionError, match="5 tokens for each"):
        build_tokenizer(SPEC.model_copy(update=update))


def test_encoding_before_fitting_says_what_to_do() -> None:
    with pytest.raises(AionError, match="toy_sources has no table yet"):
        build_tokenizer(SPEC).encode(lists(1, 1))
