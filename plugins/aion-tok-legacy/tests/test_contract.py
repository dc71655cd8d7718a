"""The conformance suite on this plugin; its readers have contracts of their own, with files that vary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aion_tok_legacy import simulator

from aion_core.contract import SimulatorSpec
from aion_core.mock import draw, generator
from aion_core.testing import PluginContract


class TestPlugin(PluginContract):
    plugin = "legacy"
    readers = ()
    examples = 3  # of what Hypothesis draws for a rule; `aion plugins check` draws more

    def simulate(self, spec: SimulatorSpec, folder: Path, seed: int) -> list[Path]:
        """Observe the middle of a field only: a whole one takes several seconds."""
        objects = draw(seed, 0, 500)
        near = np.hypot(objects.ra - objects.field_ra, objects.dec - objects.field_dec) < 0.006
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(simulator, "SIZE", 270)
            return simulator.BrickSimulator().observe(objects[near], folder, generator("contract", seed))
