"""What the columns of a fibermap or a redshift catalogue say about each target.

The photometry is that of the Legacy Surveys, with which the target was selected: total fluxes in nanomaggies, not
corrected for Galactic extinction. What was not measured is NaN here and absent from the observations.

Sources: DESI data model (FIBERSTATUS, ZWARN, FIBERMAP); DESI Collaboration 2024 (AJ 168, 58), section 3 and appendix D.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data import Skipped

#: Lower-case name -> column ``[B]``.
Columns = dict[str, npt.NDArray[np.generic]]

BANDS = ("g", "r", "i", "z", "w1", "w2", "w3", "w4")
AXES = ("r", "e1", "e2")
#: Models that are fitted to an image of the object; a duplicate (DUP) or a Gaia star without an image (GPSF) is not.
FITTED = ("PSF", "REX", "EXP", "DEV", "COMP", "SER", "SIMP")

WANTED = {
    "targetid", "expid", "target_ra", "target_dec", "ra", "dec", "objtype", "coadd_fiberstatus", "fiberstatus",
    "zcat_primary", "ebv", "morphtype", *(f"shape_{a}" for a in AXES), *(f"flux_{b}" for b in BANDS),
    *(f"flux_ivar_{b}" for b in BANDS),
}  # fmt: skip

#: Bits of FIBERSTATUS.
FIBERSTATUS = {
    0: "UNASSIGNED", 1: "STUCKPOSITIONER", 2: "BROKENFIBER", 3: "RESTRICTED", 8: "MISSINGPOSITION", 9: "BADPOSITION",
    10: "POORPOSITION", 12: "LOWTRANSMISSION", 13: "NEARCHARGETRAP", 14: "VARIABLETHRU", 15: "LOWEFFTIME",
    16: "BADFIBER", 17: "BADTRACE", 18: "BADFLAT", 19: "BADARC", 20: "MANYBADCOL", 21: "MANYREJECTED", 22: "BADAMPB",
    23: "BADAMPR", 24: "BADAMPZ", 25: "BADPETALPOS", 26: "BADPETALSKY", 27: "BADPETALSTDSTAR", 28: "BADPETALFLUXCAL",
    29: "BADPETALSNR", 30: "BADREADNOISE",
}  # fmt: skip
#: Those that leave a spectrum usable. The data model calls the first four informative: a stuck positioner may stand on
#: blank sky, one of restricted reach on its target; a charge trap or varying throughput touch the flux calibration of
#: few pixels or by little. A bad amplifier spoils one camera only, whose pixels the pipeline then masks itself.
USABLE = {"STUCKPOSITIONER", "RESTRICTED", "NEARCHARGETRAP", "VARIABLETHRU", "BADAMPB", "BADAMPR", "BADAMPZ"}


def identifiers(columns: Columns, where: str) -> npt.NDArray[np.int64]:
    """Return the TARGETIDs ``[B]``; 63 bits of them count, so that only integers will do."""
    column = columns.get("targetid")
    if column is None:
        raise InputError(f"{where}: column TARGETID is missing; it says which target a row is of.")
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise InputError(
            f"{where}: column TARGETID holds {column.dtype} {column.shape[1:]}; expected one integer a row."
        )
    return column.astype(np.int64)


def object_ids(columns: Columns, where: str) -> npt.NDArray[np.str_]:
    """Return the names of the rows' objects ``[B]``: the TARGETID; of a single exposure ``TARGETID-EXPID``."""
    names = identifiers(columns, where).astype(str)
    if "expid" not in columns:
        return names
    return np.array([f"{name}-{exposure}" for name, exposure in zip(names, columns["expid"], strict=True)], dtype=str)


def positions(columns: Columns, where: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return right ascension and declination in degrees ``[B]``; NaN where unknown or impossible."""
    size = len(columns["targetid"])
    prefix = "target_" if "target_ra" in columns else ""
    ra, dec = (_numbers(columns, f"{prefix}{axis}", where, size) for axis in ("ra", "dec"))
    known = (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)
    return np.where(known, ra % 360, np.nan), np.where(known, dec, np.nan)


def choose(columns: Columns, first: int, sky: bool) -> tuple[npt.NDArray[np.bool_], list[Skipped]]:
    """Tell the rows that show an object from those that do not.

    Parameters
    ----------
    columns
        Those of the fibermap, as far as there are any.
    first
        Row of the file, from 0, that the columns begin with.
    sky
        Keep fibres that were put on blank sky.

    Returns
    -------
    tuple
        Which rows to keep, ``[B]``; and for each of the others, why not.
    """
    keep = np.ones(len(columns["targetid"]), bool)
    skipped = []
    for row in range(len(keep)):
        if reason := _unusable(columns, row, sky):
            keep[row] = False
            skipped.append(Skipped(row_name(columns, row, first), reason))
    return keep, skipped


def row_name(columns: Columns, row: int, first: int) -> str:
    """Return how a row is called in messages, counted from 1."""
    return f"row {first + row + 1} (TARGETID {columns['targetid'][row]})"


def _unusable(columns: Columns, row: int, sky: bool) -> str:
    """Return why a row shows no object; empty if it does."""
    kind = str(columns["objtype"][row]).strip().upper() if "objtype" in columns else "TGT"
    name = next((n for n in ("coadd_fiberstatus", "fiberstatus") if n in columns), None)
    status = 0 if name is None else int(columns[name][row])
    found = [FIBERSTATUS.get(bit, f"bit {bit}") for bit in range(32) if status >> bit & 1]
    fatal = [bit for bit in found if bit not in USABLE]
    if kind == "SKY" and not sky:
        return "the fibre was put on blank sky"
    if kind not in ("TGT", "SKY") or "UNASSIGNED" in fatal:
        return f"no target is assigned to the fibre (OBJTYPE '{kind}', {str(name or 'fiberstatus').upper()} {status})"
    if fatal:
        return f"the fibre is unusable: {', '.join(fatal)} ({str(name).upper()} {status})"
    if "zcat_primary" in columns and not columns["zcat_primary"][row]:
        return "another row is the primary one of this target (ZCAT_PRIMARY is false)"
    return ""


def photometry(columns: Columns, where: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return fluxes (nanomaggies), E(B-V) and shape (half-light radius in arcsec) by key, ``[B]``; NaN where absent.

    A band was observed where the flux has weight; where the weights are not given, a flux of exactly 0 stands for none.
    E(B-V) is nowhere 0 on the sky: it is where a target comes from no imaging catalogue.
    """
    size = len(columns["targetid"])
    values = {}
    for band in BANDS:
        if f"flux_{band}" in columns:
            flux = _numbers(columns, f"flux_{band}", where, size)
            weighted = f"flux_ivar_{band}" in columns
            observed = _numbers(columns, f"flux_ivar_{band}", where, size) > 0 if weighted else flux != 0
            values[f"legacy_flux_{band}"] = np.where(observed, flux, np.nan)
    if "ebv" in columns:
        ebv = _numbers(columns, "ebv", where, size)
        values["legacy_ebv"] = np.where(ebv != 0, ebv, np.nan)
    if all(f"shape_{axis}" in columns for axis in AXES):
        fitted = np.ones(size, bool)
        if "morphtype" in columns:
            fitted = np.isin(np.char.strip(columns["morphtype"].astype(str)), FITTED)
        shapes = [_numbers(columns, f"shape_{axis}", where, size) for axis in AXES]
        values |= {f"legacy_shape_{a}": np.where(fitted, s, np.nan) for a, s in zip(AXES, shapes, strict=True)}
    return values


def _numbers(columns: Columns, name: str, where: str, size: int) -> npt.NDArray[np.float64]:
    """Return a column as float64 ``[B]``; NaN where it is not finite, or there is no such column."""
    if name not in columns:
        return np.full(size, np.nan)
    column = columns[name]
    if column.ndim != 1 or column.dtype.kind not in "fiu":
        raise InputError(
            f"{where}: column {name.upper()} holds {column.dtype} {column.shape[1:]}; expected one number a row."
        )
    values = column.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)
