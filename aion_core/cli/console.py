"""What the verbs share in talking to people and machines: tables, JSON, progress. Imports rich on use."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


def add_action(verbs: Any, name: str, text: str, doc: str | None) -> argparse.ArgumentParser:
    """Add an action to a verb; its ``--help`` shows the verb's own text, example included."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def add_readers(parser: argparse.ArgumentParser) -> None:
    """Declare ``--readers``, which all verbs that read survey files have."""
    parser.add_argument(
        "--readers", type=Path, metavar="FILE", help="options of readers, TOML: [reader] option = value"
    )


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], style: str = "") -> None:
    """Print a table, coloured where a terminal is; a column whose heading begins with ``>`` is right-aligned."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, style=style)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 240).print(table)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """A progress display with ETA on standard error; invisible where that is not a terminal, or when quiet."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:
        yield bar
