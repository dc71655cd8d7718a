"""What a short training of an image tokenizer may change: where it begins, what it sees, and which errors count."""

from __future__ import annotations

import pytest
import torch
from toy_images import HSC, LEGACY, TINY, noise, spec_of

from aion_core.observations import Image
from aion_core.tokenizers.image import ImageTokenizer


def untrained() -> tuple[ImageTokenizer, ImageTokenizer]:
    hsc, legacy = ImageTokenizer.build([spec_of(key) for key in ("hsc_image", "legacy_image")], 0, **TINY)
    return hsc, legacy


def quantized(tokenizer: ImageTokenizer, obs: Image) -> torch.Tensor:
    given = tokenizer.prepare(obs)
    return tokenizer.network.features(given.x, given.channels, given.present).transpose(0, 1).flatten(1).detach()


def test_codes_that_are_spread_begin_uncorrelated_and_of_unit_variance_and_nothing_else_changes() -> None:
    tokenizer, other = untrained()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    hsc, legacy = Image(noise(HSC, 12), HSC), Image(noise(LEGACY, 12), LEGACY)
    few = len(tokenizer.encode(hsc).unique())
    tokenizer.spread_codes(hsc, legacy)
    found = torch.cat([quantized(tokenizer, hsc), quantized(other, legacy)], dim=1)
    torch.testing.assert_close(found.mean(1), torch.zeros(5), atol=2e-3, rtol=0)
    torch.testing.assert_close(found @ found.T / found.shape[1], torch.eye(5), atol=2e-2, rtol=0)
    assert len(tokenizer.encode(hsc).unique()) > 2 * few
    changed = {name for name, value in tokenizer.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"network.pre_quant_proj.weight", "network.pre_quant_proj.bias"}
    again, _ = untrained()
    again.spread_codes(hsc, legacy)
    assert torch.equal(again.network.pre_quant_proj.weight, tokenizer.network.pre_quant_proj.weight)


def test_training_on_a_crop_sees_nothing_beyond_it() -> None:
    tokenizer, _ = untrained()
    tokenizer.trained_size = 12
    flux = noise(HSC, 3)
    inside, outside = flux.clone(), flux.clone()
    outside[..., :6, :] = 3.0
    inside[..., 6, 6] = 3.0
    loss, *others = (tokenizer.loss(Image(f, HSC))["nll"] for f in (flux, outside, inside))
    assert torch.equal(loss, others[0])
    assert not torch.equal(loss, others[1])
    assert tokenizer.encode(Image(flux, HSC)).shape == (3, 6, 6)  # what is encoded stays


@pytest.mark.parametrize("ivar", [None, 1e4])
def test_errors_are_those_of_the_flux_until_they_are_forgiven(ivar: float | None) -> None:
    tokenizer, _ = untrained()
    flux = 1e-4 * noise(HSC, 2)  # where the compression is linear
    obs = Image(flux, HSC, None if ivar is None else torch.full_like(flux, ivar))
    paper = tokenizer.loss(obs)["nll"]
    tokenizer.forgiven = 1e-9
    given = tokenizer.prepare(obs)
    near = tokenizer._forgiving(given, given.x + 1e-4)
    exact = tokenizer._squared(given, given.x + 1e-4, obs)
    torch.testing.assert_close(near, exact, rtol=2e-3, atol=0)
    tokenizer.forgiven = 100.0
    assert tokenizer.loss(obs)["nll"] < 1e-3 * paper


def test_a_bright_pixel_weighs_no_more_than_what_is_forgiven() -> None:
    tokenizer, _ = untrained()
    tokenizer.forgiven = 0.02
    flux = noise(HSC, 1)
    flux[0, 0, 12, 12] = 1e3 * flux.abs().max()
    obs = Image(flux, HSC, torch.full_like(flux, 1e8))
    given = tokenizer.prepare(obs)
    terms = tokenizer._forgiving(given, given.x + 0.02)
    assert terms.max() <= 1 + 1e-4
    assert tokenizer._squared(given, given.x + 0.02, obs).max() > 1e3
