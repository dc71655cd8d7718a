"""What this plugin declares is valid, stable for ever and usable without any other plugin."""

from __future__ import annotations

from aion_tok_gaia.specs import MODALITIES

from aion_core.testing import SpecContract

UPSTREAM = {
    "gaia_xp_bp": ("tok_xp_bp", "bp_coefficients"),
    "gaia_xp_rp": ("tok_xp_rp", "rp_coefficients"),
    **{f"gaia_flux_{b}": (f"tok_flux_{b}_gaia", f"phot_{b}_mean_flux") for b in ("g", "bp", "rp")},
    "gaia_parallax": ("tok_parallax", "parallax"),
    "gaia_ra": ("tok_ra", "ra"),
    "gaia_dec": ("tok_dec", "dec"),
}


class TestSpecs(SpecContract):
    plugin = "gaia"
    modalities = MODALITIES
    upstream = UPSTREAM


def test_fluxes_and_parallax_are_logarithmic_and_positions_are_not():
    logarithmic = {spec.key for spec in MODALITIES if spec.tokenizer.path.endswith(":LogQuantileTokenizer")}
    assert logarithmic == {"gaia_flux_g", "gaia_flux_bp", "gaia_flux_rp", "gaia_parallax"}
