"""What is particular to the modalities of this plugin; the conformance suite has the rest."""

from __future__ import annotations

import pytest
from aion_tok_hsc.specs import IMAGE
from astropy.units import Unit


def test_one_count_of_the_image_is_magnitude_27():
    assert (1 * Unit(IMAGE.units)).to_value("mag(AB)") == pytest.approx(27.0, abs=1e-4)
