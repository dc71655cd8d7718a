"""SDSS spectrum files as observations: one object a file, with its redshift.

Read are ``spec-PLATE-MJD-FIBER`` files of SDSS-I/II and BOSS/eBOSS, full and lite, and those of SDSS-V
(``spec-FIELD-MJD-CATALOGID``), which keep the layout: a first table of pixels (``flux``, ``ivar``, ``loglam`` in either
case), and one row of classification (``SPECOBJ``, ``SPALL`` or without a name). Single exposures behind these are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen
from aion_core.data import ObservationBatch, Reader, Skipped
from aion_core.data.fits import FitsFile, fits_columns, open_fits
from aion_core.data.units import stated_unit
from aion_core.observations import Scalar, Spectrum
from aion_tok_sdss.pixels import MANY_OUTLIERS, ZWARNING, bad_pixels

UNIT = "1e-17 erg / (s cm2 Angstrom)"
PIXELS = {"flux", "ivar", "loglam", "and_mask"}
#: Columns with the position of the object, the first that are there count. ``RA`` of the header is the telescope's.
POSITIONS = (("plug_ra", "plug_dec"), ("fiber_ra", "fiber_dec"), ("racat", "deccat"), ("ra", "dec"))
OBJECT = {"z", "zwarning", "class", "objtype", "sourcetype", "plate", "field", "mjd", "fiberid", "catalogid"}
OBJECT |= {name for pair in POSITIONS for name in pair}
#: More pixels than any SDSS spectrum has; a longer table is not one.
LONGEST = 1 << 17

Columns = dict[str, npt.NDArray[Any]]


class SpectrumReader(Reader):
    """Reads SDSS spectrum files, FITS, gzipped or not."""

    class Options(Frozen):
        """Options of the section ``[sdss_spectra]``.

        Attributes
        ----------
        sky
            Also read fibres that were put on blank sky.
        classes
            Read only objects that the pipeline classified as one of these (``GALAXY``, ``QSO``, ``STAR``).
        """

        sky: bool = False
        classes: tuple[str, ...] = ()

    options: Options

    def claims(self, path: Path) -> bool:
        """Whether the first table has flux, inverse variance and the logarithm of the wavelength, in rows of pixels."""
        return {"flux", "ivar", "loglam"} <= (fits_columns(path) or {}).keys()

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        with open_fits(path) as file:
            place = next(i for i in range(len(file.names)) if _is_table(file, i))
            spectrum, usable = _spectrum(file, place)
            known = _object(file, place)
        reason = self._reason(known)
        if not reason and not usable:
            reason = "every pixel is masked or has no weight"
        if reason:
            empty = np.empty(0)
            skipped = Skipped(f"HDU {_label(file, place)} ({known.name})", reason)
            yield ObservationBatch(np.empty(0, np.str_), empty, empty, skipped=(skipped,))
            return
        data: dict[str, tuple[Any, npt.NDArray[np.int64]]] = {"sdss_spectrum": (spectrum, np.zeros(1, np.int64))}
        redshift = np.array([known.z])
        rows = np.flatnonzero(np.isfinite(redshift))
        data["catalog_redshift"] = Scalar(redshift[rows]), rows
        yield ObservationBatch(np.array([known.name]), np.array([known.ra]), np.array([known.dec]), data)

    def _reason(self, known: Known) -> str:
        """Return why the object is not to be read; empty if it is."""
        if known.sky and not self.options.sky:
            return "the fibre was put on blank sky"
        if known.warning >> ZWARNING["UNPLUGGED"] & 1:
            return "the fibre was not plugged (ZWARNING)"
        wanted = {name.upper() for name in self.options.classes}
        if wanted and known.kind not in wanted:
            return f"its class is {known.kind or 'unknown'}, wanted: {', '.join(sorted(wanted))}"
        return ""


@dataclass(frozen=True)
class Known:
    """What a file says of its object: position in degrees and redshift are NaN where unknown."""

    name: str
    ra: float
    dec: float
    z: float
    warning: int
    kind: str
    sky: bool


def _is_table(file: FitsFile, place: int) -> bool:
    return file.header(place).get("XTENSION") in ("BINTABLE", "TABLE")


def _label(file: FitsFile, place: int) -> str:
    return f"{place} {file.names[place]}".strip()


def _spectrum(file: FitsFile, place: int) -> tuple[Spectrum, bool]:
    """Return the coadded spectrum, ``[1, L]``, wavelengths ascending, and whether any of its pixels is of use."""
    where = f"{file.path}: HDU {_label(file, place)}"
    length = int(file.header(place)["NAXIS2"])
    if not 2 <= length <= LONGEST:
        raise InputError(f"{where} has {length} rows; a spectrum has 2 to {LONGEST} pixels.")
    columns = next(file.rows(PIXELS, length, place))
    for name, column in columns.items():
        kinds = "iu" if name == "and_mask" else "fiu"
        if column.ndim != 1 or column.dtype.kind not in kinds:
            raise InputError(
                f"{where}: column {name} holds {column.dtype} {column.shape[1:]}; expected one number a row."
            )
    wavelength = _wavelengths(columns["loglam"].astype(np.float64), file, where)
    flux, ivar = (columns[name].astype(np.float64) for name in ("flux", "ivar"))
    mask = columns["and_mask"].astype(np.int64) if "and_mask" in columns else None
    bad = bad_pixels(flux, ivar, mask)
    order = slice(None, None, -1 if wavelength[0] > wavelength[-1] else 1)
    flux, ivar = (np.where(bad, 0.0, values) for values in (flux, ivar))
    parts = [np.ascontiguousarray(values[order])[None] for values in (flux, wavelength, ivar, bad)]
    return Spectrum(*parts, unit=_unit(file, place, where)), not bad.all()


def _wavelengths(loglam: npt.NDArray[np.float64], file: FitsFile, where: str) -> npt.NDArray[np.float64]:
    """Return vacuum wavelengths in Angstrom, ``[L]``, which must ascend or descend."""
    if file.header().get("VACUUM", True) is False:
        raise InputError(f"{where}: the wavelengths are in air (VACUUM); expected vacuum, as in all archive files.")
    if not np.isfinite(loglam).all():
        row = int(np.flatnonzero(~np.isfinite(loglam))[0])
        raise InputError(f"{where}, row {row + 1}: the wavelength is not a number (loglam {loglam[row]}).")
    if (np.abs(loglam) > 10).any():
        row = int(np.abs(loglam).argmax())
        raise InputError(
            f"{where}, row {row + 1}: loglam is {loglam[row]}; expected log10 of a wavelength in Angstrom."
        )
    steps = np.diff(loglam)
    if not ((steps > 0).all() or (steps < 0).all()):
        row = int(np.argmax(np.sign(steps) != np.sign(steps[0]))) if steps[0] else 0
        raise InputError(f"{where}, row {row + 2}: the wavelengths neither ascend nor descend throughout.")
    return 10**loglam


def _unit(file: FitsFile, place: int, where: str) -> str | None:
    """Return the unit of the flux column, else that of the primary header, if it is not `UNIT`."""
    header = file.header(place)
    index = next(i for i in range(1, header["TFIELDS"] + 1) if str(header[f"TTYPE{i}"]).lower() == "flux")
    try:
        return stated_unit(header.get(f"TUNIT{index}") or file.header().get("BUNIT"), UNIT)
    except ValueError as error:
        raise InputError(f"{where}: column flux: {error}.") from None


def _object(file: FitsFile, place: int) -> Known:
    """Return what the row of classification says, as far as there is one, and else the primary header."""
    header = file.header()
    tables = (i for i in range(place + 1, len(file.names)) if _is_table(file, i) and "z" in file.columns(i))
    found = next(tables, None)
    row = {} if found is None else {n: c[0] for n, c in next(file.rows(OBJECT, 1, found), {}).items() if c.ndim == 1}
    given = {name: header[name.upper()] for name in ("plug_ra", "plug_dec", "mjd", "fiberid") if name.upper() in header}
    if "PLATEID" in header:
        given["plate"] = header["PLATEID"]
    both = given | row
    ra, dec = _position(both)
    warning = int(_number(both, "zwarning", 0))
    z = _number(both, "z")
    reliable = not warning & ~MANY_OUTLIERS and z > -1
    kinds = {_text(both, name) for name in ("objtype", "sourcetype")}
    sky = "SKY" in kinds or bool(warning >> ZWARNING["SKY"] & 1)
    return Known(_name(both, file.path), ra, dec, z if reliable else np.nan, warning, _text(both, "class"), sky)


def _position(row: dict[str, Any]) -> tuple[float, float]:
    for names in POSITIONS:
        ra, dec = (_number(row, name) for name in names)
        if 0 <= ra <= 360 and abs(dec) <= 90:
            return ra % 360, dec
    return np.nan, np.nan


def _name(row: dict[str, Any], path: Path) -> str:
    """Return PLATE-MJD-FIBERID as file names have it, or (SDSS-V) FIELD-MJD-CATALOGID; else the file's name."""
    for first, last, form in (("plate", "fiberid", "{:04d}-{}-{:04d}"), ("field", "catalogid", "{:06d}-{}-{}")):
        values = [_number(row, name) for name in (first, "mjd", last)]
        if all(value >= 0 for value in values) and values[2] > 0:
            return form.format(*(int(row[name]) for name in (first, "mjd", last)))
    stem = path.name.removesuffix(".gz").removesuffix(".fits")
    return re.sub(r"^spec(-lite)?-", "", stem) or stem


def _number(row: dict[str, Any], name: str, default: float = np.nan) -> float:
    try:
        value = float(row.get(name, default))
    except (TypeError, ValueError):
        return default
    return value if np.isfinite(value) else default


def _text(row: dict[str, Any], name: str) -> str:
    return str(row.get(name, "")).strip().upper()
