"""From calibrated pixels to what an image network is given, and back: crop, clamp, fill, rescale, compress the range.

The steps and their order are those of the AION-1 release (REFERENCE section 2), but for bad pixels, which it lets
through. Pure functions; none writes to what it is given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: AB magnitude of the flux unit that all bands are brought to (a nanomaggy).
ZERO_POINT = 22.5
#: Widths of the windows from which a bad pixel is filled, the smallest first that holds a good one.
WINDOWS = (3, 9, 27)


def crop(image: Tensor, size: int) -> Tensor:
    """Return the central `size` × `size` pixels of ``[…, H, W]``; the pixel left over lies at the end."""
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    return image[..., top : top + size, left : left + size]


def bad_pixels(flux: Tensor, ivar: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return where there is no measurement: not finite, masked, or without a finite inverse variance above zero."""
    bad = ~flux.isfinite()
    if mask is not None:
        bad |= mask
    if ivar is not None:
        bad |= ~((ivar > 0) & ivar.isfinite())
    return bad


def fill(image: Tensor, bad: Tensor) -> Tensor:
    """Replace bad pixels of ``[B, C, H, W]`` by the mean of the good ones around, or by 0 where none is near.

    The sky of calibrated images is 0, so that a band without a single good pixel is empty sky.
    """
    planes, missing = image.masked_fill(bad, 0.0).flatten(0, 1), bad.flatten(0, 1)
    left = missing.flatten(1).any(dim=1).nonzero()[:, 0]  # planes that have something to fill
    if not len(left):
        return image
    values, good, missing = planes[left], (~missing[left]).to(image.dtype), missing[left]
    filled = values.clone()
    for width in WINDOWS:
        if width // 2 >= min(image.shape[-2:]):
            break
        weight = _box_mean(good, width)
        near = missing & (weight > 0.5 / width**2)
        filled = torch.where(near, _box_mean(values, width) / weight.clamp(min=1e-6), filled)
        planes[left], missing = filled, missing & ~near
        rest = missing.flatten(1).any(dim=1)
        if not bool(rest.any()):
            break
        left, values, good, missing, filled = (t[rest] for t in (left, values, good, missing, filled))
    return planes.view_as(image)


def _box_mean(planes: Tensor, width: int) -> Tensor:
    """Return the mean over `width` × `width` pixels of ``[n, H, W]``, zero beyond the edges.

    From running sums, whose cost does not depend on the width; in double precision, as they take differences.
    """
    sums, half = planes.double(), width // 2
    for axis, around in ((1, (0, 0, half + 1, half)), (2, (half + 1, half))):
        running, size = F.pad(sums, around).cumsum(axis), sums.shape[axis]
        sums = running.narrow(axis, width, size) - running.narrow(axis, 0, size)
    return (sums / width**2).to(planes.dtype)


def unit_scale(zero_point: float) -> float:
    """Return how many units of this zero point are one of the common one."""
    return float(10 ** ((zero_point - ZERO_POINT) / 2.5))


def compress(flux: Tensor, softening: float, factor: float) -> Tensor:
    """Return ``factor · softening · arcsinh(flux / softening)``: linear around the sky, logarithmic above."""
    scaled = flux / softening
    return scaled.asinh_().mul_(softening).mul_(factor)


def expand(value: Tensor, softening: float, factor: float) -> Tensor:
    """Return the flux that `compress` takes to this."""
    return torch.sinh(value / factor / softening) * softening


def expand_within(value: Tensor, limit: Tensor, softening: float, factor: float) -> Tensor:
    """Return the flux as `expand` does up to ± `limit`, and along the tangent beyond, so that no gradient explodes.

    Nothing that is encoded lies beyond the limit, but what an unfinished network decodes may, by many powers of ten.
    """
    edge = torch.asinh(limit / softening) * softening * factor
    inside = value.clamp(-edge, edge)
    slope = torch.cosh(inside / factor / softening) / factor
    return expand(inside, softening, factor) + (value - inside) * slope
