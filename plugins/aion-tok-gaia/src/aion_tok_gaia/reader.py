"""Gaia archive tables and XP coefficient arrays as observations.

Object identifiers are the ``source_id``; XP rows on their own hold no position (the identifier encodes one to about
0.4 arcmin only, which is no position to match with), so it is NaN there. A value that is masked, NaN or infinite is
not measured, and its object lacks that modality.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.reader import ObservationBatch, Reader
from aion_core.observations import Scalar
from aion_tok_gaia.reader_formats import ID, Columns, column_names, table_rows

#: Basis functions of each XP spectrum.
COEFFICIENTS = 55
SPECTRA = {"gaia_xp_bp": "bp_coefficients", "gaia_xp_rp": "rp_coefficients"}
ASTROMETRY = {"gaia_parallax": "parallax", "gaia_ra": "ra", "gaia_dec": "dec"}
#: Key -> mean flux (electron/s) and mean magnitude (Vega).
PHOTOMETRY = {f"gaia_flux_{b}": (f"phot_{b}_mean_flux", f"phot_{b}_mean_mag") for b in ("g", "bp", "rp")}

#: Reference epoch -> Vega zero points with which the release's magnitudes were computed from its fluxes, so that
#: they lead back: DR2 Evans et al. 2018 (A&A 616, A4), DR3 Riello et al. 2021 (A&A 649, A3).
ZERO_POINTS = {
    2015.5: {"gaia_flux_g": 25.6883657251, "gaia_flux_bp": 25.3513881707, "gaia_flux_rp": 24.7619199882},
    2016.0: {"gaia_flux_g": 25.6873668671, "gaia_flux_bp": 25.3385422158, "gaia_flux_rp": 24.7478955012},
}
DR3_EPOCH = 2016.0

#: A table with ``source_id`` and one of these is ours (sampled spectra, which have a position too, are not).
MEASURED = {*SPECTRA.values(), "parallax", *(name for pair in PHOTOMETRY.values() for name in pair)}
WANTED = MEASURED | {ID, "ra", "dec", "ref_epoch"}

#: What reading a damaged NumPy archive may raise (RuntimeError: encrypted, or packed in an unknown way).
UNREADABLE = (OSError, EOFError, ValueError, LookupError, RuntimeError, zlib.error, zipfile.BadZipFile)


class ArchiveReader(Reader):
    """Reads rows of ``gaia_source`` and of ``xp_continuous_mean_spectrum``, apart or joined in one table.

    Formats: FITS, CSV and ECSV (streamed; gzip-compressed or not, the archive's bulk files included), VOTable and
    TAP JSON (read whole). Fluxes are ``phot_*_mean_flux``; a table that has magnitudes only is converted with the
    zero points of its release (see `ZERO_POINTS`), which ``ref_epoch`` tells, or the presence of XP, which is DR3.
    """

    def claims(self, path: Path) -> bool:
        """Whether the table has a ``source_id`` and a spectrum, flux, magnitude or parallax."""
        names = column_names(path)
        return ID in names and not MEASURED.isdisjoint(names)

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        first = 0
        for columns in table_rows(path, WANTED, batch_size):
            yield _observed(columns, path, first)
            first += len(columns[ID])


class ArrayReader(Reader):
    """Reads XP coefficients from a NumPy archive: ``X`` ``[n, 110]`` (55 of BP, then 55 of RP) and ``source_id``.

    Not an archive product, but the form in which other projects pass on many spectra. Read whole (880 bytes a source).
    """

    def claims(self, path: Path) -> bool:
        """Whether the archive holds ``X`` with 110 columns and ``source_id``, by their headers."""
        shapes = _array_shapes(path)
        return len(shapes.get("X", ())) == 2 and shapes["X"][1] == 2 * COEFFICIENTS and len(shapes.get(ID, ())) == 1

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        try:
            with np.load(path, allow_pickle=False) as file:
                values, ids = file["X"], file[ID]
        except UNREADABLE as error:
            raise InputError(f"{path}: not a readable NumPy archive ({error}).") from error
        if values.dtype.kind != "f" or ids.dtype.kind not in "iu" or len(values) != len(ids):
            raise InputError(
                f"{path}: X is {values.dtype} {values.shape} and source_id {ids.dtype} {ids.shape}; expected floats "
                f"[n, {2 * COEFFICIENTS}] and integers [n]."
            )
        for start in range(0, len(ids), batch_size):
            rows = slice(start, start + batch_size)
            unknown = np.full(len(ids[rows]), np.nan)
            bp, rp = np.split(values[rows], 2, axis=1)
            data = {"gaia_xp_bp": _measured(bp), "gaia_xp_rp": _measured(rp)}
            yield ObservationBatch(ids[rows].astype(str), unknown, unknown, data)


def _observed(columns: Columns, path: Path, first: int) -> ObservationBatch:
    """Return the observations of a slice of rows, the first of which is row `first` (from 0) of the file."""
    ids = columns[ID]
    unknown = np.full(len(ids), np.nan)
    values = {key: _coefficients(columns[c], c, ids, path, first) for key, c in SPECTRA.items() if c in columns}
    values |= _fluxes(columns, path, first)
    values |= {key: columns[name] for key, name in ASTROMETRY.items() if name in columns}
    ra, dec = (_finite(columns.get(name, unknown)) for name in ("ra", "dec"))
    return ObservationBatch(ids.astype(str), ra, dec, {key: _measured(v) for key, v in values.items()})


def _finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _measured(values: npt.NDArray[Any]) -> tuple[Scalar, npt.NDArray[np.int64]]:
    """Return the observation ``[n]`` or ``[n, 55]`` of the objects all of whose values are finite, and their rows."""
    good = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=1)
    return Scalar(values[good]), np.flatnonzero(good)


def _coefficients(
    cells: npt.NDArray[Any], name: str, ids: npt.NDArray[np.int64], path: Path, first: int
) -> npt.NDArray[np.float64]:
    """Return the coefficients of one spectrum, ``[B, 55]``; NaN for objects that have none."""
    values = np.full((len(cells), COEFFICIENTS), np.nan)
    for row, cell in enumerate(cells):
        if len(cell) not in (0, COEFFICIENTS):
            raise InputError(
                f"{path}: row {first + row + 1} (source_id {ids[row]}) has {len(cell)} {name}, "
                f"expected {COEFFICIENTS}, or none where the spectrum is missing."
            )
        if len(cell):
            values[row] = cell
    return values


def _fluxes(columns: Columns, path: Path, first: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the mean fluxes in electron/s: as given, else from magnitudes, of which 0 means not measured."""
    fluxes = {}
    for key, (flux, magnitude) in PHOTOMETRY.items():
        if flux in columns:
            fluxes[key] = columns[flux]
        elif magnitude in columns:
            magnitudes = np.where(columns[magnitude] == 0, np.nan, columns[magnitude])
            fluxes[key] = 10 ** (-0.4 * (magnitudes - _zero_points(key, magnitudes, columns, path, first)))
    return fluxes


def _zero_points(
    key: str, magnitudes: npt.NDArray[np.float64], columns: Columns, path: Path, first: int
) -> npt.NDArray[np.float64]:
    """Return the zero point of each row's release, ``[B]``; the release must be known where there is a magnitude."""
    if "ref_epoch" in columns:
        epochs = columns["ref_epoch"]
    elif not columns.keys().isdisjoint(SPECTRA.values()):
        epochs = np.full(len(magnitudes), DR3_EPOCH)
    else:
        raise InputError(
            f"{path}: the table has magnitudes, but neither mean fluxes nor ref_epoch, so that the release and its "
            "zero points are unknown; add one of these columns."
        )
    zero_points = np.full(len(epochs), np.nan)
    for epoch, points in ZERO_POINTS.items():
        zero_points[epochs == epoch] = points[key]
    unknown = np.flatnonzero(np.isnan(zero_points) & np.isfinite(magnitudes))
    if unknown.size:
        row = unknown[0]
        raise InputError(
            f"{path}: row {first + row + 1} has a magnitude and ref_epoch {epochs[row]}; zero points are known for "
            f"{' and '.join(map(str, ZERO_POINTS))} (DR2 and DR3)."
        )
    return zero_points


def _array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays in a NumPy archive, from their headers; empty if it is none."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    old = np.lib.format.read_magic(file) == (1, 0)
                    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                    shapes[member.removesuffix(".npy")] = read(file)[0]
    except UNREADABLE:
        return {}
    return shapes
