"""Images: what users of the release met (REFERENCE section 5), each a test; then what holds for any input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from toy_images import HSC, LEGACY, noise, spec_of, tokenizers

from aion_core.contract import AionError, InputError
from aion_core.observations import Image
from aion_core.tokenizers import pixels
from aion_core.tokenizers.image import ImageTokenizer

PAIR = tokenizers()
HSC_TOKENIZER, LEGACY_TOKENIZER = PAIR


@pytest.fixture(scope="module")
def large() -> ImageTokenizer:
    """One of 24 × 24 tokens, as the release has."""
    return tokenizers(side=24)[0]


# --- defects of the release


def test_defect_hsc_decode_raises() -> None:
    tokens = HSC_TOKENIZER.encode(Image(noise(HSC, 3), HSC))
    decoded = HSC_TOKENIZER.decode(tokens)
    assert decoded.flux.shape == (3, 5, 24, 24)
    assert decoded.bands == HSC
    # The inverse is valid: in counts of zero point 27, 10^(4.5 / 2.5) of which are a nanomaggy.
    network = HSC_TOKENIZER.network
    with torch.no_grad():
        y = network.readout(network.quantizer.decode(tokens), range(5))
    torch.testing.assert_close(decoded.flux, torch.sinh(y / 0.1) * 0.01 * 10 ** (4.5 / 2.5))


@given(arrays(np.float32, (1, 2, 4, 4), elements=st.floats(-500, 500, width=32)))
def test_expanding_undoes_compressing(values: Any) -> None:
    flux = torch.from_numpy(values)
    again = pixels.expand(pixels.compress(flux, 0.01, 10.0), 0.01, 10.0)
    torch.testing.assert_close(again, flux, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("tokenizer", "bands"), [(HSC_TOKENIZER, HSC), (LEGACY_TOKENIZER, LEGACY)])
def test_defect_decode_without_bands_raises(tokenizer: ImageTokenizer, bands: tuple[str, ...]) -> None:
    decoded = tokenizer.decode(torch.zeros(2, 6, 6, dtype=torch.int64))
    assert decoded.bands == bands
    assert torch.equal(decoded.flux, tokenizer.decode(torch.zeros(2, 6, 6, dtype=torch.int64), bands=bands).flux)


def test_defect_encoding_writes_to_the_callers_tensor() -> None:
    flux, ivar, mask = 50 * noise(HSC, 4), torch.rand(4, 5, 24, 24), torch.rand(4, 5, 24, 24) < 0.1
    flux[0, 0, 3, 3] = torch.nan
    kept = [t.clone() for t in (flux, ivar, mask)]
    obs = Image(flux, HSC, ivar, mask)
    first, again = HSC_TOKENIZER.encode(obs), HSC_TOKENIZER.encode(obs)
    assert torch.equal(first, again)
    for now, before in zip((flux, ivar, mask), kept, strict=True):
        torch.testing.assert_close(now, before, rtol=0, atol=0, equal_nan=True)
    HSC_TOKENIZER.loss(obs)
    torch.testing.assert_close(flux, kept[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(23, 24), (24, 23), (4, 4), (16, 40)])
def test_defect_small_images_give_fewer_tokens(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"24 × 24 pixels, but the images have .* pad these"):
        HSC_TOKENIZER.encode(Image(torch.zeros(1, 5, *shape), HSC))


def test_a_small_image_padded_with_masked_pixels_gives_all_tokens() -> None:
    flux, mask = torch.zeros(1, 5, 24, 24), torch.ones(1, 24, 24, dtype=torch.bool)
    flux[..., 5:19, 5:19], mask[:, 5:19, 5:19] = noise(HSC, 1, 14), False
    tokens = HSC_TOKENIZER.encode(Image(flux, HSC, mask=mask))
    assert tokens.shape == (1, 6, 6)
    assert (tokens >= 0).all()


def test_defect_surplus_channels_are_dropped() -> None:
    with pytest.raises(InputError, match=r"has 6 bands, but Image\.bands names 5"):
        HSC_TOKENIZER.encode(Image(torch.zeros(1, 6, 24, 24), HSC))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e9])
def test_defect_one_bad_pixel_spoils_all_tokens(large: ImageTokenizer, value: float) -> None:
    flux = noise(HSC, 16, 96, seed=4)
    clean = large.encode(Image(flux, HSC))
    assert len(clean.unique()) >= 100
    spoilt, mask = flux.clone(), torch.zeros(flux.shape, dtype=torch.bool)
    spoilt[:, 2, 10, 83], mask[:, 2, 10, 83] = value, True
    tokens = large.encode(Image(spoilt, HSC, mask=mask if value == 1e9 else None))
    row, column = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    away = ((row - 2).abs() > 6) | ((column - 20).abs() > 6)
    assert (tokens == clean)[:, away].double().mean() >= 0.99
    assert ((tokens >= 0) & (tokens < 4375)).all()


def test_a_masked_pixel_does_not_reach_the_network() -> None:
    flux, mask = noise(HSC, 3), torch.zeros(3, 24, 24, dtype=torch.bool)
    mask[:, 8:12, 8:12] = True
    tokens = HSC_TOKENIZER.encode(Image(flux, HSC, mask=mask))
    for value in (1e6, float("nan"), -3.0):
        other = flux.clone()
        other[:, :, 8:12, 8:12] = value
        assert torch.equal(HSC_TOKENIZER.encode(Image(other, HSC, mask=mask)), tokens)
    assert not torch.equal(HSC_TOKENIZER.encode(Image(flux + 100.0 * mask[:, None], HSC)), tokens)


@pytest.mark.parametrize("none", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_without_inverse_variance_does_not_reach_the_network(none: float) -> None:
    flux, ivar = noise(HSC, 3), torch.ones(3, 5, 24, 24)
    ivar[:, 1, 8:12, 8:12] = none
    mask = torch.zeros(3, 5, 24, 24, dtype=torch.bool)
    mask[:, 1, 8:12, 8:12] = True
    assert torch.equal(HSC_TOKENIZER.encode(Image(flux, HSC, ivar)), HSC_TOKENIZER.encode(Image(flux, HSC, mask=mask)))


def test_a_bad_pixel_is_filled_from_those_around_it() -> None:
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    plane = (2 * y - x)[None, None]
    bad = torch.zeros(1, 1, 24, 24, dtype=torch.bool)
    bad[..., 7, 9], bad[..., 15:18, 4:7] = True, True
    filled = pixels.fill(plane.masked_fill(bad, torch.nan), bad)
    torch.testing.assert_close(filled, plane, atol=2.1, rtol=0)  # what the mean of one side of a hole is off by
    assert torch.equal(filled[~bad], plane[~bad])
    assert torch.equal(pixels.fill(plane, torch.ones_like(bad)), torch.zeros_like(plane))


@given(st.sampled_from(pixels.WINDOWS), st.integers(28, 40), st.integers(28, 40), st.integers(0, 2**32))
def test_a_bad_pixel_becomes_the_mean_of_the_good_ones_in_the_window(width: int, height: int, long: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    plane = torch.randn(1, 2, height, long, generator=generator)
    bad = torch.ones(plane.shape, dtype=torch.bool)
    bad[:, :, 14, 14 + width // 2] = False  # the only good pixels: within this window of (14, 14), no smaller one
    bad[:, :, 14 - width // 2, 14] = False
    expected = plane[~bad].view(1, 2, 2).mean(-1)
    torch.testing.assert_close(pixels.fill(plane.masked_fill(bad, torch.nan), bad)[:, :, 14, 14], expected)


def test_defect_legacy_image_with_hsc_bands_is_accepted() -> None:
    with pytest.raises(InputError, match="HSC-G is not a band of legacy_image, which has DES-G, DES-R, DES-I, DES-Z"):
        LEGACY_TOKENIZER.encode(Image(torch.zeros(1, 5, 24, 24), HSC))
    with pytest.raises(InputError, match=r"hsc_image has no band CFHT-U: .*grow"):
        HSC_TOKENIZER.encode(Image(torch.zeros(1, 1, 24, 24), ["CFHT-U"]))


def test_missing_bands_are_no_fault_and_order_does_not_matter() -> None:
    flux = noise(HSC, 3)
    all_bands = HSC_TOKENIZER.encode(Image(flux, HSC))
    order = [4, 0, 2, 1, 3]
    assert torch.equal(HSC_TOKENIZER.encode(Image(flux[:, order], [HSC[i] for i in order])), all_bands)
    two = HSC_TOKENIZER.encode(Image(flux[:, :2], HSC[:2]))
    assert (two >= 0).all()
    # A band without a good pixel is a band that is missing, of that object only.
    lost = flux.clone()
    lost[1, 2:] = torch.nan
    tokens = HSC_TOKENIZER.encode(Image(lost, HSC))
    assert torch.equal(tokens[1], two[1])
    assert torch.equal(tokens[[0, 2]], all_bands[[0, 2]])


def test_an_object_without_a_good_pixel_has_no_tokens_and_decodes_to_nan() -> None:
    flux, mask = noise(HSC, 3), torch.zeros(3, 24, 24, dtype=torch.bool)
    mask[1] = True
    tokens = HSC_TOKENIZER.encode(Image(flux, HSC, mask=mask))
    assert (tokens[1] == -1).all()
    assert (tokens[[0, 2]] >= 0).all()
    decoded = HSC_TOKENIZER.decode(tokens).flux
    assert decoded[1].isnan().all()
    assert decoded[[0, 2]].isfinite().all()


def test_an_empty_batch_gives_no_tokens() -> None:
    tokens = HSC_TOKENIZER.encode(Image(torch.zeros(0, 5, 24, 24), HSC))
    assert tokens.shape == (0, 6, 6)
    assert HSC_TOKENIZER.decode(tokens).flux.shape == (0, 5, 24, 24)


# --- units


def test_zero_points_of_the_observation_replace_those_of_the_bands() -> None:
    flux = noise(HSC, 4)
    tokens = HSC_TOKENIZER.encode(Image(flux, HSC))
    brighter = flux * 10 ** ((25.0 - 27.0) / 2.5)
    assert (HSC_TOKENIZER.encode(Image(brighter, HSC, zero_point=25.0)) == tokens).double().mean() > 0.99
    assert not torch.equal(HSC_TOKENIZER.encode(Image(brighter, HSC)), tokens)


def test_the_ratio_of_pixel_scales_is_off_unless_asked_for() -> None:
    flux = noise(LEGACY, 4)
    (off,) = ImageTokenizer.build([spec_of("legacy_image")], hidden_dims=16, num_consecutive=1)
    (on,) = ImageTokenizer.build(
        [spec_of("legacy_image")], hidden_dims=16, num_consecutive=1, reference_pixel_scale=0.131
    )
    assert torch.equal(off.prepare(Image(flux, LEGACY)).flux, off.prepare(Image(flux, LEGACY, pixel_scale=0.5)).flux)
    torch.testing.assert_close(on.prepare(Image(flux, LEGACY)).flux, 2 * off.prepare(Image(flux, LEGACY)).flux)
    torch.testing.assert_close(
        on.prepare(Image(flux, LEGACY, pixel_scale=0.131)).flux, off.prepare(Image(flux, LEGACY)).flux
    )
    assert on.fingerprint != off.fingerprint


# --- whatever comes

ANY = st.one_of(st.floats(width=32), st.sampled_from([0.0, float("nan"), float("inf"), 3e38, -3e38, 1e-40]))


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float32, (3, 2, 24, 24), elements=ANY, fill=st.floats(-100, 100, width=32)),
    arrays(np.float32, (3, 2, 24, 24), elements=ANY, fill=st.just(1.0)),
    arrays(np.bool_, (3, 24, 24), fill=st.just(False)),
)
def test_no_input_gives_a_code_outside_the_vocabulary(flux: Any, ivar: Any, mask: Any) -> None:
    obs = Image(flux, HSC[:2], ivar, mask)
    for tokenizer in (HSC_TOKENIZER, tokenizers()[0].fast()):
        tokens = tokenizer.encode(obs)
        nothing = (~(np.isfinite(flux) & (ivar > 0) & np.isfinite(ivar)) | mask[:, None]).all(axis=(1, 2, 3))
        assert ((tokens >= 0) & (tokens < 4375))[~nothing].all()
        assert (tokens[nothing] == -1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 39), min_size=1, max_size=40))
def test_tokens_do_not_depend_on_the_rest_of_the_batch(seed: int, rows: list[int]) -> None:
    obs = Image(noise(HSC, 40, 26, seed=seed), HSC)
    assert torch.equal(HSC_TOKENIZER.encode(obs)[rows], HSC_TOKENIZER.encode(obs[rows]))


@pytest.mark.parametrize("config", [{}, {"hidden_dims": 64, "num_consecutive": 2}])
def test_what_is_quantized_is_the_same_to_the_last_bit_in_any_batch(config: dict[str, int]) -> None:
    """Tokens alone would show it once in a thousand batches."""
    network = (tokenizer := tokenizers(**config)[0]).network
    given = tokenizer.prepare(Image(noise(HSC, 40), HSC))

    def features(count: int) -> torch.Tensor:
        with torch.no_grad():
            return network.features(given.x[:count], given.channels, given.present[:count])

    everything = features(40)
    assert [n for n in (2, 3, 5, 7, 13, 16, 39) if not torch.equal(features(n), everything[:n])] == []


def test_encoding_in_batches_is_encoding_at_once() -> None:
    obs, tokenizer = Image(noise(HSC, 21), HSC), tokenizers()[0]
    expected = tokenizer.encode(obs)
    for size in (1, 5, None):
        tokenizer.batch = size
        assert torch.equal(tokenizer.encode(obs), expected)
        torch.testing.assert_close(tokenizer.decode(expected).flux, PAIR[0].decode(expected).flux)


# --- precision


def test_the_fast_precision_is_chosen_by_hand_and_no_part_of_the_fingerprint() -> None:
    tokenizer, obs = tokenizers()[0], Image(noise(HSC, 16), HSC)
    exact, fingerprint = tokenizer.encode(obs), tokenizer.fingerprint
    assert tokenizer.precision == "float32"
    assert tokenizer.fast().precision == "bfloat16"
    assert tokenizer.fingerprint == fingerprint
    assert (tokenizer.encode(obs) == exact).double().mean() > 0.9
    tokenizer.precision = "float32"
    assert torch.equal(tokenizer.encode(obs), exact)
    with pytest.raises(InputError, match="'float32' or 'bfloat16', not in 'float16'"):
        tokenizer.precision = "float16"  # type: ignore[assignment]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_features_are_those_of_the_exact_network(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aion_core.tokenizers.image_network.fast_type", lambda device: dtype)
    tokenizer = tokenizers()[0]
    given = tokenizer.prepare(Image(noise(HSC, 4)[:, 1:4], HSC[1:4]))
    with torch.no_grad():
        exact = tokenizer.network.features(given.x, given.channels, given.present)
        fast = tokenizer.network.fast_features(given.x, given.channels, given.present)
        torch.testing.assert_close(fast, exact, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.3)
        tokenizer.network.model.encoder_layers[0].net[2].weight.mul_(-1)  # weights that change are converted again
        again = tokenizer.network.fast_features(given.x, given.channels, given.present)
    assert (again - fast).abs().max() > 0.3


def test_convolutions_are_not_left_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    tokenizer, features = tokenizers()[0], PAIR[0].network.features
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(
        tokenizer.network, "features", lambda *a: (seen.append(torch.backends.cudnn.allow_tf32), features(*a))[1]
    )
    tokenizer.encode(Image(noise(HSC, 1), HSC))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


# --- loss and reconstruction


def test_the_loss_is_that_of_the_paper() -> None:
    flux, ivar = noise(HSC, 3), torch.rand(3, 5, 24, 24) + 0.5
    ivar[0, 1], ivar[1, :, 4:9] = 0.0, 0.0
    _, truth, decoded = HSC_TOKENIZER.reconstruct(Image(flux, HSC, ivar))
    expected = []
    for i in range(3):
        bands = [c for c in range(5) if (ivar[i, c] > 0).any()]
        chi2 = [((truth - decoded)[i, c] ** 2 * ivar[i, c])[ivar[i, c] > 0].mean() for c in bands]
        expected.append(sum(chi2) / len(bands) / 2)
    found = HSC_TOKENIZER.loss(Image(flux, HSC, ivar))["nll"]
    torch.testing.assert_close(found, sum(expected) / 3, rtol=1e-4, atol=0)


def test_the_loss_of_a_mixed_batch_is_the_mean_over_all_objects() -> None:
    hsc, legacy = Image(noise(HSC, 3), HSC, torch.ones(3, 5, 24, 24)), Image(noise(LEGACY, 5), LEGACY)
    apart = [HSC_TOKENIZER.loss(obs)["nll"].item() for obs in (hsc, legacy)]
    assert HSC_TOKENIZER.loss(hsc, legacy)["nll"].item() == pytest.approx((3 * apart[0] + 5 * apart[1]) / 8, rel=1e-5)


def test_a_stated_unit_is_converted_to_that_of_the_bands_own_survey() -> None:
    flux = noise(HSC, 3)
    stated = Image(flux * 5.754747e-02, HSC, unit="uJy")
    for tokenizer in PAIR:  # whichever of the siblings is asked
        torch.testing.assert_close(tokenizer.loss(stated)["nll"], HSC_TOKENIZER.loss(Image(flux, HSC))["nll"])


def test_every_parameter_has_a_gradient_and_bad_pixels_give_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizers()[0]
    flux, mask = noise(HSC, 4), torch.rand(4, 24, 24) < 0.1
    flux[0] = torch.nan
    flux[1, :, 5] = torch.inf
    loss = tokenizer.loss(Image(flux, HSC, mask=mask))["nll"]
    loss.backward()
    missing = [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []
    other = flux.clone()
    other[mask[:, None].expand(flux.shape)] = 77.0
    assert torch.equal(tokenizer.loss(Image(other, HSC, mask=mask))["nll"], loss)


def test_what_an_unfinished_network_decodes_does_not_explode_the_loss() -> None:
    limit = torch.tensor([1.0])
    value = torch.tensor([0.1, 0.5, 3.0, 30.0], requires_grad=True)
    flux = pixels.expand_within(value, limit, 0.01, 10.0)
    assert flux[:2].tolist() == pytest.approx([0.01 * np.sinh(1), 0.01 * np.sinh(5)], rel=1e-5)
    assert flux[3] < 1e3
    flux.sum().backward()
    assert (value.grad > 0).all()
    assert value.grad[2] == value.grad[3] == pytest.approx(10 * np.cosh(np.arcsinh(100)) * 0.01, rel=1e-4)


def test_reconstruction_is_nan_where_a_pixel_is_bad() -> None:
    flux, mask = noise(HSC, 3, 30), torch.zeros(3, 30, 30, dtype=torch.bool)
    mask[0, 10:12], mask[2] = True, True
    tokens, truth, decoded = HSC_TOKENIZER.reconstruct(Image(flux, HSC, mask=mask))
    assert torch.equal(truth.isnan(), mask[:, None, 3:27, 3:27].expand(3, 5, 24, 24))
    assert torch.equal(decoded.isnan(), truth.isnan())
    assert torch.equal(truth[1], flux[1, :, 3:27, 3:27])
    assert torch.equal(decoded[1], HSC_TOKENIZER.decode(tokens).flux[1])


# --- building, sharing, saving


def test_initial_weights_depend_on_seed_and_names_only() -> None:
    specs = [spec_of("hsc_image"), spec_of("legacy_image")]
    both, _ = ImageTokenizer.build(specs, 3, hidden_dims=16, num_consecutive=1)
    (alone,) = ImageTokenizer.build(specs[1:], 3, hidden_dims=16, num_consecutive=1)
    state = dict(both.network.named_parameters())
    for name, parameter in alone.network.named_parameters():
        if ".columns." not in name and ".rows." not in name and ".biases." not in name:
            assert torch.equal(parameter, state[name]), name
    (other,) = ImageTokenizer.build(specs[1:], 4, hidden_dims=16, num_consecutive=1)
    assert not torch.equal(other.network.pre_quant_proj.weight, alone.network.pre_quant_proj.weight)


def test_siblings_share_one_network_and_their_fingerprints_read_only_their_own_bands() -> None:
    hsc, legacy = tokenizers()
    assert hsc.network is legacy.network
    before = hsc.fingerprint, legacy.fingerprint
    with torch.no_grad():
        hsc.network.subsample_in.columns[5].add_(1)  # DES-G
        hsc.network.subsample_out.rows[0].add_(1)
    assert hsc.fingerprint == before[0]
    assert legacy.fingerprint != before[1]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    from aion_core.tokenizers.base import read_tokenizer

    hsc, legacy = tokenizers()
    legacy.save_pretrained(tmp_path)
    obs = Image(noise(HSC, 4), HSC)
    again: Any = read_tokenizer(hsc.spec, tmp_path)
    other: Any = read_tokenizer(legacy.spec, tmp_path, again)
    assert (again.fingerprint, other.fingerprint) == (hsc.fingerprint, legacy.fingerprint)
    assert other.network is again.network
    assert torch.equal(again.encode(obs), hsc.encode(obs))
    assert again.artifact().same(hsc.artifact())


def test_a_spec_without_bands_or_with_another_grid_is_refused() -> None:
    spec = spec_of("hsc_image")
    with pytest.raises(AionError, match="declares no bands"):
        ImageTokenizer(spec.model_copy(update={"tokenizer": spec.tokenizer.model_copy(update={"bands": ()})}))
    with pytest.raises(AionError, match="square grid"):
        ImageTokenizer(spec.model_copy(update={"shape": (6, 8)}), hidden_dims=16)
    with pytest.raises(InputError, match="4375 codes; its vocabulary is 1024"):
        ImageTokenizer(spec.model_copy(update={"vocab_size": 1024}), hidden_dims=16)
    for wrong in ({"hidden_dims": 18}, {"embedding_dim": 4}, {"hiden_dims": 16}, {"mult_factor": 0}):
        with pytest.raises(InputError, match=f"configuration of hsc_image does not fit.*{next(iter(wrong))}"):
            ImageTokenizer.build([spec], **wrong)
