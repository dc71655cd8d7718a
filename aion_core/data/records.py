"""Columns of a FITS binary table straight from its bytes.

astropy makes an object of every column of a table before it hands out one of them: 0.1 s for 236 columns, of which a
reader may want ten. What is wanted is mostly plain numbers, flags and strings at a fixed place
in the row, which NumPy can map as they are. All else (variable length, scaling, complex numbers) stays astropy's.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from astropy.io.fits import Header

#: Letter of TFORM -> NumPy type, and bytes of one value.
KINDS = {"L": ("S1", 1), "B": ("u1", 1), "I": (">i2", 2), "J": (">i4", 4), "K": (">i8", 8), "E": (">f4", 4),
         "D": (">f8", 8)}  # fmt: skip
#: Bytes of one value of the other kinds; of X, eight values.
OTHERS = {"A": 1, "C": 8, "M": 16, "P": 8, "Q": 16}


def records(header: Header, names: Collection[str]) -> np.dtype[Any] | None:
    """Return the type of a table's rows with some of its columns; None if one of them is not plain."""
    if header.get("XTENSION") != "BINTABLE" or "ZTABLE" in header:
        return None
    place, fields = 0, {}
    for i in range(1, header["TFIELDS"] + 1):
        match = re.match(r"(\d*)([LXBIJKAEDCMPQ])", str(header[f"TFORM{i}"]).strip())
        if match is None:
            return None
        count, kind = int(match[1] or 1), match[2]
        name = str(header[f"TTYPE{i}"])
        if name in names and name not in fields:
            form = KINDS[kind][0] if kind in KINDS else f"S{count}" if kind == "A" else ""
            odd = any(f"{key}{i}" in header for key in ("TSCAL", "TZERO", "TDIM"))
            if not form or not count or odd:
                return None
            fields[name] = (form if kind == "A" or count == 1 else (form, (count,)), place)
        place += -(-count // 8) if kind == "X" else count * (KINDS[kind][1] if kind in KINDS else OTHERS[kind])
    if place != header["NAXIS1"]:
        return None
    forms, offsets = zip(*fields.values(), strict=True) if fields else ((), ())
    return np.dtype({"names": list(fields), "formats": forms, "offsets": offsets, "itemsize": place})


def plain(field: npt.NDArray[Any], header: Header, name: str) -> npt.NDArray[Any]:
    """Return a field of `records` as astropy would: a copy in native byte order, flags and strings as such."""
    if field.dtype.kind != "S":
        return field.astype(field.dtype.newbyteorder("="))
    number = next(i for i in range(1, header["TFIELDS"] + 1) if str(header[f"TTYPE{i}"]) == name)
    if "L" in str(header[f"TFORM{number}"]):
        return field == b"T"
    return np.char.rstrip(np.char.decode(field, "ascii"))
