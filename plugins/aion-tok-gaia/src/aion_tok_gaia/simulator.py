"""The mock sky as Gaia would see it: rows of ``gaia_source`` joined with XP continuous spectra, one file per field.

Coefficients come about as in the instrument: photo-electrons by wavelength, dispersed into pseudo-wavelength, smeared
by the line spread, projected on the release's basis functions (GaiaXPy's); then corrected so that GaiaXPy's
calibration gives the spectrum back. All of that is linear: one matrix per photometer.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from aion_core.mock import GALAXY, MockObjects, write_fits
from aion_core.mock.instruments import Filter, photometry
from aion_tok_gaia.spectra import import_gaiaxpy

Floats = npt.NDArray[np.floating]

#: Zero points in the AB system, magnitudes of 1 photo-electron per second: Riello et al. 2021 (A&A 649, A3), table 3.
AB_ZERO = {"g": 25.8010446445, "bp": 25.3539555559, "rp": 25.1039837393}
#: The same in the Vega system, for the magnitudes in the archive.
VEGA_ZERO = {"g": 25.6873668671, "bp": 25.3385422158, "rp": 24.7478955012}
FILTERS = {"g": "gaiadr3-G", "bp": "gaiadr3-BP", "rp": "gaiadr3-RP"}
#: Effective exposure (s) of all transits together, and background in photo-electrons per second.
EXPOSURE = {"g": 900.0, "bp": 170.0, "rp": 180.0}
BACKGROUND = {"g": 8.0, "bp": 25.0, "rp": 18.0}
FAINTEST, BRIGHTEST, XP_FAINTEST = 20.7, 3.0, 17.65  # G magnitudes
#: Galaxies up to this half-light radius (arcsec) are taken for point sources.
COMPACT = 0.35
BASES = 55
#: By photometer: name of GaiaXPy's instrument model, wavelengths that its calibration covers (nm), dispersion of the
#: line spread in samples, identifier of the bases, errors of the coefficients (De Angeli et al. 2023, as in real rows).
XP: dict[str, tuple[str, tuple[int, int], float, int, float]] = {
    "bp": ("v375wi", (330, 643), 1.2, 56, 0.040),
    "rp": ("v142r", (635, 1020), 1.0, 57, 0.024),
}
WAVELENGTH = np.arange(320.0, 1090.0)  # nm
EPOCH = 2016.0
SOLUTION = 1636148068921376768


class ArchiveSimulator:
    """Observes each field as one table."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        written = []
        for field, part in objects.fields():
            part = part[(part.kind != GALAXY) | (part.radius < COMPACT)]
            flux = fluxes(part)
            magnitude = VEGA_ZERO["g"] - 2.5 * np.log10(flux["g"])
            seen = (magnitude < FAINTEST) & (magnitude > BRIGHTEST)
            if seen.any():
                flux = {band: values[seen] for band, values in flux.items()}
                table = _table(part[seen], flux, magnitude[seen], rng)
                written.append(write_fits(folder / f"gaia-{field:06d}.fits", [fits.PrimaryHDU(), table]))
        return written


def fluxes(objects: MockObjects) -> dict[str, Floats]:
    """Return noiseless mean fluxes in G, BP and RP, photo-electrons per second ``[B]``."""
    from speclite.filters import load_filter

    curves = {band: load_filter(name) for band, name in FILTERS.items()}
    filters = {band: Filter(np.asarray(c.wavelength), np.asarray(c.response)) for band, c in curves.items()}
    return {band: f * 10 ** (0.4 * AB_ZERO[band]) for band, f in photometry(objects, filters, 5e-4).items()}


def coefficients(objects: MockObjects, band: str) -> Floats:
    """Return noiseless coefficients of BP or RP spectra, float64 ``[B, 55]``."""
    edges = 10 * np.append(WAVELENGTH - 0.5, WAVELENGTH[-1] + 0.5)
    return objects.mean_flux(edges).astype(np.float64) @ _projection(band).T


@lru_cache(maxsize=2)
def _projection(band: str) -> Floats:
    """Return the matrix from 1e-17 erg s⁻¹ cm⁻² Å⁻¹ at `WAVELENGTH` to coefficients, ``[55, L]``."""
    import_gaiaxpy()
    from gaiaxpy.calibrator.external_instrument_model import ExternalInstrumentModel
    from gaiaxpy.config.paths import config_path, hermite_bases_file
    from gaiaxpy.converter.config import parse_config
    from gaiaxpy.converter.converter import get_design_matrices
    from gaiaxpy.core.nature import PLANCK, C
    from gaiaxpy.core.satellite import TELESCOPE_PUPIL_AREA
    from gaiaxpy.spectrum.sampled_basis_functions import SampledBasisFunctions

    version, (first, last), spread, _, _ = XP[band]
    parts = (f"{config_path}/{band}C03_{version}_{part}.csv" for part in ("dispersion", "response", "bases"))
    with redirect_stdout(io.StringIO()):  # GaiaXPy tells that it reads its own files
        model = ExternalInstrumentModel.from_config_csv(*parts)
    samples = np.linspace(0, 60, 601)
    bases = get_design_matrices(samples, parse_config(hermite_bases_file))[band].design_matrix
    scale = (model.bases["normRangeMax"] - model.bases["normRangeMin"]) / 59  # the bases are orthonormal when scaled
    response = np.clip(model.get_response(WAVELENGTH), 0, None)
    electrons = 1e-19 * TELESCOPE_PUPIL_AREA * response * WAVELENGTH * 1e-9 / (C * PLANCK)
    smear = np.exp(-0.5 * ((samples[:, None] - model.wl_to_pwl(WAVELENGTH)) / spread) ** 2)
    smear /= spread * np.sqrt(2 * np.pi)
    forward: Floats = scale * (samples[1] - samples[0]) * bases @ smear * electrons
    # What the calibration makes of the coefficients, where it is defined, in the units of the mock sky.
    inside = (first <= WAVELENGTH) & (last >= WAVELENGTH)
    ones = np.ones(int(inside.sum()))
    calibrated = SampledBasisFunctions.from_external_instrument_model(WAVELENGTH[inside], ones, model)
    back = calibrated.design_matrix.T * 1e19
    weight = (response * WAVELENGTH)[inside]
    order = np.arange(BASES)
    freedom = 0.05 * np.exp(-order / 4) + 0.002 * np.exp(-order / 20)  # how far a coefficient may be corrected
    missing = np.eye(len(WAVELENGTH))[inside] - back @ forward
    design = weight[:, None] * back * freedom / (0.01 * np.abs(weight * back[:, 0]).max())
    solved = np.linalg.solve(design.T @ design + np.eye(BASES), design.T)
    step = freedom[:, None] * solved * (weight / (0.01 * np.abs(weight * back[:, 0]).max()))
    return forward + step @ missing


def _table(
    objects: MockObjects, flux: dict[str, Floats], magnitude: Floats, rng: np.random.Generator
) -> fits.BinTableHDU:
    size = len(objects)
    columns: dict[str, tuple[str, str | None, Any]] = {
        "solution_id": ("K", None, np.full(size, SOLUTION)),
        "source_id": ("K", None, objects.object_id),
        "ref_epoch": ("D", "yr", np.full(size, EPOCH)),
    }
    # Lindegren et al. 2021 (A&A 649, A2), table 4: 0.02 mas for the bright, 0.5 mas at G = 20.
    error = np.hypot(0.02, 0.5 * 10 ** (0.31 * (magnitude - 20)))
    for axis in ("ra", "dec"):
        stretch = np.cos(np.radians(objects.dec)) if axis == "ra" else 1.0
        shift = error / 3.6e6 / stretch * rng.normal(size=size)
        columns[axis] = ("D", "deg", objects.columns[axis] + shift)
        columns[f"{axis}_error"] = ("E", "mas", error)
    columns["parallax"] = ("D", "mas", objects.parallax - 0.02 + error * rng.normal(size=size))
    columns["parallax_error"] = ("E", "mas", error)
    for band, true in flux.items():
        noise = np.hypot(np.sqrt((true + BACKGROUND[band]) / EXPOSURE[band]), 0.0015 * true)
        seen = true + noise * rng.normal(size=size)
        columns[f"phot_{band}_mean_flux"] = ("D", "electron.s**-1", seen)
        columns[f"phot_{band}_mean_flux_error"] = ("E", "electron.s**-1", noise)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns[f"phot_{band}_mean_mag"] = ("E", "mag", VEGA_ZERO[band] - 2.5 * np.log10(seen))
    has = magnitude < XP_FAINTEST
    columns["has_xp_continuous"] = ("L", None, has)
    for band in XP:
        columns |= _spectra(objects, band, has, rng)
    made = [fits.Column(name, form, unit, array=values) for name, (form, unit, values) in columns.items()]
    return fits.BinTableHDU.from_columns(made, name="gaia_source")


def _spectra(
    objects: MockObjects, band: str, has: npt.NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, tuple[str, str | None, Any]]:
    """Return the columns of a photometer's spectrum; NaN for sources that are too faint to have one."""
    *_, identifier, level = XP[band]
    size, order = len(objects), np.arange(BASES)
    values, errors = np.full((size, BASES), np.nan), np.full((size, BASES), np.nan)
    true = coefficients(objects[has], band)
    # The higher orders, which hardly any light falls on, are the better known.
    profile = np.where(order < 30, 1.0, np.clip(np.exp(-(order - 30) / 12.0), 0.05, 1))
    norm = np.clip(np.abs(true[:, :1]), 1, None)
    errors[has] = np.hypot(level * np.sqrt(norm + 15), 5e-4 * norm) * profile
    values[has] = true + errors[has] * rng.normal(size=true.shape)
    counts = np.where(has, rng.integers(1200, 3000, size), 0)
    return {
        f"{band}_basis_function_id": ("I", None, np.full(size, identifier)),
        f"{band}_n_parameters": ("I", None, np.where(has, BASES, 0)),
        f"{band}_n_measurements": ("I", None, counts),
        f"{band}_standard_deviation": ("E", None, np.where(has, 1.05, np.nan)),
        f"{band}_coefficients": (f"{BASES}D", None, values),
        f"{band}_coefficient_errors": (f"{BASES}E", None, errors),
        f"{band}_n_relevant_bases": ("I", None, np.where(has, 45, 0)),
        f"{band}_relative_shrinking": ("E", None, np.where(has, 0.99, np.nan)),
    }
