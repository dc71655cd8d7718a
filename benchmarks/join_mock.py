"""Join the token stores of a mock sky: one row an object, with all that any survey has of it, to train on.

    aion mock --objects 6000 --out mock --seed 11
    aion tokenizer train mock --readers mock/catalog_compilation/readers.toml --out set
    aion tokenize mock --readers mock/catalog_compilation/readers.toml --tokenizers set --out stores
    python benchmarks/join_mock.py --truth mock/truth --stores stores --out joined.arrow

An object of a store belongs to the nearest object of the truth within an arcsecond. What two surveys both have of one
object (a redshift) is taken from the store that comes first by name.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table, vstack

from aion_core import load_registry
from aion_core.contract import Slot, TokenSpace
from aion_core.data.store import StoreWriter, TokenStore

WITHIN = 1 * u.arcsec
PART = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, required=True, help="folder of truth tables")
    parser.add_argument("--stores", type=Path, nargs="+", required=True, help="token stores, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="the joined store")
    args = parser.parse_args()
    truth = vstack([Table.read(path)["object_id", "ra", "dec"] for path in sorted(args.truth.glob("*.fits"))])
    sky = SkyCoord(truth["ra"], truth["dec"], unit="deg")
    stores = [store for store in TokenStore.open(args.stores) if len(store)]
    found = [matched(store, sky) for store in stores]
    space = united(stores)
    counts = dict.fromkeys(space.keys, 0)
    with StoreWriter(args.out, space) as writer:
        for first in range(0, len(truth), PART):
            part = truth[first : first + PART]
            tokens = {}
            for store, rows in zip(stores, found, strict=True):
                mine = rows[first : first + PART]
                objects = np.flatnonzero(mine >= 0)
                if not len(objects):
                    continue
                for key, codes in store.tokens(mine[objects]).items():
                    whole = tokens.setdefault(key, np.full((len(part), codes.shape[1]), -1))
                    free = whole[objects, 0] < 0
                    whole[objects[free]] = codes[free]
            for key, whole in tokens.items():
                counts[key] += int((whole[:, 0] >= 0).sum())
            names = np.asarray(part["object_id"]).astype(str)
            writer.write(names, part["ra"], part["dec"], {k: (v, np.arange(len(v))) for k, v in tokens.items()})
    print(json.dumps({"objects": len(truth), "modalities": counts}, indent=2))


def matched(store: TokenStore, sky: SkyCoord) -> np.ndarray:
    """Return for each object of the truth its row in a store, −1 where it has none."""
    rows = np.full(len(sky), -1)
    known = np.flatnonzero(np.isfinite(store.ra))
    if len(known):
        index, away, _ = SkyCoord(store.ra[known], store.dec[known], unit="deg").match_to_catalog_sky(sky)
        near = away < WITHIN
        rows[index[near]] = known[near]
    return rows


def united(stores: list[TokenStore]) -> TokenSpace:
    """Return the modalities of all stores, in the registry's order."""
    slots: dict[str, Slot] = {slot.spec.key: slot for store in reversed(stores) for slot in store.space.slots}
    return TokenSpace(slots=tuple(slots[key] for key in load_registry().modalities if key in slots))


if __name__ == "__main__":
    main()
