"""Maps of one number per pixel in [0, 1] (a segmentation, a property) as a grid of codes.

The network is that of the AION-1 release (REFERENCE section 2): a convolutional autoencoder with batch norms, which
encode with their running statistics, and finite scalar quantization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from aion_core.contract import AionError, InputError, ModalitySpec
from aion_core.observations import Observation, ScalarField
from aion_core.release import Artifact
from aion_core.tokenizers import pixels
from aion_core.tokenizers.base import Tokenizer, check_names, fitting_tensor
from aion_core.tokenizers.config import NetworkConfig
from aion_core.tokenizers.fsq import FiniteScalarQuantizer, levels_for
from aion_core.tokenizers.networks2d import FieldDecoder, FieldEncoder, initialise

#: Maps that are convolved together at least.
FEWEST = 16


class FieldConfig(NetworkConfig):
    """Sizes of a scalar-field tokenizer, by the release's names.

    Attributes
    ----------
    encoder_output_dim, decoder_input_dim
        Channels of the widest layers of encoder and decoder; None: the encoder's.
    res_hidden_dims, num_res_layers
        Channels within a residual layer, and how many follow one another.
    num_downsamples
        How often height and width are halved.
    output_activation_extension
        If given, the sigmoid's range reaches this far beyond 0 and 1, and is cut there.
    levels
        Levels of the finite scalar quantizer.
    """

    encoder_output_dim: int = 128
    decoder_input_dim: int | None = None
    embedding_dim: int | None = None
    res_hidden_dims: int = 64
    num_res_layers: int = 2
    num_downsamples: int = 3
    output_activation_extension: float | None = None
    variational: bool = False
    levels: tuple[int, ...] = (8, 5, 5, 5)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.variational:
            raise ValueError("variational is true, which no released tokenizer is, and none here")
        if self.embedding_dim not in (None, len(self.levels)):
            raise ValueError(f"embedding_dim is {self.embedding_dim}, but there are {len(self.levels)} levels")
        if min(self.encoder_output_dim, self.decoder_dim) < 2**self.num_downsamples or self.num_downsamples < 1:
            raise ValueError(f"encoder_output_dim {self.encoder_output_dim} is too small to be halved at every step")
        return self

    @property
    def decoder_dim(self) -> int:
        """Channels of the decoder's widest layer."""
        return self.decoder_input_dim or self.encoder_output_dim


class FieldNetwork(nn.Module):
    """Encoder, quantizer and decoder, by the release's names."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.res_hidden_dims, config.num_res_layers, config.num_downsamples)
        dims = len(config.levels)
        self.encoder = FieldEncoder(config.encoder_output_dim, *sizes)
        self.encode_proj = nn.Conv2d(config.encoder_output_dim, dims, 1)
        self._quantizer = FiniteScalarQuantizer(config.levels)
        self.decode_proj = nn.Conv2d(dims, config.decoder_dim, 1)
        self.decoder = FieldDecoder(config.decoder_dim, *sizes)

    def features(self, x: Tensor) -> Tensor:
        """Return what is quantized, ``[B, d, h, w]``, of maps ``[B, 1, H, W]``."""
        return self.encode_proj(self.encoder(x))

    def steady_features(self, x: Tensor) -> Tensor:
        """Return the same to the last bit in any batch: a few maps are convolved by code that rounds otherwise."""
        missing = max(FEWEST - len(x), 0)
        return self.features(torch.cat([x, x.new_zeros(missing, *x.shape[1:])]))[: len(x)]

    def output(self, z: Tensor) -> Tensor:
        """Return maps ``[B, H, W]`` of quantized vectors ``[B, d, h, w]``; not yet cut to [0, 1]."""
        y = torch.sigmoid(self.decoder(self.decode_proj(z)))[:, 0]
        beyond = self.config.output_activation_extension
        return y if beyond is None else (1 + 2 * beyond) * y - beyond


class ScalarFieldTokenizer(Tokenizer):
    """Codes of the central pixels of a map, each for a square of ``2^num_downsamples`` pixels a side.

    Values beyond [0, 1] are cut to it. Pixels that are not finite are filled from those around; a map without a
    finite pixel becomes −1. Larger maps are cropped; smaller ones are refused.

    Training is the paper's: `loss`; AdamW, learning rate 1e-4, weight decay 0.01, batches of 256, 114 000 steps, and
    an exponential moving average of the weights (0.9999), which is what is kept.
    """

    observation: ClassVar[type[Observation]] = ScalarField
    batch: int | None = 64
    #: What an uneven use of codes weighs in the loss, where that is to be part of it (the paper's: nothing).
    evening: float = 0.0
    small: ClassVar[Mapping[str, Any]] = {"encoder_output_dim": 16, "res_hidden_dims": 8, "num_res_layers": 1}

    def __init__(self, spec: ModalitySpec, *, network: FieldNetwork | None = None, **config: Any) -> None:
        super().__init__(spec)
        if network is None:
            network = FieldNetwork(FieldConfig.of(config, spec.key))
            initialise(network, seed=0)
        self.network = network
        codes = network._quantizer.codes
        if codes > spec.vocab_size:
            raise InputError(f"The weights for {spec.key} have {codes} codes; its vocabulary is {spec.vocab_size}.")
        if len(spec.shape) != 2 or spec.shape[0] != spec.shape[1]:
            raise AionError(f"{spec.key}: tokens of a map are a square grid, not {list(spec.shape)}.")
        self.size = spec.shape[0] * 2**network.config.num_downsamples

    @classmethod
    def build(cls, specs: Sequence[ModalitySpec], seed: int = 0, **config: Any) -> tuple[Self, ...]:
        if not specs:
            raise AionError("A scalar-field tokenizer is built for one modality at least.")
        first = specs[0]
        settings = {**(first.tokenizer.config if first.tokenizer else {}), **config}
        network = FieldNetwork(FieldConfig.of(settings, first.key))
        initialise(network, seed)
        return tuple(cls(spec, network=network) for spec in specs)

    def artifact(self) -> Artifact:
        config = self.network.config.model_dump(mode="json")
        own = {"embedding_dim": len(self.network.config.levels), "ema_model_weights": False}
        return Artifact({**config, **own}, dict(self.network.state_dict()), {"format": "pt"})

    @classmethod
    def codebook(cls, codes: int) -> tuple[int, dict[str, Any]]:
        """Return the settings of a codebook of about so many codes, and how many it has."""
        levels = levels_for(codes)
        return prod(levels), {"levels": list(levels)}

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        if isinstance(sibling, ScalarFieldTokenizer):
            return cls(spec, network=sibling.network)
        known = {name: artifact.config[name] for name in FieldConfig.model_fields if name in artifact.config}
        config = FieldConfig.of(known, spec.key)
        with torch.device("meta"):
            network = FieldNetwork(config)
        renamed = {name.replace("_quantizer.", "quantizer.", 1): name for name in artifact.tensors}
        state: dict[str, Tensor] = {}
        for name, expected in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                state[name] = artifact.tensors.get(name, torch.zeros((), dtype=torch.int64))
            elif name != "_quantizer.levels":
                state[name] = fitting_tensor(artifact, name, tuple(expected.shape), spec.key)
        levels = artifact.tensors.get(renamed.get("quantizer.levels", ""))
        if levels is None or levels.tolist() != list(config.levels):
            found = "none" if levels is None else levels.tolist()
            raise InputError(
                f"The weights for {spec.key} do not fit: their levels are {found}, the configuration's "
                f"{list(config.levels)}."
            )
        state["_quantizer.levels"] = levels.to(torch.int32)
        # What the release averages over training steps lies beside the weights that it encodes with.
        check_names(artifact, {*state, "quantizer.levels"}, spec.key, extra=("ema.",))
        network.load_state_dict(state, assign=True)
        return cls(spec, network=network.eval())

    def settings(self) -> dict[str, Any]:
        return {"size": self.size}

    def encode_tensors(self) -> Mapping[str, Tensor]:
        parts = ("encoder.", "encode_proj.", "_quantizer.")
        state = self.network.state_dict()
        return {k: v for k, v in state.items() if k.startswith(parts) and not k.endswith("num_batches_tracked")}

    def _encode(self, obs: ScalarField) -> Tensor:
        x, bad = self._prepare(obs)
        codes = self.network._quantizer.encode(self.network.steady_features(x[:, None]))
        return codes.masked_fill_(bad.flatten(1).all(dim=1)[:, None, None], -1)

    def _decode(self, tokens: Tensor, **context: Any) -> ScalarField:
        if context:
            raise InputError(f"{self.spec.key} decodes without a context, not with {', '.join(context)}.")
        parts = tokens.split(self.batch or len(tokens) + 1)
        value = torch.cat([self.network.output(self.network._quantizer.decode(p.clamp(min=0))) for p in parts])
        missing = (tokens < 0).flatten(1).all(dim=1)
        return ScalarField(value.clamp(0, 1).masked_fill(missing[:, None, None], torch.nan))

    def reconstruct(self, obs: Observation) -> tuple[Tensor, Tensor, Tensor]:
        tokens, given = self.encode(obs), self.accept(obs)
        value = pixels.crop(given.value, self.size)
        bad = ~value.isfinite()
        decoded = self.decode(tokens)
        assert isinstance(decoded, ScalarField)
        return tokens, value.masked_fill(bad, torch.nan), decoded.value.masked_fill(bad, torch.nan)

    def code_vectors(self) -> Tensor:
        return self.network._quantizer.places()

    def loss(self, *observations: Observation) -> dict[str, Tensor]:
        """Return ``reconstruction``: the mean square of the error over the finite pixels of each object, averaged.

        With `evening`, also ``unevenness``, so many times that of the codes.
        """
        pairs = [self._prepare(self.accept(obs)) for obs in observations]
        x, bad = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        some = ~bad.flatten(1).all(dim=1)
        x, bad = x[some], bad[some]
        if not len(x):
            nothing = sum((p.sum() for p in self.parameters()), start=torch.zeros(())) * 0.0
            return {"reconstruction": nothing} | ({"unevenness": nothing} if self.evening else {})
        numbers = self.network.features(x[:, None])
        found = self.network.output(self.network._quantizer(numbers))
        error = ((found - x) ** 2).masked_fill(bad, 0.0).flatten(1).sum(dim=1)
        terms = {"reconstruction": (error / (~bad).flatten(1).sum(dim=1)).mean()}
        if self.evening:
            terms["unevenness"] = self.evening * self.network._quantizer.unevenness(numbers)
        return terms

    def _prepare(self, obs: ScalarField) -> tuple[Tensor, Tensor]:
        """Return the crop ``[B, S, S]`` as the network is given it, and where it is not measured."""
        height, width = obs.value.shape[-2:]
        if min(height, width) < self.size:
            raise InputError(
                f"{self.spec.key} tokenizes the central {self.size} × {self.size} pixels, but the maps have "
                f"{height} × {width}; cut larger ones, or pad these with NaN."
            )
        value = pixels.crop(obs.value, self.size)
        bad = pixels.bad_pixels(value, None, None)
        return pixels.fill(value.clamp(0, 1)[:, None], bad[:, None])[:, 0], bad
