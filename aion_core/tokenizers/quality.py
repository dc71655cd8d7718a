"""How well observations survive their tokens: by band or wavelength, against their noise, and beside two baselines.

A baseline is what somebody without a tokenizer would give: the mean over all objects at each wavelength (of each band),
or each object's own mean over its wavelengths (over the pixels of each band). The better of the two is the mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aion_core.observations import Image, Observation, Spectrum
from aion_core.tokenizers.base import Tokenizer
from aion_core.tokenizers.report import Measure, measure

Doubles = npt.NDArray[np.float64]
#: A band, a bin of wavelength, or "" for observations that have neither.
Label: TypeAlias = str | int

#: Bins of wavelength per unit of its natural logarithm: 0.1 %, some 5 Å, for the mean spectrum.
FINE = 1000
#: Fine bins of one that is reported.
COARSE = 50
#: Of a part: values, their sum and sum of squares, summed squared error, summed squared deviation from each object's
#: own mean; values whose noise is known, and their summed squared error in units of it.
N, X, XX, ERROR, OWN, N_CHI, CHI = range(7)


@dataclass(frozen=True)
class Quality:
    """What is known of some objects and their reconstructions; ``a + b`` is known of both together.

    Attributes
    ----------
    measure
        Use of codes, and the error over everything.
    parts
        Sums by band or fine bin of wavelength.
    scaled
        Of numbers, the error after the transform that they are quantized by (a logarithm): fluxes span five decades,
        and the brightest object alone decides on their error as they are.
    """

    measure: Measure
    parts: Mapping[Label, Doubles]
    scaled: Measure | None = None

    def __add__(self, other: Quality) -> Quality:
        parts = dict(self.parts)
        for label, sums in other.parts.items():
            parts[label] = parts[label] + sums if label in parts else sums
        scaled = self.scaled + other.scaled if self.scaled is not None and other.scaled is not None else None
        return Quality(self.measure + other.measure, parts, scaled)

    @property
    def chi2(self) -> float | None:
        """Squared error in units of the noise variance, per value whose noise is known; None without any."""
        return _chi2(self._total())

    @property
    def r2_mean(self) -> float | None:
        """Share of the variance that the mean over all objects keeps, at each wavelength or in each band."""
        around = sum(float(_square(sums)) for sums in self.parts.values())
        return _share(around, _square(self._total()))

    @property
    def r2_own(self) -> float | None:
        """Share of the variance that each object's own mean keeps."""
        total = self._total()
        return _share(float(total[OWN]), _square(total))

    @property
    def baseline(self) -> float | None:
        """R² of the better baseline."""
        known = [r2 for r2 in (self.r2_mean, self.r2_own) if r2 is not None]
        return max(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        found = self.measure.to_dict() | {"dead_codes": len(self.measure.uses) - self.measure.codes_used}
        if self.scaled is not None:
            found["r2_scaled"] = self.scaled.r2
        if not self.parts:
            return found
        figures = {"chi2": self.chi2, "r2_mean": self.r2_mean, "r2_own": self.r2_own, "baseline": self.baseline}
        return found | figures | {"parts": self.by_part()}

    def by_part(self) -> dict[str, dict[str, Any]]:
        """Return R², rmse and χ² of each band, or of wavelength bins of 5 %."""
        coarse: dict[Label, Doubles] = {}
        for label, sums in self.parts.items():
            name = label // COARSE if isinstance(label, int) else label
            coarse[name] = coarse[name] + sums if name in coarse else sums
        ordered = sorted(coarse.items(), key=lambda item: (str(type(item[0])), item[0]))
        return {
            _name(label): {
                "r2": _share(float(sums[ERROR]), _square(sums)),
                "rmse": float(np.sqrt(sums[ERROR] / sums[N])) if sums[N] else None,
                "chi2": _chi2(sums),
            }
            for label, sums in ordered
        }

    def _total(self) -> Doubles:
        return np.sum(list(self.parts.values()), axis=0) if self.parts else np.zeros(7)


def quality(tokenizer: Tokenizer, obs: Observation) -> Quality:
    """Encode and decode observations, and return how well they survive."""
    return compare(tokenizer, obs, *tokenizer.reconstruct(obs))


def compare(tokenizer: Tokenizer, obs: Observation, tokens: Tensor, values: Tensor, decoded: Tensor) -> Quality:
    """Return the quality of a reconstruction that is at hand."""
    vocab_size = tokenizer.spec.vocab_size
    if tokenizer.spec.kind in ("scalar", "coefficients"):
        whole = measure(values, decoded, tokens, vocab_size)
        return Quality(whole, {}, measure(*_transformed(tokenizer, values, decoded), tokens, vocab_size))
    if isinstance(obs, Spectrum):
        values, decoded = values.reshape(obs.flux.shape), decoded.reshape(obs.flux.shape)
    whole = measure(values[:, None], decoded[:, None], tokens, vocab_size)
    x, y = _numpy(values), _numpy(decoded)
    ivar = noise(tokenizer, obs, values)
    weight = np.full_like(x, np.nan) if ivar is None else _numpy(ivar)
    if isinstance(obs, Spectrum):
        return Quality(whole, _by_wavelength(x, y, weight, _numpy(obs.wavelength)))
    if isinstance(obs, Image):
        return Quality(whole, {b: _sums(x[:, i], y[:, i], weight[:, i]) for i, b in enumerate(obs.bands)})
    return Quality(whole, {"": _sums(x, y, weight)})


def _transformed(tokenizer: Tokenizer, values: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers after the transform that a tokenizer quantizes them by, if it has one."""
    transform, lowest = getattr(tokenizer, "transform", lambda value: value), getattr(tokenizer, "lowest", -torch.inf)
    return transform(values.clamp(min=lowest)), transform(decoded.clamp(min=lowest))


def noise(tokenizer: Tokenizer, obs: Observation, values: Tensor) -> Tensor | None:
    """Return the inverse variance of the values that were reconstructed, of their shape; None where it is unknown."""
    given = tokenizer.accept(obs)
    ivar: Tensor | None = getattr(given, "ivar", None)
    if ivar is None:
        return None
    if isinstance(given, Image) and given.zero_point is not None and tokenizer.spec.tokenizer is not None:
        # Images are reconstructed at their bands' own zero points.
        own = {band.name: band.zero_point for band in tokenizer.spec.tokenizer.bands}
        steps = [found - own.get(b, found) for b, found in zip(given.bands, given.zero_point, strict=True)]
        ivar = ivar * 10 ** (0.8 * torch.tensor(steps, dtype=ivar.dtype, device=ivar.device))[:, None, None]
    for axis in (-2, -1):  # images are cut around their centre
        size, wanted = ivar.shape[axis], values.shape[axis]
        if size < wanted:
            return None
        ivar = ivar.narrow(axis, (size - wanted) // 2, wanted)
    return ivar


def _numpy(tensor: Tensor) -> Doubles:
    return tensor.detach().to("cpu", torch.float64).numpy()


def _terms(x: Doubles, y: Doubles, ivar: Doubles) -> Doubles:
    """Return what is summed, ``[7, B, n]``, for ``[B, n]`` values of one band or spectrum per object."""
    good = np.isfinite(x) & np.isfinite(y)
    count = np.maximum(good.sum(1, keepdims=True), 1)
    value, error = np.where(good, x, 0.0), np.where(good, x - np.where(good, y, 0.0), 0.0)
    own = np.where(good, value - value.sum(1, keepdims=True) / count, 0.0)
    known = good & np.isfinite(ivar) & (ivar > 0)
    chi2 = error**2 * np.where(known, ivar, 0.0)
    return np.stack([good, value, value**2, error**2, own**2, known, chi2]).astype(np.float64)


def _sums(x: Doubles, y: Doubles, ivar: Doubles) -> Doubles:
    x, y, ivar = (a.reshape(len(a), -1) for a in (x, y, ivar))
    with np.errstate(invalid="ignore", over="ignore"):
        total: Doubles = _terms(x, y, ivar).sum(axis=(1, 2))
    return total


def _by_wavelength(x: Doubles, y: Doubles, ivar: Doubles, wavelength: Doubles) -> dict[Label, Doubles]:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        terms = _terms(x, y, ivar)
        place = np.floor(FINE * np.log(wavelength))
    used = terms[N].astype(bool) & np.isfinite(place)
    bins = place[used].astype(np.int64)
    if not len(bins):
        return {}
    first = int(bins.min())
    sums = np.stack([np.bincount(bins - first, weights=term[used]) for term in terms], axis=1)
    return {first + int(i): sums[i] for i in np.flatnonzero(sums[:, N])}


def _square(sums: Doubles) -> float:
    """Return the summed squared deviation from the mean."""
    return max(0.0, float(sums[XX] - sums[X] ** 2 / sums[N])) if sums[N] else 0.0


def _share(error: float, square: float) -> float | None:
    return 1.0 - error / square if square > 0 else None


def _chi2(sums: Doubles) -> float | None:
    return float(sums[CHI] / sums[N_CHI]) if sums[N_CHI] else None


def _name(label: Label) -> str:
    if isinstance(label, str):
        return label
    low, high = (np.exp((label + i) * COARSE / FINE) for i in (0, 1))
    return f"{low:.0f}–{high:.0f} Å"
