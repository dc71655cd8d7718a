"""What a user says of the columns of tables, and the columns by those names: in degrees, arcsec, pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen
from aion_core.data.tables import numbers
from aion_core.data.units import stated_unit

Columns = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]


class SourceColumns(Frozen):
    """Columns of a list of sources: position, ellipticity components, half-light radius.

    Either `x` and `y` (pixels of the 96-pixel crop, the first pixel's centre being 0) or `ra` and `dec` are given. With
    `group`, consecutive rows of the same value in that column are the sources of one object. Without, the objects are
    the rows of `centres` (or of the table itself), and their sources those rows of the table that fall into the crop
    around them, north up and east left, in pixels of `pixel_scale` arcsec.
    """

    x: str = ""
    y: str = ""
    ra: str = ""
    dec: str = ""
    e1: str
    e2: str
    radius: str
    group: str = ""
    centres: Path | None = None
    pixel_scale: float = Field(default=0.262, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        pixels, sky = bool(self.x and self.y), bool(self.ra and self.dec)
        if pixels == sky or bool(self.x) != bool(self.y) or bool(self.ra) != bool(self.dec):
            raise ValueError("name either x and y, or ra and dec of the sources")
        if pixels and not self.group:
            raise ValueError("sources in pixels need group, the column that says which object they are around")
        if self.group and self.centres:
            raise ValueError("give group or centres, not both")
        return self


class TableColumns(Frozen):
    """Which tables these are, and their columns.

    Attributes
    ----------
    files
        Globs on the name or the path of a file.
    object_id, ra, dec
        Of the objects; without `object_id`, they are called by file and row.
    redshift
        Spectroscopic redshift.
    warning
        Where this column is not 0 (or false), the redshift is not to be relied on, and absent.
    sources
        Columns of a list of sources.
    """

    files: tuple[str, ...] = Field(min_length=1)
    object_id: str = ""
    ra: str = ""
    dec: str = ""
    redshift: str = ""
    warning: str = ""
    sources: SourceColumns | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.redshift and self.sources is None:
            raise ValueError("name a column of redshifts, or those of sources")
        around = self.sources is not None and bool(self.sources.ra)
        if bool(self.ra) != bool(self.dec) or (around and not self.ra):
            raise ValueError("name both ra and dec of the objects")
        return self

    def matches(self, path: Path) -> bool:
        return any(fnmatchcase(path.name, glob) or fnmatchcase(str(path), glob) for glob in self.files)

    def of_objects(self) -> set[str]:
        """Return the lower-case names of the columns that objects have."""
        return _given(self.object_id, self.ra, self.dec, self.redshift, self.warning)

    def of_sources(self) -> set[str]:
        """Return the lower-case names of the columns that sources have."""
        if (s := self.sources) is None:
            return set()
        return _given(s.x, s.y, s.ra, s.dec, s.e1, s.e2, s.radius, s.group)

    def in_file(self) -> set[str]:
        """Return the lower-case names of the columns that a matching file must have."""
        elsewhere = self.sources is not None and self.sources.centres is not None
        return self.of_sources() | (set() if elsewhere else self.of_objects())


def _given(*names: str) -> set[str]:
    return {name.lower() for name in names if name}


@dataclass(frozen=True)
class Rows:
    """A slice of a table's rows, the first of which is row `first`, from 0, of the file."""

    columns: Columns
    units: Mapping[str, str]
    path: Path
    first: int

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def numbers(self, name: str, unit: str) -> Floats:
        """Return a column as float64 in a unit, ``[B]``; NaN where there is no value, or the column has no name."""
        if not name:
            return np.full(len(self), np.nan)
        values = numbers(self.columns, name.lower(), self.path, self.first)
        try:
            stated = stated_unit(self.units.get(name.lower()), unit)
            return values if stated is None else values * _factor(stated, unit)
        except ValueError as error:
            raise InputError(
                f"{self.path}: column {name}: {error}; expected {unit or 'a number without unit'}."
            ) from None

    def texts(self, name: str) -> npt.NDArray[np.str_]:
        """Return a column of identifiers or other values as text, ``[B]``."""
        column = self.columns[name.lower()]
        if column.ndim != 1:
            raise InputError(f"{self.path}: column {name} holds {column.shape[1:]} values a row; expected one.")
        if column.dtype.kind == "f":
            if not (np.isfinite(column) & (column == np.rint(column)) & (np.abs(column) < 2**53)).all():
                raise InputError(
                    f"{self.path}: column {name} holds {column.dtype}, which has not the digits of an identifier; "
                    "write it as integers or text."
                )
            column = column.astype(np.int64)
        if column.dtype.kind == "S":
            return np.char.strip(np.char.decode(column, "utf-8", "replace"))
        if column.dtype.kind == "O":
            column = np.array(
                [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in column], dtype=str
            )
        return np.char.strip(column.astype(str))

    def objects(self, of: TableColumns) -> tuple[npt.NDArray[np.str_], Floats, Floats, Floats]:
        """Return identifier, right ascension and declination (degrees), and redshift of the rows, ``[B]`` each."""
        stem = self.path.name.partition(".")[0]
        ids = (
            self.texts(of.object_id)
            if of.object_id
            else np.array([f"{stem}-{self.first + i}" for i in range(len(self))], dtype=str)
        )
        ra, dec = self.numbers(of.ra, "deg"), self.numbers(of.dec, "deg")
        known = np.isfinite(ra) & (np.abs(dec) <= 90)
        z = self.numbers(of.redshift, "")
        if of.warning:
            z = np.where(self.numbers(of.warning, "") == 0, z, np.nan)
        return ids, np.where(known, ra % 360, np.nan), np.where(known, dec, np.nan), np.where(z > -1, z, np.nan)


def _factor(stated: str, unit: str) -> float:
    from astropy import units

    return float(units.Unit(stated).to(units.Unit(unit)))
