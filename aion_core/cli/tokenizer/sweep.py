"""``aion tokenizer train --sweep``: one training for each value of a setting, and how they compare (figure 6)."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import print_table
from aion_core.contract import AionError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from aion_core.engine import World
    from aion_core.plugins import Registry
    from aion_core.tokenizers.training import TokenizerConfig

#: The setting that stands for all those that make the size of a codebook.
CODES = "codes"


def run(
    args: argparse.Namespace,
    registry: Registry,
    keys: list[str] | None,
    recipes: Sequence[TokenizerConfig],
    world: World,
    bar: Bar,
) -> dict[str, Any]:
    """Train each, and write ``sweep.json`` and ``sweep.png``; return the table."""
    from aion_core.cli.tokenizer import networks
    from aion_core.data.files import read_options
    from aion_core.data.survey_files import SurveyFiles
    from aion_core.files import write_json
    from aion_core.tokenizers.training.beginning import begin

    if keys is None:
        raise AionError("--sweep needs --modalities: say which network is compared.")
    if args.start:
        raise AionError("--sweep trains afresh; leave --from and --grow out.")
    setting, values = parse(args.sweep)
    files = SurveyFiles(args.paths, registry, keys, read_options(args.readers, registry))
    found: list[dict[str, Any]] = []
    for name, specs in networks.groups(registry, keys).items():
        config = networks.recipe_for(specs[0], recipes)
        if config is None:
            raise AionError(f"{specs[0].key}: no --preset or --config given is for kind {specs[0].kind!r}.")
        for value in values:
            changed, sized = with_value(config, specs, setting, value)
            changed = networks.in_folder(changed, config.run.folder / name / f"{setting}={_short(value)}")
            label = f"{name} {setting}={_short(value)}"
            sources = networks.sources(changed, files, args.paths, registry)
            training = networks.train_one(label, changed, begin(sized, changed), sources, world, bar)
            found += [
                {"key": key, "setting": setting, "value": value, **quality.to_dict()}
                for key, quality in training.outcome.held_out.items()
            ]
            if training.outcome.stopped_by:
                raise AionError(f"{label}: stopped by {training.outcome.stopped_by}, saved; run it again to continue.")
    table = {"out": str(args.out), "sweep": found}
    if world.lead:
        write_json(args.out / "sweep.json", table)
        draw(found, setting, args.out / "sweep.png")
    return table


def parse(text: str) -> tuple[str, list[Any]]:
    """Return the setting and the values of ``setting=a,b,c``; lists are written as in TOML."""
    setting, equals, values = text.partition("=")
    try:
        found = tomllib.loads(f"x = [{values}]")["x"]
    except tomllib.TOMLDecodeError:
        found = []
    if not equals or not setting or len(found) < 1:
        raise AionError(f"--sweep {text!r}: expected SETTING=A,B,…, for example codes=256,1024,4096.")
    return setting, found


def with_value(
    config: TokenizerConfig, specs: Sequence[Any], setting: str, value: Any
) -> tuple[TokenizerConfig, list[Any]]:
    """Return configuration and specs with a setting at a value; vocabularies are as large as the codebook needs."""
    from aion_core.engine import toml
    from aion_core.tokenizers.base import tokenizer_class
    from aion_core.tokenizers.training import TokenizerConfig

    values = config.model_dump(mode="json")
    if setting != CODES:
        toml.override(
            values, [f"{setting}={value!r}" if not isinstance(value, bool) else f"{setting}={str(value).lower()}"]
        )
        return toml.parse(TokenizerConfig, values, "--sweep"), list(specs)
    if not isinstance(value, int):
        raise AionError(f"--sweep codes: {value!r} is no number of codes.")
    cls: Any = tokenizer_class(specs[0])
    if not hasattr(cls, "codebook"):
        raise AionError(f"{cls.__name__} cannot choose a codebook by its size; sweep one of its settings (network.…).")
    codes, network = cls.codebook(value)
    values["network"] |= network
    sized = [spec.model_copy(update={"vocab_size": codes}) for spec in specs]
    return toml.parse(TokenizerConfig, values, "--sweep"), sized


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    columns = ("key", "setting", ">codes used", ">perplexity", ">R²", ">R² of the mean", ">rmse", ">χ²")
    rows = [
        (
            entry["key"],
            f"{entry['setting']} = {_short(entry['value'])}",
            f"{entry['codes_used']:,} of {entry['vocab_size']:,}",
            f"{entry['perplexity']:.1f}",
            *(_number(entry.get(name)) for name in ("r2", "baseline", "rmse", "chi2")),
        )
        for entry in found["sweep"]
    ]
    print_table("", columns, rows)
    print(f"Written to {found['out']}.")


def draw(found: Sequence[dict[str, Any]], setting: str, path: Path) -> None:
    """Plot the share of the variance that is lost against the setting, where matplotlib is installed."""
    from aion_core.tokenizers.training.page import has_matplotlib

    if not has_matplotlib() or not found:
        return
    from matplotlib import rc_context

    with rc_context({"text.usetex": False}):  # some packages of the field switch LaTeX on as they are imported
        _draw(found, setting, path)


def _draw(found: Sequence[dict[str, Any]], setting: str, path: Path) -> None:
    from matplotlib.figure import Figure

    from aion_core.files import replacing

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for key in dict.fromkeys(entry["key"] for entry in found):
        mine = [entry for entry in found if entry["key"] == key and entry["r2"] is not None]
        x = [e["value"] if isinstance(e["value"], int | float) else i for i, e in enumerate(mine)]
        axes.plot(x, [1 - e["r2"] for e in mine], "o-", label=key)
        if not all(isinstance(e["value"], int | float) for e in mine):
            axes.set_xticks(x, [_short(e["value"]) for e in mine])
        elif setting == CODES:
            axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(setting)
    axes.set_ylabel("1 − R², held out")
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _short(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
