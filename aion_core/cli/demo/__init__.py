"""The whole line in some eight minutes on two cores: from survey files to a trained model, and a report of both.

A mock sky is observed by every installed survey, in its own file formats; real files that readers name, or that are in
the folder that AION_SAMPLE_DIR (or --data) names, join it. Tokenizers are fitted and trained, all files tokenized, a
small model is trained on the tokens, and judged by objects in parts of the sky that no training has seen. The page
needs no other file. An interrupted demo goes on when it is started again.

example:
  aion demo
  aion demo --quick --out quick-look
  aion demo --out demo-report --data ~/survey-files --objects 5000
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from aion_core.cli.console import print_json, print_table, progress

SAMPLE_DIR = "AION_SAMPLE_DIR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion demo``."""
    parser.add_argument("--out", type=Path, default=Path("demo-report"), help="folder to write to (demo-report)")
    parser.add_argument("--data", type=Path, default=None, help=f"folder of real survey files (default: ${SAMPLE_DIR})")
    parser.add_argument("--objects", type=int, default=None, metavar="N", help="of the mock sky (2000; --quick: 500)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time: fewer objects, less training")
    parser.add_argument("--effort", type=float, default=1.0, metavar="X", help="times as much training (1)")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another sky (0)")
    parser.add_argument("--json", action="store_true", help="print the report's numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Run all stages, each only if it has not been done."""
    from aion_core.cli.demo.settings import OBJECTS, QUICK_OBJECTS, DemoSettings
    from aion_core.cli.demo.stages import Demo

    data = args.data or (Path(os.environ[SAMPLE_DIR]) if os.environ.get(SAMPLE_DIR) else None)
    objects = args.objects if args.objects is not None else QUICK_OBJECTS if args.quick else OBJECTS
    settings = DemoSettings(data=data, objects=objects, quick=args.quick, effort=args.effort, seed=args.seed)
    with progress() as bar:
        facts = Demo(args.out, settings, bar).run()
    if args.json:
        print_json(facts)
    else:
        _show(facts)
    return 0


def _show(facts: dict[str, Any]) -> None:
    from aion_core.cli.demo.page import cell
    from aion_core.cli.demo.report import HELD_OUT, NARROWING, PROBES, TOKENIZERS

    for title, rows, columns in (
        ("Tokenizers", facts["tokenizers"], TOKENIZERS),
        ("Held-out losses, nats per token", facts["held_out"], HELD_OUT),
        ("Redshift posteriors of held-out galaxies", facts["narrowing"], NARROWING),
        ("Linear probes", facts["probes"], PROBES),
    ):
        heads = [name if place == 0 else f">{name}" for place, name in enumerate(columns.values())]
        if rows:
            print_table(title, heads, [[cell(row.get(key)) for key in columns] for row in rows])
    for name, why in facts["left_out"].items():
        print(f"Left out: {name}: {why}")
    for sentence in facts["falls_short"]:
        print(sentence)
    print(f"Report: {facts['page']}  ({facts['seconds']['all']:.0f} s)")
