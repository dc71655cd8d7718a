"""Which names a new plugin may have: valid everywhere that they go, and nobody's yet."""

from __future__ import annotations

import re
from importlib.util import find_spec

from aion_core.contract import AionError
from aion_core.plugins.discovery import installed_entry_points
from aion_core.plugins.registry import Registry

#: Of keys, import packages and distributions alike.
PATTERN = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LONGEST = 24
#: Begin the names that the AION-1 release has for its modalities.
RESERVED = ("aion", "tok")


def check_name(name: str, key: str, registry: Registry) -> None:
    """Raise `AionError` if a plugin cannot have this name, or its first modality this key."""
    if not PATTERN.fullmatch(name) or not 2 <= len(name) <= LONGEST:
        hint = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")[:LONGEST].strip("_")
        mend = f" Try {hint!r}." if len(hint) > 1 and hint != name else ""
        raise AionError(
            f"{name!r} cannot be a plugin's name: expected 2 to {LONGEST} lower-case letters and digits, a letter "
            f"first, words joined by single underscores.{mend}"
        )
    if name in RESERVED:
        raise AionError(f"{name!r} is reserved; choose the survey's name.")
    for point in installed_entry_points():
        if point.name == name:
            by = point.dist.name if point.dist else "a distribution without a name"
            raise AionError(f"The name {name!r} is taken by an installed plugin ({by}); choose another.")
    for taken, owner in _names(registry):
        if taken in (key, name) or taken.startswith(f"{name}_"):
            raise AionError(f"The name {name!r} is taken: {owner} has {taken!r}; choose another.")
    if find_spec(f"aion_tok_{name}") is not None:
        raise AionError(f"The name {name!r} is taken: a package aion_tok_{name} is installed; choose another.")


def _names(registry: Registry) -> list[tuple[str, str]]:
    """Return every name that an installed plugin has given to anything, and the plugin."""
    found = []
    for plugin in registry.plugins:
        for spec in plugin.modalities:
            found += [(taken, plugin.label) for taken in (spec.key, spec.upstream_key) if taken]
        found += [(reader.name, plugin.label) for reader in plugin.readers]
        found += [(simulator.name, plugin.label) for simulator in plugin.simulators]
    return found
