"""Convolutions with fewer multiplications, for fast encoding on a CPU (Lavin & Gray 2015, arXiv 1509.09308).

A convolution of m + k − 1 samples with k weights is a product of polynomials: evaluated at m + k − 1 points, it takes
one multiplication at each, where the plain sum takes m k. In two dimensions, for k = 3 and m = 6, there are 64 products
for 36 pixels instead of 324; for k = 7 and m = 4, 100 for 16 instead of 784. Evaluation and interpolation are matrix
products that do not grow with the number of channels squared. Rounding is 5 (k = 3) to 60 times (k = 7) that of the
plain sum in float32, still a thirtieth of what factors in bfloat16 would give.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from math import prod
from threading import local
from typing import cast

import numpy as np
import torch
from numpy.polynomial.polynomial import polyfromroots
from torch import Tensor, nn

#: Pixels a side that are made at once, by the kernel's width: as many as leave rounding far below that of bfloat16.
PIXELS = {3: 6, 7: 4}
#: Kernels so wide that their values at the points are kept: twice the weights, but making them takes half the time of
#: all products. Those of others are seven times the weights, and quickly made.
KEPT = (7,)
#: Where polynomials are evaluated, besides infinity; small numbers and their inverses round least.
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, -0.25, 4.0)
#: Numbers that a tensor of all values may have; more objects are taken in parts.
AT_ONCE = 10_000_000
#: With fewer channels the transforms cost what the products save.
LEAST_CHANNELS = 128


class WithFewerProducts(nn.Module):
    """Layers whose convolutions take fewer products, for use without gradients; weights are copied as they are now."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.scratch = Scratch()
        shared = {id(tensor): tensor for tensor in (*layers.parameters(), *layers.buffers())}
        self.layers = deepcopy(layers, shared)
        for part in list(self.layers.modules()):
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Conv2d) and _suits(layer):
                    setattr(part, name, WinogradConv2d(layer, self.scratch))

    def forward(self, x: Tensor) -> Tensor:
        try:
            return cast(Tensor, self.layers(x))
        finally:
            self.scratch.kept.clear()


def _suits(conv: nn.Conv2d) -> bool:
    width = conv.kernel_size[0]
    same = conv.kernel_size == (width, width) and conv.padding == (width // 2, width // 2)
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    return same and plain and width in PIXELS and conv.in_channels >= LEAST_CHANNELS


class Scratch(local):
    """A thread's memory that is used again: to ask the system for it takes as long as to compute what it holds."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()  # a copy begins with none: what belongs to a thread cannot be copied

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return a tensor in float32, its values whatever they are; the last of that name is overwritten."""
        size = prod(shape)
        if name not in self.kept or self.kept[name].numel() < size:
            self.kept[name] = torch.empty(size)
        return self.kept[name][:size].view(shape)


class WinogradConv2d(nn.Module):
    """What a convolution of stride 1 that keeps height and width gives, but for rounding."""

    @torch.no_grad()
    def __init__(self, conv: nn.Conv2d, scratch: Scratch) -> None:
        super().__init__()
        self.bias, self.scratch = conv.bias, scratch
        self.channels, self.out, self.kernel = conv.in_channels, conv.out_channels, conv.kernel_size[0]
        self.pixels = PIXELS[self.kernel]
        self.side = self.pixels + self.kernel - 1
        self.weights = conv.weight.permute(2, 3, 0, 1).reshape(self.kernel**2, -1)
        self.values = self._at_points(0, self.side) if self.kernel in KEPT else None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, D, H, W]`` of ``[B, C, H, W]``; both lie in memory with the channels last."""
        (objects, channels, height, width), m = x.shape, self.pixels
        rows, columns = -(-height // m), -(-width // m)
        found = torch.empty(objects, rows, m, columns, m, self.out)
        step = max(1, AT_ONCE // (self.side**2 * rows * columns * max(channels, self.out)))
        for part, place in zip(x.permute(0, 2, 3, 1).split(step), found.split(step), strict=True):
            self._convolve(part, place)
        return found.view(objects, rows * m, columns * m, self.out)[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor, found: Tensor) -> None:
        """Write the convolution of ``[B, H, W, C]`` to ``[B, rows, m, columns, m, D]``."""
        (objects, rows, m, columns, _, _), side, channels = found.shape, self.side, x.shape[3]
        tiles, (data, _, pixels) = objects * rows * columns, _transforms(m, self.kernel)
        samples = self.scratch("a", side, side, objects, rows, columns, channels)
        samples.copy_(self._tiles(x, rows, columns))
        values = torch.mm(data, samples.view(side**2, -1), out=self.scratch("b", side**2, tiles * channels))
        products = self.scratch("a", side, side, tiles, self.out)
        for i, part in enumerate(values.view(side, side, tiles, channels)):  # so that weights stay in the cache
            weights = self._at_points(i, i + 1)[0] if self.values is None else self.values[i]
            torch.bmm(part, weights.transpose(1, 2), out=products[i])
        made = torch.mm(pixels, products.view(side**2, -1), out=self.scratch("b", m * m, tiles * self.out))
        made = made.view(m, m, objects, rows, columns, self.out).permute(2, 3, 0, 4, 1, 5)
        torch.add(made, 0.0 if self.bias is None else self.bias, out=found)

    def _at_points(self, first: int, last: int) -> Tensor:
        """Return the weights' values at some rows of points, ``[rows, n, D, C]``."""
        shape = last - first, self.side, self.out, self.channels
        rows = _transforms(self.pixels, self.kernel)[1][first * self.side : last * self.side]
        made = self.scratch("c", len(rows), self.out * self.channels) if len(rows) == self.side else None
        return torch.mm(rows, self.weights, out=made).view(shape)

    def _tiles(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return ``[n, n, B, rows, columns, C]`` of ``[B, H, W, C]``: windows that overlap, seen in a padded copy."""
        (objects, height, width, channels), m, side, before = x.shape, self.pixels, self.side, self.kernel // 2
        padded = self.scratch("d", objects, rows * m + side - m, columns * m + side - m, channels)
        padded.zero_()[:, before : before + height, before : before + width] = x
        b, h, w, c = padded.stride()
        return padded.as_strided((side, side, objects, rows, columns, channels), (h, w, b, m * h, m * w, c))


@cache
def _transforms(m: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices for samples, weights and pixels: ``[n², n²]``, ``[n², k²]``, ``[m², n²]``; n = m + k − 1.

    Toom and Cook's: weights and samples are evaluated at n − 1 points and at infinity (the last row).
    """
    n = m + kernel - 1
    points = np.array(POINTS[: n - 1])
    others = [np.delete(points, i) for i in range(n - 1)]
    data, weights, pixels = np.zeros((n, n)), np.zeros((n, kernel)), np.zeros((m, n))
    data[:-1, :-1] = [polyfromroots(p) for p in others]
    data[-1] = polyfromroots(points)
    weights[:-1] = np.vander(points, kernel, increasing=True)
    weights[:-1] /= [[np.prod(point - p)] for point, p in zip(points, others, strict=True)]
    pixels[:, :-1] = np.vander(points, m, increasing=True).T
    weights[-1, -1] = pixels[-1, -1] = 1.0
    both = (torch.from_numpy(np.kron(matrix, matrix)).float() for matrix in (data, weights, pixels))
    return cast("tuple[Tensor, Tensor, Tensor]", tuple(both))
