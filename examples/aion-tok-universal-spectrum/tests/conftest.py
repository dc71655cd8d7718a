"""The package as if it were installed, where it is not, so that its tests run in a checkout of aion-core as well."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from aion_core.plugins import load_registry

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# At import, since the conformance suite looks for the plugin while tests are collected; on PYTHONPATH as well, for the
# processes that it starts.
if not entry_points(group="aion.plugins", name="universal"):
    _site = tempfile.TemporaryDirectory(prefix="aion-universal-")
    _info = Path(_site.name, "aion_tok_universal_spectrum-0.1.0.dist-info")
    _info.mkdir()
    _info.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: aion-tok-universal-spectrum\nVersion: 0.1.0\nRequires-Dist: aion-core ~=0.1\n"
    )
    _info.joinpath("entry_points.txt").write_text("[aion.plugins]\nuniversal = aion_tok_universal.plugin\n")
    _paths = [str(ROOT / "src"), _site.name]
    sys.path[:0] = _paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*_paths, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def specs():
    """The two modalities, by the end of their key."""
    modalities = load_registry().modalities
    return {band: modalities[f"universal_{band}"] for band in ("optical", "infrared")}
