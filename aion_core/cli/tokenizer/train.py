"""``aion tokenizer train``: tables are fitted in one pass, networks trained by gradients, and both make one set."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import print_json, progress
from aion_core.cli.tokenizer.evaluate import all_found, measure_files, visit
from aion_core.cli.tokenizer.tables import FEW, document, show
from aion_core.contract import AionError

if TYPE_CHECKING:
    from rich.progress import Progress

    from aion_core.engine import World
    from aion_core.observations import Observation
    from aion_core.plugins import Registry
    from aion_core.tokenizers import Tokenizer
    from aion_core.tokenizers.quality import Quality


def run(args: argparse.Namespace) -> None:
    """Train, print what came of it, and say how to go on if it was stopped."""
    from aion_core.cli.tokenizer import networks, sweep
    from aion_core.engine import choose_device, open_world, without_denormals
    from aion_core.plugins import load_registry

    registry = load_registry()
    keys = list(dict.fromkeys(registry.resolve(key).key for key in args.modalities)) if args.modalities else None
    recipes = networks.recipes(args)
    _check_out(args)
    device = choose_device(recipes[0].run.device if recipes else "cpu")
    with without_denormals(), open_world(device) as world, progress(quiet=args.json or not world.lead) as bar:
        if args.sweep is not None:
            found = sweep.run(args, registry, keys, recipes, world, bar)
        else:
            found = _train(args, registry, keys, recipes, world, bar)
        if not world.lead:
            return
    if args.json:
        print_json(found)
    elif args.sweep is not None:
        sweep.show(found)
    else:
        _show(found, args)


def _check_out(args: argparse.Namespace) -> None:
    from aion_core.tokenizers.sets import check_replaceable

    if args.out.exists() and not args.overwrite:
        raise AionError(f"{args.out} exists; choose another --out, or replace that tokenizer set with --overwrite.")
    check_replaceable(args.out)


def _show(found: dict[str, Any], args: argparse.Namespace) -> None:
    show(found)
    for name, training in found["trainings"].items():
        if training["stopped_by"]:
            print(
                f"{name}: stopped by {training['stopped_by']} at step {training['step']}, saved in "
                f"{training['folder']}; run the same command to continue."
            )
        elif not any("held_out" in found["modalities"].get(key, {}) for key in training["modalities"]):
            print(f"{name}: no object is held out, so there are no figures: raise data.split.fraction or .order.")
    few = [
        key
        for key, figures in found["modalities"].items()
        if "held_out" not in figures and figures["objects"] < FEW * figures["vocab_size"]
    ]
    if few:
        print(f"Fitted to fewer than {FEW} objects per code, good for trying things out only: {', '.join(few)}.")
    if judged := [key for key, figures in found["modalities"].items() if figures.get("held_out")]:
        print(f"Measured on held-out objects: {', '.join(judged)}.")
    if found["out"]:
        print(f"Written to {args.out}.")


def _train(
    args: argparse.Namespace, registry: Registry, keys: list[str] | None, recipes: Any, world: World, bar: Progress
) -> dict[str, Any]:
    from aion_core.cli.tokenizer import networks
    from aion_core.data.files import read_options
    from aion_core.data.survey_files import SurveyFiles, name_some
    from aion_core.tokenizers import TokenizerSet

    left_out: dict[str, str] = {}
    asked = {key: why for key in keys or () if (why := _untrainable(registry, key, recipes)) is not None}
    if asked:
        key, why = next(iter(asked.items()))
        raise AionError(f"{key} cannot be fitted here: {why}.")
    files = SurveyFiles(args.paths, registry, keys, read_options(args.readers, registry))
    base = TokenizerSet.load(args.start, registry) if args.start else None
    tokenizers: dict[str, Tokenizer] = dict(base or {})
    found = _fit(files, registry, keys, recipes, left_out, bar)
    fitted = {key: t for key, t in found.items() if t is not None}
    wanted = [key for key, t in found.items() if t is None]
    all_found(keys, found, args.paths)
    if not found:
        raise AionError(f"Nothing in {name_some(args.paths)} can be fitted: {_reasons(left_out)}.")
    tokenizers |= fitted
    trained = networks.train(args, files, registry, wanted, recipes, base, world, bar)
    tokenizers |= {key: t for training in trained for key, t in training.tokenizers.items()}
    if not world.lead:
        return {}
    measures: dict[str, Quality] = {}
    made = TokenizerSet((tokenizers[key].eval() for key in registry.modalities if key in tokenizers), registry)
    if fitted:
        measures = measure_files(files.having(list(fitted)), TokenizerSet(fitted.values(), registry), bar)[0]
    judged = {key: q for training in trained for key, q in training.outcome.held_out.items()}
    finished = all(training.outcome.finished for training in trained)
    if finished:
        made.save(args.out)
    ordered = {key: (measures | judged)[key] for key in made if key in measures | judged}
    result = document(made, ordered, left_out, files)
    for key in judged:
        result["modalities"][key]["held_out"] = True
    trainings = {training.name: training.summary() for training in trained}
    return result | {"trainings": trainings, "out": str(args.out) if finished else None}


def _fit(
    files: Any, registry: Registry, keys: list[str] | None, recipes: Any, left_out: dict[str, str], bar: Progress
) -> dict[str, Tokenizer | None]:
    """Fit in one pass what can be; return it by modality, and None for each network that is to be trained."""
    from aion_core.tokenizers import build_tokenizer
    from aion_core.tokenizers.base import Fittable, is_fittable

    found: dict[str, Tokenizer | None] = {}

    def observe(key: str, obs: Observation) -> None:
        if key not in found and key not in left_out:
            if (reason := _untrainable(registry, key, recipes)) is not None:
                left_out[key] = reason
                return
            found[key] = build_tokenizer(registry.resolve(key)) if is_fittable(registry.resolve(key)) else None
        tokenizer = found.get(key)
        if isinstance(tokenizer, Fittable):
            tokenizer.observe(obs)

    if keys is not None and not any(is_fittable(registry.resolve(key)) for key in keys):
        return dict.fromkeys(keys)  # nothing to look at before the training does
    visit(files, observe, bar, "fitting")
    for tokenizer in found.values():
        if isinstance(tokenizer, Fittable):
            tokenizer.finish()
    return found


def _untrainable(registry: Registry, key: str, recipes: Any) -> str | None:
    """Return why a modality gets no tokenizer here, or None if it does."""
    from aion_core.cli.tokenizer.networks import recipe_for
    from aion_core.tokenizers.base import is_fittable, tokenizer_class

    spec = registry.resolve(key)
    if spec.tokenizer is None:
        return "its plugin declares no tokenizer"
    if is_fittable(spec) or recipe_for(spec, recipes) is not None:
        return None
    name = tokenizer_class(spec).__name__
    if recipes:
        return f"{name} is trained by gradients, and no --preset or --config given is for kind {spec.kind!r}"
    return f"{name} is trained by gradients; name a recipe (--preset NAME or --config FILE.toml)"


def _reasons(left_out: dict[str, str]) -> str:
    return "; ".join(f"{key}: {why}" for key, why in left_out.items()) or "no object has a modality with a tokenizer"
