"""What a modality, a token space and a manifest are. Imports neither torch, numpy nor astropy."""

from aion_core.contract.errors import (
    AionError,
    DisabledKeyError,
    InputError,
    TokenSpaceError,
    UnknownKeyError,
    did_you_mean,
)
from aion_core.contract.fingerprint import fingerprint
from aion_core.contract.modality import (
    SEQUENCE_IDS,
    Band,
    ModalitySpec,
    Provenance,
    SequenceIds,
    TokenizerSpec,
    Weights,
    is_key,
    provenance_id,
)
from aion_core.contract.plugin import API_VERSIONS, ReaderSpec, SimulatorSpec
from aion_core.contract.tokenspace import Origin, Slot, TokenSpace

__all__ = [
    "API_VERSIONS",
    "SEQUENCE_IDS",
    "AionError",
    "Band",
    "DisabledKeyError",
    "InputError",
    "ModalitySpec",
    "Origin",
    "Provenance",
    "ReaderSpec",
    "SequenceIds",
    "SimulatorSpec",
    "Slot",
    "TokenSpace",
    "TokenSpaceError",
    "TokenizerSpec",
    "UnknownKeyError",
    "Weights",
    "did_you_mean",
    "fingerprint",
    "is_key",
    "provenance_id",
]
