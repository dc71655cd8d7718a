"""Join the token stores of a mock sky: one row an object, with all that any survey has of it, to train on.

aion mock --objects 6000 --out mock --seed 11
aion tokenizer train mock --readers mock/catalog_compilation/readers.toml --out set
aion tokenize mock --readers mock/catalog_compilation/readers.toml --tokenizers set --out stores
python benchmarks/join_mock.py --truth mock/truth --stores stores --out joined.arrow
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack

from aion_core.data.join import join_stores
from aion_core.data.statistics import token_counts
from aion_core.data.store import TokenStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, required=True, help="folder of truth tables")
    parser.add_argument("--stores", type=Path, nargs="+", required=True, help="token stores, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="the joined store")
    args = parser.parse_args()
    truth = vstack([Table.read(path)["object_id", "ra", "dec"] for path in sorted(args.truth.glob("*.fits"))])
    names = np.asarray(truth["object_id"]).astype(str)
    joined = join_stores(TokenStore.open(args.stores), names, truth["ra"], truth["dec"], args.out)
    counts = {key: objects for key, (objects, _) in token_counts([joined]).items()}
    print(json.dumps({"objects": len(joined), "modalities": counts}, indent=2))


if __name__ == "__main__":
    main()
