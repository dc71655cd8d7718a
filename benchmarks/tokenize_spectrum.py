"""Both sides of the spectrum benchmark (see benchmarks/tokenize.py): same weights of the released size, same batch."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, no_grad

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))


def sides(objects: int) -> dict[str, Callable[[], Tensor]]:
    """Return the release's encoding of spectra on DESI's grid, ours in float32, and ours when it is to be fast."""
    from cases_spectrum import DESI, RELEASED, drawn, make_pair  # type: ignore[import-not-found]

    from aion_core.tokenizers.base import Precision

    pair = make_pair("desi_spectrum", RELEASED, drawn(DESI, objects), blank=True, together=True)
    pair.encode()  # reads our weights into memory, where the release's are
    forget_peak()

    def peer() -> Tensor:
        with no_grad():
            return pair.peer_encode().long()

    def ours(precision: Precision) -> Tensor:
        pair.tokenizer.precision = precision
        return pair.encode()

    return {"peer": peer, "exact": partial(ours, "float32"), "fast": partial(ours, "bfloat16")}


def forget_peak() -> None:
    """Let the most memory of this process count from now on, where Linux lets that be said.

    What it took to set the weights would otherwise hide what follows.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
