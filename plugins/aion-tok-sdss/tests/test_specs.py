"""What this plugin declares is valid, stable for ever and usable without any other plugin."""

from __future__ import annotations

from aion_tok_sdss.specs import MODALITIES

from aion_core.testing import SpecContract

UPSTREAM = {"sdss_spectrum": ("tok_spectrum_sdss", "spectrum")}


class TestSpecs(SpecContract):
    plugin = "sdss"
    modalities = MODALITIES
    upstream = UPSTREAM
