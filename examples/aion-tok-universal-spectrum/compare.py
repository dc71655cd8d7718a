"""The universal tokenizer beside the fixed-grid one: as many parameters, as many seconds of training, the same spectra.

    aion mock --objects 3000 --simulators desi_coadd sdss_plate --out mock
    python compare.py --mock mock --real FOLDER --seconds 300 --out compare.json

Three networks are trained: the universal tokenizer on optical and infrared spectra together; the fixed-grid tokenizer
of aion-core on the optical ones, on its own grid (3500 Å + 0.8 Å i); and the same on all of them, its grid stretched
over all wavelengths (3500 Å + 1.78 Å i), as one network for everything has to be. Seconds are those of one core
(`time.process_time`), so that a busy machine does not matter. Objects of the last field are held out; `--real` names
folders of survey files that installed plugins read, none of which is trained on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aion_core.contract import ModalitySpec
from aion_core.engine.device import without_denormals
from aion_core.files import write_json
from aion_core.mock import draw, generator
from aion_core.observations import Spectrum
from aion_core.tokenizers.base import Tokenizer
from aion_core.tokenizers.quality import compare, noise
from aion_core.tokenizers.spectrum import SpectrumTokenizer

sys.path.insert(0, str(Path(__file__).parent / "src"))

from aion_tok_universal.collect import spectra
from aion_tok_universal.reader import TableReader
from aion_tok_universal.simulator import SpectrographsSimulator
from aion_tok_universal.specs import INFRARED, OPTICAL
from aion_tok_universal.tokenizer import UniversalSpectrumTokenizer

#: Spectra by source and length: ``{name: [observations of one length each]}``.
Pools = dict[str, list[Spectrum]]

#: Spectra of each mock source that are judged, at most.
HELD_OUT = 60
#: Sizes of the fixed-grid network, which give about as many parameters as the universal one's defaults.
FIXED = {
    "encoder_depths": (1, 1, 2, 1),
    "encoder_dims": (8, 32, 96, 192),
    "latent_channels": 192,
    "decoder_depths": (1, 2, 1, 1),
    "decoder_dims": (96, 32, 8, 2),
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: learning rate, spectra of a batch, and whether they are of all sources or of one.

    For each network what served it better in a minute; with batches of all sources, the fixed grid came out behind.
    """

    rate: float
    batch: int
    mixed: bool


RECIPES = {"universal": Recipe(1.5e-3, 4, mixed=True), "fixed": Recipe(2e-3, 8, mixed=False)}
#: Share of each source among the spectra of a batch.
SHARES = {"desi": 0.25, "sdss": 0.25, "h-band": 0.25, "near-infrared": 0.25}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    began = time.process_time()
    train, judged = mock_spectra(args.mock, args.objects, args.fields)
    for folder in args.real:
        judged |= {f"real {name}": parts for name, parts in pools(spectra([folder])).items() if parts}
    found: dict[str, Any] = {
        "seconds": args.seconds,
        "loading_seconds": time.process_time() - began,
        "training_spectra": {name: sum(map(len, parts)) for name, parts in train.items()},
        "judged_spectra": {name: sum(map(len, parts)) for name, parts in judged.items()},
        "tokenizers": {},
    }
    for name in args.only or ("universal", "fixed, optical", "fixed, all"):
        tokenizer, sources = built(name, args.seed)
        with without_denormals():
            training = trained(tokenizer, {k: v for k, v in train.items() if k in sources}, args.seconds, args.seed)
            figures = {source: judge(tokenizer, parts) for source, parts in judged.items()}
        bits = (tokenizer.spec.n_tokens - 1) * math.log2(tokenizer.spec.vocab_size)
        size = sum(p.numel() for p in tokenizer.parameters())
        about = {"parameters": size, "tokens": tokenizer.spec.n_tokens, "bits": round(bits), "training": training}
        found["tokenizers"][name] = about | {"r2": figures}
        write_json(args.out, found)
        if args.keep:
            tokenizer.save_pretrained(args.keep / name.replace(", ", "-"))
        print(name, json.dumps(about | {k: v["r2"] for k, v in figures.items()}), flush=True)


def built(name: str, seed: int) -> tuple[Tokenizer, tuple[str, ...]]:
    """Return an untrained tokenizer, and the sources that it is trained on."""
    if name == "universal":
        return UniversalSpectrumTokenizer.build([OPTICAL], seed)[0], tuple(SHARES)
    grid = {"shape": (273,), "vocab_size": 1024, "key": "universal_fixed", "tokenizer": None}
    spec = ModalitySpec.model_validate(OPTICAL.model_dump() | grid)
    if name == "fixed, optical":
        return SpectrumTokenizer.build([spec], seed, **FIXED)[0], ("desi", "sdss")
    return SpectrumTokenizer.build([spec], seed, **FIXED, resolution=1.78)[0], tuple(SHARES)


def mock_spectra(folder: Path, objects: int, fields: int) -> tuple[Pools, Pools]:
    """Return spectra to train on, at most so many of each survey, and those of the last of some fields, held out."""
    train: Pools = {}
    judged: Pools = {}
    for source, pattern in (("desi", "desi_coadd/coadd-*.fits"), ("sdss", "sdss_plate/*")):
        found = sorted(folder.glob(pattern))[:fields]
        if len(found) < 2:
            raise SystemExit(f"{folder}/{pattern}: {len(found)} found; expected those of two fields or more.")
        each = -(-objects // (len(found) - 1))
        parts = [_some(path, each) for path in found]
        train[source] = [part for pool in parts[:-1] for part in pool]
        judged[f"mock {source}"] = [part[:HELD_OUT] for part in parts[-1]]
    for field in range(fields):
        for source, parts in _infrared(field).items():
            target, name = (train, source) if field < fields - 1 else (judged, f"mock {source}")
            target[name] = target.get(name, []) + (parts if target is train else [part[:HELD_OUT] for part in parts])
    return {name: _joined(parts) for name, parts in train.items()}, judged


def _some(path: Path, most: int) -> list[Spectrum]:
    """Return spectra of a file, or of some files of a folder, evenly chosen."""
    if path.is_file():
        return pools(spectra([path], limit=most))["desi"]
    files = sorted(path.iterdir())
    return pools(row for file in files[:: max(1, len(files) // most)][:most] for row in spectra([file]))["sdss"]


def _infrared(field: int) -> Pools:
    objects = draw(0, 500 * field, 500)
    with tempfile.TemporaryDirectory() as folder:
        rng = generator("compare", field)
        written = SpectrographsSimulator().observe(objects, Path(folder), rng)
        return {
            path.name.rpartition("-")[0]: [
                obs
                for batch in TableReader().read(path, 512)
                for key, (obs, _) in batch.data.items()
                if key == INFRARED.key
            ]  # type: ignore[misc]
            for path in written
            if not path.name.startswith("optical")
        }


def pools(rows: Iterator[Any]) -> Pools:
    """Return spectra by where they are from, those of one length together."""
    found: dict[tuple[str, int], list[Spectrum]] = {}
    for _, _, _, spectrum in rows:
        length = spectrum.flux.shape[1]
        found.setdefault(("desi" if length == 7781 else "sdss", length), []).append(_plain(spectrum))
    whole: Pools = {"desi": [], "sdss": []}
    for (source, _), parts in found.items():
        whole[source].append(Spectrum.concatenate(parts))
    return whole


def _plain(spectrum: Spectrum) -> Spectrum:
    return Spectrum(spectrum.flux, spectrum.wavelength.contiguous(), spectrum.ivar, spectrum.mask)


def _joined(parts: list[Spectrum]) -> list[Spectrum]:
    """Return the same observations with those of one length in one."""
    lengths: dict[int, list[Spectrum]] = {}
    for part in parts:
        lengths.setdefault(part.flux.shape[1], []).append(_plain(part))
    return [Spectrum.concatenate(same) for same in lengths.values()]


def trained(tokenizer: Tokenizer, sources: Pools, seconds: float, seed: int) -> dict[str, Any]:
    """Train for so many seconds of this process, and return what is to be said of it."""
    recipe = RECIPES["universal" if isinstance(tokenizer, UniversalSpectrumTokenizer) else "fixed"]
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=recipe.rate, weight_decay=0.01, fused=True)
    rng = np.random.default_rng(seed)
    names = list(sources)
    shares = np.array([SHARES[name] for name in names])
    losses: list[float] = []
    tokenizer.train()
    began, wall = time.process_time(), time.perf_counter()
    while (done := (time.process_time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(1.0, done / 0.05 + 0.01) * 0.5 * (1 + math.cos(math.pi * done))
        numbers = rng.multinomial(recipe.batch if recipe.mixed else 1, shares / shares.sum())
        numbers *= 1 if recipe.mixed else recipe.batch
        batch = [_drawn(sources[name], rng, n) for name, n in zip(names, numbers.tolist(), strict=True) if n]
        loss = sum(tokenizer.loss(*batch).values())
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    tokenizer.eval()
    parts = [float(np.median(part)) for part in np.array_split(losses, 10) if len(part)]
    return {
        "steps": len(losses),
        "spectra": len(losses) * recipe.batch,
        "recipe": asdict(recipe),
        "cpu_seconds": time.process_time() - began,
        "wall_seconds": time.perf_counter() - wall,
        "losses": parts,
    }


def _drawn(parts: list[Spectrum], rng: np.random.Generator, number: int) -> Spectrum:
    sizes = np.array([len(part) for part in parts])
    part = parts[rng.choice(len(parts), p=sizes / sizes.sum())]
    return part[rng.choice(len(part), min(number, len(part)), replace=False)]


def judge(tokenizer: Tokenizer, parts: list[Spectrum]) -> dict[str, Any]:
    """Return how well spectra survive.

    ``r2`` over all pixels of all spectra; ``r2_median`` of each spectrum's own variance, the median over spectra;
    ``baseline`` R² of the better of the mean spectrum and each spectrum's mean; ``ceiling`` R² of the noiseless truth,
    from the stated errors; ``chi2`` squared error in units of the noise; ``encoded`` the share that has tokens at all.
    """
    total, shares, squares, variance, encoded, count = None, [], 0.0, 0.0, 0, 0
    for part in parts:
        for start in range(0, len(part), 32):
            obs = part[start : start + 32]
            tokens, values, decoded = tokenizer.reconstruct(obs)
            count, encoded = count + len(obs), encoded + int((tokens.flatten(1)[:, 0] >= 0).sum())
            quality = compare(tokenizer, obs, tokens, values, decoded)
            total = quality if total is None else total + quality
            x, y = (t.reshape(obs.flux.shape).double().numpy() for t in (values, decoded))
            ivar = noise(tokenizer, obs, values.reshape(obs.flux.shape))
            assert ivar is not None
            good = np.isfinite(x) & np.isfinite(y)
            variance += float((1 / ivar.double().numpy()[good]).sum())
            for row, there in enumerate(good):
                if there.sum() > 1 and (own := float(x[row, there].var())) > 0:
                    shares.append(1 - float(((x - y)[row, there] ** 2).mean()) / own)
    assert total is not None, "no spectra to judge by"
    squares = float(total.measure.square.sum())
    return {
        "objects": count,
        "encoded": encoded / count,
        "r2": total.measure.r2,
        "r2_median": float(np.median(shares)) if shares else None,
        "baseline": total.baseline,
        "ceiling": 1 - variance / squares if squares else None,
        "chi2": total.chi2,
        "codes_used": total.measure.codes_used,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mock", type=Path, required=True, help="folder with desi_coadd/ and sdss_plate/ of `aion mock`"
    )
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="folders of real survey files")
    parser.add_argument("--seconds", type=float, default=300.0, help="of one core, for the training of each network")
    parser.add_argument("--objects", type=int, default=1200, help="trained on, of each optical source, at most")
    parser.add_argument("--fields", type=int, default=8, help="of the mock sky; the last one is held out")
    parser.add_argument(
        "--only", nargs="*", choices=("universal", "fixed, optical", "fixed, all"), help="some networks"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder to write the trained tokenizers to")
    parser.add_argument("--out", type=Path, default=Path("compare.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
