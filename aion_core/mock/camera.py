"""A generic camera: galaxies of a bulge and a disc, and points, convolved with a PSF, on a noisy sky.

Profiles are made in Fourier space, where a convolution is a product: the transform of a Sérsic profile is a function
of one variable, tabulated once; ellipticity, position and pixel are factors. Flux is conserved exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aion_core.mock.grid import Float
from aion_core.mock.objects import MockObjects

Bool = npt.NDArray[np.bool_]

#: Half-light radii of bulge and disc against the galaxy's.
BULGE, DISC = 0.55, 1.1
#: Index of the PSF's profile.
MOFFAT = 3.5
#: Of the wave numbers that pixels can follow, the share from which on those of the optics fade out.
FADING = 0.75
#: Stamp sizes (pixels) that objects are rendered on, the smallest that holds them.
_STAMPS = (32, 64, 128, 256, 512)
_BATCH = {32: 256, 64: 64, 128: 16, 256: 4, 512: 1}


@dataclass(frozen=True)
class Camera:
    """A camera in one band.

    Attributes
    ----------
    pixel_scale
        Arcseconds per pixel.
    seeing
        FWHM of the PSF in arcsec; it is a Moffat profile of index 3.5.
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

    def counts(self, maggies: Float) -> Float:
        """Return fluxes in maggies as counts."""
        return maggies * 10 ** (0.4 * self.zero_point)

    def psf_transform(self, k: Float) -> Float:
        """Return the Fourier transform of the PSF at wave numbers in radians per pixel.

        That of (1 + r²)^(−β) is k^(β − 1) K_(β − 1)(k) up to a factor, which is elementary for an index of 3.5.
        Tabulated and interpolated, it would leave rings around bright stars, far out and far above the noise.
        """
        width = self.seeing / self.pixel_scale / (2 * np.sqrt(2 ** (1 / MOFFAT) - 1))
        k = k * width
        return np.exp(-k) * (1 + k + k**2 / 3)

    def optics(self, size: int) -> Float:
        """Return the transform of PSF and pixel on the grid of a stamp's `rfft2`, float32 ``[size, size // 2 + 1]``."""
        ky, kx = _wave_numbers(size)
        k = np.hypot(kx, ky)
        # Cut off at once, what is left of the PSF where pixels cannot follow would ring as well.
        fading = np.cos(np.pi / 2 * np.clip((k / np.pi - FADING) / (1 - FADING), 0, 1)) ** 2
        psf = self.psf_transform(k) * fading
        return (psf * np.sinc(kx / (2 * np.pi)) * np.sinc(ky / (2 * np.pi))).astype(np.float32)

    def noisy(self, image: Float, rng: np.random.Generator) -> tuple[Float, Float]:
        """Return an image with noise added, and its variance: the sky's, and the photons of what is on it."""
        variance = (self.noise**2 + np.clip(image, 0, None) / self.gain).astype(np.float32)
        return image + np.sqrt(variance) * rng.standard_normal(image.shape, dtype=np.float32), variance


def render(
    cameras: Mapping[str, Camera],
    shape: tuple[int, int],
    x: Float,
    y: Float,
    counts: Mapping[str, Float],
    objects: MockObjects,
    bulge: Mapping[str, Float],
) -> dict[str, Float]:
    """Return the noiseless image ``[H, W]`` of objects in each band.

    Parameters
    ----------
    cameras
        By band; all of one pixel scale.
    x, y
        Pixel positions ``[B]``; 0 is the middle of the first pixel.
    counts, bulge
        Total flux, and the bulge's share of it, by band, ``[B]``.
    """
    images = {band: np.zeros(shape, np.float32) for band in cameras}
    stamp = np.max([_stamp_sizes(camera, counts[band], objects) for band, camera in cameras.items()], axis=0)
    scale = next(iter(cameras.values())).pixel_scale
    for size in _STAMPS:
        chosen = np.flatnonzero(stamp == size)
        optics = {band: camera.optics(size) for band, camera in cameras.items()} if len(chosen) else {}
        for start in range(0, len(chosen), _BATCH[size]):
            rows = chosen[start : start + _BATCH[size]]
            left, low = np.floor(x[rows]).astype(int), np.floor(y[rows]).astype(int)
            core, disc = transforms(size, x[rows] - left, y[rows] - low, objects[rows], scale)
            for band, image in images.items():
                total = counts[band][rows, None, None].astype(np.float32)
                share = bulge[band][rows, None, None].astype(np.float32)
                stamps = np.fft.irfft2((disc + share * (core - disc)) * optics[band] * total, s=(size, size))
                for values, column, line in zip(stamps, left - size // 2, low - size // 2, strict=True):
                    _add(image, values, line, column)
    return images


def _stamp_sizes(camera: Camera, counts: Float, objects: MockObjects) -> npt.NDArray[np.int64]:
    """Return the pixels across that hold what is above the noise of each object: more for the bright and large."""
    extent = 2 * (2.5 * camera.seeing + 4.5 * objects.radius) / camera.pixel_scale
    bright = np.clip(np.log10(np.clip(counts / camera.noise, 1, None)), 0, 5) / 3.2
    return np.array(_STAMPS)[np.clip(np.searchsorted(_STAMPS, extent * (0.6 + bright)), 0, len(_STAMPS) - 1)]


def transforms(size: int, dx: Float, dy: Float, objects: MockObjects, scale: float) -> tuple[Float, Float]:
    """Return the transforms of bulges and discs of unit flux, complex64 ``[B, size, size // 2 + 1]``.

    They are centred `dx`, `dy` pixels off pixel ``size // 2`` and not convolved with anything.
    """
    ky, kx = _wave_numbers(size)
    shift = np.exp(-1j * kx * (dx[:, None, None] + size // 2)).astype(np.complex64)
    shift = shift * np.exp(-1j * ky * (dy[:, None, None] + size // 2)).astype(np.complex64)
    core, disc = shift, shift
    extended = np.flatnonzero(objects.radius > 0)
    if len(extended):
        core, disc = shift.copy(), shift.copy()
        part = objects[extended]
        angle = np.radians(part.position_angle)[:, None, None]
        # Position angles count from north through east; east is to the left, so the major axis lies at (−sin, cos).
        along = -np.sin(angle) * kx + np.cos(angle) * ky
        across = (np.cos(angle) * kx + np.sin(angle) * ky) * part.axis_ratio[:, None, None]
        k = np.hypot(along, across) * (part.radius / scale)[:, None, None]
        core[extended] *= sersic_transform(4.0, k * BULGE).astype(np.float32)
        disc[extended] *= sersic_transform(1.0, k * DISC).astype(np.float32)
    return core, disc


def _wave_numbers(size: int) -> tuple[Float, Float]:
    """Return ky and kx of a stamp's `rfft2`, radians per pixel."""
    return 2 * np.pi * np.fft.fftfreq(size)[:, None], 2 * np.pi * np.fft.rfftfreq(size)[None]


def bulge_share(objects: MockObjects, wavelength: float) -> Float:
    """Return the bulge's share of the light at a wavelength ``[B]``: bulges are redder than discs."""
    share = np.nan_to_num(objects.bulge_fraction)
    return np.clip(share * (wavelength / 6200.0 / (1 + objects.redshift)) ** 0.6 * 1.1, 0, 1)


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
    return np.interp(np.log(np.clip(k, 1e-4, None)), *_transform(index))


@lru_cache(maxsize=8)
def _transform(index: float) -> tuple[Float, Float]:
    """Return log k and the Hankel transform of a Sérsic profile of unit flux, by brute force."""
    radius = np.geomspace(1e-6, 300.0, 24000)
    # Ciotti & Bertin 1999 (A&A 352, 447), equation 18
    b = 2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2)
    surface = np.exp(-b * radius ** (1 / index))
    weight = surface * radius**2  # dr = r d(ln r)
    k = np.geomspace(1e-4, 300, 200)
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
