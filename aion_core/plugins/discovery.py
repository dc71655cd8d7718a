"""Find and load the plugins that are installed, one at a time, so that a broken one harms no other.

pluggy's own ``load_setuptools_entrypoints`` drops a second plugin of the same name without a word and stops at
the first import that fails; hence the loop here, with a manager of its own for every plugin.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from time import perf_counter
from typing import Any, Literal, TypeVar

import pluggy
from pydantic import ValidationError

from aion_core.contract import API_VERSIONS, AionError, ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.plugins import hookspecs

GROUP = "aion.plugins"
ENVIRONMENT = "AION_PLUGINS"

Stage = Literal["import", "api_version", "hook", "declaration", "conflict", "selection"]


@dataclass(frozen=True)
class Failure:
    """Why a plugin, or some of its keys, cannot be used."""

    plugin: str
    distributions: tuple[str, ...]
    stage: Stage
    reason: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" of {', '.join(self.keys)}" if self.keys else ""
        return f"{self.plugin} ({' and '.join(self.distributions)}): {self.stage}{of}: {self.reason}"


@dataclass(frozen=True)
class LoadedPlugin:
    """One plugin that imported, and what its hooks returned (before conflicts between plugins are looked for)."""

    name: str
    distribution: str
    version: str
    seconds: float
    modalities: tuple[ModalitySpec, ...] = ()
    readers: tuple[ReaderSpec, ...] = ()
    simulators: tuple[SimulatorSpec, ...] = ()


class _FaultError(Exception):
    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(reason)
        self.stage: Stage = stage


def installed_entry_points() -> list[EntryPoint]:
    """Return the entry points of `GROUP`, sorted by name and distribution, each distribution once."""
    found = {(e.name, _distribution(e), e.value): e for e in entry_points(group=GROUP)}
    return [found[k] for k in sorted(found)]


def load_plugins(points: Iterable[EntryPoint] | None = None) -> tuple[list[LoadedPlugin], list[Failure]]:
    """Load every selected plugin; never raises for a plugin's fault."""
    available = installed_entry_points() if points is None else list(points)
    selected = _selection()
    plugins: list[LoadedPlugin] = []
    failures: list[Failure] = []
    if selected is not None:
        missing = sorted(selected - {e.name for e in available})
        failures += [
            Failure(name, ("not installed",), "selection", f"{ENVIRONMENT} names it, but no plugin is called that")
            for name in missing
        ]
        available = [e for e in available if e.name in selected]
    for point in available:
        try:
            plugins.append(_load(point))
        except _FaultError as fault:
            failures.append(Failure(point.name, (_label(point),), fault.stage, str(fault)))
    return plugins, failures


def import_object(path: str) -> Any:
    """Return the object that an import string ``package.module:name`` stands for."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise AionError(f"{path!r} cannot be imported: {error}. Is the package that provides it installed?") from error


def _load(point: EntryPoint) -> LoadedPlugin:
    start = perf_counter()
    module = _guarded("import", point.load)
    version = getattr(module, "api_version", None)
    if type(version) is not int or version not in API_VERSIONS:
        known = ", ".join(map(str, API_VERSIONS))
        hint = "upgrade aion-core" if isinstance(version, int) and version > max(API_VERSIONS) else "upgrade the plugin"
        raise _FaultError("api_version", f"api_version is {version!r}; this aion-core understands {known}: {hint}")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    _guarded("hook", lambda: manager.register(module, name=point.name))
    _refuse_unknown_hooks(manager, module)
    modalities = tuple(_call(manager, "aion_modalities", ModalitySpec))
    readers = tuple(_call(manager, "aion_readers", ReaderSpec))
    simulators = tuple(_call(manager, "aion_simulators", SimulatorSpec))
    _check_prefix(point.name, [*(m.key for m in modalities), *(r.name for r in readers), *(s.name for s in simulators)])
    return LoadedPlugin(
        point.name,
        _distribution(point),
        point.dist.version if point.dist else "",
        perf_counter() - start,
        modalities,
        readers,
        simulators,
    )


T = TypeVar("T")


def _call(manager: pluggy.PluginManager, hook: str, kind: type[T]) -> Iterator[T]:
    for returned in _guarded("hook", getattr(manager.hook, hook), hook):
        if not isinstance(returned, list | tuple):
            raise _FaultError("hook", f"{hook} returned {type(returned).__name__}, expected list[{kind.__name__}]")
        for item in returned:
            if not isinstance(item, kind):
                raise _FaultError(
                    "hook", f"{hook} returned a list with {type(item).__name__}, expected {kind.__name__}"
                )
            yield item


def _guarded(stage: Stage, call: Any, what: str = "") -> Any:
    """Run a plugin's code; whatever it raises, `SystemExit` included, becomes a fault of that plugin."""
    try:
        return call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        prefix = f"{what} raised " if what else ""
        raise _FaultError(stage, f"{prefix}{type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "value"
        return f"{error.title}.{where}: {first['msg']} (got {str(first['input'])[:80]!r})"
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


def _refuse_unknown_hooks(manager: pluggy.PluginManager, module: Any) -> None:
    hooks = {"aion_modalities", "aion_readers", "aion_simulators"}
    for name in vars(module):
        if name.startswith("aion_") and name not in hooks and manager.parse_hookimpl_opts(module, name):
            raise _FaultError("hook", f"no hook is called {name}; the hooks are {', '.join(sorted(hooks))}")


def _check_prefix(plugin: str, names: Iterable[str]) -> None:
    wrong = [name for name in names if not name.startswith(f"{plugin}_")]
    if wrong:
        raise _FaultError("declaration", f"{wrong[0]!r} must begin with the plugin's name, as in '{plugin}_{wrong[0]}'")


def _selection() -> set[str] | None:
    text = os.environ.get(ENVIRONMENT)
    return None if text is None else {name.strip() for name in text.split(",") if name.strip()}


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown distribution"


def _label(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"
