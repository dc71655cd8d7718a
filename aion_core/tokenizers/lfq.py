"""Lookup-free quantization: the signs of d numbers are the d bits of a code (REFERENCE section 2, Spectrum).

There is no table of code vectors: code c stands for the corner of the cube {−1, 1}^d that its bits name, the most
significant first. Source: Yu et al. 2023 (MAGVIT-v2, arXiv 2310.05737), with the weights of the AION-1 paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aion_core.engine.distributed import mean_over_ranks


@dataclass(frozen=True)
class LookupFreeQuantizer:
    """Codes of `bits` bits, and the terms that train what is quantized.

    Attributes
    ----------
    bits
        Numbers per code; there are 2^bits codes.
    commitment, entropy, diversity
        Weights of the distance to the corners, of the entropy of each choice, and (times `entropy`) of that of all
        choices together.
    inverse_temperature
        Sharpness of the soft assignment that the entropies are taken of.
    """

    bits: int
    commitment: float = 0.25
    entropy: float = 0.1
    diversity: float = 1.0
    inverse_temperature: float = 100.0

    @property
    def places(self) -> Tensor:
        """What each bit counts, int64 ``[bits]``, most significant first."""
        return 2 ** torch.arange(self.bits - 1, -1, -1)

    def encode(self, x: Tensor) -> Tensor:
        """Return the code of each vector: ``[…, bits]`` to int64 ``[…]``; a number above zero is a bit that is set."""
        return ((x > 0) * self.places.to(x.device)).sum(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the corner that each code stands for: ``[…]`` to float32 ``[…, bits]`` of ±1."""
        return ((codes[..., None] & self.places.to(codes.device)) != 0).float() * 2 - 1

    def quantize(self, x: Tensor) -> Tensor:
        """Return the corners ``[…, bits]`` that vectors fall to; gradients pass as if they had not moved."""
        return torch.where(x > 0, 1.0, -1.0) + (x - x.detach())

    def terms(self, x: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms of the loss for vectors ``[…, bits]``; their sum is the release's.

        The soft assignment of a vector is a softmax over all corners of twice the inverse temperature times their
        scalar products with it. It is a product over the bits. So a choice's entropy is the sum of those of its bits,
        and the mean assignment over n vectors is a product of two matrices, ``[2^(bits/2), n]`` each: the n times
        2^bits table of probabilities is never made.
        """
        with torch.autocast(x.device.type, enabled=False):
            return self._terms(x.reshape(-1, self.bits).float())

    def _terms(self, x: Tensor) -> dict[str, Tensor]:
        logits = 4 * self.inverse_temperature * x
        size = logits.abs()
        single = (F.softplus(-size) + size * torch.sigmoid(-size)).sum(1).mean()
        half = self.bits // 2
        mean = _joint(logits[:, :half]).T @ _joint(logits[:, half:]) / len(x)
        mean = mean_over_ranks(mean, len(x))  # the entropy of a batch is not the mean of those of its parts
        together = -(mean * mean.clamp(min=1e-12).log()).sum()
        return {
            "commitment": self.commitment * (x - torch.where(x > 0, 1.0, -1.0)).square().mean(),
            "entropy": self.entropy * single,
            "diversity": -self.entropy * self.diversity * together,
        }


def _joint(logits: Tensor) -> Tensor:
    """Return the probability of every pattern of independent bits: ``[n, k]`` to ``[n, 2^k]``."""
    joint = logits.new_ones(len(logits), 1)
    for bit in logits.unbind(1):
        both = torch.stack([torch.sigmoid(-bit), torch.sigmoid(bit)], dim=1)
        joint = (joint[:, :, None] * both[:, None, :]).flatten(1)
    return joint
