"""Writing the tables that `aion_tok_universal.reader` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from aion_core.mock import write_fits
from aion_tok_universal.reader import TABLE
from aion_tok_universal.specs import UNIT

Array = npt.NDArray[Any]


def write_table(
    path: Path, names: Array, ra: Array, dec: Array, wavelength: Array, flux: Array, ivar: Array, mask: Array
) -> Path:
    """Write spectra ``[B, L]`` (wavelengths in Å, ``[B, L]`` or ``[L]``) as one table, whole or not at all."""
    length = flux.shape[1]
    vectors = {
        "WAVELENGTH": ("E", "Angstrom", np.broadcast_to(wavelength, flux.shape).astype(np.float32)),
        "FLUX": ("E", UNIT, flux.astype(np.float32)),
        "IVAR": ("E", None, ivar.astype(np.float32)),
        "MASK": ("L", None, mask.astype(bool)),
    }
    text = names.astype(str)
    columns = [
        fits.Column("OBJECT_ID", f"{max(1, text.dtype.itemsize // 4)}A", array=text),
        fits.Column("RA", "D", "deg", array=ra),
        fits.Column("DEC", "D", "deg", array=dec),
        *(fits.Column(name, f"{length}{kind}", unit, array=array) for name, (kind, unit, array) in vectors.items()),
    ]
    return write_fits(path, [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name=TABLE)])
