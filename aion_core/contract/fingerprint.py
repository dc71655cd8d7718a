"""The fingerprint of a bound tokenizer: what it would take for the same observation to give other tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any


def fingerprint(
    implementation: str,
    preprocessing: int,
    settings: Mapping[str, Any],
    tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]],
) -> str:
    """Return the SHA-256 (64 hex digits) of everything that the encode path of one modality reads.

    Parameters
    ----------
    implementation
        Import string of the tokenizer class.
    preprocessing
        Its `preprocessing_version`, raised by hand when code changes what goes into the network.
    settings
        JSON-serialisable settings that change tokens (not training settings, not the decoder's).
    tensors
        ``(name, dtype, shape, little-endian bytes)`` of the encode-path tensors, in any order.
    """
    digest = hashlib.sha256()
    head = {"implementation": implementation, "preprocessing": preprocessing, "settings": settings}
    digest.update(json.dumps(head, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
    for name, dtype, shape, data in sorted(tensors):
        digest.update(json.dumps([name, dtype, list(shape), len(data)]).encode())
        digest.update(data)
    return digest.hexdigest()
