"""Scalar fields: cases of parity, and a mutation for every step and every tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from aion.codecs.scalar_field import ScalarFieldCodec
from aion.modalities import LegacySurveySegmentationMap
from cases_image import randomize, to, zeroed
from parity_table import Case, Mutation, Pair, standardize
from torch import Tensor, nn

from aion_core.observations import ScalarField
from aion_core.plugins import load_registry
from aion_core.tokenizers import networks2d, pixels
from aion_core.tokenizers.base import read_tokenizer
from aion_core.tokenizers.field import FieldConfig, FieldNetwork
from aion_core.tokenizers.fsq import FiniteScalarQuantizer

SPEC = load_registry().resolve("legacy_segmap")


def maps(count: int, side: int = 96) -> Tensor:
    """Blobs with soft edges, cut to [0, 1], over a low noise."""
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    value = 0.2 * torch.rand(count, side, side, generator=generator)
    for i in range(count):
        for cy, cx, size in (torch.rand(9, 3, generator=generator) * torch.tensor([90.0, 90.0, 9.0])).tolist():
            value[i] += torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * (1 + size) ** 2))
    return value.clamp(0, 1)


def make_pair(config: dict[str, Any], value: Tensor) -> Pair:
    """Build the release's codec with random weights and statistics, save it its own way, and load it here."""
    codec = ScalarFieldCodec(**config, embedding_dim=len(config.get("levels", (8, 5, 5, 5)))).eval()
    randomize(codec)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in codec.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(1 + 0.2 * torch.randn(module.weight.shape, generator=generator))
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        standardize(codec.encode_proj, codec._encode(LegacySurveySegmentationMap(field=value)))
        z = torch.randn(2, codec.embedding_dim, *[96 // 2 ** config.get("num_downsamples", 3)] * 2)
        last = codec.decoder.net[-1]
        spread = codec.decoder(codec.decode_proj(codec.quantizer.quantize(z))).std()
        last.weight.div_(spread)
        last.bias.div_(spread)
    side = 96 // 2 ** config.get("num_downsamples", 3)
    spec = SPEC.model_copy(update={"shape": (side, side), "vocab_size": int(codec.quantizer.codebook_size)})
    with tempfile.TemporaryDirectory() as folder:
        codec.save_pretrained(folder, modality=LegacySurveySegmentationMap)
        tokenizer: Any = read_tokenizer(spec, Path(folder))
    return Pair(
        lambda: codec.encode(LegacySurveySegmentationMap(field=value)),
        lambda: tokenizer.encode(ScalarField(value)),
        lambda codes: codec.decode(codes).field,
        lambda codes: tokenizer.decode(codes).value,
        tokenizer,
    )


def case(config: str, sizes: dict[str, Any], what: str, value: Callable[[], Tensor], codes: int = 100) -> Case:
    return Case("legacy_segmap", config, what, lambda: make_pair(sizes, value()), codes=codes)


SMALL = {"encoder_output_dim": 32, "res_hidden_dims": 16}
ODD = {**SMALL, "decoder_input_dim": 48, "num_res_layers": 1, "output_activation_extension": 0.1, "levels": [7, 6, 5]}
BASE = case("width 32", SMALL, "101 × 101", lambda: maps(8, 101))
CASES = [
    case("release defaults, width 512", {"encoder_output_dim": 512}, "96 × 96", lambda: maps(4)),
    BASE,
    case("width 32 and 48, range ± 0.1, levels 7·6·5", ODD, "96 × 96", lambda: maps(16)),
    case("2 halvings", {**SMALL, "num_downsamples": 2}, "96 × 96", lambda: maps(4)),
]


def statistics_of_the_batch() -> Callable[[Any], AbstractContextManager[Any]]:
    return to(nn.BatchNorm2d, "forward", lambda self, x: nn.functional.batch_norm(
        x, None, None, self.weight, self.bias, training=True))  # fmt: skip


BOTH: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "batch norm with the batch's own statistics": statistics_of_the_batch(),
    "batch norm removed": to(nn.BatchNorm2d, "forward", lambda self, x: x),
    "ReLU removed": to(nn.ReLU, "forward", lambda self, x: x),
    "residual connection removed": to(networks2d.NormedResidual, "forward", lambda self, x: self.net(x)),
    "residual layers removed": to(networks2d.NormedResiduals, "forward", lambda self, x: x),
    "quantizer: digits reversed": to(FiniteScalarQuantizer, "_place", lambda self: torch.cumprod(torch.cat(
        [self.levels.new_ones(1), self.levels.flip(0)[:-1]]).long(), dim=0).flip(0)),
}  # fmt: skip
ENCODE = {
    "crop off by one pixel": to(pixels, "crop", lambda t, n: t[..., 0:n, 0:n]),
    "quantizer: margin removed": to(FiniteScalarQuantizer, "bound", lambda self, z: (
        torch.tanh(z) * (self.levels - 1) / 2 - torch.where(self.levels % 2 == 1, 0.0, 0.5))),
    "quantizer: no shift of even levels": to(FiniteScalarQuantizer, "bound", lambda self, z: (
        torch.tanh(z) * (self.levels - 1) * 1.001 / 2 - torch.where(self.levels % 2 == 1, 0.0, 0.5))),
}  # fmt: skip
DECODE = {"sigmoid removed": to(torch, "sigmoid", lambda x: x)}


def tensors(side: str) -> list[str]:
    with torch.device("meta"):
        names = [name for name, _ in FieldNetwork(FieldConfig(**SMALL)).named_parameters()]
    return [name for name in names if name.startswith("dec" if side == "decode" else "enc")]


MUTATIONS = [
    *(Mutation(BASE, step, side, apply) for side in ("encode", "decode") for step, apply in BOTH.items()),
    *(Mutation(BASE, step, "encode", apply) for step, apply in ENCODE.items()),
    *(Mutation(BASE, step, "decode", apply) for step, apply in DECODE.items()),
    *(Mutation(BASE, f"{n} = 0", side, zeroed(n)) for side in ("encode", "decode") for n in tensors(side)),
]
