"""What fast encoding changes: tokens that differ from float32's, and the reconstruction they give, on survey files.

    python benchmarks/fast_tokens.py FILES --tokenizers SET [--modalities KEY …] [--objects 256] [--imitate]

Of every network of a tokenizer set: the share of tokens that fast encoding leaves as they are, for all objects and for
the worst one; R² and χ² of the reconstruction from either; and the share of the variance that separates the two
reconstructions. A CPU without instructions for bfloat16 encodes fast in float32; with ``--imitate`` it rounds as one
that has them. Narrow layers of images are convolved as ever; with ``--winograd`` as wide ones
are.
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor

from aion_core.data.files import read_options
from aion_core.data.survey_files import SurveyFiles
from aion_core.observations import Observation
from aion_core.plugins import load_registry
from aion_core.tokenizers import Tokenizer, TokenizerSet, precision, winograd
from aion_core.tokenizers.quality import Quality, compare

#: Objects encoded at a time.
PART = 16


class EnoughError(Exception):
    """Every modality has as many objects as were asked for."""


class Comparison:
    """Of one tokenizer: both encodings of some objects."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.same = tokenizer, torch.zeros(0)
        self.quality: dict[str, Quality] = {}
        self.error = self.sum = self.square = self.count = 0.0

    def add(self, obs: Observation) -> None:
        """Encode and decode observations in both ways."""
        found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name, kind in (("exact", "float32"), ("fast", "bfloat16")):
            self.tokenizer.precision = kind  # type: ignore[assignment]
            found[name] = self.tokenizer.reconstruct(obs)
            quality = compare(self.tokenizer, obs, *found[name])
            self.quality[name] = self.quality[name] + quality if name in self.quality else quality
        (exact, values, decoded), (fast, _, other) = found["exact"], found["fast"]
        there = (exact >= 0).flatten(1).all(1)
        self.same = torch.cat([self.same, (exact == fast).flatten(1)[there].float().mean(1)])
        good = torch.isfinite(values) & torch.isfinite(decoded) & torch.isfinite(other)
        x, apart = values[good].double(), (decoded - other)[good].double()
        self.error += float(apart.square().sum())
        self.sum += float(x.sum())
        self.square += float(x.square().sum())
        self.count += x.numel()

    def result(self) -> dict[str, Any]:
        """Return the figures."""
        variance = self.square - self.sum**2 / max(self.count, 1)
        figures = {
            name: {key: quality.to_dict()[key] for key in ("r2", "chi2", "perplexity", "codes_used")}
            for name, quality in self.quality.items()
        }
        return {
            "objects": len(self.same),
            "tokens_the_same": float(self.same.mean()),
            "in_the_worst_object": float(self.same.min()),
            **figures,
            "variance_between_the_reconstructions": self.error / variance,
        }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each network."""
    registry = load_registry()
    loaded = TokenizerSet.load(args.tokenizers, registry, args.modalities)
    compared = {key: Comparison(t) for key, t in loaded.items() if "bfloat16" in t.precisions}
    files = SurveyFiles(args.paths, registry, list(compared), read_options(None, registry))

    def visit(key: str, obs: Observation) -> None:
        side = compared[key]
        for start in range(0, min(len(obs), args.objects - len(side.same)), PART):
            side.add(obs[start : min(start + PART, start + args.objects - len(side.same))])
        if all(len(c.same) >= args.objects for c in compared.values()):
            raise EnoughError

    with suppress(EnoughError):
        files.visit(visit)
    return {key: side.result() for key, side in compared.items() if len(side.same)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="survey files, or folders of them")
    parser.add_argument("--tokenizers", required=True, help="tokenizer set")
    parser.add_argument("--modalities", nargs="+", help="these only (default: all that occur)")
    parser.add_argument("--objects", type=int, default=256, help="of each modality")
    parser.add_argument("--imitate", action="store_true", help="compute in bfloat16 whatever the processor has")
    parser.add_argument("--winograd", action="store_true", help="convolve narrow layers with fewer products, too")
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    args = parser.parse_args()
    if args.imitate:
        precision.multiplies_bf16 = lambda device: True  # type: ignore[attr-defined]
    if args.winograd:
        winograd.LEAST_CHANNELS = 1
    computes_in = str(precision.fast_type(torch.device("cpu"))).removeprefix("torch.")
    result = {"benchmark": "fast_tokens", "machine": machine(), "fast_computes_in": computes_in, "of": measure(args)}
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
