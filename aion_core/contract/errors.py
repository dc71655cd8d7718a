"""The errors that a user is meant to read: one sentence each, exit code 2 on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AionError(Exception):
    """A fault of the input, the configuration or a plugin, told in one sentence.

    The message says what was found, what was expected and what to do about it. The command line prints it
    without a traceback and exits with code 2; a library user catches this one class.
    """


class UnknownKeyError(AionError):
    """A modality, reader or column that nothing installed here knows."""


class DisabledKeyError(AionError):
    """A modality that an installed plugin declares, but that was disabled because of a conflict or a fault."""


class TokenSpaceError(AionError):
    """Tokens written under one token space would mean something else under another."""


class InputError(AionError):
    """A file or an array that cannot be what it claims to be."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, or an empty string."""
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
