"""What is particular to the modalities of this plugin; the conformance suite has the rest."""

from __future__ import annotations

from math import log

import pytest
from aion_tok_legacy.specs import MODALITIES
from astropy.units import ABmag, Unit, zero_point_flux


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
