"""A field as cameras see it: its objects, and the faint galaxies between them that no catalogue of objects lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from aion_core.mock.grid import Float
from aion_core.mock.instruments import Filter, photometry
from aion_core.mock.objects import FIELD, GALAXY, WIDTH, MockObjects, generator, reddening

#: Faint galaxies from one magnitude to another (at 6200 Å); counts per arcmin² at 23 and their growth per magnitude
#: (Metcalfe et al. 2001, MNRAS 323, 795).
BRIGHTEST, FAINTEST, DENSITY, SLOPE = 22.0, 24.6, 6.0, 0.35
#: They also lie around the field, so far out (degrees).
MARGIN = 0.008
_SHAPES = (
    "object_id", "kind", "ra", "dec", "ebv", "redshift", "radius", "axis_ratio", "position_angle", "bulge_fraction",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything in a field.

    Attributes
    ----------
    sources
        Positions, reddening and shapes of the objects, first, and of the faint galaxies.
    targets
        The objects themselves.
    """

    sources: MockObjects
    targets: MockObjects
    _magnitude: Float
    _colour: Float

    def maggies(self, filters: Mapping[str, Filter], step: float = 2.5e-4) -> dict[str, Float]:
        """Return the flux of each source in each filter, in maggies ``[n]``."""
        bright = photometry(self.targets, filters, step)
        faint = {
            name: 10 ** (-0.4 * (self._magnitude - self._colour * np.log10(pivot(curve) / 6200)))
            for name, curve in filters.items()
        }
        return {name: np.concatenate([bright[name], faint[name]]) for name in filters}


def pivot(curve: Filter) -> float:
    """Return the pivot wavelength of a filter in Å."""
    above, below = curve.response @ curve.wavelength, curve.response @ (1 / curve.wavelength)
    return float(np.sqrt(above / below))


def scene(objects: MockObjects) -> Scene:
    """Return the scene of objects of one field; its faint galaxies depend on the field alone."""
    seed, field = int(objects.object_id[0]) >> 32, int(objects.field[0])
    rng = generator("mock neighbours", seed, field)
    side = WIDTH + 2 * MARGIN
    growth = SLOPE * np.log(10)
    brightest, faintest = (DENSITY * 10 ** (SLOPE * (m - 23)) for m in (BRIGHTEST, FAINTEST))
    count = int(rng.poisson((60 * side) ** 2 * (faintest - brightest)))
    magnitude = BRIGHTEST + np.log1p(rng.random(count) * (np.exp(growth * (FAINTEST - BRIGHTEST)) - 1)) / growth
    x, y = rng.uniform(-side / 2, side / 2, (2, count))
    size = 0.45 * 10 ** (-0.12 * (magnitude - 23)) * np.exp(0.35 * rng.normal(size=count))
    faint = {
        # Numbers of the field that no object has.
        "object_id": (np.int64(seed) << 32 | np.int64(field) * FIELD) + np.int64(1 << 48) + np.arange(count),
        "kind": np.full(count, GALAXY),
        "ra": objects.field_ra[0] + x / np.cos(np.radians(objects.field_dec[0])),
        "dec": objects.field_dec[0] + y,
        "ebv": reddening(seed, field, x, y),
        "redshift": np.zeros(count),
        "radius": np.clip(size, 0.08, 2),
        "axis_ratio": rng.uniform(0.25, 1, count),
        "position_angle": rng.uniform(0, 180, count),
        "bulge_fraction": rng.uniform(0, 0.4, count),
    }
    columns = {name: np.concatenate([objects.columns[name], faint[name]]) for name in _SHAPES}
    colour = rng.normal(1.6, 1.4, count)
    return Scene(MockObjects(MappingProxyType(columns)), objects, magnitude, colour)
