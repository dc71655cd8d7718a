"""The fast search gives what torch's does, for every float there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aion_core.tokenizers import search
from aion_core.tokenizers.search import EdgeSearch

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TIED = st.sampled_from([-1.0, -0.0, 0.0, 1e-45, -1e-45, 1.0, 1.0000001, 3.4e38, -3.4e38])


def expected(edges: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.searchsorted(edges, values.T.contiguous()).T


def near(edges: torch.Tensor) -> torch.Tensor:
    """Each edge, its two neighbours among floats, and the ends of the scale: ``[m, n]``."""
    infinity = torch.full_like(edges, torch.inf)
    around = torch.cat([edges, edges.nextafter(infinity), edges.nextafter(-infinity), -edges], 1)
    ends = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38])
    return torch.cat([around, ends.expand(len(edges), -1)], 1).T.contiguous()


@settings(max_examples=300, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=FINITE | TIED),
    arrays.arrays(np.float32, st.integers(0, 50), elements=FINITE | TIED),
)
@example(np.array([[-0.0]], np.float32), np.array([0.0], np.float32))
@example(np.array([[0.0, 0.0, 5.0]], np.float32), np.array([-0.0], np.float32))
def test_any_edges_and_any_values_give_torchs_codes(edges: np.ndarray, values: np.ndarray) -> None:
    table = torch.from_numpy(np.sort(edges, axis=1))
    found = EdgeSearch.build(table)
    if found is None:  # said to be none of its tasks: torch's is used
        return
    asked = torch.cat([near(table), torch.from_numpy(values)[:, None].expand(-1, len(table))])
    assert torch.equal(found(asked), expected(table, asked))


@pytest.mark.parametrize("columns", [1, 55])
@pytest.mark.parametrize("distribution", ["normal", "uniform", "lognormal", "cauchy", "far", "tied", "grid"])
def test_tables_of_real_sizes_are_searched_exactly_and_in_few_steps(distribution: str, columns: int) -> None:
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(0, 1e-3, (4000, columns)),
        "uniform": rng.uniform(0, 360, (4000, columns)),
        "lognormal": rng.lognormal(6, 2, (4000, columns)),
        "cauchy": rng.standard_cauchy((4000, columns)),
        "far": rng.normal(22, 0.5, (4000, columns)),
        "tied": np.maximum(rng.normal(0, 1, (4000, columns)), 0),
        "grid": np.repeat(np.linspace(0, 1, 4000)[:, None], columns, 1),
    }[distribution].astype(np.float32)
    table = torch.from_numpy(np.quantile(values, np.arange(1, 1024) / 1024, axis=0).astype(np.float32)).T.contiguous()
    found = EdgeSearch.build(table)
    assert found is not None
    assert found.steps <= 2
    asked = torch.cat([near(table), torch.from_numpy(values)])
    assert torch.equal(found(asked), expected(table, asked))


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 16])
@pytest.mark.parametrize("threads", [1, 3])
def test_codes_do_not_depend_on_chunks_and_threads(monkeypatch: pytest.MonkeyPatch, chunk: int, threads: int) -> None:
    monkeypatch.setattr(search, "CHUNK", chunk)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32))
    table = values.sort(dim=0).values[::10].T.contiguous()
    found = EdgeSearch.build(table)
    assert found is not None
    assert torch.equal(found(values), expected(table, values))
    assert torch.equal(found(values[::2]), expected(table, values[::2]))  # not in one piece
    assert found(values[:0]).shape == (0, 3)


def test_first_edges_that_nothing_lies_below_are_passed() -> None:
    table = torch.tensor([[torch.nan, torch.nan, 1.0, 2.0], [0.0, 1.0, 1.0, 2.0]])
    found = EdgeSearch.build(table)
    assert found is not None
    asked = torch.tensor([-torch.inf, 0.0, 1.0, 1.5, 2.0, 3.0])[:, None].expand(-1, 2)
    assert found(asked)[:, 0].tolist() == [2, 2, 2, 3, 3, 4]
    assert found(asked)[:, 1].tolist() == [0, 0, 1, 3, 3, 4]


def test_a_number_that_is_none_harms_no_other() -> None:
    table = torch.linspace(0, 1, 100)[None]
    values = torch.rand(1000, 1)
    found = EdgeSearch.build(table)
    assert found is not None
    with_nan = values.clone()
    with_nan[::3] = torch.nan
    with_nan.view(torch.int32)[1::3] = -1  # NaN with every bit set
    assert torch.equal(found(with_nan)[2::3], found(values)[2::3])


def test_tables_that_it_would_not_search_fast_are_left_to_torch() -> None:
    crowded = torch.cat([torch.arange(300) * 1e-30, 1 + torch.arange(300) * 1.2e-7, 1e30 + torch.arange(300) * 1e23])
    assert EdgeSearch.build(crowded[None]) is None
    assert EdgeSearch.build(torch.tensor([[0.0, torch.inf]])) is None
    assert EdgeSearch.build(torch.tensor([[torch.nan]])) is None
