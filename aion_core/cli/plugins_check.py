"""Put the conformance suite to an installed plugin: is it right, and if not, what is to be done?

    aion plugins check NAME
    aion plugins check NAME --only bad_pixels_do_not_count
    aion plugins check NAME --json
    aion plugins check NAME --write-golden

A rule is passed, failed, or not applicable; docs/conformance.md has them all. Tokenizers are small ones, made for the
purpose, files those that the plugin's simulators write. Needs pytest's companion hypothesis (`pip install hypothesis`).

--write-golden writes `golden.json` beside the plugin's module: what is fixed for ever about its modalities, and the
tokens of examples. Rules compare with it from then on.

Exit code 0 where no rule is failed, 1 where one is, 2 where there is no such plugin or rule.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from aion_core.cli.console import print_json, print_table, progress
from aion_core.contract import AionError

if TYPE_CHECKING:
    from aion_core.testing.rules import Outcome, Rule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the plugin, as in its entry point")
    parser.add_argument("--only", action="append", metavar="RULE", help="this rule; may be given several times")
    parser.add_argument("--write-golden", action="store_true", help="write golden.json, and check nothing")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    if find_spec("hypothesis") is None:
        raise AionError("The conformance suite draws its examples with hypothesis: pip install hypothesis.")
    from aion_core.testing.golden import write_golden
    from aion_core.testing.subject import Subject
    from aion_core.testing.suite import chosen, put

    subject, rules = Subject(args.name), chosen(args.only)
    if args.write_golden:
        path = write_golden(subject)
        if args.json:
            print_json({"plugin": args.name, "written": str(path)})
        else:
            print(f"{path} is written: commit it.")
        return 0
    found: list[Outcome] = []
    with progress(quiet=args.json) as bar:
        task = bar.add_task(args.name, total=len(rules))
        for rule in rules:
            bar.update(task, description=rule.name)
            found += put(rule, subject)
            bar.advance(task)
    failed = sum(outcome.status == "fail" for outcome in found)
    if args.json:
        print_json(_document(args.name, subject.label, found))
    else:
        _show(subject.label, rules, found)
    return 1 if failed else 0


def _document(name: str, label: str, found: Iterable[Outcome]) -> dict[str, object]:
    return {
        "plugin": name,
        "distribution": label,
        "passed": all(outcome.status != "fail" for outcome in found),
        "outcomes": [
            {
                "rule": outcome.rule,
                "part": outcome.part or None,
                "status": outcome.status,
                "found": list(outcome.found),
                "reason": outcome.reason or None,
                "remedy": outcome.remedy or None,
            }
            for outcome in found
        ],
    }


def _show(label: str, rules: list[Rule], found: list[Outcome]) -> None:
    rows = []
    for rule in rules:
        mine = [outcome for outcome in found if outcome.rule == rule.name]
        counts = {s: sum(o.status == s for o in mine) for s in ("pass", "fail", "not applicable")}
        status = next((s for s in ("fail", "pass", "not applicable") if counts[s]), "not applicable")
        shown = (status.upper() if status == "fail" else status, *(counts[s] or "–" for s in counts))
        rows.append((rule.name, *shown, rule.about if status != "not applicable" else _why(mine, rule)))
    columns = ("rule", "", ">pass", ">fail", ">n/a", "what must hold, or why it does not apply")
    print_table(label, columns, rows)
    faults = [outcome for outcome in found if outcome.status == "fail"]
    for outcome in faults:
        print(f"{outcome}\n")
    passed = sum(outcome.status == "pass" for outcome in found)
    print(f"{passed} passed, {len(faults)} failed, {len(found) - passed - len(faults)} not applicable.")


def _why(outcomes: list[Outcome], rule: Rule) -> str:
    reasons = dict.fromkeys(outcome.reason for outcome in outcomes)
    return f"not applicable: {'; '.join(reasons) or f'the plugin declares no {rule.scope}'}"
