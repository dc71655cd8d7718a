"""The conformance suite on this plugin; its readers have contracts of their own, with real files."""

from __future__ import annotations

from aion_core.testing import PluginContract


class TestPlugin(PluginContract):
    plugin = "sdss"
    readers = ()
    examples = 3  # of what Hypothesis draws for a rule; `aion plugins check` draws more
