"""Fit or train tokenizers on survey files, measure how well they encode them, and export them.

PATH is a survey file, or a folder that is searched for them. `train` fits the tokenizer of every modality that occurs
and can be fitted in one pass over the data; networks (images, spectra, maps) are trained by gradients as a preset or a
TOML file says, alone or under torchrun, and the same command continues an interrupted training. Both go into one
tokenizer set: a folder in the layout of the AION-1 release with a manifest. `eval` and `export` read such a set, or a
repository on the Hub.

example:
  aion tokenizer train survey/ --out my-tokenizers
  aion tokenizer train spectra/ --out my-tokenizers --preset aion1-spectrum --set optimizer.steps=20000
  aion tokenizer train deep/ wide/ large/ --ratio 1 2 20 --preset aion1-image --out my-tokenizers
  torchrun --nproc-per-node 8 -m aion_core.cli tokenizer train spectra/ --out my-tokenizers --preset aion1-spectrum
  aion tokenizer train spectra/ --preset aion1-spectrum --sweep codes=256,1024,4096 --out codebook-sizes
  aion tokenizer eval other-field.fits --tokenizers my-tokenizers --plots pages --json
  aion tokenizer export my_spectrum --tokenizers my-tokenizers --out release
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from aion_core.cli.console import add_action, add_readers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion tokenizer``."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="{train,eval,export}")
    train = add_action(verbs, "train", "fit or train tokenizers on files", __doc__)
    evaluate = add_action(verbs, "eval", "measure tokenizers on files", __doc__)
    export = add_action(verbs, "export", "write tokenizers in the layout of the AION-1 release", __doc__)
    for verb in (train, evaluate):
        verb.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="survey files, or folders of them")
        verb.add_argument("--modalities", nargs="+", metavar="KEY", help="these only (default: all that occur)")
        add_readers(verb)
    for verb in (train, evaluate, export):
        verb.add_argument("--json", action="store_true", help="print one JSON document")
    _add_training(train)
    evaluate.add_argument("--tokenizers", required=True, metavar="DIR", help="tokenizer set: a folder or repository")
    evaluate.add_argument("--plots", type=Path, metavar="DIR", help="draw pages of reconstructions there")
    export.add_argument("keys", nargs="+", metavar="KEY", help="modalities whose tokenizers are wanted")
    export.add_argument("--tokenizers", required=True, metavar="DIR", help="tokenizer set: a folder or repository")
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the release goes")


def _add_training(train: argparse.ArgumentParser) -> None:
    train.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the tokenizer set goes")
    train.add_argument("--overwrite", action="store_true", help="replace an older tokenizer set of that name")
    network = train.add_argument_group("networks", "trained in DIR.training, which is kept")
    network.add_argument("--preset", action="append", default=[], metavar="NAME", help="a recipe that comes with aion")
    network.add_argument("--config", action="append", default=[], type=Path, metavar="FILE.toml", help="your own")
    network.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting")
    network.add_argument("--ratio", nargs="+", type=float, metavar="R", help="mix the PATHs in these proportions")
    network.add_argument("--from", dest="start", metavar="SET", help="tokenizer set to begin with, instead of afresh")
    network.add_argument("--grow", action="store_true", help="give the networks of SET the bands that they lack")
    network.add_argument("--sweep", metavar="SETTING=A,B", help="train one after another, and compare; writes no set")


def run(args: argparse.Namespace) -> None:
    """Train, measure or export."""
    module = {"train": "train", "eval": "evaluate", "export": "export"}[args.action]
    import_module(f"{__name__}.{module}").run(args)
