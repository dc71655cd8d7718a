"""How long `aion plugins --json` takes in a fresh process, and which heavy modules it imports.

    python benchmarks/startup.py --runs 20

Prints one JSON document: seconds of wall time over the runs (after one that warms the file cache), and the heavy
modules found in `sys.modules` at the end of the command, of which there should be none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from time import perf_counter

from machine import machine

HEAVY = ("torch", "numpy", "astropy", "pyarrow", "scipy", "rich")
COMMAND = [sys.executable, "-m", "aion_core.cli", "plugins", "--json"]
PROBE = """
import sys
from aion_core.cli import main
main(["plugins", "--json"])
print(*sys.modules, file=sys.stderr)
"""


def seconds(command: list[str]) -> float:
    """Return the wall time of one run."""
    start = perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    document, modules = json.loads(probe.stdout), probe.stderr.split()
    times = [seconds(COMMAND) for _ in range(runs + 1)][1:]
    bare = [seconds([sys.executable, "-c", "pass"]) for _ in range(runs)]
    result = {
        "command": "aion plugins --json",
        "runs": runs,
        "median_s": round(statistics.median(times), 4),
        "min_s": round(min(times), 4),
        "max_s": round(max(times), 4),
        "bare_interpreter_median_s": round(statistics.median(bare), 4),
        "heavy_modules": [name for name in HEAVY if name in modules],
        "modules": len(modules),
        "plugins": len(document["plugins"]),
        "modalities": len(document["modalities"]),
        "machine": machine(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
