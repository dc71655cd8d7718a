"""Redshifts by TARGETID, from redrock files and redshift catalogues.

What both have is a first table with ``TARGETID`` and ``Z``, and mostly ``ZWARN``, of which any bit means that the
redshift is not to be relied on (DESI data model, ZWARN); such redshifts, and those of -1 or less, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.fits import fits_rows
from aion_tok_desi.targets import Columns, identifiers

WANTED = {"targetid", "z", "zwarn", "zcat_primary"}
#: Rows of a catalogue looked through at a time.
ROWS = 1 << 16


@dataclass(frozen=True)
class Redshifts:
    """Redshifts of some targets.

    Attributes
    ----------
    targetid
        Ascending, each once, ``[n]``.
    z
        ``[n]``; NaN where there is none to be relied on.
    """

    targetid: npt.NDArray[np.int64]
    z: npt.NDArray[np.float64]

    @classmethod
    def read(cls, path: Path, wanted: npt.NDArray[np.int64]) -> Redshifts:
        """Look up some targets in a redrock file or a catalogue of any length.

        Of several rows with a good redshift of one target, that with ``ZCAT_PRIMARY`` counts, else the first.
        """
        targetid = np.unique(wanted)
        z = np.full(len(targetid), np.nan)
        for columns in fits_rows(path, WANTED, ROWS):
            found = identifiers(columns, f"{path}: first table")
            values = good_redshifts(columns, path)
            if "zcat_primary" in columns:
                values = np.where(columns["zcat_primary"], values, np.nan)
            hits = np.flatnonzero(np.isfinite(values) & np.isin(found, targetid))
            for row, place in zip(hits, np.searchsorted(targetid, found[hits]), strict=True):
                if np.isnan(z[place]):
                    z[place] = values[row]
        return cls(targetid, z)

    def of(self, targetid: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the redshifts of some of the targets that were looked up, ``[B]``; NaN where there is none."""
        return self.z[np.searchsorted(self.targetid, targetid)]


def good_redshifts(columns: Columns, path: Path) -> npt.NDArray[np.float64]:
    """Return the column ``Z``, ``[B]``; NaN where it is not to be relied on."""
    z = columns.get("z")
    if z is None:
        raise InputError(f"{path}: column Z is missing; a redrock file or redshift catalogue has TARGETID and Z.")
    for name in ("z", "zwarn"):
        if name in columns and (columns[name].ndim != 1 or columns[name].dtype.kind not in "fiu"):
            raise InputError(
                f"{path}: column {name.upper()} holds {columns[name].dtype} {columns[name].shape[1:]}; expected one "
                "number a row."
            )
    values = z.astype(np.float64)
    good = np.isfinite(values) & (values > -1)
    if "zwarn" in columns:
        good &= columns["zwarn"].astype(np.int64) == 0
    return np.where(good, values, np.nan)
