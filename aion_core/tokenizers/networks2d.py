"""Convolutional networks over images, with the parameter names of the AION-1 release (REFERENCE section 2).

All take and return ``[B, C, H, W]``. Where no gradient is wanted, activations are computed in place: that changes no
bit of the result, and memory stays that of two activations.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aion_core.engine.initialise import keyed_generator

#: Bias of the last layer of every squeeze-excite unit at the start: residual units begin as the identity.
CLOSED = -10.0
#: Objects whose gates are computed at a time; see `SqueezeExcite`.
ROWS = 16


class SameConv2d(nn.Module):
    """A convolution with an odd kernel that keeps height and width."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SqueezeExcite(nn.Module):
    """Gates for every channel, from an attention-weighted mean over the pixels (Cao et al. 2020, arXiv 2012.13375).

    Small products are summed in an order that depends on how many objects there are. With `steady`, where no gradient
    is wanted, an object's gates are the same to the last bit whatever else is in the batch (of two or more); they
    differ in the last bits from those of the release, which depend on it.
    """

    def __init__(self, channels: int, steady: bool = False) -> None:
        super().__init__()
        hidden = max(16, channels // 2)
        self.steady = steady
        self.to_k = nn.Conv2d(channels, 1, 1)
        self.net = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LeakyReLU(0.1), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the gates, ``[B, C, 1, 1]``."""
        pixels = x.flatten(2).transpose(1, 2)
        if torch.is_grad_enabled() or not self.steady:
            return self.net(_mean(pixels, self.to_k(x).flatten(2)))
        weight, bias = self.to_k.weight.flatten(1).T, self.to_k.bias
        attention = torch.bmm(pixels, weight.expand(len(x), -1, 1)).transpose(1, 2)  # one product per object
        mean = _mean(pixels, attention if bias is None else attention + bias)
        rows = F.pad(mean, (0, 0, 0, 0, 0, 0, 0, -len(x) % ROWS)).split(ROWS)
        return torch.cat([self.net(part) for part in rows])[: len(x)]


def _mean(pixels: Tensor, attention: Tensor) -> Tensor:
    """Return the mean ``[B, C, 1, 1]`` of ``[B, n, C]`` with the softmax of ``[B, 1, n]`` as weights."""
    mean = torch.bmm(attention.softmax(dim=-1), pixels)  # in this order the release's, to the last bit
    return mean.unsqueeze(1).permute(0, 3, 1, 2)


class ResidualUnit(nn.Module):
    """``x + gates · ELU(1×1 conv(ELU(3×3 conv(x))))``."""

    def __init__(self, channels: int, steady: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(
            SameConv2d(channels, channels, 3),
            nn.ELU(),
            nn.Conv2d(channels, channels, 1),
            nn.ELU(),
            SqueezeExcite(channels, steady),
        )

    def forward(self, x: Tensor) -> Tensor:
        conv, _, mix, _, squeeze = self.net
        if torch.is_grad_enabled():
            y = F.elu(mix(F.elu(conv(x))))
            return squeeze(y) * y + x
        y = F.elu_(mix(F.elu_(conv(x))))
        return y.mul_(squeeze(y)).add_(x)


class Downsample(nn.Module):
    """Half the height and width."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the height and width: each pixel becomes a 2 × 2 block of what a 1×1 convolution makes of it."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(channels, 4 * out, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        blocks = self.net(x).unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        return blocks.flatten(4).flatten(2, 3)


class ChannelNorm(nn.Sequential):
    """Layer normalisation over the channels of every pixel (kept at index 1 for the sake of its name)."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Identity(), nn.LayerNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self[1](x.movedim(1, -1)).movedim(-1, 1)


class ConvAutoencoder(nn.Module):
    """Encoder and decoder of images: `compressions` halvings, each followed by `consecutive` residual units.

    Yu et al. 2024 (arXiv 2310.05737), without causality in time. The widest layers have `hidden` channels, the first
    ``hidden / 2^compressions``.
    """

    def __init__(self, channels: int, hidden: int, compressions: int, consecutive: int) -> None:
        super().__init__()
        width = hidden // 2**compressions

        def units(steady: bool) -> nn.Sequential:
            return nn.Sequential(*(ResidualUnit(width, steady) for _ in range(consecutive)))

        self.conv_in = SameConv2d(channels, width, 7)
        self.conv_out = SameConv2d(width, channels, 3)
        encoder: list[nn.Module] = [ResidualUnit(width, steady=True)]
        decoder: list[nn.Module] = [ResidualUnit(width)]
        for _ in range(compressions):
            encoder.append(Downsample(width, 2 * width))
            decoder.append(Upsample(2 * width, width))
            width *= 2
            encoder.append(units(steady=True))
            decoder.append(units(steady=False))
        encoder += [SameConv2d(width, width, 7), units(steady=True), ChannelNorm(width)]
        decoder += [SameConv2d(width, width, 3), units(steady=False)]
        self.encoder_layers = nn.ModuleList(encoder)
        self.decoder_layers = nn.ModuleList(reversed(decoder))
        self.width = width

    def encode(self, x: Tensor) -> Tensor:
        """Return features ``[B, width, H / 2^compressions, …]`` of ``[B, channels, H, W]``."""
        return self.narrow(self.conv_in(x))

    def narrow(self, h: Tensor) -> Tensor:
        """Do the same from what the first convolution gave."""
        for layer in self.encoder_layers:
            h = layer(h)
        return h

    def decode(self, x: Tensor) -> Tensor:
        """Return ``[B, channels, H, W]`` of features."""
        return self.conv_out(self.widen(x))

    def widen(self, x: Tensor) -> Tensor:
        """Return what the last convolution is given."""
        for layer in self.decoder_layers:
            x = layer(x)
        return x


class NormedResidual(nn.Module):
    """``x + 1×1 conv(ReLU(batch norm(3×3 conv(ReLU(x)))))``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class NormedResiduals(nn.Module):
    """Several of them, one after another."""

    def __init__(self, channels: int, hidden: int, count: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*(NormedResidual(channels, hidden) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def _widths(width: int, steps: int) -> list[int]:
    """Return the channels after each of the first halvings: they double up to the full width."""
    return [width // 2**i for i in range(steps - 1, 0, -1)]


class FieldEncoder(nn.Module):
    """The encoder of a VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937) for maps of one channel."""

    def __init__(self, width: int, hidden: int, residuals: int, steps: int) -> None:
        super().__init__()
        widths = [1, *_widths(width, steps), width]
        halvings: list[nn.Module] = []
        for i in range(steps):
            halvings += [nn.Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1), nn.ReLU()]
        last = nn.Conv2d(width, width, 3, padding=1)
        self.net = nn.Sequential(*halvings, last, NormedResiduals(width, hidden, residuals))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class FieldDecoder(nn.Module):
    """Its decoder."""

    def __init__(self, width: int, hidden: int, residuals: int, steps: int) -> None:
        super().__init__()
        widths = [width, *_widths(width, steps), 1]
        doublings: list[nn.Module] = []
        for i in range(steps):
            doublings += [nn.ReLU(), nn.ConvTranspose2d(widths[i], widths[i + 1], 4, stride=2, padding=1)]
        first = nn.ConvTranspose2d(width, width, 3, padding=1)
        self.net = nn.Sequential(first, NormedResiduals(width, hidden, residuals), *doublings)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@torch.no_grad()
def initialise(module: nn.Module, seed: int, rename: Callable[[str], str] = str) -> None:
    """Fill all parameters in place, as functions of the seed and of their names (after `rename`) only.

    Convolutions and linear layers are uniform within ±1/√(fan in), torch's own rule; upsampling begins with equal
    pixels in a block; squeeze-excite units begin closed; norms begin as the identity.
    """
    for prefix, part in module.named_modules():
        if isinstance(part, nn.LayerNorm | nn.BatchNorm2d):
            part.reset_parameters()
            continue
        fan_in = prod(part.weight.shape[1:]) if isinstance(part, nn.Conv2d | nn.ConvTranspose2d) else 0
        for name, parameter in part.named_parameters(prefix, recurse=False):
            generator = keyed_generator(rename(name), seed)
            bound = 1 / sqrt(fan_in or parameter.shape[-1])
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
    for prefix, part in module.named_modules():
        if isinstance(part, Upsample):
            conv = part.net[0]
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            bound, shape = sqrt(6 / conv.in_channels), (conv.out_channels // 4, *conv.weight.shape[1:])
            generator = keyed_generator(rename(f"{prefix}.net.0.weight"), seed)
            block = torch.empty(shape).uniform_(-bound, bound, generator=generator)
            conv.weight.copy_(block.repeat_interleave(4, dim=0))
            conv.bias.zero_()
        elif isinstance(part, SqueezeExcite):
            last = part.net[2]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            last.weight.zero_()
            last.bias.fill_(CLOSED)
