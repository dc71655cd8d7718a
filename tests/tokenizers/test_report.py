"""The figures of a codebook, against their definitions; and the same whether measured at once or in parts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.tokenizers.report import measure, perplexity


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([7, 7, 7, 7], 4.0), ([0, 5, 0], 1.0), ([4, 2, 1, 1, 0], 2**1.75), ([0, 0], 0.0), ([], 0.0)],
)
def test_perplexity_of_counts(counts: list[int], expected: float) -> None:
    assert perplexity(np.array(counts, np.int64)) == pytest.approx(expected)


def test_counting_codes_does_not_import_torch() -> None:
    code = "import sys, aion_core.data.statistics, aion_core.tokenizers.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_perplexity_is_the_number_of_codes_that_are_used_equally() -> None:
    zeros = torch.zeros(8)
    assert measure(zeros, zeros, torch.arange(8), 16).perplexity == pytest.approx(8)
    assert measure(zeros, zeros, torch.arange(8), 16).fraction == pytest.approx(0.5)
    assert measure(zeros, zeros, torch.zeros(8, dtype=torch.int64), 16).perplexity == pytest.approx(1)
    uneven = measure(zeros, zeros, torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]), 16)
    assert uneven.codes_used == 4
    assert uneven.perplexity == pytest.approx(2**1.75)


def test_missing_objects_and_values_count_nowhere() -> None:
    values = torch.tensor([1.0, torch.nan, 3.0, torch.inf])
    found = measure(values, torch.tensor([1.5, torch.nan, 2.5, 9.0]), torch.tensor([[0], [-1], [1], [1]]), 4)
    assert (found.objects, found.codes_used) == (3, 2)
    assert found.rmse == pytest.approx(0.5)
    assert found.r2 == pytest.approx(1 - 0.5 / 2)


def test_r2_and_rmse_follow_their_definitions() -> None:
    rng = np.random.default_rng(0)
    x, tokens = torch.from_numpy(rng.normal(5, 2, 1000)), torch.zeros(1000, dtype=torch.int64)
    y = x + torch.from_numpy(rng.normal(0, 0.5, 1000))
    found = measure(x, y, tokens, 4)
    assert found.rmse == pytest.approx(float((x - y).square().mean().sqrt()))
    assert found.r2 == pytest.approx(1 - float((x - y).square().sum() / (x - x.mean()).square().sum()))


def test_r2_of_several_numbers_is_the_mean_of_each() -> None:
    x = torch.tensor([[0.0, 0.0, 7.0], [2.0, 2000.0, 7.0]])
    y = torch.tensor([[0.0, 500.0, 7.0], [2.0, 1500.0, 7.0]])
    assert measure(x, y, torch.zeros(2, 3, dtype=torch.int64), 4).r2 == pytest.approx((1 + 0.75) / 2)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3) | st.just(float("nan")), min_size=2, max_size=40),
    cut=st.integers(0, 40),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_parts_add_up_to_the_whole(values: list[float], cut: int, offset: float) -> None:
    x = torch.tensor(values, dtype=torch.float64) + offset
    y, tokens = x.round(), torch.arange(len(values)) % 5
    whole = measure(x, y, tokens, 8)
    parts = measure(x[:cut], y[:cut], tokens[:cut], 8) + measure(x[cut:], y[cut:], tokens[cut:], 8)
    assert (parts.objects, parts.uses.tolist()) == (whole.objects, whole.uses.tolist())
    np.testing.assert_allclose(parts.square, whole.square, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-9)
    np.testing.assert_allclose(parts.residual, whole.residual, rtol=1e-9)


def test_of_nothing_there_is_no_error() -> None:
    nothing = measure(torch.empty(0), torch.empty(0), torch.empty(0, 1, dtype=torch.int64), 4)
    assert nothing.to_dict() == {
        "objects": 0,
        "vocab_size": 4,
        "codes_used": 0,
        "perplexity": 0.0,
        "fraction": 0.0,
        "r2": None,
        "rmse": None,
    }


def test_a_constant_has_no_variance_to_keep() -> None:
    assert measure(torch.ones(3), torch.ones(3), torch.zeros(3, dtype=torch.int64), 4).r2 is None


def test_arrays_of_different_objects_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[3\], \[2\], \[3\]"):
        measure(torch.ones(3), torch.ones(2), torch.zeros(3, dtype=torch.int64), 4)
