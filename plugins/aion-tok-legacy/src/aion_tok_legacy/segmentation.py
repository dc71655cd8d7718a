"""Segmentation maps: which pixels of a stamp belong to a detected source, and which to the object itself.

How the release made its maps from the survey's detections is not published. Ours are made from the stamp alone, so that
any image has one: 1 where the pixel belongs to the object at the centre, 0.5 where to another source, 0 where to none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CENTRAL, OTHER = 1.0, 0.5
#: A source: this many pixels or more that touch, each of this many standard deviations or more, after smoothing.
THRESHOLD, MIN_AREA = 5.0, 5
#: Sources that touch are told apart where the fainter one has this share of the light of both, or more.
CONTRAST = 3e-4
#: Standard deviation of the smoothing, in pixels: 0.8 arcsec (FWHM), below the seeing so that neighbours stay apart.
SMOOTHING = 1.3
#: The object is the source at the middle pixel, or else the nearest within this many pixels (1 arcsec).
NEAR = 4


def segmentation(flux: Floats, ivar: Floats | None, mask: npt.NDArray[np.bool_]) -> Floats:
    """Return the segmentation map of one stamp, values 0, 0.5 and 1.

    Parameters
    ----------
    flux, ivar
        ``[C, H, W]``; the background must be subtracted, as it is in the survey's coadds. Without inverse variance,
        each band's noise is taken from the scatter of its pixels.
    mask
        True where a pixel is bad, ``[C, H, W]``.

    Returns
    -------
    array
        ``[H, W]``. A pixel that is bad in all bands belongs to no source.
    """
    good = ~mask & np.isfinite(flux)
    weight = np.where(good, _weights(flux, good) if ivar is None else ivar, 0).astype(np.float64)
    signal = _matched((np.where(good, flux, 0) * weight).sum(0), weight.sum(0))
    labels = _labels(signal)
    field = np.where(labels > 0, OTHER, 0).astype(np.float32)
    if central := _central(labels):
        field[labels == central] = CENTRAL
    return field


def _matched(weighted: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> Floats:
    """Return what a matched filter makes of a map, in standard deviations of its noise; 0 where nothing was measured.

    Parameters
    ----------
    weighted, weight
        Flux times inverse variance, and inverse variance, summed over bands.
    """
    reach = int(3 * SMOOTHING)
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * SMOOTHING**2))
    found, noise = _convolved(weighted, line), np.sqrt(_convolved(weight, line**2))
    return np.divide(found, noise, out=np.zeros_like(found), where=weight > 0).astype(np.float32)


def _convolved(plane: npt.NDArray[np.float64], line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a map convolved with a kernel that is the product of a line with itself; 0 is assumed beyond the edge."""
    for _ in range(2):
        length, reach = len(plane), len(line) // 2
        padded = np.pad(plane, ((reach, reach), (0, 0)))
        plane = sum((factor * padded[i : i + length] for i, factor in enumerate(line)), np.zeros(())).T
    return plane


def _labels(signal: Floats) -> npt.NDArray[np.int32]:
    """Return for each pixel the number of the source that it belongs to, from 1, or 0."""
    import sep  # type: ignore[import-not-found, unused-ignore]

    for contrast in (CONTRAST, 1.0):  # 1: sources that touch are one, where sep finds more than it can tell apart
        try:
            _, labels = sep.extract(
                signal,
                THRESHOLD,
                minarea=MIN_AREA,
                filter_kernel=None,
                deblend_cont=contrast,
                clean=False,  # it takes faint companions of bright sources for parts of these
                segmentation_map=True,
            )
            return labels
        except Exception:  # sep raises nothing more special
            if contrast == 1.0:
                raise
    raise AssertionError


def _weights(flux: Floats, good: npt.NDArray[np.bool_]) -> Floats:
    """Return the inverse variance of each band, ``[C, 1, 1]``, from the median absolute deviation of its pixels."""
    weights = np.zeros((len(flux), 1, 1), np.float32)
    for i, (band, usable) in enumerate(zip(flux, good, strict=True)):
        if usable.any():
            deviation = float(np.median(np.abs(band[usable] - np.median(band[usable])))) * 1.4826
            weights[i] = 1 / deviation**2 if deviation > 0 else 0
    return weights


def _central(labels: npt.NDArray[np.int32]) -> int:
    """Return the label of the source at the middle of the stamp, 0 if there is none near."""
    height, width = labels.shape
    y, x = np.mgrid[:height, :width]
    away = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    away[labels == 0] = np.inf
    nearest = int(away.argmin())
    return int(labels.flat[nearest]) if away.flat[nearest] <= NEAR else 0
