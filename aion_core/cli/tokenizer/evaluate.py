"""``aion tokenizer eval``: how well the tokenizers of a set encode survey files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import print_json, progress
from aion_core.cli.tokenizer.tables import document, show
from aion_core.contract import AionError

if TYPE_CHECKING:
    from rich.progress import Progress

    from aion_core.data.survey_files import SurveyFiles
    from aion_core.observations import Observation
    from aion_core.tokenizers import TokenizerSet
    from aion_core.tokenizers.quality import Quality

#: Objects of each modality on a page of reconstructions.
EXAMPLES = 12


def run(args: argparse.Namespace) -> None:
    """Measure, print, and draw if asked to."""
    from aion_core.plugins import load_registry
    from aion_core.tokenizers.training.page import has_matplotlib

    if args.plots is not None and not has_matplotlib():
        raise AionError("--plots needs matplotlib: pip install matplotlib")
    registry = load_registry()
    keys = list(dict.fromkeys(registry.resolve(key).key for key in args.modalities)) if args.modalities else None
    with progress(quiet=args.json) as bar:
        found = _evaluate(args, registry, keys, bar)
    if args.json:
        print_json(found)
        return
    show(found)
    for page in found.get("plots", ()):
        print(f"Reconstructions: {page}")


def _evaluate(args: argparse.Namespace, registry: Any, keys: list[str] | None, bar: Progress) -> dict[str, Any]:
    from aion_core.data.files import read_options
    from aion_core.data.survey_files import SurveyFiles, name_some
    from aion_core.tokenizers import TokenizerSet

    tokenizers = TokenizerSet.load(args.tokenizers, registry, keys)
    files = SurveyFiles(args.paths, registry, keys, read_options(args.readers, registry))
    measures, pages = measure_files(files, tokenizers, bar, args.plots)
    all_found(keys, measures, args.paths)
    if not measures:
        raise AionError(
            f"Nothing in {name_some(args.paths)} is of a modality that {args.tokenizers} has a tokenizer for."
        )
    missing = dict.fromkeys(sorted(files.seen - set(measures)), f"{args.tokenizers} has no tokenizer for it")
    found = document(tokenizers, measures, missing, files)
    return found if args.plots is None else found | {"plots": pages}


def measure_files(
    files: SurveyFiles, tokenizers: TokenizerSet, bar: Progress, plots: Path | None = None
) -> tuple[dict[str, Quality], list[str]]:
    """Encode and decode everything that there is a tokenizer for; return the figures and the pages that were drawn."""
    from aion_core.tokenizers.training.evaluation import assess_one
    from aion_core.tokenizers.training.page import Gallery

    measures: dict[str, Quality] = {}
    galleries: dict[str, Gallery] = {}

    def add(key: str, obs: Observation) -> None:
        if key in tokenizers:
            gallery = galleries.setdefault(key, Gallery(EXAMPLES if plots else 0))
            part = assess_one(tokenizers[key], obs, gallery)
            measures[key] = measures[key] + part if key in measures else part

    visit(files, add, bar, "measuring")
    pages = [str(plots / f"{key}.png") for key, gallery in galleries.items() if plots and gallery.examples]
    for key, gallery in galleries.items():
        if plots is not None:
            gallery.draw(plots / f"{key}.png", key)
    return {key: measures[key] for key in tokenizers if key in measures}, pages


def visit(files: SurveyFiles, visitor: Callable[[str, Observation], None], bar: Progress, what: str) -> None:
    """Show every observation to a visitor, and how far it is."""
    task = bar.add_task(what, total=len(files))
    files.visit(visitor, lambda: bar.advance(task))


def all_found(keys: list[str] | None, found: Any, paths: list[Path]) -> None:
    """Raise unless every modality that was asked for occurred."""
    from aion_core.data.survey_files import name_some

    if missing := [key for key in keys or () if key not in found]:
        raise AionError(f"No object in {name_some(paths)} has {missing[0]}.")
