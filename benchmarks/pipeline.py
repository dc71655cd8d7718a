"""How many samples a second one core reads, masks and lays out, from a synthetic store with every installed modality.

    python benchmarks/pipeline.py [--objects 131072] [--batch-size 512] [--out FILE.json]

The store is *cold*: written to the disk and evicted from the page cache (mincore says how much stayed), and every
sample is drawn once, in the order of training. Beside it: the same samples warm; masking alone; the rule of 4M, one
sample after another (benchmarks/four_m.py); and the share of its time that training waits for data when a step takes 50
ms besides, with and without batches prepared ahead. Rates are by seconds of the clock and by seconds of the processor,
which a shared machine disturbs less.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from four_m import FourM
from machine import machine

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


def evict(path: Path) -> float:
    """Write a file out, drop it from the page cache, and return the share of its pages that is still there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return resident(descriptor)
    finally:
        os.close(descriptor)


def resident(descriptor: int) -> float:
    """Return the share of a file's pages that are in memory (mincore on a mapping that touches none of them)."""
    size = os.fstat(descriptor).st_size
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = library.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    if library.mincore(address, size, pages):
        raise OSError(ctypes.get_errno(), "mincore")
    library.munmap(address, size)
    return float((np.frombuffer(pages.raw, np.uint8) & 1).mean())


def drawn(path: Path, batch_size: int, samples: int) -> dict[str, float]:
    """Draw samples, each once, in one thread, and return how fast that was."""
    wall, cpu = perf_counter(), process_time()
    store = TokenStore(path)
    loader = TokenLoader([store], store.space, batch_size, MaskingConfig(), seed=0, prefetch=0)
    stream, done = loader.batches(), 0
    while done < samples:
        done += len(next(stream)[0])
    wall, cpu = perf_counter() - wall, process_time() - cpu
    return {"samples_per_second_per_core": done / cpu, "samples_per_second": done / wall, "samples": done}


def masking_alone(path: Path, batch_size: int, seconds: float) -> float:
    """Return samples masked by a second of the processor, their numbers of tokens being known."""
    store = TokenStore(path)
    masking, masked, start = Masking(store.space, MaskingConfig()), 0, process_time()
    lengths = store.lengths(np.arange(batch_size))
    while process_time() - start < seconds:
        masking.select(lengths, key(0, masked, np.arange(batch_size)))
        masked += batch_size
    return masked / (process_time() - start)


def four_m(path: Path, seconds: float) -> float:
    """Return samples masked by a second of the processor by the rule of 4M, their tokens being in memory."""
    store = TokenStore(path)
    rule, generator = FourM(store.space), torch.Generator().manual_seed(0)
    columns = store.tokens(np.arange(256))
    samples = [{k: torch.from_numpy(c[i][c[i] >= 0]) for k, c in columns.items()} for i in range(256)]
    done, start = 0, process_time()
    while process_time() - start < seconds:
        rule(samples[done % len(samples)], generator)
        done += 1
    return done / (process_time() - start)


def waiting(path: Path, batch_size: int, prefetch: int, steps: int) -> float:
    """Return the share of its time that training waits for data, its steps taking 50 ms beside."""
    store = TokenStore(path)
    loader = TokenLoader([store], store.space, batch_size, MaskingConfig(), seed=1, prefetch=prefetch)
    stream = loader.batches()
    next(stream)
    waited, begin = 0.0, perf_counter()
    for _ in range(steps):
        time.sleep(0.05)  # the device works, the host is idle
        start = perf_counter()
        next(stream)
        waited += perf_counter() - start
    share = waited / (perf_counter() - begin)
    stream.close()  # type: ignore[attr-defined]
    return share


def measure(path: Path, batch_size: int, objects: int, repeats: int) -> dict[str, Any]:
    """Return medians over repeats, in each of which all is measured once."""
    rounds: list[dict[str, Any]] = []
    for _ in range(repeats):
        left = evict(path)
        cold = drawn(path, batch_size, objects)
        warm = drawn(path, batch_size, objects // 4)
        rule = {"masking_alone": masking_alone(path, batch_size, 2.0), "four_m": four_m(path, 2.0)}
        evict(path)
        wait = {f"prefetch_{n}": waiting(path, 256, n, 40) for n in (0, 2)}
        rounds.append({"still_cached": left, "cold": cold, "warm": warm, **rule, "data_wait_of_50_ms_steps": wait})
    return {name: median([r[name] for r in rounds]) for name in rounds[0]} | {"repeats": repeats}


def median(values: list[Any]) -> Any:
    """Return medians of numbers, or of dictionaries of numbers."""
    if isinstance(values[0], dict):
        return {name: median([v[name] for v in values]) for name in values[0]}
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=131072)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the store is written for the time being; not a tmpfs")
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_registry().token_space()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "synthetic.arrow"
        start = perf_counter()
        write_store(path, space, args.objects, np.random.default_rng(0))
        written = perf_counter() - start
        store = TokenStore(path)
        result: dict[str, Any] = {
            "benchmark": "pipeline",
            "machine": machine(),
            "modalities": len(space),
            "tokens_per_object": float(store.lengths(np.arange(len(store))).sum(axis=1).mean()),
            "objects": args.objects,
            "batch_size": args.batch_size,
            "input_budget": MaskingConfig().input_budget,
            "target_budget": MaskingConfig().target_budget,
            "bytes": path.stat().st_size,
            "objects_written_per_second": args.objects / written,
        }
        del store
        result |= measure(path, args.batch_size, args.objects, args.repeats)
    result["times_the_rule_of_4m"] = {
        "masking_alone": result["masking_alone"] / result["four_m"],
        "reading_and_masking_cold": result["cold"]["samples_per_second_per_core"] / result["four_m"],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
