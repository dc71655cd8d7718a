"""The conformance suite as test classes that the tests of a plugin inherit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aion_core.testing import readers
from aion_core.testing.reading import GivenFiles
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

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if cls.readers is not None and not cls.readers:  # no test at all instead of many that are skipped
            for rule in readers.RULES:
                setattr(cls, f"test_{rule.name}", None)

    @classmethod
    def subject(cls) -> Subject:
        """Return the plugin under test, with all that was made of it so far."""
        return _subject(cls)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        rule: Rule | None = getattr(metafunc.function, "rule", None)
        if rule is not None and rule.scope != "plugin":
            parts = list(self.subject().parts(rule.scope))
            metafunc.parametrize("part", parts or [None], ids=parts or ["none"])


class ReaderContract:
    """The rules on one reader, put to files that `files` returns: one test for each rule.

    Examples
    --------
    >>> class TestMine(ReaderContract):
    ...     reader = "mine_table"
    ...
    ...     def files(self, folder):
    ...         return [write_table(folder / "table.fits")]
    """

    #: Name of the reader in the registry.
    reader: ClassVar[str]
    #: What a user might set for it.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Whether the format shows that its last object is cut in two. Text without a length does not.
    shows_cuts: ClassVar[bool] = True
    #: Where files are cut: parts of their length.
    cuts: ClassVar[Sequence[float]] = (0.0005, 0.02, 0.11, 0.23, 0.31, 0.47, 0.59, 0.62, 0.71, 0.83, 0.97)

    def files(self, folder: Path) -> Sequence[Path]:
        """Return files that the reader claims, one of each group: real ones, or written into the (empty) folder."""
        raise NotImplementedError("return files of the reader")

    @classmethod
    def subject(cls) -> GivenFiles:
        """Return the reader's files, made once for all rules."""
        key: Any = cls  # mypy does not take a class for hashable
        return _given(key)


def demand(outcome: Outcome) -> None:
    """Fail, or skip, the test that an outcome is that of."""
    if outcome.status == "fail":
        pytest.fail(str(outcome), pytrace=False)
    if outcome.status == "not applicable":
        pytest.skip(f"not applicable: {outcome.reason}")


def _test_of(rule: Rule) -> Callable[..., None]:
    def of_plugin(self: Any) -> None:
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


def _test_of_reader(rule: Rule) -> Callable[..., None]:
    def of_reader(self: ReaderContract) -> None:
        given = self.subject()
        demand(rule.put(given, given.spec))

    of_reader.__name__, of_reader.__doc__ = f"test_{rule.name}", rule.about
    return of_reader


for _rule in RULES:
    setattr(PluginContract, f"test_{_rule.name}", _test_of(_rule))
for _rule in readers.RULES:
    setattr(ReaderContract, f"test_{_rule.name}", _test_of_reader(_rule))


#: Subjects of all test classes that were collected, by class: they share one other process.
_SUBJECTS: dict[type[PluginContract], Subject] = {}
_TOGETHER: list[Subject] = []


def _subject(cls: type[PluginContract]) -> Subject:
    if cls not in _SUBJECTS:
        _SUBJECTS[cls] = Subject(cls.plugin, cls(), _TOGETHER)
        _TOGETHER.append(_SUBJECTS[cls])
    return _SUBJECTS[cls]


@cache
def _given(cls: Any) -> GivenFiles:
    return GivenFiles(cls())
