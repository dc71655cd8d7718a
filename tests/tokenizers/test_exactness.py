"""Exact codes are exact wherever `encode` is called: under autocast, and where matrix products may be rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from toy_images import HSC, field_tokenizer, noise, tokenizers
from toy_spectra import make_tokenizer, spectra

from aion_core.observations import Image, Observation, ScalarField
from aion_core.tokenizers.base import Tokenizer

KINDS = ("image", "spectrum", "scalar_field")
#: What may round in a type below float32, as torch names it.
PLACES = ("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")


def made(kind: str) -> tuple[Tokenizer, Observation]:
    if kind == "image":
        return tokenizers(side=12)[0], Image(noise(HSC, 6, 48), HSC)
    if kind == "spectrum":
        return make_tokenizer(), spectra(12)
    maps = torch.rand(8, 24, 24, generator=torch.Generator().manual_seed(0))
    return field_tokenizer(), ScalarField(maps)


def autocast() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@contextmanager
def rounded() -> Iterator[None]:
    """Let matrix products be rounded, as many a training does."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def newer() -> Iterator[None]:
    """Ask for the same by the switches that torch has had since 2.9."""
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")


def settings() -> list[str]:
    found = []
    for place in PLACES:
        part: Any = torch.backends
        for name in place.split("."):
            part = getattr(part, name)
        found.append(part.fp32_precision)
    return found


@pytest.mark.parametrize("around", [autocast, rounded, torch.inference_mode])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_what_they_decode_to_do_not_depend_on_where_they_are_asked_for(
    kind: str, around: Callable[[], AbstractContextManager[Any]]
) -> None:
    tokenizer, obs = made(kind)
    field = obs.batched[0]
    codes = tokenizer.encode(obs)
    decoded = getattr(tokenizer.decode(codes), field)
    with around():
        assert torch.equal(tokenizer.encode(obs), codes)
        assert torch.equal(getattr(tokenizer.decode(codes), field), decoded)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has one switch only")
@pytest.mark.parametrize("around", [nullcontext, rounded, newer])
def test_nothing_is_rounded_while_a_network_encodes_and_the_callers_settings_come_back(
    around: Callable[[], AbstractContextManager[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, obs = made("image")
    seen, network = [], tokenizer.network
    features = network.features

    def read() -> list[Any]:
        return [*settings(), torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]

    monkeypatch.setattr(network, "features", lambda *a: (seen.append(read()), features(*a))[1])
    with around():
        before = settings()
        tokenizer.encode(obs)
        assert settings() == before
    torch.get_float32_matmul_precision()  # raises where the settings were left at odds
    assert seen == [[*["ieee"] * len(PLACES), False, "highest"]]
