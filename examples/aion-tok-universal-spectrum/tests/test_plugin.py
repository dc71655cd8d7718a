"""The rules of aion-core, on this plugin. `aion plugins check universal` runs the same ones."""

from __future__ import annotations

from aion_core.testing import PluginContract


class TestPlugin(PluginContract):
    plugin = "universal"
    examples = 3  # of what Hypothesis draws; the tests beside this one draw their own
