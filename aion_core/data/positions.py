"""Which rows of a catalogue lie on an image, and on which pixels.

A catalogue may be that of a whole survey: it is streamed, and only the rows on the image are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.data.reader import Skipped
from aion_core.data.stamps import nearest_pixels
from aion_core.data.tables import numbers

if TYPE_CHECKING:
    from astropy.wcs import WCS


@dataclass(frozen=True)
class Places:
    """The n rows of a catalogue that lie on an image, from its first row of pixels to its last.

    Attributes
    ----------
    columns
        The catalogue's columns, ``[n, ...]``.
    number
        Row of the catalogue, from 0, ``[n]``.
    row, column
        Nearest pixel, from 0, ``[n]``.
    skipped
        Rows without a position, and one entry for all those that lie off the image.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    number: npt.NDArray[np.int64]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Places:
        """Return some of the places; `skipped` stays as it is."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Places(columns, self.number[rows], self.row[rows], self.column[rows], self.skipped)


def places_on(
    parts: Iterable[Mapping[str, npt.NDArray[Any]]], wcs: WCS, shape: tuple[int, int], catalogue: Path, image: Path
) -> Places:
    """Return the rows of a catalogue that lie on an image.

    Parameters
    ----------
    parts
        Consecutive slices of the catalogue's columns, ``ra`` and ``dec`` (ICRS degrees) among them.
    wcs, shape
        Of the image; shape is (height, width).
    catalogue, image
        The files, for sentences.

    Raises
    ------
    InputError
        If no row lies on the image.
    """
    kept: list[dict[str, npt.NDArray[Any]]] = []
    unknown: list[Skipped] = []
    first, off, example = 0, 0, ""
    for part in parts:
        missing = [name for name in ("ra", "dec") if name not in part]
        if missing:
            raise InputError(f"{catalogue}: no column {missing[0]}; positions are columns ra and dec, in degrees.")
        ra, dec = (numbers(part, name, catalogue, first) for name in ("ra", "dec"))
        row, column = nearest_pixels(wcs, ra, dec)
        known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
        on = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        unknown += [
            Skipped(f"row {first + i} of {catalogue.name}", "it has no position") for i in np.flatnonzero(~known)
        ]
        if not example and (known & ~on).any():
            i = int(np.flatnonzero(known & ~on)[0])
            example = f"row {first + i}, RA {ra[i]:.6f}, Dec {dec[i]:.6f}"
        off += int((known & ~on).sum())
        mine = np.flatnonzero(on)
        kept.append(
            {name: values[mine] for name, values in part.items()}
            | {"": np.stack([mine + first, row[mine], column[mine]])}
        )
        first += len(ra)
    if not any(part[""].shape[1] for part in kept):
        why = f"the first is {example}" if example else "it has no row with a position"
        raise InputError(f"{image}: no position of {catalogue} lies on this image ({why}).")
    return _sorted(kept, unknown, off, example, catalogue)


def _sorted(
    kept: list[dict[str, npt.NDArray[Any]]], unknown: list[Skipped], off: int, example: str, catalogue: Path
) -> Places:
    if off:
        listed = (
            f"{off} rows of {catalogue.name}, the first being {example}"
            if off > 1
            else f"{example} of {catalogue.name}"
        )
        unknown.append(Skipped(listed, "off the image"))
    where = np.concatenate([part.pop("") for part in kept], axis=1)
    order = np.lexsort((where[0], where[2], where[1]))
    columns = {name: np.concatenate([part[name] for part in kept])[order] for name in kept[0]}
    number, row, column = where[:, order]
    return Places(columns, number.astype(np.int64), row, column, tuple(unknown))
