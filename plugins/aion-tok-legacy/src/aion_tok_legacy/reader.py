"""Catalogue rows of the Legacy Surveys as observations: sweep, tractor and target files of all releases.

Fluxes are the catalogue's total fluxes in nanomaggies, not corrected for Galactic extinction (``EBV`` is a modality of
its own). What is not measured is absent: a column that the file lacks, a value that is not finite, a band in which the
object was not observed. What the catalogue repeats from other surveys (Gaia) is left to their plugins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen
from aion_core.data.fits import FitsFile, fits_columns, open_fits
from aion_core.data.positions import on_sphere
from aion_core.data.reader import ObservationBatch, Reader, Skipped
from aion_core.observations import Observation, Scalar
from aion_tok_legacy.sources import Surroundings

Columns = Mapping[str, npt.NDArray[Any]]

BANDS = ("g", "r", "i", "z", "w1", "w2", "w3", "w4")
AXES = ("r", "e1", "e2")
#: Models without an extent: a star, and (DR10) a duplicate of a Gaia star, which is not fitted at all.
POINT, DUPLICATE = "PSF", "DUP"
#: Up to DR8, the model whose shape columns describe an object of a type; COMP has both.
DEVAUCOULEURS, EXPONENTIAL, COMPOSITE = {"DEV"}, {"EXP", "REX", "SIMP"}, "COMP"

#: Target files call two columns by other names.
ALIASES = {"type": "morphtype", "objid": "brick_objid"}

#: Up to DR5, the bands of a camera lie in one array column: the prefix, and the band of each element.
ARRAYS = {"decam": ("u", "g", "r", "i", "z", "y"), "wise": ("w1", "w2", "w3", "w4")}
QUANTITIES = ("flux", "flux_ivar", "nobs")

_SHAPES = {f"{model}_{axis}" for model in ("shape", "shapedev", "shapeexp") for axis in AXES}
_PER_BAND = {f"{what}_{band}" for what in QUANTITIES for band in BANDS}
_PER_CAMERA = {f"{camera}_{what}" for what in QUANTITIES for camera in ARRAYS}
_IDENTITY = {"ra", "dec", "release", "brickid", "objid", "brick_primary"}
WANTED = {*_IDENTITY, "ebv", "type", "fracdev", *ALIASES.values(), *_SHAPES, *_PER_BAND, *_PER_CAMERA}
#: Why a row is skipped.
ELSEWHERE = "BRICK_PRIMARY says that it belongs to another brick, whose file has it"
#: What the lists of sources are made of.
SOURCES = {"ra", "dec", "type", "fracdev", *_SHAPES}


class CatalogueOptions(Frozen):
    """Options of the catalogue reader."""

    #: Whether sweep and tractor files are whole, so that they hold all the neighbours of their objects.
    whole: bool = True


class CatalogueReader(Reader):
    """Reads the first table of sweep, tractor and target files, FITS, streamed.

    Rows of a tractor file that ``BRICK_PRIMARY`` says are another brick's are skipped: they are in its file again. As
    neighbours they count.
    """

    Options = CatalogueOptions

    def claims(self, path: Path) -> bool:
        """Whether the table has a position, the Legacy Surveys' numbers, and the flux in some band."""
        names = (fits_columns(path) or {}).keys()
        if not {"ra", "dec"} <= names:
            return False
        return ("release" in names and bool(names & {f"flux_{b}" for b in BANDS})) or names >= {"brickid", "decam_flux"}

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        with open_fits(path) as file:
            around = surroundings(file) if self.options.whole else None
            first = 0
            for columns in file.rows(WANTED, batch_size):
                own = of_this_brick(columns)
                rows = {name: column[own] for name, column in columns.items()}
                batch = observed(rows, path, first + np.flatnonzero(own), around)
                elsewhere = (f"row {first + row}" for row in np.flatnonzero(~own))
                yield replace(batch, skipped=tuple(Skipped(row, ELSEWHERE) for row in elsewhere))
                first += len(own)


def of_this_brick(columns: Columns) -> npt.NDArray[np.bool_]:
    """Return which rows are the brick's own, and not another's in whose file they are again."""
    if "brick_primary" in columns:
        return columns["brick_primary"].astype(bool)
    return np.full(len(columns["ra"]), True)


def surroundings(file: FitsFile) -> Surroundings | None:
    """Return what finds the sources around a catalogue's objects; None where it is one of some sources only."""
    names = file.columns().keys()
    of_targets = any(name.endswith("_target") for name in names)
    if of_targets or not names >= {"brickid", "objid", "type"}:
        return None
    return Surroundings(file, SOURCES, lambda columns: _of_sources(columns, file.path))


def observed(
    columns: Columns, path: Path, numbers: npt.NDArray[np.int64], around: Surroundings | None = None
) -> ObservationBatch:
    """Return what the catalogue says of some of its rows; `numbers` are theirs in the file, from 0."""
    columns = _spelt_as_now(columns)
    values = {f"legacy_flux_{b}": _flux(columns, b, path) for b in BANDS if f"flux_{b}" in columns}
    if "ebv" in columns:
        values["legacy_ebv"] = _numbers(columns, "ebv", path)
    values |= {f"legacy_shape_{axis}": shape for axis, shape in _shapes(columns, path).items()}
    data: dict[str, tuple[Observation, npt.NDArray[np.int64]]] = {}
    for key, value in values.items():
        rows = np.flatnonzero(np.isfinite(value))
        data[key] = (Scalar(value[rows]), rows)
    ra, dec = on_sphere(_numbers(columns, "ra", path), _numbers(columns, "dec", path))
    if around is not None:
        data["catalog_sources"] = around(ra, dec, columns["brickid"].astype(np.int64))
    return ObservationBatch(_identifiers(columns, path, numbers), ra, dec, data)


def _spelt_as_now(columns: Columns) -> Columns:
    """Return the columns under the names that recent releases use, one column for each band."""
    columns = dict(columns)
    for name, alias in ALIASES.items():
        if alias in columns:
            columns.setdefault(name, columns[alias])
    for camera, bands in ARRAYS.items():
        for what in QUANTITIES:
            array = columns.pop(f"{camera}_{what}", None)
            if array is not None and array.ndim == 2:
                columns |= {f"{what}_{band}": array[:, i] for i, band in enumerate(bands[: array.shape[1]])}
    return columns


def _of_sources(columns: Columns, path: Path) -> npt.NDArray[np.float64]:
    """Return e1, e2 and radius of each row, ``[rows, 3]``; NaN where no model was fitted."""
    shapes = _shapes(columns, path)
    none = np.full(len(columns["ra"]), np.nan)
    return np.stack([shapes.get(axis, none) for axis in ("e1", "e2", "r")], 1)


def _numbers(columns: Columns, name: str, path: Path) -> npt.NDArray[np.float64]:
    """Return a column as float64 ``[B]``; NaN where it is not finite."""
    column = columns[name]
    if column.ndim != 1 or column.dtype.kind not in "fiu":
        raise InputError(f"{path}: column {name} holds {column.dtype} {column.shape[1:]}; expected one number a row.")
    values = column.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _identifiers(columns: Columns, path: Path, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
    """Return ``RELEASE-BRICKID-OBJID``, which is unique in all releases, else ``<file stem>-<row from 0>``.

    Before DR4 there is no number of the release: ``BRICKID-OBJID``, unique within one of them.
    """
    names = [name for name in ("release", "brickid", "objid") if name in columns]
    parts = [columns[name] for name in names]
    if names[-2:] == ["brickid", "objid"] and all(part.dtype.kind in "iu" for part in parts):
        return np.array(["-".join(map(str, row)) for row in zip(*parts, strict=True)], dtype=str)
    stem = path.name.partition(".fits")[0]
    return np.array([f"{stem}-{number}" for number in numbers], dtype=str)


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
