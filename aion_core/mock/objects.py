"""Mock objects: a population with known truth, whose spectra are computed when they are asked for.

The sky comes in fields of `FIELD` objects, 6 arcminutes wide. Object i of a seed is the same whatever else is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.mock import cosmology, galaxies, quasars, stars
from aion_core.mock.dust import cardelli, intergalactic
from aion_core.mock.grid import (
    PARSEC,
    SOLAR_LUMINOSITY,
    WAVELENGTH,
    Float,
    bin_means,
    index_of,
    sample,
)

if TYPE_CHECKING:
    from astropy.table import Table

KINDS = ("galaxy", "star", "quasar")
GALAXY, STAR, QUASAR = range(3)
#: Objects of a field, and its width in degrees.
FIELD, WIDTH = 500, 0.1
#: Where half of the fields lie, (ra, ra, dec, dec) in degrees: where wide surveys overlap; and where the others do.
OVERLAP, REST = (150.0, 220.0, -1.5, 4.0), (120.0, 240.0, -8.0, 32.0)
_SHARES = (0.70, 0.20, 0.10)
_BLOCK = 250

#: Unit of each column of the truth table that has one.
UNITS = {
    "ra": "deg", "dec": "deg", "field_ra": "deg", "field_dec": "deg", "ebv": "mag", "age": "Gyr",
    "onset": "Gyr", "tau": "Gyr", "a_v": "mag", "line_width": "km/s", "radius_kpc": "kpc",
    "radius": "arcsec", "position_angle": "deg", "teff": "K", "distance": "pc",
    "parallax": "mas", "stellar_radius": "solRad", "magnitude": "mag",
}  # fmt: skip


def generator(*parts: object) -> np.random.Generator:
    """Return the random generator of a key: the same for the same parts, unrelated for any others."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))


@dataclass(frozen=True, eq=False)
class MockObjects:
    """B objects of the mock sky.

    Attributes
    ----------
    columns
        ``{name: array [B]}``: identifiers (``object_id``, ``field``, ``number`` in the field from 0), ``kind``
        (0 galaxy, 1 star, 2 quasar: `KINDS`), position, physical parameters and shape; NaN where a kind has none.
    """

    columns: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["object_id"])

    def __getitem__(self, rows: Any) -> MockObjects:
        """Return some of the objects: a slice, or an index or boolean array."""
        return MockObjects(MappingProxyType({name: column[rows] for name, column in self.columns.items()}))

    def __getattr__(self, name: str) -> npt.NDArray[Any]:
        """Return a column: ``objects.redshift``."""
        if name.startswith("__") or name not in self.columns:
            raise AttributeError(f"{type(self).__name__} has no column {name!r}")
        return self.columns[name]

    def fields(self) -> Iterator[tuple[int, MockObjects]]:
        """Yield the field numbers, and the objects of each field."""
        for field in np.unique(self.columns["field"]):
            yield int(field), self[self.columns["field"] == field]

    def sed(self, wavelength: npt.ArrayLike, rows: Any = None) -> Float:
        """Return the flux density at observed wavelengths (Å, vacuum), 1e-17 erg s⁻¹ cm⁻² Å⁻¹, float32 ``[B, L]``.

        As it arrives at the telescope: redshifted, and dimmed by the dust of the Galaxy.
        """
        log = np.log10(np.asarray(wavelength, np.float64))
        return self._evaluate(rows, lambda rest, shift: sample(rest, index_of(log - shift)))

    def mean_flux(self, edges: npt.ArrayLike, rows: Any = None) -> Float:
        """Return the mean flux density between successive edges ``[L + 1]``: like `sed`, exactly conserving flux."""
        edges = np.asarray(edges, np.float64)
        log, widths = np.log10(edges), np.diff(edges)

        def means(rest: Float, shift: Float) -> Float:
            return bin_means(rest, index_of(log - shift), widths / 10**shift)

        return self._evaluate(rows, means)

    def _evaluate(self, rows: Any, function: Any) -> Float:
        if rows is not None:
            return self[rows]._evaluate(None, function)
        parts = []
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            rest = self._rest[block] if len(self) <= FIELD else self[block]._rest
            parts.append(function(rest, np.log10(1 + self.columns["redshift"][block, None])))
        return (
            np.concatenate(parts) if parts else function(np.zeros((0, len(WAVELENGTH)), np.float32), np.zeros((0, 1)))
        )

    @cached_property
    def _rest(self) -> Float:
        """The flux received, by rest wavelength, ``[B, SIZE]``; kept, as several instruments look at one field."""
        flux = np.zeros((len(self), len(WAVELENGTH)), np.float32)
        for kind, model in enumerate((_galaxy_flux, stars.spectra, _quasar_flux)):
            rows = np.flatnonzero(self.columns["kind"] == kind)
            if len(rows):
                flux[rows] = model({name: column[rows] for name, column in self.columns.items()})
        table = np.linspace(np.log10(500), np.log10(3e6), 4000)
        curve = 0.921 * 3.1 * cardelli(10**table)
        log = np.log10(WAVELENGTH)
        for row, shift, reddening in zip(
            flux, np.log10(1 + self.columns["redshift"]), self.columns["ebv"], strict=True
        ):
            row *= np.exp(-reddening * np.interp(log + shift, table, curve)).astype(np.float32)
        return flux

    def truth(self) -> Table:
        """Return what is known of the objects as a table: one row each, units and kinds spelled out."""
        from astropy.table import Column, Table

        table = Table()
        for name, values in self.columns.items():
            shown = np.array(KINDS)[values] if name == "kind" else values
            table[name] = Column(shown, unit=UNITS.get(name))
        return table


def _galaxy_flux(columns: Mapping[str, npt.NDArray[Any]]) -> Float:
    luminosity = galaxies.spectra(dict(columns))
    distance = cosmology.luminosity_distance(columns["redshift"]) * 1e6 * PARSEC
    scale = SOLAR_LUMINOSITY / (4 * np.pi * distance**2) * 1e17 / (1 + columns["redshift"])
    return _through_space(luminosity, columns["redshift"]) * scale.astype(np.float32)[:, None]


def _quasar_flux(columns: Mapping[str, npt.NDArray[Any]]) -> Float:
    flux = quasars.spectra(dict(columns))
    # The magnitude is that at 6200 Å, above the Galaxy's dust.
    at = 6200.0
    wanted = 10 ** (-0.4 * (columns["magnitude"] + 48.6)) * 2.99792458e18 / at**2 * 1e17
    index = index_of(np.log10(at / (1 + columns["redshift"])))[:, None]
    around = index + np.arange(-400, 401, 20)
    flux *= (wanted / sample(flux, around).mean(1)).astype(np.float32)[:, None]
    return _through_space(flux, columns["redshift"])


def _through_space(flux: Float, redshift: Float) -> Float:
    """Return the flux after intergalactic hydrogen has absorbed its share of what is bluer than Ly α."""
    blue = WAVELENGTH < 1216
    flux[:, blue] *= intergalactic(WAVELENGTH[blue] * (1 + redshift[:, None]), redshift).astype(np.float32)
    return flux


def draw(seed: int, start: int, count: int) -> MockObjects:
    """Return objects start … start + count − 1 of the endless sky of a seed.

    Raises
    ------
    InputError
        If no objects are asked for, or numbers are negative.
    """
    if count < 1 or start < 0 or not 0 <= seed < 2**31:
        raise InputError(
            f"count {count}, start {start}, seed {seed}: expected one object or more, a start of 0 or more, "
            "and a seed in 0 … 2³¹ − 1."
        )
    fields = range(start // FIELD, (start + count - 1) // FIELD + 1)
    parts = [_field(seed, field) for field in fields]
    offset = fields[0] * FIELD
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return MockObjects(MappingProxyType(columns))[start - offset : start - offset + count]


def stream(seed: int, count: int) -> Iterator[MockObjects]:
    """Yield the first `count` objects of a seed, a field at a time: memory does not grow with their number."""
    for start in range(0, count, FIELD):
        yield draw(seed, start, min(FIELD, count - start))


def _field(seed: int, field: int) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a whole field."""
    rng = generator("mock sky", seed, field)
    number = np.arange(FIELD)
    kind = rng.choice(3, FIELD, p=_SHARES)
    centre, ra, dec = _positions(rng)
    columns: dict[str, npt.NDArray[Any]] = {
        "object_id": (np.int64(seed) << 32) + field * FIELD + number,
        "field": np.full(FIELD, field),
        "number": number,
        "kind": kind,
        "ra": ra,
        "dec": dec,
        "field_ra": np.full(FIELD, centre[0]),
        "field_dec": np.full(FIELD, centre[1]),
        "ebv": reddening(seed, field, (ra - centre[0]) * np.cos(np.radians(centre[1])), dec - centre[1]),
    }
    counts = np.bincount(kind, minlength=3)
    drawn = (_galaxies(rng, counts[0]), stars.draw(rng, counts[1]), quasars.draw(rng, counts[2]))
    for name in dict.fromkeys(name for part in drawn for name in part):
        columns[name] = np.full(FIELD, np.nan)
        for k, part in enumerate(drawn):
            if name in part:
                columns[name][kind == k] = part[name]
    galaxy = kind == GALAXY
    columns["parallax"] = np.where(kind == STAR, 1000 / columns["distance"], 0.0)
    columns["radius"] = np.zeros(FIELD)
    scale = cosmology.arcsec_per_kpc(columns["redshift"][galaxy])
    columns["radius"][galaxy] = np.clip(columns["radius_kpc"][galaxy] * scale, 0.05, 8.0)
    return columns


def reddening(seed: int, field: int, east: Float, north: Float) -> Float:
    """Return E(B−V) in mag, ``[n]``, at places some degrees off the centre of a field.

    Smooth over a field, as in maps of the Galaxy's dust, whose resolution is as coarse (Schlegel et al. 1998).
    """
    level, *slope = generator("mock dust", seed, field).normal(size=3)
    across = (slope[0] * east + slope[1] * north) / WIDTH
    return np.clip(0.04 * np.exp(0.6 * level + 0.3 * across), 0.003, 0.8)


def _galaxies(rng: np.random.Generator, count: int) -> dict[str, npt.NDArray[Any]]:
    """Draw galaxies at redshifts of a bright, a luminous red and an emission-line sample."""
    sample = rng.choice(3, count, p=(0.58, 0.28, 0.14))
    redshift = np.choose(
        sample, (rng.gamma(2.4, 0.075, count), rng.normal(0.58, 0.16, count), rng.uniform(0.7, 1.4, count))
    )
    redshift = np.clip(np.abs(redshift), 0.012, 1.5)
    return galaxies.draw(rng, count, cosmology.age(redshift), redshift)


def _positions(rng: np.random.Generator) -> tuple[tuple[float, float], Float, Float]:
    """Return the centre of a field, which lies in one of the two areas, and positions in it; degrees."""
    west, east, south, north = OVERLAP if rng.random() < 0.5 else REST
    low, high = np.sin(np.radians((south, north)))
    dec = np.degrees(np.arcsin(rng.uniform(low, high)))
    ra = rng.uniform(west, east)
    x, y = rng.uniform(-WIDTH / 2, WIDTH / 2, (2, FIELD))
    return (ra, dec), ra + x / np.cos(np.radians(dec)), dec + y
