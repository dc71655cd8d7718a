"""What this plugin declares is valid, stable for ever and usable without any other plugin."""

from __future__ import annotations

from math import log

import pytest
from aion_tok_legacy.specs import MODALITIES
from astropy.units import ABmag, Unit, zero_point_flux

from aion_core.testing import SpecContract

UPSTREAM = {
    "legacy_image": ("tok_image", "image"),
    "legacy_segmap": ("tok_segmap", "segmentation_map"),
    **{
        f"legacy_flux_{b}": (f"tok_flux_{b}", f"FLUX_{b.upper()}") for b in ("g", "r", "i", "z", "w1", "w2", "w3", "w4")
    },
    "legacy_ebv": ("tok_ebv", "EBV"),
    "legacy_shape_r": ("tok_shape_r", "SHAPE_R"),
    "legacy_shape_e1": ("tok_shape_e1", "SHAPE_E1"),
    "legacy_shape_e2": ("tok_shape_e2", "SHAPE_E2"),
}


class TestSpecs(SpecContract):
    plugin = "legacy"
    modalities = MODALITIES
    upstream = UPSTREAM


def test_one_unit_of_image_and_flux_is_magnitude_22_5():
    nanomaggies = {spec.units for spec in MODALITIES if spec.quantity.startswith("phot.flux")}
    assert nanomaggies == {"nmgy"}
    janskys = (1 * Unit("nmgy")).to("Jy", zero_point_flux((0 * ABmag).to("Jy")))
    assert janskys.to_value("mag(AB)") == pytest.approx(22.5, abs=1e-4)


def test_fluxes_and_radius_are_logarithmic_and_the_rest_is_not():
    named = [spec for spec in MODALITIES if spec.tokenizer]
    logarithmic = {spec.key for spec in named if spec.tokenizer.path.endswith(":LogQuantileTokenizer")}
    assert logarithmic == {spec.key for spec in named if "_flux_" in spec.key} | {"legacy_shape_r"}
    assert {round(log(spec.tokenizer.config["min_value"]), 9) for spec in named if spec.key in logarithmic} == {-3}
