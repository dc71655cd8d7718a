"""Two tables: how equal our codecs and the release's are, and what becomes of that when one of our steps is altered.

    python tests/parity/parity_table.py [--json] [--codec NAME] [--only parity|mutations]

``--codec transformer`` prints those of the transformer (`transformer_table`) instead.

Every codec has a file ``cases_<codec>.py`` beside this one, with a list ``CASES`` and a list ``MUTATIONS``. A random
network collapses to a few codes, and then any fault passes: cases scale the projection before the quantizer
(`standardize`), and each must have 100 codes in use (fewer only where it says so). A mutation that goes unnoticed
means that the tests cannot see the step: the table shows it, and the test of it fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

HERE = Path(__file__).parent
#: Greatest error of decoded values, relative to the greatest of the object (and band), that counts as equal.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Pair:
    """One codec of the release and ours with the same weights, and an input for both.

    The first four are functions without arguments. Both sides decode the release's codes. `tokenizer` is what
    mutations alter.
    """

    peer_encode: Callable[[], Tensor]
    encode: Callable[[], Tensor]
    peer_decode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    tokenizer: Any


@dataclass(frozen=True)
class Case:
    """A codec, a configuration and an input; `pair` builds both sides of it, and is called once."""

    codec: str
    config: str
    input: str
    pair: Callable[[], Pair]
    codes: int = field(default=100, kw_only=True)  # at least so many in use

    @property
    def name(self) -> str:
        return f"{self.codec} | {self.config} | {self.input}"


@dataclass(frozen=True)
class Mutation:
    """A step of ours, and a context in which it is removed or altered for the tokenizer of a case."""

    case: Case
    step: str
    side: Literal["encode", "decode"]
    apply: Callable[[Any], AbstractContextManager[Any]]
    slow: bool = field(default=False, kw_only=True)  # tested by `make test-all` only, being much like another

    @property
    def name(self) -> str:
        return f"{self.case.codec} | {self.side} | {self.step}"


@dataclass(frozen=True)
class Reference:
    """Both sides of a case, and what the release makes of it."""

    pair: Pair
    codes: Tensor
    decoded: Tensor


@lru_cache(maxsize=4)
def reference(case: Case) -> Reference:
    """Return the release's side of a case."""
    pair = case.pair()
    with torch.no_grad():
        codes = pair.peer_encode().long()
        return Reference(pair, codes, pair.peer_decode(codes))


def error(found: Tensor, expected: Tensor) -> float:
    """Return the greatest difference, relative to the greatest value of the same object, and of the same band of it.

    Infinite where one is finite and the other is not.
    """
    if found.shape != expected.shape or not torch.equal(found.isfinite(), expected.isfinite()):
        return float("inf")
    a, b = (t.double().nan_to_num(0, 0, 0).flatten(2 if t.ndim == 4 else 1) for t in (found, expected))
    return float(((a - b).abs().amax(dim=-1) / b.abs().amax(dim=-1).clamp(min=1e-12)).max())


def parity(case: Case) -> dict[str, Any]:
    """Return the row of a case: codes in use, share of equal tokens, error of decoding."""
    known = reference(case)
    codes = known.pair.encode()
    return {
        "codec": case.codec,
        "config": case.config,
        "input": case.input,
        "tokens": codes.numel(),
        "codes_used": len(known.codes.unique()),
        "tokens_equal": float((codes.reshape(known.codes.shape) == known.codes).double().mean()),
        "decode_error": error(known.pair.decode(known.codes), known.decoded),
    }


def passes(row: dict[str, Any], codes: int = 100) -> bool:
    """Whether a row of the parity table is one of parity."""
    return row["codes_used"] >= codes and row["tokens_equal"] == 1.0 and row["decode_error"] <= TOLERANCE


def mutate(mutation: Mutation) -> dict[str, Any]:
    """Return the row of a mutation: what it changes, and whether a parity test fails for it."""
    known = reference(mutation.case)
    row = {"codec": mutation.case.codec, "side": mutation.side, "step": mutation.step}
    try:
        with mutation.apply(known.pair.tokenizer), torch.no_grad():
            if mutation.side == "encode":
                codes = known.pair.encode()
                changed = float((codes.reshape(known.codes.shape) != known.codes).double().mean())
                return row | {"effect": f"{changed:.1%} of tokens differ", "caught": changed > 0}
            off = error(known.pair.decode(known.codes), known.decoded)
            return row | {"effect": f"decode error {off:.1e}", "caught": off > TOLERANCE}
    except (RuntimeError, ValueError, IndexError, TypeError) as failure:
        return row | {"effect": f"raises {type(failure).__name__}", "caught": True}


@torch.no_grad()
def standardize(projection: torch.nn.Module, outputs: Tensor, to: float = 1.0) -> None:
    """Scale a projection to d channels so that these outputs of it, ``[B, d, …]``, would have mean 0 and a spread."""
    flat = outputs.transpose(0, 1).flatten(1)
    mean, spread = flat.mean(dim=1), flat.std(dim=1) / to
    projection.weight.div_(spread.reshape(-1, *[1] * (projection.weight.ndim - 1)))
    projection.bias.sub_(mean).div_(spread)


def collect() -> tuple[list[Case], list[Mutation]]:
    """Return what all ``cases_*.py`` hold."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    modules = [importlib.import_module(path.stem) for path in sorted(HERE.glob("cases_*.py"))]
    return [c for m in modules for c in m.CASES], [x for m in modules for x in m.MUTATIONS]


def markdown(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(tables: dict[str, list[dict[str, Any]]], as_json: bool) -> None:
    print(json.dumps(tables, indent=2) if as_json else "\n\n".join(markdown(rows) for rows in tables.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--codec", help="this codec only, or transformer")
    parser.add_argument("--only", choices=("parity", "mutations"), help="one of the tables")
    args = parser.parse_args()
    if args.codec == "transformer":
        import transformer_table

        found, good = transformer_table.tables(args.only)
        show(found, args.json)
        return 0 if good else 1
    cases, mutations = collect()
    known = dict.fromkeys(case.codec for case in cases)
    if args.codec not in (None, *known):
        parser.error(f"there is no codec {args.codec}; expected transformer or one of {', '.join(known)}")
    cases = [c for c in cases if args.codec in (None, c.codec)]
    mutations = [m for m in mutations if args.codec in (None, m.case.codec)]
    tables: dict[str, list[dict[str, Any]]] = {}
    if args.only != "mutations":
        tables["parity"] = [parity(case) for case in cases]
    if args.only != "parity":
        tables["mutations"] = [mutate(mutation) for mutation in mutations]
    show(tables, args.json)
    least = {case.name: case.codes for case in cases}
    good = [passes(r, least[f"{r['codec']} | {r['config']} | {r['input']}"]) for r in tables.get("parity", [])]
    return 0 if all(good) and all(row["caught"] for row in tables.get("mutations", [])) else 1


if __name__ == "__main__":
    sys.modules["parity_table"] = sys.modules["__main__"]  # the cases import this module by its name
    raise SystemExit(main())
