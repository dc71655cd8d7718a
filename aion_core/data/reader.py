"""Reading native survey files: the base class of plugin readers, and what they yield.

Units, zero points, mask polarity, wavelength order and byte order are normalised in readers and nowhere else.
`aion_core.data.fits` does the last of these for FITS files, which most readers meet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen
from aion_core.data.fits import fits_columns, fits_rows
from aion_core.observations import Observation

__all__ = ["NoOptions", "ObservationBatch", "Reader", "Skipped", "fits_columns", "fits_rows"]


@dataclass(frozen=True)
class Skipped:
    """An object that could not be read while the others of its file could: what it is, and why.

    `name` says where it stands (``row 3``, ``HDU B_FLUX, row 3``), `reason` is the rest of the sentence
    (``every pixel is masked``). What an object merely lacks (a band not observed) is no reason to skip it. Many
    that share a reason may be told at once: `count` is their number, and `name` says it (``12 rows of objects.csv``).
    """

    name: str
    reason: str
    count: int = 1


@dataclass(frozen=True)
class ObservationBatch:
    """B objects and what was measured of them.

    Attributes
    ----------
    object_id
        Survey identifiers as strings, ``[B]``.
    ra, dec
        ICRS position in degrees, float64 ``[B]``; NaN where unknown.
    data
        ``{key: (observation, rows)}``: observation i of a modality belongs to object ``rows[i]``; an object that
        lacks the modality occurs in no row.
    skipped
        Objects of this part of the file that are not among the B, and why.
    """

    object_id: npt.NDArray[np.str_]
    ra: npt.NDArray[np.float64]
    dec: npt.NDArray[np.float64]
    data: Mapping[str, tuple[Observation, npt.NDArray[np.int64]]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.object_id)
        if self.ra.shape != (size,) or self.dec.shape != (size,):
            raise InputError(f"ra {self.ra.shape} and dec {self.dec.shape} must both have shape ({size},)")
        if np.isinf(self.ra).any() or (np.abs(self.dec) > 90).any():
            raise InputError("ra must be finite or NaN, and dec NaN or in −90 … 90 degrees")
        for key, (observation, rows) in self.data.items():
            if len(observation) != len(rows):
                raise InputError(f"{key}: {len(observation)} observations, but {len(rows)} rows")
            if len(rows) and (rows.min() < 0 or rows.max() >= size or len(np.unique(rows)) != len(rows)):
                raise InputError(f"{key}: rows must be distinct and in 0 … {size - 1}")

    def __len__(self) -> int:
        return len(self.object_id)


class NoOptions(Frozen):
    """Options of a reader that has none."""


class Reader(ABC):
    """Reads one kind of native file. Plugins subclass it; a `ReaderSpec` names the subclass.

    The methods raise `InputError` for a file that is damaged: one sentence with the file and, where it applies,
    the HDU or column and the row.

    Attributes
    ----------
    Options
        What a user may set for this reader, in the section of its name of the file given as
        ``aion tokenize --readers FILE.toml``; every option has a default.
    wanted
        Modalities that somebody will look at; None: all. What costs much to make may be left out of `data` where it
        is not among them (`wants`); the objects are the same.
    """

    Options: ClassVar[type[Frozen]] = NoOptions
    wanted: Collection[str] | None = None

    def __init__(self, options: Frozen | None = None) -> None:
        self.options: Any = self.Options() if options is None else options

    def wanting(self, keys: Collection[str] | None) -> Self:
        """Return the same reader for some modalities only."""
        other = copy(self)
        other.wanted = keys
        return other

    def wants(self, key: str) -> bool:
        """Whether somebody will look at a modality."""
        return self.wanted is None or key in self.wanted

    def group(self, path: Path) -> tuple[Path, ...]:
        """Return the files that are read together with this one, itself included (bands, catalogues beside).

        The objects of the group are read under its first file, and the others, where this reader claims them, are
        passed over. The same group is returned for each of its files that the reader claims.
        """
        return (path,)

    @abstractmethod
    def claims(self, path: Path) -> bool:
        """Whether this reader reads the file, judged by header or columns; False for anything it cannot open.

        Where it knows a kind of file that nobody can use, it may say so by `aion_core.data.files.NotClaimedError`.
        """

    @abstractmethod
    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        """Yield the file's objects in batches, with memory that does not grow with the file."""
