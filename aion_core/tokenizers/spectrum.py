"""Tokenizers for spectra: a token for the mean flux, then 272 for the shape, on a grid of wavelengths that all share.

A spectrum of any instrument is divided by its mean flux, taken by linear interpolation to the latent grid, 3500 Å +
0.8 Å i, and compressed by a ConvNeXt-V2 autoencoder to lookup-free codes (REFERENCE section 2; the AION-1 paper,
appendix B.2). One network serves all surveys: their tokenizers share one artifact, ``codecs/spectrum`` in the release.

Bad pixels (not finite, masked, or of no inverse variance) are bridged by a straight line between their neighbours and
have no weight. The release lets their flux through; ``blank_masked`` false does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from aion_core.contract import AionError, InputError, ModalitySpec
from aion_core.engine.distributed import mean_over_ranks
from aion_core.observations import Array, Observation, Spectrum
from aion_core.release import Artifact
from aion_core.tokenizers.base import Precision, Tokenizer, fitting_tensor
from aion_core.tokenizers.config import NetworkConfig
from aion_core.tokenizers.lfq import LookupFreeQuantizer
from aion_core.tokenizers.networks1d import Decoder, Encoder, initialise
from aion_core.tokenizers.precision import fast_type
from aion_core.tokenizers.resampling import Interpolation, Pixels, one_grid

#: Least mean flux that a spectrum is divided by.
LEAST = 0.1


class SpectrumConfig(NetworkConfig):
    """What ``config.json`` of the release states, with the sizes of AION-1; the last entry is our own."""

    encoder_depths: tuple[int, ...] = Field(default=(3, 3, 27, 3), min_length=2)
    encoder_dims: tuple[int, ...] = (64, 128, 256, 512)
    decoder_depths: tuple[int, ...] = Field(default=(3, 9, 3, 3), min_length=2)
    decoder_dims: tuple[int, ...] = (256, 128, 64, 2)
    lambda_min: float = Field(default=3500.0, gt=0, description="first wavelength of the latent grid, Angstrom")
    resolution: float = Field(default=0.8, gt=0, description="step of the latent grid, Angstrom")
    num_pixels: int = Field(default=8704, ge=1)
    latent_channels: int = 512
    embedding_dim: int = Field(default=10, ge=1, le=16)
    clip_ivar: float | None = Field(default=100.0, gt=0)
    clip_flux: float | None = Field(default=None, gt=0)
    input_scaling: float = Field(default=0.2, gt=0)
    normalization_range: tuple[float, float] = (-1.0, 5.0)
    codebook_size: int = Field(default=1024, ge=2)
    dim: int = 10
    blank_masked: bool = Field(default=True, description="False: as in the release, bad pixels reach the network")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.encoder_dims) != len(self.encoder_depths) or len(self.decoder_dims) != len(self.decoder_depths):
            raise ValueError("every stage has a depth and a dim")
        if self.encoder_dims[-1] != self.latent_channels:
            raise ValueError(f"the last of encoder_dims {self.encoder_dims} is latent_channels {self.latent_channels}")
        if self.decoder_dims[-1] not in (1, 2):
            raise ValueError("the decoder gives one channel (flux) or two (flux and mask)")
        if not self.dim == self.embedding_dim or self.codebook_size != 2**self.dim:
            raise ValueError(f"{self.codebook_size} codes need dim = embedding_dim = their number of bits")
        if not self.normalization_range[0] < self.normalization_range[1]:
            raise ValueError(f"normalization_range {self.normalization_range} is empty")
        return self


class SpectrumNetwork(nn.Module):
    """The autoencoder between the latent grid and what is quantized, with the release's names of parameters."""

    def __init__(self, config: SpectrumConfig) -> None:
        super().__init__()
        channels, dim = config.latent_channels, config.embedding_dim
        self.encoder = Encoder(2, config.encoder_depths, config.encoder_dims)
        self.decoder = Decoder(channels, config.decoder_depths, config.decoder_dims)
        self.pre_quant_norm = nn.LayerNorm(channels)
        self.quant_conv = nn.Conv1d(channels, dim, 1)
        self.post_quant_conv = nn.Conv1d(dim, channels, 1)

    def encode(self, x: Tensor, exact: bool = False, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return what is quantized, ``[B, N / 32, bits]``, of flux and error on the latent grid, ``[B, N, 2]``.

        `exact` gives the rounding of the release, and no gradients. `weights` replace those of the encoder, by name.
        """
        x = self.pre_quant_norm(functional_call(self.encoder, dict(weights or {}), (x, exact)))
        return self.quant_conv(x.permute(0, 2, 1)).permute(0, 2, 1)

    def decode(self, z: Tensor, exact: bool = False) -> Tensor:
        """Return flux and logit of being bad on the latent grid, ``[B, N, 2]``, of corners ``[B, N / 32, bits]``."""
        y: Tensor = self.decoder(self.post_quant_conv(z.permute(0, 2, 1)).permute(0, 2, 1), exact)
        return y


@dataclass(frozen=True)
class _Prepared:
    """Spectra ready for the network.

    Attributes
    ----------
    pixels
        In the order of wavelengths; `ivar` is clipped.
    x
        Flux and error on the latent grid, ``[B, N, 2]``.
    level
        First token, ``[B]``.
    known
        On the latent grid, how much of each value comes of good pixels: 0 … 1, ``[B, N]``.
    """

    pixels: Pixels
    x: Tensor
    level: Tensor
    known: Tensor

    @property
    def valid(self) -> Tensor:
        """Which objects have anything on the latent grid, ``[B]``."""
        return self.known.amax(1) > 0


class SpectrumTokenizer(Tokenizer):
    """Tokens of spectra in the manner of AION-1; keyword arguments are the fields of `SpectrumConfig`.

    A spectrum with no good pixel on the latent grid encodes to −1. Decoding says *bad* outside the latent grid (where
    there is no flux) and outside the wavelengths that the spec declares.

    Attributes
    ----------
    config
        Sizes and constants.
    network
        Shared by all tokenizers of an artifact.
    blank_masked
        Whether bad pixels are kept from the network; False gives the release's tokens for spectra that have them.
    """

    observation: ClassVar[type[Observation]] = Spectrum
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "bfloat16")
    batch: int | None = 32
    small: ClassVar[Mapping[str, Any]] = {
        "encoder_depths": (1, 1, 1, 1),
        "encoder_dims": (8, 8, 16, 16),
        "latent_channels": 16,
        "decoder_depths": (1, 1, 1, 1),
        "decoder_dims": (16, 8, 8, 2),
    }

    def __init__(self, spec: ModalitySpec, network: SpectrumNetwork | None = None, **config: Any) -> None:
        super().__init__(spec)
        self.config = SpectrumConfig.of(config, spec.key)
        self.blank_masked = self.config.blank_masked
        with torch.device("meta"):  # weights come from an artifact or from `build`
            self.network = SpectrumNetwork(self.config) if network is None else network
        pixels, stride = self.config.num_pixels, self.network.encoder.stride
        if pixels % stride or self.network.decoder.stride != stride or spec.shape[0] != 1 + pixels // stride:
            raise AionError(
                f"{spec.key} has {spec.shape[0]} tokens: {pixels} pixels in steps of {stride} (and of "
                f"{self.network.decoder.stride} for the decoder) do not give that number less one."
            )
        if self.config.codebook_size > spec.vocab_size:
            raise AionError(f"{spec.key}: {self.config.codebook_size} codes exceed the vocabulary {spec.vocab_size}.")
        self.quantizer = LookupFreeQuantizer(self.config.dim)
        self.levels: Tensor
        self.grid: Tensor
        self.register_buffer("levels", torch.linspace(*self.config.normalization_range, self.config.codebook_size))
        self.register_buffer("grid", (torch.arange(pixels) * self.config.resolution + self.config.lambda_min)[None])

    @classmethod
    def build(cls, specs: Sequence[ModalitySpec], seed: int = 0, **config: Any) -> tuple[Self, ...]:
        if not specs:
            raise AionError("A spectrum tokenizer is built for one modality at least; none was given.")
        settings = (specs[0].tokenizer.config if specs[0].tokenizer else {}) | config
        first = cls(specs[0], **settings)
        first.network.to_empty(device="cpu")
        initialise(first.network, seed)
        return first, *(cls(spec, first.network, **settings) for spec in specs[1:])

    @classmethod
    def codebook(cls, codes: int) -> tuple[int, dict[str, Any]]:
        """Return the settings of a codebook of about so many codes (a power of two), and how many it has."""
        bits = min(16, max(1, round(log2(max(codes, 2)))))
        return 2**bits, {"codebook_size": 2**bits, "dim": bits, "embedding_dim": bits}

    def accept(self, obs: Observation) -> Any:
        self._require_weights()
        return super().accept(obs)

    def settings(self) -> dict[str, Any]:
        names = ("clip_ivar", "clip_flux", "input_scaling")
        return {name: getattr(self.config, name) for name in names} | {"blank_masked": self.blank_masked}

    def encode_tensors(self) -> Mapping[str, Tensor]:
        self._require_weights()
        read = {k: v for k, v in self.network.named_parameters() if not k.startswith(("decoder.", "post_"))}
        return {**read, "levels": self.levels, "grid": self.grid}

    def artifact(self) -> Artifact:
        self._require_weights()
        config = self.config.model_copy(update={"blank_masked": self.blank_masked}).model_dump(mode="json")
        return Artifact(config, {**self.network.state_dict(), **self._constants()}, {"format": "pt"})

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        config = {k: v for k, v in artifact.config.items() if k in SpectrumConfig.model_fields}
        if isinstance(sibling, SpectrumTokenizer):
            return cls(spec, sibling.network, **config)._with_constants(artifact)
        tokenizer = cls(spec, **config)
        wanted = tokenizer.network.state_dict()
        tensors = {name: fitting_tensor(artifact, name, tuple(t.shape), spec.key) for name, t in wanted.items()}
        parts = tuple(f"{name}." for name, _ in tokenizer.network.named_children())
        unknown = sorted(name for name in artifact.tensors.keys() - wanted.keys() if name.startswith(parts))
        if unknown:
            raise InputError(f"The weights for {spec.key} hold {unknown[0]}, which their configuration does not have.")
        tokenizer.network.load_state_dict(tensors, assign=True)
        return tokenizer._with_constants(artifact)

    def code_vectors(self) -> Tensor:
        return (self.quantizer.decode(torch.arange(self.config.codebook_size)) + 1) / 2

    def loss(self, *observations: Observation) -> dict[str, Tensor]:
        """Return ``flux``, ``mask``, ``commitment``, ``entropy`` and ``diversity`` (REFERENCE section 2).

        ``flux`` is half the squared residual in units of the (clipped) error, averaged over the good pixels of each
        spectrum; ``mask`` is the binary cross-entropy of what is known on the latent grid, so that wavelengths outside
        the observed range count as bad. Spectra with no good pixel are left out.
        """
        prepared = [self._prepare(self.accept(obs)) for obs in observations]
        rows = [p.valid.nonzero()[:, 0] for p in prepared]
        x, known, level = (
            torch.cat([getattr(p, name)[r] for p, r in zip(prepared, rows, strict=True)])
            for name in ("x", "known", "level")
        )
        if not len(x):
            mean_over_ranks(self.levels.new_zeros(self.config.codebook_size), 0)  # the others wait for this rank
            nothing = sum(p.sum() for p in self.network.parameters()) * 0.0
            return dict.fromkeys(("flux", "mask", "commitment", "entropy", "diversity"), torch.as_tensor(nothing))
        z = self.network.encode(x).float()
        decoded = self.network.decode(self.quantizer.quantize(z)).float()
        flux = (decoded[..., 0] + 1.0) * self._scale(level)[:, None]
        parts = flux.split([len(r) for r in rows])
        chi = torch.cat([self._chi(p, r, part) for p, r, part in zip(prepared, rows, parts, strict=True)])
        terms = {"flux": 0.5 * chi.mean()}
        if self.config.decoder_dims[-1] == 2:
            terms["mask"] = F.binary_cross_entropy_with_logits(decoded[..., 1], 1.0 - known)
        return terms | self.quantizer.terms(z)

    def reconstruct(self, obs: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, flux and decoded flux, the last two ``[B, 1, L]`` on the wavelengths of the observation."""
        given = self.accept(obs)
        tokens = self.encode(given)
        decoded = self.decode(tokens, wavelength=given.wavelength).flux  # type: ignore[attr-defined]
        good = given.flux.isfinite()
        if given.mask is not None:
            good &= ~given.mask
        if given.ivar is not None:
            good &= given.ivar > 0
        return tokens, given.flux.where(good, torch.nan)[:, None], decoded[:, None]

    @torch.no_grad()
    def decode_logits(self, tokens: Tensor, wavelength: Array | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return wavelengths, flux, and the logit of a pixel's being bad, ``[B, L]`` each; NaN where there is none.

        Wavelengths are ``[L]`` or ``[B, L]`` in Angstrom, in any order; None: the latent grid.
        """
        self._require_weights()
        tokens = self._check_tokens(tokens)
        if wavelength is None:
            target = self.grid.expand(len(tokens), -1)
        else:
            length = np.shape(wavelength)[-1] if np.ndim(wavelength) else 0
            zeros = torch.zeros(1, 1, device=getattr(wavelength, "device", "cpu")).expand(len(tokens), length)
            target = Spectrum(zeros, wavelength).wavelength.to(self.device)
        codes = tokens.clamp(0, self.config.codebook_size - 1)
        latent = _in_parts(lambda z: self.network.decode(z, exact=True), self.quantizer.decode(codes[:, 1:]))
        there = Interpolation.between(self.grid, one_grid(target))
        flux = (there(latent[..., 0]) + 1.0) * self._scale(codes[:, 0])[:, None]
        logits = there(latent[..., 1]) if latent.shape[-1] == 2 else torch.full_like(flux, -torch.inf)
        absent = ~there.inside | (tokens[:, :1] < 0)
        return target, flux.masked_fill(absent, torch.nan), logits.masked_fill(absent, torch.nan)

    def _encode(self, obs: Spectrum) -> Tensor:
        prepared = self._prepare(obs)
        exact, weights = self.precision == "float32", self._fast_weights()
        codes = self.quantizer.encode(_in_parts(lambda x: self.network.encode(x, exact, weights), prepared.x))
        tokens = torch.cat([prepared.level[:, None], codes], dim=1)
        return tokens.masked_fill(~prepared.valid[:, None], -1).reshape(-1, *self.spec.shape)

    def _decode(self, tokens: Tensor, wavelength: Array | None = None) -> Spectrum:  # type: ignore[override]
        target, flux, logits = self.decode_logits(tokens, wavelength)
        bad = ~(torch.sigmoid(logits) <= 0.5)
        declared = self.spec.tokenizer.range if self.spec.tokenizer else None
        if declared is not None:
            bad |= (target < declared[0]) | (target > declared[1])
        return Spectrum(flux, target, mask=bad, unit=self.spec.units)

    def _prepare(self, obs: Spectrum) -> _Prepared:
        """Return spectra on the latent grid, in the release's order of arithmetic."""
        config, pixels = self.config, Pixels.of(obs)
        flux = pixels.flux if config.clip_flux is None else pixels.flux.clamp(-config.clip_flux, config.clip_flux)
        ivar = pixels.ivar if config.clip_ivar is None else pixels.ivar.clamp(max=config.clip_ivar)
        used = pixels.good if self.blank_masked else ~pixels.masked
        mean = (flux * used.float()).sum(-1) / (used.sum(-1) + 1.0)
        level = torch.bucketize(torch.log10(mean.clamp(min=LEAST) + 1.0), self.levels)
        level = level.clamp(max=config.codebook_size - 1)
        scale = self._scale(level)[:, None]
        values = (flux / scale - 1.0) * config.input_scaling
        errors = (ivar.sqrt() / scale) * config.input_scaling
        if self.blank_masked:
            values, errors = pixels.bridged(values), errors.where(pixels.good, 0.0)
        to_latent = Interpolation.between(pixels.wavelength, self.grid)
        x = torch.stack([to_latent(values), to_latent(errors)], dim=-1).arcsinh()
        every = bool(pixels.good.all())
        known = to_latent.inside.float().expand(len(x), -1) if every else to_latent(pixels.good.float())
        return _Prepared(replace(pixels, ivar=ivar), x, level, known)

    def _chi(self, prepared: _Prepared, rows: Tensor, flux: Tensor) -> Tensor:
        """Return the mean squared residual of each spectrum ``[n]``, for flux ``[n, N]`` on the latent grid."""
        pixels = prepared.pixels
        wavelength = pixels.wavelength if len(pixels.wavelength) == 1 else pixels.wavelength[rows]
        back = Interpolation.between(self.grid, wavelength)
        weight = (pixels.ivar[rows] * (pixels.good[rows] & back.inside)).detach()
        square = weight * (back(flux) - pixels.flux[rows]).square()
        return square.sum(1) / (weight > 0).sum(1).clamp(min=1)

    def _scale(self, level: Tensor) -> Tensor:
        """Return the flux that a spectrum is divided by, from its first token."""
        return (10**self.levels - 1.0).clamp(min=LEAST)[level]

    def _fast_weights(self) -> dict[str, Tensor]:
        """Return the encoder's pointwise layers, converted, if the precision is not that of the weights."""
        kind = torch.float32 if self.precision == "float32" else fast_type(self.device)
        if kind == torch.float32:
            return {}
        return {k: p.to(kind) for k, p in self.network.encoder.named_parameters() if "pwconv" in k}

    def _constants(self) -> dict[str, Tensor]:
        """Return the tensors of the release that are no parameters."""
        config = self.config
        return {
            "_quantizer._quantizer.mask": self.quantizer.places,
            "normalization_quantizer.buckets": self.levels,
            "latent_grid.lambda_min": torch.tensor(config.lambda_min),
            "latent_grid.resolution": torch.tensor(config.resolution),
            "latent_grid.length": torch.tensor(config.num_pixels),
            "latent_grid._wavelength": self.grid,
        }

    def _with_constants(self, artifact: Artifact) -> Self:
        """Take the grids that the weights were trained with, bit for bit."""
        key = self.spec.key
        self.levels = fitting_tensor(artifact, "normalization_quantizer.buckets", tuple(self.levels.shape), key)
        self.grid = fitting_tensor(artifact, "latent_grid._wavelength", tuple(self.grid.shape), key)
        for name, values in (("levels of the mean flux", self.levels), ("latent wavelengths", self.grid[0])):
            if not bool((values.diff() > 0).all()):
                raise InputError(f"The weights for {key} are damaged: the {name} do not ascend.")
        return self.to(next(self.network.parameters()).device)

    def _require_weights(self) -> None:
        if next(self.network.parameters()).is_meta:
            raise AionError(
                f"{self.spec.key} has no weights yet: load them (load_tokenizer), or train them "
                f"(aion tokenizer train PATH --modalities {self.spec.key} --out DIR)."
            )


def _in_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a network to objects one by one on a CPU, else to all.

    One spectrum's activations fit into the cache, and its codes cannot depend on what else is in the batch: matrix
    products of other sizes are rounded differently.
    """
    parts = x.split(1) if x.device.type == "cpu" else (x,)
    return torch.cat([function(part) for part in parts])
