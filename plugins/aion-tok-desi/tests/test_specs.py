"""What this plugin declares is valid, stable for ever and usable without any other plugin."""

from __future__ import annotations

from aion_tok_desi.specs import MODALITIES

from aion_core.testing import SpecContract

UPSTREAM = {"desi_spectrum": ("tok_spectrum_desi", "spectrum")}


class TestSpecs(SpecContract):
    plugin = "desi"
    modalities = MODALITIES
    upstream = UPSTREAM
