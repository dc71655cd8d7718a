"""Small image tokenizers of real modalities, with random weights that use many codes, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aion_core.contract import ModalitySpec
from aion_core.observations import Image
from aion_core.plugins import load_registry
from aion_core.tokenizers.field import ScalarFieldTokenizer
from aion_core.tokenizers.image import ImageTokenizer

REGISTRY = load_registry()
HSC = ("HSC-G", "HSC-R", "HSC-I", "HSC-Z", "HSC-Y")
LEGACY = ("DES-G", "DES-R", "DES-I", "DES-Z")
TINY = {"hidden_dims": 16, "num_consecutive": 1, "multisurvey_projection_dims": 12}


def spec_of(key: str, side: int = 6) -> ModalitySpec:
    """The spec of an installed modality with a grid of `side` × `side` tokens."""
    return REGISTRY.resolve(key).model_copy(update={"shape": (side, side)})


@torch.no_grad()
def randomize(network: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if not name.endswith(("encoder_layers.7.1.weight", ".net.2.weight")) or parameter.ndim > 1:
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 9
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.3 / fan_in**0.5))


def noise(bands: tuple[str, ...], count: int, side: int = 24, seed: int = 1, level: float = 0.02) -> Tensor:
    """Noise around a blob in each image, in units of each band's limit."""
    generator = torch.Generator().manual_seed(seed)
    limits = {b.name: b.limit for key in ("hsc_image", "legacy_image") for b in REGISTRY.resolve(key).tokenizer.bands}
    flux = level * torch.randn(count, len(bands), side, side, generator=generator)
    distance = (torch.arange(side) - side / 2) ** 2
    flux += (
        0.3 * torch.exp(-(distance[:, None] + distance) / (side / 2)) * torch.rand(count, 1, 1, 1, generator=generator)
    )
    return flux * torch.tensor([limits.get(band, 10.0) for band in bands])[:, None, None]


def tokenizers(side: int = 6, seed: int = 0, **config: Any) -> tuple[ImageTokenizer, ImageTokenizer]:
    """HSC's and Legacy's tokenizer on one network, scaled before the quantizer so that many codes are in use."""
    specs = [spec_of(key, side) for key in ("hsc_image", "legacy_image")]
    hsc, legacy = ImageTokenizer.build(specs, seed, **TINY | config)
    randomize(hsc.network, seed)
    size, network = hsc.size, hsc.network
    with torch.no_grad():
        found = []
        for tokenizer, bands in ((hsc, HSC), (legacy, LEGACY)):
            given = tokenizer.prepare(Image(noise(bands, 8, size), bands))
            found.append(network.features(given.x, given.channels, given.present))
        flat = torch.cat(found).transpose(0, 1).flatten(1)
        network.pre_quant_proj.weight.div_(flat.std(dim=1)[:, None, None, None])
        network.pre_quant_proj.bias.sub_(flat.mean(dim=1)).div_(flat.std(dim=1))
        for weight in (*network.subsample_out.rows, *network.subsample_out.biases):
            weight.mul_(0.03)
    return hsc.eval(), legacy.eval()


def field_tokenizer(side: int = 3, seed: int = 0) -> ScalarFieldTokenizer:
    """A tokenizer of maps of ``8 · side`` pixels a side."""
    sizes = {"encoder_output_dim": 16, "res_hidden_dims": 8, "num_res_layers": 1}
    (tokenizer,) = ScalarFieldTokenizer.build([spec_of("legacy_segmap", side)], seed, **sizes)
    network = tokenizer.network
    randomize(network, seed)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        flat = network.eval().features(torch.rand(16, 1, 8 * side, 8 * side, generator=generator))
        flat = flat.transpose(0, 1).flatten(1)
        network.encode_proj.weight.div_(flat.std(dim=1)[:, None, None, None])
        network.encode_proj.bias.sub_(flat.mean(dim=1)).div_(flat.std(dim=1))
    return tokenizer
