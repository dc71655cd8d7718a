"""Token for token the release's, and no step that could be left out unseen: every row of both tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

pytest.importorskip("aion.codecs")
parity_table = pytest.importorskip("parity_table")

CASES, MUTATIONS = parity_table.collect()
MARKED = [pytest.param(m, marks=[pytest.mark.slow] if m.slow else [], id=m.name) for m in MUTATIONS]


#: Cases that `make test-all` alone tests, being dear and much like others.
DEAR = ("hsc_image | released (70.06 M)", "desi_spectrum | released | 5 real")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] if c.name.startswith(DEAR) else [], id=c.name) for c in CASES]
)
def test_tokens_are_those_of_the_release_and_decode_to_the_same(case: Any) -> None:
    row = parity_table.parity(case)
    assert row["codes_used"] >= case.codes
    assert row["tokens_equal"] == 1.0
    assert row["decode_error"] <= parity_table.TOLERANCE


@pytest.mark.parametrize("mutation", MARKED)
def test_parity_fails_without(mutation: Any) -> None:
    row = parity_table.mutate(mutation)
    assert row["caught"], row["effect"]


def test_a_mutation_that_does_nothing_is_not_caught() -> None:
    @contextmanager
    def nothing(_: Any) -> Iterator[None]:
        yield

    for side in ("encode", "decode"):
        row = parity_table.mutate(parity_table.Mutation(MUTATIONS[0].case, "nothing", side, nothing))
        assert not row["caught"]


def test_a_single_code_in_use_is_no_parity() -> None:
    row = {"codes_used": 1, "tokens_equal": 1.0, "decode_error": 0.0}
    assert not parity_table.passes(row)
    assert parity_table.passes(row | {"codes_used": 100})
    assert not parity_table.passes(row | {"codes_used": 100, "tokens_equal": 0.9999})
    assert not parity_table.passes(row | {"codes_used": 100, "decode_error": 2e-5})


def test_the_error_is_relative_to_the_brightest_of_the_same_object() -> None:
    a = torch.tensor([[1.0, 1000.0], [1e-3, 0.0]])
    assert parity_table.error(a, a) == 0
    assert parity_table.error(a + torch.tensor([[0.0, 1.0], [0.0, 0.0]]), a) == pytest.approx(1e-3)
    assert parity_table.error(a.masked_fill(a == 0, float("nan")), a) == float("inf")
