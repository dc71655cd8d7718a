"""The page of reconstructions: originals beside what their tokens decode to, and the residual in units of the noise."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from aion_core.files import replacing
from aion_core.observations import Image, Observation, Spectrum
from aion_core.tokenizers.base import Tokenizer
from aion_core.tokenizers.quality import noise

Array = npt.NDArray[np.float64]
#: Bands shown of an image, at most.
BANDS = 3


@dataclass(frozen=True)
class Example:
    """One object: values, what they decode to, and the residual in units of the noise (or of its own spread).

    `wavelength` is empty for images and maps.
    """

    names: tuple[str, ...]
    original: Array
    decoded: Array
    residual: Array
    wavelength: Array


class Gallery:
    """Keeps the first few objects that it is shown, and draws them."""

    def __init__(self, size: int) -> None:
        self.size = size if has_matplotlib() else 0
        self.examples: list[Example] = []

    def add(self, tokenizer: Tokenizer, obs: Observation, values: Tensor, decoded: Tensor) -> None:
        """Keep objects while there is room; observations that are no image, spectrum or map are not drawn."""
        wanted = self.size - len(self.examples)
        if wanted <= 0 or tokenizer.spec.kind not in ("image", "spectrum", "scalar_field"):
            return
        obs, values, decoded = obs[:wanted], values[:wanted], decoded[:wanted]
        ivar = noise(tokenizer, obs, values.reshape(obs.flux.shape) if isinstance(obs, Spectrum) else values)
        for i in range(len(obs)):
            self.examples.append(_example(obs, i, values[i], decoded[i], None if ivar is None else ivar[i]))

    def draw(self, path: Path, title: str) -> None:
        """Write the page as PNG; nothing if there is no object to show."""
        if not self.examples:
            return
        from matplotlib import rc_context

        with rc_context({"text.usetex": False}):  # some packages of the field switch LaTeX on as they are imported
            self._draw(path, title)

    def _draw(self, path: Path, title: str) -> None:
        from matplotlib.figure import Figure

        spectra = len(self.examples[0].wavelength) > 0
        columns = 1 if spectra else 3 * min(BANDS, max(len(example.names) for example in self.examples))
        width, height = (11.0, 2.6) if spectra else (1.5 * columns, 1.6)
        figure = Figure(figsize=(width, height * len(self.examples) + 0.6), layout="constrained")
        figure.suptitle(title)
        rows = figure.subfigures(len(self.examples), 1, squeeze=False)[:, 0]
        for place, example in zip(rows, self.examples, strict=True):
            (_draw_spectrum if spectra else _draw_images)(place, example)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=90)


def has_matplotlib() -> bool:
    """Whether pages can be drawn."""
    return find_spec("matplotlib") is not None


def _example(obs: Observation, i: int, values: Tensor, decoded: Tensor, ivar: Tensor | None) -> Example:
    x, y = _numpy(values), _numpy(decoded)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = float(np.nanstd(x)) if np.isfinite(x).any() else 1.0
        scale = np.full_like(x, 1 / (spread or 1.0)) if ivar is None else np.sqrt(_numpy(ivar).reshape(x.shape))
        residual = (x - y) * np.where(scale > 0, scale, np.nan)
    if isinstance(obs, Spectrum):
        return Example((), x.ravel(), y.ravel(), residual.ravel(), _numpy(obs.wavelength[i]))
    names = obs.bands if isinstance(obs, Image) else ("",)
    x, y, residual = (a.reshape(len(names), *a.shape[-2:]) for a in (x, y, residual))
    return Example(names, x, y, residual, np.empty(0))


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()


def _draw_spectrum(place: Any, example: Example) -> None:
    top, bottom = place.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    order = np.argsort(example.wavelength)
    axis, x, y, chi = (a[order] for a in (example.wavelength, example.original, example.decoded, example.residual))
    top.plot(axis, x, color="0.6", lw=0.5, label="original")
    top.plot(axis, y, color="C3", lw=0.8, label="from its tokens")
    top.legend(loc="upper right", fontsize=7)
    top.set_ylabel("flux")
    if np.isfinite(x).any():
        low, high = np.nanpercentile(x, (0.5, 99.5))
        top.set_ylim(low - 0.2 * (high - low), high + 0.2 * (high - low) or 1.0)
    bottom.plot(axis, chi, color="0.3", lw=0.4)
    bottom.set_ylim(-6, 6)
    bottom.set_ylabel("χ")
    bottom.set_xlabel("wavelength [Å]")


def _draw_images(place: Any, example: Example) -> None:
    count = min(BANDS, len(example.names))
    axes = place.subplots(1, 3 * count, squeeze=False)[0]
    for band in range(count):
        x, y = _stretched(example.original[band]), example.decoded[band]
        limits = {"vmin": x.low, "vmax": x.high, "origin": "lower", "cmap": "gray"}
        for axis, plane, text in zip(
            axes[3 * band :], (x.plane, x.stretch(y)), (f"{example.names[band]}", "from its tokens"), strict=False
        ):
            axis.imshow(plane, **limits)
            axis.set_title(text, fontsize=7)
        residual = axes[3 * band + 2]
        residual.imshow(example.residual[band], vmin=-5, vmax=5, origin="lower", cmap="RdBu_r")
        residual.set_title("χ, ±5", fontsize=7)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])


@dataclass(frozen=True)
class _Stretched:
    """An image on an asinh scale that shows both its noise and its centre."""

    plane: Array
    scale: float
    low: float
    high: float

    def stretch(self, plane: Array) -> Array:
        return np.arcsinh(plane / self.scale)


def _stretched(plane: Array) -> _Stretched:
    finite = plane[np.isfinite(plane)]
    scale = float(np.median(np.abs(finite))) * 3 if len(finite) else 1.0
    shown = np.arcsinh(plane / (scale or 1.0))
    low, high = (np.nanpercentile(shown, (1, 99.8))) if len(finite) else (0.0, 1.0)
    return _Stretched(shown, scale or 1.0, float(low), float(high))
