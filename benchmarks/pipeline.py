"""How many samples a second one core reads, masks and lays out, from a synthetic store with every installed modality.

python benchmarks/pipeline.py [--objects 65536] [--batch-size 512] [--seconds 10] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from aion_core.contract import SEQUENCE_IDS, ModalitySpec, TokenSpace
from aion_core.data.keyed import key
from aion_core.data.loader import TokenLoader
from aion_core.data.masking import Masking, MaskingConfig
from aion_core.data.store import StoreWriter, TokenStore
from aion_core.plugins import load_registry


def random_codes(spec: ModalitySpec, n: int, rng: np.random.Generator) -> np.ndarray:
    """Codes ``[n, n_tokens]`` of n objects; sequences of random length."""
    if spec.order == "masked":
        return rng.integers(0, spec.vocab_size, (n, spec.n_tokens), dtype=np.int32)
    codes = rng.integers(SEQUENCE_IDS.first_code, spec.vocab_size, (n, spec.n_tokens), dtype=np.int32)
    items = rng.integers(1, spec.n_tokens // spec.item_tokens + 1, n)
    codes[np.arange(spec.n_tokens) >= items[:, None] * spec.item_tokens] = -1
    return codes


def write_store(path: Path, space: TokenSpace, objects: int, rng: np.random.Generator) -> None:
    """Write objects that have every modality: the widest sample there is."""
    with StoreWriter(path, space) as writer:
        for start in range(0, objects, 4096):
            n = min(4096, objects - start)
            ids = [f"synthetic-{start + i}" for i in range(n)]
            ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
            tokens = {spec.key: (random_codes(spec, n, rng), np.arange(n)) for spec in space.specs()}
            writer.write(ids, ra, dec, tokens)


def measure(store: TokenStore, batch_size: int, seconds: float) -> dict[str, Any]:
    """Time reading, masking and layout together, and masking alone, in one thread."""
    loader = TokenLoader([store], store.space, batch_size, MaskingConfig(), seed=0, prefetch=0)
    stream = loader.batches()
    for _ in range(5):
        next(stream)
    samples, wall, cpu = 0, perf_counter(), process_time()
    while perf_counter() - wall < seconds:
        samples += len(next(stream)[0])
    wall, cpu = perf_counter() - wall, process_time() - cpu
    lengths = store.lengths(np.arange(batch_size))
    masking, masked, start = Masking(store.space, loader.config), 0, process_time()
    while process_time() - start < seconds / 3:
        masking.select(lengths, key(0, masked, np.arange(batch_size)))
        masked += batch_size
    return {
        "samples_per_second_per_core": samples / cpu,
        "samples_per_wall_second": samples / wall,
        "masked_samples_per_second_per_core": masked / (process_time() - start),
        "input_budget": loader.config.input_budget,
        "target_budget": loader.config.target_budget,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=65536)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    space = load_registry().token_space()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.arrow"
        start = perf_counter()
        write_store(path, space, args.objects, np.random.default_rng(0))
        written = perf_counter() - start
        store = TokenStore(path)
        result: dict[str, Any] = {
            "benchmark": "pipeline",
            "modalities": len(space),
            "tokens_per_object": float(store.lengths(np.arange(len(store))).sum(axis=1).mean()),
            "objects": args.objects,
            "batch_size": args.batch_size,
            "bytes_per_object": path.stat().st_size / args.objects,
            "objects_written_per_second": args.objects / written,
            **measure(store, args.batch_size, args.seconds),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
    if args.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        for name, value in result.items():
            print(f"{name:<36} {value:,.1f}" if isinstance(value, float) else f"{name:<36} {value}")


if __name__ == "__main__":
    main()
