"""Reading native survey files: the base class of plugin readers, and what they yield.

Units, zero points, mask polarity, wavelength order and byte order are normalised in readers and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.observations import Observation


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
    """

    object_id: npt.NDArray[np.str_]
    ra: npt.NDArray[np.float64]
    dec: npt.NDArray[np.float64]
    data: Mapping[str, tuple[Observation, npt.NDArray[np.int64]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.object_id)
        if self.ra.shape != (size,) or self.dec.shape != (size,):
            raise InputError(f"ra {self.ra.shape} and dec {self.dec.shape} must both have shape ({size},)")
        for key, (observation, rows) in self.data.items():
            if len(observation) != len(rows):
                raise InputError(f"{key}: {len(observation)} observations, but {len(rows)} rows")
            if len(rows) and (rows.min() < 0 or rows.max() >= size or len(np.unique(rows)) != len(rows)):
                raise InputError(f"{key}: rows must be distinct and in 0 … {size - 1}")

    def __len__(self) -> int:
        return len(self.object_id)


class Reader(ABC):
    """Reads one kind of native file. Plugins subclass it; a `ReaderSpec` names the subclass.

    Both methods raise `InputError` for a file that is damaged: one sentence with the file and, where it applies,
    the HDU or column and the row.
    """

    @abstractmethod
    def claims(self, path: Path) -> bool:
        """Whether this reader reads the file, judged by header or columns; False for anything it cannot open."""

    @abstractmethod
    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        """Yield the file's objects in batches, with memory that does not grow with the file."""
