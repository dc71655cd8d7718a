"""Finite scalar quantization: each of a few numbers is rounded to one of its levels, and the levels make up a code.

Mentzer et al. 2023 (arXiv 2309.15505); levels and order of digits as in the AION-1 release (REFERENCE section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, prod

import torch
from torch import Tensor, nn

from aion_core.contract import InputError

#: The outermost levels are reached at this much less than infinity.
MARGIN = 1e-3
#: How softly a level is taken to be chosen where the use of levels is to have a gradient: the variance of the choice.
SOFTNESS = 0.075


#: Levels that fill codebooks of 2^4 … 2^16 best (table 1 of the paper).
LEVELS = (
    (5, 3),
    (8, 8),
    (8, 6, 5),
    (8, 8, 8),
    (8, 5, 5, 5),
    (8, 8, 6, 5),
    (7, 5, 5, 5, 5),
    (8, 8, 8, 6, 5),
    (8, 8, 8, 5, 5, 5),
)


def levels_for(codes: int) -> tuple[int, ...]:
    """Return the levels of a codebook of about so many codes."""
    return min(LEVELS, key=lambda levels: abs(log(prod(levels)) - log(max(codes, 2))))


class FiniteScalarQuantizer(nn.Module):
    """Codes for vectors of d numbers, the i-th of which has ``levels[i]`` levels; the first digit counts least.

    Attributes
    ----------
    levels
        Number of levels of each number, int32 ``[d]``.
    codes
        Size of the codebook, the product of the levels.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in levels):
            raise InputError(f"The quantizer's levels are {list(levels)}; expected integers, each 2 or more.")
        self.codes = prod(levels)
        if self.codes >= 2**24:  # codes are summed in float32
            raise InputError(f"The quantizer's levels {list(levels)} make {self.codes} codes; expected below 2^24.")
        self.sizes = tuple(levels)
        self.levels: Tensor
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.int32))

    def bound(self, z: Tensor) -> Tensor:
        """Squeeze numbers ``[…, d]`` between the lowest and the highest level; levels lie at integers.

        Where their number is even, the integers are those from −n/2 to n/2 − 1.
        """
        reach = (self.levels - 1) * (1 + MARGIN) / 2
        offset = torch.where(self.levels % 2 == 1, 0.0, 0.5)
        return torch.tanh(z + torch.atanh(offset / reach)) * reach - offset

    def forward(self, z: Tensor) -> Tensor:
        """Round ``[B, d, …]`` to levels in [−1, 1]; gradients pass as if nothing had been rounded."""
        bounded = self.bound(z.float().movedim(1, -1))
        rounded = bounded + (bounded.round() - bounded).detach()
        return (rounded / (self.levels // 2)).movedim(-1, 1)

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes of ``[B, d, …]``, int64 ``[B, …]``; whatever the numbers are, a code is in the codebook."""
        digits = self.bound(z.float().movedim(1, -1)).round().nan_to_num(0.0).long() + self.levels // 2
        digits = torch.minimum(digits.clamp(min=0), self.levels - 1)
        return (digits * self._place()).sum(dim=-1)

    def unevenness(self, z: Tensor) -> Tensor:
        """Return by how many nats the use of the codes falls short of an even one, for numbers ``[B, d, …]``; a scalar.

        What the entropies of the numbers' levels, chosen softly, lack, and what the numbers tell of each other (their
        total correlation, were they Gaussian). Most pixels of an image are sky: without a term for it in the loss,
        its noise is worth no code, and nearly all of it has the same.
        """
        levels = self.bound(z.float().movedim(1, -1)).flatten(0, -2)
        lacking = levels.new_zeros(())
        for number, size in zip(levels.unbind(1), self.sizes, strict=True):
            away = (number[:, None] - (torch.arange(size, device=z.device) - size // 2)) ** 2
            use = torch.softmax(-away / (2 * SOFTNESS), dim=1).mean(dim=0)
            lacking = lacking + log(size) + (use * use.clamp(min=1e-9).log()).sum()
        covariance = levels.T.cov(correction=0)
        scale = covariance.diagonal().clamp(min=1e-4).rsqrt()
        correlation = covariance * scale[:, None] * scale + 1e-3 * torch.eye(len(scale), device=z.device)
        return lacking - 0.5 * torch.logdet(correlation)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the levels in [−1, 1] that codes ``[B, …]`` stand for, float32 ``[B, d, …]``."""
        half = self.levels // 2
        digits = codes.unsqueeze(-1) // self._place() % self.levels
        return ((digits - half) / half).movedim(-1, 1)

    def places(self) -> Tensor:
        """Return the levels of all codes, from 0 (the lowest) to 1 (the highest), float32 ``[codes, d]``."""
        codes = torch.arange(self.codes, device=self.levels.device)
        return (codes[:, None] // self._place() % self.levels) / (self.levels - 1)

    def _place(self) -> Tensor:
        """Return the value of each digit, int64 ``[d]``."""
        return torch.cumprod(torch.cat([self.levels.new_ones(1), self.levels[:-1]]).long(), dim=0)
