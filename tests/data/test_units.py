"""Units as files spell them, against astropy's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aion_core.data.units import stated_unit

FLUX = "1e-17 erg / (s cm2 Angstrom)"


@pytest.mark.parametrize(
    "text",
    ["1E-17 erg/cm^2/s/Ang", "10**-17 erg/(s cm2 Angstrom)", "1e-17 erg/cm**2/s/Angstroms", "1E-17 erg/cm^2/s/A", None],
)
def test_the_modalitys_own_unit_needs_no_statement(text: str | None) -> None:
    assert stated_unit(text, FLUX) is None


@pytest.mark.parametrize(
    ("text", "unit"), [("W m-2 nm-1", "W / (nm m2)"), ("erg/s/cm^2/Ang", "erg / (Angstrom s cm2)"), ("Jy", "Jy")]
)
def test_another_unit_is_stated_as_astropy_writes_it(text: str, unit: str) -> None:
    assert stated_unit(text, FLUX) == unit


@given(st.text(st.characters(categories=["Lu"]), min_size=5, max_size=9).map(lambda word: f"Q{word}"))
def test_what_is_no_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"the unit '{text}' is none"):
        stated_unit(text, FLUX)
