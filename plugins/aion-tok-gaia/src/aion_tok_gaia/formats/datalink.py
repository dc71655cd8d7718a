"""Zip archives as DataLink hands them out (astroquery's ``load_data``): one file per product, in any format.

Only continuous spectra are of use here; they are unpacked one at a time, so that a format is read as it always is.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from aion_core.contract import InputError

#: With which the names of its files begin.
CONTINUOUS = "XP_CONTINUOUS"
#: DataLink gives at most 5 000 sources at once, 45 kB each as text.
MEMBER_BYTES = 1 << 30


def members(path: Path) -> list[str]:
    """Return the names of the archive's files of continuous spectra, in order."""
    with zipfile.ZipFile(path) as archive:
        return sorted(n for n in archive.namelist() if PurePosixPath(n).name.upper().startswith(CONTINUOUS))


@contextmanager
def unpacked(path: Path, member: str) -> Iterator[Path]:
    """Unpack one file of the archive for the time of the context."""
    with TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        size = archive.getinfo(member).file_size
        if size > MEMBER_BYTES:
            raise InputError(f"{path}: {member} has {size / 2**30:.1f} GiB; unpack the archive and give its files.")
        target = Path(folder, "table")
        with archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
        yield target
