"""How well observations survive their tokens: checked against what NumPy says of the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import Band, ModalitySpec, Provenance, TokenizerSpec
from aion_core.observations import Image, Scalar, ScalarField, Spectrum
from aion_core.tokenizers.quality import compare
from aion_core.tokenizers.training.page import Gallery

BANDS = tuple(Band(name=n, limit=10.0, zero_point=22.5, pixel_scale=0.2) for n in ("A", "B"))


class Echo:
    """Stands for any tokenizer: only its spec and `accept` are asked for."""

    def __init__(self, kind: str, shape: tuple[int, ...] = (2,)) -> None:
        grid = {"kind": kind, "vocab_size": 10, "shape": shape, "position": "grid2d" if shape != (1,) else "scalar"}
        self.spec = ModalitySpec(
            key="demo_x", survey="Demo", title="x", citation="none", quantity="phot.flux", units="",
            provenance=Provenance(id=1, instrument="none", release="none"),
            tokenizer=TokenizerSpec(path="nowhere:Nothing", bands=BANDS if kind == "image" else ()), **grid,
        )  # fmt: skip

    def accept(self, obs: Any) -> Any:
        return obs


def tokens(count: int) -> torch.Tensor:
    return torch.arange(2 * count).reshape(count, 2) % 4


def spectra(seed: int = 0, count: int = 6) -> tuple[Spectrum, torch.Tensor]:
    rng = np.random.default_rng(seed)
    wavelength = np.linspace(4000, 8000, 200)
    flux = rng.normal(5, 2, (count, 1)) + np.sin(wavelength / 300) + 0.1 * rng.normal(size=(count, 200))
    flux[0, :7] = np.nan
    ivar = np.full(flux.shape, 4.0)
    ivar[1, 5] = 0.0
    obs = Spectrum(flux, wavelength, ivar=ivar)
    return obs, obs.flux + 0.3 * torch.from_numpy(rng.normal(size=flux.shape)).float()


class TestSpectra:
    def test_figures_are_those_of_the_residuals(self) -> None:
        obs, decoded = spectra()
        found = compare(Echo("spectrum", (2, 1)), obs, tokens(6), obs.flux[:, None], decoded[:, None])
        x, y = obs.flux.double().numpy(), decoded.double().numpy()
        good = np.isfinite(x)
        residual, mean = (x - y)[good], x[good].mean()
        assert found.measure.r2 == pytest.approx(1 - (residual**2).sum() / ((x[good] - mean) ** 2).sum())
        known = good & (obs.ivar.numpy() > 0)
        assert found.chi2 == pytest.approx(((x - y)[known] ** 2 * 4.0).mean(), rel=1e-6)
        figures = found.to_dict()
        assert figures["dead_codes"] == 6
        assert figures["codes_used"] == 4

    def test_baselines_are_the_mean_spectrum_and_each_spectrums_mean(self) -> None:
        obs, decoded = spectra(count=40)
        found = compare(Echo("spectrum", (2, 1)), obs, tokens(40), obs.flux, decoded)
        x = obs.flux.double().numpy()
        good = np.isfinite(x)
        square = ((x[good] - x[good].mean()) ** 2).sum()
        own = np.nansum((x - np.nanmean(x, axis=1, keepdims=True)) ** 2)
        assert found.r2_own == pytest.approx(1 - own / square)
        around = np.nansum((x - np.nanmean(x, axis=0)) ** 2)
        # wavelengths are binned by 0.1 %, and those here are 20 Å apart: each is a bin of its own
        assert found.r2_mean == pytest.approx(1 - around / square)
        assert found.baseline == max(found.r2_mean, found.r2_own)

    def test_wavelengths_are_reported_in_bins(self) -> None:
        obs, decoded = spectra()
        decoded[:, 100:] = obs.flux[:, 100:]
        parts = compare(Echo("spectrum", (2, 1)), obs, tokens(6), obs.flux, decoded).by_part()
        assert len(parts) == pytest.approx(np.log(2) / 0.05, abs=1.5)
        bins = list(parts.items())
        assert bins[0][0] == "3828–4024 Å"
        assert bins[0][1]["chi2"] == pytest.approx(4 * 0.3**2, rel=0.5)
        assert bins[-1][1] == {"r2": 1.0, "rmse": 0.0, "chi2": 0.0}

    def test_spectra_of_another_length_can_be_added(self) -> None:
        obs, decoded = spectra()
        echo = Echo("spectrum", (2, 1))
        whole = compare(echo, obs, tokens(6), obs.flux, decoded)
        cut = Spectrum(obs.flux[:2, :50], obs.wavelength[:2, :50], ivar=obs.ivar[:2, :50])
        both = whole + compare(echo, cut, tokens(2), cut.flux, cut.flux)
        assert both.measure.objects == 8
        assert both.measure.rmse < whole.measure.rmse

    @given(st.integers(1, 5), st.integers(0, 50))
    @settings(max_examples=20, deadline=None)
    def test_the_sum_of_parts_is_the_whole(self, at: int, seed: int) -> None:
        obs, decoded = spectra(seed)
        echo = Echo("spectrum", (2, 1))
        whole = compare(echo, obs, tokens(6), obs.flux, decoded)
        ids = tokens(6)
        parts = [compare(echo, obs[s], ids[s], obs.flux[s], decoded[s]) for s in (slice(0, at), slice(at, 6))]
        added, expected = (parts[0] + parts[1]).to_dict(), whole.to_dict()
        for name in ("r2", "rmse", "chi2", "baseline", "perplexity"):
            assert added[name] == pytest.approx(expected[name], rel=1e-9)
        for name, figures in expected["parts"].items():
            assert added["parts"][name] == pytest.approx(figures)


class TestImages:
    def test_bands_are_told_apart_and_the_noise_is_that_of_the_crop(self) -> None:
        rng = np.random.default_rng(0)
        flux = torch.from_numpy(rng.normal(size=(3, 2, 12, 12))).float()
        ivar = torch.full(flux.shape, 1e6)
        ivar[:, 0, 2:10, 2:10], ivar[:, 1, 2:10, 2:10] = 1.0, 100.0
        obs = Image(flux, ("A", "B"), ivar=ivar)
        values = flux[..., 2:10, 2:10]
        decoded = values + 0.5
        found = compare(Echo("image", (2, 2)), obs, tokens(3), values, decoded)
        parts = found.by_part()
        assert list(parts) == ["A", "B"]
        assert parts["A"]["chi2"] == pytest.approx(0.25)
        assert parts["B"]["chi2"] == pytest.approx(25.0)
        assert parts["A"]["rmse"] == pytest.approx(0.5)

    def test_at_another_zero_point_the_noise_is_brought_along(self) -> None:
        flux = torch.ones(2, 2, 4, 4)
        obs = Image(flux * 10, ("A", "B"), ivar=torch.full(flux.shape, 0.01), zero_point=25.0)
        found = compare(Echo("image", (2, 2)), obs, tokens(2), flux, flux + 0.5)  # values: at the bands' own 22.5
        assert found.chi2 == pytest.approx(0.25)

    def test_the_band_mean_is_the_baseline(self) -> None:
        flux = torch.zeros(4, 2, 4, 4)
        flux[:, 1] = 10.0
        flux += torch.arange(4.0)[:, None, None, None]
        found = compare(Echo("image", (2, 2)), Image(flux, ("A", "B")), tokens(4), flux, flux)
        assert found.r2_own == pytest.approx(1.0)
        assert found.r2_mean == pytest.approx(1 - 1.25 / (25 + 1.25))
        assert found.chi2 is None


def test_numbers_and_maps_have_no_noise() -> None:
    value = torch.arange(6.0)
    found = compare(Echo("scalar", (1,)), Scalar(value), torch.arange(6)[:, None], value, value)
    assert "chi2" not in found.to_dict()
    assert found.measure.r2 == 1.0
    field = torch.rand(3, 4, 4)
    found = compare(Echo("scalar_field", (2, 2)), ScalarField(field), tokens(3), field, field)
    assert found.chi2 is None
    assert list(found.by_part()) == [""]


def test_numbers_are_judged_as_they_are_and_as_they_are_quantized() -> None:
    """The brightest of all decides on the error of fluxes as they are, and weighs no more than another after a log."""
    tokenizer: Any = Echo("scalar", (1,))
    value = torch.tensor([1.0, 10.0, 100.0, 1e6, -5.0])
    decoded = torch.tensor([1.0, 10.0, 100.0, 2e5, 0.01])
    codes = torch.arange(5)[:, None]
    plain = compare(tokenizer, Scalar(value), codes, value, decoded).to_dict()
    assert plain["r2_scaled"] == plain["r2"]
    tokenizer.transform, tokenizer.lowest = torch.log, 0.01
    halves = [
        compare(tokenizer, Scalar(value[part]), codes[part], value[part], decoded[part])
        for part in (slice(0, 2), slice(2, 5))
    ]
    found = (halves[0] + halves[1]).to_dict()
    assert found["r2"] == pytest.approx(plain["r2"])
    assert plain["r2"] < 0.4
    logs = np.log(value.clamp(min=0.01).double().numpy())
    assert found["r2_scaled"] == pytest.approx(1 - np.log(5) ** 2 / ((logs - logs.mean()) ** 2).sum(), rel=1e-5)


def test_nothing_finite_gives_no_figures() -> None:
    flux = torch.full((2, 20), torch.nan)
    obs = Spectrum(flux, np.linspace(4000, 5000, 20))
    found = compare(Echo("spectrum", (2, 1)), obs, torch.full((2, 2), -1), flux, flux).to_dict()
    assert (found["objects"], found["r2"], found["rmse"]) == (0, None, None)


@pytest.mark.parametrize("kind", ["spectrum", "image", "scalar_field"])
def test_a_page_shows_as_many_objects_as_asked_for(kind, tmp_path) -> None:
    if kind == "spectrum":
        obs, decoded = spectra()
        values = obs.flux
    else:
        values = torch.rand(6, 2, 8, 8) if kind == "image" else torch.rand(6, 8, 8)
        obs = Image(values, ("A", "B")) if kind == "image" else ScalarField(values)
        decoded = values * 0.9
        values[0] = torch.nan
    gallery = Gallery(4)
    for part in (slice(0, 3), slice(3, 6)):
        gallery.add(Echo(kind, (2, 2)), obs[part], values[part], decoded[part])
    assert len(gallery.examples) == 4
    gallery.draw(tmp_path / "page.png", "title")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    Gallery(4).draw(tmp_path / "empty.png", "title")
    assert not (tmp_path / "empty.png").exists()
