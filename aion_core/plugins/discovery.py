"""Find and load the plugins that are installed, one at a time, so that a broken one harms no other.

pluggy's own ``load_setuptools_entrypoints`` drops a second plugin of the same name without a word and stops at
the first import that fails; hence the loop here, with a manager of its own for every plugin.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from time import perf_counter
from typing import Any, Literal, TypeVar

import pluggy
from pydantic import BaseModel, ValidationError

from aion_core import __version__
from aion_core.contract import (
    AionError,
    ModalitySpec,
    ReaderSpec,
    SimulatorSpec,
    did_you_mean,
    is_key,
)
from aion_core.contract.plugin import API, PluginApi
from aion_core.plugins import hookspecs

GROUP = "aion.plugins"
ENVIRONMENT = "AION_PLUGINS"
UNKNOWN = "unknown distribution"  # a half-removed installation leaves metadata without a name or a version
#: A plugin that takes longer than this to load, in seconds, is named: every command waits for it.
SLOW = 0.2

Stage = Literal["import", "api_version", "hook", "declaration", "conflict", "selection"]


@dataclass(frozen=True)
class Failure:
    """Why a plugin, or some of its keys, cannot be used; `seconds` is what loading it took all the same."""

    plugin: str
    distributions: tuple[str, ...]
    stage: Stage
    reason: str
    keys: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        of = f" of {', '.join(self.keys)}" if self.keys else ""
        by = " and ".join(self.distributions) or "not installed"
        return f"{self.plugin} ({by}): {self.stage}{of}: {self.reason}"


@dataclass(frozen=True, eq=False)
class LoadedPlugin:
    """One plugin that imported, and what its hooks returned (before conflicts between plugins are looked for).

    Compared by identity: two distributions may bring plugins that look the same.

    Attributes
    ----------
    seconds
        What loading it took.
    notices
        What it uses that works here and will go, each with what to use instead.
    """

    name: str
    distribution: str
    version: str
    seconds: float
    modalities: tuple[ModalitySpec, ...] = ()
    readers: tuple[ReaderSpec, ...] = ()
    simulators: tuple[SimulatorSpec, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}".strip()


class _FaultError(Exception):
    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(reason)
        self.stage: Stage = stage


def installed_entry_points() -> list[EntryPoint]:
    """Return the entry points of `GROUP`, sorted by name and distribution; the first on the path shadows others."""
    return sorted(entry_points(group=GROUP), key=lambda e: (e.name, _distribution(e), e.value))


def load_plugins(
    points: Iterable[EntryPoint] | None = None, api: PluginApi = API
) -> tuple[list[LoadedPlugin], list[Failure]]:
    """Load every selected plugin; never raises for a plugin's fault."""
    available = installed_entry_points() if points is None else list(points)
    plugins: list[LoadedPlugin] = []
    failures: list[Failure] = []
    selected = selection()
    if selected is not None:
        known = {e.name for e in available}
        failures += [
            Failure(
                name,
                (),
                "selection",
                f"{ENVIRONMENT} names it, but no plugin is called that.{did_you_mean(name, known)}",
            )
            for name in selected
            if name not in known
        ]
        available = [e for e in available if e.name in selected]
    with redirect_stdout(sys.stderr):  # what a plugin prints must not end up inside a command's JSON
        for point in available:
            start = perf_counter()
            try:
                plugins.append(_load(point, api))
            except _FaultError as fault:
                seconds = perf_counter() - start
                failures.append(Failure(point.name, (label(point),), fault.stage, str(fault), seconds=seconds))
    return plugins, failures


def import_object(path: str) -> Any:
    """Return the object that an import string ``package.module:name`` stands for."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise AionError(f"{path!r} cannot be imported: {error}. Is the package that provides it installed?") from error


def _load(point: EntryPoint, api: PluginApi) -> LoadedPlugin:
    start = perf_counter()
    with _deprecations() as notices:
        module = _guarded("import", point.load)
        version = _guarded("api_version", lambda: getattr(module, "api_version", None))
        _check_api_version(version, api)
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        _guarded("hook", lambda: manager.register(module, name=point.name))
        _guarded("hook", lambda: _check_hooks(manager, module))
        modalities = _call(manager, "aion_modalities", ModalitySpec)
        readers = _call(manager, "aion_readers", ReaderSpec)
        simulators = _call(manager, "aion_simulators", SimulatorSpec)
    if (advice := api.advice(version)) is not None:
        notices.insert(0, advice)
    _check_prefix(point.name, [*(m.key for m in modalities), *(r.name for r in readers), *(s.name for s in simulators)])
    return LoadedPlugin(
        point.name,
        _distribution(point),
        _version(point),
        perf_counter() - start,
        modalities,
        readers,
        simulators,
        tuple(dict.fromkeys(notices)),
    )


def _check_api_version(version: object, api: PluginApi) -> None:
    if type(version) is int and version in api.understood:
        return
    known = " and ".join(map(str, api.understood))
    found = "is missing" if version is None else f"is {version!r}"
    hint = "upgrade aion-core" if type(version) is int and version > api.version else "upgrade the plugin"
    raise _FaultError("api_version", f"api_version {found}; this aion-core ({__version__}) understands {known}: {hint}")


@contextmanager
def _deprecations() -> Iterator[list[str]]:
    """Collect what a plugin's code is warned of that will go, whatever the filters; other warnings are as ever."""
    found: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, DeprecationWarning):
                found.append(" ".join(str(message).split()))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = collect
        warnings.simplefilter("always", DeprecationWarning)
        yield found


T = TypeVar("T", bound=BaseModel)


def _call(manager: pluggy.PluginManager, hook: str, kind: type[T]) -> tuple[T, ...]:
    """Return what a hook gives, validated again: ``model_copy`` and ``model_construct`` do not validate."""
    caller = getattr(manager.hook, hook)
    results = _guarded("hook", caller, f"{hook} raised ")
    if caller.get_hookimpls() and not results:  # pluggy drops a None
        results = [None]
    items: list[T] = []
    for returned in results:
        if not isinstance(returned, list | tuple):
            raise _FaultError("hook", f"{hook} returned {type(returned).__name__}, expected list[{kind.__name__}]")
        for item in returned:
            if not isinstance(item, kind):
                raise _FaultError(
                    "hook", f"{hook} returned a list with {type(item).__name__}, expected {kind.__name__}"
                )
            items.append(_guarded("declaration", partial(_validated, item, kind)))
    return tuple(items)


def _validated(item: T, kind: type[T]) -> T:
    return kind.model_validate(item.model_dump(warnings=False))


def _guarded(stage: Stage, call: Callable[[], Any], what: str = "") -> Any:
    """Run a plugin's code; whatever it raises, `SystemExit` included, becomes a fault of that plugin."""
    try:
        return call()
    except (KeyboardInterrupt, _FaultError):
        raise
    except BaseException as error:
        raise _FaultError(stage, f"{what}{_told(error)}") from error


def _told(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        found = f" (got {str(first['input'])[:80]!r})" if where else ""
        return f"{error.title}{'.' if where else ''}{where}: {first['msg'].removeprefix('Value error, ')}{found}"
    text = " ".join(str(error).split()) or "no message"
    told = f"{type(error).__name__}: {text if len(text) <= 300 else text[:299] + '…'}"
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "aion_core":
        told += f"; this is aion-core {__version__}, the plugin may be made for another"
    return told


def _check_hooks(manager: pluggy.PluginManager, module: Any) -> None:
    """Refuse a misspelt hook and an unmarked one, both of which pluggy passes over without a word."""
    hooks = {name for name in vars(hookspecs) if name.startswith("aion_")}
    for name in dir(module):
        if not name.startswith("aion_"):
            continue
        marked = manager.parse_hookimpl_opts(module, name) is not None
        if marked and name not in hooks:
            raise _FaultError("hook", f"no hook is called {name}; the hooks are {', '.join(sorted(hooks))}")
        if name in hooks and not marked:
            raise _FaultError("hook", f"{name} is not marked with @hookimpl (from aion_core.plugins import hookimpl)")


def _check_prefix(plugin: str, names: Iterable[str]) -> None:
    if not is_key(plugin):
        raise _FaultError(
            "declaration", f"a plugin's name is lower-case letters, digits and underscores, not {plugin!r}"
        )
    wrong = [name for name in names if not name.startswith(f"{plugin}_")]
    if wrong:
        raise _FaultError("declaration", f"{wrong[0]!r} must begin with the plugin's name, as in '{plugin}_{wrong[0]}'")


def selection() -> tuple[str, ...] | None:
    """Return the plugins that the environment variable `ENVIRONMENT` restricts discovery to; None: no restriction."""
    text = os.environ.get(ENVIRONMENT)
    return None if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _distribution(point: EntryPoint) -> str:
    return (point.dist and point.dist.name) or UNKNOWN


def _version(point: EntryPoint) -> str:
    return (point.dist and point.dist.version) or ""


def label(point: EntryPoint) -> str:
    """Return the distribution and version that an entry point comes from."""
    return f"{_distribution(point)} {_version(point)}".strip()
