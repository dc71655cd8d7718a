"""The conformance suite as a test class that a plugin's own tests inherit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import pytest

from aion_core.testing.rules import Outcome, Rule
from aion_core.testing.subject import Material, Subject
from aion_core.testing.suite import RULES


class PluginContract(Material):
    """Every rule on one installed plugin: one test for each rule and modality, reader or simulator.

    Examples
    --------
    >>> class TestMine(PluginContract):
    ...     plugin = "mine"
    """

    #: Name of the entry point, with which every key begins.
    plugin: ClassVar[str]

    @classmethod
    def subject(cls) -> Subject:
        """Return the plugin under test, with all that was made of it so far."""
        made: Subject = _subject(cls)
        return made

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        rule: Rule | None = getattr(metafunc.function, "rule", None)
        if rule is not None and rule.scope != "plugin":
            parts = list(self.subject().parts(rule.scope))
            metafunc.parametrize("part", parts or [None], ids=parts or ["none"])


def demand(outcome: Outcome) -> None:
    """Fail, or skip, the test that an outcome is that of."""
    if outcome.status == "fail":
        pytest.fail(str(outcome), pytrace=False)
    if outcome.status == "not applicable":
        pytest.skip(f"not applicable: {outcome.reason}")


def _test_of(rule: Rule) -> Callable[..., None]:
    def of_plugin(self: PluginContract) -> None:
        demand(rule.put(self.subject()))

    def of_part(self: PluginContract, part: str | None) -> None:
        subject = self.subject()
        if part is None:
            pytest.skip(f"not applicable: the plugin declares no {rule.scope}")
        demand(rule.put(subject, subject.parts(rule.scope)[part]))

    test: Callable[..., None] = of_plugin if rule.scope == "plugin" else of_part
    test.__name__, test.__doc__ = f"test_{rule.name}", rule.about
    vars(test)["rule"] = rule
    return test


for _rule in RULES:
    setattr(PluginContract, f"test_{_rule.name}", _test_of(_rule))


@cache
def _subject(cls: Any) -> Subject:
    return Subject(cls.plugin, cls())
