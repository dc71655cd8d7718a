"""Write a mock sky as the installed surveys would see it, in their own file formats, with its truth beside it.

Example
-------
    aion mock --objects 2000 --out mock --seed 1
    aion tokenize mock --out stores

Every simulator of an installed plugin writes into a folder of its own (``mock/<simulator>``), and what is true of the
objects is in ``mock/truth``, to be matched by position or identifier. Objects come in fields of 500; object i of a seed
is always the same. The files are read like real ones.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import print_json, print_table, progress

if TYPE_CHECKING:
    from aion_core.mock.simulate import MockReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", type=int, required=True, metavar="N", help="how many objects to draw")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another sky (default: %(default)s)")
    parser.add_argument("--simulators", nargs="+", metavar="NAME", help="which surveys observe it (default: all)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (default: all cores)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from aion_core.mock.simulate import choose, simulate
    from aion_core.plugins import load_registry

    chosen = choose(load_registry().simulators, args.simulators)
    with progress(quiet=args.json) as bar:
        task = bar.add_task("objects", total=args.objects)
        report = simulate(
            chosen,
            args.objects,
            args.out,
            args.seed,
            max(args.workers, 1),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    _show(report, args)
    return 1 if all(result.reason for result in report.simulators) else 0


def _show(report: MockReport, args: argparse.Namespace) -> None:
    if args.json:
        print_json(_document(report))
        return
    rows = [(result.name, f"{result.files:,}", result.reason or "") for result in report.simulators]
    print_table("", ("simulator", ">files", "left out, because"), rows)
    print(f"{report.objects:,} objects in {args.out}; what is true of them is in {args.out / 'truth'}.")


def _document(report: MockReport) -> dict[str, Any]:
    return {
        "objects": report.objects,
        "truth": [str(path) for path in report.truth],
        "simulators": [{"name": r.name, "files": r.files, "reason": r.reason} for r in report.simulators],
    }
