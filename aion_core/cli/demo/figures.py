"""The report's figures, as PNG in bytes. Nothing here is drawn with LaTeX, whatever other packages have switched on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from io import BytesIO
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt

from aion_core.cli.demo.judge import Map, Narrowing
from aion_core.cli.demo.sky import Truth
from aion_core.evaluate import BinnedPosterior

INK, ACCENT, PALE, GOLD = "#22304a", "#c8553d", "#c9d3e2", "#d8a13a"
STEPS = ("#8ea6c9", GOLD, ACCENT)
#: Curves of one panel.
CURVES = 8

Floats = npt.NDArray[np.float64]
P = ParamSpec("P")


def png(draw: Callable[P, Any]) -> Callable[P, bytes]:
    """Turn a function that returns a matplotlib figure into one that returns it as PNG."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> bytes:
        from matplotlib import rc_context

        settings: Any = {"text.usetex": False, "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
        with rc_context(settings):
            buffer = BytesIO()
            draw(*args, **kwargs).savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()

    return drawn


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@png
def losses(held_out: Sequence[Mapping[str, Any]]) -> Any:
    """Held-out loss of each modality, beside the entropy that ignoring the input would give."""
    place = np.arange(len(held_out))[::-1]
    figure = _figure(9, 1.0 + 0.2 * len(held_out))
    axes = figure.add_subplot()
    axes.barh(place, [h["entropy"] or 0 for h in held_out], color=PALE, label="entropy: ignoring the input")
    axes.barh(place, [h["loss"] for h in held_out], color=ACCENT, height=0.4, label="held-out loss")
    axes.set_yticks(place, [h["target"] for h in held_out], fontsize=7)
    axes.set_xlabel("nats per token")
    axes.set_ylim(-0.7, len(held_out) - 0.3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return figure


@png
def curves(lines: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> Any:
    """Held-out loss less entropy of each modality by step, a panel for each kind; 0: nothing learned."""
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    panels: dict[str, list[str]] = {}
    last = {h["target"]: h for h in evaluations[-1]["held_out"]} if evaluations else {}
    for target in last:
        panels.setdefault(kinds.get(target, "other"), []).append(target)
    figure = _figure(9, 2.6 * max(1, -(-len(panels) // 2)))
    for place, (kind, targets) in enumerate(panels.items()):
        axes = figure.add_subplot(-(-len(panels) // 2), min(2, len(panels)), place + 1)
        targets = sorted(targets, key=lambda t: last[t]["loss"] - (last[t]["entropy"] or 0))[:CURVES]
        for target in targets:
            points = [
                (line["step"], h["loss"] - h["entropy"])
                for line in evaluations
                for h in line["held_out"]
                if h["target"] == target and h["entropy"] is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", ms=2, lw=1, label=target)
        axes.axhline(0, color=INK, lw=0.7, ls=":")
        axes.set_title(f"{kind}: held-out loss less unconditional entropy", fontsize=8, loc="left")
        axes.set_xlabel("step")
        axes.set_ylabel("nats per token")
        axes.legend(frameon=False, fontsize=6, ncols=2)
    return figure


@png
def posteriors(found: Narrowing) -> Any:
    """Posteriors of six galaxies, widest first ones: each curve is given more than the one before."""
    last = found.steps[-1].posterior
    width = last.quantile(0.84) - last.quantile(0.16)
    order = np.argsort(width, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(6, len(order))).round().astype(int)]
    figure = _figure(9, 4.2)
    for place, row in enumerate(chosen):
        axes = figure.add_subplot(2, 3, place + 1)
        top = 0.0
        for step, colour in zip(found.steps, STEPS, strict=False):
            x, density = smooth(step.posterior, int(row))
            axes.fill_between(x, density, color=colour, alpha=0.55, lw=0, label=step.given)
            top = max(top, float(density.max()))
        axes.axvline(found.truth[row], color=INK, lw=1)
        axes.set_ylim(0, 1.05 * top)
        axes.set_yticks([])
        axes.set_title(f"true redshift {found.truth[row]:.3f}", fontsize=8, loc="left")
        if place == 0:
            axes.legend(frameon=False, fontsize=7)
        if place >= 3:
            axes.set_xlabel("redshift")
    return figure


def smooth(posterior: BinnedPosterior, row: int, bins: int = 120) -> tuple[Floats, Floats]:
    """Return a density in coarser bins, for the eye: in-between codes that were never seen leave gaps."""
    edges = np.linspace(posterior.edges[0], posterior.edges[-1], bins + 1)
    cumulative = np.interp(edges, posterior.edges, posterior.cumulative[row])
    return (edges[1:] + edges[:-1]) / 2, np.diff(cumulative) / np.diff(edges)


@png
def predictions(found: Narrowing) -> Any:
    """Posterior mean against truth at each step, and how often the truth lies where the posterior says."""
    figure = _figure(9, 2.7)
    panels = len(found.steps) + 1
    ends = [0.0, float(max(found.truth.max(), *(s.posterior.mean.max() for s in found.steps)))]
    for place, (step, row) in enumerate(zip(found.steps, found.table(), strict=True)):
        axes = figure.add_subplot(1, panels, place + 1)
        low, high = (np.abs(step.posterior.quantile(q) - step.posterior.mean) for q in (0.16, 0.84))
        axes.errorbar(found.truth, step.posterior.mean, (low, high), fmt=".", ms=3, lw=0.3, color=INK, alpha=0.6)
        axes.plot(ends, ends, color=ACCENT, lw=0.8)
        axes.set_title(f"{step.given}\nR² {row['r2']:.3f}, CRPS {row['crps']:.4f}", fontsize=8, loc="left")
        axes.set_xlabel("true redshift")
        if place == 0:
            axes.set_ylabel("posterior mean, 16–84 %")
    axes = figure.add_subplot(1, panels, panels)
    levels = np.linspace(0, 1, 101)
    for step, colour in zip(found.steps, STEPS, strict=False):
        rank = np.sort(step.posterior.rank(found.truth))
        axes.plot(levels, np.searchsorted(rank, levels) / len(rank), color=colour, label=step.given)
    axes.plot([0, 1], [0, 1], color=INK, lw=0.7, ls=":")
    axes.set_title("calibration", fontsize=8, loc="left")
    axes.set_xlabel("posterior probability below the truth")
    axes.legend(frameon=False, fontsize=6)
    return figure


@png
def sky_map(found: Map, truth: Truth) -> Any:
    """The map of embeddings, coloured by kind, and by what is true of each kind."""
    columns = (("redshift", "galaxy"), ("log_mass", "galaxy"), ("log_ssfr", "galaxy"), ("teff", "star"))
    figure = _figure(9, 5.6)
    axes = figure.add_subplot(2, 3, 1)
    kinds = truth["kind"][found.rows]
    for kind, colour in zip(np.unique(kinds), (INK, ACCENT, GOLD), strict=False):
        axes.scatter(*found.plane[kinds == kind].T, s=5, color=colour, label=kind)
    _bare(axes, "kind of object")
    axes.legend(frameon=False, fontsize=7, markerscale=2)
    for place, (column, kind) in enumerate(columns):
        axes = figure.add_subplot(2, 3, place + 2)
        mine = (kinds == kind) & np.isfinite(truth[column][found.rows])
        axes.scatter(*found.plane[~mine].T, s=2, color="0.9")
        if mine.any():
            value = truth[column][found.rows][mine]
            value = np.clip(value, *np.percentile(value, (2, 98)))
            points = axes.scatter(*found.plane[mine].T, s=5, c=value, cmap="viridis")
            figure.colorbar(points, ax=axes, shrink=0.8)
        _bare(axes, f"{column} of {kind}s" if kind != "galaxy" else f"{column} of galaxies")
    return figure


def _bare(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])


@png
def neighbours(pictures: Sequence[Sequence[tuple[Any, str]]]) -> Any:
    """Rows of pictures, the query first: ``[H, W, 3]`` arrays, or None, each with a caption."""
    across = max(map(len, pictures))
    figure = _figure(1.5 * across, 1.75 * len(pictures))
    for row, line in enumerate(pictures):
        for column, (picture, caption) in enumerate(line):
            axes = figure.add_subplot(len(pictures), across, row * across + column + 1)
            if picture is not None:
                axes.imshow(picture, origin="lower", interpolation="nearest")
            axes.set_title(caption, fontsize=6)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(column == 0)
                spine.set_color(ACCENT)
    return figure


def colour(flux: Floats) -> Floats:
    """Return a picture ``[H, W, 3]`` of an image ``[C, H, W]``, blue to red, with an asinh stretch by its own noise."""
    flux = np.nan_to_num(flux)
    chosen = flux[np.linspace(len(flux) - 1, 0, 3).round().astype(int)]
    middle = np.median(chosen, axis=(1, 2), keepdims=True)
    noise = 1.4826 * np.median(np.abs(chosen - middle), axis=(1, 2), keepdims=True)
    stretched = np.arcsinh((chosen - middle) / np.maximum(5 * noise, 1e-12))
    top = np.percentile(stretched, 99.7)
    return np.moveaxis(np.clip(stretched / max(top, 1e-12), 0, 1), 0, -1)
