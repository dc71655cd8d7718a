"""Units as survey files spell them."""

from __future__ import annotations

import re
from typing import Any

from aion_core.data.fits import quiet


def stated_unit(text: object, expected: str) -> str | None:
    """Return what to pass as an observation's ``unit`` for the unit that a file states.

    Parameters
    ----------
    text
        What the header or column says (``1E-17 erg/cm^2/s/Ang``, ``10**-17 erg/(s cm2 Angstrom)``), or None.
    expected
        The modality's own unit, in astropy's syntax.

    Returns
    -------
    str or None
        None if the file states nothing or `expected`; otherwise its unit in astropy's syntax.

    Raises
    ------
    ValueError
        If astropy cannot make sense of it.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    from astropy import units

    words = re.sub(r"\b(A|Ang(strom)?s?)\b", "Angstrom", text.strip())  # no flux is measured in Ampere
    try:
        with quiet():
            found = units.Unit(words)
    except (ValueError, TypeError):
        raise ValueError(f"the unit '{text}' is none that astropy knows") from None
    return None if _same(found, units.Unit(expected)) else found.to_string()


def _same(found: Any, expected: Any) -> bool:
    """Whether two units are one but for the rounding of their scales (10**-17 and 1e-17)."""
    try:
        return bool(abs(found.to(expected) - 1) < 1e-9)
    except ValueError:
        return False
