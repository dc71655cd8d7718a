"""How much memory `aion mock` takes while it writes a sky of many objects: as much at the end as at the beginning.

    python benchmarks/mock_stream.py --objects 100000 --out /scratch/mock

Prints one JSON document: the most memory that the command and its workers held together in every tenth of the run
(resident sets, so that what processes share counts in each; looked at twice a second), and objects a second. A hundred
thousand objects are some twenty minutes on two cores and 27 GiB; they are deleted unless --keep is given. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from machine import machine

PARTS = 10
PAGE = os.sysconf("SC_PAGE_SIZE")


def processes() -> Iterator[tuple[int, int, int]]:
    """Yield number, parent and resident bytes of every process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        yield int(path.parent.name), int(fields[1]), int(fields[21]) * PAGE


def resident(root: int) -> int:
    """Return the resident bytes of a process and of all that it has started."""
    children, held = defaultdict(list), {}
    for number, parent, size in processes():
        children[parent].append(number)
        held[number] = size
    family, total = [root], 0
    while family:
        number = family.pop()
        total += held.get(number, 0)
        family += children[number]
    return total


def measure(command: list[str], interval: float) -> tuple[list[int], float]:
    """Run a command; return the memory it held at regular intervals, and the seconds it took."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        seen: list[int] = []
        while process.returncode is None:
            seen.append(resident(process.pid))
            with suppress(subprocess.TimeoutExpired):  # until the next look, or its end
                process.wait(interval)
            if len(seen) % 100 == 0:
                print(f"{time.perf_counter() - start:.0f} s: {max(seen[-100:]) >> 20} MiB", file=sys.stderr)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    return seen, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="folder for the sky, not there yet (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="do not delete the sky afterwards")
    parser.add_argument("--interval", type=float, default=0.5, metavar="S", help="seconds between two looks")
    args = parser.parse_args()
    if args.out and args.out.exists():
        parser.error(f"{args.out} is there already, and would be deleted at the end; name a folder that is not.")
    out = args.out or Path(mkdtemp(prefix="mock-stream-"))
    options = ["--objects", str(args.objects), "--workers", str(args.workers), "--out", str(out), "--json"]
    try:
        print(json.dumps(document(["mock", *options], args.objects, args.interval, out), indent=2))
    finally:
        if not args.keep:
            rmtree(out, ignore_errors=True)


def document(command: list[str], objects: int, interval: float, out: Path) -> dict[str, Any]:
    seen, seconds = measure([sys.executable, "-m", "aion_core.cli", *command], interval)
    parts = [seen[len(seen) * i // PARTS : len(seen) * (i + 1) // PARTS] for i in range(PARTS)]
    files = [path for path in out.rglob("*") if path.is_file()]
    return {
        "command": " ".join(["aion", *command]),
        "objects": objects,
        "seconds": round(seconds, 1),
        "objects_per_s": round(objects / seconds, 1),
        "peak_mib_by_tenth": [max(part, default=0) >> 20 for part in parts],
        "files": len(files),
        "gib": round(sum(path.stat().st_size for path in files) / 2**30, 2),
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
