"""Convolutions with fewer products: the same numbers but for rounding, whatever the sizes."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from aion_core.tokenizers import winograd
from aion_core.tokenizers.networks2d import ConvAutoencoder, initialise
from aion_core.tokenizers.winograd import Scratch, WinogradConv2d, WithFewerProducts

#: Largest error over the spread of the result, by the kernel's width; bfloat16 factors give 1e-2.
BOUND = {3: 1e-4, 7: 1e-3}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolution(channels: int, out: int, kernel: int, bias: bool = True) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=bias)
    conv.weight.data = drawn(*conv.weight.shape, seed=1) / conv.weight[0].numel() ** 0.5
    if conv.bias is not None:
        conv.bias.data = drawn(out, seed=2)
    return conv


def plain(conv: nn.Conv2d, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return F.conv2d(x.double(), conv.weight.double(), bias, padding=conv.padding)


@torch.no_grad()
def test_every_size_gives_the_plain_sum() -> None:
    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from([3, 7]), st.integers(1, 3), st.integers(1, 17), st.integers(1, 17), st.integers(1, 9),
        st.integers(1, 9), st.booleans(),
    )  # fmt: skip
    def check(kernel: int, objects: int, height: int, width: int, channels: int, out: int, bias: bool) -> None:
        conv = convolution(channels, out, kernel, bias)
        x = drawn(objects, channels, height, width)
        found = WinogradConv2d(conv, Scratch())(x)
        assert found.shape == (objects, out, height, width)
        assert (found - plain(conv, x)).abs().max() < BOUND[kernel]

    check()


@torch.no_grad()
@pytest.mark.parametrize("kernel", [3, 7])
def test_more_objects_than_at_once_are_taken_in_parts(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = convolution(4, 6, kernel), drawn(5, 4, 12, 12)
    layer = WinogradConv2d(conv, Scratch())
    parts, convolve = list[int](), layer._convolve

    def counted(x: Tensor, found: Tensor) -> None:
        parts.append(len(x))
        convolve(x, found)

    monkeypatch.setattr(layer, "_convolve", counted)
    monkeypatch.setattr(winograd, "AT_ONCE", 2 * layer.side**2 * (12 // layer.pixels) ** 2 * 6)
    assert (layer(x) - plain(conv, x)).abs().max() < BOUND[kernel]
    assert parts == [2, 2, 1]


@torch.no_grad()
def test_numbers_past_one_image_do_not_enter_the_next() -> None:
    conv = convolution(3, 3, 7)
    layer = WinogradConv2d(conv, Scratch())
    layer(1e6 * drawn(4, 3, 17, 17))  # what is left in the memory that is used again
    x = drawn(2, 3, 9, 10)
    assert (layer(x) - plain(conv, x)).abs().max() < BOUND[7]


def encoder() -> nn.Sequential:
    network = ConvAutoencoder(5, 512, compressions=1, consecutive=1)
    initialise(network, 0)
    for name, parameter in network.named_parameters():
        if name.endswith("net.4.net.2.bias"):  # open, or every residual unit would be the identity
            parameter.data.zero_()
    return nn.Sequential(network.conv_in, *network.encoder_layers)


@torch.no_grad()
def test_a_network_gives_the_same_with_the_convolutions_that_are_worth_it_replaced() -> None:
    layers = encoder()
    quick = WithFewerProducts(layers)
    replaced = [m for m in quick.modules() if isinstance(m, WinogradConv2d)]
    assert sorted((m.kernel, m.channels) for m in replaced) == [(3, 256), (3, 512), (3, 512), (7, 512)]
    x = drawn(2, 5, 16, 16)
    expected = layers(x)
    assert (quick(x) - expected).abs().max() < 1e-3 * expected.std()
    assert not quick.scratch.kept  # nothing but weights is kept
    assert not any(isinstance(m, WinogradConv2d) for m in layers.modules())


@torch.no_grad()
def test_threads_do_not_write_into_one_another() -> None:
    quick, images = WithFewerProducts(encoder()), [drawn(1, 5, 16, 16, seed=seed) for seed in range(8)]
    alone = [quick(x) for x in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(torch.no_grad()(quick), images))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(512, 512, 3, padding=1, stride=2),
        nn.Conv2d(512, 512, 3, padding=1, groups=2),
        nn.Conv2d(512, 512, 3, padding=1, dilation=2),
        nn.Conv2d(512, 512, 3),
        nn.Conv2d(512, 512, (3, 1), padding=(1, 0)),
        nn.Conv2d(64, 512, 3, padding=1),
    ],
    ids=str,
)
def test_other_convolutions_are_left_as_they_are(conv: nn.Conv2d) -> None:
    assert not any(isinstance(m, WinogradConv2d) for m in WithFewerProducts(nn.Sequential(conv)).modules())


@torch.no_grad()
def test_layers_that_have_been_used_can_be_copied_and_sent_to_other_processes() -> None:
    quick, x = WithFewerProducts(encoder()), drawn(1, 5, 16, 16)
    expected = quick(x)
    for other in (deepcopy(quick), pickle.loads(pickle.dumps(quick))):
        assert torch.equal(other(x), expected)
