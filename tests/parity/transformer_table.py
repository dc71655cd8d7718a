"""The transformer's two tables: its equality with the release's, and what becomes of it when one step is altered.

``python tests/parity/parity_table.py --codec transformer`` prints them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformer_cases import CASES, VIEWS, Case, pair
from transformer_mutations import MUTATIONS, Mutation

#: Greatest difference in float32; outputs have a spread of about one.
TOLERANCE = 1e-4
#: In bfloat16, our distance (RMS) from the release's float32 in units of the release's own.
TOLERANCE_BF16 = 1.1
SPREAD = 0.05

#: What bfloat16 is measured for.
BF16 = ("released", "all switches turned", "width 768 (B)", "width 1024 (L)", "width 2048 (XL)")


def rows_of(case: Case, dtypes: tuple[str, ...] = ("float32", "bfloat16")) -> list[dict[str, Any]]:
    """Return the rows of a configuration: one a view and number format."""
    both = pair(case)
    rows = []
    for view, make in VIEWS.items():
        facts = {"config": case.name, "view": view}
        results = make(both, both.ours)
        found, expected = (torch.cat([r[i].float().flatten() for r in results]) for i in (0, 1))
        worst = float((found - expected).abs().max())
        spread = float(expected.std())
        rows.append(
            facts | {"dtype": "float32", "values": len(found), "spread": spread, "error": worst, "peer_error": 0.0}
        )
        if "bfloat16" in dtypes and case.name in BF16 and view != "training loss":
            with torch.autocast("cpu", torch.bfloat16):
                results = make(both, both.ours)
            rounded = [torch.cat([r[i].float().flatten() for r in results]) for i in (0, 1)]
            errors = {name: rms(value - expected) for name, value in zip(("error", "peer_error"), rounded, strict=True)}
            rows.append(facts | {"dtype": "bfloat16", "values": len(found), "spread": spread} | errors)
    return [row for row in rows if row["dtype"] in dtypes]


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def passes(row: dict[str, Any]) -> bool:
    """Whether a row is one of equality: in bfloat16, we are as near the release's float32 as its own bfloat16 is."""
    limit = TOLERANCE if row["dtype"] == "float32" else TOLERANCE_BF16 * row["peer_error"]
    return bool(row["spread"] >= SPREAD and row["error"] <= limit)


def mutate(mutation: Mutation) -> dict[str, Any]:
    """Return the row of a mutation: the first view that notices, and by how much."""
    both = pair(mutation.case)
    altered = copy.deepcopy(both.ours)
    row = {"config": mutation.case.name, "step": mutation.step}
    worst = 0.0
    with mutation.apply(altered):
        for view, make in VIEWS.items():
            error = max(float((a - b).abs().max()) for a, b in make(both, altered) if a.numel())
            if not error <= TOLERANCE:  # not a number counts
                return row | {"effect": f"{view}: error {error:.1e}", "caught": True}
            worst = max(worst, error)
    return row | {"effect": f"error {worst:.1e}", "caught": False}


def tables(only: str | None = None) -> tuple[dict[str, list[dict[str, Any]]], bool]:
    """Return both tables (or one) with all their rows, slow ones too, and whether all is as it should be."""
    found: dict[str, list[dict[str, Any]]] = {}
    good = True
    if only != "mutations":
        found["parity"] = [row for case in CASES for row in rows_of(case)]
        good = all(passes(row) for row in found["parity"])
    if only != "parity":
        found["mutations"] = [mutate(mutation) for mutation in MUTATIONS]
        good = good and all(row["caught"] for row in found["mutations"])
    return found, good
