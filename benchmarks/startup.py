"""How long `aion plugins --json` takes in a fresh process, and which heavy modules it imports.

    python benchmarks/startup.py --runs 20
    python benchmarks/startup.py --plugins 50

Prints one JSON document: seconds of wall time over the runs (after one that warms the file cache), and the heavy
modules found in `sys.modules` at the end of the command, of which there should be none. With --plugins, so many more
are installed for the time of it, of all kinds in turn, as `aion plugins new` writes them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from machine import machine

from aion_core.plugins import load_registry
from aion_core.plugins.scaffold import KINDS, scaffold

HEAVY = ("torch", "numpy", "astropy", "pyarrow", "scipy", "rich")
COMMAND = [sys.executable, "-m", "aion_core.cli", "plugins", "--json"]
PROBE = """
import sys
from aion_core.cli import main
main(["plugins", "--json"])
print(*sys.modules, file=sys.stderr)
"""


def seconds(command: list[str]) -> tuple[float, float]:
    """Return wall time and processor time of one run; the latter depends less on what else the machine does."""
    start, before = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall, after = perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def install(count: int, folder: Path) -> None:
    """Put so many packages into a folder, as an installer would: the code, its bytecode, and the metadata."""
    registry = load_registry()
    for number in range(count):
        made = scaffold(f"survey{number:03d}", list(KINDS)[number % len(KINDS)], registry)
        source = made.write(folder / "sources") / "src" / made.package
        source.rename(folder / made.package)
        info = folder / f"{made.package}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {made.distribution}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[aion.plugins]\n{made.name} = {made.package}.plugin\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--plugins", type=int, default=0, metavar="N", help="install so many more (default: none)")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        install(args.plugins, Path(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        print(json.dumps(measure(args.runs), indent=2))


def measure(runs: int) -> dict[str, object]:
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    document, modules = json.loads(probe.stdout), probe.stderr.split()
    times, processor = zip(*[seconds(COMMAND) for _ in range(runs + 1)][1:], strict=True)
    bare, _ = zip(*[seconds([sys.executable, "-c", "pass"]) for _ in range(runs)], strict=True)
    loading = sorted(plugin["seconds"] for plugin in document["plugins"])
    return {
        "command": "aion plugins --json",
        "runs": runs,
        "median_s": round(statistics.median(times), 4),
        "min_s": round(min(times), 4),
        "max_s": round(max(times), 4),
        "processor_median_s": round(statistics.median(processor), 4),
        "bare_interpreter_median_s": round(statistics.median(bare), 4),
        "heavy_modules": [name for name in HEAVY if name in modules],
        "modules": len(modules),
        "plugins": len(document["plugins"]),
        "failures": len(document["failures"]),
        "modalities": len(document["modalities"]),
        "plugin_median_s": round(statistics.median(loading), 5),
        "plugin_max_s": round(loading[-1], 5),
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
