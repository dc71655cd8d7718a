"""Bands that are added leave everything older as it is: on u and near-infrared bands of a plugin outside `plugins/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_images import HSC, LEGACY, noise, spec_of, tokenizers

from aion_core.contract import AionError, Band, InputError, ModalitySpec
from aion_core.observations import Image
from aion_core.plugins import load_registry
from aion_core.tokenizers.base import load_tokenizer, read_tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "aion-tok-clauds"


@pytest.fixture
def clauds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModalitySpec:
    """The spec that the registry finds when the example is installed, with a smaller grid."""
    info = tmp_path / "site" / "aion_tok_clauds-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aion-tok-clauds\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[aion.plugins]\nclauds = aion_tok_clauds.plugin\n")
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    monkeypatch.syspath_prepend(str(info.parent))
    registry = load_registry()
    assert not registry.failures
    return registry.resolve("clauds_image").model_copy(update={"shape": (6, 6)})


def bands_of(spec: ModalitySpec) -> tuple[Band, ...]:
    assert spec.tokenizer is not None
    return spec.tokenizer.bands


def test_the_example_declares_what_its_pyproject_says() -> None:
    assert 'clauds = "aion_tok_clauds.plugin"' in (EXAMPLE / "pyproject.toml").read_text()


def test_defect_adding_a_band_changes_every_older_token(clauds: ModalitySpec) -> None:
    hsc, legacy = tokenizers()
    observed = {hsc: Image(noise(HSC, 64), HSC), legacy: Image(noise(LEGACY, 64), LEGACY)}
    before = {t: (t.encode(obs), t.fingerprint, t.decode(t.encode(obs)).flux) for t, obs in observed.items()}
    assert sum(tokens.numel() for tokens, _, _ in before.values()) > 4_000
    assert hsc.grow(bands_of(clauds)) is hsc
    for tokenizer, obs in observed.items():
        tokens, fingerprint, decoded = before[tokenizer]
        assert torch.equal(tokenizer.encode(obs), tokens)
        assert tokenizer.fingerprint == fingerprint
        assert torch.equal(tokenizer.decode(tokens).flux, decoded)
    # What keeps them: the C of first training. With the new one, tokens change.
    hsc.network.subsample_in.first = len(hsc.network.bands)
    assert not torch.equal(hsc.encode(observed[hsc]), before[hsc][0])
    assert hsc.fingerprint != before[hsc][1]


def test_before_it_is_grown_the_new_modality_is_refused_with_a_hint(clauds: ModalitySpec) -> None:
    hsc, _ = tokenizers()
    with pytest.raises(InputError, match=r"have no channel for CFHT-U .*grow them"):
        hsc.bind(clauds).encode(Image(noise(("CFHT-U",), 1), ["CFHT-U"]))


def test_the_new_bands_encode_decode_and_are_saved(clauds: ModalitySpec, tmp_path: Path) -> None:
    hsc, legacy = tokenizers()
    new = hsc.grow(bands_of(clauds)).bind(clauds)
    names = tuple(band.name for band in bands_of(clauds))
    obs = Image(noise(names, 6), names)
    tokens = new.encode(obs)
    assert ((tokens >= 0) & (tokens < 4375)).all()
    assert len(new.encode(obs[:1]).unique()) > 1
    assert new.decode(tokens).bands == names
    new.save_pretrained(tmp_path)
    again: Any = read_tokenizer(clauds, tmp_path)
    assert torch.equal(again.encode(obs), tokens)
    assert again.fingerprint == new.fingerprint
    older: Any = read_tokenizer(legacy.spec, tmp_path, again)
    assert older.fingerprint == legacy.fingerprint
    assert again.network.subsample_in.first == 9
    assert len(again.network.bands) == 14


@pytest.mark.parametrize("only_new", [True, False])
def test_new_channels_are_trained_alone_or_with_the_rest(clauds: ModalitySpec, only_new: bool) -> None:
    hsc, _ = tokenizers()
    old = Image(noise(HSC, 64), HSC)
    before, fingerprint = hsc.encode(old), hsc.fingerprint
    new = hsc.grow(bands_of(clauds)).bind(clauds)
    names = tuple(band.name for band in bands_of(clauds))
    obs = Image(noise(names, 8), names)
    first, start = new.fingerprint, new.loss(obs)["nll"].item()
    trained = new.trainable_parameters(only_new=only_new)
    assert len(trained) == (15 if only_new else len(list(new.parameters())))
    optimizer = torch.optim.AdamW(trained.values(), lr=3e-3, weight_decay=0.1)
    for _ in range(8):
        optimizer.zero_grad()
        new.loss(obs, old[:4])["nll"].backward()
        optimizer.step()
    assert new.loss(obs)["nll"].item() < start
    assert new.fingerprint != first
    assert (hsc.fingerprint == fingerprint) is only_new
    assert torch.equal(hsc.encode(old), before) is only_new


def test_what_cannot_be_grown_is_refused(clauds: ModalitySpec) -> None:
    hsc, _ = tokenizers()
    with pytest.raises(AionError, match="nothing new"):
        hsc.trainable_parameters(only_new=True)
    with pytest.raises(InputError, match="HSC-G already"):
        hsc.grow([*bands_of(clauds), bands_of(spec_of("hsc_image"))[0]])
    assert len(hsc.network.bands) == 9
    with pytest.raises(InputError, match="twice"):
        hsc.grow([bands_of(clauds)[0]] * 2)


def test_initial_values_of_a_new_band_depend_on_its_name_and_the_seed_only(clauds: ModalitySpec) -> None:
    bands = bands_of(clauds)
    a, b = (tokenizers()[0].grow(order, seed=5) for order in (bands, bands[::-1]))
    for band in bands:
        i, j = a.network.channel(band.name), b.network.channel(band.name)
        assert torch.equal(a.network.subsample_in.columns[i], b.network.subsample_in.columns[j])
        assert torch.equal(a.network.subsample_out.rows[i], b.network.subsample_out.rows[j])


def test_a_released_artifact_grows_too(clauds: ModalitySpec, tmp_path: Path) -> None:
    """One without a band table: nine channels that the installed modalities name."""
    image = pytest.importorskip("aion.codecs.image")
    modalities = pytest.importorskip("aion.modalities")
    codec = image.ImageCodec(quantizer_levels=[7, 5, 5, 5, 5], hidden_dims=16, num_consecutive=1)
    codec.save_pretrained(str(tmp_path), modality=modalities.HSCImage)
    hsc: Any = load_tokenizer("hsc_image", tmp_path)
    assert [band and band.name for band in hsc.network.bands] == [*HSC, None, None, None, None]
    fingerprint = hsc.fingerprint
    hsc.grow(bands_of(clauds)).save_pretrained(tmp_path / "grown")
    assert load_tokenizer("hsc_image", tmp_path / "grown").fingerprint == fingerprint
    legacy: Any = load_tokenizer("legacy_image", tmp_path / "grown")
    assert legacy.fingerprint == load_tokenizer("legacy_image", tmp_path).fingerprint
    assert legacy.bands == LEGACY
