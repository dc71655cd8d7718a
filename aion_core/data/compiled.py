"""Machine code for the few loops that NumPy cannot express without touching the memory many times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Return a function as machine code, which is kept on the disk and lets other threads of the interpreter run.

    What it calls must be compiled, too, and stand in the same file: the code on the disk is renewed if its own file has
    changed, and no other. Where there is no folder to keep it in, it is compiled in each process (some seconds).
    """
    try:
        return cast(F, numba.njit(function, nogil=True, cache=True))
    except RuntimeError:  # neither beside the source nor in the user's cache can a file be written
        return cast(F, numba.njit(function, nogil=True))
