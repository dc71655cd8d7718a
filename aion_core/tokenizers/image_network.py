"""The network that the image modalities of one artifact share, its band table, and how both are stored.

An artifact of ours says in its configuration, under ``aion_core``, which band each channel is. One of the release does
not: there a channel is unnamed until a modality that knows it (`Band.upstream_channel`) is bound to the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import sqrt
from typing import Any, Self

import torch
from pydantic import ValidationError, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from aion_core.contract import Band, InputError, ModalitySpec
from aion_core.engine.initialise import keyed_generator
from aion_core.release import Artifact
from aion_core.tokenizers.base import check_names, fitting_tensor
from aion_core.tokenizers.config import NetworkConfig
from aion_core.tokenizers.fsq import FiniteScalarQuantizer
from aion_core.tokenizers.networks2d import ConvAutoencoder, initialise
from aion_core.tokenizers.precision import fast_type
from aion_core.tokenizers.winograd import WithFewerProducts

#: Key of the configuration under which lies what the release does not have.
OWN = "aion_core"


class ImageConfig(NetworkConfig):
    """Sizes and constants of an image tokenizer, by the release's names; the defaults are the release's.

    Attributes
    ----------
    quantizer_levels
        Levels of the finite scalar quantizer.
    hidden_dims, n_compressions, num_consecutive
        See `ConvAutoencoder`; 70.06 million parameters as they stand.
    multisurvey_projection_dims
        What any number of bands is embedded into; about six times the channels (paper, appendix B.1.3).
    range_compression_factor, mult_factor
        Softening and factor of the range compression.
    reference_pixel_scale
        If given, fluxes are multiplied by the ratio of their pixel scale to this one (arcsec). The paper does so, the
        release does not.
    """

    quantizer_levels: tuple[int, ...] = (7, 5, 5, 5, 5)
    hidden_dims: int = 512
    multisurvey_projection_dims: int = 54
    n_compressions: int = 2
    num_consecutive: int = 4
    embedding_dim: int | None = None
    range_compression_factor: float = 0.01
    mult_factor: float = 10.0
    reference_pixel_scale: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        positive = ("hidden_dims", "multisurvey_projection_dims", "num_consecutive", "range_compression_factor")
        if wrong := [name for name in (*positive, "mult_factor") if not getattr(self, name) > 0]:
            raise ValueError(f"{wrong[0]} is {getattr(self, wrong[0])}; expected above 0")
        if self.n_compressions < 0 or self.hidden_dims % 2**self.n_compressions:
            raise ValueError(f"hidden_dims {self.hidden_dims} cannot be halved {self.n_compressions} times")
        if self.embedding_dim not in (None, len(self.quantizer_levels)):
            raise ValueError(
                f"embedding_dim is {self.embedding_dim}, but there are {len(self.quantizer_levels)} levels"
            )
        if self.reference_pixel_scale is not None and not self.reference_pixel_scale > 0:
            raise ValueError(f"reference_pixel_scale is {self.reference_pixel_scale}; expected arcsec above 0")
        return self

    def release(self) -> dict[str, Any]:
        """Return the release's own keys."""
        found = self.model_dump(mode="json", exclude={"reference_pixel_scale"})
        return found | {"embedding_dim": len(self.quantizer_levels)}


class ChannelEmbedding(nn.Module):
    """Some of C channels to D: linear, scaled by ``sqrt(C of first training / channels present)``.

    One parameter for each channel, so that one that is added later can be trained alone.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.columns = nn.ParameterList(nn.Parameter(torch.empty(out)) for _ in range(channels))
        self.bias = nn.Parameter(torch.empty(out))
        self.first = channels

    def matrix(self, channels: Sequence[int]) -> Tensor:
        """Return the weights of some channels, ``[D, n]``; all take part in the gradient."""
        return torch.stack(list(self.columns), dim=1)[:, list(channels)]

    def scale(self, present: Tensor) -> Tensor:
        """Return the factor of every object, ``[B, 1, 1, 1]``, of which channels it has, ``[B, n]``."""
        factor: Tensor = (self.first / present.sum(dim=1).clamp(min=1)) ** 0.5
        return factor[:, None, None, None]

    def forward(self, x: Tensor, channels: Sequence[int], present: Tensor) -> Tensor:
        """Embed ``[B, n, H, W]``, zero where a channel is absent, to ``[B, D, H, W]``."""
        y = F.linear(x.permute(0, 2, 3, 1), self.matrix(channels), self.bias)
        y = y * self.scale(present) if torch.is_grad_enabled() else y.mul_(self.scale(present))
        return y.permute(0, 3, 1, 2)


class ChannelReadout(nn.Module):
    """D features to some of C channels: linear, one row and bias for each channel."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(torch.empty(features)) for _ in range(channels))
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(1)) for _ in range(channels))

    def matrix(self, channels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the weights ``[n, D]`` and biases ``[n]`` of some channels; all take part in the gradient."""
        return torch.stack(list(self.rows))[list(channels)], torch.cat(list(self.biases))[list(channels)]

    def forward(self, x: Tensor, channels: Sequence[int]) -> Tensor:
        """Return ``[B, n, H, W]`` of ``[B, D, H, W]``."""
        return F.linear(x.permute(0, 2, 3, 1), *self.matrix(channels)).permute(0, 3, 1, 2)


class ImageNetwork(nn.Module):
    """Embedding, autoencoder and quantizer, with the band of every channel.

    Attributes
    ----------
    bands
        The band of each channel; None where no modality has named it yet.
    members
        The modalities bound to it, by key.
    added
        Names of the bands that were added since it was built or loaded.
    """

    def __init__(self, config: ImageConfig, bands: Sequence[Band | None], first: int | None = None) -> None:
        super().__init__()
        self.config, self.bands = config, list(bands)
        self.members: dict[str, ModalitySpec] = {}
        self.added: tuple[str, ...] = ()
        width, dims = config.multisurvey_projection_dims, len(config.quantizer_levels)
        self.subsample_in = ChannelEmbedding(len(bands), width)
        self.subsample_in.first = first or len(bands)
        self.subsample_out = ChannelReadout(len(bands), width)
        self.model = ConvAutoencoder(width, config.hidden_dims, config.n_compressions, config.num_consecutive)
        self.pre_quant_proj = nn.Conv2d(self.model.width, dims, 1)
        self.post_quant_proj = nn.Conv2d(dims, self.model.width, 1)
        self.quantizer = FiniteScalarQuantizer(config.quantizer_levels)
        self._fast: tuple[tuple[Any, ...], nn.Module] | None = None

    @classmethod
    def create(cls, config: ImageConfig, bands: Sequence[Band], seed: int = 0) -> Self:
        """Return an untrained network; its weights are functions of the seed and of parameters' and bands' names."""
        with torch.device("meta"):
            network = cls(config, bands)
        network.to_empty(device="cpu")
        network.quantizer = FiniteScalarQuantizer(config.quantizer_levels)
        initialise(network, seed)
        for i, band in enumerate(bands):
            network._start(i, band.name, seed)
        return network

    @torch.no_grad()
    def _start(self, channel: int, name: str, seed: int) -> None:
        """Set the initial weights of one channel."""
        embedding, readout = self.subsample_in, self.subsample_out
        bounds = {"subsample_in.columns": 1 / sqrt(embedding.first)}
        parts = {
            "subsample_in.columns": embedding.columns,
            "subsample_out.rows": readout.rows,
            "subsample_out.biases": readout.biases,
        }
        for part, parameters in parts.items():
            bound = bounds.get(part, 1 / sqrt(self.config.multisurvey_projection_dims))
            generator = keyed_generator(f"{part}.{name}", seed)
            values = torch.empty(parameters[channel].shape).uniform_(-bound, bound, generator=generator)
            parameters[channel].copy_(values)

    def channel(self, name: str) -> int | None:
        """Return the channel of a band, if there is one."""
        return next((i for i, band in enumerate(self.bands) if band is not None and band.name == name), None)

    def bind(self, spec: ModalitySpec) -> None:
        """Make a modality a member; of the bands that it declares, unnamed channels of the release become theirs."""
        for band in spec.tokenizer.bands if spec.tokenizer else ():
            place = band.upstream_channel
            if self.channel(band.name) is None and place is not None and place < len(self.bands):
                self.bands[place] = self.bands[place] or band
        self.members[spec.key] = spec

    def grow(self, bands: Sequence[Band], seed: int) -> None:
        """Append a channel for every band; nothing that was there changes."""
        for band in bands:
            if self.channel(band.name) is not None:
                raise InputError(f"The tokenizer has the band {band.name} already, and cannot be grown by it.")
        device = self.subsample_in.bias.device
        for band in bands:
            width = self.config.multisurvey_projection_dims
            self.subsample_in.columns.append(nn.Parameter(torch.empty(width)))
            self.subsample_out.rows.append(nn.Parameter(torch.empty(width)))
            self.subsample_out.biases.append(nn.Parameter(torch.empty(1)))
            self.bands.append(band)
            self._start(len(self.bands) - 1, band.name, seed)
        self.to(device)
        self.added += tuple(band.name for band in bands)

    def parameters_of(self, names: Sequence[str]) -> dict[str, nn.Parameter]:
        """Return the parameters that belong to some bands only."""
        channels = [i for i, band in enumerate(self.bands) if band is not None and band.name in names]
        parts = ("subsample_in.columns", "subsample_out.rows", "subsample_out.biases")
        wanted = {f"{part}.{i}" for part in parts for i in channels}
        return {name: parameter for name, parameter in self.named_parameters() if name in wanted}

    def features(self, x: Tensor, channels: Sequence[int], present: Tensor) -> Tensor:
        """Return what is quantized, ``[B, d, h, w]``, of compressed images ``[B, n, H, W]``."""
        return self.pre_quant_proj(self.model.encode(self.subsample_in(x, channels, present)))

    def fast_features(self, x: Tensor, channels: Sequence[int], present: Tensor) -> Tensor:
        """Return the same in bfloat16 where the device has it, else with fewer products on a CPU.

        Copies of the weights, arranged for that, are kept beside the others from then on.
        """
        dtype = fast_type(x.device)
        return self.pre_quant_proj(self._layers(dtype)(self.enter(x, channels, present, dtype)).float())

    def enter(self, x: Tensor, channels: Sequence[int], present: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the first features ``[B, width, H, W]`` of compressed images ``[B, n, H, W]``.

        The embedding and the first convolution, both linear, are one: a convolution of the bands themselves, and of a
        plane of ones for the embedding's bias (zero outside the image, as the padding).
        """
        first = self.model.conv_in.conv
        matrix = torch.cat([self.subsample_in.matrix(channels), self.subsample_in.bias[:, None]], dim=1)
        kernel = torch.einsum("ombd,mc->ocbd", first.weight, matrix)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1) * self.subsample_in.scale(present)
        x, kernel = (t.to(dtype, memory_format=torch.channels_last) for t in (x, kernel))
        return F.conv2d(x, kernel, None if first.bias is None else first.bias.to(dtype), padding=first.padding)

    def leave(self, h: Tensor, channels: Sequence[int]) -> Tensor:
        """Return compressed images ``[B, n, H, W]`` of the last features ``[B, width, H, W]``.

        The last convolution and the readout, both linear, are one.
        """
        last, readout = self.model.conv_out.conv, self.subsample_out
        rows, bias = readout.matrix(channels)
        if last.bias is not None:
            bias = bias + rows @ last.bias
        return F.conv2d(h, torch.einsum("nm,mcbd->ncbd", rows, last.weight), bias, padding=last.padding)

    def _layers(self, dtype: torch.dtype) -> nn.Module:
        """Return the encoder's layers after the first for fast encoding, made anew when the weights have changed."""
        layers = nn.Sequential(*self.model.encoder_layers)
        if dtype == torch.float32 and self.subsample_in.bias.device.type != "cpu":
            return layers
        version = tuple((p.data_ptr(), p._version) for p in self.model.parameters())
        if self._fast is None or self._fast[0] != version:
            made = WithFewerProducts(layers) if dtype == torch.float32 else deepcopy(layers).to(dtype)
            self._fast = version, made
        return self._fast[1]

    def readout(self, z: Tensor, channels: Sequence[int]) -> Tensor:
        """Return compressed images ``[B, n, H, W]`` of quantized vectors ``[B, d, h, w]``."""
        return self.subsample_out(self.model.decode(self.post_quant_proj(z)), channels)

    def artifact(self) -> Artifact:
        """Return the release's tensors, and its configuration with the band table added."""
        tensors = {k: v.detach() for k, v in self.state_dict().items() if not k.startswith("subsample_")}
        tensors["_quantizer.levels"] = tensors.pop("quantizer.levels")
        embedding, readout = self.subsample_in, self.subsample_out
        tensors["subsample_in.weight"] = torch.stack(list(embedding.columns), dim=1).detach()
        tensors["subsample_in.bias"] = embedding.bias.detach()
        tensors["subsample_out.weight"] = torch.stack(list(readout.rows)).detach()
        tensors["subsample_out.bias"] = torch.cat(list(readout.biases)).detach()
        own = {
            "bands": [band and band.model_dump(mode="json") for band in self.bands],
            "first_channels": embedding.first,
            "reference_pixel_scale": self.config.reference_pixel_scale,
        }
        return Artifact(self.config.release() | {OWN: own}, tensors, {"format": "pt"})

    @classmethod
    def from_artifact(cls, artifact: Artifact, whose: str) -> Self:
        """Return the network that an artifact holds; `whose` is the modality to name in errors."""
        own = artifact.config.get(OWN) or {}
        known = {name: artifact.config[name] for name in ImageConfig.model_fields if name in artifact.config}
        config = ImageConfig.of({**known, "reference_pixel_scale": own.get("reference_pixel_scale")}, whose)
        weight = artifact.tensors.get("subsample_in.weight")
        width = config.multisurvey_projection_dims
        count = weight.shape[1] if weight is not None and weight.ndim == 2 else len(own.get("bands", ())) or 1
        embed = fitting_tensor(artifact, "subsample_in.weight", (width, count), whose)
        rows = fitting_tensor(artifact, "subsample_out.weight", (count, width), whose)
        biases = fitting_tensor(artifact, "subsample_out.bias", (count,), whose)
        with torch.device("meta"):
            network = cls(config, _bands(own, count, whose), own.get("first_channels"))
        state: dict[str, Tensor] = {}
        for name, expected in network.state_dict().items():
            if not name.startswith(("subsample_", "quantizer.")):
                state[name] = fitting_tensor(artifact, name, tuple(expected.shape), whose)
        levels = artifact.tensors.get("_quantizer.levels", artifact.tensors.get("quantizer.levels"))
        if levels is None or levels.tolist() != list(config.quantizer_levels):
            found = "none" if levels is None else levels.tolist()
            raise InputError(
                f"The weights for {whose} do not fit: their levels are {found}, the configuration's "
                f"{list(config.quantizer_levels)}."
            )
        state["quantizer.levels"] = levels.to(torch.int32)
        state["subsample_in.bias"] = fitting_tensor(artifact, "subsample_in.bias", (width,), whose)
        for i in range(count):
            state[f"subsample_in.columns.{i}"] = embed[:, i].clone()
            state[f"subsample_out.rows.{i}"] = rows[i].clone()
            state[f"subsample_out.biases.{i}"] = biases[i : i + 1].clone()
        check_names(artifact, {*state, "_quantizer.levels", "subsample_in.weight", "subsample_out.weight",
                               "subsample_out.bias"}, whose)  # fmt: skip
        network.load_state_dict(state, assign=True)
        return network.eval()


def _bands(own: Mapping[str, Any], count: int, whose: str) -> list[Band | None]:
    """Return the band table of a configuration; one of the release has none."""
    stated = own.get("bands")
    if stated is None:
        return [None] * count
    try:
        bands = [None if band is None else Band.model_validate(band) for band in stated]
    except (ValidationError, TypeError) as error:
        raise InputError(
            f"The band table of the weights for {whose} is damaged ({str(error).splitlines()[0]})."
        ) from None
    names = [band.name for band in bands if band is not None]
    if len(bands) != count or len(set(names)) != len(names):
        raise InputError(
            f"The band table of the weights for {whose} names {len(bands)} channels; the weights have {count}."
        )
    first = own.get("first_channels")
    if first is not None and not (isinstance(first, int) and 1 <= first <= count):
        raise InputError(f"The weights for {whose} say that they were first trained with {first} of {count} channels.")
    return bands
