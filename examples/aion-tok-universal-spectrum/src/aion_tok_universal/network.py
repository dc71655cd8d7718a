"""A transformer from patches to what is quantized, and one from codes to amplitudes of waves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_core.engine.initialise import keyed_generator

#: Least share of a new batch in a running mean; added to the variance along each direction.
FOLLOWING, TINY = 0.02, 1e-6


class Block(nn.Module):
    """Attention among all patches, then two layers with GELU between; each behind a norm, and added to what was."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N, dim]``."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class Whitening(nn.Module):
    """Numbers less their mean, turned and stretched until they are uncorrelated and of unit spread: for a quantizer.

    What is rounded to levels must neither lie beyond the outermost of them nor say the same thing in all digits. Left
    to gradients alone it soon does both: every patch of every spectrum then has one code. Mean and covariance are
    those of the first batch, then follow what is seen in training; no gradient passes through them.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.running_mean: Tensor
        self.running_covariance: Tensor
        self.batches: Tensor
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_covariance", torch.eye(size))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return numbers ``[…, size]`` of the same shape; training takes in those that count, ``[…]``, or all."""
        if self.training and len(seen := (x if counts is None else x[counts]).detach().reshape(-1, x.shape[-1])):
            self._follow(seen)
        size, vectors = torch.linalg.eigh(self.running_covariance)
        return (x - self.running_mean) @ (vectors * (size.clamp(min=0) + TINY).rsqrt() @ vectors.T)

    def _follow(self, x: Tensor) -> None:
        """Take in a batch ``[n, size]``: all of the first one, a share of each after."""
        share = (1 / (self.batches + 1)).clamp(min=FOLLOWING)
        self.batches += 1
        mean = x.mean(0)
        away = mean - self.running_mean
        spread = (x - mean).T @ (x - mean) / len(x) + (1 - share) * torch.outer(away, away)
        self.running_covariance.lerp_(spread, share)
        self.running_mean.lerp_(mean, share)


class Half(nn.Module):
    """What encoder and decoder have in common: patches plus the encoding of their wavelengths, through blocks."""

    def __init__(self, inputs: int, waves: int, outputs: int, places: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch, self.wavelength = nn.Linear(inputs, dim), nn.Linear(waves, dim)
        self.place = nn.Parameter(torch.zeros(places, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, outputs)

    def forward(self, patches: Tensor, wavelengths: Tensor) -> Tensor:
        """Return ``[B, N, outputs]`` of patches ``[B, N, inputs]`` and the encoding of their wavelengths."""
        x = self.patch(patches) + self.wavelength(wavelengths) + self.place
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.out(self.norm(x))
        return y


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Set initial values as functions of the seed and each parameter's name; layers keep the size of what they get.

    What a block adds is small at first, and so are the amplitudes that are decoded. Wavelengths, which the decoder
    knows anyway, begin with less say than the flux.
    """
    for part in module.modules():
        if isinstance(part, Whitening):
            part.running_mean.zero_()
            part.running_covariance.copy_(torch.eye(len(part.running_mean)))
            part.batches.zero_()
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            width = 0.02 if name.endswith("place") else parameter.shape[1] ** -0.5
            width *= 0.3 if name.endswith(("proj.weight", "down.weight")) else 1.0
            width *= 0.3 if name == "encoder.wavelength.weight" else 1.0
            width *= 0.1 if name == "decoder.out.weight" else 1.0
            parameter.copy_(width * torch.randn(parameter.shape, generator=keyed_generator(name, seed)))
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
