"""``aion tokenizer export``: some tokenizers of a set in the layout of the AION-1 release, with their checksums."""

from __future__ import annotations

import argparse

from aion_core.cli.console import print_json, print_table
from aion_core.contract import AionError


def run(args: argparse.Namespace) -> None:
    """Write ``codecs/<name>/`` below the folder, and print what each file of weights hashes to."""
    from aion_core.hub import sha256
    from aion_core.release import WEIGHTS, codec_folder
    from aion_core.tokenizers import TokenizerSet

    if args.out.exists():
        raise AionError(f"{args.out} exists; choose another --out.")
    tokenizers = TokenizerSet.load(args.tokenizers, keys=args.keys)
    tokenizers.save(args.out)
    found = []
    for key, tokenizer in tokenizers.items():
        weights = codec_folder(args.out, tokenizer.codec) / WEIGHTS
        found.append({"key": key, "weights": str(weights), "sha256": sha256(weights)})
    if args.json:
        print_json({"out": str(args.out), "codecs": found})
        return
    print_table("", ("key", "weights", "sha256"), [tuple(entry.values()) for entry in found])
