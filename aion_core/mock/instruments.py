"""Generic instruments: photometry through filters, and a spectrograph. What they are set to is the surveys' business.

Fluxes per wavelength are in 1e-17 erg s⁻¹ cm⁻² Å⁻¹, wavelengths in Å (vacuum), masks True where a pixel is bad.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aion_core.mock.grid import Float
from aion_core.mock.lines import SKY
from aion_core.mock.objects import GALAXY, MockObjects

Bool = npt.NDArray[np.bool_]

#: Flux per frequency of magnitude 0 in the AB system, as λ²·f_λ/c: erg s⁻¹ cm⁻² Hz⁻¹ (Oke & Gunn 1983, ApJ 266, 713).
_AB = 3.6307805e-20
_LIGHT = 2.99792458e18  # Å/s
#: Relative error of the flux that a model is fitted to, of points and of galaxies, whose profiles no model has: what
#: colours of synthetic objects scatter by in a survey's pipeline (Huang et al. 2018, PASJ 70, S6).
FIT = 0.005, 0.03
#: Continuum of the dark sky in a 2″ fibre between the lines of `SKY`.
SKY_CONTINUUM = 2.5


@dataclass(frozen=True, eq=False)
class Filter:
    """A filter's curve: the response per photon, at wavelengths ``[L]``; its scale does not matter."""

    wavelength: Float
    response: Float


def photometry(objects: MockObjects, filters: Mapping[str, Filter], step: float = 2.5e-4) -> dict[str, Float]:
    """Return the flux of each object in each filter, in maggies (1 at AB magnitude 0), float64 ``[B]``.

    The photon-weighted mean of the flux density, on bins of `step` in log10 wavelength that conserve line flux.
    """
    low = min(f.wavelength[0] for f in filters.values())
    high = max(f.wavelength[-1] for f in filters.values())
    edges = 10 ** np.arange(np.log10(low), np.log10(high) + step, step)
    centre, width = np.sqrt(edges[1:] * edges[:-1]), np.diff(edges)
    curves = np.stack([np.interp(centre, f.wavelength, f.response, left=0, right=0) for f in filters.values()], axis=1)
    weights = curves * (centre * width)[:, None]
    unit = _AB * _LIGHT * (curves * (width / centre)[:, None]).sum(0)
    used = np.flatnonzero(curves.any(1))
    flux = _means(objects, edges, used) @ weights[used]
    return dict(zip(filters, (flux * 1e-17 / unit).T, strict=True))


def _means(objects: MockObjects, edges: Float, used: npt.NDArray[np.intp]) -> Float:
    """Return mean fluxes of the bins used, computing runs of them only (filters leave wide gaps)."""
    runs = np.split(used, np.flatnonzero(np.diff(used) > 1) + 1)
    return np.concatenate([objects.mean_flux(edges[run[0] : run[-1] + 2]) for run in runs], axis=1)


def fit_error(objects: MockObjects) -> Float:
    """Return the relative error of each object's flux in a catalogue, besides the noise of its pixels, ``[B]``."""
    return np.where(objects.kind == GALAXY, FIT[1], FIT[0])


@dataclass(frozen=True, eq=False)
class Spectrograph:
    """A spectrograph: pixels, line spread and noise.

    Attributes
    ----------
    wavelength
        Centres of the pixels, ``[L]``, ascending and evenly spaced (or evenly in the logarithm).
    sigma
        Dispersion of the Gaussian line spread in pixels, a number or ``[L]``.
    noise
        Standard deviation of a faint object's flux between sky lines, ``[L]``, at the reference exposure.
    sky_share
        How much of that variance is the sky's photons; the rest is the detector's.
    bad_pixels
        Share of single pixels lost to cosmic rays.
    """

    wavelength: Float
    sigma: float | Float
    noise: Float
    sky_share: float = 0.8
    bad_pixels: float = 3e-4

    def edges(self) -> Float:
        """Return the pixels' edges ``[L + 1]``."""
        wave = self.wavelength
        middle = (wave[1:] + wave[:-1]) / 2
        return np.concatenate(([2 * wave[0] - middle[0]], middle, [2 * wave[-1] - middle[-1]]))

    def sky(self) -> Float:
        """Return the sky's spectrum ``[L]``: continuum, and lines at the instrument's resolution."""
        edges = self.edges()
        width = np.diff(edges)
        sigma = np.broadcast_to(np.asarray(self.sigma, np.float64), width.shape) * width
        sky = np.full(len(width), SKY_CONTINUUM)
        for line, strength in SKY:
            near = np.abs(self.wavelength - line) < 8 * sigma
            x = (self.wavelength[near] - line) / sigma[near]
            sky[near] += strength * np.exp(-0.5 * x**2) / (sigma[near] * np.sqrt(2 * np.pi))
        return sky

    def expected(self, objects: MockObjects) -> Float:
        """Return the flux that would be seen without noise, float32 ``[B, L]``.

        Each pixel is the mean over its width of the spectrum after the line spread: the spectrum is taken in half
        pixels, so that flux is conserved, and summed with Gaussian weights of each pixel's own dispersion.
        """
        edges, reach = self.edges(), int(np.ceil(4 * np.max(self.sigma))) + 1
        wave, count = np.concatenate((edges, (edges[1:] + edges[:-1]) / 2)), len(self.wavelength)
        halves = np.sort(wave)
        before = halves[0] - (halves[1] - halves[0]) * np.arange(2 * reach, 0, -1)
        after = halves[-1] + (halves[-1] - halves[-2]) * np.arange(1, 2 * reach + 1)
        fine = objects.mean_flux(np.concatenate((before, halves, after)))
        sigma = np.broadcast_to(np.asarray(self.sigma, np.float64), (count,))
        offsets = np.arange(-2 * reach, 2 * reach + 2)
        # Half pixel k of pixel i is centred (k − 1/2)/2 pixels off its centre.
        weights = np.exp(-0.5 * (((offsets - 0.5) / 2)[:, None] / sigma) ** 2)
        weights /= weights.sum(0)
        result = np.zeros((len(fine), count), np.float32)
        product = np.empty_like(result)
        for offset, weight in zip(offsets, weights.astype(np.float32), strict=True):
            start = offset + 2 * reach
            np.multiply(fine[:, start : start + 2 * count : 2], weight, out=product)
            result += product
        return result

    def deviation(self, flux: Float, depth: Float) -> Float:
        """Return the noise's standard deviation for noiseless fluxes ``[B, L]``, float32.

        `depth` ``[B]`` divides the variance: exposure time and transparency against the reference.
        """
        photons = (self.sky() + np.clip(flux, 0, None)) / SKY_CONTINUUM
        variance = self.noise**2 * (1 - self.sky_share + self.sky_share * photons)
        return np.sqrt(variance / depth[:, None]).astype(np.float32)

    def observe(self, flux: Float, depth: Float, rng: np.random.Generator) -> tuple[Float, Float, Bool]:
        """Return what is measured of noiseless fluxes ``[B, L]``: flux, inverse variance, and where it is bad.

        Bad pixels have an inverse variance of zero: single ones (cosmic rays), and short dead stretches in some
        spectra. Their flux is what the detector made of it.
        """
        sigma = self.deviation(flux, depth)
        seen = flux + sigma * rng.standard_normal(flux.shape, dtype=np.float32)
        bad = rng.random(flux.shape, dtype=np.float32) < self.bad_pixels
        for row in np.flatnonzero(rng.random(len(flux)) < 0.08):
            start = rng.integers(0, flux.shape[1])
            bad[row, start : start + int(rng.integers(4, 60))] = True
        hits = np.count_nonzero(bad)
        seen[bad] += (sigma[bad] * rng.exponential(15.0, hits)).astype(np.float32)
        ivar = np.where(bad, 0, 1 / sigma**2).astype(np.float32)
        return seen, ivar, bad


def fibre_share(objects: MockObjects, fibre: float, seeing: float) -> Float:
    """Return the share of each object's light that a fibre of a diameter (arcsec) receives, ``[B]``.

    For a Gaussian of the object's half-light radius broadened by the seeing (FWHM, arcsec), relative to a point.
    """
    spread = (seeing / 2.3548) ** 2
    variance = spread + (objects.radius / 1.1774) ** 2
    return (1 - np.exp(-(fibre**2) / (8 * variance))) / (1 - np.exp(-(fibre**2) / (8 * spread)))
