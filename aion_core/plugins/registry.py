"""What is installed and usable: modalities by key, readers, simulators, and what had to be left out and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import TypeVar

from aion_core.contract import (
    DisabledKeyError,
    ModalitySpec,
    ReaderSpec,
    SimulatorSpec,
    Slot,
    TokenSpace,
    UnknownKeyError,
    did_you_mean,
)
from aion_core.plugins.discovery import Failure, LoadedPlugin, load_plugins


@dataclass(frozen=True)
class Registry:
    """The usable modalities of all installed plugins, and the faults of those that are not usable."""

    modalities: Mapping[str, ModalitySpec]
    readers: tuple[ReaderSpec, ...]
    simulators: tuple[SimulatorSpec, ...]
    plugins: tuple[LoadedPlugin, ...]
    failures: tuple[Failure, ...]

    def resolve(self, key: str) -> ModalitySpec:
        """Return the spec of a key or an upstream key.

        Raises
        ------
        DisabledKeyError
            If plugins conflict over it; the message names them.
        UnknownKeyError
            If nothing installed declares it; the message suggests the nearest key.
        """
        names = self._names()
        if key in names:
            return names[key]
        for failure in self.failures:
            if key in failure.keys:
                raise DisabledKeyError(f"{key!r} is disabled: {failure}")
        broken = [f for f in self.failures if f.plugin == key.partition("_")[0]]
        if broken:
            raise DisabledKeyError(f"{key!r} is not available: {broken[0]}")
        raise UnknownKeyError(
            f"No installed plugin declares {key!r}.{did_you_mean(key, names)} `aion plugins` lists what is installed."
        )

    def origin(self, key: str) -> LoadedPlugin:
        """Return the plugin that declares a key."""
        spec = self.resolve(key)
        return next(p for p in self.plugins if spec in p.modalities)

    def slot(self, key: str, fingerprint: str | None = None) -> Slot:
        """Return the token-space slot of a key, with the plugin that declares it."""
        plugin = self.origin(key)
        return Slot(
            spec=self.resolve(key),
            fingerprint=fingerprint,
            distribution=plugin.distribution,
            version=plugin.version,
        )

    def token_space(
        self, keys: Iterable[str] | None = None, fingerprints: Mapping[str, str] = MappingProxyType({})
    ) -> TokenSpace:
        """Return the token space of some keys (default: all installed), in the order given."""
        specs = [self.resolve(key) for key in (self.modalities if keys is None else keys)]
        return TokenSpace(slots=tuple(self.slot(s.key, fingerprints.get(s.key)) for s in specs))

    def _names(self) -> dict[str, ModalitySpec]:
        upstream = {s.upstream_key: s for s in self.modalities.values() if s.upstream_key}
        return upstream | dict(self.modalities)


def load_registry(points: Iterable[EntryPoint] | None = None) -> Registry:
    """Discover the installed plugins (entry-point group ``aion.plugins``) and return what is usable.

    Never raises for a plugin's fault; those are in `Registry.failures`. The environment variable ``AION_PLUGINS``
    restricts discovery to the plugins that it names; empty, it disables all.

    Examples
    --------
    >>> registry = load_registry()
    >>> isinstance(registry.failures, tuple)
    True
    """
    plugins, failures = load_plugins(points)
    conflicts = _conflicts(plugins)
    disabled = {key for failure in conflicts for key in failure.keys}
    modalities = {s.key: s for p in plugins for s in p.modalities if s.key not in disabled}
    readers, reader_faults = _usable_parts([(p, r) for p in plugins for r in p.readers], modalities, disabled)
    simulators, simulator_faults = _usable_parts([(p, s) for p in plugins for s in p.simulators], modalities, disabled)
    return Registry(
        MappingProxyType(modalities),
        tuple(readers),
        tuple(simulators),
        tuple(plugins),
        (*failures, *conflicts, *reader_faults, *simulator_faults),
    )


def _conflicts(plugins: list[LoadedPlugin]) -> list[Failure]:
    """Two modalities that share a name or a provenance ID are both disabled: nothing tells which is right."""
    claims: defaultdict[tuple[str, object], list[tuple[LoadedPlugin, ModalitySpec]]] = defaultdict(list)
    for plugin in plugins:
        for spec in plugin.modalities:
            for name in {spec.key, spec.upstream_key} - {None}:
                claims["name", name].append((plugin, spec))
            claims["provenance ID", spec.provenance.id].append((plugin, spec))
    failures = []
    for (what, value), claimants in claims.items():
        if len(claimants) > 1:
            names = tuple(dict.fromkeys(f"{p.distribution} {p.version}" for p, _ in claimants))
            keys = tuple(dict.fromkeys(s.key for _, s in claimants))
            who = " and ".join(dict.fromkeys(p.name for p, _ in claimants))
            reason = f"{what} {value!r} is claimed {len(claimants)} times; uninstall one, or give it its own"
            failures.append(Failure(who, names, "conflict", reason, keys))
    return failures


P = TypeVar("P", ReaderSpec, SimulatorSpec)


def _usable_parts(
    parts: list[tuple[LoadedPlugin, P]], modalities: Mapping[str, ModalitySpec], disabled: set[str]
) -> tuple[list[P], list[Failure]]:
    usable, failures = [], []
    names = [part.name for _, part in parts]
    for plugin, part in parts:
        label = (f"{plugin.distribution} {plugin.version}",)
        unknown = [k for k in part.modalities if k not in modalities and k not in disabled]
        if names.count(part.name) > 1:
            failures.append(Failure(plugin.name, label, "conflict", f"the name {part.name!r} is taken twice"))
        elif unknown:
            reason = f"{part.name} names the modality {unknown[0]!r}, which no installed plugin declares"
            failures.append(Failure(plugin.name, label, "declaration", reason))
        else:
            usable.append(part)
    return usable, failures
