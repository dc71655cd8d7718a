"""How much memory reading a file takes, measured from outside the process that reads it."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

#: What the reading process does: read a batch, so that everything is imported and warm, say so, wait, read all.
_CHILD = """
import sys
from pathlib import Path
from aion_core.data.files import find_reader
from aion_core.plugins import load_registry
path, size = Path(sys.argv[1]), int(sys.argv[2])
reader = find_reader(path, load_registry())[1]
next(iter(reader.read(path, size)))
print("warm", flush=True)
sys.stdin.readline()
print(sum(len(batch) for batch in reader.read(path, size)), flush=True)
"""


def memory_growth(path: Path, batch_size: int = 256) -> tuple[int, int]:
    """Return by how many bytes a process grows that reads a file, and how many objects it finds.

    Growth is that of private memory (``RssAnon``: pages of mapped files do not count) from after the first batch to
    the highest point while all batches are read, looked at from outside every millisecond. Linux only.
    """
    command = [sys.executable, "-c", _CHILD, str(path), str(batch_size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline().strip() != "warm":
            raise RuntimeError(f"{path} could not be read; the error is on standard error")
        before = most = _private(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        while not select.select([child.stdout], [], [], 0.001)[0]:
            most = max(most, _private(child.pid))
        objects = child.stdout.readline()
    if not objects.strip().isdigit():
        raise RuntimeError(f"{path} could not be read to its end; the error is on standard error")
    return most - before, int(objects)


def _private(pid: int) -> int:
    """Return the private memory of a process in bytes; 0 when it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)
