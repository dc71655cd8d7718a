"""A valid spec to start from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aion_core.contract import ModalitySpec

BASE = {
    "key": "demo_flux",
    "survey": "Demo",
    "title": "a flux",
    "citation": "nobody 2026",
    "kind": "scalar",
    "quantity": "phot.flux;em.opt.R",
    "units": "nmgy",
    "vocab_size": 1024,
    "shape": (1,),
    "position": "scalar",
    "provenance": {"id": 7, "instrument": "camera", "release": "DR1"},
}


@pytest.fixture(scope="session")
def make() -> Callable[..., ModalitySpec]:
    """Return a function that makes a valid spec, with some fields changed."""
    return lambda **fields: ModalitySpec.model_validate(BASE | fields)
