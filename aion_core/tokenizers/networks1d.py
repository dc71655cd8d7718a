"""ConvNeXt-V2 in one dimension: the encoder and decoder of spectra (REFERENCE section 2; Woo et al. 2023).

Parameters have the names and shapes of the AION-1 release. Activations are ``[B, N, C]``. There are two arrangements of
the same arithmetic:

- *exact*: kernels and order are the release's, so that one spectrum gives the same bits;
- the other, for training and fast encoding: the pointwise layers, which do nine tenths of the work, are plain matrix
  products and nothing is transposed. Strided convolutions do not overlap here, so they are matrix products, too. The
  response normalisation is a factor for each channel and a constant, both of which go into the layer that follows. Its
  sum over pixels is pairwise: the result is nearer to that in float64 than the release's by a factor of three.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_core.engine.initialise import keyed_generator

EPS = 1e-6
STEM = 4  #: stride of the first layer of the encoder, and of the last of the decoder


class ResponseNorm(nn.Module):
    """Global response normalisation: channels that respond strongly along the spectrum are raised over the others."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N, C]`` normalised."""
        response = _norm_along(x)
        return (x * (response / (response.mean(-1, keepdim=True) + EPS))).mul_(self.gamma).add_(self.beta).add_(x)

    def factor(self, x: Tensor) -> Tensor:
        """Return by what every channel of ``[B, N, C]`` is multiplied, ``[B, 1, C]``; `beta` is to be added."""
        power = x.square().sum(1, keepdim=True, dtype=torch.float32)
        response = power.clamp(min=1e-30).sqrt()  # the root of zero has no gradient
        return 1 + self.gamma * (response / (response.mean(-1, keepdim=True) + EPS))


class Block(nn.Module):
    """Depthwise convolution over 7 pixels, then two pointwise layers with GELU and response normalisation between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = ResponseNorm(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the pointwise layers in the type of their weights, all else in that of the input."""
        conv = self.dwconv  # in two dimensions, where there is a kernel for channels last
        image = x.permute(0, 2, 1)[:, :, None]
        y = F.conv2d(image, conv.weight[:, :, None], conv.bias, padding=(0, 3), groups=conv.groups)
        hidden = self.pwconv1(self.norm(y[:, :, 0].permute(0, 2, 1)).to(self.pwconv1.weight.dtype))
        weight, beta = self.pwconv2.weight, self.grn.beta[0, 0]
        if torch.is_grad_enabled():
            hidden = F.gelu(hidden)
            return x + self.pwconv2((hidden * self.grn.factor(hidden) + beta).to(hidden.dtype))
        hidden = torch.ops.aten.gelu_(hidden)
        factor = self.grn.factor(hidden)
        if len(x) == 1 and weight.shape[0] < x.shape[1]:  # the layer is smaller than what goes through it
            weight = (weight * factor[0]).to(weight.dtype)
        else:
            hidden = hidden.mul_(factor.to(hidden.dtype))
        constant = torch.mv(self.pwconv2.weight.to(beta.dtype), beta) + self.pwconv2.bias
        return (x + constant).add_(F.linear(hidden, weight))

    def exactly(self, x: Tensor) -> Tensor:
        """Return the same to rounding, which here is the release's: its kernels, in its order."""
        y = self.norm(self.dwconv(x.permute(0, 2, 1)).permute(0, 2, 1))
        return x + self.pwconv2(self.grn(torch.ops.aten.gelu_(self.pwconv1(y))))


def _norm_along(x: Tensor) -> Tensor:
    """Return the norm of every channel of ``[B, N, C]`` along the spectrum, ``[B, 1, C]``.

    Channels are taken in groups that stay in the cache, since the sum runs along one channel after the other; the bits
    are those of one call.
    """
    group = 32
    if x.shape[2] % group:
        return torch.linalg.vector_norm(x, dim=1, keepdim=True)
    groups = x.unflatten(2, (-1, group)).transpose(1, 2).contiguous()
    return torch.linalg.vector_norm(groups, dim=2).flatten(1)[:, None]


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=EPS)


def _reduce(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Apply a convolution whose stride is its width k: ``[B, N, C]`` to ``[B, N / k, D]``."""
    width = conv.kernel_size[0]
    weight = conv.weight.permute(0, 2, 1).flatten(1)
    return F.linear(x.reshape(len(x), x.shape[1] // width, -1), weight, conv.bias)


def _expand(conv: nn.ConvTranspose1d, x: Tensor) -> Tensor:
    """Apply a transposed convolution whose stride is its width k: ``[B, N, C]`` to ``[B, N k, D]``."""
    weight = conv.weight.permute(2, 1, 0).flatten(0, 1)
    y = F.linear(x, weight).reshape(len(x), x.shape[1] * conv.kernel_size[0], -1)
    return y if conv.bias is None else y + conv.bias


def _stages(depths: Sequence[int], dims: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(*(Block(dim) for _ in range(depth))) for depth, dim in zip(depths, dims, strict=True)
    )


def _through(layers: nn.ModuleList, stages: nn.ModuleList, x: Tensor, exact: bool) -> Tensor:
    """Apply changes of length and stages in turn; `exact` as in `Block.exactly`, which has no gradients."""
    for change, stage in zip(layers, stages, strict=True):
        assert isinstance(change, nn.Sequential)
        assert isinstance(stage, nn.Sequential)
        for layer in change:
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) and exact:
                x = layer(x.permute(0, 2, 1)).permute(0, 2, 1)
            elif isinstance(layer, nn.Conv1d):
                x = _reduce(layer, x)
            else:
                x = _expand(layer, x) if isinstance(layer, nn.ConvTranspose1d) else layer(x)
        for block in stage:
            assert isinstance(block, Block)
            x = block.exactly(x) if exact else block(x)
    return x


class Encoder(nn.Module):
    """Stages that halve the length (the first divides it by four): ``[B, N, channels]`` to ``[B, N / 32, dims[-1]]``.

    The 32 is for four stages; in general `stride`.
    """

    def __init__(self, channels: int, depths: Sequence[int], dims: Sequence[int]) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv1d(channels, dims[0], STEM, stride=STEM), _norm(dims[0]))]
        )
        for before, after in pairwise(dims):
            self.downsample_layers.append(nn.Sequential(_norm(before), nn.Conv1d(before, after, 2, stride=2)))
        self.stages = _stages(depths, dims)
        self.norm = _norm(dims[-1])
        self.stride = STEM * 2 ** (len(dims) - 1)

    def forward(self, x: Tensor, exact: bool = False) -> Tensor:
        return self.norm(_through(self.downsample_layers, self.stages, x, exact))


class Decoder(nn.Module):
    """Stages that double the length (the last quadruples it): ``[B, N, channels]`` to ``[B, 32 N, dims[-1]]``."""

    def __init__(self, channels: int, depths: Sequence[int], dims: Sequence[int]) -> None:
        super().__init__()
        self.upsample_layers = nn.ModuleList(
            [nn.Sequential(nn.ConvTranspose1d(channels, dims[0], 2, stride=2), _norm(dims[0]))]
        )
        for i, (before, after) in enumerate(pairwise(dims)):
            width = STEM if i == len(dims) - 2 else 2
            self.upsample_layers.append(
                nn.Sequential(_norm(before), nn.ConvTranspose1d(before, after, width, stride=width))
            )
        self.stages = _stages(depths, dims)
        self.stride = 2 ** (len(dims) - 1) * (STEM if len(dims) > 1 else 2)

    def forward(self, x: Tensor, exact: bool = False) -> Tensor:
        return _through(self.upsample_layers, self.stages, x, exact)


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Set initial values as functions of the seed and each parameter's name (the AION-1 paper, appendix B.2.4).

    Weights of layers are drawn from a normal distribution of width 0.02, cut at ± 2; all that shifts is zero, and what
    scales is one.
    """
    for name, parameter in module.named_parameters():
        if name.endswith(".weight") and parameter.ndim > 1:
            drawn = torch.empty(parameter.shape)
            nn.init.trunc_normal_(drawn, std=0.02, a=-2.0, b=2.0, generator=keyed_generator(name, seed))
            parameter.copy_(drawn)
        else:
            parameter.fill_(1.0 if name.endswith(".weight") else 0.0)
