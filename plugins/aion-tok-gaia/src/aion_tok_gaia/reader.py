"""Gaia archive tables and XP coefficient arrays as observations.

Object identifiers are the ``source_id``; XP rows on their own hold no position (the identifier encodes one to about
0.4 arcmin only, which is no position to match with), so it is NaN there. A value that is masked, NaN or infinite is
not measured, and its object lacks that modality. A row with a value that cannot be one is skipped, with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.files import NotClaimedError
from aion_core.data.reader import ObservationBatch, Reader, Skipped
from aion_core.observations import Scalar
from aion_tok_gaia.formats import UNREADABLE, arrays, column_names, table_rows
from aion_tok_gaia.formats.rows import ID, Array, Reasons, Sources, normalised
from aion_tok_gaia.specs import MODALITIES

#: Basis functions of each XP spectrum, which its key stands for.
COUNTS = {spec.key: spec.shape[0] for spec in MODALITIES if spec.kind == "coefficients"}
SPECTRA = {"gaia_xp_bp": "bp_coefficients", "gaia_xp_rp": "rp_coefficients"}
DECLARED = {"gaia_xp_bp": "bp_n_parameters", "gaia_xp_rp": "rp_n_parameters"}
ASTROMETRY = {"gaia_parallax": "parallax", "gaia_ra": "ra", "gaia_dec": "dec"}
#: Key -> mean flux (electron/s) and mean magnitude (Vega).
PHOTOMETRY = {f"gaia_flux_{b}": (f"phot_{b}_mean_flux", f"phot_{b}_mean_mag") for b in ("g", "bp", "rp")}
UNITS = {
    **{column: spec.units for spec in MODALITIES for column in [ASTROMETRY.get(spec.key)] if column},
    **{PHOTOMETRY[spec.key][0]: spec.units for spec in MODALITIES if spec.key in PHOTOMETRY},
}

#: Reference epoch -> Vega zero points with which the release's magnitudes were computed from its fluxes, so that
#: they lead back: DR2 Evans et al. 2018 (A&A 616, A4), DR3 Riello et al. 2021 (A&A 649, A3).
ZERO_POINTS = {
    2015.5: {"gaia_flux_g": 25.6883657251, "gaia_flux_bp": 25.3513881707, "gaia_flux_rp": 24.7619199882},
    2016.0: {"gaia_flux_g": 25.6873668671, "gaia_flux_bp": 25.3385422158, "gaia_flux_rp": 24.7478955012},
}
DR3_EPOCH = 2016.0

#: A table with ``source_id`` and one of these is ours.
MEASURED = {*SPECTRA.values(), "parallax", *(name for pair in PHOTOMETRY.values() for name in pair)}
WANTED = MEASURED | {ID, "ra", "dec", "ref_epoch", *DECLARED.values()}
SAMPLED = {"flux", "flux_error"}


class ArchiveReader(Reader):
    """Reads rows of ``gaia_source`` and of ``xp_continuous_mean_spectrum``, apart or joined in one table.

    Formats: see `aion_tok_gaia.formats`. Fluxes are ``phot_*_mean_flux``; a table that has magnitudes only is converted
    with the zero points of its release (see `ZERO_POINTS`), which ``ref_epoch`` tells, or the presence of XP, which is
    DR3. Units that a table states are converted.
    """

    def claims(self, path: Path) -> bool:
        """Whether the table has a ``source_id`` and a spectrum, flux, magnitude or parallax."""
        names = column_names(path)
        sampled = ID in names or "xp_sampled" in path.name.lower() or "xpsampled" in path.name.lower()
        if sampled and names.keys() >= SAMPLED and names.keys().isdisjoint(MEASURED):
            raise NotClaimedError(
                f"{path}: sampled XP spectra (flux at given wavelengths) have no tokens; download the continuous ones "
                "of these sources, their coefficients (DataLink: retrieval_type='XP_CONTINUOUS'; bulk: "
                "XpContinuousMeanSpectrum)."
            )
        return ID in names and not MEASURED.isdisjoint(names)

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        counted: set[str] = set()
        for sources in table_rows(path, WANTED, batch_size, _factors):
            _check_counts(sources, counted, path)
            yield _observed(sources, path)


class ArrayReader(Reader):
    """Reads XP coefficients from a NumPy archive, not an archive product, but how other projects pass on many of them.

    ``X`` is ``[n, 110]`` (55 of BP, then 55 of RP), ``source_id`` ``[n]``.
    """

    def claims(self, path: Path) -> bool:
        """Whether the archive holds ``X`` with 110 columns and ``source_id``, by their headers."""
        try:
            shapes = arrays.shapes(path)
        except UNREADABLE:
            return False
        return len(shapes.get("X", ())) == 2 and shapes["X"][1] == sum(COUNTS.values()) and len(shapes.get(ID, ())) == 1

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        try:
            for rows in arrays.rows(path, batch_size):
                yield _observed(normalised(rows), path)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except UNREADABLE as error:
            raise InputError(f"{path}: not a readable NumPy archive ({error}); fetch it again.") from error


def _factors(units: Mapping[str, str]) -> dict[str, float]:
    """Return what columns are to be multiplied with, by the units that their table states, to be in ours."""
    from astropy.units import Unit, UnitConversionError

    factors = {}
    for name, wanted in UNITS.items():
        try:
            factors[name] = float(Unit(units.get(name, wanted)).to(wanted))
        except UnitConversionError:
            raise InputError(
                f"column {name} is in '{units[name]}'; expected '{wanted}', or what converts to it."
            ) from None
        except (ValueError, TypeError):  # the archive's own spelling, as 'electron'.s**-1
            continue
    return {name: factor for name, factor in factors.items() if factor != 1}


def _check_counts(sources: Sources, counted: set[str], path: Path) -> None:
    """Refuse the file whose first spectrum has another number of coefficients than its key stands for.

    In later rows, another number is a damaged row; in the first it is a release with another basis, whose coefficients
    mean something else.
    """
    for key, column in SPECTRA.items():
        if column not in sources.columns or key in counted:
            continue
        for i, cell in enumerate(sources.columns[column]):
            if len(cell) and i not in sources.unusable:
                counted.add(key)
                declared = sources.columns.get(DECLARED[key], np.full(i + 1, np.nan))[i]
                count = int(declared) if np.isfinite(declared) and declared > 0 else len(cell)
                if count != COUNTS[key]:
                    raise InputError(
                        f"{path}: {sources.table}row {sources.number[i]} {_other_basis(key, column, count)}"
                    )
                break


def _other_basis(key: str, column: str, count: int) -> str:
    return (
        f"has {count} {column}, and {key} stands for {COUNTS[key]} (DR3); coefficients of another basis have another "
        f"meaning and need a key of their own, such as {key}_{count}, with a tokenizer trained on them."
    )


def _observed(sources: Sources, path: Path) -> ObservationBatch:
    """Return the observations of a slice of rows, and which of them had to be left out."""
    columns, unusable = sources.columns, dict(sources.unusable)
    ids = columns[ID]
    values = {
        key: _coefficients(columns[column], key, column, unusable)
        for key, column in SPECTRA.items()
        if column in columns
    }
    values |= _fluxes(sources, unusable, path)
    values |= {key: columns[name] for key, name in ASTROMETRY.items() if name in columns}
    unknown = np.full(len(ids), np.nan)
    ra, dec = (_finite(columns.get(name, unknown)) for name in ("ra", "dec"))
    for name, angles, outside in (("ra", ra, (ra < 0) | (ra >= 360)), ("dec", dec, np.abs(dec) > 90)):
        for i in np.flatnonzero(outside):
            unusable.setdefault(int(i), f"{name} is {angles[i]} degrees")
    named = {int(sources.number[i]): f" ({ID} {ids[i]})" for i in unusable if ids[i] > 0}
    reasons = {**sources.broken, **{int(sources.number[i]): reason for i, reason in unusable.items()}}
    skipped = tuple(
        Skipped(f"{sources.table}row {number}{named.get(number, '')}", reasons[number]) for number in sorted(reasons)
    )
    kept = np.setdiff1d(np.arange(len(ids)), list(unusable))
    data = {key: _measured(value[kept]) for key, value in values.items()}
    return ObservationBatch(ids[kept].astype(str), ra[kept], dec[kept], data, skipped)


def _finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _measured(values: Array) -> tuple[Scalar, npt.NDArray[np.int64]]:
    """Return the observation ``[n]`` or ``[n, 55]`` of the objects all of whose values are finite, and their rows."""
    good = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=1)
    return Scalar(values[good]), np.flatnonzero(good)


def _coefficients(cells: Array, key: str, column: str, unusable: Reasons) -> npt.NDArray[np.float64]:
    """Return the coefficients of one spectrum, ``[B, 55]``; NaN for objects that have none."""
    values = np.full((len(cells), COUNTS[key]), np.nan)
    for i, cell in enumerate(cells):
        if len(cell) not in (0, COUNTS[key]):
            unusable.setdefault(i, f"it {_other_basis(key, column, len(cell))}".rstrip("."))
        elif len(cell):
            values[i] = cell
            if bad := np.count_nonzero(~np.isfinite(cell)):
                unusable.setdefault(i, f"{bad} of its {COUNTS[key]} {column} are missing or not finite")
    return values


def _fluxes(sources: Sources, unusable: Reasons, path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Return the mean fluxes in electron/s: as given, else from magnitudes, of which 0 means not measured."""
    fluxes = {}
    columns = sources.columns
    for key, (flux, magnitude) in PHOTOMETRY.items():
        if flux in columns:
            fluxes[key] = columns[flux]
        elif magnitude in columns:
            magnitudes = np.where(columns[magnitude] == 0, np.nan, columns[magnitude])
            fluxes[key] = 10 ** (-0.4 * (magnitudes - _zero_points(key, magnitudes, sources, unusable, path)))
    return fluxes


def _zero_points(
    key: str, magnitudes: npt.NDArray[np.float64], sources: Sources, unusable: Reasons, path: Path
) -> npt.NDArray[np.float64]:
    """Return the zero point of each row's release, ``[B]``; the release must be known where there is a magnitude."""
    columns = sources.columns
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
    for i in np.flatnonzero(np.isnan(zero_points) & np.isfinite(magnitudes)):
        known = " and ".join(map(str, ZERO_POINTS))
        reason = (
            f"it has a magnitude, ref_epoch {epochs[i]} and no flux; zero points are known for {known} (DR2 and DR3)"
        )
        unusable.setdefault(int(i), reason)
    return zero_points
