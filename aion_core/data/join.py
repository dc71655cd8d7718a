"""Token stores joined over surveys: one row an object, with all that any store has of it.

Objects are those of a list with positions; what a store has within an arcsecond of one belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError, Slot, TokenSpace
from aion_core.data.store import StoreWriter, TokenStore

#: Largest distance of a match, arcsec (REFERENCE section 3).
WITHIN = 1.0
#: Objects joined at a time.
PART = 1000

Int = npt.NDArray[np.int64]


def join_stores(
    stores: Sequence[TokenStore],
    object_id: npt.NDArray[np.str_],
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    path: str | Path,
    within: float = WITHIN,
    progress: Callable[[int], None] = lambda objects: None,
) -> TokenStore:
    """Write a store with a row for each object of a list, in its order.

    Parameters
    ----------
    stores
        Whose tokens are joined; those of one modality must have one fingerprint. What several stores have of one
        object (a redshift) is taken from the first.
    object_id, ra, dec
        The objects, ``[B]``; ICRS degrees.
    path
        The joined store.
    within
        Arcseconds.
    progress
        Told after each part how many objects are done.

    Raises
    ------
    InputError
        If there is nothing to join, or positions are not finite.
    """
    ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    stores = [store for store in stores if len(store)]
    if not stores or not len(ra):
        raise InputError("There is nothing to join: no store with an object in it, or no object to join by.")
    found = [(store, keys, matches(store, ra, dec, within, keys)) for store in stores for keys in _together(store)]
    with StoreWriter(path, united(stores)) as writer:
        for first in range(0, len(ra), PART):
            part = slice(first, first + PART)
            count = len(ra[part])
            tokens: dict[str, Int] = {}
            for store, keys, rows in found:
                objects = np.flatnonzero(rows[part] >= 0)
                if not len(objects):
                    continue
                for key, codes in store.tokens(rows[part][objects], keys).items():
                    whole = tokens.setdefault(key, np.full((count, codes.shape[1]), -1))
                    free = whole[objects, 0] < 0
                    whole[objects[free]] = codes[free]
            everyone = np.arange(count)
            writer.write(object_id[part], ra[part], dec[part], {k: (v, everyone) for k, v in tokens.items()})
            progress(first + count)
    return TokenStore(path)


def matches(
    store: TokenStore,
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    within: float = WITHIN,
    keys: Sequence[str] | None = None,
) -> Int:
    """Return for each position (ICRS degrees, ``[B]``) the row of the nearest object of a store, −1 if none is near.

    With `keys`, of those that have one of these modalities.
    """
    from astropy import units
    from astropy.coordinates import SkyCoord

    ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise InputError("Objects are joined by position, and one of them has none.")
    rows = np.full(len(ra), -1, np.int64)
    there = np.isfinite(store.ra) & np.isfinite(store.dec)
    known = np.flatnonzero(there if keys is None else there & store.present(keys))
    if len(known) and len(ra):
        sky = SkyCoord(store.ra[known], store.dec[known], unit=units.deg)
        index, away, _ = SkyCoord(ra, dec, unit=units.deg).match_to_catalog_sky(sky)
        near = away < within * units.arcsec
        rows[near] = known[index[near]]
    return rows


def _together(store: TokenStore) -> list[list[str]]:
    """Return the modalities of a store in groups that the same rows have: each is to be looked for once.

    An object may have several rows in a store: one of a catalogue, and one of the images beside it.
    """
    groups: dict[bytes, list[str]] = {}
    for key in store.space.keys:
        groups.setdefault(np.packbits(store.present([key])).tobytes(), []).append(key)
    return list(groups.values())


def united(stores: Sequence[TokenStore]) -> TokenSpace:
    """Return the modalities of all stores, in the order in which they occur."""
    slots: dict[str, Slot] = {}
    for store in stores:
        for slot in store.space.slots:
            if slots.setdefault(slot.key, slot).fingerprint != slot.fingerprint:
                raise InputError(f"{store.path} has {slot.key} by another tokenizer than the stores before it.")
    return TokenSpace(slots=tuple(slots.values()))
