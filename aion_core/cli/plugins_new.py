"""Write a plugin package for a survey: complete, installable and working before a line is edited.

    aion plugins new mysurvey --kind image
    aion plugins new mysurvey --kind spectrum --path ~/plugins --json

It goes to PATH/aion-tok-NAME: what is measured (specs), a reader, a simulator of the survey's files, what lies between
these and tokens, and tests. All of it is meant to be changed; the lines to begin with are marked CHANGE.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from aion_core.cli.console import print_json
from aion_core.plugins import load_registry
from aion_core.plugins.scaffold import KINDS, Scaffold, scaffold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion plugins new``."""
    parser.add_argument("name", metavar="NAME", help="name of the plugin, with which all its keys begin")
    parser.add_argument("--kind", required=True, choices=list(KINDS), help="what the survey measures first")
    parser.add_argument("--path", type=Path, default=Path(), metavar="FOLDER", help="where it goes (default: here)")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")


def run(args: argparse.Namespace) -> None:
    """Write the package, and say how to go on."""
    package = scaffold(args.name, args.kind, load_registry())
    root = package.write(args.path)
    steps = next_steps(package, root)
    if args.json:
        print_json({
            "name": package.name,
            "kind": package.kind,
            "key": package.key,
            "distribution": package.distribution,
            "folder": str(root),
            "files": [str(path) for path in package.files],
            "next": steps,
        })  # fmt: skip
        return
    print(f"{root}: a plugin with the modality {package.key}, in {len(package.files)} files.")
    print("\nIt works as it is. Next:\n")
    print("\n".join(f"    {step}" for step in steps))
    print(f"\nThen make it yours: grep -rn CHANGE {shlex.quote(str(root))}")


def next_steps(package: Scaffold, root: Path) -> list[str]:
    """Return the commands that install the package, check it, and give it data."""
    return [
        f"pip install --no-deps --no-build-isolation -e {shlex.quote(str(root))}",
        f"aion plugins check {package.name}",
        f"aion mock --objects 500 --simulators {package.simulator} --out mock",
    ]
