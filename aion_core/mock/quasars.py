"""Quasars: power law, broad and narrow lines, iron, Balmer continuum and hot dust; who there is in a survey."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from aion_core.mock.grid import SIZE, WAVELENGTH, Float, add_lines, logistic, planck
from aion_core.mock.lines import BROAD, IRON, NARROW
from aion_core.mock.stars import Columns


@lru_cache(maxsize=1)
def _extras() -> tuple[Float, Float]:
    """Return iron and Balmer continuum, relative to the power law, and hot dust, relative to it at 1 µm."""
    wave = WAVELENGTH
    iron = np.zeros(SIZE)
    for centre, width, height in IRON:
        iron += height * np.exp(-0.5 * ((wave - centre) / width) ** 2)
    iron += 0.12 * np.exp(-np.clip(3646 - wave, 0, None) / 700) * logistic((3700 - wave) / 25)
    dust = planck(wave, np.array([1300.0, 300.0]))
    dust = 1.6 * dust[0] / dust[0].max() + 0.08 * dust[1] / dust[1].max()
    return iron.astype(np.float32), dust.astype(np.float32)


def spectra(columns: Columns) -> Float:
    """Return quasars' rest-frame spectra on the grid, relative to the power law at 3000 Å, ``[B, SIZE]``.

    The power law breaks at 4600 Å, as in the composite of Vanden Berk et al. 2001 (AJ 122, 549).
    """
    slope, lines, width = (columns[n].astype(np.float64) for n in ("slope", "line_strength", "line_width"))
    log = np.log(WAVELENGTH / 3000)
    bend = np.log(4600 / 3000)
    power = slope[:, None] * np.minimum(log, bend) + (slope[:, None] + 1.1) * np.clip(log - bend, 0, None)
    power -= 1.2 * np.clip(np.log(1216 / WAVELENGTH), 0, None)  # softer beyond Ly α: Telfer et al. 2002, ApJ 565, 773
    flux = np.exp(power.astype(np.float32))
    iron, dust = _extras()
    at_micron = np.exp(slope * bend + (slope + 1.1) * (np.log(10 / 3) - bend)).astype(np.float32)
    flux *= 1 + columns["iron"].astype(np.float32)[:, None] * iron
    flux += at_micron[:, None] * dust
    broad = np.array(BROAD)
    for k, (line, equivalent, dispersion) in enumerate(broad):
        strength = equivalent * lines * _continuum(slope, line)
        add_lines(flux, broad[k : k + 1, 0], strength[:, None], width * dispersion / 2300)
    narrow = np.array(NARROW)
    strengths = np.stack([ew * columns["narrow"] * _continuum(slope, line) for line, ew in narrow], axis=1)
    add_lines(flux, narrow[:, 0], strengths, np.full(len(slope), 250.0))
    return flux


def _continuum(slope: Float, wavelength: float) -> Float:
    log, bend = np.log(wavelength / 3000), np.log(4600 / 3000)
    return np.exp(slope * min(log, bend) + (slope + 1.1) * max(log - bend, 0.0))


def draw(rng: np.random.Generator, count: int) -> Columns:
    """Draw quasars to 21.5 mag; slopes and line strengths scatter as in Vanden Berk et al. 2001.

    The equivalent widths fall with luminosity (Baldwin 1977, ApJ 214, 679); magnitude and redshift stand for it here.
    """
    redshift = np.clip(rng.gamma(5.0, 0.33, count), 0.08, 4.5)
    magnitude = np.clip(21.3 - rng.exponential(1.1, count), 15.5, 21.8)
    brighter = (20 - magnitude) / 2.5 + 2 * np.log10((1 + redshift) * redshift / 3)
    return {
        "redshift": redshift,
        "magnitude": magnitude,
        "slope": rng.normal(-1.55, 0.25, count),
        "line_strength": np.exp(0.35 * rng.normal(size=count)) * 10 ** (-0.12 * np.clip(brighter, -2, 2)),
        "line_width": np.clip(2300 * np.exp(0.3 * rng.normal(size=count)), 1000, 6500),
        "iron": np.clip(1 + 0.6 * rng.normal(size=count), 0, 3),
        "narrow": np.exp(0.7 * rng.normal(size=count)),
    }
