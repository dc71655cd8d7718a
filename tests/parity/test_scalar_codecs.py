"""Scalar tokenizers beside the release's own package: same weights, same tokens; and each reads the other's files."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aion_core.contract import ModalitySpec
from aion_core.observations import Scalar
from aion_core.plugins import load_registry
from aion_core.tokenizers import Tokenizer, TokenizerSet, build_tokenizer, load_tokenizer

scalar_codecs = pytest.importorskip("aion.codecs.scalar")
modalities = pytest.importorskip("aion.modalities")

RESERVOIR = 100_000
REGISTRY = load_registry()

#: One modality of each kind of codec, all installed scalars that have one; key -> how its data is distributed.
DATA: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "legacy_ebv": lambda rng, n: rng.gamma(2.0, 0.05, n),
    "legacy_shape_e1": lambda rng, n: np.where(rng.random(n) < 0.4, 0.0, rng.normal(0, 0.2, n)),  # ties
    "gaia_dec": lambda rng, n: np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
    "legacy_flux_r": lambda rng, n: rng.lognormal(1, 2, n) - 0.5,  # some below the minimum, some negative
    "gaia_parallax": lambda rng, n: rng.normal(0.3, 1.0, n),
    "gaia_xp_bp": lambda rng, n: rng.standard_cauchy((n, 55)) * np.geomspace(1e4, 1e-2, 55),
    "catalog_redshift": lambda rng, n: rng.uniform(0, 1.1, n),
}
KEYS = list(DATA)


def spec_of(key: str) -> ModalitySpec:
    return REGISTRY.resolve(key)


def peer_modality(spec: ModalitySpec) -> Any:
    return next(m for m in vars(modalities).values() if getattr(m, "token_key", None) == spec.upstream_key)


def peer_class(spec: ModalitySpec) -> Any:
    from aion.codecs.config import MODALITY_CODEC_MAPPING

    return MODALITY_CODEC_MAPPING[peer_modality(spec)]


def values_of(key: str, size: int, seed: int) -> np.ndarray:
    return DATA[key](np.random.default_rng(seed), size).astype(np.float32)


def fitted_peer(key: str) -> Any:
    """A codec of the release's package, fitted its own way."""
    spec = spec_of(key)
    config: dict[str, Any] = {"modality": spec.upstream_codec, "codebook_size": 1024}
    if key == "catalog_redshift":
        return peer_class(spec)(**config)
    config["reservoir_size"] = RESERVOIR
    if spec.kind == "coefficients":
        names = {"compression_fns": ["arcsinh"] * 2, "decompression_fns": ["sinh"] * 2}
        config |= {**names, "num_quantizers": spec.n_tokens, "reservoir_size": 5_000}
    codec = peer_class(spec)(**config)
    codec.quantizer._update_reservoirs(torch.from_numpy(values_of(key, config["reservoir_size"], 0)))
    return codec.eval()


@pytest.fixture(scope="module")
def peers() -> dict[str, Any]:
    return {key: fitted_peer(key) for key in KEYS}


@pytest.fixture(scope="module", params=["_quantizer.", "quantizer."])
def release(request: pytest.FixtureRequest, peers: dict[str, Any], tmp_path_factory: Any) -> Path:
    """What the peer saves; once under the names of its class, once under those of the published files."""
    root = tmp_path_factory.mktemp("release")
    for key, codec in peers.items():
        codec.save_pretrained(str(root), modality=peer_modality(spec_of(key)))
        path = root / "codecs" / spec_of(key).upstream_codec / "model.safetensors"
        renamed = {k.replace("_quantizer.", request.param, 1): v for k, v in load_file(path).items()}
        save_file(renamed, path)
    return root


@pytest.fixture(scope="module")
def ours(release: Path) -> dict[str, Tokenizer]:
    return {key: load_tokenizer(key, release, registry=REGISTRY) for key in KEYS}


def peer_encode(codec: Any, key: str, values: np.ndarray) -> Tensor:
    with torch.no_grad():
        tokens = codec.encode(peer_modality(spec_of(key))(value=torch.from_numpy(values.copy())))
    return tokens.reshape(len(values), -1).long()


def tables(codec: Any) -> np.ndarray:
    quantizer = codec.quantizer
    if hasattr(quantizer, "quantizers"):
        return np.stack([q._index_to_val.numpy() for q in quantizer.quantizers], axis=1)
    return (quantizer.buckets if hasattr(quantizer, "buckets") else quantizer._index_to_val).numpy()


def awkward_values(codec: Any, tokenizer: Any) -> np.ndarray:
    """All edges as values, and the floats next to each on both sides; ends, zeros, and values around the minimum."""
    edge = tokenizer.inverse(torch.from_numpy(tables(codec))).numpy()
    edges = [edge]
    for way in (-np.inf, np.inf):
        step = edge
        for _ in range(6):
            step = np.nextafter(step, np.float32(way))
            edges.append(step)
    low = np.float32(exp(-3))
    special = np.array([0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, np.inf, -np.inf, low], np.float32)
    special = np.concatenate([special, np.nextafter(low, special[-2:])])
    columns = special if edge.ndim == 1 else np.repeat(special[:, None], edge.shape[1], axis=1)
    return np.concatenate([*edges, columns]).astype(np.float32)


def assert_decoded_alike(theirs: Tensor, ours: Tensor, key: str) -> None:
    """Equal bit for bit; up to rounding where sinh is involved, which torch rounds by where in the array it is."""
    tolerance = 5e-6 if key == "gaia_xp_bp" else 0.0
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("key", KEYS)
def test_tokens_of_random_values_are_those_of_the_release(
    key: str, ours: dict[str, Tokenizer], peers: dict[str, Any]
) -> None:
    values = values_of(key, 2_000 if key == "gaia_xp_bp" else 200_000, 1)
    assert torch.equal(ours[key].encode(Scalar(values)), peer_encode(peers[key], key, values))


@pytest.mark.parametrize("key", KEYS)
def test_tokens_at_and_beside_every_edge_are_those_of_the_release(
    key: str, ours: dict[str, Tokenizer], peers: dict[str, Any]
) -> None:
    values = awkward_values(peers[key], ours[key])
    assert torch.equal(ours[key].encode(Scalar(values)), peer_encode(peers[key], key, values))


@pytest.mark.parametrize("key", KEYS)
def test_decoding_to_the_edge_is_that_of_the_release(
    key: str, ours: dict[str, Tokenizer], peers: dict[str, Any]
) -> None:
    tokens = torch.arange(1024)
    tokens = tokens[:, None].expand(-1, 55) if key == "gaia_xp_bp" else tokens
    assert_decoded_alike(peers[key].decode(tokens).value, ours[key].decode(tokens, at="edge").value, key)


@pytest.mark.parametrize("key", KEYS)
def test_decoding_to_the_centre_is_nearer_to_the_truth_than_the_release(
    key: str, ours: dict[str, Tokenizer], peers: dict[str, Any]
) -> None:
    values = values_of(key, 2_000 if key == "gaia_xp_bp" else 50_000, 2)
    values = values[values <= 1] if key == "catalog_redshift" else values
    tokens = ours[key].encode(Scalar(values))
    tokenizer: Any = ours[key]

    def error(at: str) -> float:
        x, y = (
            tokenizer.transform(v.clamp(min=tokenizer.lowest))
            for v in (torch.from_numpy(values), tokenizer.decode(tokens, at=at).value)
        )
        return float((x - y)[x > tokenizer.lowest].abs().mean())

    assert error("centre") < 0.75 * error("edge")


@pytest.mark.parametrize("key", KEYS)
def test_nan_has_no_token_here_where_the_release_gives_it_the_last(
    key: str, ours: dict[str, Tokenizer], peers: dict[str, Any]
) -> None:
    values = np.full((1, 55) if key == "gaia_xp_bp" else 1, np.nan, np.float32)
    assert (peer_encode(peers[key], key, values) == 1023).all()
    assert (ours[key].encode(Scalar(values)) == -1).all()


def test_the_spare_redshift_code_decodes_here_where_the_release_fails(
    ours: dict[str, Tokenizer], peers: dict[str, Any]
) -> None:
    with pytest.raises(IndexError):
        peers["catalog_redshift"].decode(torch.tensor([1024]))
    decoded = ours["catalog_redshift"].decode(torch.tensor([1023, 1024])).value
    assert decoded[0] == decoded[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> tuple[Path, dict[str, Tokenizer]]:
    """Tokenizers fitted and saved here."""
    fitted: dict[str, Any] = {}
    for key in KEYS:
        fitted[key] = build_tokenizer(spec_of(key))
        fitted[key].observe(Scalar(values_of(key, 20_000, 3)))
        fitted[key].finish()
    root = tmp_path_factory.mktemp("ours") / "set"
    TokenizerSet(fitted.values(), REGISTRY).save(root)
    return root, fitted


@pytest.fixture
def published(saved: tuple[Path, dict[str, Tokenizer]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The saved set as a repository in the Hub's cache, which is the only place that the peer loads codecs from."""
    repository = tmp_path / "models--team--tokenizers"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).symlink_to(saved[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return "team/tokenizers"


@pytest.mark.parametrize("key", KEYS)
def test_the_release_package_reads_our_codecs_strictly_and_gives_our_tokens(
    key: str, saved: tuple[Path, dict[str, Tokenizer]], published: str
) -> None:
    tokenizer, modality = saved[1][key], peer_modality(spec_of(key))
    codec = peer_class(spec_of(key)).from_pretrained(published, modality=modality, strict=True, local_files_only=True)
    for values in (values_of(key, 2_000, 4), awkward_values(codec, tokenizer)):
        assert torch.equal(peer_encode(codec, key, values), tokenizer.encode(Scalar(values)))
    codes = torch.randint(1024, (500, *([55] if key == "gaia_xp_bp" else [])))
    assert_decoded_alike(codec.decode(codes).value, tokenizer.decode(codes, at="edge").value, key)


def test_our_reader_takes_the_same_repository(published: str, saved: tuple[Path, dict[str, Tokenizer]]) -> None:
    tokenizers = TokenizerSet.load(published, REGISTRY, local_files_only=True)
    assert tokenizers.space == TokenizerSet(saved[1].values(), REGISTRY).space


@pytest.mark.parametrize("key", KEYS)
def test_our_own_reader_gives_the_same_tokens_as_before_saving(
    key: str, saved: tuple[Path, dict[str, Tokenizer]]
) -> None:
    root, fitted = saved
    again = load_tokenizer(str(spec_of(key).upstream_key), root, registry=REGISTRY)
    values = values_of(key, 2_000, 5)
    assert again.fingerprint == fitted[key].fingerprint
    assert torch.equal(again.encode(Scalar(values)), fitted[key].encode(Scalar(values)))


def test_every_installed_scalar_of_the_release_has_a_class_that_reads_its_codec() -> None:
    kinds = {
        "ScalarCodec": "QuantileTokenizer",
        "LogScalarCodec": "LogQuantileTokenizer",
        "MultiScalarCodec": "CoefficientTokenizer",
        "GridScalarCodec": "GridTokenizer",
    }
    checked = 0
    for spec in REGISTRY.modalities.values():
        if spec.upstream_key and spec.kind in ("scalar", "coefficients"):
            assert peer_modality(spec).name == spec.upstream_codec
            assert type(build_tokenizer(spec)).__name__ == kinds[peer_class(spec).__name__], spec.key
            checked += 1
    assert checked == 34
