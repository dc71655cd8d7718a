"""Encoding scalars: values per second here and in the released package, side by side in one process, same weights.

    python benchmarks/scalars.py [--values 10000000] [--rows 100000] [--repeats 5] [--out FILE]

Each side is timed in turn, `repeats` times; the best of each is compared. Tokens must be equal, or it fails. Where
others compute on the same machine (see its load), seconds of the processor say more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from aion.codecs import scalar as codecs
from aion.modalities import Dec, GaiaFluxG, GaiaXpBp, Z
from machine import machine
from torch import Tensor

from aion_core.observations import Scalar
from aion_core.plugins import load_registry
from aion_core.tokenizers import load_tokenizer
from aion_core.tokenizers.sketch import QuantileSketch

XP = {"compression_fns": ["arcsinh"] * 2, "decompression_fns": ["sinh"] * 2, "num_quantizers": 55}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=10_000_000, help="scalars to encode")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of 55 coefficients to encode")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the JSON there instead of printing it")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    fluxes = rng.lognormal(6, 2, args.values).astype(np.float32)
    spectra = (rng.standard_cauchy((args.rows, 55)) * np.geomspace(1e4, 1e-2, 55)).astype(np.float32)
    angles = rng.uniform(-90, 90, args.values).astype(np.float32)
    redshifts = rng.uniform(0, 1, args.values).astype(np.float32)
    cases = [
        ("quantile", "gaia_dec", codecs.ScalarCodec, Dec, {}, angles),
        ("logarithm", "gaia_flux_g", codecs.LogScalarCodec, GaiaFluxG, {}, fluxes),
        ("grid", "catalog_redshift", codecs.GridScalarCodec, Z, None, redshifts),
        ("coefficients", "gaia_xp_bp", codecs.MultiScalarCodec, GaiaXpBp, XP, spectra),
    ]
    times = {}
    for name, key, cls, modality, config, values in cases:
        times[name] = encode(key, cls, modality, config, values, args.repeats)
    result = {
        "benchmark": "scalars",
        "machine": machine(),
        "encode": times,
        "sketch": {"values": args.values, "values_per_second": args.values / timed(lambda: sketch(fluxes))[0]},
    }
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    else:
        print(text)


def encode(key: str, cls: Any, modality: Any, config: Any, values: np.ndarray, repeats: int) -> dict[str, Any]:
    """Fit a codec of the released package, load its file here, and time both on the same values."""
    sizes = {} if config is None else {"reservoir_size": 20_000, **config}
    codec = cls(modality=modality.name, codebook_size=1024, **sizes).eval()
    if config is not None:
        codec.quantizer._update_reservoirs(torch.from_numpy(values[:20_000]))
    with tempfile.TemporaryDirectory() as folder:
        codec.save_pretrained(folder, modality=modality)
        tokenizer = load_tokenizer(key, folder, registry=load_registry())
    theirs, ours = modality(value=torch.from_numpy(values)), Scalar(values)

    def peer() -> Tensor:
        with torch.no_grad():
            return codec.encode(theirs)

    if not torch.equal(peer().reshape(len(values), -1).long(), tokenizer.encode(ours)):
        raise SystemExit(f"{key}: the tokens differ")
    times = [(*timed(peer), *timed(lambda: tokenizer.encode(ours))) for _ in range(repeats)]
    there, there_cpu, here, here_cpu = (min(side) for side in zip(*times, strict=True))
    return {
        "values": values.size,
        "rows_per_second": len(values) / here,
        "peer_values_per_cpu_second": values.size / there_cpu,
        "values_per_cpu_second": values.size / here_cpu,
        "rows_per_cpu_second": len(values) / here_cpu,
        "peer_values_per_second": values.size / there,
        "values_per_second": values.size / here,
        "ratio": there / here,
    }


def sketch(values: np.ndarray) -> None:
    made = QuantileSketch()
    for part in np.array_split(values, 100):
        made.add(part)
    made.quantile(np.arange(1, 1025) / 1024)


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Return how long a run took, in seconds by the clock and of the processor."""
    start, used = perf_counter(), process_time()
    run()
    return perf_counter() - start, process_time() - used


if __name__ == "__main__":
    main()
