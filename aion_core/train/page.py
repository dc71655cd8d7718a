"""The page of curves: loss by modality over the steps of a run, and what each modality tells of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from aion_core.engine import MetricsLog
from aion_core.files import replacing

#: Panels side by side.
ACROSS = 5


def draw_curves(metrics: MetricsLog, path: Path) -> bool:
    """Write a run's curves as PNG; return False where matplotlib is missing or nothing has been logged.

    For each modality the training loss (grey), the held-out loss (blue) and the unconditional entropy (dashed), in
    nats per token; below, if pairs were evaluated, what each modality (row) gains from each other one (column).
    """
    lines = list(metrics.read())
    train = [line for line in lines if line["kind"] == "train"]
    if not train or find_spec("matplotlib") is None:
        return False
    from matplotlib import rc_context

    judged = [line for line in lines if line["kind"] == "evaluation"]
    with rc_context({"text.usetex": False}):  # some packages of the field switch LaTeX on as they are imported
        figure = _figure(train, judged)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=90)
    return True


def _figure(train: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    keys = list(dict.fromkeys(key for line in train for key in line["loss_by_modality"]))
    gains = _gains(judged[-1]["held_out"]) if judged else {}
    down = -(-(len(keys) + 1) // ACROSS)
    side = 1.5 + 0.28 * len({key for pair in gains for key in pair}) if gains else 0.0
    figure = Figure(figsize=(3.0 * ACROSS, 2.0 * down + 2 * side), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.0 * down, 2 * side)) if gains else [figure]
    top, *rest = parts
    axes = top.subplots(down, ACROSS, squeeze=False).ravel()
    axes[0].plot([line["step"] for line in train], [_number(line["loss"]) for line in train], color="0.5", lw=0.8)
    axes[0].set_title("loss", fontsize=8)
    for axis, key in zip(axes[1:], keys, strict=False):
        _draw_modality(axis, key, train, judged)
    for axis in axes:
        axis.tick_params(labelsize=6)
    for axis in axes[len(keys) + 1 :]:
        axis.set_axis_off()
    for place in rest:
        _draw_gains(place.subplots(), gains)
    return figure


def _draw_modality(
    axis: Any, key: str, train: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]
) -> None:
    points = [
        (line["step"], _number(line["loss_by_modality"][key])) for line in train if key in line["loss_by_modality"]
    ]
    axis.plot(*zip(*points, strict=True), color="0.75", lw=0.6)
    held = [(line["step"], h) for line in judged for h in line["held_out"] if h["target"] == key and h["given"] is None]
    axis.plot([step for step, _ in held], [_number(h["loss"]) for _, h in held], "C0.-", lw=1.0, ms=3)
    if held and held[-1][1]["entropy"] is not None:
        axis.axhline(held[-1][1]["entropy"], color="C3", ls="--", lw=0.7)
    axis.set_title(key, fontsize=8)


def _gains(held_out: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Return by how much a source lowers the loss of a target below its entropy, in nats per token."""
    return {
        (h["target"], h["given"][0]): h["entropy"] - h["loss"]
        for h in held_out
        if h["given"] is not None and len(h["given"]) == 1 and None not in (h["entropy"], h["loss"])
    }


def _draw_gains(axis: Any, gains: Mapping[tuple[str, str], float]) -> None:
    keys = list(dict.fromkeys(key for pair in gains for key in pair))
    table = np.full((len(keys), len(keys)), np.nan)
    for (target, source), gain in gains.items():
        table[keys.index(target), keys.index(source)] = gain
    limit = max(0.1, float(np.nanmax(np.abs(table))))
    shown = axis.imshow(table, vmin=-limit, vmax=limit, cmap="RdBu")
    axis.set_xticks(range(len(keys)), keys, rotation=90, fontsize=6)
    axis.set_yticks(range(len(keys)), keys, fontsize=6)
    axis.set_xlabel("given", fontsize=8)
    axis.set_ylabel("predicted", fontsize=8)
    axis.figure.colorbar(shown, ax=axis, label="entropy − held-out loss (nats per token)")


def _number(value: float | None) -> float:
    """Return what the log has no word for as not-a-number."""
    return np.nan if value is None else value
