"""Catalogue rows of the Legacy Surveys as observations: sweep, tractor and target files.

Fluxes are the catalogue's total fluxes in nanomaggies, not corrected for Galactic extinction (``EBV`` is a modality of
its own). What is not measured is absent: a column that the file lacks, a value that is not finite, a band in which the
object was not observed. What the catalogue repeats from other surveys (Gaia) is left to their plugins.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.reader import ObservationBatch, Reader, fits_columns, fits_rows
from aion_core.observations import Scalar

Columns = dict[str, npt.NDArray[Any]]

BANDS = ("g", "r", "i", "z", "w1", "w2", "w3", "w4")
AXES = ("r", "e1", "e2")
#: Models without an extent: a star, and (DR10) a duplicate of a Gaia star, which is not fitted at all.
POINT, DUPLICATE = "PSF", "DUP"
#: Up to DR8, the model whose shape columns describe an object of a type; COMP has both.
DEVAUCOULEURS, EXPONENTIAL, COMPOSITE = {"DEV"}, {"EXP", "REX", "SIMP"}, "COMP"

#: Target files call two columns by other names.
ALIASES = {"type": "morphtype", "objid": "brick_objid"}

_SHAPES = {f"{model}_{axis}" for model in ("shape", "shapedev", "shapeexp") for axis in AXES}
_PER_BAND = {f"{what}_{band}" for what in ("flux", "flux_ivar", "nobs") for band in BANDS}
WANTED = {"ra", "dec", "release", "brickid", "objid", "ebv", "type", "fracdev", *ALIASES.values(), *_SHAPES, *_PER_BAND}


class CatalogueReader(Reader):
    """Reads the first table of sweep, tractor and target files with a flux column for each band, FITS, streamed.

    Early releases keep all bands in one array column (``decam_flux``) and are not claimed. All rows are yielded, also
    those of a tractor file that ``BRICK_PRIMARY`` says belong to a neighbouring brick.
    """

    def claims(self, path: Path) -> bool:
        """Whether the table has a position, the Legacy Surveys' release number, and the flux in some band."""
        names = fits_columns(path) or {}
        return {"ra", "dec", "release"} <= names.keys() and any(f"flux_{band}" in names for band in BANDS)

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        first = 0
        for columns in fits_rows(path, WANTED, batch_size):
            for name, alias in ALIASES.items():
                if alias in columns:
                    columns.setdefault(name, columns[alias])
            yield _observed(columns, path, first)
            first += len(columns["ra"])


def _observed(columns: Columns, path: Path, first: int) -> ObservationBatch:
    """Return the observations of a slice of rows, the first of which is row `first` (from 0) of the file."""
    values = {f"legacy_flux_{b}": _flux(columns, b, path) for b in BANDS if f"flux_{b}" in columns}
    if "ebv" in columns:
        values["legacy_ebv"] = _numbers(columns, "ebv", path)
    values |= {f"legacy_shape_{axis}": shape for axis, shape in _shapes(columns, path).items()}
    data = {}
    for key, value in values.items():
        rows = np.flatnonzero(np.isfinite(value))
        data[key] = (Scalar(value[rows]), rows)
    ra, dec = (_numbers(columns, name, path) for name in ("ra", "dec"))
    return ObservationBatch(_identifiers(columns, path, first), ra, dec, data)


def _numbers(columns: Columns, name: str, path: Path) -> npt.NDArray[np.float64]:
    """Return a column as float64 ``[B]``; NaN where it is not finite."""
    column = columns[name]
    if column.ndim != 1 or column.dtype.kind not in "fiu":
        raise InputError(f"{path}: column {name} holds {column.dtype} {column.shape[1:]}; expected one number a row.")
    values = column.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _identifiers(columns: Columns, path: Path, first: int) -> npt.NDArray[np.str_]:
    """Return ``RELEASE-BRICKID-OBJID``, which is unique in all releases, else ``<file stem>-<row from 0>``."""
    parts = [columns.get(name) for name in ("release", "brickid", "objid")]
    if all(part is not None and part.dtype.kind in "iu" for part in parts):
        return np.array(["-".join(map(str, row)) for row in zip(*parts, strict=True)], dtype=str)
    stem = path.name.partition(".fits")[0]
    return np.array([f"{stem}-{first + i}" for i in range(len(columns["ra"]))], dtype=str)


def _flux(columns: Columns, band: str, path: Path) -> npt.NDArray[np.float64]:
    """Return the flux of one band; NaN where the object was not observed in it.

    That is where the inverse variance or the number of exposures is zero. The catalogue's flux is exactly 0 there,
    which alone is the sign in files that have neither column.
    """
    flux = _numbers(columns, f"flux_{band}", path)
    checks = [_numbers(columns, n, path) for n in (f"flux_ivar_{band}", f"nobs_{band}") if n in columns]
    observed = np.logical_and.reduce([check > 0 for check in checks]) if checks else flux != 0
    return np.where(observed, flux, np.nan)


def _shapes(columns: Columns, path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Return half-light radius (arcsec) and ellipticity components by axis; NaN where no model was fitted.

    DR9 and later have one shape, 0 for a star. Up to DR8 there is one for each profile, of which that of the object's
    type counts; of a composite, that of the component with more than half of the flux; a star has 0, as since DR9.
    """
    kind = np.char.upper(np.char.strip(columns["type"].astype(str))) if "type" in columns else None
    if all(f"shape_{axis}" in columns for axis in AXES):
        fitted = np.full(len(columns["ra"]), True) if kind is None else kind != DUPLICATE
        return {axis: np.where(fitted, _numbers(columns, f"shape_{axis}", path), np.nan) for axis in AXES}
    if kind is None or not all(f"shape{model}_{axis}" in columns for model in ("dev", "exp") for axis in AXES):
        return {}
    share = _numbers(columns, "fracdev", path) if "fracdev" in columns else np.full(len(kind), np.nan)
    composite = kind == COMPOSITE
    dev = np.isin(kind, list(DEVAUCOULEURS)) | (composite & (share > 0.5))
    exp = np.isin(kind, list(EXPONENTIAL)) | (composite & (share <= 0.5))
    shapes = {}
    for axis in AXES:
        of_dev, of_exp = (_numbers(columns, f"shape{model}_{axis}", path) for model in ("dev", "exp"))
        shapes[axis] = np.select([dev, exp, kind == POINT], [of_dev, of_exp, 0.0], np.nan)
    return shapes
