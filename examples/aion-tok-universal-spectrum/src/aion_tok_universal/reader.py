"""Tables of spectra, a row each: a format of this package's own, for spectra that come from anywhere.

One FITS table ``SPECTRA``: ``OBJECT_ID``, ``RA``, ``DEC`` (ICRS degrees), and as vectors of one length ``WAVELENGTH``
(Å, vacuum, of each row its own), ``FLUX``, ``IVAR`` and ``MASK`` (true where a pixel is bad).
`aion_tok_universal.collect` writes such tables of whatever spectra the other installed plugins read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data import ObservationBatch, Reader, Skipped
from aion_core.data.fits import FitsFile, fits_columns, open_fits
from aion_core.data.units import stated_unit
from aion_core.observations import Spectrum
from aion_tok_universal.specs import INFRARED, OPTICAL, UNIT

TABLE = "SPECTRA"
VECTORS = ("wavelength", "flux", "ivar", "mask")
COLUMNS = {"object_id", "ra", "dec", *VECTORS}
#: Between optical and infrared, Å: the middle of a spectrum decides.
BORDER = 10_000.0

Array = npt.NDArray[Any]


class TableReader(Reader):
    """Reads tables of spectra, FITS, gzipped or not."""

    def claims(self, path: Path) -> bool:
        """Whether there is a table of the format's name, with all of its columns."""
        return (fits_columns(path, TABLE) or {}).keys() >= COLUMNS

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        with open_fits(path) as file:
            unit = _unit(file)
            for rows in file.rows(COLUMNS, batch_size, TABLE):
                yield _batch(rows, unit, path)


def _batch(rows: dict[str, Array], unit: str | None, path: Path) -> ObservationBatch:
    shapes = {name: rows[name].shape for name in VECTORS}
    if len(set(shapes.values())) > 1 or len(shapes["flux"]) != 2:
        raise InputError(f"{path}: HDU {TABLE}: vectors have the shapes {shapes}; expected one, [rows, pixels].")
    wavelength, flux, ivar = (rows[name].astype(np.float32) for name in VECTORS[:3])
    bad = rows["mask"].astype(bool) | ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0))
    bad |= ~(np.isfinite(wavelength) & (wavelength > 0))
    flux, ivar = np.where(bad, 0, flux), np.where(bad, 0, ivar)
    names = rows["object_id"].astype(str)
    seen = ~bad.all(axis=1)
    lost = tuple(Skipped(f"object {name}", "every pixel is masked") for name in names[~seen])
    middle = np.nanmedian(np.where(bad, np.nan, wavelength)[seen], axis=1) if seen.any() else np.zeros(0)
    data = {}
    for spec, here in ((OPTICAL, middle < BORDER), (INFRARED, middle >= BORDER)):
        if here.any():
            parts = (part[seen][here] for part in (flux, wavelength, ivar, bad))
            data[spec.key] = Spectrum(*parts, unit=unit), np.flatnonzero(here).astype(np.int64)
    ra, dec = (rows[axis][seen].astype(np.float64) for axis in ("ra", "dec"))
    return ObservationBatch(names[seen], np.where(np.isfinite(ra), ra % 360, np.nan), dec, data, lost)


def _unit(file: FitsFile) -> str | None:
    """Return the unit of the flux, if it is not `UNIT`."""
    header, name = file.header(TABLE), file.columns(TABLE)["flux"]
    index = next(i for i in range(1, int(header["TFIELDS"]) + 1) if str(header[f"TTYPE{i}"]).strip() == name)
    try:
        return stated_unit(header.get(f"TUNIT{index}"), UNIT)
    except ValueError as error:
        raise InputError(f"{file.path}: HDU {TABLE}: column {name}: {error}.") from None
