"""Small tokenizers of spectra, with weights whose codes vary, and spectra for them."""

from __future__ import annotations

from typing import Any

import torch

from aion_core.contract import ModalitySpec, Provenance, TokenizerSpec
from aion_core.observations import Spectrum
from aion_core.tokenizers.spectrum import SpectrumTokenizer

SMALL: dict[str, Any] = {
    "encoder_depths": [1, 1],
    "encoder_dims": [8, 16],
    "decoder_depths": [1, 1],
    "decoder_dims": [12, 2],
    "latent_channels": 16,
    "num_pixels": 256,
    "resolution": 4.0,
    "lambda_min": 4000.0,
}  # the latent grid is 4000 … 5020 Å, and a token spans 32 Å
GRID = torch.linspace(4010, 5000, 300)


def make_spec(name: str = "spectrum", low: float = 3900.0, high: float = 4900.0, tokens: int = 33) -> ModalitySpec:
    return ModalitySpec(
        key=f"toy_{name}",
        upstream_codec="spectrum",
        survey="Toy",
        title="spectrum",
        citation="none",
        kind="spectrum",
        quantity="phot.flux.density;em.wl",
        units="1e-17 erg / (s cm2 Angstrom)",
        vocab_size=1024,
        shape=(tokens,),
        position="grid2d",
        provenance=Provenance(id=1 if name == "spectrum" else 2, instrument="none", release="none"),
        tokenizer=TokenizerSpec(
            path="aion_core.tokenizers.spectrum:SpectrumTokenizer", range=(low, high), config=SMALL
        ),
    )


SPEC = make_spec()


@torch.no_grad()
def lively(tokenizer: SpectrumTokenizer, seed: int = 0) -> SpectrumTokenizer:
    """Give every parameter a value that matters, and the projection before the quantizer outputs around zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tokenizer.network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1 and not name.endswith(("gamma", "beta")):
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        else:
            parameter.add_(0.2 * noise)
    grid = tokenizer.grid[0, 5:-5]
    z = tokenizer.network.encode(tokenizer._prepare(spectra(16, grid)).x).flatten(0, 1)
    projection = tokenizer.network.quant_conv
    projection.weight.div_(z.std(0)[:, None, None])
    projection.bias.sub_(z.mean(0)).div_(z.std(0))
    return tokenizer


def make_tokenizer(spec: ModalitySpec = SPEC, **config: Any) -> SpectrumTokenizer:
    return lively(SpectrumTokenizer.build([spec], **config)[0])


def spectra(count: int, wavelength: torch.Tensor = GRID, seed: int = 1, **fields: Any) -> Spectrum:
    """Smooth spectra of many brightnesses, without a bad pixel."""
    generator = torch.Generator().manual_seed(seed)
    level = 10 ** (torch.rand(count, 1, generator=generator) * 3 - 0.5)
    steps = torch.randn(count, len(wavelength), generator=generator)
    flux = level * (1 + steps.cumsum(1) / 10 + steps.roll(1, 0) / 10)
    return Spectrum(flux, wavelength, **{"ivar": 10 / level.expand(flux.shape), **fields})
