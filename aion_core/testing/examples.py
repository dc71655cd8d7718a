"""Observations that checks are made with: plausible ones of every kind, and the same with what surveys really contain.

Everything is drawn from a seed, so that a batch is the same in another process, and one that fails can be named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aion_core.contract import ModalitySpec
from aion_core.observations import Image, Observation, Scalar, ScalarField, SourceList, Spectrum
from aion_core.testing.rules import NotApplicableError

Floats = npt.NDArray[np.float64]

#: Fields that say where or how well something was measured, not what.
BESIDE = ("ivar", "mask", "wavelength")


@dataclass(frozen=True)
class Batch:
    """What a batch of observations is drawn from: how many objects, a seed, and what is wrong with some pixels.

    Object i is the same in every batch of the same seed.
    """

    size: int
    seed: int = 0
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        wrong = f" with {', '.join(self.faults)}" if self.faults else ""
        return f"{self.size} object{'' if self.size == 1 else 's'} of seed {self.seed}{wrong}"


# --- plausible observations, by kind


def plausible(spec: ModalitySpec, tokenizer: Any, size: int, rng: np.random.Generator) -> Observation:
    """Return objects of a modality such as a survey might measure, whatever it is called."""
    maker = _MAKERS.get(spec.kind)
    if maker is None:
        raise NotApplicableError(
            f"nothing is known of the observations of kind {spec.kind!r}: override `observations` in the test class"
        )
    return maker(spec, tokenizer, size, rng)


def _scalar(spec: ModalitySpec, tokenizer: Any, size: int, rng: np.random.Generator) -> Scalar:
    declared = spec.tokenizer.range if spec.tokenizer else None
    return Scalar(rng.uniform(*declared, size) if declared else rng.normal(1, 3, size) * rng.lognormal(0, 1.5, size))


def _coefficients(spec: ModalitySpec, tokenizer: Any, size: int, rng: np.random.Generator) -> Scalar:
    n = spec.n_tokens
    return Scalar(rng.standard_t(3, (size, n)) * 10 ** np.linspace(3, -1, n))


def _image(spec: ModalitySpec, tokenizer: Any, size: int, rng: np.random.Generator) -> Image:
    """A round source on noise, a little larger than the crop, with a few bad pixels."""
    bands = spec.tokenizer.bands if spec.tokenizer else ()
    side = getattr(tokenizer, "size", 96) + 2
    limits = np.array([band.limit for band in bands])[None, :, None, None]
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    width, bright = rng.uniform(2, side / 8, (2, size, len(bands), 1, 1)) * [[[[[1.0]]]], [[[[0.02]]]]]
    noise = rng.normal(size=(size, len(bands), side, side)) * limits * 0.01
    flux = limits * bright * np.exp(-(x**2 + y**2) / (2 * width**2)) + noise
    ivar = np.broadcast_to((0.01 * limits) ** -2.0, flux.shape)
    return Image(flux, [band.name for band in bands], ivar, rng.random(flux.shape) < 0.01)


def _spectrum(spec: ModalitySpec, tokenizer: Any, size: int, rng: np.random.Generator) -> Spectrum:
    """A continuum with a line, noise and a few bad pixels, over the declared range of wavelengths."""
    declared = spec.tokenizer.range if spec.tokenizer else None
    low, high = declared or (4000.0, 9000.0)
    wavelength = np.linspace(low, high, 500)
    level, slope, centre = (rng.uniform(a, b, (size, 1)) for a, b in ((1, 30), (-1, 1), (0.2, 0.8)))
    x = np.linspace(0, 1, len(wavelength))
    flux = level * (1 + slope * (x - 0.5) + 3 * np.exp(-(((x - centre) / 0.01) ** 2)))
    ivar = np.broadcast_to(rng.uniform(0.5, 4, (size, 1)), flux.shape)
    return Spectrum(flux + rng.normal(size=flux.shape) / np.sqrt(ivar), wavelength, ivar, rng.random(flux.shape) < 0.02)


def _field(spec: ModalitySpec, tokenizer: Any, size: int, rng: np.random.Generator) -> ScalarField:
    side = getattr(tokenizer, "size", 96) + 2
    coarse = rng.random((size, -(-side // 8), -(-side // 8)))
    return ScalarField(np.kron(coarse, np.ones((8, 8)))[:, :side, :side])


def _sources(spec: ModalitySpec, tokenizer: Any, size: int, rng: np.random.Generator) -> SourceList:
    """One to fourteen sources, each with a shape."""
    most = 14
    there = np.arange(most) < rng.integers(1, most + 1, (size, 1))
    x, y = rng.uniform(1, 94, (2, size, most))
    e1, e2 = rng.normal(0, 0.3, (2, size, most))
    return SourceList(*(np.where(there, v, np.nan) for v in (x, y, e1, e2, rng.lognormal(0, 1, (size, most)))))


Maker = Callable[[ModalitySpec, Any, int, np.random.Generator], Observation]
_MAKERS: Mapping[str, Maker] = {
    "scalar": _scalar,
    "coefficients": _coefficients,
    "image": _image,
    "spectrum": _spectrum,
    "scalar_field": _field,
    "source_list": _sources,
}


# --- what surveys really contain


def measured(obs: Observation) -> list[str]:
    """Return the names of the fields that hold what was measured."""
    return [
        n
        for n in obs.batched
        if n not in BESIDE and torch.is_tensor(value := getattr(obs, n)) and value.is_floating_point()
    ]


def replaced(obs: Observation, **fields: Tensor) -> Observation:
    """Return a copy of an observation with other tensors."""
    new = object.__new__(type(obs))
    for name, value in {**vars(obs), **fields}.items():
        object.__setattr__(new, name, value)
    return new


def _values(number: float) -> Callable[[Observation, Tensor], Observation]:
    def put(obs: Observation, where: Tensor) -> Observation:
        return _put(obs, measured(obs), number, where)

    return put


def _ivars(number: float) -> Callable[[Observation, Tensor], Observation]:
    return lambda obs, where: _put(obs, ["ivar"] if getattr(obs, "ivar", None) is not None else [], number, where)


def _masked(obs: Observation, where: Tensor) -> Observation:
    return _put(obs, ["mask"] if getattr(obs, "mask", None) is not None else [], True, where)


def _put(obs: Observation, names: list[str], value: float | bool, where: Tensor) -> Observation:
    """Return an observation with a value put into fields; `where` is ``[B, pixels]`` of 0 … 1 and says into which."""
    fields = {}
    for name in names:
        tensor = getattr(obs, name)
        fields[name] = tensor.masked_fill(where.reshape(tensor.shape), value)
    return replaced(obs, **fields)


#: What may be wrong with pixels: all of it occurs in files that surveys have published.
FAULTS: Mapping[str, Callable[[Observation, Tensor], Observation]] = {
    "NaN": _values(float("nan")),
    "infinities": _values(float("inf")),
    "negative infinities": _values(float("-inf")),
    "values of 1e38": _values(1e38),
    "values of −1e30": _values(-1e30),
    "zeros": _values(0.0),
    "masked pixels": _masked,
    "inverse variances of 0": _ivars(0.0),
    "negative inverse variances": _ivars(-1.0),
    "inverse variances of NaN": _ivars(float("nan")),
    "infinite inverse variances": _ivars(float("inf")),
}


def spoilt(obs: Observation, faults: tuple[str, ...], seed: int) -> Observation:
    """Return an observation with faults in a third of the pixels of every other object, the second one first."""
    for place, fault in enumerate(faults):
        rng = np.random.default_rng([seed, place])
        width = getattr(obs, measured(obs)[0])[:1].numel() if len(obs) else 0
        where = torch.from_numpy(
            np.stack([rng.random(width) < 0.34 for _ in range(len(obs))]) if len(obs) else np.zeros((0, 0), bool)
        )
        if len(obs):
            where[:, 0] = True
            where[::2] = False
        obs = FAULTS[fault](obs, where) if len(obs) else obs
    return obs


def nothing_valid(obs: Observation) -> dict[str, Observation]:
    """Return the ways in which an observation may have nothing valid in it, by name."""
    first = getattr(obs, measured(obs)[0])
    everywhere = torch.ones(first.shape, dtype=torch.bool).reshape(len(obs), -1)
    ways = {"NaN throughout": FAULTS["NaN"](obs, everywhere)}
    if getattr(obs, "mask", None) is not None:
        ways["all masked"] = _masked(obs, everywhere)
    if getattr(obs, "ivar", None) is not None:
        ways["no inverse variance above 0"] = _ivars(0.0)(obs, everywhere)
    return ways
