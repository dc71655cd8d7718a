"""Look into token stores: how many objects and tokens, how well the codes are used, where on the sky, by which plugins.

PATH is a token store (*.arrow), or a folder that is searched for them. None of the plugins that made them need to be
installed. With --verify, every byte is checked against the checksum that was written.

example:
  aion store stats tokens/
  aion store stats tokens/field-1.arrow tokens/field-2.arrow --verify --json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import add_action, print_json, print_table, progress
from aion_core.contract import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from aion_core.data.store import TokenStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion store``."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="stats")
    stats = add_action(verbs, "stats", "count what token stores hold", __doc__)
    stats.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="token stores, or folders of them")
    stats.add_argument("--verify", action="store_true", help="check all content against the checksums")
    stats.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> None:
    """Count, and verify if asked to."""
    from aion_core.data.statistics import store_statistics
    from aion_core.data.store import TokenStore

    stores = TokenStore.open(args.paths)
    with progress(quiet=args.json) as bar:
        if args.verify:
            _verify(stores, bar)
        task = bar.add_task("counting", total=len(stores))
        found = store_statistics(stores, lambda _: bar.advance(task))
    if args.json:
        print_json(found | {"verified": args.verify})
    else:
        _print(found, args.verify)


def _verify(stores: Sequence[TokenStore], bar: Progress) -> None:
    """Check all stores before saying which are damaged."""
    task, faults = bar.add_task("verifying", total=len(stores)), []
    for store in stores:
        try:
            store.verify()
        except InputError as error:
            faults.append(str(error))
        bar.advance(task)
    if faults:
        others = f" ({len(faults) - 1} more of {len(stores)} stores fail, too.)" if len(faults) > 1 else ""
        raise InputError(faults[0] + others)


def _print(found: dict[str, Any], verified: bool) -> None:
    sky = found["sky"]
    facts = [
        ("objects", f"{found['objects']:,}"),
        ("tokens", f"{found['tokens']:,}"),
        ("files", f"{len(found['stores'])}, {_size(found['bytes'])}{', checksums verified' if verified else ''}"),
        (
            "plugins",
            ", ".join(f"{p['distribution']} {p['version'] or ''}".strip() for p in found["plugins"]) or "unknown",
        ),
        ("sky", _extent(sky) if sky else "no object has a position"),
    ]
    print_table("", ("token stores", ""), facts)
    rows = [
        (
            key,
            f"{m['objects']:,}",
            f"{m['missing']:.1%}",
            f"{m['tokens']:,}",
            f"{m['codes_used']:,} of {m['vocab_size']:,}",
            f"{m['perplexity']:,.1f}",
            ", ".join(fingerprint[:12] for fingerprint in m["fingerprints"]) or "unknown",
        )
        for key, m in found["modalities"].items()
    ]
    columns = ("modality", ">objects", ">missing", ">tokens", ">codes used", ">perplexity", "tokenizer")
    print_table("Modalities", columns, rows)
    files = [(f["path"], f"{f['objects']:,}", _size(f["bytes"]), len(f["modalities"])) for f in found["stores"]]
    print_table("Files", ("path", ">objects", ">size", ">modalities"), files)


def _extent(sky: dict[str, Any]) -> str:
    ra, dec = sky["ra"], sky["dec"]
    return (
        f"{sky['objects']:,} positions, RA {ra[0]:.3f} to {ra[1]:.3f}, Dec {dec[0]:+.3f} to {dec[1]:+.3f} degrees, "
        f"{sky['fraction']:.2%} of the sky"
    )


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
