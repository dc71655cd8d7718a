"""What the actions print: figures of tokenizers, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import print_table

if TYPE_CHECKING:
    from aion_core.data.survey_files import SurveyFiles
    from aion_core.tokenizers import TokenizerSet
    from aion_core.tokenizers.quality import Quality

#: Objects per code below which a codebook is mostly noise: the shares of its codes scatter by a third and more.
FEW = 10
COLUMNS = ("key", ">objects", ">codes used", ">perplexity", ">% of V", ">R²", ">rmse", "units")
#: Of networks, besides: the better of the two baselines, and the error in units of the noise.
MORE = (">R² of the mean", ">χ²")


def document(
    tokenizers: TokenizerSet, measures: Mapping[str, Quality], left_out: dict[str, str], files: SurveyFiles
) -> dict[str, Any]:
    """Return what is printed as JSON."""
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
        "lost": {path: lost.document() for path, lost in files.lost.items()},
    }


def show(found: Mapping[str, Any]) -> None:
    """Print a document as a table, and what was left out."""
    figures = found["modalities"]
    more = any("chi2" in f for f in figures.values())
    rows = [(key, *_row(f, more)) for key, f in figures.items()]
    if rows:
        print_table("", (*COLUMNS[:-1], *MORE, COLUMNS[-1]) if more else COLUMNS, rows)
    for key, reason in found["left_out"].items():
        print(f"{key}: {reason}")
    if found["skipped"]:
        rest = f" and {len(found['skipped']) - 1} more" if len(found["skipped"]) > 1 else ""
        print(f"No installed reader reads {found['skipped'][0]}{rest}.")
    for reason in found["damaged"].values():
        print(f"Left out: {reason}")
    for path, lost in found["lost"].items():
        first = lost["named"][0]
        print(f"Skipped: {lost['count']:,} objects of {path} (first: {first['name']}: {first['reason']}).")


def _row(figures: Mapping[str, Any], more: bool) -> tuple[str, ...]:
    last = (_number(figures.get("baseline"), ".4f"), _number(figures.get("chi2"), ".3f")) if more else ()
    return (
        f"{figures['objects']:,}",
        f"{figures['codes_used']:,} of {figures['vocab_size']:,}",
        f"{figures['perplexity']:.1f}",
        f"{100 * figures['fraction']:.1f}",
        _number(figures["r2"], ".6f"),
        _number(figures["rmse"], ".4g"),
        *last,
        figures["units"] or "–",
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
