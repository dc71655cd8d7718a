"""What is installed and usable: modalities by key, readers, simulators, and what had to be left out and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from aion_core.contract.plugin import API, PluginApi
from aion_core.plugins.discovery import ENVIRONMENT, Failure, LoadedPlugin, load_plugins, selection


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
        names = self._names
        if key in names:
            return names[key]
        declared = {n: s.key for p in self.plugins for s in p.modalities for n in (s.key, s.upstream_key)}
        for failure in self.failures:
            if declared.get(key) in failure.keys:
                raise DisabledKeyError(f"{key!r} is disabled: {failure}")
        loaded = {p.name for p in self.plugins}
        for failure in self.failures:
            if failure.plugin not in loaded and key.startswith(f"{failure.plugin}_"):
                raise DisabledKeyError(f"{key!r} is not available: {failure}")
        chosen = selection()
        limit = "" if chosen is None else f" {ENVIRONMENT} restricts the plugins to {', '.join(chosen) or 'none'}."
        raise UnknownKeyError(
            f"No installed plugin declares {key!r}.{did_you_mean(key, names)}{limit} "
            "`aion plugins` lists what is installed."
        )

    def origin(self, key: str) -> LoadedPlugin:
        """Return the plugin that declares a key."""
        return self._origins[self.resolve(key).key]

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
        return TokenSpace().append(self.slot(s.key, fingerprints.get(s.key)) for s in specs)

    @cached_property
    def _origins(self) -> dict[str, LoadedPlugin]:
        usable = {id(spec) for spec in self.modalities.values()}
        return {spec.key: plugin for plugin in self.plugins for spec in plugin.modalities if id(spec) in usable}

    @cached_property
    def _names(self) -> dict[str, ModalitySpec]:
        upstream = {s.upstream_key: s for s in self.modalities.values() if s.upstream_key}
        return upstream | dict(self.modalities)


def load_registry(points: Iterable[EntryPoint] | None = None, api: PluginApi = API) -> Registry:
    """Discover the installed plugins (entry-point group ``aion.plugins``) and return what is usable.

    Never raises for a plugin's fault; those are in `Registry.failures`. The environment variable ``AION_PLUGINS``
    restricts discovery to the plugins that it names; empty, it disables all. `api` is the version of the plugin
    contract that they are held to.

    Examples
    --------
    >>> registry = load_registry()
    >>> isinstance(registry.failures, tuple)
    True
    """
    plugins, failures = load_plugins(points, api)
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
    claims: defaultdict[str, list[tuple[LoadedPlugin, ModalitySpec]]] = defaultdict(list)
    for plugin in plugins:
        for spec in plugin.modalities:
            for name in dict.fromkeys((spec.key, spec.upstream_key)):
                if name:
                    claims[f"the name {name!r}"].append((plugin, spec))
            claims[f"provenance ID {spec.provenance.id}"].append((plugin, spec))
    shared: defaultdict[tuple[tuple[LoadedPlugin, str], ...], list[str]] = defaultdict(list)
    for what, claimants in claims.items():
        if len(claimants) > 1:
            shared[tuple((plugin, spec.key) for plugin, spec in claimants)].append(what)
    return [_conflict(claimants, whats) for claimants, whats in shared.items()]


def _conflict(claimants: tuple[tuple[LoadedPlugin, str], ...], whats: list[str]) -> Failure:
    plugins = list(dict.fromkeys(plugin for plugin, _ in claimants))
    many = "several modalities" if len(plugins) == 1 else "both" if len(plugins) == 2 else "all"
    return Failure(
        " and ".join(dict.fromkeys(p.name for p in plugins)),
        tuple(p.label for p in plugins),
        "conflict",
        f"{' and '.join(whats)} claimed by {many}; "
        + ("give each its own" if len(plugins) == 1 else "uninstall one, or let one change"),
        tuple(dict.fromkeys(key for _, key in claimants)),
    )


P = TypeVar("P", ReaderSpec, SimulatorSpec)


def _usable_parts(
    parts: list[tuple[LoadedPlugin, P]], modalities: Mapping[str, ModalitySpec], disabled: set[str]
) -> tuple[list[P], list[Failure]]:
    """Return the parts whose modalities exist, each with those only, and what is wrong with the others.

    A part may name modalities of other plugins (a survey's files hold redshifts too); where such a plugin is not
    installed, the key is left out. A key with the plugin's own prefix that the plugin does not declare is a fault.
    """
    usable, failures = [], []
    owners: defaultdict[str, list[LoadedPlugin]] = defaultdict(list)
    for plugin, part in parts:
        owners[part.name].append(plugin)
    for name, plugins in owners.items():
        if len(plugins) > 1:
            names = " and ".join(dict.fromkeys(p.name for p in plugins))
            labels = tuple(dict.fromkeys(p.label for p in plugins))
            failures.append(Failure(names, labels, "conflict", f"the name {name!r} is given {len(plugins)} times"))
    for plugin, part in parts:
        if len(owners[part.name]) > 1:
            continue
        known = tuple(k for k in part.modalities if k in modalities or k in disabled)
        own = [k for k in part.modalities if k not in known and k.startswith(f"{plugin.name}_")]
        if own or not known:
            key = own[0] if own else part.modalities[0]
            reason = f"{part.name} names the modality {key!r}, which no installed plugin declares"
            failures.append(Failure(plugin.name, (plugin.label,), "declaration", reason))
        else:
            usable.append(part if known == part.modalities else part.model_copy(update={"modalities": known}))
    return usable, failures
