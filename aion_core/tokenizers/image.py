"""Images of any number of bands, from any survey, as a grid of codes: the tokenizer that image modalities share.

Its preprocessing and network are those of the AION-1 release (REFERENCE section 2; paper, appendix B.1), so that
released weights give released tokens. What it does otherwise is listed in docs/tokenizers.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from aion_core.contract import AionError, Band, InputError, ModalitySpec
from aion_core.observations import Image, Observation
from aion_core.release import Artifact
from aion_core.tokenizers import pixels
from aion_core.tokenizers.base import Precision, Tokenizer
from aion_core.tokenizers.fsq import levels_for
from aion_core.tokenizers.image_network import ImageConfig, ImageNetwork


@dataclass(frozen=True)
class Prepared:
    """An observation as the network is given it.

    Attributes
    ----------
    x
        Compressed images ``[B, n, S, S]``.
    flux, ivar
        What `x` was made of, in the common unit, and its inverse variance (0 where there is none), same shape.
    channels
        The network's channels of the n bands.
    present
        Which bands an object has a good pixel in, ``[B, n]``.
    bad
        Where there is no measurement, ``[B, n, S, S]``.
    """

    x: Tensor
    flux: Tensor
    ivar: Tensor | None
    channels: list[int]
    present: Tensor
    bad: Tensor


class ImageTokenizer(Tokenizer):
    """Codes of the central pixels of an image, each for a square of ``2^n_compressions`` pixels a side.

    Any bands that the modality declares may be missing, and so may a band of a single object (without a good pixel).
    An object without a good pixel in any band becomes −1. Larger images are cropped; smaller ones are refused.

    Training is the paper's (appendix B.1): `loss`; Adam, peak learning rate 5e-4, 1000 steps of warm-up, then cosine;
    64 images a GPU on 4 GPUs; surveys mixed by fixed ratios (the paper's 1 : 2 : 20), those exhausted start again until
    all are; 500 000 steps.

    Parameters
    ----------
    spec
        The modality; its bands and its settings (`ImageConfig`).
    network
        A network to share with other modalities; None: a new, untrained one for the spec's bands.
    """

    observation: ClassVar[type[Observation]] = Image
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "bfloat16")
    batch: int | None = 8
    #: What training is about, where not the paper's: the side of the crop (None: all that is encoded), the error in the
    #: compressed range that is forgiven everywhere (None: none; see `loss`), and what an uneven use of codes weighs.
    trained_size: int | None = None
    forgiven: float | None = None
    evening: float = 0.0
    small: ClassVar[Mapping[str, Any]] = {"hidden_dims": 16, "num_consecutive": 1}

    def __init__(self, spec: ModalitySpec, *, network: ImageNetwork | None = None, **config: Any) -> None:
        super().__init__(spec)
        declared = _declared(spec)
        if not declared:
            raise AionError(f"{spec.key} declares no bands; an image tokenizer needs them (TokenizerSpec.bands).")
        self.network = network or ImageNetwork.create(ImageConfig.of(config, spec.key), declared)
        sizes = self.network.config
        codes = self.network.quantizer.codes
        if codes > spec.vocab_size:
            raise InputError(f"The weights for {spec.key} have {codes} codes; its vocabulary is {spec.vocab_size}.")
        if len(spec.shape) != 2 or spec.shape[0] != spec.shape[1]:
            raise AionError(f"{spec.key}: image tokens are a square grid, not {list(spec.shape)}.")
        self.size = spec.shape[0] * 2**sizes.n_compressions
        self.network.bind(spec)

    @classmethod
    def build(cls, specs: Sequence[ModalitySpec], seed: int = 0, **config: Any) -> tuple[Self, ...]:
        if not specs:
            raise AionError("An image tokenizer is built for one modality at least.")
        bands: dict[str, Band] = {}
        for spec in specs:
            for band in _declared(spec):
                if bands.setdefault(band.name, band) != band:
                    raise AionError(f"{spec.key} declares the band {band.name} otherwise than another modality does.")
        first = specs[0]
        settings = {**(first.tokenizer.config if first.tokenizer else {}), **config}
        network = ImageNetwork.create(ImageConfig.of(settings, first.key), list(bands.values()), seed)
        return tuple(cls(spec, network=network) for spec in specs)

    @classmethod
    def codebook(cls, codes: int) -> tuple[int, dict[str, Any]]:
        """Return the settings of a codebook of about so many codes, and how many it has."""
        levels = levels_for(codes)
        return prod(levels), {"quantizer_levels": list(levels)}

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        if isinstance(sibling, ImageTokenizer):
            return cls(spec, network=sibling.network)
        return cls(spec, network=ImageNetwork.from_artifact(artifact, spec.key))

    def artifact(self) -> Artifact:
        return self.network.artifact()

    def bind(self, spec: ModalitySpec) -> Self:
        """Return the tokenizer of another modality with the same network, which is shared."""
        return type(self)(spec, network=self.network)

    # --- growth

    def grow(self, bands: Sequence[Band], seed: int = 0) -> Self:
        """Append channels for new bands, in place, for all modalities that share the network.

        Old bands keep their tokens and fingerprints: the scale of the embedding keeps the number of channels that it
        was first trained with. `bind` gives a modality that declares the new bands its tokenizer, and
        ``trainable_parameters(only_new=True)`` what there is to be trained.

        Raises
        ------
        InputError
            If the tokenizer has a band of that name.
        """
        names = [band.name for band in bands]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{twice[0]} is to be added twice; expected distinct bands.")
        self.network.grow(bands, seed)
        return self

    def trainable_parameters(self, only_new: bool = False) -> dict[str, nn.Parameter]:
        if not only_new:
            return super().trainable_parameters()
        if not self.network.added:
            return super().trainable_parameters(only_new=True)
        new = self.network.parameters_of(self.network.added)
        return {f"network.{name}": parameter for name, parameter in new.items()}

    # --- identity

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that the modality declares and the network has a channel for."""
        return tuple(band.name for band in _declared(self.spec) if self.network.channel(band.name) is not None)

    def settings(self) -> dict[str, Any]:
        config, first = self.network.config, self.network.subsample_in.first
        return {
            "bands": {name: self._facts(name) for name in self.bands},
            "first_channels": first,
            "range": [config.range_compression_factor, config.mult_factor],
            "size": self.size,
        }

    def _facts(self, name: str) -> list[float]:
        """Return what of a band decides on its tokens."""
        band, reference = self._band(name), self.network.config.reference_pixel_scale
        return [band.limit, band.zero_point, *([] if reference is None else [band.pixel_scale, reference])]

    def encode_tensors(self) -> Mapping[str, Tensor]:
        network, embedding = self.network, self.network.subsample_in
        modules = {"conv_in": network.model.conv_in, "layers": network.model.encoder_layers}
        modules |= {"proj": network.pre_quant_proj, "quantizer": network.quantizer}
        found = {f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}
        columns = {f"column.{name}": embedding.columns[self._channel(name)] for name in self.bands}
        return {**found, "bias": embedding.bias, **columns}

    # --- encoding and decoding

    def accept(self, obs: Observation) -> Image:
        """Return an observation in the unit of the modality of the network that its bands belong to."""
        if not isinstance(obs, Image):
            raise InputError(f"{self.spec.key} encodes Image, not {type(obs).__name__}.")
        owners = (self.spec, *self.network.members.values())
        mine = (spec for spec in owners if set(obs.bands) <= {band.name for band in _declared(spec)})
        return obs.in_unit(next(mine, self.spec).units).to(self.device)

    def prepare(self, obs: Image, size: int | None = None) -> Prepared:
        """Return an observation as the network is given it, or a smaller crop of it; nothing of it is changed.

        Raises
        ------
        InputError
            If it is smaller than the crop, or has a band that the network lacks.
        """
        height, width = obs.flux.shape[-2:]
        if min(height, width) < self.size:
            raise InputError(
                f"{self.spec.key} tokenizes the central {self.size} × {self.size} pixels, but the images have "
                f"{height} × {width}; cut larger ones, or pad these with pixels that the mask says are bad."
            )
        channels, config = [self._channel(name) for name in obs.bands], self.network.config
        cut = {n: pixels.crop(t, size or self.size) for n in obs.batched if (t := getattr(obs, n)) is not None}
        flux, ivar = cut["flux"], cut.get("ivar")
        bad = pixels.bad_pixels(flux, ivar, cut.get("mask"))
        limit, unit, own = self._units(obs)
        flux = pixels.fill((flux if own is None else flux * own).clamp(-limit, limit), bad) / unit
        x = pixels.compress(flux, config.range_compression_factor, config.mult_factor)
        if ivar is not None:
            ivar = (ivar * (unit if own is None else unit / own) ** 2).masked_fill(bad, 0.0)
        return Prepared(x, flux, ivar, channels, ~bad.flatten(2).all(dim=2), bad)

    def _units(self, obs: Image) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return per band ``[n, 1, 1]``: its limit, its unit in the common one, and what brings the flux to it.

        The last is None where the zero points are the bands' own.
        """
        bands = [self._band(name) for name in obs.bands]
        reference = self.network.config.reference_pixel_scale
        units = [pixels.unit_scale(band.zero_point) for band in bands]
        if reference is not None:
            units = [u * reference / (obs.pixel_scale or b.pixel_scale) for u, b in zip(units, bands, strict=True)]
        own = None
        if obs.zero_point is not None and obs.zero_point != tuple(band.zero_point for band in bands):
            pairs = zip(bands, obs.zero_point, strict=True)
            own = self._column([10 ** ((band.zero_point - found) / 2.5) for band, found in pairs])
        return self._column([band.limit for band in bands]), self._column(units), own

    def _encode(self, obs: Image) -> Tensor:
        if wrong := [name for name in obs.bands if name not in self.bands]:
            raise InputError(self._refusal(wrong[0]))
        if len(obs) == 1:  # a single image is convolved by other code than several, which rounds otherwise
            return self._encode(obs[[0, 0]])[:1]
        given = self.prepare(obs)
        features = self.network.features if self.precision == "float32" else self.network.fast_features
        codes = self.network.quantizer.encode(features(given.x, given.channels, given.present))
        return codes.masked_fill_(~given.present.any(dim=1)[:, None, None], -1)

    def _decode(self, tokens: Tensor, *, bands: Sequence[str] | None = None) -> Image:  # type: ignore[override]
        """Return images in the modality's bands, or in those asked for, each in its own survey's unit."""
        names = tuple(self.bands if bands is None else bands)
        channels = [self._channel(name) for name in names]
        flux = torch.cat([self._planes(part, channels) for part in tokens.split(self.batch or len(tokens) + 1)])
        image = Image(flux, names)
        _, unit, _ = self._units(image)
        known = set(names) <= set(self.bands)
        return Image(flux.mul_(unit), names, unit=self.spec.units if known else None)

    def _planes(self, tokens: Tensor, channels: Sequence[int]) -> Tensor:
        config = self.network.config
        y = self.network.readout(self.network.quantizer.decode(tokens.clamp(min=0)), channels)
        flux = pixels.expand(y, config.range_compression_factor, config.mult_factor)
        return flux.masked_fill((tokens < 0).flatten(1).all(dim=1)[:, None, None, None], torch.nan).contiguous()

    def reconstruct(self, obs: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, the crop's flux and what the codes decode to, ``[B, n, S, S]``; NaN where a pixel is bad.

        Fluxes are in the bands' own units.
        """
        tokens, given = self.encode(obs), self.accept(obs)
        flux, ivar, mask = (
            None if t is None else pixels.crop(t, self.size) for t in (given.flux, given.ivar, given.mask)
        )
        assert flux is not None
        bad, (_, _, own) = pixels.bad_pixels(flux, ivar, mask), self._units(given)
        decoded = self.decode(tokens, bands=given.bands)
        assert isinstance(decoded, Image)
        flux = flux if own is None else flux * own
        return tokens, flux.masked_fill(bad, torch.nan), decoded.flux.masked_fill(bad, torch.nan)

    def loss(self, *observations: Observation) -> dict[str, Tensor]:
        """Return ``nll``: half the squared residual over its variance (paper, equation 8), per object and averaged.

        Of every band the mean over its good pixels, of an object the mean over its bands, so that one with more bands
        counts no more. Residuals are those of the flux in the common unit, after the clamp; without inverse variances
        every pixel has 1. With `forgiven`, they are those in the compressed range (`_forgiving`). With `evening`, also
        ``unevenness``, so many times that of each observation's codes, averaged (of each process its own).
        Observations may be of any modalities that share the network: they pass it as one batch.
        """
        given = [self.prepare(self.accept(obs), self.trained_size) for obs in observations]
        network = self.network
        entered = torch.cat([network.enter(g.x, g.channels, g.present) for g in given])
        numbers = network.pre_quant_proj(network.model.narrow(entered))
        decoded = network.model.widen(network.post_quant_proj(network.quantizer(numbers)))
        total, count = decoded.sum() * 0.0, 0
        for g, part, obs in zip(given, decoded.split([len(g.x) for g in given]), observations, strict=True):
            y = network.leave(part, g.channels).float()
            squared = self._squared(g, y, self.accept(obs)) if self.forgiven is None else self._forgiving(g, y)
            chi2 = squared.sum(dim=(2, 3)) / (~g.bad).sum(dim=(2, 3)).clamp(min=1)
            bands = g.present.sum(dim=1)
            total = total + (0.5 * chi2.sum(dim=1) / bands.clamp(min=1)).sum()
            count += int((bands > 0).sum())
        terms = {"nll": total / max(count, 1)}
        if not self.evening:
            return terms
        # Of each survey by itself: together, one whose codes are even enough would let the other's be as they are.
        uneven = [network.quantizer.unevenness(own) for own in numbers.split([len(g.x) for g in given]) if len(own)]
        return terms | {"unevenness": self.evening * (torch.stack(uneven).mean() if uneven else total * 0.0)}

    def _squared(self, given: Prepared, found: Tensor, obs: Image) -> Tensor:
        """Return the squared residuals of the flux over their variances, ``[B, n, S, S]``."""
        config, (limit, unit, _) = self.network.config, self._units(obs)
        flux = pixels.expand_within(found, limit / unit, config.range_compression_factor, config.mult_factor)
        weight = (~given.bad).float() if given.ivar is None else given.ivar
        return weight * (given.flux - flux) ** 2

    def _forgiving(self, given: Prepared, found: Tensor) -> Tensor:
        """Return the squared residuals in the compressed range over their variances, ``[B, n, S, S]``.

        To the variance, that of the flux in linear approximation, the square of `forgiven` is added. So the brightest
        pixels of the brightest objects, known to a thousandth, do not outweigh all others.
        """
        assert self.forgiven is not None
        config, good = self.network.config, ~given.bad
        slope = config.mult_factor / torch.sqrt(1 + (given.flux / config.range_compression_factor) ** 2)
        variance = slope**2 if given.ivar is None else slope**2 / given.ivar.masked_fill(~good, 1.0)
        return good * (given.x - found) ** 2 / (variance + self.forgiven**2)

    def code_vectors(self) -> Tensor:
        return self.network.quantizer.places()

    def _band(self, name: str) -> Band:
        band = self.network.bands[self._channel(name)]
        assert band is not None
        return band

    def _channel(self, name: str) -> int:
        channel = self.network.channel(name)
        if channel is None:
            raise InputError(self._refusal(name))
        return channel

    def _refusal(self, name: str) -> str:
        known = ", ".join(self.bands) or "none of its bands"
        if self.network.channel(name) is not None:
            return f"{name} is not a band of {self.spec.key}, which has {known}."
        if name in {band.name for band in _declared(self.spec)}:
            return f"The weights of {self.spec.key} have no channel for {name} (they have {known}); grow them by it."
        return f"{self.spec.key} has no band {name}: it has {known}; a band can be added with grow(bands=[Band(…)])."

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)[:, None, None]


def _declared(spec: ModalitySpec) -> tuple[Band, ...]:
    return spec.tokenizer.bands if spec.tokenizer else ()
