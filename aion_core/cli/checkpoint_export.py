"""Write the model of a checkpoint as one to publish: a folder with configuration, weights and token space.

PATH is a checkpoint, however many processes wrote it, a run folder (then its latest checkpoint is meant), or a model
folder. The layout of the AION-1 release is what the package of that release loads: modalities go by their upstream
keys, and the token space's fingerprints, for which it has no place, are left out.

example:
  aion checkpoint export runs/first --out models/first
  aion checkpoint export runs/first --out models/first-released --layout release --json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aion_core.cli.console import add_action, print_json, print_table
from aion_core.contract import InputError


def add_export(verbs: Any) -> None:
    """Declare the arguments of ``aion checkpoint export``."""
    export = add_action(verbs, "export", "write its model as one to publish", __doc__)
    export.add_argument("path", type=Path, metavar="PATH")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    export.add_argument("--layout", choices=("aion", "release"), default="aion", help="ours, or the AION-1 release's")
    export.add_argument("--json", action="store_true", help="print JSON")


def run_export(args: argparse.Namespace) -> int:
    """Write the folder, whole or not at all, and print what its weights hash to."""
    from aion_core.files import replacing
    from aion_core.hub import sha256
    from aion_core.release import WEIGHTS
    from aion_core.train.state import load_model_from_checkpoint

    if not args.path.is_dir():
        raise InputError(f"{args.path} is no folder; expected a run, a checkpoint or a model.")
    if args.out.exists():
        raise InputError(f"{args.out} exists; choose another --out.")
    model = load_model_from_checkpoint(args.path)
    with replacing(args.out) as temporary:
        model.save_pretrained(temporary, layout=args.layout)
    found = {
        "out": str(args.out),
        "layout": args.layout,
        "parameters": sum(p.numel() for p in model.parameters()),
        "modalities": len(model.space),
        "sha256": sha256(args.out / WEIGHTS),
    }
    if args.json:
        print_json(found)
    else:
        print_table("", ("model", str(args.path)), [(k, str(v)) for k, v in found.items()])
    return 0
