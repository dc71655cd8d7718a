"""Both sides of the image benchmark (see benchmarks/tokenize.py): same weights of the released size, same batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, no_grad

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))


def sides(objects: int) -> dict[str, Callable[[], Tensor]]:
    """Return the release's encoding of Legacy images, ours in float32, and ours when it is to be fast."""
    from cases_image import LEGACY, RELEASED, images, make_pair  # type: ignore[import-not-found]

    from aion_core.tokenizers.base import Precision

    pair = make_pair("legacy_image", RELEASED, images(LEGACY, objects), LEGACY)

    def peer() -> Tensor:
        with no_grad():
            return pair.peer_encode().long().reshape(objects, 24, 24)

    def ours(precision: Precision) -> Tensor:
        pair.tokenizer.precision = precision
        return pair.encode()

    return {"peer": peer, "exact": partial(ours, "float32"), "fast": partial(ours, "bfloat16")}
