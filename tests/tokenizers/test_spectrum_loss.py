"""What training a tokenizer of spectra minimises: which pixels count, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_spectra import GRID, SPEC, make_spec, make_tokenizer, spectra

from aion_core.observations import Spectrum
from aion_core.tokenizers.spectrum import SpectrumTokenizer

TERMS = ["flux", "mask", "commitment", "entropy", "diversity"]


def total(terms: dict[str, Any]) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


def masked(obs: Spectrum, rows: Any, pixels: Any) -> torch.Tensor:
    mask = torch.zeros(obs.flux.shape, dtype=torch.bool)
    mask[rows, pixels] = True
    return mask


def test_flux_is_half_the_mean_squared_residual_in_units_of_the_error() -> None:
    tokenizer, obs = make_tokenizer(), spectra(3)
    _, values, decoded = tokenizer.reconstruct(obs)
    expected = 0.5 * (obs.ivar * (values - decoded)[:, 0].square()).mean()
    assert float(tokenizer.loss(obs)["flux"]) == pytest.approx(float(expected), rel=1e-3)


def test_the_inverse_variance_in_the_loss_is_clipped_as_in_the_input() -> None:
    tokenizer, obs = make_tokenizer(), spectra(3)
    losses = [tokenizer.loss(Spectrum(obs.flux, GRID, torch.full((3, 300), v)))["flux"] for v in (100.0, 1e6)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)


@pytest.mark.parametrize("how", ["mask", "nan", "ivar"])
def test_a_bad_pixel_reaches_neither_the_network_nor_the_loss(how: str) -> None:
    tokenizer, obs = make_tokenizer(), spectra(3)
    mask = masked(obs, slice(None), slice(120, 140))
    flux, ivar = obs.flux.masked_fill(mask, float("nan") if how == "nan" else 1e6), obs.ivar
    ivar = ivar.masked_fill(mask, 0.0) if how == "ivar" else ivar
    bad = Spectrum(flux, GRID, ivar, mask if how == "mask" else None)
    plain = Spectrum(obs.flux, GRID, obs.ivar, mask)
    for name in TERMS:
        assert float(tokenizer.loss(bad)[name]) == pytest.approx(float(tokenizer.loss(plain)[name]), rel=1e-6)


def test_a_spectrum_without_a_good_pixel_counts_for_nothing() -> None:
    tokenizer, obs = make_tokenizer(), spectra(3)
    with_dead = Spectrum(obs.flux, GRID, obs.ivar, masked(obs, 1, slice(None)))
    found, expected = tokenizer.loss(with_dead), tokenizer.loss(obs[[0, 2]])
    for name in TERMS:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-4)


def test_nothing_to_learn_from_is_a_loss_of_zero_that_touches_every_parameter() -> None:
    tokenizer = make_tokenizer()
    for obs in (spectra(2)[:0], Spectrum(torch.zeros(2, 300), GRID, torch.zeros(2, 300))):
        terms = tokenizer.loss(obs)
        assert sorted(terms) == sorted(TERMS)
        total(terms).backward()
        assert all(p.grad is not None and not p.grad.any() for p in tokenizer.network.parameters())


def test_what_was_not_observed_or_is_bad_is_to_be_called_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, obs = make_tokenizer(), spectra(2, torch.linspace(4200, 4600, 201))
    obs = Spectrum(obs.flux, obs.wavelength, obs.ivar, masked(obs, slice(None), slice(100, 120)))  # 4400 … 4440 Å
    grid = tokenizer.grid[0]
    bad = (grid < 4199) | (grid > 4601) | ((grid > 4399) & (grid < 4439))
    logits = torch.where(bad, 20.0, -20.0)

    def loss(logits: torch.Tensor) -> float:
        monkeypatch.setattr(
            tokenizer.network, "decode", lambda z: torch.stack([logits * 0, logits], -1).expand(2, -1, -1)
        )
        return float(tokenizer.loss(obs)["mask"])

    assert loss(logits) < 0.1
    assert loss(-logits) > 10
    for step in (1, -1):
        assert loss(logits.roll(step * 5)) > loss(logits) + 0.1


def test_logits_say_how_sure_the_mask_is() -> None:
    tokenizer = make_tokenizer()
    tokens = tokenizer.encode(spectra(2))
    wavelength, flux, logits = tokenizer.decode_logits(tokens)
    decoded = tokenizer.decode(tokens)
    inside = (wavelength > 3900) & (wavelength < 4900)
    assert torch.equal(decoded.mask[inside], logits[inside] > 0)
    assert torch.equal(decoded.flux, flux)


def test_observations_of_several_surveys_are_one_batch() -> None:
    tokenizer = make_tokenizer()
    a, b = spectra(3), spectra(2, torch.linspace(4100, 4900, 170), seed=4)
    both, one, other = tokenizer.loss(a, b), tokenizer.loss(a), tokenizer.loss(b)
    for name in ("flux", "mask", "commitment", "entropy"):
        assert float(both[name]) == pytest.approx((3 * float(one[name]) + 2 * float(other[name])) / 5, rel=1e-3)


def test_training_lowers_every_term_that_is_to_fall() -> None:
    (tokenizer, _) = SpectrumTokenizer.build([SPEC, make_spec("other_spectrum")], seed=0)
    obs = spectra(16)
    optimizer = torch.optim.AdamW(tokenizer.trainable_parameters().values(), lr=3e-3)
    first = {k: float(v) for k, v in tokenizer.loss(obs).items()}
    for _ in range(80):
        optimizer.zero_grad()
        loss = total(terms := tokenizer.loss(obs))
        loss.backward()
        optimizer.step()
    assert all(p.grad.isfinite().all() for p in tokenizer.network.parameters())
    assert float(terms["flux"]) < 0.7 * first["flux"]
    assert float(loss) < sum(first.values())


def test_training_in_bfloat16_gives_float32_terms_near_those_of_float32() -> None:
    tokenizer, obs = make_tokenizer(), spectra(8)
    exact = tokenizer.loss(obs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tokenizer.loss(obs)
    total(found).backward()
    for name in TERMS:
        assert found[name].dtype == torch.float32
        assert float(found[name]) == pytest.approx(float(exact[name]), rel=0.3, abs=0.02)


def test_a_decoder_without_a_mask_has_no_term_for_it() -> None:
    tokenizer = make_tokenizer(decoder_dims=[12, 1])
    assert "mask" not in tokenizer.loss(spectra(2))
    assert not tokenizer.decode(tokenizer.encode(spectra(2)), wavelength=[4500.0]).mask.any()
