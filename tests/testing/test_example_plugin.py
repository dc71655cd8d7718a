"""The example plugin, which is not installed here, passes the conformance suite all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aion_core.testing.rules import Rule
from aion_core.testing.subject import Subject
from aion_core.testing.suite import RULES, put

EXAMPLE = Path(__file__).parents[2] / "examples" / "aion-tok-clauds"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    site = tmp_path_factory.mktemp("site")
    info = site / "aion_tok_clauds-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: aion-tok-clauds\nVersion: 0.1.0\nRequires-Dist: aion-core\n"
    )
    (info / "entry_points.txt").write_text("[aion.plugins]\nclauds = aion_tok_clauds.plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.syspath_prepend(str(EXAMPLE / "src"))
        yield Subject("clauds")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_example_plugin_holds_the_rule(rule: Rule, example: Subject) -> None:
    assert [str(outcome) for outcome in put(rule, example) if outcome.status == "fail"] == []


def test_what_does_not_apply_says_why(example: Subject) -> None:
    (bound,) = (outcome for rule in RULES if rule.name == "within_its_bound" for outcome in put(rule, example))
    assert str(bound) == (
        "within_its_bound[clauds_image]: not applicable: its tokenizer promises no bound (`bound` returns None), "
        "as networks do not"
    )
