"""Pictures of observations, by kind. Imports matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aion_core.contract import InputError, ModalitySpec
from aion_core.files import replacing
from aion_core.observations import Image, Observation, Scalar, ScalarField, SourceList, Spectrum
from aion_core.plugins import Registry

BAD, GOOD = "#d62728", "#1f4e79"
#: Width of a panel in inches, by kind; an image has one for each band.
WIDTHS = {"image": 1.9, "spectrum": 7.0, "coefficients": 4.0, "scalar_field": 2.2, "source_list": 2.2}
HEIGHT, TEXT_WIDTH = 2.3, 3.4
FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Shown:
    """One object: its file, its name, and its observations, batches of one, by modality."""

    file: Path
    name: str
    data: Mapping[str, Observation]


def check_format(path: Path) -> None:
    """Raise unless a picture can be written under this name."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a picture is written as one of {', '.join(FORMATS)}; give it such a name.")


def draw_objects(objects: Sequence[Shown], path: Path, registry: Registry) -> None:
    """Draw a row for each object, with a column for each modality, and one for its numbers."""
    specs = registry.modalities
    present = {key for one in objects for key in one.data}
    columns = [key for key in specs if key in present and specs[key].kind in WIDTHS]
    has_numbers = any(specs[key].kind == "scalar" for key in present)
    widths = [_width(specs[key], objects) for key in columns] + [TEXT_WIDTH] * has_numbers
    figure = Figure(figsize=(sum(widths) + 0.6, (HEIGHT + 0.2) * len(objects)), layout="constrained")
    rows: Any = figure.subfigures(len(objects), 1, squeeze=False)[:, 0]
    for one, row in zip(objects, rows, strict=True):
        row.suptitle(f"{one.name}  ({one.file.name})", fontsize=8, x=0.01, ha="left")
        cells = row.subfigures(1, len(widths), squeeze=False, width_ratios=widths)[0]
        for key, cell in zip(columns, cells, strict=False):
            if key in one.data:
                _DRAW[specs[key].kind](cell, one.data[key], specs[key])
        if has_numbers:
            _write(cells[-1], one, specs)
    _save(figure, path)


def draw_distributions(objects: Sequence[Shown], path: Path, registry: Registry) -> None:
    """Draw the distribution of each scalar over the objects, on an asinh scale where it spans decades."""
    values: dict[str, list[float]] = {}
    for one in objects:
        for key, observation in one.data.items():
            if isinstance(observation, Scalar):
                values.setdefault(key, []).append(float(observation.value[0]))
    across = min(4, len(values))
    down = -(-len(values) // across)
    figure = Figure(figsize=(3.2 * across, 2.2 * down), layout="constrained")
    for place, (key, listed) in enumerate(values.items()):
        axes = figure.add_subplot(down, across, place + 1)
        known = np.array(listed)[np.isfinite(listed)]
        spread = float(np.subtract(*np.percentile(known, [75, 25]))) if known.size else 0.0
        wide = known.size > 1 and spread > 0 and np.ptp(known) > 100 * spread
        if wide:
            axes.set_xscale("asinh", linear_width=spread)
            low, high = (float(np.arcsinh(end / spread)) for end in (known.min(), known.max()))
            axes.hist(known, (spread * np.sinh(np.linspace(low, high, 41))).tolist(), color=GOOD)
        else:
            axes.hist(known, 40, color=GOOD)
        axes.set_title(f"{key}, {known.size} objects", fontsize=8)
        axes.set_xlabel(registry.modalities[key].units or "1", fontsize=7)
        axes.tick_params(labelsize=6)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=110)


def _width(spec: ModalitySpec, objects: Sequence[Shown]) -> float:
    if spec.kind != "image":
        return WIDTHS[spec.kind]
    bands = (len(getattr(one.data[spec.key], "bands", ())) for one in objects if spec.key in one.data)
    return WIDTHS["image"] * max(bands)


def _image(figure: Any, image: Image, spec: ModalitySpec) -> None:
    """Draw each band with an asinh stretch of ten times its scatter; bad pixels in red."""
    flux = image.flux[0].numpy()
    bad = ~np.isfinite(flux)
    if image.mask is not None:
        bad |= image.mask[0].numpy()
    if image.ivar is not None:
        bad |= ~(image.ivar[0].numpy() > 0)
    for place, (band, plane) in enumerate(zip(image.bands, flux, strict=True)):
        axes = figure.add_subplot(1, len(flux), place + 1)
        good = plane[~bad[place]]
        middle = np.median(good) if good.size else 0.0
        scatter = 1.4826 * np.median(np.abs(good - middle)) if good.size else 0.0
        stretched = np.arcsinh((plane - middle) / (10 * scatter if scatter > 0 else 1.0))
        shown = np.ma.array(stretched, mask=bad[place])
        axes.imshow(shown, origin="lower", cmap=_with_bad("gray"), interpolation="nearest")
        axes.set_title(f"{band}  {plane.shape[1]}×{plane.shape[0]}", fontsize=7)
        axes.set_axis_off()


def _spectrum(figure: Any, spectrum: Spectrum, spec: ModalitySpec) -> None:
    """Draw the flux with its one-sigma band; what is bad is shaded and drawn pale."""
    wavelength, flux = spectrum.wavelength[0].numpy(), spectrum.flux[0].numpy()
    bad = ~np.isfinite(flux) | ~np.isfinite(wavelength)
    if spectrum.mask is not None:
        bad |= spectrum.mask[0].numpy()
    ivar = None if spectrum.ivar is None else spectrum.ivar[0].numpy()
    if ivar is not None:
        bad |= ~(ivar > 0)
    axes = figure.add_subplot()
    axes.plot(wavelength, flux, color="0.8", linewidth=0.4)
    good = np.where(bad, np.nan, flux)
    axes.plot(wavelength, good, color=GOOD, linewidth=0.5)
    if ivar is not None:
        sigma = np.divide(1, np.sqrt(np.where(bad, 1, ivar)))
        axes.fill_between(wavelength, good - sigma, good + sigma, color=GOOD, alpha=0.2, linewidth=0)
    shaded = bad | np.append(False, bad[:-1])  # one pixel alone would have no width
    axes.fill_between(
        wavelength, 0, 1, where=shaded, transform=axes.get_xaxis_transform(), color=BAD, alpha=0.25, linewidth=0
    )
    axes.set_ylim(_limits(good))
    axes.set_xlabel("vacuum wavelength / Å", fontsize=7)
    axes.set_ylabel(spectrum.unit or spec.units, fontsize=6)
    axes.set_title(f"{len(flux)} pixels, {bad.mean():.1%} bad", fontsize=7, loc="right")
    axes.tick_params(labelsize=6)


def _coefficients(figure: Any, scalar: Scalar, spec: ModalitySpec) -> None:
    axes = figure.add_subplot()
    values = scalar.value[0].numpy().reshape(-1)
    axes.axhline(0, color="0.8", linewidth=0.5)
    axes.plot(values, ".-", color=GOOD, linewidth=0.5, markersize=3)
    finite = np.abs(values[np.isfinite(values)])
    if finite.size and (smallest := np.median(finite)) > 0:
        axes.set_yscale("asinh", linear_width=smallest)
    axes.set_title(spec.key, fontsize=7, loc="right")
    axes.set_xlabel("coefficient", fontsize=7)
    axes.set_ylabel(scalar.unit or spec.units, fontsize=6)
    axes.tick_params(labelsize=6)


def _field(figure: Any, field: ScalarField, spec: ModalitySpec) -> None:
    axes = figure.add_subplot()
    axes.imshow(field.value[0].numpy(), origin="lower", cmap=_with_bad("viridis"), vmin=0, vmax=1)
    axes.set_title(spec.key, fontsize=7)
    axes.set_axis_off()


def _sources(figure: Any, sources: SourceList, spec: ModalitySpec) -> None:
    """Draw each source at its place, as large as its radius says."""
    axes = figure.add_subplot()
    radius = np.nan_to_num(sources.radius[0].numpy())
    axes.scatter(sources.x[0].numpy(), sources.y[0].numpy(), s=10 + 40 * radius, facecolors="none", edgecolors=GOOD)
    axes.set_xlim(0, 96)
    axes.set_ylim(0, 96)
    axes.set_aspect("equal")
    axes.set_title(f"{spec.key}: {int(np.isfinite(sources.x[0].numpy()).sum())}", fontsize=7)
    axes.tick_params(labelsize=6)


def _write(figure: Any, one: Shown, specs: Mapping[str, ModalitySpec]) -> None:
    """Write the object's numbers."""
    lines = [
        f"{key:<20} {float(value.value[0]):>11.5g}  {specs[key].units}"
        for key, value in one.data.items()
        if isinstance(value, Scalar) and specs[key].kind == "scalar"
    ]
    size = min(7.0, 72 * HEIGHT / 1.35 / max(1, len(lines)))
    figure.text(0.02, 0.86, "\n".join(lines), family="monospace", fontsize=size, va="top")


def _limits(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return limits that a few wild pixels do not set."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return -1.0, 1.0
    low, high = np.percentile(finite, [0.3, 99.7])
    margin = 0.15 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _with_bad(name: str) -> Any:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=BAD)


_DRAW: dict[str, Callable[[Any, Any, ModalitySpec], None]] = {
    "image": _image,
    "spectrum": _spectrum,
    "coefficients": _coefficients,
    "scalar_field": _field,
    "source_list": _sources,
}
