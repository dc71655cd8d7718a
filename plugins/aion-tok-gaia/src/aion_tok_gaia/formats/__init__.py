"""The file formats that Gaia tables come in: each has its column names, units, and rows, a slice at a time.

FITS, CSV (ECSV), VOTable, TAP JSON and Parquet, gzip-compressed or not, and zip archives of DataLink products. Which
one it is, the first bytes tell: names of files are no evidence.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.parsers.expat import ExpatError
from zipfile import BadZipFile

from aion_core.contract import InputError
from aion_tok_gaia.formats import fits, parquet, tap, text, votable
from aion_tok_gaia.formats.datalink import members, unpacked
from aion_tok_gaia.formats.opened import opened
from aion_tok_gaia.formats.rows import Sources, lower, normalised

#: What reading a damaged file may raise (RuntimeError: an encrypted archive, or JSON that is nested without end).
UNREADABLE = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError),
    *(csv.Error, zlib.error, ExpatError, BadZipFile),
)
#: First bytes -> format; any other beginning is text.
MAGIC: Mapping[bytes, ModuleType] = {b"SIMPLE": fits, b"<": votable, b"{": tap, b"PAR1": parquet}
ZIP = b"PK\x03\x04"
#: From the units stated in a table to the factor of each of its columns.
Factors = Callable[[Mapping[str, str]], Mapping[str, float]]


def column_names(path: Path) -> dict[str, str]:
    """Return ``{lower-case name: name}`` of a table's columns, from its header; empty if it is no table.

    Of a zip archive, those of the first continuous spectra in it.
    """
    try:
        if _head(path).startswith(ZIP):
            for member in members(path)[:1]:
                with unpacked(path, member) as file:
                    return column_names(file)
            return {}
        return lower(_format(path).names(path))
    except (*UNREADABLE, InputError):
        return {}


def table_rows(path: Path, wanted: Collection[str], batch_size: int, factors: Factors) -> Iterator[Sources]:
    """Yield the wanted columns (lower-case names; those that exist) of a table, in slices of rows.

    Raises
    ------
    InputError
        If the file is damaged; the message names it, and the row or column where the format tells.
    """
    with _told(path):
        if _head(path).startswith(ZIP):
            for member in members(path):
                yield from _member_rows(path, member, wanted, batch_size, factors)
            return
        form = _format(path)
        multiply = factors(form.units(path))
        for rows in form.rows(path, wanted, batch_size):
            yield normalised(rows, multiply)


def _member_rows(
    path: Path, member: str, wanted: Collection[str], batch_size: int, factors: Factors
) -> Iterator[Sources]:
    with unpacked(path, member) as file:
        try:
            for sources in table_rows(file, wanted, batch_size, factors):
                yield replace(sources, table=f"{member}, ")
        except InputError as error:
            raise InputError(str(error).replace(str(file), f"{path}, {member}")) from error


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Make every fault of a file a sentence that begins with its name."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error
    except UNREADABLE as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path}: the table cannot be read ({why}); if it was cut short, fetch it again.") from error


def _head(path: Path) -> bytes:
    """Return the first bytes of what is in a file."""
    try:
        with opened(path) as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except (OSError, EOFError, zlib.error):
        return b""


def _format(path: Path) -> ModuleType:
    head = _head(path)
    return next((form for magic, form in MAGIC.items() if head.startswith(magic)), text)
