"""One modality named twice is told in a sentence, not by the validation library."""

from __future__ import annotations

import pytest

from aion_core.contract import TokenSpaceError
from aion_core.plugins import load_registry


@pytest.mark.parametrize("names", [("gaia_ra", "gaia_ra"), ("tok_ra", "gaia_ra")])
def test_a_token_space_names_each_modality_once(names: tuple[str, ...]) -> None:
    registry = load_registry()
    with pytest.raises(TokenSpaceError, match="gaia_ra occurs twice"):
        registry.token_space(names)
    with pytest.raises(TokenSpaceError, match="gaia_ra occurs twice"):
        registry.token_space().select(names)
