"""What a rule is: a plain function that looks at a part of a plugin and yields what it finds wrong.

A rule is put to a part by `Rule.put`, which never raises for a plugin's fault. The test class and the command line are
two faces of the same list of rules (`aion_core.testing.suite`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

#: What a rule looks at: the plugin as a whole, or each of its modalities, readers or simulators. ``tokenizer`` is each
#: modality, too, but those whose tokenizers are made alike have one outcome.
Scope = Literal["plugin", "modality", "tokenizer", "reader", "simulator"]
Status = Literal["pass", "fail", "not applicable"]
#: Takes the subject and the part; yields what is wrong, one sentence each, without the rule's name or remedy.
Check: TypeAlias = Callable[[Any, Any], Iterator[str]]

#: Faults of one part that are told; more of them say nothing new.
MOST = 5


class NotApplicableError(Exception):
    """A rule has nothing to say about this part of the plugin; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of one rule on one part.

    Attributes
    ----------
    rule, part
        Name of the rule; name of the modality, reader or simulator, empty for the plugin as a whole.
    found
        What is wrong; empty unless the status is ``fail``.
    reason
        Why the rule was not applicable.
    """

    rule: str
    part: str
    status: Status
    found: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.rule}[{self.part}]" if self.part else self.rule
        if self.status != "fail":
            return f"{where}: {self.status}{f': {self.reason}' if self.reason else ''}"
        return "\n".join([f"{where}: {found}" for found in self.found] + [f"What to do: {self.remedy}"])


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes
    ----------
    name
        By which it is selected.
    about
        What must hold, in one line.
    remedy
        What to do where it does not.
    """

    name: str
    scope: Scope
    about: str
    remedy: str
    check: Check

    def put(self, subject: Any, part: Any = None) -> Outcome:
        """Return what becomes of the rule; whatever the plugin's code raises is a fault of the plugin."""
        name = "" if part is None else str(getattr(part, "key", getattr(part, "name", part)))
        if self.scope != "tokenizer":
            return self._put(subject, part, name)
        place = (self.name, subject.like(part))
        if place not in subject.outcomes:
            subject.outcomes[place] = self._put(subject, part, name)
        return replace(subject.outcomes[place], part=name)

    def _put(self, subject: Any, part: Any, name: str) -> Outcome:
        try:
            found = tuple(islice(self.check(subject, part), MOST))
        except NotApplicableError as reason:
            return Outcome(self.name, name, "not applicable", reason=str(reason))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            found = (told(error),)
        return Outcome(self.name, name, "fail" if found else "pass", found, remedy=self.remedy if found else "")


def rule(scope: Scope, remedy: str) -> Callable[[Check], Rule]:
    """Make a rule of a check: its name is the function's, what it is about the first line of its docstring."""

    def made(check: Check) -> Rule:
        about = (check.__doc__ or "").strip().partition("\n")[0].removesuffix(".")
        return Rule(check.__name__, scope, about, remedy, check)

    return made


def told(error: BaseException) -> str:
    """Return what was raised, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text if len(text) <= 400 else text[:399] + '…'}{where}"
