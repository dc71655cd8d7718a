"""Spectra on their own wavelengths, put in order, and taken to other wavelengths by linear interpolation.

Wavelengths come as readers find them: one grid for all objects or one for each, ascending or not, padded with zeros or
NaN. What they are is settled here once, so that what follows sees ascending grids only. Where all objects share a grid,
everything that depends on it alone is computed for one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from aion_core.observations import Spectrum

#: Beyond this a flux is no measurement; it is clamped, so that sums of fluxes stay finite in float32.
EXTREME = 1e15


@dataclass(frozen=True)
class Pixels:
    """Spectra in the order of their wavelengths.

    Attributes
    ----------
    wavelength
        ``[G, L]`` in Angstrom, ascending; G is 1 where all share a grid. Pixels without a wavelength are at the end,
        at infinity.
    flux
        ``[B, L]``; 0 where it is not finite.
    ivar
        ``[B, L]``; 0 where it is not known, 1 throughout where no inverse variance was given.
    masked
        Whether the observation's mask says bad, or there is no wavelength, ``[B, L]``.
    good
        Whether a pixel counts: finite, not masked, and with an inverse variance above zero, ``[B, L]``.
    """

    wavelength: Tensor
    flux: Tensor
    ivar: Tensor
    masked: Tensor
    good: Tensor

    @classmethod
    def of(cls, obs: Spectrum) -> Self:
        """Return the pixels of an observation, which is left as it is."""
        wavelength = one_grid(obs.wavelength)
        wavelength = torch.where(wavelength.isfinite() & (wavelength > 0), wavelength, torch.inf)
        flux, ivar = obs.flux, torch.ones_like(obs.flux) if obs.ivar is None else obs.ivar
        mask = torch.zeros_like(flux, dtype=torch.bool) if obs.mask is None else obs.mask
        if (wavelength.diff(dim=1) < 0).any():
            order = wavelength.argsort(dim=1, stable=True)
            wavelength = wavelength.gather(1, order)
            order = order.expand(flux.shape)
            flux, ivar, mask = (t.gather(1, order) for t in (flux, ivar, mask))
        masked = mask | wavelength.isinf()
        good = flux.isfinite() & (ivar > 0) & ~masked
        flux = flux.nan_to_num(0.0, 0.0, 0.0).clamp(-EXTREME, EXTREME)
        return cls(wavelength, flux, ivar.nan_to_num(0.0, EXTREME, 0.0).clamp(min=0.0), masked, good)

    def bridged(self, values: Tensor) -> Tensor:
        """Return values ``[B, L]`` with those of bad pixels replaced: by a straight line between the good ones.

        Before the first good pixel and after the last one they become zero.
        """
        good, length = self.good, values.shape[1]
        if bool(good.all()):
            return values
        number = torch.arange(length, device=values.device).expand(values.shape)
        before = number.where(good, -1).cummax(1).values
        after = number.where(good, length).flip(1).cummin(1).values.flip(1)
        ends = (before < 0) | (after == length)
        before, after = before.clamp(min=0), after.clamp(max=length - 1)
        grid = self.wavelength.expand(values.shape)
        low, high = grid.gather(1, before), grid.gather(1, after)
        share = ((grid - low) / (high - low)).nan_to_num(0.0, 0.0, 0.0)
        line = torch.lerp(values.gather(1, before), values.gather(1, after), share)
        return values.where(good, line.masked_fill(ends, 0.0))


@dataclass(frozen=True)
class Interpolation:
    """Linear interpolation from ascending wavelengths to others, for any number of spectra on them.

    Attributes
    ----------
    left
        The pixel below each target, ``[G, M]``; G is 1 where all objects share both grids.
    offset, span
        Distance of the target from that pixel, and to it from the next one (negative), ``[G, M]``.
    inside
        Whether the target lies between the first and the last pixel, ``[G, M]``.
    """

    left: Tensor
    offset: Tensor
    span: Tensor
    inside: Tensor

    @classmethod
    def between(cls, source: Tensor, target: Tensor) -> Self:
        """Return the interpolation from ``[G, L]``, ascending, infinite where there is no pixel, to ``[G, M]``.

        Either may have G = 1. Targets may have any order; one that is NaN is not inside.
        """
        if source.shape[1] < 2:
            source = torch.nn.functional.pad(source, (0, 2 - source.shape[1]), value=torch.inf)
        rows = max(len(source), len(target))
        if len(source) == 1:
            left = torch.searchsorted(source[0].contiguous(), target.contiguous())
        else:
            target = target.expand(rows, -1)
            left = torch.searchsorted(source.contiguous(), target.contiguous())
        left = (left - 1).clamp(0, source.shape[1] - 2)
        source = source.expand(rows, -1) if len(left) > 1 else source
        low, high = source.gather(1, left), source.gather(1, left + 1)
        last = source.where(source.isfinite(), -torch.inf).amax(1, keepdim=True)
        inside = (target >= source[:, :1]) & (target <= last)
        offset, span = (target - low).where(inside, 0.0), (low - high).where(inside, -1.0)
        return cls(left, offset, span.where(span != 0, -1.0), inside)

    def __call__(self, values: Tensor) -> Tensor:
        """Return values ``[B, L]`` at the targets, ``[B, M]``; zero outside.

        The order of the arithmetic is that of the release, so that results are equal bit for bit.
        """
        if values.shape[1] < 2:
            values = torch.nn.functional.pad(values, (0, 2 - values.shape[1]))
        if len(self.left) == 1:
            low, high = (values.index_select(1, self.left[0] + i) for i in (0, 1))
        else:
            left = self.left.expand(len(values), -1)
            low, high = values.expand(len(left), -1).gather(1, left), values.expand(len(left), -1).gather(1, left + 1)
        slope = (low - high) / self.span
        return (low + self.offset * slope).where(self.inside, 0.0)


def one_grid(wavelength: Tensor) -> Tensor:
    """Return wavelengths ``[B, L]`` as one row, if all objects have the same, be it one in memory or not."""
    if not len(wavelength):
        return torch.full((1, wavelength.shape[1]), torch.inf, device=wavelength.device)
    same = wavelength.stride(0) == 0 or bool((wavelength == wavelength[:1]).all())
    return wavelength[:1] if same else wavelength
