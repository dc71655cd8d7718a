"""What the plugin gives the registry."""

from __future__ import annotations

from aion_core.contract import ModalitySpec
from aion_core.plugins import hookimpl
from aion_tok_clauds.specs import IMAGE

api_version = 1


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return [IMAGE]
