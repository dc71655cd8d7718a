"""A generic camera: galaxies of a bulge and a disc, and points, convolved with a PSF, on a noisy sky.

Profiles are made in Fourier space, where a convolution is a product: the transform of a Sérsic profile is a function
of one variable, tabulated once; ellipticity, position and pixel are factors. Flux is conserved exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aion_core.mock.grid import Float
from aion_core.mock.objects import MockObjects

Bool = npt.NDArray[np.bool_]

#: Half-light radii of bulge and disc against the galaxy's.
BULGE, DISC = 0.55, 1.1
#: Stamp sizes (pixels) that objects are rendered on, the smallest that holds them.
_STAMPS = (32, 64, 128, 256)
_BATCH = {32: 256, 64: 64, 128: 16, 256: 4}


@dataclass(frozen=True)
class Camera:
    """A camera in one band.

    Attributes
    ----------
    pixel_scale
        Arcseconds per pixel.
    seeing
        FWHM of the PSF in arcsec; it is a Moffat profile of index `beta`.
    zero_point
        AB magnitude of one count.
    noise
        Standard deviation of the sky in a pixel, counts.
    gain
        Photo-electrons per count: objects add their own Poisson noise.
    """

    pixel_scale: float
    seeing: float
    zero_point: float
    noise: float
    gain: float
    beta: float = 3.5

    def counts(self, maggies: Float) -> Float:
        """Return fluxes in maggies as counts."""
        return maggies * 10 ** (0.4 * self.zero_point)

    def render(
        self, shape: tuple[int, int], x: Float, y: Float, counts: Float, objects: MockObjects, bulge: Float
    ) -> Float:
        """Return the noiseless image ``[H, W]`` of objects at pixel positions (0 is the first pixel's centre).

        `counts` are total fluxes ``[B]``, `bulge` the bulge's share in this band.
        """
        image = np.zeros(shape, np.float32)
        extent = 2 * (2.5 * self.seeing + 4.5 * objects.radius) / self.pixel_scale
        bright = np.clip(np.log10(np.clip(counts / self.noise, 1, None)), 0, 5) / 3.2
        stamp = np.array(_STAMPS)[np.clip(np.searchsorted(_STAMPS, extent * (0.6 + bright)), 0, len(_STAMPS) - 1)]
        for size in _STAMPS:
            chosen = np.flatnonzero(stamp == size)
            for start in range(0, len(chosen), _BATCH[size]):
                rows = chosen[start : start + _BATCH[size]]
                left, low = np.floor(x[rows]).astype(int), np.floor(y[rows]).astype(int)
                stamps = self.stamps(size, x[rows] - left, y[rows] - low, objects[rows], bulge[rows])
                stamps *= counts[rows, None, None].astype(np.float32)
                for values, column, line in zip(stamps, left - size // 2, low - size // 2, strict=True):
                    _add(image, values, line, column)
        return image

    def stamps(self, size: int, dx: Float, dy: Float, objects: MockObjects, bulge: Float) -> Float:
        """Return images of unit flux ``[B, size, size]``, centred `dx`, `dy` pixels off pixel ``size // 2``."""
        ky = 2 * np.pi * np.fft.fftfreq(size)[:, None]
        kx = 2 * np.pi * np.fft.rfftfreq(size)[None]
        angle = np.radians(objects.position_angle)
        round_ = ~np.isfinite(angle)
        # Position angles count from north through east; east is to the left, so the major axis lies at (−sin, cos).
        sin, cos = np.where(round_, 0, np.sin(angle)), np.where(round_, 1, np.cos(angle))
        ratio = np.where(round_, 1, objects.axis_ratio)[:, None, None]
        along = -sin[:, None, None] * kx + cos[:, None, None] * ky
        across = cos[:, None, None] * kx + sin[:, None, None] * ky
        radius = (objects.radius / self.pixel_scale)[:, None, None]
        k = np.sqrt(along**2 + (ratio * across) ** 2) * radius
        share = bulge[:, None, None]
        transform = share * sersic_transform(4.0, k * BULGE) + (1 - share) * sersic_transform(1.0, k * DISC)
        transform = np.where(radius > 0, transform, 1.0)
        shift = np.exp(-1j * (kx * (dx[:, None, None] + size // 2) + ky * (dy[:, None, None] + size // 2)))
        optics = self.psf_transform(np.sqrt(kx**2 + ky**2)) * np.sinc(kx / (2 * np.pi)) * np.sinc(ky / (2 * np.pi))
        return np.fft.irfft2(transform * shift * optics, s=(size, size)).astype(np.float32)

    def psf_transform(self, k: Float) -> Float:
        """Return the Fourier transform of the PSF at wave numbers in radians per pixel."""
        width = self.seeing / self.pixel_scale / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        table = _transform("moffat", self.beta)
        return np.interp(np.log(np.clip(k * width, 1e-4, None)), *table)

    def noisy(self, image: Float, rng: np.random.Generator) -> tuple[Float, Float]:
        """Return an image with noise added, and its variance: the sky's, and the photons of what is on it."""
        variance = (self.noise**2 + np.clip(image, 0, None) / self.gain).astype(np.float32)
        return image + np.sqrt(variance) * rng.standard_normal(image.shape, dtype=np.float32), variance


def bulge_share(objects: MockObjects, wavelength: float) -> Float:
    """Return the bulge's share of the light at a wavelength ``[B]``: bulges are redder than discs."""
    share = np.nan_to_num(objects.bulge_fraction)
    return np.clip(share * (wavelength / 6200.0 / (1 + objects.redshift)) ** 0.6 * 1.1, 0, 1)


def faint_neighbours(rng: np.random.Generator, area: float, limit: float) -> dict[str, Float]:
    """Draw faint background galaxies over an area (arcmin²) from 22nd magnitude to a limit.

    Returns
    -------
    dict
        ``magnitude`` (6200 Å), ``colour`` per decade of wavelength, ``radius`` (arcsec), ``axis_ratio``,
        ``position_angle``, ``bulge_fraction``. Counts grow by 0.35 dex per magnitude from 6 per arcmin² at 23
        (Metcalfe et al. 2001, MNRAS 323, 795).
    """
    slope = 0.35 * np.log(10)
    count = rng.poisson(area * 6.0 * (10 ** (0.35 * (limit - 23)) - 10 ** (0.35 * (22 - 23))))
    magnitude = 22 + np.log1p(rng.random(count) * (np.exp(slope * (limit - 22)) - 1)) / slope
    return {
        "magnitude": magnitude,
        "colour": rng.normal(1.6, 1.4, count),
        "radius": np.clip(0.45 * 10 ** (-0.12 * (magnitude - 23)) * np.exp(0.35 * rng.normal(size=count)), 0.08, 2),
        "axis_ratio": rng.uniform(0.25, 1, count),
        "position_angle": rng.uniform(0, 180, count),
        "bulge_fraction": rng.uniform(0, 0.4, count),
        "redshift": np.zeros(count),
    }


def _add(image: Float, stamp: Float, line: int, column: int) -> None:
    """Add a stamp to an image at a corner; what is outside is left out."""
    height, width = image.shape
    top, left = max(line, 0), max(column, 0)
    bottom, right = min(line + stamp.shape[0], height), min(column + stamp.shape[1], width)
    if bottom > top and right > left:
        image[top:bottom, left:right] += stamp[top - line : bottom - line, left - column : right - column]


def sersic_transform(index: float, k: Float) -> Float:
    """Return the Fourier transform of a round Sérsic profile of unit flux, at k times its half-light radius."""
    if index == 1.0:  # an exponential, in closed form
        return (1 + (k / 1.6783469900166605) ** 2) ** -1.5
    return np.interp(np.log(np.clip(k, 1e-4, None)), *_transform("sersic", index))


@lru_cache(maxsize=8)
def _transform(profile: str, parameter: float) -> tuple[Float, Float]:
    """Return log k and the Hankel transform of a profile of unit flux, by brute force."""
    radius = np.geomspace(1e-7, 400.0, 60000)
    if profile == "sersic":
        # Ciotti & Bertin 1999 (A&A 352, 447), equation 18
        b = 2 * parameter - 1 / 3 + 4 / (405 * parameter) + 46 / (25515 * parameter**2)
        surface = np.exp(-b * radius ** (1 / parameter))
    else:
        surface = (1 + radius**2) ** -parameter
    weight = surface * radius**2  # dr = r d(ln r)
    k = np.geomspace(1e-4, 300, 300)
    values = np.array([np.sum(weight * _bessel(radius * at)) for at in k]) / weight.sum()
    values[0] = 1.0
    return np.log(k), values


def _bessel(x: Float) -> Float:
    """Return J₀, Abramowitz & Stegun 1964, equations 9.4.1 and 9.4.3 (to 5e-8)."""
    small = np.clip(x / 3, 0, 1) ** 2
    inner = np.polyval((0.0002100, -0.0039444, 0.0444479, -0.3163866, 1.2656208, -2.2499997, 1.0), small)
    y = 3 / np.clip(x, 3, None)
    size = np.polyval((0.00014476, -0.00072805, 0.00137237, -0.00009512, -0.00552740, -0.00000077, 0.79788456), y)
    phase = np.polyval((0.00013558, -0.00029333, -0.00054125, 0.00262573, -0.00003954, -0.04166397, -0.78539816), y)
    outer = size / np.sqrt(np.clip(x, 3, None)) * np.cos(x + phase)
    return np.where(x < 3, inner, outer)
