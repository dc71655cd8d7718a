"""Spectra of any range and sampling to 128 tokens, and back to any wavelengths."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from aion_tok_universal.tokenizer import UniversalSpectrumTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import AionError, InputError
from aion_core.observations import Spectrum
from aion_core.tokenizers.base import read_tokenizer

#: First and last wavelength, pixels, and whether they are even in the logarithm: what spectrographs give.
INSTRUMENTS = {
    "optical in even steps": (3600, 9824, 900, False),
    "optical in steps of the logarithm": (3800, 9200, 500, True),
    "high resolution": (15100, 17000, 1000, True),
    "a few pixels": (9700, 18900, 40, False),
    "two pixels": (5000, 5001, 2, False),
}


@pytest.fixture(scope="module")
def pair(specs) -> tuple[UniversalSpectrumTokenizer, UniversalSpectrumTokenizer]:
    built = UniversalSpectrumTokenizer.build(list(specs.values()), **UniversalSpectrumTokenizer.small)
    return tuple(tokenizer.eval() for tokenizer in built)


@pytest.fixture(scope="module")
def tokenizer(pair) -> UniversalSpectrumTokenizer:
    return pair[0]


def observed(name: str = "optical in even steps", size: int = 3, seed: int = 0, **change: Any) -> Spectrum:
    low, high, length, logarithmic = INSTRUMENTS[name]
    rng = np.random.default_rng(seed)
    wavelength = (np.geomspace if logarithmic else np.linspace)(low, high, length)
    level, slope = rng.uniform(2, 30, (size, 1)), rng.uniform(-1, 1, (size, 1))
    flux = level * (1 + slope * np.linspace(-0.5, 0.5, length)) + rng.normal(size=(size, length))
    parts = {"flux": flux, "wavelength": wavelength, "ivar": np.ones_like(flux), "mask": rng.random(flux.shape) < 0.02}
    return Spectrum(**(parts | change))


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_instrument_gives_128_tokens_that_tell_where_it_looked(tokenizer, name) -> None:
    obs = observed(name, mask=None)
    tokens = tokenizer.encode(obs)
    assert tokens.shape == (3, 128)
    assert tokens.min() >= 0
    assert tokens.max() < 4375
    decoded = tokenizer.decode(tokens)
    assert decoded.flux.isfinite().all()
    ends = decoded.wavelength[:, [0, -1]] / obs.wavelength[:, [0, -1]]
    assert (ends > 0.998).all()
    assert (ends < 1.002).all()


def test_tokens_do_not_depend_on_the_order_of_pixels(tokenizer) -> None:
    obs, turned = observed(), np.random.default_rng(1).permutation(900)
    parts = {name: getattr(obs, name)[:, turned] for name in ("flux", "wavelength", "ivar", "mask")}
    assert torch.equal(tokenizer.encode(Spectrum(**parts)), tokenizer.encode(obs))
    parts = {name: getattr(obs, name).flip(1) for name in parts}
    assert torch.equal(tokenizer.encode(Spectrum(**parts)), tokenizer.encode(obs))


def test_padding_does_not_matter(tokenizer) -> None:
    obs = observed()
    zeros, ones = torch.zeros(3, 50), torch.ones(3, 50)
    padded = Spectrum(
        torch.cat([obs.flux, 99 * ones], 1),
        torch.cat([obs.wavelength, zeros], 1),
        torch.cat([obs.ivar, ones], 1),
        torch.cat([obs.mask, zeros.bool()], 1),
    )
    assert (tokenizer.encode(padded) == tokenizer.encode(obs)).float().mean() > 0.99  # sums are rounded otherwise


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e38, -1e30]), st.integers(0, 100))
def test_what_a_bad_pixel_holds_does_not_reach_the_network(tokenizer, value, seed) -> None:
    bad = torch.from_numpy(np.random.default_rng(seed).random((3, 900)) < 0.3)
    plain, spoilt = observed(mask=bad), observed(mask=bad)
    spoilt.flux[bad] = value
    spoilt.ivar[bad] = value
    assert torch.equal(tokenizer.encode(spoilt), tokenizer.encode(plain))


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([float("nan"), float("inf"), 1e38, -1e30, 0.0]), st.sampled_from(["flux", "ivar", "wavelength"]))
def test_codes_are_in_range_whatever_is_in_a_pixel(tokenizer, value, field) -> None:
    obs = observed(seed=5)
    part = getattr(obs, field).clone()
    part[:2, ::3] = value
    tokens = tokenizer.encode(
        Spectrum(**{n: getattr(obs, n) for n in ("flux", "wavelength", "ivar", "mask")} | {field: part})
    )
    assert tokens.min() >= 0
    assert tokens.max() < 4375


def test_a_spectrum_outside_of_all_wavelengths_is_none(tokenizer) -> None:
    assert (tokenizer.encode(observed(wavelength=np.linspace(100, 900, 900))) == -1).all()
    assert (tokenizer.encode(observed(mask=np.ones((3, 900), bool))) == -1).all()


def test_codes_do_not_depend_on_the_company(tokenizer) -> None:
    obs = observed(size=5)
    whole = tokenizer.encode(obs)
    for i in range(5):
        assert torch.equal(tokenizer.encode(obs[i])[0], whole[i])
    assert tokenizer.encode(obs[:0]).shape == (0, 128)


def test_a_brighter_spectrum_of_the_same_shape_differs_in_its_level_only(tokenizer) -> None:
    obs = observed()
    brighter = Spectrum(obs.flux * 10, obs.wavelength, obs.ivar / 100, obs.mask)
    one, other = tokenizer.encode(obs), tokenizer.encode(brighter)
    np.testing.assert_allclose(other[:, 0] - one[:, 0], np.log(10) / tokenizer.fluxes.step, atol=1)
    assert (one[:, 1:] == other[:, 1:]).float().mean() > 0.9


def test_decoding_is_a_function_of_wavelength(tokenizer) -> None:
    tokens = tokenizer.encode(observed())
    whole = np.linspace(3700, 9700, 1000)
    found = tokenizer.decode(tokens, wavelength=whole).flux
    some = np.random.default_rng(0).permutation(1000)[:77]
    np.testing.assert_allclose(
        tokenizer.decode(tokens, wavelength=whole[some]).flux, found[:, some], rtol=1e-5, atol=1e-5
    )


def test_decoding_outside_of_the_range_has_no_flux_and_is_bad(tokenizer) -> None:
    decoded = tokenizer.decode(tokenizer.encode(observed()), wavelength=[3000.0, 5000.0, 12000.0])
    assert decoded.flux.isfinite().tolist() == [[False, True, False]] * 3
    assert decoded.mask[:, [0, 2]].all()


def test_the_loss_ignores_what_masked_pixels_hold(tokenizer) -> None:
    bad = torch.from_numpy(np.random.default_rng(3).random((3, 900)) < 0.3)
    spoilt = observed(mask=bad)
    spoilt.flux[bad] = 1e6
    one, other = tokenizer.loss(observed(mask=bad)), tokenizer.loss(spoilt)
    assert {k: float(v.detach()) for k, v in one.items()} == {k: float(v.detach()) for k, v in other.items()}


def test_the_loss_counts_certain_pixels_for_more(tokenizer) -> None:
    obs = observed(mask=None)
    sure, unsure = (
        float(tokenizer.loss(Spectrum(obs.flux, obs.wavelength, obs.ivar * f))["flux"].detach()) for f in (1, 1e-2)
    )
    assert sure > 5 * unsure


def test_a_spectrum_without_a_good_pixel_adds_nothing_to_the_loss(tokenizer) -> None:
    empty = observed("high resolution", mask=np.ones((3, 1000), bool))
    one, other = (deepcopy(tokenizer).train().loss(*batch) for batch in ((observed(),), (observed(), empty)))
    assert {k: float(v.detach()) for k, v in one.items()} == pytest.approx(
        {k: float(v.detach()) for k, v in other.items()}
    )
    assert all(float(v.detach()) == 0 for v in tokenizer.loss(empty).values())


def test_training_reduces_the_loss_of_optical_and_infrared_spectra_together(specs) -> None:
    tokenizer = UniversalSpectrumTokenizer.build(
        [specs["optical"]], **(UniversalSpectrumTokenizer.small | {"dim": 16})
    )[0]
    batch = observed(size=8, seed=1), observed("high resolution", size=8, seed=2)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        terms = tokenizer.loss(*batch)
        loss = terms["flux"] + terms["mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(terms["flux"].detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_both_modalities_share_a_network_and_are_saved_once(pair, specs, tmp_path) -> None:
    optical, infrared = pair
    assert optical.network is infrared.network
    assert optical.codec == infrared.codec == "universal"
    infrared.save_pretrained(tmp_path)
    back = read_tokenizer(specs["optical"], tmp_path)
    assert back.fingerprint == optical.fingerprint
    assert read_tokenizer(specs["infrared"], tmp_path, back).network is back.network


def test_the_fingerprint_does_not_see_the_decoder(specs) -> None:
    tokenizer = UniversalSpectrumTokenizer.build([specs["optical"]], **UniversalSpectrumTokenizer.small)[0]
    before = tokenizer.fingerprint
    with torch.no_grad():
        tokenizer.network.decoder.out.weight.mul_(2)
    assert tokenizer.fingerprint == before
    with torch.no_grad():
        tokenizer.network.encoder.place.add_(1)
    assert (changed := tokenizer.fingerprint) != before
    tokenizer.network.whitening.running_mean.add_(1)
    assert tokenizer.fingerprint != changed


def test_what_does_not_fit_is_refused_by_a_sentence(specs) -> None:
    with pytest.raises(InputError, match="multiple of heads"):
        UniversalSpectrumTokenizer(specs["optical"], dim=10, heads=4)
    with pytest.raises(AionError, match="78125 codes"):
        UniversalSpectrumTokenizer(specs["optical"], levels=(5,) * 7)
    with pytest.raises(AionError, match="no weights yet"):
        UniversalSpectrumTokenizer(specs["optical"]).encode(observed())
