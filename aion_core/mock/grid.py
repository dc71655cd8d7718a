"""The rest-frame wavelength grid that all mock spectra are computed on, and how spectra are moved off it.

Fine (1e-4 in log10 wavelength, 69 km/s) from 700 to 12 500 Å, where lines are; coarse (2e-3) from there to 30 µm.
Wavelengths are vacuum, in Å.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float: TypeAlias = npt.NDArray[np.floating]

SPEED_OF_LIGHT = 299792.458  # km/s
SOLAR_LUMINOSITY = 3.828e33  # erg/s, IAU 2015 resolution B3
SOLAR_RADIUS = 6.957e10  # cm, as above
PARSEC = 3.0856775815e18  # cm

_START, _BEND, _END = np.log10((700.0, 12500.0, 300000.0))
STEP, _COARSE = 1e-4, 2e-3
#: Pixels of the fine part.
FINE = int((_BEND - _START) / STEP)
_BEND = _START + FINE * STEP
SIZE = FINE + int((_END - _BEND) / _COARSE)


def _wavelength(index: Float) -> Float:
    return 10.0 ** np.where(index < FINE, _START + index * STEP, _BEND + (index - FINE) * _COARSE)


WAVELENGTH: Float = _wavelength(np.arange(SIZE, dtype=np.float64))
EDGES: Float = _wavelength(np.arange(SIZE + 1, dtype=np.float64) - 0.5)
WIDTH: Float = np.diff(EDGES)
for _array in (WAVELENGTH, EDGES, WIDTH):
    _array.setflags(write=False)


def index_of(log_wavelength: Float) -> Float:
    """Return the fractional pixel number of log10 wavelengths; pixel i is centred on number i."""
    fine = (log_wavelength - _START) / STEP
    return np.where(fine < FINE, fine, FINE + (log_wavelength - _BEND) / _COARSE)


def sample(values: Float, index: Float) -> Float:
    """Return values ``[B, SIZE]`` interpolated linearly at pixel numbers ``[B, L]``; zero outside the grid."""
    inside = (index >= 0) & (index <= values.shape[1] - 1)
    index = np.clip(index, 0, values.shape[1] - 1.001)
    low = index.astype(np.int32)
    fraction = (index - low).astype(values.dtype)
    result = np.empty(index.shape, values.dtype)
    for row, i, f, out in zip(values, low, fraction, result, strict=True):
        left = row[i]
        np.subtract(row[i + 1], left, out=out)
        out *= f
        out += left
    result[~inside] = 0
    return result


def bin_means(values: Float, index: Float, widths: Float) -> Float:
    """Return the means of values ``[B, SIZE]`` between successive pixel numbers ``[B, L + 1]``; flux is conserved.

    `widths` are the bins' widths in the same frame as the grid, ``[B, L]``.
    """
    total = np.zeros((len(values), SIZE + 1))
    np.cumsum(values * WIDTH, axis=1, out=total[:, 1:])
    position = np.clip(index + 0.5, 0, SIZE)
    low = np.minimum(position.astype(np.int32), SIZE - 1)
    position -= low
    result = np.empty(widths.shape, np.float32)
    for row, i, f, width, out in zip(total, low, position, widths, result, strict=True):
        left = row[i]
        at_edges = left + f * (row[i + 1] - left)
        out[:] = np.diff(at_edges) / width
    return result


def smooth(values: Float, velocity: float) -> Float:
    """Return spectra ``[B, SIZE]`` broadened by a Gaussian of a velocity dispersion (km/s), on the fine part."""
    sigma = velocity / SPEED_OF_LIGHT / (STEP * np.log(10))
    reach = int(np.ceil(5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    result = values.copy()
    for row, out in zip(values, result, strict=True):
        padded = np.pad(row[:FINE], reach, mode="edge")
        out[:FINE] = np.convolve(padded, kernel, mode="valid")
    return result


def logistic(x: Float) -> Float:
    """Return 1 / (1 + exp(−x)), a smooth step."""
    return 0.5 * (1 + np.tanh(np.asarray(x) / 2))


def planck(wavelength: Float, temperature: Float) -> Float:
    """Return the surface flux π B_λ of black bodies, erg s⁻¹ cm⁻² Å⁻¹, ``[B, L]`` for temperatures ``[B]`` (K)."""
    micron = np.asarray(wavelength, np.float64) * 1e-4
    exponent = np.clip(14387.768775 / (micron * np.asarray(temperature, np.float64)[:, None]), 1e-9, 80)
    # 2 π h c² = 3.741771852e-16 W m²; at 1 µm: 3.741771852e14 W m⁻³ = 3.741771852e7 erg s⁻¹ cm⁻² Å⁻¹
    return 3.741771852e7 / micron**5 / np.expm1(exponent)


def add_lines(spectra: Float, wavelength: Float, luminosity: Float, velocity: Float) -> None:
    """Add Gaussian emission lines to spectra ``[B, SIZE]`` (per Å), in place.

    Parameters
    ----------
    wavelength
        Rest wavelengths ``[K]`` on the fine grid.
    luminosity
        Integrated over the line, ``[B, K]``.
    velocity
        Dispersions in km/s, ``[B]``; what is narrower than the grid's pixel is widened to it.
    """
    if not len(spectra):
        return
    sigma = np.maximum(np.asarray(velocity) / SPEED_OF_LIGHT / (STEP * np.log(10)), 0.7)
    reach = int(np.ceil(5 * sigma.max()))
    centre = index_of(np.log10(wavelength))
    for k, at in enumerate(centre):
        first, last = max(int(at) - reach, 0), min(int(at) + reach + 2, FINE)
        if last <= first:
            continue
        offset = np.arange(first, last) - at
        profile = np.exp(-0.5 * (offset / sigma[:, None]) ** 2)
        profile /= (sigma * np.sqrt(2 * np.pi))[:, None]
        spectra[:, first:last] += luminosity[:, k : k + 1] * profile / WIDTH[first:last]
