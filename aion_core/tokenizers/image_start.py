"""Where a short training of an image tokenizer begins: with an encoder that takes principal components.

An encoder begun at random blurs what it sees and gives nearly everything one code, and a decoder learns nothing from
that but the mean. It takes long trainings to get away from there. But with its residual units closed, as they begin
(`networks2d.initialise`), the encoder is linear up to its last normalisation, and each convolution can be set to the
principal components of what it sees, in units of the sky's noise: all bands of a pixel, then all channels of 2 × 2
pixels, twice. What is quantized are the first components of what the normalisation leaves, at a scale at which the
sky's noise alone makes use of all levels: most of an image is sky, and what is brighter has the outer ones besides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aion_core.engine.initialise import keyed_generator
from aion_core.observations import Image
from aion_core.tokenizers.image import ImageTokenizer, Prepared
from aion_core.tokenizers.image_network import ImageNetwork
from aion_core.tokenizers.networks2d import Downsample, SameConv2d

#: Added to half of the channels and taken from the others before they are normalised, in units of the sky's noise:
#: features smaller than this are only scaled, of larger ones the direction is kept more than the size.
OFFSET = 3.0
#: How far the noise of the sky moves the numbers that are quantized, of which ±1 is squeezed to three quarters of the
#: levels; and what counts as sky: patches no brighter than so many times its noise.
MOVED, SKY = 0.8, 3.0


@torch.no_grad()
def begin_linear(observations: Sequence[tuple[ImageTokenizer, Image]]) -> None:
    """Set the encoder that untrained tokenizers share to principal components of some observations, in place.

    Parameters
    ----------
    observations
        Some of each modality. The components of different surveys meet in the order of their variance.
    """
    network = observations[0][0].network
    given = [tokenizer.prepare(tokenizer.accept(obs), tokenizer.trained_size) for tokenizer, obs in observations]
    generator = keyed_generator("begin_linear", 0)
    _first(network, given)
    h = torch.cat([network.enter(g.x, g.channels, g.present) for g in given])
    brightness = h[:, 0]
    for layer in network.model.encoder_layers:
        if isinstance(layer, Downsample):
            _halving(layer, h)
        elif isinstance(layer, SameConv2d):
            brightness = h[:, 0]
            _turn(layer, generator)
        h = layer(h)
    _quantized(network.pre_quant_proj, h.transpose(0, 1).flatten(1), brightness.flatten())
    for layer in network.model.decoder_layers:
        if isinstance(layer, SameConv2d):
            layer.conv.weight.mul_(0.2)
            middle = layer.conv.kernel_size[0] // 2
            layer.conv.weight[:, :, middle, middle] += _rotation(len(layer.conv.weight), generator)


def _first(network: ImageNetwork, given: Sequence[Prepared]) -> None:
    """Let the first channels be the components of a pixel's bands in units of their noise, of each survey's own."""
    embedding, conv = network.subsample_in, network.model.conv_in.conv
    columns = torch.stack(list(embedding.columns), dim=1)
    wanted = torch.zeros(conv.out_channels, columns.shape[1])
    for g in given:
        scale = 1 / _noise(g.x.transpose(0, 1))[:, None]
        axes = _components(g.x.transpose(0, 1).flatten(1) * scale)
        axes = (axes * axes.sum(dim=0).sign())[:, : conv.out_channels]
        wanted[: axes.shape[1], g.channels] = (axes * scale).T / embedding.scale(g.present).mean()
    _only(conv, wanted @ torch.linalg.pinv(columns))
    assert conv.bias is not None
    for bias in (conv.bias, embedding.bias):
        bias.zero_()


def _noise(x: Tensor) -> Tensor:
    """Return the noise of the sky in each band of ``[n, B, H, W]``, from how much pixels differ from the next."""
    return (1.4826 / 2**0.5 * (x[..., 1:] - x[..., :-1]).abs().flatten(1).median(dim=1).values).clamp(min=1e-9)


def _halving(layer: Downsample, h: Tensor) -> None:
    """Let the output be the components of 2 × 2 pixels of the input."""
    count, channels, height, width = h.shape
    blocks = h.reshape(count, channels, height // 2, 2, width // 2, 2).permute(1, 3, 5, 0, 2, 4)
    kept = _components(blocks.reshape(channels * 4, -1))[:, : layer.conv.out_channels].T
    layer.conv.weight.zero_()
    layer.conv.weight[: len(kept), :, 1:, 1:] = kept.reshape(len(kept), channels, 2, 2)
    assert layer.conv.bias is not None
    layer.conv.bias.zero_()


def _turn(layer: SameConv2d, generator: torch.Generator) -> None:
    """Let the output be the input, turned, and far enough from zero for the normalisation to keep its size."""
    _only(layer.conv, _rotation(layer.conv.out_channels, generator))
    assert layer.conv.bias is not None
    layer.conv.bias.copy_(OFFSET * (torch.arange(layer.conv.out_channels) % 2 * 2 - 1))


def _quantized(projection: nn.Conv2d, features: Tensor, brightness: Tensor) -> None:
    """Let the numbers that are quantized be the first components of ``[C, n]``, 0 ± `MOVED` where there is sky only."""
    middle = brightness.median()
    noise = 1.4826 * (brightness - middle).abs().median()
    sky = (brightness - middle).abs() <= SKY * noise
    centre = features[:, sky].mean(dim=1, keepdim=True)
    axes = _components(features - centre)[:, : projection.out_channels]
    found = axes.T @ (features - centre)
    scale = MOVED * found.mean(dim=1).sign() / found[:, sky].std(dim=1).clamp(min=1e-9)  # what is bright is positive
    matrix = scale[:, None] * axes.T
    projection.weight.copy_(matrix[:, :, None, None])
    assert projection.bias is not None
    projection.bias.copy_(-(matrix @ centre)[:, 0])


def _components(x: Tensor) -> Tensor:
    """Return the principal axes around zero of ``[C, n]``, that of the largest variance first: columns ``[C, C]``."""
    return torch.linalg.eigh((x @ x.T).double() / x.shape[1]).eigenvectors.flip(1).float()


def _rotation(size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator))[0]


def _only(conv: nn.Conv2d, matrix: Tensor) -> None:
    """Let a convolution act on each pixel alone."""
    middle = conv.kernel_size[0] // 2
    conv.weight.zero_()
    conv.weight[:, :, middle, middle] = matrix
