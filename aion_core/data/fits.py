"""FITS files as readers need them: a slice at a time, in native byte order, damage told in a sentence.

`fits_headers` and `fits_columns` serve `Reader.claims`: they read headers only and never raise for what is in a file.
`open_fits` serves `Reader.read`: it refuses a file that is not there as a whole, and what it hands out are copies, so
that memory does not grow with the file. What is gzip-compressed is unpacked to a temporary file first, which checks it
to its last byte; tile-compressed images (``.fz``) are unpacked tile by tile.
"""

from __future__ import annotations

import gzip
import re
import shutil
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.records import plain, records

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

#: Taking a slice of a FITS table costs some 20 ms however short it is, so slices are cut from blocks of this size.
BLOCK_BYTES = 1 << 23

#: Cards without which nobody can tell where an HDU ends and what it is.
STRUCTURE = re.compile(r"XTENSION|EXTNAME|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|TFIELDS")

#: How an HDU is named: its ``EXTNAME`` in any letter case, or its number, 0 being the primary one.
HDU: TypeAlias = str | int


def fits_headers(path: Path) -> Iterator[Header]:
    """Yield the headers of a file's HDUs, in order, as far as they can be read: none if it is no FITS file."""
    if not is_fits(path):
        return
    with _stream(path) as file, quiet():
        for header, _, _ in _walk(file):
            yield header


def fits_columns(path: Path, hdu: HDU | None = None) -> dict[str, str] | None:
    """Return ``{lower-case name: name}`` of the columns of a file's first (or a named) table; None if it has none.

    Reads headers only, and none behind that table's, so that a file cut short still tells what it was to be.
    """
    for place, header in enumerate(fits_headers(path)):
        if _is_table(header) and _named(header, place, hdu):
            try:
                return _columns(header)
            except (LookupError, TypeError, AttributeError):
                return None
    return None


def fits_rows(
    path: Path, names: Collection[str], batch_size: int, hdu: HDU | None = None
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield some columns of a file's first (or a named) table, a slice of its rows at a time; see `FitsFile.rows`."""
    with open_fits(path) as file:
        yield from file.rows(names, batch_size, hdu)


def is_fits(path: Path) -> bool:
    """Whether a file, compressed with gzip or not, begins as a FITS file does."""
    try:
        with _stream(path) as file:
            return file.read(9) == b"SIMPLE  ="
    except (OSError, EOFError, zlib.error):
        return False


@contextmanager
def open_fits(path: Path) -> Iterator[FitsFile]:
    """Open a FITS file that is there as a whole.

    Raises
    ------
    InputError
        If the file is none, is cut short (the message says in which HDU), or its compression is damaged.
    """
    from astropy.io import fits

    with _plain(path) as plain, quiet():
        headers = _whole(path, plain)
        with _damage(path):
            hdus = fits.open(plain, mode="readonly", memmap=True)
            images = fits.open(plain, mode="readonly", memmap=False)  # astropy maps no scaled or unsigned integers
        try:
            yield FitsFile(path, hdus, images, headers)
        finally:
            hdus.close()
            images.close()


class FitsFile:
    """An open FITS file. HDUs are named by ``EXTNAME`` in any letter case, or numbered from 0.

    Attributes
    ----------
    path
        The file as the user knows it.
    names
        ``EXTNAME`` of each HDU in capitals; ``PRIMARY`` or empty where there is none.
    """

    def __init__(self, path: Path, hdus: Any, images: Any, headers: list[Header]) -> None:
        self.path, self._hdus, self._images, self._headers = path, hdus, images, headers
        self.names = tuple(_name(header, place) for place, header in enumerate(headers))

    def __contains__(self, hdu: object) -> bool:
        return hdu.upper() in self.names if isinstance(hdu, str) else hdu in range(len(self.names))

    def header(self, hdu: HDU = 0) -> Header:
        """Return the header of an HDU; that of a tile-compressed image is the image's."""
        from aion_core.data.headers import LenientHeader

        place = self._place(hdu)
        with _damage(self.path, hdu):
            return LenientHeader(self._hdus[place].header)

    def columns(self, hdu: HDU | None = None) -> dict[str, str]:
        """Return ``{lower-case name: name}`` of the columns of the first (or a named) table."""
        place = self._table(hdu)
        with _damage(self.path, place):
            return _columns(self._headers[place])

    def rows(
        self, names: Collection[str], batch_size: int, hdu: HDU | None = None, first: int = 0, last: int | None = None
    ) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield some columns of a table, a slice of its rows at a time.

        Parameters
        ----------
        names
            Lower-case names of the columns wanted. Those that the table lacks are left out.
        batch_size
            Rows of a slice; the last one may be shorter.
        hdu
            The table; by default the first one.
        first, last
            The rows wanted, counted from 0, the last one excluded; by default all.

        Yields
        ------
        dict
            ``{lower-case name: array [rows, ...]}``, copies in native byte order, scaling applied; strings without
            padding. A variable-length column is an object array of 1-D arrays.
        """
        place = self._table(hdu)
        with _damage(self.path, place if hdu is None else hdu):
            table = self._hdus[place]
            present = {low: name for low, name in self.columns(place).items() if low in names}
            header = self._headers[place]  # variable-length arrays lie behind the table, in the heap
            width = max(1, header["NAXIS1"] + header.get("PCOUNT", 0) // max(1, header["NAXIS2"]))
            size = max(batch_size, BLOCK_BYTES // width // batch_size * batch_size)
            end = header["NAXIS2"] if last is None else min(last, header["NAXIS2"])
            form = records(header, present.values())
            for block in range(first, end, size):
                stop = min(block + size, end)
                if form is None:
                    rows = table.data[block:stop]
                    columns = {low: native(rows[name]) for low, name in present.items()}
                else:
                    start = table.fileinfo()["datLoc"] + block * form.itemsize
                    rows = np.memmap(self._hdus.filename(), form, "r", start, (stop - block,))
                    columns = {low: plain(rows[name], header, name) for low, name in present.items()}
                for start in range(0, len(rows), batch_size):
                    yield {low: column[start : start + batch_size] for low, column in columns.items()}

    def image(self, hdu: HDU | None = None) -> FitsImage:
        """Return an image, or any array in an image HDU; by default the first one that is not empty."""
        if hdu is None:
            places = (i for i, header in enumerate(self._headers) if _is_image(header))
            if (found := next(places, None)) is None:
                raise InputError(f"{self.path}: no image is in this FITS file; it has {self._listed()}.")
            hdu = found
        place = self._place(hdu)
        if not _is_image(self._headers[place]):
            raise InputError(f"{self.path}: HDU {hdu} holds no image; the file has {self._listed()}.")
        with _damage(self.path, hdu):
            return FitsImage(self.path, hdu, self._images[place])

    def _table(self, hdu: HDU | None) -> int:
        place = None if hdu is None else self._place(hdu)
        places = range(len(self._headers)) if place is None else (place,)
        for i in places:
            if _is_table(self._headers[i]):
                return i
        what = "no table is in this FITS file" if hdu is None else f"HDU {hdu} holds no table"
        raise InputError(f"{self.path}: {what}; it has {self._listed()}.")

    def _place(self, hdu: HDU) -> int:
        if hdu not in self:
            raise InputError(f"{self.path}: HDU {hdu} is missing; the file has {self._listed()}.")
        return self.names.index(hdu.upper()) if isinstance(hdu, str) else hdu

    def _listed(self) -> str:
        return ", ".join(f"{place} {name}".strip() for place, name in enumerate(self.names))


class FitsImage:
    """An array in an image HDU: indexing reads that part of it, as a copy in native byte order, scaling applied.

    Attributes
    ----------
    shape
        Of the array, last axis fastest: ``(rows, columns)`` of an image is (y, x).
    header
        Its header; that of the image where it is tile-compressed.
    """

    def __init__(self, path: Path, hdu: HDU, image: Any) -> None:
        self.path, self.hdu, self._image = path, hdu, image
        self.shape: tuple[int, ...] = tuple(image.shape)
        self.header: Header = image.header

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        with _damage(self.path, self.hdu), quiet():
            return native(self._image.section[key])

    @property
    def wcs(self) -> WCS:
        """The celestial part of its world coordinate system."""
        from astropy.wcs import WCS

        with _damage(self.path, self.hdu), quiet():
            celestial = WCS(self.header).celestial
        if celestial.pixel_n_dim != 2:
            raise InputError(f"{self.path}: HDU {self.hdu} has no celestial coordinates (CTYPE, CRVAL, CRPIX).")
        return celestial


@contextmanager
def quiet() -> Iterator[None]:
    """Silence astropy's warnings about odd or short files: what matters of it is an error of ours."""
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def native(column: Any) -> npt.NDArray[Any]:
    """Return a copy of an array in native byte order; of an object array, each of its items."""
    array = np.asarray(column)
    if array.dtype.kind == "O":
        items = np.empty(len(array), object)
        for i, item in enumerate(array):
            items[i] = native(item)
        return items
    return array.astype(array.dtype.newbyteorder("="))


@contextmanager
def _damage(path: Path, hdu: HDU | None = None) -> Iterator[None]:
    """Turn what astropy raises for damaged content into a sentence that names the file and the HDU."""
    from astropy.io import fits

    kinds = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, zlib.error)
    try:
        yield
    except (*kinds, fits.VerifyError) as error:
        where = "" if hdu is None else f"HDU {hdu}: "
        text = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path}: {where}not a whole FITS file ({text}).") from error


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """Yield the file, or a temporary copy of what it holds where it is compressed."""
    with _damage(path):
        packed = _compressed(path)
    if not packed:
        yield path
        return
    with NamedTemporaryFile(prefix="aion-", suffix=".fits") as plain:
        with _damage(path), gzip.open(path) as file:
            shutil.copyfileobj(file, plain, BLOCK_BYTES)
            plain.flush()
        yield Path(plain.name)


def _whole(path: Path, plain: Path) -> list[Header]:
    """Return the headers of all HDUs of a file that ends no earlier than they say, padding included."""
    size, reached = plain.stat().st_size, 0
    headers: list[Header] = []
    with _damage(path), plain.open("rb") as file:
        if not is_fits(plain):
            raise ValueError("it does not begin as one")
        for header, end, following in _walk(file):
            if size < following:  # also in the padding: whatever HDUs came behind are lost, and nothing else tells
                name = f"{len(headers)} {_name(header, len(headers))}".strip()
                padded = f", padded to {following}" if size >= end else ""
                where = f"{size} bytes, its HDU {name} ends at {end}{padded}"
                raise InputError(f"{path}: the file is cut short ({where}); fetch it again.")
            headers.append(header)
            reached = following
        file.seek(reached)
        behind = file.read(8)
        if not headers or (behind and b"XTENSION".startswith(behind)):
            where = f"{size} bytes; the header that begins at byte {reached} cannot be read"
            raise InputError(f"{path}: the file is cut short or damaged ({where}); fetch it again.")
    return headers


def _walk(file: BinaryIO) -> Iterator[tuple[Header, int, int]]:
    """Yield each header, where its data end, and where the next header begins, until none can be read."""
    from astropy.io import fits

    from aion_core.data.headers import LenientHeader

    while True:
        try:
            header = LenientHeader.fromfile(file)
            for name in filter(STRUCTURE.fullmatch, list(header)):  # what a damaged card says is not asked until here
                header[name]
            start, span = file.tell(), header.data_size_padded
            if span < 0:
                return
            yield header, start + header.data_size, start + span
            file.seek(start + span)
        except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zlib.error, fits.VerifyError):
            return


def _columns(header: Header) -> dict[str, str]:
    names = [str(header[f"TTYPE{i}"]) for i in range(1, header["TFIELDS"] + 1)]
    return {name.lower(): name for name in reversed(names)}


def _is_table(header: Header) -> bool:
    return header.get("XTENSION") in ("BINTABLE", "TABLE") and "ZIMAGE" not in header


def _is_image(header: Header) -> bool:
    return bool(header.get("NAXIS", 0)) and not _is_table(header)


def _name(header: Header, place: int) -> str:
    return str(header.get("EXTNAME", "" if place else "PRIMARY")).strip().upper()


def _named(header: Header, place: int, hdu: HDU | None) -> bool:
    return hdu is None or (hdu == place if isinstance(hdu, int) else hdu.upper() == _name(header, place))


def _compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _stream(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if _compressed(path) else path.open("rb")
