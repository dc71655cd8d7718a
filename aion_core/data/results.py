"""What became of survey files: counts, reasons, and what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from aion_core.contract import InputError
from aion_core.data.reader import Skipped

#: Of skipped objects, only so many are kept by name; all are counted.
NAMED = 100

Status: TypeAlias = Literal["done", "present", "readable", "part", "nothing", "not claimed", "failed"]


@dataclass(frozen=True)
class SkipReport:
    """Objects of a file that could not be read while others could: how many, and the first of them by name."""

    count: int = 0
    named: tuple[Skipped, ...] = ()

    def __add__(self, more: Iterable[Skipped]) -> SkipReport:
        new = tuple(more)
        return SkipReport(self.count + sum(one.count for one in new), (*self.named, *new)[:NAMED]) if new else self

    def to_json(self) -> str:
        return json.dumps(self.document())

    @classmethod
    def from_json(cls, text: str) -> SkipReport:
        found = json.loads(text)
        return cls(found["count"], tuple(Skipped(**one) for one in found["named"]))

    def document(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"count": self.count, "named": [asdict(one) for one in self.named]}


@dataclass(frozen=True)
class FileResult:
    """What became of one file, or of the files that are read together with it.

    Attributes
    ----------
    status
        ``done`` (tokenized now), ``present`` (tokenized before, nothing has changed), ``readable`` (described only),
        ``part`` (read together with another file, under which its objects are listed), ``nothing`` (no object, or no
        tokenizer for any of its modalities), ``not claimed`` (found in a folder, and no reader reads it), or
        ``failed``.
    group
        All files that were read for it, in the reader's order.
    options
        Those of the reader, as they were in effect.
    objects, modalities, tokens
        Number of objects; and by modality, how many of them have it, and their tokens.
    left_out
        Objects by modality for which there is no tokenizer.
    skipped
        Objects that are not among `objects` because they could not be read.
    reason
        One sentence, for the last four states; for the others, what is to be noted.
    """

    path: Path
    status: Status
    reader: str | None = None
    store: Path | None = None
    objects: int = 0
    modalities: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    skipped: SkipReport = SkipReport()
    group: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    @property
    def good(self) -> bool:
        return self.status in ("done", "present", "readable")


@dataclass(frozen=True)
class Report:
    """What became of all files, in the order of their names."""

    files: tuple[FileResult, ...]

    @property
    def failed(self) -> tuple[FileResult, ...]:
        return tuple(result for result in self.files if result.status == "failed")

    @property
    def objects(self) -> int:
        return sum(result.objects for result in self.files)

    @property
    def skipped(self) -> int:
        return sum(result.skipped.count for result in self.files)

    def total(self, what: Literal["modalities", "tokens", "left_out"]) -> dict[str, int]:
        """Return the sum over all files of one of their counts by modality."""
        total: Counter[str] = Counter()
        for result in self.files:
            total.update(getattr(result, what))
        return dict(total)


#: Which of several reasons is told first.
_GRAVITY = ("failed", "nothing", "not claimed", "part", "done", "present", "readable")


class NothingDoneError(InputError):
    """Not one file could be used; `report` says why."""

    def __init__(self, report: Report) -> None:
        self.report = report
        count = sum(result.status != "part" for result in report.files)
        first = min(report.files, key=lambda result: _GRAVITY.index(result.status))
        which = "The file cannot be used" if count == 1 else f"None of the {count} files can be used; the first"
        super().__init__(f"{which}: {first.reason}")
