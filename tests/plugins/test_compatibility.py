"""Plugins of other versions of the contract: the one before works and is told what to change, others are reported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from aion_core.contract.plugin import API, API_VERSIONS, PluginApi
from aion_core.plugins import load_registry

CORE = Path(__file__).parents[2] / "aion_core"
CHANGE = "aion_readers takes no path; let claims look at it"


def test_a_core_understands_its_own_version_and_the_one_before():
    assert PluginApi(version=3).understood == (2, 3)
    assert PluginApi(version=1).understood == (1,)
    assert API.understood == API_VERSIONS


def test_plugins_of_the_version_before_work_and_are_told_what_to_change():
    following = API.version + 1
    now, later = load_registry(), load_registry(api=PluginApi(version=following, changes={following: CHANGE}))
    assert later.modalities.keys() == now.modalities.keys()
    assert later.failures == now.failures
    for plugin in later.plugins:
        (notice,) = plugin.notices
        assert f"use api_version {following}" in notice
        assert CHANGE in notice


def test_plugins_of_this_version_are_told_nothing():
    assert [plugin.notices for plugin in load_registry().plugins] == [()] * len(load_registry().plugins)


def test_plugins_of_a_version_older_than_that_are_reported():
    registry = load_registry(api=PluginApi(version=API.version + 2))
    assert not registry.modalities
    assert {failure.stage for failure in registry.failures} == {"api_version"}
    assert all("upgrade the plugin" in failure.reason for failure in registry.failures)


def test_what_a_plugin_uses_that_will_go_is_told_with_what_to_use_instead(document, broken):
    notices = {plugin["name"]: plugin["notices"] for plugin in document["plugins"]}
    assert notices["going"] == [broken.GOING]
    assert "going_flux" in {modality["key"] for modality in document["modalities"]}
    assert all(not told for name, told in notices.items() if name != "going")


def test_people_are_told_too(everything, broken):
    done = broken.python(everything, "-m", "aion_core.cli", "plugins", AION_PLUGINS="going")
    assert "What works, but will go" in done.stdout
    assert broken.GOING in done.stdout
    assert done.stderr == ""


# --- the house's own deprecations


def replacements_missing(source: str) -> list[str]:
    """Return the messages of deprecations in a source that do not say what to use instead.

    They are given to ``typing_extensions.deprecated``, pydantic's ``Field(deprecated=…)``, pluggy's
    ``warn_on_impl=DeprecationWarning(…)`` or ``warnings.warn(…, DeprecationWarning)``.
    """
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func).rpartition(".")[2]
        given = [*call.args[:1]] if name in ("deprecated", "DeprecationWarning") else []
        given += [word.value for word in call.keywords if word.arg == "deprecated"]
        if name == "warn" and any("DeprecationWarning" in ast.unparse(arg) for arg in call.args[1:]):
            given += call.args[:1]
        found += [text for text in map(ast.unparse, given) if "use " not in text]
    return found


def test_every_deprecation_in_the_core_says_what_to_use_instead():
    assert {str(path): f for path in CORE.rglob("*.py") if (f := replacements_missing(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "@deprecated('grid goes')\ndef f(): ...",
        "x: int = Field(default=1, deprecated='it goes')",
        "hookspec(warn_on_impl=DeprecationWarning('it goes'))",
        "warnings.warn('it goes', DeprecationWarning, stacklevel=2)",
    ],
)
def test_the_rule_on_deprecations_sees_one_without_a_replacement(source):
    assert replacements_missing(source)
    assert not replacements_missing(source.replace("goes", "goes; use shape"))
