"""Show what is installed: surveys, their modalities, and what failed to load and why. Write a plugin for another.

    aion plugins
    aion plugins list KEY_OR_PLUGIN
    aion plugins new NAME --kind image
    aion plugins --readers
    aion plugins --json

With --readers, it shows which files the plugins read, and with which options and defaults (`aion tokenize --readers
FILE` sets them); their code is imported for that, which takes longer.

A plugin's fault disables that plugin or those keys only; it is shown here, and the exit code stays 0. The
environment variable AION_PLUGINS (names, separated by commas) restricts which plugins are loaded. Every command loads
them all, so one that takes long is named, and so is what a plugin uses that will go.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from typing import Any

from aion_core import __version__
from aion_core.cli.console import add_action, print_json, print_table
from aion_core.contract import ModalitySpec, UnknownKeyError, did_you_mean
from aion_core.plugins import Failure, LoadedPlugin, Registry, load_registry
from aion_core.plugins.discovery import ENVIRONMENT, GROUP, SLOW, selection

#: What a plugin declares, as `LoadedPlugin` has it.
PARTS = ("modalities", "readers", "simulators")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as one JSON document")
    parser.add_argument("--readers", action="store_true", help="the readers of files, and their options")
    verbs = parser.add_subparsers(dest="action", metavar="{list,check,new}")
    listing = add_action(verbs, "list", "the same, of the plugins and keys named only", __doc__)
    listing.add_argument("names", nargs="*", metavar="NAME", help="a plugin's name, a key or an upstream key")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    from aion_core.cli import plugins_check, plugins_new

    plugins_check.add_arguments(add_action(verbs, "check", "put the conformance suite to one", plugins_check.__doc__))
    plugins_new.add_arguments(add_action(verbs, "new", "write a package for a survey of yours", plugins_new.__doc__))


def run(args: argparse.Namespace) -> int | None:
    if args.action == "check":
        from aion_core.cli import plugins_check

        return plugins_check.run(args)
    if args.action == "new":
        from aion_core.cli import plugins_new

        plugins_new.run(args)
        return None
    registry = load_registry()
    keys = _chosen(registry, getattr(args, "names", []))
    options = _options(registry) if args.readers else None
    if args.json:
        print_json(_document(registry, keys, options))
    elif options is not None:
        _show_readers(registry, options)
    else:
        _show(registry, keys)
    return None


def _options(registry: Registry) -> dict[str, dict[str, dict[str, Any]]]:
    """Return ``{reader: {option: {type, default, description}}}``."""
    from aion_core.data.files import build_reader

    found: dict[str, dict[str, dict[str, Any]]] = {}
    for spec in registry.readers:
        schema = build_reader(spec).Options.model_json_schema()
        found[spec.name] = schema.get("properties", {})
    return found


def _show_readers(registry: Registry, options: dict[str, dict[str, dict[str, Any]]]) -> None:
    rows = [(spec.name, spec.title, " ".join(spec.patterns), " ".join(spec.modalities)) for spec in registry.readers]
    print_table("", ("reader", "reads", "files", "modalities"), rows)
    settings = [
        (reader, name, repr(schema.get("default")), schema.get("description", "–"))
        for reader, schemas in options.items()
        for name, schema in schemas.items()
    ]
    if settings:
        print_table("Options", ("reader", "option", "default", "meaning"), settings)


def _chosen(registry: Registry, names: list[str]) -> set[str]:
    """Return the keys that the names stand for; no names stand for everything."""
    if not names:
        return set(registry.modalities)
    plugins = {plugin.name for plugin in registry.plugins}
    keys: set[str] = set()
    for name in names:
        if name in plugins:
            keys |= {k for k in registry.modalities if registry.origin(k).name == name}
            continue
        try:
            keys.add(registry.resolve(name).key)
        except UnknownKeyError:
            raise UnknownKeyError(
                f"{name!r} is neither a plugin nor a key.{did_you_mean(name, plugins | set(registry.modalities))} "
                f"Plugins: {', '.join(sorted(plugins)) or 'none'}."
            ) from None
    return keys


def _document(
    registry: Registry, keys: Collection[str], options: dict[str, dict[str, dict[str, Any]]] | None
) -> dict[str, Any]:
    return {
        "aion_core": __version__,
        "selection": selection(),
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "seconds": round(plugin.seconds, 6),
                "notices": list(plugin.notices),
                "modalities": [spec.key for spec in plugin.modalities],
                "readers": [reader.name for reader in plugin.readers],
                "simulators": [simulator.name for simulator in plugin.simulators],
            }
            for plugin in registry.plugins
        ],
        "modalities": [
            {"plugin": registry.origin(key).name, **spec.model_dump(mode="json")}
            for key, spec in registry.modalities.items()
            if key in keys
        ],
        "readers": [
            reader.model_dump(mode="json") | ({} if options is None else {"options": options[reader.name]})
            for reader in registry.readers
        ],
        "simulators": [simulator.model_dump(mode="json") for simulator in registry.simulators],
        "failures": [asdict(failure) for failure in registry.failures],
    }


def _show(registry: Registry, keys: Collection[str]) -> None:
    rows = [_row(spec, registry.origin(key)) for key, spec in registry.modalities.items() if key in keys]
    columns = ("key", "survey", "kind", "quantity", "units", ">codes", "shape", "upstream key", "plugin")
    if rows:
        print_table("", columns, rows)
    if (chosen := selection()) is not None:
        print(f"{ENVIRONMENT} restricts the plugins to: {', '.join(chosen) or 'none'}")
    elif not registry.plugins and not registry.failures:
        print(f"No plugin is installed: no distribution here has an entry point in the group {GROUP!r}.")
    of_keys = {id(registry.origin(key)) for key in keys}
    if plugins := [plugin for plugin in registry.plugins if id(plugin) in of_keys]:
        headings = ("plugin", "distribution", *(f">{part}" for part in PARTS), ">ms")
        print_table("Plugins", headings, map(_plugin, plugins))
    parts: tuple[LoadedPlugin | Failure, ...] = (*registry.plugins, *registry.failures)
    if slow := [part for part in parts if part.seconds > SLOW]:
        headings = ("plugin", "distribution", ">seconds", "to mend it")
        print_table("What every command waits for", headings, map(_slow, slow))
    if notices := [(plugin.name, plugin.label, text) for plugin in registry.plugins for text in plugin.notices]:
        print_table("What works, but will go", ("plugin", "distribution", "what to change"), notices)
    if registry.failures:
        headings = ("plugin", "distribution", "stage", "disabled", "reason")
        print_table("What could not be loaded", headings, map(partial(_fault, registry), registry.failures), "red")


def _plugin(plugin: LoadedPlugin) -> tuple[str, ...]:
    counts = (f"{len(getattr(plugin, part))}" for part in PARTS)
    return (plugin.name, plugin.label, *counts, f"{1000 * plugin.seconds:.0f}")


def _slow(part: LoadedPlugin | Failure) -> tuple[str, ...]:
    loaded = isinstance(part, LoadedPlugin)
    names = (part.name, part.label) if isinstance(part, LoadedPlugin) else (part.plugin, ", ".join(part.distributions))
    mend = "name heavy code by import strings instead of importing it" if loaded else "see below"
    return (*names, f"{part.seconds:.1f}", mend)


def _fault(registry: Registry, failure: Failure) -> tuple[str, ...]:
    loaded = {plugin.label for plugin in registry.plugins}
    if failure.keys:
        disabled = ", ".join(failure.keys)
    elif loaded.isdisjoint(failure.distributions):
        disabled = "the plugin"
    else:
        disabled = "that part"
    distributions = ", ".join(failure.distributions) or "not installed"
    return (failure.plugin, distributions, failure.stage, disabled, failure.reason)


def _row(spec: ModalitySpec, plugin: LoadedPlugin) -> tuple[object, ...]:
    shape = "×".join(map(str, spec.shape))
    longest = f"≤{shape}" if spec.order == "causal" else shape
    kind = (spec.kind, spec.quantity, spec.units or "–")
    return (
        spec.key,
        spec.survey,
        *kind,
        spec.vocab_size,
        longest,
        spec.upstream_key or "–",
        f"{plugin.name} {plugin.version}",
    )
