"""The transformer equals the released package's, and no step could be altered unseen: every row of both tables."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

pytest.importorskip("aion.model")
table = pytest.importorskip("transformer_table")

CASES = [pytest.param(c, marks=[pytest.mark.slow] if c.slow else [], id=c.name) for c in table.CASES]
ROUNDED = [
    pytest.param(c, marks=[pytest.mark.slow] if c.switches.get("dim", 0) > 1000 else [], id=c.name)
    for c in table.CASES
    if c.name in table.BF16
]


@pytest.mark.parametrize("case", CASES)
def test_embeddings_logits_and_losses_are_those_of_the_release(case: Any) -> None:
    failed = [row for row in table.rows_of(case, ("float32",)) if not table.passes(row)]
    assert failed == []


@pytest.mark.parametrize("case", ROUNDED)
def test_bfloat16_is_as_near_to_float32_as_the_releases(case: Any) -> None:
    rows = table.rows_of(case, ("bfloat16",))
    assert len(rows) == 4
    assert [row for row in rows if not table.passes(row)] == []


@pytest.mark.parametrize("mutation", table.MUTATIONS, ids=lambda mutation: mutation.name)
def test_equality_fails_without(mutation: Any) -> None:
    row = table.mutate(mutation)
    assert row["caught"], row["effect"]


def test_a_mutation_that_does_nothing_is_not_caught() -> None:
    row = table.mutate(table.Mutation("nothing", table.CASES[0], lambda _: nullcontext()))
    assert not row["caught"], row["effect"]


@pytest.mark.parametrize("name", ["released", "all switches turned"])
def test_every_parameter_shows_in_what_is_compared(name: str) -> None:
    """Else a parameter that is read into the wrong place could go unseen."""
    case = next(c for c in table.CASES if c.name == name)
    case = table.Case(f"{name}, one block", {**case.switches, "dim": 32, "encoder_depth": 1, "decoder_depth": 1})
    both = table.pair(case)
    unseen = []
    for path, parameter in both.ours.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
        if not any(worst(make(both, both.ours)) > table.TOLERANCE for make in table.VIEWS.values()):
            unseen.append(path)
        with torch.no_grad():
            parameter.copy_(kept)
    assert unseen == []


def worst(results: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    return max(float((found - expected).abs().max()) for found, expected in results if found.numel())


def test_a_row_of_equality_has_outputs_that_vary_and_bfloat16_no_worse_than_the_releases() -> None:
    row = {"dtype": "float32", "spread": 1.0, "error": 9e-5, "peer_error": 0.0}
    assert table.passes(row)
    assert not table.passes(row | {"error": 2e-4})
    assert not table.passes(row | {"error": float("nan")})
    assert not table.passes(row | {"spread": 0.0})
    assert table.passes(row | {"dtype": "bfloat16", "error": 5.2e-3, "peer_error": 5e-3})
    assert not table.passes(row | {"dtype": "bfloat16", "error": 7e-3, "peer_error": 5e-3})
