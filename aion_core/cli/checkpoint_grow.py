"""Append modalities of installed plugins to a trained model; everything that it was stays bit for bit what it is.

PATH is a checkpoint, however many processes wrote it, a run folder (then its latest checkpoint is meant), or a model
folder, ours or of the AION-1 release. A new modality has token embeddings, a head and a provenance embedding of its
own, with initial values drawn from the seed and the parameter's name. Moments of the optimiser that lie beside the
weights go along, so that training continues with them; those of what is new begin at step 0. The manifest says what
was appended to what. `aion train --grow` does the same as a run begins.

example:
  aion checkpoint grow runs/first --add lsst_image --tokenizers sets/lsst --out models/grown
  aion checkpoint grow models/aion-base --add lsst_image lsst_flux_u --out models/grown --json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import add_action, print_json, print_table
from aion_core.contract import InputError, UnknownKeyError

if TYPE_CHECKING:
    from aion_core.contract import Slot
    from aion_core.plugins import Registry


def add_grow(verbs: Any) -> None:
    """Declare the arguments of ``aion checkpoint grow``."""
    grow = add_action(verbs, "grow", "append modalities to its model", __doc__)
    grow.add_argument("path", type=Path, metavar="PATH")
    grow.add_argument(
        "--add", nargs="+", action="extend", required=True, metavar="KEY", help="what to append, in order"
    )
    grow.add_argument(
        "--tokenizers", metavar="SET", help="tokenizer set that makes the tokens: their fingerprints are written down"
    )
    grow.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    grow.add_argument("--seed", type=int, default=0, metavar="N", help="of the initial values (default: 0)")
    grow.add_argument("--json", action="store_true", help="print JSON")


def run_grow(args: argparse.Namespace) -> int:
    """Write the grown model, whole or not at all, and print what was appended to what."""
    from aion_core.train.growth import grow_folder

    if not args.path.is_dir():
        raise InputError(f"{args.path} is no folder; expected a run, a checkpoint or a model.")
    if args.out.exists():
        raise InputError(f"{args.out} exists; choose another --out.")
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}; it is 0 or more.")
    found = grow_folder(args.path, new_slots(args.add, args.tokenizers), args.out, args.seed)
    if args.json:
        print_json(found)
        return 0
    facts = {
        "written to": found["out"],
        "weights' SHA-256": f"{found['from_sha256'][:12]} → {found['sha256'][:12]}",
        "parameters": f"{found['parameters_before']:,} → {found['parameters']:,}",
        "optimiser's moments": "kept; those of what is appended begin at 0" if found["moments"] else "none to keep",
    }
    print_table("", ("grown from", found["from"]), list(facts.items()))
    rows = [(k, f"{m['vocab_size']:,}", f"{m['parameters']:,}", m["given_by"], m["fingerprint"][:12])
            for k, m in found["appended"].items()]  # fmt: skip
    print_table("", ("appended", ">codes", ">parameters", "given by", "fingerprint"), rows)
    return 0


def new_slots(keys: Sequence[str], tokenizers: str | None) -> list[Slot]:
    """Return slots of installed modalities, with the fingerprints of a tokenizer set where one is given."""
    from aion_core.plugins import load_registry
    from aion_core.tokenizers.sets import TokenizerSet

    registry = load_registry()
    if tokenizers is not None:
        space = TokenizerSet.load(tokenizers, registry, keys).space
        return [space[key] for key in dict.fromkeys(keys)]
    return [_installed(registry, key) for key in dict.fromkeys(keys)]


def _installed(registry: Registry, key: str) -> Slot:
    try:
        return registry.slot(registry.resolve(key).key)
    except UnknownKeyError as error:
        prefix = key.partition("_")[0]
        known = prefix in {plugin.name for plugin in registry.plugins}
        advice = "" if known else f" If its plugin is not installed: pip install aion-tok-{prefix}."
        raise UnknownKeyError(f"{error}{advice}") from None
