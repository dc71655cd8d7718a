"""What this distribution tells aion-core: data only, nothing heavy is imported here."""

from __future__ import annotations

from aion_core.contract import ModalitySpec
from aion_core.plugins import hookimpl
from aion_tok_desi.specs import MODALITIES

api_version = 1


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return list(MODALITIES)
