"""Hooks, discovery and the registry of installed plugins. Never imports torch or astropy."""

from aion_core.plugins.discovery import Failure, LoadedPlugin, import_object
from aion_core.plugins.hookspecs import hookimpl
from aion_core.plugins.registry import Registry, load_registry

__all__ = ["Failure", "LoadedPlugin", "Registry", "hookimpl", "import_object", "load_registry"]
