"""Every rule of the conformance suite can fail: a sound plugin passes them all, and each change of it fails its own."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aion_core.cli import main
from aion_core.testing.elsewhere import ask
from aion_core.testing.rules import Outcome
from aion_core.testing.suite import RULES, put

_path = Path(__file__).parent / "broken" / "faults.py"
_spec = importlib.util.spec_from_file_location("faults", _path)
faults = importlib.util.module_from_spec(_spec)
sys.modules["faults"] = faults
_spec.loader.exec_module(faults)

BY_NAME = {rule.name: rule for rule in RULES}
FAULTS = pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: f"{fault.rule}: {fault.what}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all of them installed, on the path, and only those that `subject` names active."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(faults.build(tmp_path_factory.mktemp("site"))))
        patch.setenv("AION_PLUGINS", "sound")
        yield tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def subject(site: Path) -> Callable[[str], Any]:
    """Return a plugin by name; those whose fault shows in another process only share one such process."""
    last = {rule.name for rule in RULES[RULES.index(BY_NAME["light_import"]) :]}
    remote = ("sound", *(f.name for f in faults.FAULTS if f.rule in last and "_exit" not in f.new))
    found: dict[str, Any] = {}

    def of(name: str) -> Any:
        made = faults.subject(name)
        if name in remote:
            if not found:
                found.update(ask([faults.subject(other) for other in remote], site))
            made.__dict__["elsewhere"] = found[name]
            faults.subject(name)  # the environment is this plugin's again
        return made

    return of


def failed(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.status == "fail"]


def test_a_sound_plugin_passes_every_rule(subject: Callable[[str], Any]) -> None:
    sound = subject("sound")
    outcomes = [outcome for rule in RULES for outcome in put(rule, sound)]
    assert [str(outcome) for outcome in failed(outcomes)] == []
    passed = {outcome.rule for outcome in outcomes if outcome.status == "pass"}
    assert passed == BY_NAME.keys()


@FAULTS
def test_each_fault_is_caught_by_its_rule(fault: Any, subject: Callable[[str], Any]) -> None:
    found = failed(put(BY_NAME[fault.rule], subject(fault.name)))
    assert found, f"{fault.rule} lets pass: {fault.what}"
    for outcome in found:
        said = str(outcome)
        assert said.startswith(fault.rule)
        assert "NameError" not in said, "the fault itself is broken"
        assert said.endswith(f"What to do: {outcome.remedy}")


@pytest.mark.slow
@FAULTS
def test_no_rule_before_its_own_is_failed(fault: Any, subject: Callable[[str], Any]) -> None:
    broken = subject(fault.name)
    for rule in RULES:
        if failed(put(rule, broken)):
            assert rule.name == fault.rule
            return


def test_every_rule_has_a_fault_that_it_catches() -> None:
    assert {fault.rule for fault in faults.FAULTS} == BY_NAME.keys()


# --- the command


def test_the_command_names_rule_finding_and_remedy(
    subject: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = next(fault for fault in faults.FAULTS if fault.rule == "unit_and_quantity")
    subject(broken.name)
    assert main(["plugins", "check", broken.name, "--only", "unit_and_quantity", "--only", "prefix"]) == 1
    shown = capsys.readouterr().out
    assert f"unit_and_quantity[{broken.name}_flux]: the unit 'fluxes' is not known" in shown
    assert f"What to do: {BY_NAME['unit_and_quantity'].remedy}" in shown
    assert "2 passed, 1 failed, 0 not applicable." in shown


def test_the_command_prints_json(subject: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    subject("sound")
    assert main(["plugins", "check", "sound", "--only", "bad_pixels_do_not_count", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["plugin"], document["distribution"], document["passed"]) == ("sound", "aion-tok-sound 1.0", True)
    flux, spectrum = document["outcomes"]
    assert flux["status"] == "not applicable"
    assert "neither mask nor inverse variance" in flux["reason"]
    assert spectrum == {"rule": "bad_pixels_do_not_count", "part": "sound_spectrum", "status": "pass", "found": [],
                        "reason": None, "remedy": None}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["soundd"], "No plugin 'soundd' is installed. Did you mean 'sound'?"),
        (["sound", "--only", "prefixes"], "There is no rule 'prefixes'. Did you mean 'prefix'?"),
        (["companion"], "AION_PLUGINS leaves the plugin 'companion' out"),
    ],
)
def test_an_unknown_name_ends_with_code_2(
    words: list[str], said: str, subject: Callable[[str], Any], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("AION_PLUGINS", "sound")
    assert main(["plugins", "check", *words]) == 2
    assert said in capsys.readouterr().err


def test_golden_tokens_are_written_anew_on_request(site: Path, subject: Callable[[str], Any]) -> None:
    changed = next(fault for fault in faults.FAULTS if fault.rule == "golden_tokens")
    assert failed(put(BY_NAME["golden_tokens"], subject(changed.name)))
    path = Path(sys.modules[f"aion_tok_{changed.name}.plugin"].__file__).with_name("golden.json")
    before = path.read_text()
    try:
        assert main(["plugins", "check", changed.name, "--write-golden"]) == 0
        assert not failed(put(BY_NAME["golden_tokens"], subject(changed.name)))
        path.write_text("{}")
        (outcome, *_) = put(BY_NAME["golden_tokens"], subject(changed.name))
        assert outcome.status == "not applicable"
        assert f"aion plugins check {changed.name} --write-golden" in outcome.reason
        path.write_text('{"cut sho')
        assert "is damaged" in str(put(BY_NAME["golden_tokens"], subject(changed.name))[0])
    finally:
        path.write_text(before)


def test_the_page_has_every_rule_as_it_stands() -> None:
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    rows = [f"| `{rule.name}` | {rule.about} | {rule.remedy} |" for rule in RULES]
    assert [row for row in rows if row not in page] == []
    assert page.count("\n| `") == len(rows)
