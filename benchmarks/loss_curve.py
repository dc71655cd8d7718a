"""Train a small model for an hour on all modalities of a mock sky, and write down how the held-out losses fall.

    python benchmarks/loss_curve.py --store joined.arrow --tokenizers set --out curve [--steps 1450] [--json FILE]

The store and the set are those of benchmarks/join_mock.py. ``aion train`` does the training, from ``curve/train.toml``;
stopped, the same command goes on. Embeddings and outputs begin where the codes lie (as in `aion demo`); targets are
shared out evenly: by the paper's distribution, numbers are hardly ever asked for beside hundreds of tokens of images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from aion_core.cli.demo.learn import order_codes
from aion_core.data.store import TokenStore
from aion_core.engine import MetricsLog
from aion_core.model import AionConfig, AionModel
from aion_core.tokenizers import TokenizerSet

SHAPE = AionConfig(dim=192, encoder_depth=4, decoder_depth=4, num_heads=4)
PAIRS = (
    ("catalog_redshift", "desi_spectrum"), ("catalog_redshift", "legacy_image"), ("sdss_spectrum", "desi_spectrum"),
    ("legacy_flux_r", "legacy_image"), ("legacy_flux_r", "hsc_image"),
)  # fmt: skip
CONFIG = """
[run]
folder = "{out}/run"
precision = "fp32"
log_every = 10
[data]
batch_size = 32
split = {{ fraction = 0.1, order = 12, seed = 0 }}
[[data.train]]
stores = ["{store}"]
[model]
start = "{out}/start"
[masking]
input_budget = 160
target_budget = 48
target_beta = [1, 1]
[optimizer]
lr = 1e-3
warmup_steps = 60
steps = {steps}
[evaluate]
every = 240
samples = 600
[checkpoint]
every = 240
"""


def prepare(store: Path, tokenizers: Path, out: Path, steps: int) -> Path:
    """Write the model that the run begins with, and its configuration."""
    out.mkdir(parents=True, exist_ok=True)
    joined = TokenStore(store)
    model = AionModel(SHAPE, joined.space, 0)
    order_codes(model, TokenizerSet.load(tokenizers), joined, 0)
    model.save_pretrained(out / "start")
    pairs = [f'[[evaluate.conditional]]\ntarget = "{t}"\ngiven = ["{g}"]\n' for t, g in PAIRS]
    path = out / "train.toml"
    path.write_text(CONFIG.format(out=out, store=store, steps=steps).lstrip() + "".join(pairs))
    return path


def summary(store: Path, out: Path) -> dict[str, Any]:
    """Return what the run's log says: training loss, held-out losses, entropies, and which of them fell."""
    lines = list(MetricsLog(out / "run/metrics.jsonl", silent=True).read())
    held_out = [{"step": line["step"], "loss": line["loss"]} for line in lines if line["kind"] == "evaluation"]
    entropy = next(line for line in lines if line["kind"] == "data")["entropy_by_modality"]
    first, last = held_out[0]["loss"], held_out[-1]["loss"]
    every = [line for line in lines if line["kind"] == "train"]
    return {
        "benchmark": "loss_curve",
        "objects": len(TokenStore(store)),
        "config": (out / "train.toml").read_text(),
        "fell": sorted(key for key in last if last[key] < first[key]),
        "did_not_fall": sorted(key for key in last if not last[key] < first[key]),
        "below_entropy": sorted(key for key in last if key in entropy and last[key] < entropy[key]),
        "train": [{"step": line["step"], "loss": round(line["loss"], 4)} for line in every],
        "held_out": held_out,
        "entropy": entropy,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="the joined store")
    parser.add_argument("--tokenizers", type=Path, required=True, help="the tokenizer set that made its tokens")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=1450)
    parser.add_argument("--json", type=Path, help="write the summary there, too")
    args = parser.parse_args()
    store, tokenizers, out = (path.resolve() for path in (args.store, args.tokenizers, args.out))
    config = out / "train.toml"
    if not config.exists():
        config = prepare(store, tokenizers, out, args.steps)
    subprocess.run([sys.executable, "-m", "aion_core.cli", "train", str(config)], check=True)
    text = json.dumps(summary(store, out), indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
