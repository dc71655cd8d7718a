"""Encoding of images and spectra beside the release's package: same weights, same batch, one process, interleaved.

    python benchmarks/tokenize.py [--only image] [--objects 16] [--rounds 5] [--threads 2] [--out FILE.json]

Every codec has a module ``tokenize_<codec>.py`` beside this one, with ``sides(objects)``: functions that encode the
batch by the release's package (`peer`), by ours in float32 (`exact`), and by ours when it is to be fast (`fast`).
Medians of interleaved rounds; peak memory is what encoding adds to a process with the weights of both in memory.
"""

from __future__ import annotations

if __name__ == "tokenize":  # a script beside this one wants the standard library's module of this name
    from pathlib import Path
    from sysconfig import get_path

    __file__ = str(Path(get_path("stdlib")) / "tokenize.py")
    exec(compile(Path(__file__).read_text(), __file__, "exec"))

else:
    import argparse
    import ctypes
    import gc
    import importlib
    import json
    import statistics
    import subprocess
    import sys
    import time
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    import torch

    from aion_core.tokenizers.precision import fast_type

    SIDES = ("peer", "exact", "fast")
    CODECS = ("image", "spectrum")
    HERE = Path(__file__).resolve()

    def sides(codec: str, objects: int) -> dict[str, Any]:
        """Return the functions to be timed."""
        sys.path.insert(0, str(HERE.parent))
        return importlib.import_module(f"tokenize_{codec}").sides(objects)

    def memory(name: str) -> float:
        """Return a figure of this process's memory (``VmRSS``: now, ``VmHWM``: the most), in MiB."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024

    def most(encode: Callable[[], Any]) -> float:
        """Return the most memory that a call adds to what there is before it, in MiB (Linux only)."""
        encode()  # reads weights from the file that they are mapped to, and lets libraries set themselves up
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what building both sides has freed is no part of it
        Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten
        before = memory("VmRSS")
        encode()
        return memory("VmHWM") - before

    def peak(codec: str, side: str, objects: int, threads: int) -> float:
        """Return the memory in MiB that one encoding adds, in a process of its own."""
        options = {"--peak": side, "--only": codec, "--objects": objects, "--threads": threads}
        command = [sys.executable, str(HERE), *(str(part) for pair in options.items() for part in pair)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    def measure(codec: str, objects: int, rounds: int, threads: int) -> dict[str, Any]:
        """Return times (seconds for the batch), speedups, peak memory, and the share of tokens that are equal."""
        encode = sides(codec, objects)
        codes = {name: function() for name, function in encode.items()}  # warms up, too
        times: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(rounds):
            for name in SIDES:
                start = time.perf_counter()
                encode[name]()
                times[name].append(time.perf_counter() - start)
        median = {name: statistics.median(values) for name, values in times.items()}
        equal = {name: float((codes[name] == codes["peer"]).double().mean()) for name in SIDES[1:]}
        return {
            "objects": objects,
            "seconds": times,
            "median_s": median,
            "objects_per_s": {name: objects / value for name, value in median.items()},
            "speedup": {name: median["peer"] / median[name] for name in SIDES[1:]},
            "tokens_equal": equal,
            "peak_mib": {name: peak(codec, name, objects, threads) for name in SIDES},
        }

    def main() -> None:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--only", choices=CODECS, help="one codec")
        parser.add_argument("--objects", type=int, default=16, help="objects in the batch")
        parser.add_argument("--rounds", type=int, default=5)
        parser.add_argument("--threads", type=int, default=2)
        parser.add_argument("--out", type=Path, help="write the JSON there, too")
        parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
        args = parser.parse_args()
        torch.set_num_threads(args.threads)
        codecs = [args.only] if args.only else list(CODECS)
        if args.peak:
            print(most(sides(args.only, args.objects)[args.peak]))
            return
        found = {codec: measure(codec, args.objects, args.rounds, args.threads) for codec in codecs}
        sys.path.insert(0, str(HERE.parent))
        machine = importlib.import_module("machine").machine()
        ran = {"machine": machine, "fast_computes_in": str(fast_type(torch.device("cpu")))}
        text = json.dumps({"benchmark": "tokenize", **ran, **found}, indent=2)
        print(text)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text + "\n")

    if __name__ == "__main__":
        main()
