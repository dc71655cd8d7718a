"""What is particular to the modalities of this plugin; the conformance suite has the rest."""

from __future__ import annotations

from aion_tok_gaia.specs import MODALITIES


def test_fluxes_and_parallax_are_logarithmic_and_positions_are_not():
    logarithmic = {spec.key for spec in MODALITIES if spec.tokenizer.path.endswith(":LogQuantileTokenizer")}
    assert logarithmic == {"gaia_flux_g", "gaia_flux_bp", "gaia_flux_rp", "gaia_parallax"}
