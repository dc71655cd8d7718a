"""The demo's report: numbers as JSON, plots as PNG, and one page that shows both."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.engine import MetricsLog
from aion_core.files import replacing, write_json

INK, ACCENT, PALE = "#22304a", "#c8553d", "#c9d3e2"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Held-out objects: one modality predicted from others, beside the truth, in the modality's units."""

    target: str
    given: tuple[str, ...]
    units: str
    truth: Floats
    median: Floats
    low: Floats
    high: Floats


def write_report(
    folder: Path, facts: dict[str, Any], metrics: MetricsLog, predictions: Sequence[Prediction], note: str
) -> Path:
    """Write ``index.html``, ``report.json`` and the plots, all of them or none; returns the page."""
    import matplotlib as mpl

    mpl.use("Agg")
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "report.json", facts)
        _plot_held_out(temporary / "held_out.png", facts["held_out"])
        _plot_training(temporary / "training.png", list(metrics.read()))
        _plot_codebooks(temporary / "codebooks.png", facts["tokenizers"])
        if predictions:
            _plot_predictions(temporary / "predictions.png", predictions)
        (temporary / "index.html").write_text(_page(facts, note, bool(predictions)))
    return folder / "index.html"


def _plot_held_out(path: Path, held_out: list[dict[str, Any]]) -> None:
    labels = [h["target"] + (f"  from  {', '.join(h['given'])}" if h["given"] else "") for h in held_out]
    place = np.arange(len(labels))[::-1]
    with _figure(path, (9, 1.2 + 0.27 * len(labels))) as axes:
        axes.barh(place, [h["entropy"] for h in held_out], color=PALE, label="entropy: ignoring the input")
        colours = [ACCENT if h["given"] else INK for h in held_out]
        axes.barh(place, [h["loss"] for h in held_out], color=colours, height=0.45, label="held-out loss")
        axes.set_yticks(place, labels, fontsize=8)
        axes.set_xlabel("nats per token")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)


def _plot_training(path: Path, lines: list[dict[str, Any]]) -> None:
    train = [line for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    with _figure(path, (9, 4)) as axes:
        axes.plot([t["step"] for t in train], [t["loss"] for t in train], color=PALE, label="training")
        for name in sorted({h["target"] for e in evaluations for h in e["held_out"] if h["given"]}):
            points = [
                (e["step"], h["loss"]) for e in evaluations for h in e["held_out"] if h["given"] and h["target"] == name
            ]
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, label=f"{name}, held out, from its neighbours")
        axes.set_xlabel("step")
        axes.set_ylabel("nats per token")
        axes.legend(frameon=False, fontsize=7, ncols=2)


def _plot_codebooks(path: Path, tokenizers: list[dict[str, Any]]) -> None:
    with _figure(path, (9, 1.2 + 0.27 * len(tokenizers))) as axes:
        place = np.arange(len(tokenizers))[::-1]
        axes.barh(place, [t["percent"] for t in tokenizers], color=INK)
        axes.axvline(10, color=ACCENT, lw=1)
        axes.set_yticks(place, [t["key"] for t in tokenizers], fontsize=8)
        axes.set_xlabel("codebook perplexity in the token stores, % of the vocabulary")


def _plot_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    import matplotlib.pyplot as plt

    columns = min(3, len(predictions))
    rows = -(-len(predictions) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.6 * columns, 3.6 * rows), squeeze=False)
    for axes in grid.flat[len(predictions) :]:
        axes.axis("off")
    for axes, p in zip(grid.flat, predictions, strict=False):
        bars = np.abs(np.stack([p.median - p.low, p.high - p.median]))
        axes.errorbar(p.truth, p.median, yerr=bars, fmt=".", ms=3, lw=0.4, color=INK, alpha=0.5)
        if (p.truth > 0).all() and (p.low > 0).all():
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.axline((p.truth.min(), p.truth.min()), (p.truth.max(), p.truth.max()), color=ACCENT, lw=0.8)
        axes.set_title(f"{p.target}\nfrom {', '.join(p.given)}", fontsize=8)
        axes.set_xlabel(f"true ({p.units})" if p.units else "true", fontsize=8)
        axes.set_ylabel("posterior median, 16–84 %", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


class _figure:  # noqa: N801
    """A figure with one pair of axes, saved and closed at the end of the block."""

    def __init__(self, path: Path, size: tuple[float, float]) -> None:
        import matplotlib.pyplot as plt

        self.path = path
        self.figure, self.axes = plt.subplots(figsize=size)

    def __enter__(self) -> Any:
        for side in ("top", "right"):
            self.axes.spines[side].set_visible(False)
        return self.axes

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        import matplotlib.pyplot as plt

        self.figure.tight_layout()
        self.figure.savefig(self.path, dpi=130)
        plt.close(self.figure)


def _page(facts: dict[str, Any], note: str, with_predictions: bool) -> str:
    sections = [
        ("What the model has learned", "held_out.png", _rows(facts["held_out"])),
        ("Predictions for real objects that training never saw", "predictions.png", "") if with_predictions else None,
        ("Training", "training.png", ""),
        ("Codebooks", "codebooks.png", _rows(facts["tokenizers"])),
        ("Files", None, _rows(facts["files"])),
    ]
    body = "".join(
        f"<h2>{title}</h2>" + (f'<img src="{image}" alt="{title}">' if image else "") + table
        for title, image, table in filter(None, sections)
    )
    return (
        '<!doctype html><meta charset="utf-8"><title>AION demo</title><style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#22304a}"
        "img{max-width:100%}table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .7rem;text-align:left}"
        "tr:nth-child(even){background:#f2f5f9}.note{background:#fdf1ee;padding:.6rem 1rem}</style>"
        f'<h1>AION demo</h1><p class="note">{html.escape(note)}</p>{body}'
    )


def _rows(items: list[dict[str, Any]]) -> str:
    if not items:
        return ""
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in items[0])
    return f"<table><tr>{head}</tr>{''.join(_row(item) for item in items)}</table>"


def _row(item: dict[str, Any]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in _cells(item)) + "</tr>"


def _cells(item: dict[str, Any]) -> Iterator[str]:
    for value in item.values():
        if isinstance(value, float):
            yield f"{value:.4g}"
        elif isinstance(value, list | tuple):
            yield ", ".join(map(str, value))
        else:
            yield "" if value is None else str(value)
