"""Reading native survey files: the base class of plugin readers, and what they yield.

Units, zero points, mask polarity, wavelength order and byte order are normalised in readers and nowhere else.
`fits_columns` and `fits_rows` do the last of these for FITS tables, which most readers meet.
"""

from __future__ import annotations

import gzip
import os
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen
from aion_core.observations import Observation

#: Taking a slice of a FITS table costs some 20 ms however short it is, so slices are cut from blocks of this size.
BLOCK_BYTES = 1 << 23


@dataclass(frozen=True)
class Skipped:
    """An object that could not be read while the others of its file could: what it is, and why.

    `name` says where it stands (``row 3``, ``HDU B_FLUX, row 3``), `reason` is the rest of the sentence
    (``every pixel is masked``). What an object merely lacks (a band not observed) is no reason to skip it.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class ObservationBatch:
    """B objects and what was measured of them.

    Attributes
    ----------
    object_id
        Survey identifiers as strings, ``[B]``.
    ra, dec
        ICRS position in degrees, float64 ``[B]``; NaN where unknown.
    data
        ``{key: (observation, rows)}``: observation i of a modality belongs to object ``rows[i]``; an object that
        lacks the modality occurs in no row.
    skipped
        Objects of this part of the file that are not among the B, and why.
    """

    object_id: npt.NDArray[np.str_]
    ra: npt.NDArray[np.float64]
    dec: npt.NDArray[np.float64]
    data: Mapping[str, tuple[Observation, npt.NDArray[np.int64]]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.object_id)
        if self.ra.shape != (size,) or self.dec.shape != (size,):
            raise InputError(f"ra {self.ra.shape} and dec {self.dec.shape} must both have shape ({size},)")
        if np.isinf(self.ra).any() or (np.abs(self.dec) > 90).any():
            raise InputError("ra must be finite or NaN, and dec NaN or in −90 … 90 degrees")
        for key, (observation, rows) in self.data.items():
            if len(observation) != len(rows):
                raise InputError(f"{key}: {len(observation)} observations, but {len(rows)} rows")
            if len(rows) and (rows.min() < 0 or rows.max() >= size or len(np.unique(rows)) != len(rows)):
                raise InputError(f"{key}: rows must be distinct and in 0 … {size - 1}")

    def __len__(self) -> int:
        return len(self.object_id)


class NoOptions(Frozen):
    """Options of a reader that has none."""


class Reader(ABC):
    """Reads one kind of native file. Plugins subclass it; a `ReaderSpec` names the subclass.

    The methods raise `InputError` for a file that is damaged: one sentence with the file and, where it applies,
    the HDU or column and the row.

    Attributes
    ----------
    Options
        What a user may set for this reader, in the section of its name of the file given as
        ``aion tokenize --readers FILE.toml``; every option has a default.
    """

    Options: ClassVar[type[Frozen]] = NoOptions

    def __init__(self, options: Frozen | None = None) -> None:
        self.options: Any = self.Options() if options is None else options

    def group(self, path: Path) -> tuple[Path, ...]:
        """Return the files that are read together with this one, itself included (bands, catalogues beside).

        The objects of the group are read under its first file, and the others, where this reader claims them, are
        passed over. The same group is returned for each of its files that the reader claims.
        """
        return (path,)

    @abstractmethod
    def claims(self, path: Path) -> bool:
        """Whether this reader reads the file, judged by header or columns; False for anything it cannot open."""

    @abstractmethod
    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        """Yield the file's objects in batches, with memory that does not grow with the file."""


def fits_columns(path: Path) -> dict[str, str] | None:
    """Return ``{lower-case name: name}`` of the columns of a file's first table; None if it has no readable one.

    Reads headers only, and none behind that table's, so that a file cut short still tells what it was to be.
    """
    if not _is_fits(path):
        return None
    from astropy.io import fits

    try:
        with _stream(path) as file, _quiet():
            while header := fits.Header.fromfile(file):
                if header.get("XTENSION") in ("BINTABLE", "TABLE") and "ZIMAGE" not in header:
                    names = [header[f"TTYPE{i}"] for i in range(1, header["TFIELDS"] + 1)]
                    return {name.lower(): name for name in reversed(names)}
                file.seek(header.data_size_padded, os.SEEK_CUR)
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zlib.error, fits.VerifyError):
        pass
    return None


def fits_rows(path: Path, names: Collection[str], batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield some columns of a FITS file's first table, a slice of its rows at a time.

    Parameters
    ----------
    path
        The file; what is not compressed is memory-mapped, so that memory does not grow with it.
    names
        Lower-case names of the columns wanted. Those that the table lacks are left out.
    batch_size
        Rows of a slice; the last one may be shorter.

    Yields
    ------
    dict
        ``{lower-case name: array [rows, ...]}``, copies in native byte order, scaling applied; strings without
        padding. A variable-length column is an object array of 1-D arrays.

    Raises
    ------
    InputError
        If the file is cut short or damaged; the message says where.
    """
    with _first_table(path) as table:
        present = {name.lower(): name for name in reversed(table.columns.names) if name.lower() in names}
        size = max(batch_size, BLOCK_BYTES // table.header["NAXIS1"] // batch_size * batch_size)
        for block in range(0, table.header["NAXIS2"], size):
            rows = table.data[block : block + size]
            columns = {lower: _native(rows[name]) for lower, name in present.items()}
            for start in range(0, len(rows), batch_size):
                yield {lower: column[start : start + batch_size] for lower, column in columns.items()}


def _compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _stream(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if _compressed(path) else path.open("rb")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence astropy's warnings about odd or short files: what matters of it is an error of ours."""
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def _is_fits(path: Path) -> bool:
    try:
        with _stream(path) as file:
            return file.read(6) == b"SIMPLE"
    except (OSError, EOFError, zlib.error):
        return False


@contextmanager
def _first_table(path: Path) -> Iterator[Any]:
    """Yield the first table HDU of a FITS file, which is known to be there as a whole."""
    from astropy.io import fits

    hdus = table = None
    try:
        with _quiet():
            hdus = fits.open(path, mode="readonly", memmap=True)
            found = (h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU))
            table = next((h for h in found if not isinstance(h, fits.CompImageHDU)), None)
        if table is None:
            raise InputError(f"{path}: no table is in this FITS file, or it is cut short before its end.")
        info, size = table.fileinfo(), path.stat().st_size
        end = info["datLoc"] + info["datSpan"]
        if size < end and not _compressed(path):
            raise InputError(f"{path}: the file is cut short ({size} bytes, its table ends at {end}); fetch it again.")
        yield table
    except (OSError, EOFError, ValueError, TypeError, LookupError, zlib.error, fits.VerifyError) as error:
        raise InputError(f"{path}: not a whole FITS file ({error}).") from error
    finally:
        if hdus is not None:
            hdus.close()


def _native(column: Any) -> npt.NDArray[Any]:
    """Return a copy of a FITS column in native byte order."""
    array = np.asarray(column)
    if array.dtype.kind == "O":
        items = np.empty(len(array), object)
        for i, item in enumerate(array):
            items[i] = _native(item)
        return items
    return array.astype(array.dtype.newbyteorder("="))
