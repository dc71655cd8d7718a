"""Resampled copies of real catalogue rows, disturbed as another star or galaxy of the kind would differ.

A few thousand real rows are too few to train on, so the demo multiplies them: an object is drawn with replacement, made
brighter or fainter in all its fluxes at once, and every measurement gets noise of its own. Colours are therefore real;
nothing else about the copies is, and the demo says so.
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
#: Noise of any other measurement: of its value, or for angles and parallaxes of the sample's spread.
OTHER_NOISE = 0.03

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
    if spec.quantity.startswith("pos."):
        low, high = np.nanpercentile(sample, (16, 84))
        return drawn + OTHER_NOISE * (high - low) * noise
    return drawn * (1 + OTHER_NOISE * noise)
