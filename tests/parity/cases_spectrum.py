"""Spectra: cases of parity, and a mutation for every step and every tensor.

The release encodes one spectrum at a time here, but for the case that says otherwise: its matrix products are rounded
differently in batches, so that its own codes change with the batch where a number lies within 1e-5 of zero.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from aion.codecs.spectrum import SpectrumCodec
from aion.modalities import DESISpectrum
from cases_image import to, zeroed
from parity_table import Case, Mutation, Pair, standardize
from torch import Tensor, nn

from aion_core.observations import Spectrum
from aion_core.plugins import load_registry
from aion_core.tokenizers import spectrum as module
from aion_core.tokenizers.base import read_tokenizer
from aion_core.tokenizers.lfq import LookupFreeQuantizer
from aion_core.tokenizers.networks1d import Block, ResponseNorm
from aion_core.tokenizers.resampling import Interpolation, Pixels

REGISTRY = load_registry()
SAMPLES = os.environ.get("AION_SAMPLE_DIR")
Arrays = dict[str, Tensor]


@torch.no_grad()
def randomize(codec: nn.Module, seed: int = 0) -> None:
    """Give every tensor of a network, biases, norms and response norms too, values that matter to its output."""
    generator = torch.Generator().manual_seed(seed)
    for layer in codec.modules():
        norm = hasattr(layer, "weight") and layer.weight.ndim == 1
        for name, parameter in layer.named_parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator)
            if name in ("gamma", "beta"):
                parameter.copy_(0.3 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(1 + 0.1 * noise if norm and name == "weight" else 0.1 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


@torch.no_grad()
def decorrelate(projection: nn.Module, outputs: Tensor) -> None:
    """Turn a projection so that these outputs of it, ``[B, d, N]``, would be independent of each other, too.

    The channels of a deep random network are so alike that ten of their bits make but a few codes.
    """
    standardize(projection, outputs)
    flat = outputs.transpose(0, 1).flatten(1)
    turn = torch.linalg.inv(torch.linalg.cholesky(torch.corrcoef(flat.double()) + 0.02 * torch.eye(len(flat)))).float()
    projection.weight.copy_((turn @ projection.weight[:, :, 0])[:, :, None])
    projection.bias.copy_(turn @ projection.bias)


def drawn(wavelength: Tensor, count: int, bad: bool = False, seed: int = 1) -> Arrays:
    """Continua with lines and noise, the brightest 10^4 times the faintest; with bad pixels or not."""
    generator = torch.Generator().manual_seed(seed)
    length = len(wavelength)
    level = 10 ** torch.linspace(-1.5, 2.5, count)[:, None]
    slope = torch.randn(count, 1, generator=generator) * (wavelength / 6000).log()
    phase = torch.rand(count, 1, generator=generator) * 6
    lines = sum(
        torch.exp(-((wavelength - at) ** 2) / (2 * 6.0**2)) * torch.randn(count, 1, generator=generator)
        for at in (4000.0, 5000.0, 6562.0, 8500.0)
    )
    flux = level * (slope.exp() * (1 + 0.3 * torch.sin(wavelength / 200 + phase)) + lines)
    ivar = (0.2 + torch.rand(count, length, generator=generator)) * 20 / level
    steps = torch.randn(count, length, generator=generator).cumsum(1) / 40
    flux = flux + level * steps + torch.randn(count, length, generator=generator) / ivar.sqrt()
    mask = torch.zeros(count, length, dtype=torch.bool)
    if bad:
        mask = torch.rand(count, length, generator=generator) < 0.05
        flux = flux + 3 * level * mask
        ivar = ivar.masked_fill(torch.rand(count, length, generator=generator) < 0.03, 0.0)
        flux = flux.masked_fill(torch.rand(count, length, generator=generator) < 0.01, torch.nan)
    return {"flux": flux, "ivar": ivar, "mask": mask, "wavelength": wavelength.expand(count, -1).contiguous()}


def shifted(arrays: Arrays) -> Arrays:
    """Give every spectrum a grid of its own."""
    return arrays | {"wavelength": arrays["wavelength"] + 0.37 * torch.arange(len(arrays["flux"]))[:, None]}


def desi(clean: bool) -> Arrays:
    """Five real DESI coadds, the three cameras one behind the other; of pixels that are good in all of them, or all."""
    from astropy.io import fits

    with fits.open(Path(str(SAMPLES)) / "desi/picca/coadd-1-80693-thru20210204.fits") as file:
        read = lambda name: np.concatenate([file[f"{c}_{name}"].data.T for c in "BRZ"]).T.astype(np.float32)  # noqa: E731
        arrays = {"flux": read("FLUX")[:5], "ivar": read("IVAR")[:5], "mask": read("MASK")[:5] != 0}
        wavelength = read("WAVELENGTH")
    return _real(arrays, wavelength, clean)


def sdss(clean: bool) -> Arrays:
    """Four real BOSS spectra, of the wavelengths that they share."""
    from astropy.table import Table

    files = sorted((Path(str(SAMPLES)) / "sdss/boss_eboss_lite").glob("spec-*.fits"))[:4]
    tables = [Table.read(path, hdu=1) for path in files]
    for table in tables:
        table.rename_columns(table.colnames, [name.lower() for name in table.colnames])
    grids = [np.rint(np.asarray(t["loglam"], np.float64) * 1e4).astype(int) for t in tables]
    shared = sorted(set.intersection(*(set(g.tolist()) for g in grids)))
    rows = [np.searchsorted(g, shared) for g in grids]
    read = lambda name: np.stack([np.asarray(t[name])[r] for t, r in zip(tables, rows, strict=True)])  # noqa: E731
    arrays = {"flux": read("flux"), "ivar": read("ivar"), "mask": read("and_mask") != 0}
    return _real(arrays, 10 ** (np.array(shared) / 1e4), clean)


def _real(arrays: dict[str, np.ndarray], wavelength: np.ndarray, clean: bool) -> Arrays:
    order = np.argsort(wavelength, kind="stable")
    good = (arrays["ivar"] > 0).all(axis=0)
    order = order[good[order]] if clean else order
    found = {
        k: torch.from_numpy(np.array(v[:, order], dtype=bool if k == "mask" else np.float32)) for k, v in arrays.items()
    }
    if clean:
        found["mask"] = torch.zeros_like(found["mask"])
    grid = torch.from_numpy(wavelength[order].astype(np.float32))
    return found | {"wavelength": grid.expand(len(found["flux"]), -1).contiguous()}


def make_pair(key: str, config: dict[str, Any], arrays: Arrays, blank: bool, together: bool) -> Pair:
    """Build the release's codec with random weights, save it its own way, and load it here."""
    codec = SpectrumCodec(**config).eval()
    randomize(codec)
    one = [{k: v[i : i + 1] for k, v in arrays.items()} for i in range(len(arrays["flux"]))]
    batches = [DESISpectrum(**a) for a in ([arrays] if together else one)]
    with torch.no_grad():
        decorrelate(codec.quant_conv, torch.cat([codec._encode(batch)[0] for batch in batches]))
    spec = REGISTRY.resolve(key)
    shape = (1 + codec.latent_grid.wavelength.numel() // 2 ** (len(config["encoder_dims"]) + 1),)
    spec = spec.model_copy(update={"shape": shape, "vocab_size": config["codebook_size"]})
    with tempfile.TemporaryDirectory() as folder:
        codec.save_pretrained(folder, modality=DESISpectrum)
        tokenizer: Any = read_tokenizer(spec, Path(folder))
    tokenizer.blank_masked = blank

    low, high = spec.tokenizer.range

    def both(found: Any) -> Tensor:
        """Flux and mask, which the release has where there are two channels and says nothing of the range."""
        inside = (found.wavelength >= low) & (found.wavelength <= high) & (config["decoder_dims"][-1] == 2)
        return torch.cat([found.flux, (found.mask & inside).float()], dim=1)

    def faint(codes: Tensor) -> Tensor:
        """The last spectrum with a level that no spectrum is encoded to, which is clamped."""
        codes = codes.clone()
        codes[-1, 0] = 3
        return codes

    wavelength = arrays["wavelength"]
    return Pair(
        lambda: torch.cat([codec.encode(batch) for batch in batches]),
        lambda: tokenizer.encode(Spectrum(arrays["flux"], wavelength, arrays["ivar"], arrays["mask"])),
        lambda codes: torch.cat(
            [both(codec.decode(c[None], w[None])) for c, w in zip(faint(codes), wavelength, strict=True)]
        ),
        lambda codes: both(tokenizer.decode(faint(codes), wavelength=wavelength)),
        tokenizer,
    )


def case(
    key: str, config: str, sizes: dict[str, Any], what: str, arrays: Callable[[], Arrays], blank: bool = True,
    together: bool = False, codes: int = 100,
) -> Case:  # fmt: skip
    return Case(key, config, what, lambda: make_pair(key, sizes, arrays(), blank, together), codes=codes)


LFQ = {"embedding_dim": 10, "dim": 10, "codebook_size": 1024}
RELEASED = {
    "encoder_depths": (3, 3, 27, 3), "encoder_dims": (64, 128, 256, 512), "decoder_depths": (3, 9, 3, 3),
    "decoder_dims": (256, 128, 64, 2), "latent_channels": 512, **LFQ,
}  # fmt: skip
SMALL = {
    "encoder_depths": (1, 1, 2, 1), "encoder_dims": (8, 16, 24, 32), "decoder_depths": (1, 2, 1, 1),
    "decoder_dims": (24, 16, 8, 2), "latent_channels": 32, **LFQ,
}  # fmt: skip
ODD = {
    "256 codes, fluxes clipped at 50": {**SMALL, "embedding_dim": 8, "dim": 8, "codebook_size": 256, "clip_flux": 50.0},
    "another grid, scaling, range and clip": {
        **SMALL, "lambda_min": 3300.0, "resolution": 1.7, "num_pixels": 4480, "input_scaling": 0.45,
        "normalization_range": (-0.5, 4.0), "clip_ivar": 5.0,
    },
    "3 stages, decoder without mask": {
        **SMALL, "encoder_depths": (2, 1, 1), "encoder_dims": (12, 20, 32), "decoder_depths": (1, 1, 2),
        "decoder_dims": (20, 12, 1), "num_pixels": 8688,
    },
}  # fmt: skip
DESI = 3600 + 0.8 * torch.arange(7781, dtype=torch.float64).float()
SDSS = 10 ** (3.58 + 1e-4 * torch.arange(3840, dtype=torch.float64)).float()
BASE = case("desi_spectrum", "dims 8–32", SMALL, "DESI grid, 6 spectra", partial(drawn, DESI, 6))
BAD = case("desi_spectrum", "dims 8–32", SMALL, "DESI grid, bad pixels, let through",
           partial(drawn, DESI, 6, bad=True), blank=False)  # fmt: skip
CLIPPED = case("sdss_spectrum", *next(iter(ODD.items())), "SDSS grid", partial(drawn, SDSS, 6))
SHORT = case("sdss_spectrum", "dims 8–32", SMALL, "40 pixels, 9 spectra", lambda: drawn(SDSS[1000:1040], 9), codes=50)
CASES = [
    case("desi_spectrum", "released", RELEASED, "DESI grid, 2 spectra", partial(drawn, DESI, 2)),
    case("sdss_spectrum", "released", RELEASED, "SDSS grid, 2 spectra", partial(drawn, SDSS, 2)),
    BASE,
    BAD,
    case("sdss_spectrum", "dims 8–32", SMALL, "SDSS grid, 6 spectra", partial(drawn, SDSS, 6)),
    case("sdss_spectrum", "dims 8–32", SMALL, "a grid for each, 6 spectra", lambda: shifted(drawn(SDSS, 6))),
    case(
        "desi_spectrum", "dims 8–32", SMALL, "DESI grid, 32 spectra in a batch", partial(drawn, DESI, 32), together=True
    ),
    CLIPPED,
    SHORT,
    *(
        case("desi_spectrum", name, sizes, "DESI grid", partial(drawn, DESI, 6))
        for name, sizes in list(ODD.items())[1:]
    ),
]
if SAMPLES:
    CASES += [
        case("desi_spectrum", "released", RELEASED, "5 real DESI coadds", partial(desi, False), blank=False),
        case("desi_spectrum", "dims 8–32", SMALL, "5 real DESI coadds, good pixels", partial(desi, True)),
        case("sdss_spectrum", "released", RELEASED, "4 real BOSS spectra", partial(sdss, False), blank=False),
        case("sdss_spectrum", "dims 8–32", SMALL, "4 real BOSS spectra, good pixels", partial(sdss, True)),
    ]


def settings(**change: Any) -> Callable[[Any], AbstractContextManager[Any]]:
    """Alter the tokenizer's configuration."""
    return lambda tokenizer: patch.object(tokenizer, "config", tokenizer.config.model_copy(update=change))


@contextmanager
def prepared(change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Alter what the network is given."""
    original = module.SpectrumTokenizer._prepare

    def altered(self: Any, obs: Any) -> Any:
        from dataclasses import replace

        found = original(self, obs)
        return replace(found, x=change(found.x))

    with patch.object(module.SpectrumTokenizer, "_prepare", altered):
        yield


def given(change: Callable[[Tensor], Tensor]) -> Callable[[Any], AbstractContextManager[Any]]:
    return lambda _: prepared(change)


def interpolated(change: Callable[[Any, Tensor], Tensor]) -> Callable[[Any], AbstractContextManager[Any]]:
    return to(Interpolation, "__call__", change)


def scale(change: Callable[[Tensor], Tensor]) -> Callable[[Any], AbstractContextManager[Any]]:
    original = module.SpectrumTokenizer._scale
    return to(module.SpectrumTokenizer, "_scale", lambda self, level: change(original(self, level)))


def block(change: Callable[[Any, Tensor], Tensor]) -> Callable[[Any], AbstractContextManager[Any]]:
    return to(Block, "exactly", change)


def convolved(self: Any, x: Tensor) -> Tensor:
    return self.dwconv(x.permute(0, 2, 1)).permute(0, 2, 1)


PLAIN_NORM = lambda self, x: F.layer_norm(x, x.shape[-1:], eps=1e-6) * self.weight + self.bias + 1e-2  # noqa: E731
NETWORK: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "blocks removed": block(lambda self, x: x),
    "residual connection removed": block(lambda self, x: self.pwconv2(self.grn(F.gelu(self.pwconv1(self.norm(
        convolved(self, x))))))),
    "GELU removed": block(lambda self, x: x + self.pwconv2(self.grn(self.pwconv1(self.norm(convolved(self, x)))))),
    "GELU by tanh": block(lambda self, x: x + self.pwconv2(self.grn(F.gelu(self.pwconv1(self.norm(convolved(
        self, x))), approximate="tanh")))),
    "depthwise convolution removed": block(lambda self, x: x + self.pwconv2(self.grn(F.gelu(self.pwconv1(self.norm(
        x)))))),
    "norm of the block removed": block(lambda self, x: x + self.pwconv2(self.grn(F.gelu(self.pwconv1(convolved(
        self, x)))))),
    "norms shifted by 0.01": to(nn.LayerNorm, "forward", PLAIN_NORM),
    "response norm removed": to(ResponseNorm, "forward", lambda self, x: x),
    "response norm over channels of a pixel": to(ResponseNorm, "forward", lambda self, x: self.gamma * x * (
        x.norm(dim=2, keepdim=True) / x.norm(dim=2, keepdim=True).mean(1, keepdim=True)) + self.beta + x),
    "response norm without its residual": to(ResponseNorm, "forward", lambda self, x: self.gamma * x * (
        x.norm(dim=1, keepdim=True) / x.norm(dim=1, keepdim=True).mean(-1, keepdim=True)) + self.beta),
}  # fmt: skip
ENCODE: dict[str, Callable[[Any], AbstractContextManager[Any]]] = NETWORK | {
    "clip of the inverse variance removed": settings(clip_ivar=None),
    "input scaling 0.21": settings(input_scaling=0.21),
    "flux and error swapped": given(lambda x: x.flip(-1)),
    "error removed": given(lambda x: x * torch.tensor([1.0, 0.0])),
    "arcsinh removed": given(torch.sinh),
    "log10(n + 1) → log10(n)": to(torch, "log10", lambda x, log10=torch.log10: log10(x - 1)),
    "level rounded to the lower edge": to(torch, "bucketize", lambda *a, b=torch.bucketize: (b(*a) - 1).clamp(min=0)),
    "mean not clamped at 0.1": to(module, "LEAST", 0.02),
    "divided by the mean, not by what its token says": scale(lambda s: s * 1.003),
    "nearest pixel instead of interpolation": interpolated(lambda self, v, f=Interpolation.__call__: f(
        self, torch.cat([v[:, :1], v[:, :-1]], 1))),
    "outside: edge instead of zero": interpolated(lambda self, v: (
        v[:, self.left[0]] + self.offset * (v[:, self.left[0]] - v[:, self.left[0] + 1]) / self.span)
        + ~self.inside * v[:, -1:]),
    "latent grid off by 0.08 Å": lambda tokenizer: patch.object(tokenizer, "grid", tokenizer.grid + 0.08),
    "bits: least significant first": to(LookupFreeQuantizer, "places", property(
        lambda self: 2 ** torch.arange(self.bits))),
    "bits: x < 0": to(LookupFreeQuantizer, "encode", lambda self, x: ((x < 0) * self.places).sum(-1)),
    "norm before the projection removed": lambda tokenizer: patch.object(
        tokenizer.network.pre_quant_norm, "forward", lambda x: x),
    "last norm of the encoder removed": lambda tokenizer: patch.object(
        tokenizer.network.encoder.norm, "forward", lambda x: x),
}  # fmt: skip
LET_THROUGH: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "bad pixels blanked": lambda tokenizer: patch.object(tokenizer, "blank_masked", True),
    "masked pixels in the mean": to(Pixels, "of", classmethod(lambda cls, obs, of=Pixels.of: _unmasked(of(obs)))),
    "NaN counted as one": to(Pixels, "of", classmethod(lambda cls, obs, of=Pixels.of: of(
        Spectrum(obs.flux.nan_to_num(1e3), obs.wavelength, obs.ivar, obs.mask)))),
}  # fmt: skip
DECODE: dict[str, Callable[[Any], AbstractContextManager[Any]]] = NETWORK | {
    "level not added": scale(lambda s: s * 0 + 1),
    "level not clamped at 0.1": to(module, "LEAST", 0.02),
    "latent grid off by 0.08 Å": lambda tokenizer: patch.object(tokenizer, "grid", tokenizer.grid + 0.08),
    "bits: least significant first": to(LookupFreeQuantizer, "places", property(
        lambda self: 2 ** torch.arange(self.bits))),
    "corners 0 and 1": to(LookupFreeQuantizer, "decode", lambda self, c, d=LookupFreeQuantizer.decode: (
        d(self, c) + 1) / 2),
    "mask inverted": to(torch, "sigmoid", lambda x, sigmoid=torch.sigmoid: sigmoid(-x)),
}  # fmt: skip


def _unmasked(pixels: Pixels) -> Pixels:
    from dataclasses import replace

    return replace(pixels, masked=torch.zeros_like(pixels.masked))


def tensors(side: str) -> list[str]:
    """Return the names of the tensors that a side reads for the base case."""
    with torch.device("meta"):
        config = module.SpectrumConfig(**SMALL)
        names = [name for name, _ in module.SpectrumNetwork(config).named_parameters()]
    return [name for name in names if name.startswith(("decoder.", "post_")) == (side == "decode")]


MUTATIONS = [
    *(Mutation(BASE, step, "encode", apply) for step, apply in ENCODE.items()),
    Mutation(CLIPPED, "clip of the flux removed", "encode", settings(clip_flux=None)),
    Mutation(
        SHORT,
        "one pixel less in the count",
        "encode",
        to(torch, "log10", lambda x, log10=torch.log10: log10(1 + (x - 1) * 41 / 40)),
    ),
    *(Mutation(BAD, step, "encode", apply) for step, apply in LET_THROUGH.items()),
    *(Mutation(BASE, step, "decode", apply) for step, apply in DECODE.items()),
    *(Mutation(BASE, f"{n} = 0", side, zeroed(n)) for side in ("encode", "decode") for n in tensors(side)),
]
