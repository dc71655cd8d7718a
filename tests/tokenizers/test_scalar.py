"""Scalar tokenizers: codes for every number, equally used, decoded to the centre of what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from aion_core.contract import AionError, InputError, ModalitySpec
from aion_core.observations import Image, Scalar
from aion_core.release import Artifact
from aion_core.tokenizers import build_tokenizer
from aion_core.tokenizers.scalar import QuantileTokenizer, ScalarTokenizer

KINDS = ["plain", "log", "coefficients", "grid"]
SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ALL_FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
Build = Callable[..., ScalarTokenizer]
Draw = Callable[..., np.ndarray]


def values_for(kind: str, data: Any) -> np.ndarray:
    shape = (data.draw(st.integers(0, 30)), 5) if kind == "coefficients" else data.draw(st.integers(0, 30))
    return data.draw(hnp.arrays(np.float32, shape, elements=ALL_FLOATS))


def has_nan(values: np.ndarray) -> np.ndarray:
    return np.isnan(values if values.ndim == 2 else values[:, None]).any(axis=1)


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(data=st.data())
def test_every_number_has_a_code_of_the_vocabulary_and_nan_has_none(
    kind: str, fitted: Build, specs: dict[str, ModalitySpec], data: Any
) -> None:
    values = values_for(kind, data)
    tokens = fitted(kind).encode(Scalar(values))
    assert tokens.dtype == torch.int64
    assert tokens.shape == (len(values), *specs[kind].shape)
    missing = has_nan(values)
    assert ((tokens == -1).all(dim=1).numpy() == missing).all()
    assert ((tokens == -1).any(dim=1).numpy() == missing).all()
    assert (tokens <= 1023).all()


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(data=st.data())
def test_a_code_does_not_depend_on_the_rest_of_the_batch(kind: str, fitted: Build, data: Any) -> None:
    tokenizer, values = fitted(kind), values_for(kind, data)
    together = tokenizer.encode(Scalar(values))
    for i in range(len(values)):
        assert torch.equal(tokenizer.encode(Scalar(values[i : i + 1])), together[i : i + 1])


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(data=st.data())
def test_the_input_is_left_as_it_is(kind: str, fitted: Build, data: Any) -> None:
    values = values_for(kind, data)
    before = values.tobytes()
    tokenizer, obs = fitted(kind), Scalar(values)
    assert torch.equal(tokenizer.encode(obs), tokenizer.encode(obs))
    tokenizer.loss(obs)
    assert values.tobytes() == before


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(data=st.data())
def test_greater_numbers_have_no_smaller_codes(kind: str, fitted: Build, data: Any) -> None:
    values = values_for(kind, data)
    values = np.sort(values[~has_nan(values)], axis=0)
    assert (fitted(kind).encode(Scalar(values)).diff(dim=0) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_infinities_have_the_first_and_the_last_code(kind: str, fitted: Build) -> None:
    ends = np.array([-np.inf, -3.4e38, np.inf], np.float32)
    ends = np.repeat(ends[:, None], 5, axis=1) if kind == "coefficients" else ends
    tokens = fitted(kind).encode(Scalar(ends))
    assert tokens[:, 0].tolist() == [0, 0, 1023]


def test_infinities_of_both_signs_in_one_row_are_not_taken_for_missing(fitted: Build) -> None:
    rows = np.array([[-np.inf, np.inf, 0, 0, 0], [np.nan, np.inf, 0, 0, 0], [3e38, 3e38, -np.inf, 0, 0]], np.float32)
    tokens = fitted("coefficients").encode(Scalar(rows))
    assert tokens[0, :2].tolist() == [0, 1023]
    assert (tokens[1] == -1).all()
    assert tokens[2, :3].tolist() == [1023, 1023, 0]


@pytest.mark.parametrize("kind", ["plain", "log", "coefficients"])
def test_codes_of_a_quantile_tokenizer_are_used_equally(kind: str, fitted: Build, draw: Draw) -> None:
    tokenizer, values = fitted(kind), draw(kind)
    tokens = tokenizer.encode(Scalar(values))
    for position in range(tokens.shape[1]):
        uses = tokens[:, position].bincount(minlength=1024)
        if kind == "coefficients" and position == 4:
            assert uses.max() == len(values)  # a constant
        else:
            assert uses.min() >= 20_000 // 1024 - 1
            assert uses.max() <= 20_000 // 1024 + 2


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_has_no_bias(kind: str, fitted: Build, draw: Draw) -> None:
    tokenizer = fitted(kind)
    values = torch.tensor(draw(kind, seed=1), dtype=torch.float32).reshape(20_000, -1)
    tokens = tokenizer.encode(Scalar(values))
    x = tokenizer.transform(values.clamp(min=tokenizer.lowest))
    for at, wanted in (("centre", 0.05), ("edge", 0.5)):
        decoded = tokenizer.decode(tokens, at=at).value.reshape(20_000, -1)
        inner = (tokens > 50) & (tokens < 970)
        width = tokenizer.table.diff(dim=1).T.gather(0, (tokens - 1).clamp(0))
        shift = ((tokenizer.transform(decoded) - x) / width)[inner & (width > 0)].mean()
        assert float(shift) == pytest.approx(0.0 if at == "centre" else wanted, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_codes_encode_to_themselves(kind: str, fitted: Build, draw: Draw) -> None:
    tokenizer = fitted(kind)
    tokens = tokenizer.encode(Scalar(draw(kind, seed=2)))
    assert torch.equal(tokenizer.encode(tokenizer.decode(tokens)), tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_object_decodes_to_nan(kind: str, fitted: Build, specs: dict[str, ModalitySpec]) -> None:
    n = specs[kind].n_tokens
    decoded = fitted(kind).decode(torch.tensor([[-1] * n, [5] * n])).value.reshape(2, n)
    assert decoded[0].isnan().all()
    assert decoded[1].isfinite().all()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (torch.tensor([1024]), "range over 1024 … 1024; expected 0 … 1023"),
        (torch.tensor([[-2]]), "range over -2"),
        (torch.tensor([1.0]), "integers"),
        (torch.tensor([True]), "integers"),
        (torch.tensor(3), r"expected \[B, 1\]"),
        (torch.zeros(2, 2, dtype=torch.int64), r"shape \[2, 2\]; expected \[B, 1\]"),
        ([1.0], "integers"),
        (np.array([2.0]), "integers"),
        ([[1], [2, 3]], "no array of tokens"),
        (["a"], "no array of tokens"),
        (None, "no array of tokens"),
        ([2**70], "no array of tokens"),
    ],
)
def test_tokens_that_cannot_be_codes_are_refused(tokens: Any, expected: str, fitted: Build) -> None:
    with pytest.raises(InputError, match=expected):
        fitted("plain").decode(tokens)


def test_tokens_of_any_integer_type_and_no_second_axis_decode(fitted: Build) -> None:
    tokenizer = fitted("plain")
    expected = tokenizer.decode(torch.tensor([[3], [1023]])).value
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(tokenizer.decode(torch.tensor([3, 255], dtype=dtype)).value[:1], expected[:1])
    assert len(tokenizer.decode(torch.empty(0, 1, dtype=torch.int64))) == 0


@pytest.mark.parametrize("tokens", [[3, 1023], [[3], [1023]], (3, 1023), np.array([3, 1023], np.uint16)])
def test_lists_and_arrays_of_tokens_decode(tokens: Any, fitted: Build) -> None:
    tokenizer = fitted("plain")
    assert torch.equal(tokenizer.decode(tokens).value, tokenizer.decode(torch.tensor([[3], [1023]])).value)


def test_a_code_decodes_at_its_centre_or_its_edge(fitted: Build) -> None:
    with pytest.raises(InputError, match="'centre' or its 'edge', not at 'middle'"):
        fitted("plain").decode(torch.tensor([1]), at="middle")


@pytest.mark.parametrize("kind", ["plain", "log", "coefficients"])
def test_encoding_before_fitting_says_what_to_do(kind: str, specs: dict[str, ModalitySpec]) -> None:
    tokenizer = build_tokenizer(specs[kind])
    shape = (1, 5) if kind == "coefficients" else (1,)
    for attempt in (
        lambda: tokenizer.encode(Scalar(np.zeros(shape))),
        lambda: tokenizer.decode(torch.zeros((1, *specs[kind].shape), dtype=torch.int64)),
        lambda: tokenizer.fingerprint,
        lambda: tokenizer.artifact(),
    ):
        with pytest.raises(AionError, match=r"has no table yet: load weights .* or fit it .*aion tokenizer train"):
            attempt()


def test_fitting_to_nothing_is_an_error(specs: dict[str, ModalitySpec]) -> None:
    tokenizer = build_tokenizer(specs["plain"])
    tokenizer.observe(Scalar([np.nan, np.inf]))
    with pytest.raises(AionError, match="toy_plain cannot be fitted: Nothing finite"):
        tokenizer.finish()


def test_encoding_never_changes_the_table(fitted: Build) -> None:
    tokenizer = fitted("plain")
    before, n = tokenizer.fingerprint, tokenizer.sketches[0].n
    tokenizer.train()
    tokenizer.encode(Scalar(np.full(1000, 1e6)))
    tokenizer.loss(Scalar(np.full(1000, 1e6)))
    assert tokenizer.training
    assert (tokenizer.fingerprint, tokenizer.sketches[0].n) == (before, n)


@SOME
@given(
    kind=st.sampled_from(["plain", "log", "coefficients"]),
    cut=st.integers(0, 3000),
    seed=st.integers(0, 3),
)
def test_fitting_in_parts_and_in_any_order_gives_the_same_table(
    kind: str, cut: int, seed: int, specs: dict[str, ModalitySpec], draw: Draw
) -> None:
    values = draw(kind, 3000, seed)
    whole, one, two = (build_tokenizer(specs[kind]) for _ in range(3))
    whole.observe(Scalar(values))
    one.observe(Scalar(values[cut:][::-1]))
    two.observe(Scalar(values[:cut]))
    one.merge(two)
    whole.finish()
    one.finish()
    assert whole.artifact().same(one.artifact())
    assert whole.fingerprint == one.fingerprint


class Probe(QuantileTokenizer):
    """Notes which of its modules are in training mode while it encodes and decodes."""

    def _encode(self, obs: Scalar) -> Tensor:
        self.seen = [module.training for module in self.modules()]
        return super()._encode(obs)

    def _decode(self, tokens: Tensor, **context: Any) -> Scalar:
        self.seen = [module.training for module in self.modules()]
        return super()._decode(tokens, **context)


def test_encoding_and_decoding_run_in_eval_mode_and_restore_every_module(
    fitted: Build, specs: dict[str, ModalitySpec]
) -> None:
    probe = Probe.from_artifact(specs["plain"], fitted("plain").artifact())
    probe.inner = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2).eval())
    before = [module.training for module in probe.modules()]
    assert before == [True, True, True, False]
    probe.encode(Scalar([1.0]))
    assert probe.seen == [False] * 4
    probe.decode(torch.tensor([1]))
    assert probe.seen == [False] * 4
    assert [module.training for module in probe.modules()] == before


def test_only_what_the_same_modality_has_observed_is_merged(specs: dict[str, ModalitySpec]) -> None:
    with pytest.raises(AionError, match="says nothing about toy_plain"):
        build_tokenizer(specs["plain"]).merge(build_tokenizer(specs["log"]))


@pytest.mark.parametrize("values", [[2.0], [2.0] * 50, [1.0, 2.0], [1.0, 1.0, 2.0, 3.0], [0.0] * 999 + [1.0]])
@pytest.mark.parametrize("kind", ["plain", "log"])
def test_constant_and_few_valued_data_come_back_as_they_were(
    kind: str, values: list[float], specs: dict[str, ModalitySpec]
) -> None:
    tokenizer = build_tokenizer(specs[kind])
    tokenizer.observe(Scalar(values))
    tokenizer.finish()
    tokens = tokenizer.encode(Scalar(values))
    expected = torch.tensor(values).clamp(min=tokenizer.lowest)
    torch.testing.assert_close(tokenizer.decode(tokens).value, expected, rtol=1e-6, atol=0)
    assert len(tokens.unique()) == len(set(values))


@pytest.mark.parametrize("kind", ["plain", "log"])
def test_a_new_value_between_sparse_data_decodes_to_the_nearer_one(kind: str, specs: dict[str, ModalitySpec]) -> None:
    tokenizer = build_tokenizer(specs[kind])
    tokenizer.observe(Scalar([1.0, 100.0, 1e6]))
    tokenizer.finish()
    new = torch.tensor([0.9, 2.0, 9.0, 300.0, 9000.0, 2e6])
    nearer = torch.tensor([1.0, 1.0, 1.0, 100.0, 100.0, 1e6])
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(Scalar(new))).value, nearer)


@pytest.mark.parametrize("kind", ["plain", "log"])
def test_of_sparse_data_no_code_stands_for_what_lies_far_apart(kind: str, specs: dict[str, ModalitySpec]) -> None:
    rng = np.random.default_rng(0)
    tokenizer = build_tokenizer(specs[kind])
    tokenizer.observe(Scalar(np.concatenate([rng.uniform(1, 2, 2300), rng.uniform(1e5, 1e6, 30)])))
    tokenizer.finish()
    new = torch.tensor(rng.uniform(1, 2, 10_000))
    decoded = tokenizer.decode(tokenizer.encode(Scalar(new))).value
    assert (decoded - new).abs().max() < 0.02


def test_values_at_or_below_the_minimum_of_a_logarithm_share_the_lowest_code(fitted: Build) -> None:
    low = np.array([exp(-3), 0.0, -1.0, -np.inf, 1e-30, np.nextafter(np.float32(exp(-3)), np.float32(0))], np.float32)
    assert (fitted("log").encode(Scalar(low)) == 0).all()


def test_a_grid_has_codes_of_equal_width_and_a_spare_one_decodes_as_the_last(specs: dict[str, ModalitySpec]) -> None:
    tokenizer = build_tokenizer(specs["grid"])
    step = 6.0 / 1023
    tokens = tokenizer.encode(Scalar([0.0, step * 0.5, step * 1.5, step * 500.5, 6.0, 7.0, -1.0]))
    assert tokens[:, 0].tolist() == [0, 1, 2, 501, 1023, 1023, 0]
    decoded = tokenizer.decode(torch.tensor([1, 501, 1023, 1024])).value
    torch.testing.assert_close(decoded, torch.tensor([0.5, 500.5, 1022.5, 1022.5]) * step)


def test_a_grid_without_a_declared_range_takes_that_of_the_data(spec_maker: Callable[..., ModalitySpec]) -> None:
    tokenizer = build_tokenizer(spec_maker("grid", "GridTokenizer"))
    tokenizer.observe(Scalar([3.0, 5.0, np.nan]))
    tokenizer.finish()
    assert tokenizer.table[0, [0, -1]].tolist() == [3.0, 5.0]


def test_fitting_widens_a_declared_range_where_data_lie_beyond_and_never_narrows_it(
    specs: dict[str, ModalitySpec],
) -> None:
    values = np.linspace(-0.5, 5.0, 4001)
    tokenizer = build_tokenizer(specs["grid"])
    tokenizer.observe(Scalar(values))
    tokenizer.finish()
    low, high = tokenizer.table[0, [0, -1]].tolist()
    assert low == pytest.approx(-0.5, abs=0.01)
    assert high == 6.0
    assert len(tokenizer.encode(Scalar(np.linspace(-0.49, -0.01, 50))).unique()) > 40
    stray = build_tokenizer(specs["grid"])
    stray.observe(Scalar(np.append(np.linspace(1, 2, 4000), 1e10)))  # one number is no range
    stray.finish()
    assert stray.table[0, [0, -1]].tolist() == [0.0, 6.0]


def test_coefficients_have_a_table_each(fitted: Build) -> None:
    spread = fitted("coefficients").table.std(dim=1)
    assert (spread.diff() < 0).all()
    assert spread[4] == 0


def test_the_loss_is_the_mean_square_error_after_the_transform(fitted: Build) -> None:
    tokenizer = fitted("log")
    obs = Scalar([1.0, 10.0, np.nan, 1e-9])
    decoded = tokenizer.decode(tokenizer.encode(obs)).value
    expected = [(log(1.0) - log(decoded[0])) ** 2, (log(10.0) - log(decoded[1])) ** 2, (-3 - log(decoded[3])) ** 2]
    assert float(tokenizer.loss(obs)["reconstruction"]) == pytest.approx(np.mean(expected), rel=1e-3)


@pytest.mark.parametrize(
    ("obs", "expected"),
    [
        (Scalar(np.zeros((2, 3))), r"toy_plain is one number per object, but the values are \[2, 3\]"),
        (Image(np.zeros((1, 1, 2, 2)), ["a"]), "toy_plain encodes Scalar, not Image"),
        (Scalar([1.0], unit="s"), "expected 'mas'"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(obs: Any, expected: str, fitted: Build) -> None:
    with pytest.raises(InputError, match=expected):
        fitted("plain").encode(obs)


def test_a_column_of_single_numbers_is_accepted(fitted: Build) -> None:
    tokenizer = fitted("plain")
    assert torch.equal(tokenizer.encode(Scalar([[1.0], [2.0]])), tokenizer.encode(Scalar([1.0, 2.0])))


def test_quantities_are_converted_to_the_unit_of_the_modality(fitted: Build) -> None:
    tokenizer = fitted("plain")
    expected = tokenizer.encode(Scalar([1.0, 3.0]))
    assert torch.equal(tokenizer.encode(Scalar([1e-3, 3e-3], unit="arcsec")), expected)
    decoded = tokenizer.decode(expected)
    torch.testing.assert_close(decoded.in_unit("arcsec").value, decoded.value / 1000)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"codes": 1}, "1 codes do not fit a vocabulary of 1024"),
        ({"codes": 2000}, "2000 codes do not fit"),
        ({"colour": 1}, r"does not take the settings \{'colour': 1\}"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    change: dict[str, Any], expected: str, spec_maker: Callable[..., ModalitySpec]
) -> None:
    with pytest.raises(AionError, match=expected):
        build_tokenizer(spec_maker("x", tokenizer={"config": change}))


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_logarithm_needs_a_minimum_above_zero(value: float, spec_maker: Callable[..., ModalitySpec]) -> None:
    with pytest.raises(AionError, match="needs one above zero"):
        build_tokenizer(spec_maker("x", "LogQuantileTokenizer", tokenizer={"config": {"min_value": value}}))


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(data=st.data())
def test_codes_are_those_of_transforming_first(kind: str, fitted: Build, data: Any) -> None:
    tokenizer, values = fitted(kind), values_for(kind, data)
    values = torch.from_numpy(np.nan_to_num(values[:, None] if values.ndim == 1 else values, posinf=3e38))
    raised = tokenizer.transform(values.clamp(min=tokenizer.lowest)).T.contiguous()
    expected = torch.searchsorted(tokenizer.table[:, :-1].contiguous(), raised).T
    assert torch.equal(tokenizer.encode(Scalar(values)), expected)


def test_edges_below_the_minimum_of_a_logarithm_bound_no_code(fitted: Build, specs: dict[str, ModalitySpec]) -> None:
    artifact = fitted("log").artifact()
    raised = Artifact({**artifact.config, "min_log_value": 4.0}, artifact.tensors, artifact.metadata)
    tokenizer: Any = type(fitted("log")).from_artifact(specs["log"], raised)
    lowest = int((tokenizer.table[0] < 4.0).sum())
    assert 300 < lowest < 700
    tokens = tokenizer.encode(Scalar([-np.inf, -1.0, 0.0, 1.0, exp(4.0) - 1e-3, exp(4.0)]))
    assert tokens[:, 0].tolist() == [lowest] * 6


def test_edges_are_carried_back_to_the_last_float_below(fitted: Build) -> None:
    for kind in ("log", "coefficients"):
        tokenizer = fitted(kind)
        edge, table = tokenizer.edge, tokenizer.table[:, :-1]
        assert (tokenizer.transform(edge) <= table).all()
        assert (tokenizer.transform(edge.nextafter(torch.tensor(torch.inf))) > table).all()
