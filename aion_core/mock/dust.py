"""What dims and reddens light: dust here and there, and hydrogen between the galaxies."""

from __future__ import annotations

import numpy as np

from aion_core.mock.grid import Float

#: Lyman series: vacuum wavelengths (Å) and the coefficients of Madau 1995 (ApJ 441, 18), equations 12 and 15.
_LYMAN = ((1215.67, 3.6e-3), (1025.72, 1.7e-3), (972.54, 1.2e-3), (949.74, 9.3e-4))


def calzetti(wavelength: Float) -> Float:
    """Return A(λ)/A(V) of the starburst attenuation law, Calzetti et al. 2000 (ApJ 533, 682), R_V = 4.05."""
    x = 1e4 / np.clip(wavelength, 700.0, None)  # the law is given from 1200 Å; it is followed down
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    return np.clip(np.where(x > 1 / 0.63, blue, red), 0, None) / 4.05


def cardelli(wavelength: Float, r_v: float = 3.1) -> Float:
    """Return A(λ)/A(V) of Galactic dust, Cardelli, Clayton & Mathis 1989 (ApJ 345, 245), 0.1 to 30 µm."""
    x = np.clip(1e4 / np.asarray(wavelength, np.float64), 0.03, 10.0)
    y = x - 1.82
    a = 1 + np.polyval((0.32999, -0.77530, 0.01979, 0.72085, -0.02427, -0.50447, 0.17699, 0), y)
    b = np.polyval((-2.09002, 5.30260, -0.62251, -5.38434, 1.07233, 2.28305, 1.41338, 0), y)
    infrared, ultraviolet, far = x < 1.1, x > 3.3, x > 8
    a, b = np.where(infrared, 0.574 * x**1.61, a), np.where(infrared, -0.527 * x**1.61, b)
    bend = np.clip(x - 5.9, 0, None)
    fa, fb = -0.04473 * bend**2 - 0.009779 * bend**3, 0.2130 * bend**2 + 0.1207 * bend**3
    a = np.where(ultraviolet, 1.752 - 0.316 * x - 0.104 / ((x - 4.67) ** 2 + 0.341) + fa, a)
    b = np.where(ultraviolet, -3.090 + 1.825 * x + 1.206 / ((x - 4.62) ** 2 + 0.263) + fb, b)
    a = np.where(far, np.polyval((-0.070, 0.137, -0.628, -1.073), x - 8), a)
    b = np.where(far, np.polyval((0.374, -0.420, 4.257, 13.670), x - 8), b)
    return a + b / r_v


def intergalactic(wavelength: Float, redshift: Float) -> Float:
    """Return the mean transmission of intergalactic hydrogen, ``[B, L]`` (Madau 1995, ApJ 441, 18).

    `wavelength` is observed, ``[B, L]`` or ``[L]``, `redshift` the source's, ``[B]``. Line blanketing of the
    first four Lyman lines, and the approximation of his footnote 3 for the continuum.
    """
    above = 1 + redshift[:, None]
    depth = np.zeros((len(redshift), wavelength.shape[-1]))
    for line, strength in _LYMAN:
        depth += np.where(wavelength < line * above, strength * (wavelength / line) ** 3.46, 0)
    edge = wavelength / 911.75
    continuum = (
        0.25 * edge**3 * (above**0.46 - edge**0.46)
        + 9.4 * edge**1.5 * (above**0.18 - edge**0.18)
        - 0.7 * edge**3 * (edge**-1.32 - above**-1.32)
        - 0.023 * (above**1.68 - edge**1.68)
    )
    depth += np.where(edge < above, np.clip(continuum, 0, None), 0)
    return np.exp(-depth)
