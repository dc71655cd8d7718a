"""The modalities of this plugin."""

from __future__ import annotations

from aion_core.contract import ModalitySpec

MODALITIES: tuple[ModalitySpec, ...] = ()
