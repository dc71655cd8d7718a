"""Whose fault an exception is: told in one sentence that names the plugin, where a plugin is at fault."""

from __future__ import annotations

import traceback
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import TracebackType

from aion_core.plugins.discovery import GROUP, label


def fault(part: str, plugin: str, error: BaseException) -> str:
    """Return the sentence for a part of a plugin that raised what is no `AionError`: whose it is, and where."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}"
    of = f" of {plugin}" if plugin else ""
    return f"{part}{of} is at fault ({where}): {type(error).__name__}: {error}"


def plugin_at_fault(error: BaseException) -> str | None:
    """Return the distribution and version of the plugin in whose code an exception arose; None if it is no plugin's.

    That is the plugin whose function was called last on the way to where it was raised: one that hands nonsense to the
    core, or to a library, is at fault as well.
    """
    owners = {point.module.partition(".")[0]: point for point in entry_points(group=GROUP)}
    found: EntryPoint | None = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        package = str(step.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found, step = owners.get(package, found), step.tb_next
    return None if found is None else label(found)
