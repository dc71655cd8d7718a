"""Resampled copies of real catalogue rows, disturbed as another star or galaxy of the kind would differ.

A few thousand real rows are too few to train on, so the demo multiplies them: an object is drawn with replacement,
made brighter or fainter in all its fluxes at once, and every measurement gets noise of its own (a smoothed bootstrap).
Colours are therefore real; nothing else about the copies is, and the demo says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from aion_core.contract import ModalitySpec
from aion_core.data.reader import ObservationBatch
from aion_core.observations import Scalar

#: Scatter of the common brightness, in magnitudes, and of each flux, as a fraction.
BRIGHTNESS_MAG, FLUX_NOISE = 0.3, 0.02
#: Other measurements: Silverman's rule for a smoothed bootstrap, in standard deviations times n^(-1/5).
SMOOTHING = 0.9

Floats = npt.NDArray[np.float64]


def disturbed_copies(
    batch: ObservationBatch, specs: Mapping[str, ModalitySpec], count: int, rng: np.random.Generator
) -> ObservationBatch:
    """Return `count` disturbed copies of a batch's objects, with the scalars and coefficients that these have."""
    parents = rng.integers(len(batch), size=count)
    magnitude = rng.normal(0.0, BRIGHTNESS_MAG, count)
    data = {}
    for key, (observation, rows) in batch.data.items():
        if not isinstance(observation, Scalar):
            continue
        source = np.full(len(batch), -1)
        source[rows] = np.arange(len(rows))
        have = np.flatnonzero(source[parents] >= 0)
        if len(have):
            values = observation.value.numpy().astype(np.float64)
            drawn = values[source[parents[have]]]
            changed = _disturb(drawn, values, specs[key], magnitude[have], rng)
            data[key] = (Scalar(changed.astype(np.float32)), have)
    identifiers = np.array([f"{batch.object_id[p]}~{i}" for i, p in enumerate(parents)], dtype=np.str_)
    return ObservationBatch(identifiers, batch.ra[parents], batch.dec[parents], data)


def _disturb(drawn: Floats, sample: Floats, spec: ModalitySpec, magnitude: Floats, rng: np.random.Generator) -> Floats:
    noise = rng.normal(size=drawn.shape)
    brightness = magnitude.reshape(-1, *[1] * (drawn.ndim - 1))
    if spec.quantity.startswith("phot.mag"):
        return drawn + brightness + FLUX_NOISE * noise
    if spec.quantity.startswith("phot.flux"):
        return drawn * 10 ** (-0.4 * brightness) * (1 + FLUX_NOISE * noise)
    if spec.kind == "coefficients":
        size = np.nanmedian(np.abs(sample), axis=0)
        return (drawn + FLUX_NOISE * size * noise) * 10 ** (-0.4 * brightness)
    # A value of exactly zero means something of its own (a point source has no radius), and stays.
    return np.where(drawn == 0, drawn, _smoothed(drawn, sample, noise))


def _smoothed(drawn: Floats, sample: Floats, noise: Floats) -> Floats:
    """Add noise of a kernel's width, in the logarithm where all values are positive."""
    values = sample[np.isfinite(sample) & (sample != 0)]
    positive = bool((values > 0).all())
    with np.errstate(divide="ignore"):
        low, high = np.percentile(np.log(values) if positive else values, (16, 84)) if len(values) else (0.0, 0.0)
    width = SMOOTHING * (high - low) / 2 * max(1, len(values)) ** -0.2
    return drawn * np.exp(width * noise) if positive else drawn + width * noise
