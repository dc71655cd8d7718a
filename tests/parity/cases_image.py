"""Images: cases of parity, and a mutation for every step and every tensor."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from aion.codecs.image import ImageCodec
from aion.modalities import HSCImage, LegacySurveyImage
from parity_table import Case, Mutation, Pair, standardize
from torch import Tensor, nn

from aion_core.observations import Image
from aion_core.plugins import load_registry
from aion_core.tokenizers import networks2d, pixels
from aion_core.tokenizers.base import read_tokenizer
from aion_core.tokenizers.fsq import FiniteScalarQuantizer
from aion_core.tokenizers.image_network import ChannelEmbedding

REGISTRY = load_registry()
HSC = ("HSC-G", "HSC-R", "HSC-I", "HSC-Z", "HSC-Y")
LEGACY = ("DES-G", "DES-R", "DES-I", "DES-Z")
LEVELS = [7, 5, 5, 5, 5]
SMALL = {"quantizer_levels": LEVELS, "hidden_dims": 32, "num_consecutive": 2}


@torch.no_grad()
def randomize(codec: nn.Module, seed: int = 0) -> None:
    """Give every tensor of a network, biases, norms and gates too, values that matter to its output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in codec.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        norm = parameter.ndim == 1 and ("encoder_layers" in name or ".net." in name) and name.endswith(".1.weight")
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 9
        parameter.copy_(1 + 0.2 * noise if norm else noise * (1.3 / fan_in**0.5))


def images(bands: tuple[str, ...], count: int, height: int = 96, width: int = 96, seed: int = 1) -> Tensor:
    """Noise around bright blobs, with heavy tails that reach beyond every band's limit."""
    from aion.codecs.preprocessing.band_to_index import BAND_CENTER_MAX

    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    flux = torch.empty(count, len(bands), height, width)
    for i in range(count):
        cy, cx, size = (torch.rand(3, generator=generator) * torch.tensor([40.0, 40.0, 12.0])).tolist()
        blob = torch.exp(-((y - 28 - cy) ** 2 + (x - 28 - cx) ** 2) / (2 * (2 + size) ** 2))
        for c, band in enumerate(bands):
            limit = BAND_CENTER_MAX[band]
            noise = torch.randn(height, width, generator=generator)
            flux[i, c] = limit * (0.01 * noise + 0.002 * noise**5 + 5 * blob * (c + 1) / len(bands))
    return flux


def make_pair(key: str, config: dict[str, Any], flux: Tensor, bands: tuple[str, ...]) -> Pair:
    """Build the release's codec with random weights, save it its own way, and load it here."""
    modality = HSCImage if key == "hsc_image" else LegacySurveyImage
    side = 96 // 2 ** config.get("n_compressions", 2)
    codec = ImageCodec(**config).eval()
    randomize(codec)
    given = modality(flux=flux.clone(), bands=list(bands))
    with torch.no_grad():
        standardize(codec.pre_quant_proj, codec._encode(given))
        z = codec.quantizer.quantize(torch.randn(2, len(config["quantizer_levels"]), side, side))
        decoded = codec.decoder(codec.post_quant_proj(z))
        output = codec.subsample_out(decoded, torch.ones(2, 9, dtype=torch.bool))
        standardize(codec.subsample_out, output, to=0.3 * config.get("mult_factor", 10.0) / 10)  # sinh comes after it
    # Decoding HSC calls a method that the release does not have; this is what it must have meant.
    codec.rescaler._reverse_zeropoint = codec.rescaler.convert_zeropoint
    spec = REGISTRY.resolve(key)
    codes = torch.tensor(config["quantizer_levels"]).prod().item()
    spec = spec.model_copy(update={"shape": (side, side), "vocab_size": codes})
    with tempfile.TemporaryDirectory() as folder:
        codec.save_pretrained(folder, modality=modality)
        tokenizer: Any = read_tokenizer(spec, Path(folder))

    def peer_encode() -> Tensor:
        return codec.encode(modality(flux=flux.clone(), bands=list(bands)))  # a copy, for it is written to

    return Pair(
        peer_encode,
        lambda: tokenizer.encode(Image(flux, bands)),
        # In the parts that ours decodes in: convolutions of 8 images and of 64 are rounded differently, the release's
        # own as well, and sinh makes up to 1.1e-5 of it.
        lambda codes: torch.cat([codec.decode(part, bands=list(bands)).flux for part in codes.split(tokenizer.batch)]),
        lambda codes: tokenizer.decode(codes, bands=bands).flux,
        tokenizer,
    )


def case(key: str, config: str, sizes: dict[str, Any], what: str, flux: Callable[[], Tensor], bands: Any) -> Case:
    return Case(key, config, what, lambda: make_pair(key, sizes, flux(), bands))


RELEASED = {"quantizer_levels": LEVELS}
ODD = {
    "1 compression": {**SMALL, "n_compressions": 1, "num_consecutive": 1},
    "3 compressions, levels 8·6·5": {**SMALL, "n_compressions": 3, "quantizer_levels": [8, 6, 5], "embedding_dim": 3},
    "projection 20, softening 0.1, factor 3": {
        **SMALL, "multisurvey_projection_dims": 20, "range_compression_factor": 0.1, "mult_factor": 3.0,
    },
}  # fmt: skip
BASE = case("hsc_image", "hidden 32", SMALL, "5 bands, 99 × 103", partial(images, HSC, 3, 99, 103), HSC)
CASES = [
    case("legacy_image", "released (70.06 M)", RELEASED, "4 bands, 96 × 96", partial(images, LEGACY, 2), LEGACY),
    case("hsc_image", "released (70.06 M)", RELEASED, "5 bands, 160 × 160", partial(images, HSC, 2, 160, 160), HSC),
    BASE,
    case("legacy_image", "hidden 32", SMALL, "4 bands, 64 images", partial(images, LEGACY, 64), LEGACY),
    case("legacy_image", "hidden 32", SMALL, "bands z, g", partial(images, ("DES-Z", "DES-G"), 4), ("DES-Z", "DES-G")),
    case("hsc_image", "hidden 32", SMALL, "band i only", partial(images, ("HSC-I",), 4), ("HSC-I",)),
    *(
        case(key, name, sizes, f"{len(bands)} bands, 97 × 96", partial(images, bands, 4, 97, 96), bands)
        for name, sizes in ODD.items()
        for key, bands in (("legacy_image", LEGACY), ("hsc_image", HSC))
    ),
]


def to(target: Any, name: str, new: Any) -> Callable[[Any], AbstractContextManager[Any]]:
    """Replace an attribute, whatever the tokenizer."""
    return lambda _: patch.object(target, name, new)


def within(path: str, name: str, new: Any) -> Callable[[Any], AbstractContextManager[Any]]:
    """Replace an attribute of what lies at a dotted path within the tokenizer; `new` is a function of it."""

    @contextmanager
    def apply(tokenizer: Any) -> Iterator[None]:
        target = tokenizer
        for part in path.split("."):
            target = getattr(target, part) if part else target
        with patch.object(target, name, new(target)):
            yield

    return apply


def zeroed(name: str) -> Callable[[Any], AbstractContextManager[Any]]:
    """Set a tensor of the network to zero."""

    @contextmanager
    def apply(tokenizer: Any) -> Iterator[None]:
        parameter = dict(tokenizer.network.named_parameters())[name]
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.zero_()
        try:
            yield
        finally:
            with torch.no_grad():
                parameter.copy_(kept)

    return apply


def bands_with(**change: Callable[[Any], Any]) -> Callable[[Any], AbstractContextManager[Any]]:
    """Alter the band table."""
    update = lambda band: band and band.model_copy(update={k: f(band) for k, f in change.items()})  # noqa: E731
    return within("network", "bands", lambda network: [update(band) for band in network.bands])


def swapped(network: Any) -> list[Any]:
    first, second, *rest = network.bands
    return [second, first, *rest]


IDENTITY = lambda x, *_: x  # noqa: E731
ENCODE: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "clamp removed": bands_with(limit=lambda band: 1e30),
    "clamp twice as high": bands_with(limit=lambda band: 2 * band.limit),
    "clamp of one band 10 % lower": within("network", "bands", lambda n: [
        b and b.model_copy(update={"limit": b.limit * (0.9 if b.name == "HSC-R" else 1)}) for b in n.bands]),
    "zero point ignored": bands_with(zero_point=lambda band: 22.5),
    "zero point off by 0.01 mag": bands_with(zero_point=lambda band: band.zero_point + 0.01),
    "pixel-scale ratio applied": within("network", "config", lambda n: n.config.model_copy(
        update={"reference_pixel_scale": 0.262})),
    "crop off by one pixel": to(pixels, "crop", lambda t, n: t[..., 0:n, 0:n]),
    "range compression removed": to(pixels, "compress", lambda x, softening, factor: x * factor),
    "arcsinh → log": to(pixels, "compress", lambda x, s, f: torch.sign(x) * torch.log1p(x.abs() / s) * s * f),
    "factor of the compression removed": to(pixels, "compress", lambda x, s, f: torch.asinh(x / s) * s),
    "softening twice as large": within("network", "config", lambda n: n.config.model_copy(
        update={"range_compression_factor": 0.02})),
    "bands swapped": within("network", "bands", swapped),
    "scale sqrt(C / valid) removed": to(ChannelEmbedding, "scale", lambda self, present: torch.ones(1)),
    "scale sqrt(C / valid) with another C": within("network.subsample_in", "first", lambda e: e.first + 1),
    "scale not on the bias": to(ChannelEmbedding, "forward", lambda self, x, channels, present: (
        self.scale(present) * torch.einsum("bchw,dc->bdhw", x, self.matrix(channels)) + self.bias[:, None, None])),
    "ELU removed": to(networks2d.F, "elu_", IDENTITY),
    "ELU → ReLU": to(networks2d.F, "elu_", torch.relu_),
    "squeeze-excite removed": to(networks2d.SqueezeExcite, "forward", lambda self, x: torch.ones_like(x[..., :1, :1])),
    "squeeze-excite: plain mean": to(networks2d.SqueezeExcite, "forward", lambda self, x: self.net(
        x.mean(dim=(2, 3), keepdim=True))),
    "squeeze-excite: LeakyReLU → ReLU": to(nn.LeakyReLU, "forward", lambda self, x: x.relu()),
    "squeeze-excite: sigmoid removed": to(nn.Sigmoid, "forward", lambda self, x: x),
    "residual connection removed": to(networks2d.ResidualUnit, "forward", lambda self, x: self.net[:4](x) * self.net[4](
        self.net[:4](x))),
    "residual units removed": to(networks2d.ResidualUnit, "forward", lambda self, x: x),
    "norm removed": to(networks2d.ChannelNorm, "forward", lambda self, x: x),
    "norm over pixels": to(networks2d.ChannelNorm, "forward", lambda self, x: nn.functional.instance_norm(x)),
    "quantizer: bound removed": to(FiniteScalarQuantizer, "bound", lambda self, z: z),
    "quantizer: margin removed": to(FiniteScalarQuantizer, "bound", lambda self, z: (
        torch.tanh(z) * (self.levels - 1) / 2)),
    "quantizer: digits reversed": to(FiniteScalarQuantizer, "_place", lambda self: torch.cumprod(torch.cat(
        [self.levels.new_ones(1), self.levels.flip(0)[:-1]]).long(), dim=0).flip(0)),
    "quantizer: levels in another order": within("network.quantizer", "levels", lambda q: q.levels.roll(1)),
}  # fmt: skip
DECODE: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "zero point ignored": bands_with(zero_point=lambda band: 22.5),
    "expansion removed": to(pixels, "expand", lambda y, s, f: y / f),
    "factor of the expansion removed": to(pixels, "expand", lambda y, s, f: torch.sinh(y / s) * s),
    "bands swapped": within("network", "bands", swapped),
    "ELU removed": to(networks2d.F, "elu_", IDENTITY),
    "squeeze-excite removed": to(networks2d.SqueezeExcite, "forward", lambda self, x: torch.ones_like(x[..., :1, :1])),
    "residual connection removed": to(networks2d.ResidualUnit, "forward", lambda self, x: self.net[:4](x) * self.net[4](
        self.net[:4](x))),
    "upsampling: SiLU removed": to(nn.SiLU, "forward", lambda self, x: x),
    "upsampling: rows and columns of a block swapped": to(networks2d.Upsample, "forward", lambda self, x: nn.functional
        .pixel_shuffle(self.net(x).unflatten(1, (-1, 2, 2)).transpose(2, 3).flatten(1, 3), 2)),
    "upsampling: nearest pixel": to(networks2d.Upsample, "forward", lambda self, x: (
        self.net(x)[:, ::4].repeat_interleave(2, 2).repeat_interleave(2, 3))),
    "quantizer: digits reversed": to(FiniteScalarQuantizer, "_place", lambda self: torch.cumprod(torch.cat(
        [self.levels.new_ones(1), self.levels.flip(0)[:-1]]).long(), dim=0).flip(0)),
    "quantizer: not normalised": to(FiniteScalarQuantizer, "decode", lambda self, codes: (
        codes.unsqueeze(-1) // self._place() % self.levels - self.levels // 2).float().movedim(-1, 1)),
}  # fmt: skip


def tensors(side: str) -> list[str]:
    """Return the names of the tensors that a side reads for the base case."""
    spec = REGISTRY.resolve("hsc_image")
    bands = spec.tokenizer.bands
    from aion_core.tokenizers.image_network import ImageConfig, ImageNetwork

    with torch.device("meta"):
        names = [name for name, _ in ImageNetwork(ImageConfig.of(SMALL, "x"), bands).named_parameters()]
    out = ("subsample_out", "post_quant_proj", "model.decoder_layers", "model.conv_out")
    found = [name for name in names if name.startswith(out) == (side == "decode")]
    # A constant added to all of a softmax's arguments cancels: the release's tensor of that name does nothing.
    return [name for name in found if not name.endswith("to_k.bias")]


#: Residual units after the first of each side.
REPEATED = re.compile(r"(encoder_layers\.[1-6]|decoder_layers\.[0-5])\.\d+\.net")

MUTATIONS = [
    *(Mutation(BASE, step, "encode", apply) for step, apply in ENCODE.items()),
    *(Mutation(BASE, step, "decode", apply) for step, apply in DECODE.items()),
    *(
        Mutation(BASE, f"{n} = 0", side, zeroed(n), slow=bool(REPEATED.search(n)))
        for side in ("encode", "decode")
        for n in tensors(side)
    ),
]
