"""The mock sky as compilations have it: a table of redshifts, and one of the sources around each object.

What the columns mean is said in a file for ``aion tokenize --readers``, which is written beside the tables.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from aion_core.mock import GALAXY, MockObjects, replacing, write_fits
from aion_core.mock.scene import Scene, scene

Floats = npt.NDArray[np.floating]

CROP, PIXEL_SCALE = 96, 0.262
READERS = """\
[[catalog_tables.tables]]
files = ["mock-redshifts-*.fits*"]
object_id = "object_id"
ra = "ra"
dec = "dec"
redshift = "z"
warning = "zwarn"

[[catalog_tables.tables]]
files = ["mock-sources-*.fits*"]
object_id = "object_id"
sources = { x = "x", y = "y", e1 = "e1", e2 = "e2", radius = "radius", group = "object_id" }
"""


class CompilationSimulator:
    """Writes both tables of each field."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        options = folder / "readers.toml"
        with replacing(options) as temporary:
            temporary.write_text(READERS)
        written = [options]
        for field, part in objects.fields():
            parts = {"redshifts": _redshifts(part, rng), "sources": _sources(scene(part))}
            for name, table in parts.items():
                written.append(write_fits(folder / f"mock-{name}-{field:06d}.fits", [fits.PrimaryHDU(), table]))
        return written


def _redshifts(objects: MockObjects, rng: np.random.Generator) -> fits.BinTableHDU:
    failed = rng.random(len(objects)) < 0.03
    measured = objects.redshift + 2e-4 * (1 + objects.redshift) * rng.normal(size=len(objects))
    columns = [
        fits.Column("object_id", "K", array=objects.object_id),
        fits.Column("ra", "D", "deg", array=objects.ra),
        fits.Column("dec", "D", "deg", array=objects.dec),
        fits.Column("z", "D", array=np.where(failed, rng.uniform(0, 1.5, len(objects)), measured)),
        fits.Column("zwarn", "I", array=failed.astype(np.int16)),
    ]
    return fits.BinTableHDU.from_columns(columns, name="redshifts")


def _sources(view: Scene) -> fits.BinTableHDU:
    """Return position, ellipticity and radius of the sources in each object's crop, a row for each source."""
    sources, targets = view.sources, view.targets
    east = (sources.ra[None] - targets.ra[:, None]) * np.cos(np.radians(targets.dec))[:, None]
    x = CROP // 2 - east * 3600 / PIXEL_SCALE
    y = CROP // 2 + (sources.dec[None] - targets.dec[:, None]) * 3600 / PIXEL_SCALE
    inside = (x > -0.5) & (x < CROP - 0.5) & (y > -0.5) & (y < CROP - 0.5)
    target, source = np.nonzero(inside)
    ratio = np.clip(np.nan_to_num(sources.axis_ratio[source], nan=1.0), 0.05, 1)
    size, angle = (1 - ratio) / (1 + ratio), 2 * np.radians(np.nan_to_num(sources.position_angle[source]))
    galaxy = sources.kind[source] == GALAXY
    values: dict[str, Floats] = {
        "x": x[inside],
        "y": y[inside],
        "e1": np.where(galaxy, size * np.cos(angle), 0),
        "e2": np.where(galaxy, size * np.sin(angle), 0),
        "radius": np.where(galaxy, sources.radius[source], 0),
    }
    columns = [fits.Column("object_id", "K", array=targets.object_id[target])]
    columns += [fits.Column(name, "E", array=array) for name, array in values.items()]
    return fits.BinTableHDU.from_columns(columns, name="sources")
