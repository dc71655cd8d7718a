"""Turn survey files into token stores: one file, one store. Folders are searched for files that a reader knows.

Files that belong together (one per band, a catalogue beside an image) are read as one; any of them may be named.
Files tokenized before are left alone unless they, their reader, its options, the tokenizers or --fast have changed. A
file that fails is listed with its reason while the others go on, and the exit code is then 2; objects that had to be
skipped in a file that is otherwise read are counted and listed. Options of readers stand in a TOML file, below the
reader's name; `aion plugins --readers` lists them.

example:
  aion tokenize survey/ --tokenizers my-tokenizers --out tokens
  aion tokenize survey/ --tokenizers my-tokenizers --out tokens --fast
  aion tokenize survey/ --describe
  aion tokenize survey/ --describe --readers readers.toml --json
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import add_readers, print_json, print_table, progress
from aion_core.contract import AionError

if TYPE_CHECKING:
    from rich.progress import Progress

    from aion_core.data.pipeline import Progress as Callback
    from aion_core.data.results import FileResult, Report

#: Above this many files, only those that need attention are listed.
LISTED = 100
#: Of the skipped objects of a file, so many are listed.
NAMED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion tokenize``."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="survey files, or folders of them")
    parser.add_argument("--tokenizers", metavar="DIR", help="tokenizer set: a folder or a repository on the Hub")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder that the token stores go into")
    parser.add_argument("--modalities", nargs="+", metavar="KEY", help="these only (default: all in the set)")
    faster = "encode in bfloat16, or with fewer products: other tokens where two codes are about equally near"
    parser.add_argument("--fast", action="store_true", help=faster)
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="objects at a time (default: 256)")
    add_readers(parser)
    parser.add_argument("--describe", action="store_true", help="only say which reader reads each file, and what of it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Tokenize or describe; 2 if any file failed."""
    from aion_core.data.results import NothingDoneError

    try:
        with progress(quiet=args.json) as bar:
            report = _describe(args, bar) if args.describe else _tokenize(args, bar)
    except NothingDoneError as error:
        _show(error.report, args)
        raise
    _show(report, args)
    return 2 if report.failed else 0


def _tokenize(args: argparse.Namespace, bar: Progress) -> Report:
    if args.tokenizers is None or args.out is None:
        raise AionError("aion tokenize needs --tokenizers DIR and --out DIR; with --describe it needs neither.")
    import torch

    from aion_core.data.files import read_options
    from aion_core.data.pipeline import BATCH_SIZE, tokenize_files
    from aion_core.plugins import load_registry
    from aion_core.tokenizers import TokenizerSet

    registry = load_registry()
    tokenizers = TokenizerSet.load(args.tokenizers, registry, args.modalities)
    tokenizers.to("cuda" if torch.cuda.is_available() else "cpu")
    if args.fast:
        for tokenizer in tokenizers.values():
            tokenizer.fast()
    size = args.batch_size or BATCH_SIZE
    options = read_options(args.readers, registry)
    return tokenize_files(args.paths, tokenizers, args.out, registry, size, _callback(bar), options)


def _describe(args: argparse.Namespace, bar: Progress) -> Report:
    from aion_core.data.files import read_options
    from aion_core.data.pipeline import BATCH_SIZE, describe_files
    from aion_core.plugins import load_registry

    registry = load_registry()
    size, options = args.batch_size or BATCH_SIZE, read_options(args.readers, registry)
    return describe_files(args.paths, registry, args.modalities, size, _callback(bar), options)


def _callback(bar: Progress) -> Callback:
    task = bar.add_task("", total=None)

    def update(done: int, total: int, path: Path, objects: int) -> None:
        at = f"{path.name}: {objects:,} objects" if objects else path.name
        bar.update(task, description=at, completed=done, total=total)

    return update


def _show(report: Report, args: argparse.Namespace) -> None:
    if args.json:
        print_json(_document(report))
        return
    all_of_them = len(report.files) <= LISTED
    listed = [r for r in report.files if (all_of_them and _told(r, args.describe)) or r.status in ("nothing", "failed")]
    if listed:
        columns = ["file", "state", "reader", ">objects", ">tokens", "objects by modality, or why not"]
        rows = [_row(result) for result in listed]
        if args.describe:
            columns, rows = [*columns[:4], columns[5]], [(*row[:4], row[5]) for row in rows]
        print_table("", columns, rows)
    totals, tokens, left_out = (report.total(what) for what in ("modalities", "tokens", "left_out"))
    if totals:
        rows = [(key, f"{n:,}", *([f"{tokens.get(key, 0):,}"] if tokens else [])) for key, n in totals.items()]
        print_table("", ("key", ">objects", ">tokens")[: 3 if tokens else 2], rows)
    if left_out:
        print(f"Left out, no tokenizer for it here: {_counts(left_out)} objects.")
    _show_skipped(report)
    if args.describe:
        _show_options(report)
    if strangers := [r.path.name for r in report.files if r.status == "not claimed" and r not in listed]:
        print(f"Not claimed by any reader: {_some(strangers)}.")
    states = Counter(sorted(result.status for result in report.files))
    skipped = f" ({report.skipped:,} more skipped)" if report.skipped else ""
    print(f"{report.objects:,} objects{skipped} in {len(report.files):,} files: {_counts(states)}.")


def _show_skipped(report: Report) -> None:
    """List the first objects that could not be read, of each file."""
    rows = []
    for result in report.files:
        told = result.skipped.named[:NAMED]
        rows += [(str(result.path), one.name, one.reason) for one in told]
        if more := result.skipped.count - sum(one.count for one in told):
            rows.append((str(result.path), f"and {more:,} more", "--json names the first hundred"))
    if rows:
        print_table("Skipped objects", ("file", "object", "why"), rows)


def _show_options(report: Report) -> None:
    """List the options in effect, of the readers that have any."""
    used = {result.reader: result.options for result in report.files if result.options}
    rows = [(reader, name, value) for reader, options in used.items() for name, value in options.items()]
    if rows:
        print_table("Options in effect", ("reader", "option", "value"), rows)


def _told(result: FileResult, describing: bool) -> bool:
    """Whether a file has a line of its own: strangers in a folder do only where all files are asked about."""
    return describing or result.status != "not claimed"


def _row(result: FileResult) -> tuple[str, ...]:
    told = _grouped(result) if result.good else (result.reason or "").removeprefix(f"{result.path}: ")
    if result.good and result.reason:
        told += "; " + result.reason.removeprefix(f"{result.path}: ")
    if result.good and result.skipped.count:
        told += f"; skipped {result.skipped.count:,}"
    objects = f"{result.objects:,}" if result.good else "–"
    tokens = f"{sum(result.tokens.values()):,}" if result.good else "–"
    return (str(result.path), result.status, result.reader or "–", objects, tokens, told)


def _grouped(result: FileResult) -> str:
    """Return ``5: a b c; 3: d``: the modalities that so many of the objects have."""
    groups: dict[int, list[str]] = {}
    for key, count in result.modalities.items():
        groups.setdefault(count, []).append(key)
    return "; ".join(f"{count:,}: {' '.join(keys)}" for count, keys in sorted(groups.items(), reverse=True))


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _document(report: Report) -> dict[str, Any]:
    return {
        "objects": report.objects,
        "modalities": report.total("modalities"),
        "tokens": report.total("tokens"),
        "left_out": report.total("left_out"),
        "skipped": report.skipped,
        "failed": len(report.failed),
        "files": [
            {
                "path": str(r.path),
                "status": r.status,
                "reader": r.reader,
                "store": None if r.store is None else str(r.store),
                "objects": r.objects,
                "modalities": dict(r.modalities),
                "tokens": dict(r.tokens),
                "left_out": dict(r.left_out),
                "skipped": r.skipped.document(),
                "group": [str(path) for path in r.group],
                "options": dict(r.options),
                "reason": r.reason,
            }
            for r in report.files
        ],
    }


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of objects, 1 or more")
    return number
