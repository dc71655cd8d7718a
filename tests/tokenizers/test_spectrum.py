"""Spectra: what their codes depend on and what not, the release's defects, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy import units
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toy_spectra import GRID, SMALL, SPEC, make_spec, make_tokenizer, spectra

from aion_core.contract import AionError, InputError
from aion_core.observations import Spectrum
from aion_core.release import Artifact
from aion_core.tokenizers import TokenizerSet, build_tokenizer
from aion_core.tokenizers.base import read_tokenizer
from aion_core.tokenizers.resampling import Interpolation
from aion_core.tokenizers.spectrum import SpectrumTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def released() -> Any:
    """One that lets bad pixels through, as the release does."""
    return make_tokenizer(blank_masked=False)


def changed(obs: Spectrum, **fields: Any) -> Spectrum:
    found = {name: getattr(obs, name) for name in ("flux", "wavelength", "ivar", "mask")}
    return Spectrum(**{**found, **fields})


def bad_at(*pixels: int, count: int = 4) -> torch.Tensor:
    mask = torch.zeros(count, len(GRID), dtype=torch.bool)
    mask[:, list(pixels)] = True
    return mask


# --- the release's defects


def test_the_mask_blanks_pixels(tokenizer: Any, released: Any) -> None:
    mask = bad_at(*range(100, 130))
    obs = changed(spectra(4), mask=mask)
    ruined = changed(obs, flux=obs.flux + 1e4 * mask * torch.randn(obs.flux.shape))
    assert torch.equal(tokenizer.encode(obs), tokenizer.encode(ruined))
    assert not torch.equal(released.encode(obs), released.encode(ruined))


def test_a_spectrum_without_bad_pixels_has_the_releases_tokens_with_the_switch_or_without(
    tokenizer: Any, released: Any
) -> None:
    obs = spectra(8)
    assert torch.equal(tokenizer.encode(obs), released.encode(obs))
    assert tokenizer.fingerprint != released.fingerprint  # with bad pixels, they are not the same


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_a_bad_pixel_changes_no_token_that_is_away_from_it(value: float) -> None:
    fine = {"num_pixels": 4096, "resolution": 0.25}  # as long as real ones; a token spans 2 Å
    tokenizer = make_tokenizer(make_spec(tokens=513), **fine)
    obs = spectra(16, torch.linspace(4010, 5000, 4000))
    flux, ivar = obs.flux.clone(), obs.ivar.clone()
    flux[:, 2000], ivar[:, 2000] = value, 0.0
    before, after = tokenizer.encode(obs), tokenizer.encode(changed(obs, flux=flux, ivar=ivar))
    at = int((obs.wavelength[0, 2000] - 4000) // 2) + 1
    away = (torch.arange(513) - at).abs() > 8
    assert (before[:, away] == after[:, away]).double().mean() >= 0.99


def test_a_pixel_of_no_inverse_variance_is_bad(tokenizer: Any) -> None:
    obs, mask = spectra(4), bad_at(*range(40, 60))
    by_ivar = changed(obs, ivar=obs.ivar.masked_fill(mask, 0.0), flux=obs.flux.masked_fill(mask, -500.0))
    assert torch.equal(tokenizer.encode(by_ivar), tokenizer.encode(changed(obs, mask=mask)))


def test_outside_the_latent_grid_decoding_says_bad_and_gives_no_flux(tokenizer: Any) -> None:
    decoded = tokenizer.decode(tokenizer.encode(spectra(2)), wavelength=[3000.0, 3999.0, 4500.0, 5021.0, np.nan])
    assert decoded.mask[:, [0, 1, 3, 4]].all()
    assert decoded.flux.isnan().tolist() == [[True, True, False, True, True]] * 2


def test_outside_the_observed_range_decoding_says_bad(tokenizer: Any) -> None:
    decoded = tokenizer.decode(tokenizer.encode(spectra(2)))
    outside = (decoded.wavelength < 3900) | (decoded.wavelength > 4900)
    assert outside.any()
    assert decoded.mask[outside].all()
    assert decoded.flux[outside].isfinite().all()
    assert not decoded.mask[~outside].all()


def test_zero_padded_wavelengths_do_not_blank_the_input(tokenizer: Any) -> None:
    obs = spectra(6)
    pad = torch.zeros(6, 50)
    padded = Spectrum(
        torch.cat([obs.flux, pad], 1), torch.cat([obs.wavelength, pad], 1), torch.cat([obs.ivar, pad + 1], 1)
    )
    tokens = tokenizer.encode(padded)
    assert torch.equal(tokens, tokenizer.encode(obs))
    assert len(tokens[:, 1:].unique(dim=0)) == 6  # no embedding is shared


def test_spectra_that_cannot_be_told_apart_have_no_token_rather_than_a_common_one(tokenizer: Any) -> None:
    beyond = spectra(3, GRID * 10)
    assert (tokenizer.encode(beyond) == -1).all()


def test_a_shared_wavelength_grid_gives_the_same_tokens_as_one_for_each(tokenizer: Any) -> None:
    obs = spectra(5)
    each = changed(obs, wavelength=obs.wavelength.clone())
    assert obs.wavelength.stride(0) == 0 != each.wavelength.stride(0)
    other = torch.cat([each.wavelength[:4], each.wavelength[:1] + 3])  # not shared, so that rows are computed apart
    assert torch.equal(tokenizer.encode(obs), tokenizer.encode(each))
    assert torch.equal(tokenizer.encode(obs)[:4], tokenizer.encode(changed(obs, wavelength=other))[:4])


@pytest.mark.parametrize("expanded", [True, False])
def test_weights_of_a_shared_grid_are_computed_once(
    expanded: bool, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    between = Interpolation.between.__func__  # type: ignore[attr-defined]

    def counting(cls: Any, source: Any, target: Any) -> Any:
        found = between(cls, source, target)
        rows.append(len(found.left))
        return found

    monkeypatch.setattr(Interpolation, "between", classmethod(counting))
    obs = spectra(5)
    tokenizer.encode(obs if expanded else changed(obs, wavelength=obs.wavelength.clone()))
    tokenizer.decode(torch.zeros(5, 33, dtype=torch.int64), wavelength=GRID)
    assert rows == [1, 1]


def test_descending_wavelengths_give_the_tokens_of_ascending_ones(tokenizer: Any) -> None:
    obs = spectra(3)
    back = Spectrum(*(getattr(obs, name).flip(1) for name in ("flux", "wavelength", "ivar")))
    assert torch.equal(tokenizer.encode(back), tokenizer.encode(obs))
    tokens = tokenizer.encode(obs)
    assert torch.equal(
        tokenizer.decode(tokens, wavelength=GRID.flip(0)).flux, tokenizer.decode(tokens, wavelength=GRID).flux.flip(1)
    )


def test_pixels_whose_wavelength_is_nan_are_left_out(tokenizer: Any) -> None:
    obs = spectra(3)
    wavelength = obs.wavelength.clone()
    wavelength[:, 200:] = torch.nan
    without = Spectrum(obs.flux[:, :200], obs.wavelength[:, :200], obs.ivar[:, :200])
    assert torch.equal(tokenizer.encode(changed(obs, wavelength=wavelength)), tokenizer.encode(without))


@pytest.mark.parametrize(
    "nothing",
    [
        {"mask": torch.ones(4, 300, dtype=torch.bool)},
        {"ivar": torch.zeros(4, 300)},
        {"flux": torch.full((4, 300), torch.nan)},
        {"wavelength": torch.zeros(4, 300)},
    ],
)
@pytest.mark.parametrize("blank", [True, False])
def test_a_spectrum_with_nothing_valid_has_no_token_and_decodes_to_nan(
    nothing: Any, blank: bool, tokenizer: Any, released: Any
) -> None:
    used = tokenizer if blank else released
    tokens = used.encode(changed(spectra(4), **nothing))
    assert (tokens == -1).all()
    decoded = used.decode(tokens, wavelength=GRID)
    assert decoded.flux.isnan().all()
    assert decoded.mask.all()


# --- what codes depend on


def floats(shape: tuple[int, ...]) -> Any:
    usual = st.floats(-50, 50, width=32)
    return hnp.arrays(np.float32, shape, elements=st.one_of(usual, st.floats(width=32)), fill=usual)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(0, 4), length=st.integers(0, 40), blank=st.booleans())
def test_every_spectrum_has_codes_of_the_vocabulary_whatever_else_is_in_the_batch(
    data: Any, count: int, length: int, blank: bool, tokenizer: Any, released: Any
) -> None:
    used = tokenizer if blank else released
    kind, size = data.draw(st.sampled_from([np.float32, np.float64, np.int32])), (count, length)
    wavelength = data.draw(hnp.arrays(kind, size, elements=st.integers(3900, 5200)) | floats(size))
    flux, ivar = data.draw(floats((count, length))), data.draw(st.none() | floats((count, length)))
    mask = data.draw(st.none() | hnp.arrays(bool, (count, length)))
    kept = [None if a is None else a.copy() for a in (flux, wavelength, ivar, mask)]
    tokens = used.encode(obs := Spectrum(flux, wavelength, ivar, mask))
    for before, after in zip(kept, (flux, wavelength, ivar, mask), strict=True):
        np.testing.assert_array_equal(before, after)
    assert tokens.shape == (count, 33)
    assert tokens.dtype == torch.int64
    assert (((tokens >= 0) & (tokens < 1024)).all(1) | (tokens == -1).all(1)).all()
    for i in range(count):
        assert torch.equal(used.encode(obs[i])[0], tokens[i])


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(300)), kind=st.sampled_from([np.float32, np.float64, ">f4", ">f8"]))
def test_wavelengths_may_have_any_order_and_type(order: list[int], kind: Any, tokenizer: Any) -> None:
    obs = spectra(2)
    flux, wavelength, ivar = (getattr(obs, name).numpy()[:, order] for name in ("flux", "wavelength", "ivar"))
    mixed = Spectrum(flux.astype(kind), wavelength.astype(kind), ivar)
    assert torch.equal(tokenizer.encode(mixed), tokenizer.encode(obs))


def test_codes_do_not_depend_on_the_size_of_the_batch(tokenizer: Any) -> None:
    obs = spectra(70)  # more than are encoded at a time
    tokens = tokenizer.encode(obs)
    assert torch.equal(torch.cat([tokenizer.encode(obs[i]) for i in range(70)]), tokens)
    assert len(tokens[:, 1:].unique()) >= 100


def test_a_network_on_a_cpu_is_given_one_spectrum_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that products of wide layers, whose rounding depends on their size, cannot depend on the batch."""
    tokenizer, sizes = make_tokenizer(), []
    encode = tokenizer.network.encode
    monkeypatch.setattr(tokenizer.network, "encode", lambda x, *rest: sizes.append(len(x)) or encode(x, *rest))
    tokenizer.encode(spectra(5))
    assert sizes == [1] * 5


def test_fast_codes_are_the_exact_ones_but_for_few_at_the_border() -> None:
    obs, tokenizer = spectra(64), make_tokenizer()
    exact = tokenizer.encode(obs)
    fast = tokenizer.fast().encode(obs)
    assert tokenizer.precision == "bfloat16"
    assert (exact == fast).double().mean() > 0.9
    assert torch.equal(exact[:, 0], fast[:, 0])


def test_bfloat16_weights_compute_nearly_the_same_where_the_cpu_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aion_core.tokenizers.spectrum.fast_type", lambda device: torch.bfloat16)
    obs, tokenizer = spectra(64), make_tokenizer()
    exact, fast = tokenizer.encode(obs), tokenizer.fast().encode(obs)
    assert not torch.equal(exact, fast)
    assert (exact == fast).double().mean() > 0.8


def test_both_orders_of_arithmetic_agree_and_training_is_the_fast_one(tokenizer: Any) -> None:
    x = tokenizer._prepare(spectra(3)).x
    with torch.no_grad():
        exact, fast = tokenizer.network.encode(x, exact=True), tokenizer.network.encode(x)
        z = tokenizer.quantizer.decode(torch.randint(1024, (3, 32)))
        there, back = tokenizer.network.decode(z, exact=True), tokenizer.network.decode(z)
    torch.testing.assert_close(exact, fast, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokenizer.network.encode(x), fast, rtol=1e-4, atol=1e-4)
    assert (there - back).abs().median() < 1e-5


def test_a_spectrum_without_errors_counts_as_of_unit_variance(tokenizer: Any) -> None:
    obs = spectra(3, ivar=None)
    assert torch.equal(tokenizer.encode(obs), tokenizer.encode(changed(obs, ivar=torch.ones(3, 300))))


def test_quantities_are_converted(tokenizer: Any) -> None:
    obs = spectra(2)
    unit = units.Unit("erg / (s cm2 Angstrom)")
    given_ = Spectrum(
        obs.flux.double().numpy() * 1e-17 * unit,
        (obs.wavelength.double().numpy() / 10) * units.nm,
        obs.ivar.double().numpy() * 1e34 / unit**2,
    )
    tokens = tokenizer.encode(given_)
    assert (tokens == tokenizer.encode(obs)).double().mean() > 0.95  # wavelengths are rounded once more
    decoded = tokenizer.decode(tokens, wavelength=np.array([450.0, 460.0]) * units.nm)
    assert decoded.wavelength[0].tolist() == [4500.0, 4600.0]
    assert decoded.flux.isfinite().all()


# --- artifacts


def test_two_modalities_share_one_network_and_one_folder(tmp_path: Path) -> None:
    specs = [make_spec("spectrum"), make_spec("other_spectrum", 4000.0, 5000.0)]
    first, second = SpectrumTokenizer.build(specs, seed=3)
    assert first.network is second.network
    TokenizerSet([first, second]).save(tmp_path / "set")
    one = read_tokenizer(specs[0], tmp_path / "set")
    two = read_tokenizer(specs[1], tmp_path / "set", one)
    assert two.network is one.network  # type: ignore[attr-defined]
    assert one.fingerprint == two.fingerprint == first.fingerprint
    obs = spectra(2)
    assert torch.equal(two.encode(obs), second.encode(obs))


def test_the_switch_is_saved(released: Any, tmp_path: Path) -> None:
    released.save_pretrained(tmp_path)
    again: Any = read_tokenizer(SPEC, tmp_path)
    assert not again.blank_masked
    assert again.fingerprint == released.fingerprint


def test_initial_weights_are_a_function_of_seed_and_name_only() -> None:
    torch.manual_seed(1)
    a = SpectrumTokenizer.build([SPEC], seed=5)[0]
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    deeper = SpectrumTokenizer.build([SPEC], seed=5, encoder_depths=[1, 2])[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    theirs = dict(deeper.network.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in a.network.named_parameters())
    assert len(theirs) > len(list(a.network.parameters()))
    other = SpectrumTokenizer.build([SPEC], seed=6)[0]
    assert not torch.equal(other.network.quant_conv.weight, a.network.quant_conv.weight)
    assert 0.018 < float(a.network.encoder.stages[1][0].pwconv1.weight.detach().std()) < 0.022  # type: ignore[index]


def test_the_fingerprint_is_of_what_encoding_reads(tokenizer: Any) -> None:
    artifact = tokenizer.artifact()

    def after(name: str) -> str:
        tensors = {k: v + 0.01 if k == name else v for k, v in artifact.tensors.items()}
        return SpectrumTokenizer.from_artifact(SPEC, Artifact(artifact.config, tensors)).fingerprint

    assert after("decoder.stages.0.0.norm.weight") == after("post_quant_conv.bias") == tokenizer.fingerprint
    for name in ("encoder.norm.bias", "quant_conv.bias", "normalization_quantizer.buckets", "latent_grid._wavelength"):
        assert after(name) != tokenizer.fingerprint
    config = {**artifact.config, "clip_ivar": 50}
    assert (
        SpectrumTokenizer.from_artifact(SPEC, Artifact(config, artifact.tensors)).fingerprint != tokenizer.fingerprint
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"encoder_dims": [8, 24], "latent_channels": 24}, "encoder.* is torch.float32 .*expected floats"),
        ({"encoder_depths": [1, 2]}, "have no tensor encoder.stages.1.1"),
        ({"decoder_depths": [0, 1]}, "hold decoder.stages.0.0.* which their configuration does not have"),
        ({"codebook_size": 512}, "512 codes need dim"),
        ({"encoder_depths": [1, 1, 1]}, "every stage has a depth and a dim"),
        ({"input_scaling": "high"}, "input_scaling: .*number"),
        ({"normalization_range": [5, -1]}, "is empty"),
    ],
)
def test_a_config_that_does_not_match_its_weights_is_refused(
    config: dict[str, Any], expected: str, tokenizer: Any
) -> None:
    artifact = tokenizer.artifact()
    with pytest.raises(InputError, match=f"toy_spectrum .*{expected}"):
        SpectrumTokenizer.from_artifact(SPEC, Artifact({**artifact.config, **config}, artifact.tensors))


@pytest.mark.parametrize("name", ["normalization_quantizer.buckets", "latent_grid._wavelength"])
def test_a_grid_that_does_not_ascend_is_refused(name: str, tokenizer: Any) -> None:
    artifact = tokenizer.artifact()
    for damage in (torch.zeros_like, lambda t: t * torch.nan):
        tensors = {k: damage(v) if k == name else v for k, v in artifact.tensors.items()}
        with pytest.raises(InputError, match=r"damaged: .* do not ascend"):
            SpectrumTokenizer.from_artifact(SPEC, Artifact(artifact.config, tensors))


def test_a_truncated_file_and_a_pickle_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "codecs" / "spectrum" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_tokenizer(SPEC, tmp_path)
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(InputError, match="may be a pickle"):
        read_tokenizer(SPEC, tmp_path)
    config = path.with_name("config.json")
    config.write_text(json.dumps([1]))
    with pytest.raises(InputError, match="not a JSON object"):
        read_tokenizer(SPEC, tmp_path)


def test_a_modality_that_the_network_does_not_fit_is_refused() -> None:
    with pytest.raises(AionError, match="has 30 tokens: 256 pixels in steps of 8"):
        SpectrumTokenizer(make_spec(tokens=30), **SMALL)
    with pytest.raises(AionError, match="exceed the vocabulary 512"):
        SpectrumTokenizer(SPEC.model_copy(update={"vocab_size": 512}), **SMALL)
    with pytest.raises(AionError, match="toy_spectrum does not fit: colour"):
        SpectrumTokenizer(SPEC, colour="red")


def test_a_tokenizer_without_weights_says_what_to_do() -> None:
    bare: Any = build_tokenizer(SPEC)
    for use in (lambda: bare.encode(spectra(1)), bare.artifact, lambda: bare.fingerprint):
        with pytest.raises(AionError, match="toy_spectrum has no weights yet"):
            use()


@pytest.mark.parametrize("wavelength", [4500.0, [[4500.0]], np.ones((3, 4))])
def test_wavelengths_of_another_shape_are_refused(wavelength: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="wavelength has shape"):
        tokenizer.decode(torch.zeros(2, 33, dtype=torch.int64), wavelength=wavelength)


def test_an_empty_batch_is_encoded_and_decoded(tokenizer: Any) -> None:
    tokens = tokenizer.encode(spectra(4)[:0])
    assert tokens.shape == (0, 33)
    assert tokenizer.decode(tokens, wavelength=GRID).flux.shape == (0, 300)
