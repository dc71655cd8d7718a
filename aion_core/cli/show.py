"""Plot objects as their reader reads them: images, spectra with errors and bad pixels, coefficients, sources, numbers.

Nothing is tokenized; what is drawn is what a tokenizer would get. PATH is a survey file, or a folder that is searched
for them; objects are taken from all files in turn. With --modalities, only objects that have one of these are drawn.
Where the objects have numbers only, their distributions are drawn.

example:
  aion show survey/coadd.fits --out spectra.png
  aion show survey/ --out images.pdf --objects 10 --modalities demo_image --json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import add_readers, print_json, progress
from aion_core.contract import AionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aion_core.cli.plots import Shown
    from aion_core.data.survey_files import SurveyFiles

#: Objects of a file that are looked at, and objects in all whose numbers make a distribution.
DISTRIBUTION = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion show``."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="survey files, or folders of them")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--objects", type=_positive, default=5, metavar="N", help="how many to draw (default: 5)")
    parser.add_argument("--modalities", nargs="+", metavar="KEY", help="these only (default: all that occur)")
    add_readers(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> None:
    """Read a few objects and draw them."""
    from aion_core.data.files import read_options
    from aion_core.data.survey_files import SurveyFiles
    from aion_core.plugins import load_registry

    try:
        from aion_core.cli import plots
    except ImportError as error:
        raise AionError(f"aion show needs matplotlib ({error}); pip install 'aion-core[demo]'.") from None
    plots.check_format(args.out)
    registry = load_registry()
    keys = [registry.resolve(key).key for key in args.modalities] if args.modalities else None
    with progress(quiet=args.json) as bar:
        task = bar.add_task("reading", total=None)
        files = SurveyFiles(args.paths, registry, keys, read_options(args.readers, registry))
        pictures = {key for key, spec in registry.modalities.items() if spec.kind in plots.WIDTHS}
        if objects := _some(files, args.objects, pictures):
            bar.update(task, description="drawing")
            plots.draw_objects(objects, args.out, registry)
        elif objects := _some(files, DISTRIBUTION, set(registry.modalities)):
            plots.draw_distributions(objects, args.out, registry)
        else:
            raise AionError(f"No object with {' or '.join(keys) if keys else 'any modality'} was found to show.")
    shown = [{"file": str(one.file), "object_id": one.name, "modalities": list(one.data)} for one in objects]
    lost = {path: report.document() for path, report in files.lost.items()}
    if args.json:
        print_json({"out": str(args.out), "objects": shown, "damaged": files.damaged, "skipped": lost})
        return
    for reason in files.damaged.values():
        print(f"Left out: {reason}")
    print(f"{len(shown)} objects of {len({one['file'] for one in shown})} files drawn in {args.out}.")


def _some(files: SurveyFiles, count: int, wanted: set[str]) -> list[Shown]:
    """Return objects that have a wanted modality, of all files in turn, up to `count`."""
    streams = [_objects(files, index, wanted) for index in range(len(files))]
    found: list[Shown] = []
    while streams and len(found) < count:
        for stream in list(streams):
            if (one := next(stream, None)) is None:
                streams.remove(stream)
            else:
                found.append(one)
    return found[:count]


def _objects(files: SurveyFiles, index: int, wanted: set[str]) -> Iterator[Shown]:
    """Yield those of the first objects of a file that have a wanted modality."""
    from aion_core.cli.plots import Shown

    path, _ = files.files[index]
    left = DISTRIBUTION
    for batch in files.read(index, 32):
        data: list[dict[str, Any]] = [{} for _ in range(len(batch))]
        for key, (observation, rows) in batch.data.items():
            if files.keys is None or key in files.keys:
                for place, row in enumerate(rows):
                    data[row][key] = observation[place]
        for name, one in zip(batch.object_id, data, strict=True):
            if not wanted.isdisjoint(one):
                yield Shown(path, str(name), one)
        left -= len(batch)
        if left <= 0:
            return


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of objects, 1 or more")
    return number
