"""What a short training of an image tokenizer may change: where it begins, what it sees, and which errors count."""

from __future__ import annotations

import pytest
import torch
from toy_images import HSC, LEGACY, TINY, noise, spec_of

from aion_core.observations import Image
from aion_core.tokenizers.image import ImageTokenizer
from aion_core.tokenizers.image_start import begin_linear


def untrained() -> tuple[ImageTokenizer, ImageTokenizer]:
    hsc, legacy = ImageTokenizer.build([spec_of(key) for key in ("hsc_image", "legacy_image")], 0, **TINY)
    return hsc, legacy


def quantized(tokenizer: ImageTokenizer, obs: Image) -> torch.Tensor:
    given = tokenizer.prepare(obs)
    return tokenizer.network.features(given.x, given.channels, given.present).transpose(0, 1).flatten(1).detach()


def sources(bands: tuple[str, ...], count: int) -> Image:
    """Images of a faint sky with one bright source each, redder or bluer."""
    x = torch.arange(24) - 11.5
    generator = torch.Generator().manual_seed(len(bands))
    size, colour = torch.rand(2, count, 1, 1, 1, generator=generator)
    source = torch.exp(-(x[:, None] ** 2 + x**2) / (2 + 8 * size))
    slope = (1 + torch.arange(len(bands)) / len(bands) * colour.squeeze(-1)).reshape(count, -1, 1, 1)
    sky = 0.02 * torch.randn(count, len(bands), 24, 24, generator=generator)
    return Image(sky + 30 * slope * source, bands)


def test_an_encoder_that_begins_linear_spreads_the_sky_over_its_codes_and_knows_what_is_bright() -> None:
    tokenizer, other = untrained()
    random = len(tokenizer.encode(sources(HSC, 12)).unique())
    begin_linear([(tokenizer, sources(HSC, 12)), (other, sources(LEGACY, 12))])
    for one, bands in ((tokenizer, HSC), (other, LEGACY)):
        obs = sources(bands, 12)
        z = quantized(one, obs)
        mean = torch.nn.functional.avg_pool2d(one.prepare(obs).x.mean(1, keepdim=True), 4).flatten()
        sky = mean < mean.median()
        assert ((z[:, sky].std(dim=1) > 0.3) & (z[:, sky].std(dim=1) < 1.6)).all()
        assert z[:, sky].mean(dim=1).abs().max() < 0.6
        assert z[:, mean.argmax()].norm() > 2 * z[:, sky].norm(dim=0).mean()
        codes = one.encode(obs).flatten()
        assert len(codes[sky].unique()) > 2 * random
        assert len(codes.unique()) > 4 * random


def test_beginning_linear_depends_on_what_is_seen_alone_and_leaves_the_decoder_s_readout() -> None:
    (one, _), (again, _) = untrained(), untrained()
    before = {name: value.clone() for name, value in one.state_dict().items()}
    for tokenizer in (one, again):
        begin_linear([(tokenizer, sources(HSC, 12))])
    after = one.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in after.items())
    changed = {
        name.removeprefix("network.").split(".")[0] for name in after if not torch.equal(after[name], before[name])
    }
    assert changed == {"subsample_in", "model", "pre_quant_proj"}
    assert torch.equal(after["network.model.conv_out.conv.weight"], before["network.model.conv_out.conv.weight"])
    # Its features are linear in small numbers up to the normalisation: each pixel is seen by the patch it is in.
    network = one.network
    flux = torch.zeros(2, len(HSC), 24, 24)
    flux[1, :, 9, 14] = 0.05
    given = one.prepare(Image(flux, HSC))
    x = network.enter(given.x, given.channels, given.present)
    for layer in list(network.model.encoder_layers)[:-1]:
        x = layer(x)
    seen = (x[1] - x[0]).abs().amax(0)
    inside = seen[2, 3].item()
    assert inside > 1  # in units of the noise
    seen[2, 3] = 0
    assert seen.max() < 1e-5 * inside


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


def test_an_uneven_use_of_codes_is_a_term_of_the_loss_where_that_is_asked_for() -> None:
    tokenizer, _ = untrained()
    obs = Image(noise(HSC, 4), HSC)
    (nll,) = tokenizer.loss(obs).values()
    tokenizer.evening = 0.5
    terms = tokenizer.loss(obs)
    assert torch.equal(terms["nll"], nll)
    given = tokenizer.prepare(obs)
    numbers = tokenizer.network.features(given.x, given.channels, given.present)
    torch.testing.assert_close(terms["unevenness"], 0.5 * tokenizer.network.quantizer.unevenness(numbers))
    terms["unevenness"].backward()
    assert tokenizer.network.pre_quant_proj.weight.grad.abs().max() > 0


def test_the_use_of_codes_is_judged_of_each_survey_by_itself() -> None:
    tokenizer, _ = untrained()
    tokenizer.evening = 1.0
    one, other = Image(noise(HSC, 4), HSC), Image(30 * noise(HSC, 3), HSC)
    alone = torch.stack([tokenizer.loss(obs)["unevenness"] for obs in (one, other)])
    torch.testing.assert_close(tokenizer.loss(one, other)["unevenness"], alone.mean())
    assert (alone[0] - alone[1]).abs().item() > 0.1
    nothing = Image(noise(HSC, 0), HSC)
    torch.testing.assert_close(tokenizer.loss(one, nothing)["unevenness"], alone[0])
    assert tokenizer.loss(nothing)["unevenness"].item() == 0
