"""Checks that a plugin inherits instead of writing them: a test class names the plugin, and the rules come with it."""

from aion_core.testing.memory import memory_growth
from aion_core.testing.readers import ReaderContract
from aion_core.testing.specs import SpecContract

__all__ = ["ReaderContract", "SpecContract", "memory_growth"]
