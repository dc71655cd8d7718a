"""What this plugin declares is valid, stable for ever and usable without any other plugin."""

from __future__ import annotations

import pytest
from aion_tok_hsc.specs import IMAGE, MODALITIES
from astropy.units import Unit

from aion_core.testing import SpecContract

UPSTREAM = {
    "hsc_image": ("tok_image_hsc", "image"),
    **{f"hsc_mag_{b}": (f"tok_mag_{b}", f"{b}_cmodel_mag") for b in "grizy"},
    **{f"hsc_extinction_{b}": (f"tok_a_{b}", f"a_{b}") for b in "grizy"},
    **{f"hsc_shape_{ij}": (f"tok_shape{ij}", f"i_sdssshape_shape{ij}") for ij in ("11", "22", "12")},
}


class TestSpecs(SpecContract):
    plugin = "hsc"
    modalities = MODALITIES
    upstream = UPSTREAM


def test_one_count_of_the_image_is_magnitude_27():
    assert (1 * Unit(IMAGE.units)).to_value("mag(AB)") == pytest.approx(27.0, abs=1e-4)
