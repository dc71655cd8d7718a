"""The whole line on real data, in about three minutes on two cores: read sample files, fit tokenizers, tokenize, train
a small model, and write a report with plots.

The sample files are those that installed plugins name, and those in the folder that AION_SAMPLE_DIR (or --data) names.
They are few, so the model is trained on them and on disturbed copies of them; it is judged on real objects only, from
sky cells that neither training nor the copies have seen. An interrupted demo continues when it is started again.

example:
  aion demo
  aion demo --out demo-report --data ~/survey-files --objects 500000
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from aion_core.cli.console import print_json, print_table, progress

SAMPLE_DIR = "AION_SAMPLE_DIR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion demo``."""
    parser.add_argument("--out", type=Path, default=Path("demo-report"), help="folder to write to (demo-report)")
    parser.add_argument("--data", type=Path, default=None, help=f"folder of survey files (default: ${SAMPLE_DIR})")
    parser.add_argument(
        "--objects", type=int, default=150_000, metavar="N", help="disturbed copies to train on (150000)"
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the copies, a quarter of the training")
    parser.add_argument("--json", action="store_true", help="print the report's numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Run all stages, each only if it has not been done."""
    from aion_core.cli.demo.stages import FEWEST, Demo, DemoSettings
    from aion_core.cli.training_tables import print_held_out

    data = args.data or (Path(os.environ[SAMPLE_DIR]) if os.environ.get(SAMPLE_DIR) else None)
    settings = DemoSettings(data=data, objects=args.objects, quick=args.quick)
    with progress() as bar:
        result = Demo(args.out, settings, bar).run()
    if args.json:
        print_json(result.facts)
        return 0
    columns = ("tokenizer", ">objects", ">codes used", ">perplexity", ">% of codes", ">median error, % of spread")
    rows = [
        (
            t["key"],
            t["objects"],
            t["codes_used"],
            *(_short(t[k]) for k in ("perplexity", "percent", "held_out_error_percent")),
        )
        for t in result.facts["tokenizers"]
    ]
    print_table("Tokenizers: use of the codebook in the token stores", columns, rows)
    enough = tuple(h for h in result.held_out if h.targets >= FEWEST)
    print_held_out(enough)
    if left := sorted({h.target for h in result.held_out} - {h.target for h in enough}):
        print(f"Fewer than {FEWEST} held-out targets, so no line for: {', '.join(left)}")
    print(result.note)
    print(f"Report: {result.page}  ({result.facts['seconds']:.0f} s)")
    return 0


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
