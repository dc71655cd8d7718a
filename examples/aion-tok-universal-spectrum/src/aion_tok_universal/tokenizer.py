"""The universal spectral tokenizer: spectra on their own wavelengths to a fixed number of tokens, and back to any.

After arXiv 2510.17959 (REFERENCE section 4): patches of flux and of its certainty, the sinusoidal encoding of their
wavelengths added, a transformer over them, reconstruction weighted by mask and noise. What is different here:

- the patches of any spectrum are the same in number (see `aion_tok_universal.wavelengths`), which gives the modality a
  shape that is fixed, as a token space needs it;
- what the transformer says of a patch is quantized (finite scalar quantization), which gives it a vocabulary;
- three tokens in front say the level of the flux and the first and the last wavelength. So tokens alone tell where
  they lie, and they decode at whatever wavelengths are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import asinh, log, prod
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from aion_core.contract import AionError, ModalitySpec
from aion_core.observations import Array, Observation, Spectrum
from aion_core.release import Artifact
from aion_core.tokenizers.base import Tokenizer, check_names, fitting_tensor
from aion_core.tokenizers.config import NetworkConfig
from aion_core.tokenizers.fsq import FiniteScalarQuantizer
from aion_core.tokenizers.resampling import Pixels
from aion_tok_universal.network import Half, Whitening, initialise
from aion_tok_universal.wavelengths import CodeScale, Ladder, Layout, encoded

#: Tokens in front of those of the patches.
HEADER = 3
#: Fluxes beyond so many levels are no measurement, and pixels beyond so many levels of noise no use.
LARGEST = 1e3
#: The level itself, as the encoder sees it.
LEVEL = asinh(1.0)
#: By what all waves but the constant are multiplied before the network: features in a patch are small.
GAIN = 4.0
#: Pixels per patch where decoding is not told at which wavelengths.
FINE = 32


class UniversalConfig(NetworkConfig):
    """Sizes and constants of the network."""

    harmonics: int = Field(default=32, ge=1, description="waves that a patch is told in: half-waves between two places")
    frequencies: int = Field(default=32, ge=1, description="of the encoding of wavelengths")
    dim: int = Field(default=96, ge=2)
    heads: int = Field(default=4, ge=1)
    encoder_depth: int = Field(default=3, ge=0)
    decoder_depth: int = Field(default=2, ge=0)
    levels: tuple[int, ...] = Field(default=(7, 5, 5, 5, 5), min_length=1)
    wavelengths: tuple[float, float] = Field(default=(1e3, 3e5), description="Å; what lies outside is not seen")
    fluxes: tuple[float, float] = Field(default=(1e-6, 1e8), description="least and greatest level")
    floor: float = Field(default=0.05, gt=0, description="error that training is content with, in levels")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of heads {self.heads}")
        for name in ("wavelengths", "fluxes"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name} {low}, {high} are no range above 0")
        return self

    @property
    def waves(self) -> int:
        return 2 * self.harmonics + 1


class UniversalNetwork(nn.Module):
    """Encoder, to what is quantized, and decoder, to amplitudes of flux and of the logit of being bad."""

    def __init__(self, config: UniversalConfig, places: int) -> None:
        super().__init__()
        waves, digits, known = config.waves, len(config.levels), 2 * config.frequencies + 1
        self.encoder = Half(2 * waves + 1, known, digits, places, config.dim, config.encoder_depth, config.heads)
        self.whitening = Whitening(digits)
        self.decoder = Half(digits, known, 2 * waves, places, config.dim, config.decoder_depth, config.heads)

    def encode(self, patches: Tensor, known: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return what is quantized, ``[B, digits, places]``; training learns its spread from spectra that are valid."""
        z: Tensor = self.whitening(self.encoder(patches, known).float(), valid)
        return z.movedim(2, 1)


@dataclass(frozen=True)
class _Prepared:
    """Spectra ready for the network.

    Attributes
    ----------
    header
        The first tokens, ``[B, 3]``; of an object with nothing valid they mean nothing.
    ladder, layout
        Where its patches lie, and its pixels among them.
    flux, noise
        In units of the level, ``[B, L]``; 0 where a pixel is bad.
    good, inside
        Which pixels count, and which lie in the range of the tokens, ``[B, L]``.
    """

    header: Tensor
    ladder: Ladder
    layout: Layout
    flux: Tensor
    noise: Tensor
    good: Tensor
    inside: Tensor

    @property
    def valid(self) -> Tensor:
        return self.good.any(dim=1)


class UniversalSpectrumTokenizer(Tokenizer):
    """Tokens of spectra of any range and sampling; keyword arguments are the fields of `UniversalConfig`.

    Attributes
    ----------
    config
        Sizes and constants.
    network
        Shared by all tokenizers of an artifact.
    """

    observation: ClassVar[type[Observation]] = Spectrum
    preprocessing_version = 2
    batch: int | None = 64
    small: ClassVar[Mapping[str, Any]] = {
        "harmonics": 4,
        "frequencies": 6,
        "dim": 8,
        "heads": 2,
        "encoder_depth": 1,
        "decoder_depth": 1,
    }

    def __init__(self, spec: ModalitySpec, network: UniversalNetwork | None = None, **config: Any) -> None:
        super().__init__(spec)
        self.config = UniversalConfig.of(config, spec.key)
        codes, self.places = prod(self.config.levels), spec.n_tokens - HEADER
        if codes > spec.vocab_size or self.places < 2:
            raise AionError(
                f"{spec.key} has {spec.n_tokens} tokens of {spec.vocab_size} codes; levels {self.config.levels} need "
                f"{codes} codes, and {HEADER + 2} tokens at least."
            )
        self.quantizer = FiniteScalarQuantizer(self.config.levels)
        with torch.device("meta"):  # weights come from an artifact or from `build`
            self.network = UniversalNetwork(self.config, self.places) if network is None else network
        lowest, highest = self.config.wavelengths
        self.wavelengths = CodeScale(log(lowest), log(highest), codes)
        self.fluxes = CodeScale(log(self.config.fluxes[0]), log(self.config.fluxes[1]), codes)

    @classmethod
    def build(cls, specs: Sequence[ModalitySpec], seed: int = 0, **config: Any) -> tuple[Self, ...]:
        if not specs:
            raise AionError("A spectrum tokenizer is built for one modality at least; none was given.")
        settings = (specs[0].tokenizer.config if specs[0].tokenizer else {}) | config
        first = cls(specs[0], **settings)
        first.network.to_empty(device="cpu")
        initialise(first.network, seed)
        return first, *(cls(spec, first.network, **settings) for spec in specs[1:])

    # --- what it is

    def settings(self) -> dict[str, Any]:
        """Return the settings that change codes: all but those of the decoder and of the loss."""
        return self.config.model_dump(mode="json", exclude={"decoder_depth", "floor"}) | {"places": self.places}

    def encode_tensors(self) -> Mapping[str, Tensor]:
        self._require_weights()
        whitening = self.network.whitening
        parts = {"whitening.mean": whitening.running_mean, "whitening.covariance": whitening.running_covariance}
        return dict(self.network.encoder.named_parameters(prefix="encoder")) | parts

    def artifact(self) -> Artifact:
        self._require_weights()
        return Artifact(self.config.model_dump(mode="json"), dict(self.network.state_dict()), {"format": "pt"})

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        if isinstance(sibling, UniversalSpectrumTokenizer):
            return cls(spec, sibling.network, **artifact.config)
        tokenizer = cls(spec, **artifact.config)
        wanted = tokenizer.network.state_dict()
        check_names(artifact, wanted, spec.key)
        tensors = {name: fitting_tensor(artifact, name, tuple(t.shape), spec.key) for name, t in wanted.items()}
        tokenizer.network.load_state_dict(tensors, assign=True)
        return tokenizer

    def accept(self, obs: Observation) -> Any:
        self._require_weights()
        return super().accept(obs)

    # --- training

    def loss(self, *observations: Observation) -> dict[str, Tensor]:
        """Return ``flux`` and ``mask``.

        ``flux`` is half the squared residual in units of the error (that of the pixel, with `floor` of the level added
        in squares, so that the brightest do not count for all), averaged over the good pixels of each spectrum;
        ``mask`` is the binary cross-entropy of which pixels are bad. Spectra with no good pixel are left out.
        """
        parts = [self._prepare(self.accept(obs)) for obs in observations]
        whole = sum(int(p.valid.sum()) for p in parts)
        if not whole:
            nothing = sum(p.sum() for p in self.network.parameters()) * 0.0
            return dict.fromkeys(("flux", "mask"), torch.as_tensor(nothing))
        patches = torch.cat([self._patches(p) for p in parts])
        known = torch.cat([encoded(p.ladder, self.config.frequencies) for p in parts])
        valid = torch.cat([p.valid for p in parts])
        z = self.quantizer(self.network.encode(patches, known, valid)).movedim(1, 2)
        amplitudes = self._amplitudes(z, known).split([len(p.flux) for p in parts])
        flux, mask = zip(*(self._terms(p, a) for p, a in zip(parts, amplitudes, strict=True)), strict=True)
        return {"flux": torch.cat(flux).sum() / whole, "mask": torch.cat(mask).sum() / whole}

    def _terms(self, prepared: _Prepared, amplitudes: Tensor) -> tuple[Tensor, Tensor]:
        """Return both terms for each spectrum, ``[B]``; 0 for one with nothing valid."""
        flux, logit = self._composed(prepared.layout, amplitudes)
        weight = prepared.good / (prepared.noise.square() + self.config.floor**2)
        count = prepared.good.sum(1).clamp(min=1)
        square = 0.5 * (weight * (flux - prepared.flux).square()).sum(1) / count
        cross = F.binary_cross_entropy_with_logits(logit, 1.0 - prepared.good.float(), reduction="none")
        seen = prepared.inside & prepared.valid[:, None]
        return square, (cross * seen).sum(1) / seen.sum(1).clamp(min=1)

    # --- both ways

    def reconstruct(self, obs: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, flux and decoded flux, the last two ``[B, 1, L]`` on the wavelengths of the observation."""
        given = self.accept(obs)
        tokens = self.encode(given)
        decoded = self.decode(tokens, wavelength=given.wavelength).flux  # type: ignore[attr-defined]
        good = given.flux.isfinite() & (given.wavelength.isfinite() & (given.wavelength > 0))
        if given.mask is not None:
            good &= ~given.mask
        if given.ivar is not None:
            good &= given.ivar > 0
        return tokens, given.flux.where(good, torch.nan)[:, None], decoded[:, None]

    def _encode(self, obs: Spectrum) -> Tensor:
        # On a CPU, products of matrices of other sizes are rounded otherwise: one object at a time has the same codes
        # in every company.
        parts = [obs[i] for i in range(len(obs))] if self.device.type == "cpu" else [obs]
        tokens = [self._encode_together(part) for part in parts]
        whole = torch.cat(tokens) if tokens else torch.zeros(0, self.places + HEADER, dtype=torch.int64)
        return whole.reshape(-1, *self.spec.shape)

    def _encode_together(self, obs: Spectrum) -> Tensor:
        prepared = self._prepare(obs)
        known = encoded(prepared.ladder, self.config.frequencies)
        codes = self.quantizer.encode(self.network.encode(self._patches(prepared), known))
        return torch.cat([prepared.header, codes], dim=1).masked_fill(~prepared.valid[:, None], -1)

    def _decode(self, tokens: Tensor, wavelength: Array | None = None) -> Spectrum:  # type: ignore[override]
        """Return flux at wavelengths ``[L]`` or ``[B, L]`` (Å, any order); None: evenly over the tokens' own range.

        Outside of that range there is no flux, and the mask says bad, as it does where tokens say so.
        """
        self._require_weights()
        tokens = tokens.flatten(1)
        codes = tokens.clamp(0, prod(self.config.levels) - 1)
        ladder = Ladder.of(codes[:, 1], codes[:, 2], self.wavelengths, self.places)
        if wavelength is None:
            steps = torch.arange((self.places - 1) * FINE + 1, device=self.device) / FINE
            target = (ladder.first[:, None] + ladder.step[:, None] * steps).exp().float()
        else:
            length = np.shape(wavelength)[-1] if np.ndim(wavelength) else 0
            zeros = torch.zeros(1, 1, device=getattr(wavelength, "device", "cpu")).expand(len(tokens), length)
            target = Spectrum(zeros, wavelength).wavelength.to(self.device)
        position, inside = ladder.along(target)
        layout = Layout.of(position, self.places, self.config.harmonics)
        z = self.quantizer.decode(codes[:, HEADER:]).movedim(1, 2)
        flux, logit = self._composed(layout, self._amplitudes(z, encoded(ladder, self.config.frequencies)))
        absent = ~inside | (tokens[:, :1] < 0)
        flux = (flux * self._level(codes[:, 0])[:, None]).masked_fill(absent, torch.nan)
        return Spectrum(flux, target, mask=absent | (logit > 0), unit=self.spec.units)

    @torch.no_grad()
    def _prepare(self, obs: Spectrum) -> _Prepared:
        pixels = Pixels.of(obs)
        wavelength = pixels.wavelength.expand(pixels.flux.shape)
        lowest, highest = self.config.wavelengths
        good = pixels.good & (wavelength >= lowest) & (wavelength <= highest)
        some = good.any(dim=1)
        level = pixels.flux.abs().where(good, torch.nan).nanmedian(dim=1).values.where(some, 1.0)
        level_code = self.fluxes.place(level.double().clamp(min=self.config.fluxes[0]).log()).round().long()
        first = wavelength.where(good, torch.inf).amin(1).where(some, lowest).double()
        last = wavelength.where(good, 0.0).amax(1).where(some, highest).double()
        low = self.wavelengths.place(first.log()).floor().long()
        high = self.wavelengths.place(last.log()).ceil().long()
        ladder = Ladder.of(low, high, self.wavelengths, self.places)
        position, inside = ladder.along(wavelength)
        scale = self._level(level_code)[:, None]
        # Without an inverse variance, pixels are as certain as each other.
        noise = torch.zeros_like(pixels.flux) if obs.ivar is None else pixels.ivar.rsqrt() / scale
        return _Prepared(
            torch.stack([level_code, low, torch.maximum(high, low + 1)], dim=1),
            ladder,
            Layout.of(position, self.places, self.config.harmonics),
            (pixels.flux / scale).clamp(-LARGEST, LARGEST).where(good, 0.0),
            noise.clamp(max=LARGEST).where(good, 0.0),
            good,
            inside,
        )

    @torch.no_grad()
    def _patches(self, prepared: _Prepared) -> Tensor:
        """Return what the encoder is given of every patch, ``[B, places, 2 M + 1]``.

        Of each wave its mean with the flux (compressed by arcsinh, less the level's) and its mean alone, both weighted
        by how certain a pixel is; the latter tells which parts of the patch were seen. And, in all, how certain.
        """
        weight = prepared.good / (1.0 + prepared.noise.square())
        sums = prepared.layout.analyse(torch.stack([weight * (prepared.flux.arcsinh() - LEVEL), weight], dim=1))
        total = sums[:, :, 1:, :1]
        means = sums / total.clamp(min=1e-6) * (total > 0)
        gain = means.new_tensor([1.0] + [GAIN] * (self.config.waves - 1))
        return torch.cat([(means * gain).flatten(2), torch.log1p(total[..., 0]) / 4], dim=-1)

    def _amplitudes(self, z: Tensor, known: Tensor) -> Tensor:
        """Return the amplitudes of waves ``[B, places, 2, M]`` of levels of the quantizer ``[B, places, digits]``."""
        amplitudes: Tensor = self.network.decoder(z, known).float()
        return amplitudes.unflatten(2, (2, self.config.waves))

    def _composed(self, layout: Layout, amplitudes: Tensor) -> tuple[Tensor, Tensor]:
        """Return flux in levels and logit of being bad at pixels, ``[B, L]`` each; no amplitude at all is the level."""
        flux, logit = layout.compose(amplitudes).unbind(1)
        return flux + 1.0, logit

    def _level(self, code: Tensor) -> Tensor:
        """Return the flux that a spectrum is divided by, from its first token."""
        return self.fluxes.value(code).exp().float()

    def _require_weights(self) -> None:
        if next(self.network.parameters()).is_meta:
            raise AionError(
                f"{self.spec.key} has no weights yet: load them (load_tokenizer), or train them "
                f"(aion tokenizer train PATH --modalities {self.spec.key} --out DIR)."
            )
