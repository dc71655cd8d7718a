"""Fit tokenizers to survey files, or measure how well fitted ones encode them.

PATH is a survey file, or a folder that is searched for them. `train` fits the tokenizer of every modality that occurs
and can be fitted in one pass over the data, and writes a tokenizer set: a folder in the layout of the AION-1 release
with a manifest. `eval` reads such a set, or a repository on the Hub.

example:
  aion tokenizer train survey/ --out my-tokenizers
  aion tokenizer eval other-field.fits --tokenizers my-tokenizers --json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import add_action, print_json, print_table, progress
from aion_core.contract import AionError

if TYPE_CHECKING:
    from rich.progress import Progress

    from aion_core.data.survey_files import SurveyFiles
    from aion_core.observations import Observation
    from aion_core.plugins import Registry
    from aion_core.tokenizers import Tokenizer, TokenizerSet
    from aion_core.tokenizers.report import Measure

#: Objects per code below which a codebook is mostly noise: the shares of its codes scatter by a third and more.
FEW = 10
COLUMNS = ("key", ">objects", ">codes used", ">perplexity", ">% of V", ">R²", ">rmse", "units")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion tokenizer``."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="{train,eval}")
    train = add_action(verbs, "train", "fit tokenizers to files", __doc__)
    evaluate = add_action(verbs, "eval", "measure tokenizers on files", __doc__)
    for verb in (train, evaluate):
        verb.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="survey files, or folders of them")
        verb.add_argument("--modalities", nargs="+", metavar="KEY", help="these only (default: all that occur)")
        verb.add_argument("--json", action="store_true", help="print one JSON document")
    train.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the tokenizer set goes")
    train.add_argument("--overwrite", action="store_true", help="replace an older tokenizer set of that name")
    evaluate.add_argument("--tokenizers", required=True, metavar="DIR", help="tokenizer set: a folder or repository")


def run(args: argparse.Namespace) -> None:
    """Fit or measure."""
    from aion_core.plugins import load_registry

    registry = load_registry()
    keys = list(dict.fromkeys(registry.resolve(key).key for key in args.modalities)) if args.modalities else None
    with progress(quiet=args.json) as bar:
        found = (_train if args.action == "train" else _evaluate)(args, registry, keys, bar)
    if args.json:
        print_json(found)
        return
    rows = [(key, *_row(figures)) for key, figures in found["modalities"].items()]
    print_table("", COLUMNS, rows)
    for key, reason in found["left_out"].items():
        print(f"{key}: {reason}")
    if found["skipped"]:
        more = f" and {len(found['skipped']) - 1} more" if len(found["skipped"]) > 1 else ""
        print(f"No installed reader reads {found['skipped'][0]}{more}.")
    for reason in found["damaged"].values():
        print(f"Left out: {reason}")
    if args.action == "train":
        few = [key for key, figures in found["modalities"].items() if figures["objects"] < FEW * figures["vocab_size"]]
        if few:
            print(f"Fitted to fewer than {FEW} objects per code, good for trying things out only: {', '.join(few)}.")
        print(f"Written to {args.out}.")


def _train(args: argparse.Namespace, registry: Registry, keys: list[str] | None, bar: Progress) -> dict[str, Any]:
    from aion_core.data.survey_files import SurveyFiles, name_some
    from aion_core.tokenizers import TokenizerSet, build_tokenizer
    from aion_core.tokenizers.base import Fittable
    from aion_core.tokenizers.sets import check_replaceable

    if args.out.exists() and not args.overwrite:
        raise AionError(f"{args.out} exists; choose another --out, or replace that tokenizer set with --overwrite.")
    check_replaceable(args.out)
    files = SurveyFiles(args.paths, registry, keys)
    tokenizers: dict[str, Tokenizer] = {}
    left_out: dict[str, str] = {}

    def observe(key: str, obs: Observation) -> None:
        if key not in tokenizers and key not in left_out:
            if (reason := _unfittable(registry, key)) is not None:
                left_out[key] = reason
                return
            tokenizers[key] = build_tokenizer(registry.resolve(key))
        tokenizer = tokenizers.get(key)
        if isinstance(tokenizer, Fittable):
            tokenizer.observe(obs)

    if refused := [(key, why) for key in keys or () if (why := _unfittable(registry, key)) is not None]:
        raise AionError(f"{refused[0][0]} cannot be fitted here: {refused[0][1]}.")
    visit(files, observe, bar, "fitting")
    _all_found(keys, tokenizers, args.paths)
    if not tokenizers:
        raise AionError(f"Nothing in {name_some(args.paths)} can be fitted: {_reasons(left_out)}.")
    order = [key for key in registry.modalities if key in tokenizers]
    for key in order:
        tokenizer = tokenizers[key]
        if isinstance(tokenizer, Fittable):
            tokenizer.finish()
    fitted = TokenizerSet((tokenizers[key].eval() for key in order), registry)
    measures = _measure(files, fitted, bar)
    fitted.save(args.out)
    return _document(fitted, measures, left_out, files) | {"out": str(args.out)}


def _evaluate(args: argparse.Namespace, registry: Registry, keys: list[str] | None, bar: Progress) -> dict[str, Any]:
    from aion_core.data.survey_files import SurveyFiles, name_some
    from aion_core.tokenizers import TokenizerSet

    tokenizers = TokenizerSet.load(args.tokenizers, registry, keys)
    files = SurveyFiles(args.paths, registry, keys)
    measures = _measure(files, tokenizers, bar)
    _all_found(keys, measures, args.paths)
    if not measures:
        raise AionError(
            f"Nothing in {name_some(args.paths)} is of a modality that {args.tokenizers} has a tokenizer for."
        )
    missing = dict.fromkeys(sorted(files.seen - set(measures)), f"{args.tokenizers} has no tokenizer for it")
    return _document(tokenizers, measures, missing, files)


def _measure(files: SurveyFiles, tokenizers: TokenizerSet, bar: Progress) -> dict[str, Measure]:
    """Encode and decode everything that there is a tokenizer for."""
    from aion_core.tokenizers.report import measure

    measures: dict[str, Measure] = {}

    def add(key: str, obs: Observation) -> None:
        if key in tokenizers:
            tokens, values, decoded = tokenizers[key].reconstruct(obs)
            part = measure(values, decoded, tokens, tokenizers[key].spec.vocab_size)
            measures[key] = measures[key] + part if key in measures else part

    visit(files, add, bar, "measuring")
    return {key: measures[key] for key in tokenizers if key in measures}


def _unfittable(registry: Registry, key: str) -> str | None:
    """Return why a modality cannot be fitted by looking at the data once, or None if it can."""
    from aion_core.tokenizers.base import tokenizer_class

    spec = registry.resolve(key)
    if spec.tokenizer is None:
        return "its plugin declares no tokenizer"
    cls = tokenizer_class(spec)
    if all(hasattr(cls, name) for name in ("observe", "merge", "finish")):
        return None
    return f"{cls.__name__} is trained by gradients; fitting in one pass does not apply"


def _document(
    tokenizers: TokenizerSet, measures: dict[str, Measure], left_out: dict[str, str], files: SurveyFiles
) -> dict[str, Any]:
    return {
        "modalities": {
            key: {
                **measured.to_dict(),
                "units": tokenizers[key].spec.units,
                "fingerprint": tokenizers[key].fingerprint,
            }
            for key, measured in measures.items()
        },
        "left_out": left_out,
        "skipped": files.skipped,
        "damaged": files.damaged,
    }


def _row(figures: dict[str, Any]) -> tuple[str, ...]:
    r2, rmse = figures["r2"], figures["rmse"]
    return (
        f"{figures['objects']:,}",
        f"{figures['codes_used']:,} of {figures['vocab_size']:,}",
        f"{figures['perplexity']:.1f}",
        f"{100 * figures['fraction']:.1f}",
        "–" if r2 is None else f"{r2:.6f}",
        "–" if rmse is None else f"{rmse:.4g}",
        figures["units"] or "–",
    )


def visit(files: SurveyFiles, visitor: Callable[[str, Observation], None], bar: Progress, what: str) -> None:
    """Show every observation to a visitor, and how far it is."""
    task = bar.add_task(what, total=len(files))
    files.visit(visitor, lambda: bar.advance(task))


def _all_found(keys: list[str] | None, found: Any, paths: list[Path]) -> None:
    from aion_core.data.survey_files import name_some

    if missing := [key for key in keys or () if key not in found]:
        raise AionError(f"No object in {name_some(paths)} has {missing[0]}.")


def _reasons(left_out: dict[str, str]) -> str:
    return "; ".join(f"{key}: {why}" for key, why in left_out.items()) or "no object has a modality with a tokenizer"
