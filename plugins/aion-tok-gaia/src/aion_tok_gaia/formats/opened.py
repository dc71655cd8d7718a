"""Opening files that may be gzip-compressed, whatever they are called."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import BinaryIO, cast


def compressed(path: Path) -> bool:
    """Whether a file is gzip-compressed, by its first bytes."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def opened(path: Path) -> BinaryIO:
    """Open a file for reading what is in it."""
    return cast(BinaryIO, gzip.open(path)) if compressed(path) else path.open("rb")
