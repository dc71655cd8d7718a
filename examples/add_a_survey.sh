#!/usr/bin/env bash
# From nothing to a survey inside a trained model, on generated data, each step with the time that it took:
#
#     examples/add_a_survey.sh FOLDER [NAME]
#
# FOLDER is made, and everything stays in it, a virtual environment of its own included: nothing else is changed. NAME is
# the new survey's (default: lsst). The model that grows has learned Gaia's fluxes of the same mock sky before. STEPS says
# how long each training takes (default: 40 steps).
set -euo pipefail
folder=$1 name=${2:-lsst} steps=${STEPS:-40}
last=checkpoints/step-$(printf %08d "$steps")
mkdir "$folder"
cd "$folder"

TIMEFORMAT='[%1R s, %1U s of a processor]'
timed() {
    echo "\$ $*"
    { time "$@"; } 2>&1 | sed 's/^/    /; s/ *$//'
    echo
}

# An environment that sees all that is installed here, and that pip installs into alone.
python - <<'PY'
import sysconfig, venv
from pathlib import Path

venv.create("environment", with_pip=False, symlinks=True)
here = Path("environment").absolute()
site = Path(sysconfig.get_path("purelib", vars={"base": str(here)}))
(site / "_here.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
for command, module in (("aion", "aion_core.cli"), ("pip", "pip")):
    script = here / "bin" / command
    script.write_text(f'#!/bin/sh\nexec {here}/bin/python -m {module} "$@"\n')
    script.chmod(0o755)
PY
export PATH=$PWD/environment/bin:$PATH

cat > gaia.toml <<TOML
[run]
folder = "runs/gaia"
[[data.train]]
stores = ["stores/gaia"]
[data]
batch_size = 16
split = { fraction = 0.2, order = 12 }
[model]
dim = 64
encoder_depth = 2
decoder_depth = 2
num_heads = 4
[masking]
input_budget = 64
target_budget = 32
[optimizer]
steps = $steps
lr = 1e-3
TOML
sed -e 's#runs/gaia#runs/grown#; s#stores/gaia#stores/joined#' -e '/^dim\|^encoder\|^decoder\|^num_heads/d' \
    -e 's#^\[model\]#[model]\nstart = "runs/gaia"#' gaia.toml > grown.toml

cat > join.py <<PY
import numpy as np

from aion_core import TokenStore
from aion_core.data.join import join_stores

(new,), (gaia,) = TokenStore.open("stores/$name"), TokenStore.open("stores/gaia")
joined = join_stores([new, gaia], np.array(new.ids.to_pylist()), new.ra, new.dec, "stores/joined/mock.arrow")
print(len(joined), "objects:", ", ".join(joined.space.keys))
PY
cat > outputs.py <<'PY'
"""Hash what a model says of the modalities that it knew before."""
import hashlib
import sys

import torch

import aion_core as aion

model = aion.AionModel.from_pretrained(sys.argv[1])
keys = [key for key in model.space.keys if key.startswith("gaia_")]
tokens = {key: torch.arange(0, 1000, 10)[:, None] for key in keys}
digest = hashlib.sha256(model.embed(tokens).values.numpy().tobytes())
for key in keys:
    given = {other: codes for other, codes in tokens.items() if other != key}
    digest.update(model.posterior(given, key).numpy().tobytes())
print(f"{sys.argv[1]}: {', '.join(keys)}: {digest.hexdigest()}")
PY

timed aion plugins new "$name" --kind image
timed pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e "aion-tok-$name"
timed aion plugins check "$name"
timed aion mock --objects 500 --simulators "${name}_mock" gaia_archive --out mock --workers 1
timed aion tokenizer train "mock/${name}_mock" --out "sets/$name" --preset small-image --set optimizer.steps="$steps" \
    --set optimizer.warmup_steps=10 --set data.batch_size=8 --set evaluate.objects=32 --set evaluate.page=0
timed aion tokenize "mock/${name}_mock" --tokenizers "sets/$name" --out "stores/$name"
timed aion tokenizer train mock/gaia_archive --modalities gaia_flux_g gaia_flux_bp gaia_flux_rp --out sets/gaia
timed aion tokenize mock/gaia_archive --tokenizers sets/gaia --out stores/gaia
timed aion train gaia.toml --quiet
timed python join.py
timed python outputs.py "runs/gaia/$last"
timed aion checkpoint grow runs/gaia --add "${name}_image" --tokenizers "sets/$name" --out models/grown
timed python outputs.py models/grown
timed aion train grown.toml --grow "${name}_image" --freeze-old --quiet
timed python outputs.py "runs/grown/$last"
timed aion checkpoint inspect runs/grown
