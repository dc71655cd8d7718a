"""Wavelengths of any spacing, and what is measured along them: the part of the tokenizer that learns nothing.

A spectrum is divided into patches by *places* that lie evenly in the logarithm of the wavelength, from its first good
pixel to its last. How many there are is fixed; where they lie is the spectrum's own affair, and is told by two tokens.
Within a patch the flux is measured against sinusoids of wavelength: what a pixel contributes depends on where it lies
and not on which number it has, so that spectra of any sampling, with any gaps, give the same kind of patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

#: Of the logarithm of a wavelength in single precision: what lies on an end of a range is inside.
ROUNDING = 2e-7


@dataclass(frozen=True)
class Ladder:
    """The places of spectra.

    Attributes
    ----------
    first, step
        ln of the first place's wavelength (Å), and the distance between places, float64 ``[B]``: single precision
        would be a tenth of a pixel at a resolution of 30 000.
    places
        How many there are.
    """

    first: Tensor
    step: Tensor
    places: int

    @classmethod
    def of(cls, low: Tensor, high: Tensor, scale: CodeScale, places: int) -> Ladder:
        """Return the places that the codes of a range stand for, int64 ``[B]`` each, whatever codes they are."""
        high = torch.maximum(high, low + 1)
        first = scale.value(low)
        return cls(first, (scale.value(high) - first) / (places - 1), places)

    @property
    def centres(self) -> Tensor:
        """ln wavelength of every place, float64 ``[B, places]``."""
        return self.first[:, None] + self.step[:, None] * torch.arange(self.places, device=self.first.device)

    def along(self, wavelength: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions in units of places from the first one, float64 ``[B, L]``, and whether they are inside.

        A wavelength that is none is not inside, and lies at 0.
        """
        valid = wavelength.isfinite() & (wavelength > 0)
        x = (wavelength.double().where(valid, 1.0).log() - self.first[:, None]) / self.step[:, None]
        edge = (ROUNDING / self.step)[:, None]
        inside = valid & (x >= -edge) & (x <= self.places - 1 + edge)
        return x.where(inside, 0.0).clamp(0, self.places - 1), inside


@dataclass(frozen=True)
class CodeScale:
    """Codes 0 … codes − 1 for numbers between two ends, evenly spaced."""

    low: float
    high: float
    codes: int

    @property
    def step(self) -> float:
        return (self.high - self.low) / (self.codes - 1)

    def value(self, code: Tensor) -> Tensor:
        """Return the numbers that codes stand for, float64."""
        return self.low + self.step * code.double()

    def place(self, value: Tensor) -> Tensor:
        """Return how many steps numbers lie above the low end, float64: to be rounded down, up, or to the nearest."""
        return ((value.double() - self.low) / self.step).clamp(0, self.codes - 1)


@dataclass(frozen=True)
class Layout:
    """Pixels sorted into patches, for sums over each: rows of equal length, of which a crowded patch has several.

    The memory is about that of twice the pixels, times the waves, however unevenly they are spaced.

    Attributes
    ----------
    index
        Where each pixel lies among all slots, int64 ``[B, L]``.
    interval
        Between which places each row lies (the first of the two), int64 ``[B, R]``.
    share
        How far each slot lies from one place to the next, 0 … 1, ``[B, R, n]``.
    waves
        The sinusoids at each slot, ``[B, R, n, M]``.
    flips
        The sign that each wave has where it is told from the next place instead, ``[M]``: half-waves fit between
        two places, so that cos(m π (t − 1)) = (−1)^m cos(m π t).
    places
        Number of places.
    """

    index: Tensor
    interval: Tensor
    share: Tensor
    waves: Tensor
    flips: Tensor
    places: int

    @classmethod
    def of(cls, position: Tensor, places: int, harmonics: int) -> Layout:
        """Sort pixels at some positions along a ladder, float64 ``[B, L]``."""
        size, length = position.shape
        gaps = places - 1
        between = position.floor().long().clamp(0, gaps - 1)
        slots = max(1, -(-length // gaps))
        count = torch.zeros(size, gaps, dtype=torch.int64, device=position.device)
        count.scatter_add_(1, between, torch.ones_like(between))
        rows = (count + slots - 1) // slots
        order = between.argsort(dim=1, stable=True)
        number = torch.empty_like(between).scatter_(
            1, order, torch.arange(length, device=order.device).expand_as(order)
        )
        rank = number - (count.cumsum(1) - count).gather(1, between)
        row = (rows.cumsum(1) - rows).gather(1, between) + rank // slots
        index = row * slots + rank % slots
        most = max(1, int(row.max()) + 1 if row.numel() else 1)
        interval = torch.zeros(size, most, dtype=torch.int64, device=position.device).scatter_(1, row, between)
        share = torch.zeros(size, most * slots, device=position.device)
        share.scatter_(1, index, (position - between).float())
        share = share.unflatten(1, (most, slots))
        order_of = torch.arange(1, harmonics + 1, device=position.device, dtype=torch.float32)
        angle = share[..., None] * (pi * order_of)
        waves = torch.cat([torch.ones_like(share)[..., None], angle.cos(), angle.sin()], dim=-1)
        sign = 1.0 - 2.0 * (order_of % 2)
        return cls(index, interval, share, waves, torch.cat([sign.new_ones(1), sign, sign]), places)

    def analyse(self, values: Tensor) -> Tensor:
        """Return the sums of values ``[B, C, L]`` times waves over each patch, ``[B, places, C, M]``.

        A pixel counts for the two places that it lies between, for the nearer one more.
        """
        size, channels, _ = values.shape
        rows, slots = self.share.shape[1:]
        spread = values.new_zeros(size, channels, rows * slots)
        spread.scatter_(2, self.index[:, None].expand(values.shape), values)
        spread = spread.unflatten(2, (rows, slots)).transpose(1, 2)
        share = self.share[:, :, None]
        sums = torch.cat([spread * (1 - share), spread * share], dim=2) @ self.waves  # [B, R, 2 C, M]
        whole = sums.new_zeros(size, self.places - 1, *sums.shape[2:])
        whole.scatter_add_(1, self.interval[:, :, None, None].expand(sums.shape), sums)
        here, there = whole.chunk(2, dim=2)
        nothing = here.new_zeros(size, 1, *here.shape[2:])
        return torch.cat([here, nothing], dim=1) + torch.cat([nothing, there * self.flips], dim=1)

    def compose(self, amplitudes: Tensor) -> Tensor:
        """Return at each pixel, ``[B, C, L]``, the sum of waves that have amplitudes ``[B, places, C, M]``."""
        both = torch.cat([amplitudes[:, :-1], amplitudes[:, 1:] * self.flips], dim=2)  # [B, gaps, 2 C, M]
        rows = both.gather(1, self.interval[:, :, None, None].expand(-1, -1, *both.shape[2:]))
        here, there = (rows @ self.waves.transpose(2, 3)).chunk(2, dim=2)  # [B, R, C, n] each
        values = torch.lerp(here, there, self.share[:, :, None]).transpose(1, 2).flatten(2)
        return values.gather(2, self.index[:, None].expand(-1, values.shape[1], -1))


def encoded(ladder: Ladder, frequencies: int) -> Tensor:
    """Return the sinusoidal encoding of the wavelengths of places, float32 ``[B, places, 2 · frequencies + 1]``.

    Sine and cosine of ln wavelength at frequencies that are evenly spaced in their logarithm, from one period for all
    wavelengths to one for a few pixels at a resolution of 30 000; and ln of the distance between places.
    """
    device = ladder.first.device
    period = torch.logspace(log(8.0), log(2e-3), frequencies, base=torch.e, dtype=torch.float64, device=device)
    angle = ladder.centres[..., None] * (2 * pi / period)
    width = (ladder.step.log() + 5)[:, None, None].expand(-1, ladder.places, 1)
    return torch.cat([angle.sin(), angle.cos(), width], dim=-1).float()
