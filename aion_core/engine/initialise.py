"""Random initial weights as a function of (seed, parameter name) only.

So a new band or modality cannot shift the initial values of what was there, and every rank of a distributed run draws
the full tensor for itself and keeps its part (DESIGN section 8).
"""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(name: str, seed: int) -> torch.Generator:
    """Return a generator for one tensor; on the CPU, so that the values do not depend on the device either.

    Examples
    --------
    >>> a, b = (torch.rand(2, generator=keyed_generator("encoder.weight", seed=0)) for _ in range(2))
    >>> torch.equal(a, b)
    True
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
