"""How often each modality is an input and a target, on samples of one survey, alone and beside a shared modality.

    python benchmarks/target_frequency.py [--draws 20000] [--json]

Modalities are grouped by plugin; those of one plugin are taken to be one survey's sample, with full sequences.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from aion_core.contract import TokenSpace
from aion_core.data.keyed import key
from aion_core.data.masking import Masking, MaskingConfig
from aion_core.plugins import load_registry

BATCH = 500


def samples(space: TokenSpace) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the modalities of each plugin, and these beside what other plugins' objects are matched with."""
    by_plugin = groupby(sorted(space.slots, key=lambda slot: slot.distribution or ""), lambda slot: slot.distribution)
    shared = [spec.key for spec in space.specs() if spec.quantity.startswith("src.redshift") or spec.order == "causal"]
    for plugin, members in by_plugin:
        keys = tuple(slot.key for slot in members)
        yield str(plugin), keys
        for other in shared:
            if other not in keys:
                yield f"{plugin} + {other}", (*keys, other)


def frequencies(space: TokenSpace, keys: tuple[str, ...], draws: int, config: MaskingConfig) -> dict[str, Any]:
    """Return the share of draws in which each modality is input and target, and its mean number of targets."""
    masking = Masking(space, config)
    here = [space.index(k) for k in keys]
    lengths = np.zeros((BATCH, len(space)), np.int64)
    lengths[:, here] = [space.slots[i].spec.n_tokens for i in here]
    seen, asked, tokens = (np.zeros(len(space)) for _ in range(3))
    for start in range(0, draws, BATCH):
        selection = masking.select(lengths, key(0, np.arange(start, start + BATCH)))
        for places, total in ((selection.inputs, seen), (selection.targets, asked)):
            total += np.array([(places.slot == slot).any(axis=1).sum() for slot in range(len(space))])
        tokens += np.bincount(selection.targets.slot.ravel() + 1, minlength=len(space) + 1)[1:]
    done = -(-draws // BATCH) * BATCH
    return {
        k: {
            "tokens": int(lengths[0, i]),
            "input": float(seen[i] / done),
            "target": float(asked[i] / done),
            "mean_targets": float(tokens[i] / done),
        }
        for k, i in zip(keys, here, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    space, config = load_registry().token_space(), MaskingConfig()
    table = {name: frequencies(space, keys, args.draws, config) for name, keys in samples(space)}
    if args.json:
        result = {"benchmark": "target_frequency", "draws": args.draws, **config.model_dump(), "samples": table}
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    for name, rows in table.items():
        print(f"\n{name}")
        print(f"  {'modality':<24}{'tokens':>8}{'input':>9}{'target':>9}{'mean targets':>14}")
        for k, row in rows.items():
            shares = f"{row['input']:>9.1%}{row['target']:>9.1%}{row['mean_targets']:>14.2f}"
            print(f"  {k:<24}{row['tokens']:>8}{shares}")


if __name__ == "__main__":
    main()
