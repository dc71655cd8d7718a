"""The rules that readers inherit: a reader that keeps them passes, and each way to break one is seen.

The reader of this test reads ``*.pairs`` files: a line with the number of rows, then ``id ra value`` a row.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest

from aion_core.contract import InputError, ModalitySpec, Provenance, ReaderSpec
from aion_core.data import ObservationBatch, Reader, Skipped
from aion_core.observations import Scalar
from aion_core.plugins import LoadedPlugin, Registry
from aion_core.testing import ReaderContract, reading
from aion_core.testing.contract import GivenFiles
from aion_core.testing.readers import RULES

HERE = "readers_of_test_contract"


class Pairs(Reader):
    def claims(self, path: Path) -> bool:
        try:
            return self._lines(path)[0].startswith("pairs ")
        except (OSError, EOFError, UnicodeDecodeError, IndexError):
            return False

    def _lines(self, path: Path) -> list[str]:
        content = path.read_bytes()
        return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode().split("\n")

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        first, *lines = self._lines(path)
        if len(lines) != int(first.split()[1]) + 1:
            raise InputError(f"{path}: cut short; fetch it again.")
        rows = [line.split() for line in lines[:-1]]
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            good = [row for row in part if row[2] != "-"]
            lost = tuple(Skipped(f"object {row[0]}", "it has no value") for row in part if row[2] == "-")
            yield self.batch([row[0] for row in good], good, lost)

    def batch(self, ids: list[str], rows: list[list[str]], lost: tuple[Skipped, ...]) -> ObservationBatch:
        values = np.array([float(row[2]) for row in rows])
        ra = np.array([float(row[1]) for row in rows])
        data = {"demo_x": (Scalar(values), np.arange(len(rows)))}
        return ObservationBatch(np.array(ids, str), ra, ra / 10, data, lost)


class ClaimsAll(Pairs):
    def claims(self, path: Path) -> bool:
        return True


class RaisesInClaims(Pairs):
    def claims(self, path: Path) -> bool:
        return self._lines(path)[0].startswith("pairs ")


class KeepsCut(Pairs):
    """Makes up what the file lost."""

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        rows = [line.split() for line in self._lines(path)[1:] if line]
        for start in range(0, len(rows), batch_size):
            part = [[*row, "0", "0"][:3] for row in rows[start : start + batch_size] if row[-1] != "-"]
            yield self.batch([row[0] for row in part], part, ())


class OtherError(Pairs):
    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        try:
            yield from super().read(path, batch_size)
        except InputError:
            raise KeyError("his column") from None


class NamelessError(Pairs):
    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        try:
            yield from super().read(path, batch_size)
        except InputError:
            raise InputError("the file is damaged.") from None


class CountsIds(Pairs):
    """Names objects by their place in the batch."""

    def batch(self, ids: list[str], rows: list[list[str]], lost: tuple[Skipped, ...]) -> ObservationBatch:
        return super().batch([f"row{i}" for i in range(len(ids))], rows, lost)


class ScalesByBatch(Pairs):
    def batch(self, ids: list[str], rows: list[list[str]], lost: tuple[Skipped, ...]) -> ObservationBatch:
        return super().batch(ids, [[row[0], row[1], str(float(row[2]) / len(rows))] for row in rows], lost)


class LosesSkipped(Pairs):
    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        for batch in super().read(path, batch_size):
            kept = batch.skipped if batch_size > 1 else ()
            yield ObservationBatch(batch.object_id, batch.ra, batch.dec, batch.data, kept)


class TooLarge(Pairs):
    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        yield from super().read(path, 10_000)


class NotMeasured(Pairs):
    def batch(self, ids: list[str], rows: list[list[str]], lost: tuple[Skipped, ...]) -> ObservationBatch:
        return super().batch(ids, [[row[0], row[1], "nan"] for row in rows], lost)


class NegativeRa(Pairs):
    def batch(self, ids: list[str], rows: list[list[str]], lost: tuple[Skipped, ...]) -> ObservationBatch:
        return super().batch(ids, [[row[0], f"-{row[1]}", row[2]] for row in rows], lost)


class Undeclared(Pairs):
    def batch(self, ids: list[str], rows: list[list[str]], lost: tuple[Skipped, ...]) -> ObservationBatch:
        found = super().batch(ids, rows, lost)
        return ObservationBatch(found.object_id, found.ra, found.dec, {"demo_y": found.data["demo_x"]}, lost)


class NotCompressed(Pairs):
    def _lines(self, path: Path) -> list[str]:
        return path.read_text(errors="strict").split("\n")


class LoneGroup(Pairs):
    def group(self, path: Path) -> tuple[Path, ...]:
        return (path.with_name("other.pairs"),)


def registry(cls: type[Reader]) -> Registry:
    provenance = Provenance(id=7, instrument="none", release="none")
    spec = ModalitySpec(
        key="demo_x",
        survey="Demo",
        title="x",
        citation="nobody",
        kind="scalar",
        quantity="phot.flux",
        units="",
        vocab_size=16,
        shape=(1,),
        position="scalar",
        provenance=provenance,
    )
    reader = ReaderSpec(
        name="demo_pairs",
        title="pairs",
        patterns=("*.pairs", "*.pairs.gz"),
        reader=f"{HERE}:{cls.__name__}",
        modalities=("demo_x",),
    )
    plugin = LoadedPlugin("demo", "aion-tok-demo", "1.0", 0.0, modalities=(spec,), readers=(reader,))
    return Registry(MappingProxyType({"demo_x": spec}), (reader,), (), (plugin,), ())


class Contract(ReaderContract):
    __test__ = False
    reader: ClassVar[str] = "demo_pairs"

    def files(self, folder: Path) -> Sequence[Path]:
        rows = [f"star{i} {i}.5 {'-' if i % 5 == 4 else i * 1.25}" for i in range(30)]
        (folder / "a.pairs").write_text("\n".join(["pairs 30", *rows, ""]))
        (folder / "b.pairs").write_text("pairs 1\nsun 0.5 3\n")
        return sorted(folder.iterdir())


class Parsecs(Pairs):
    def batch(self, ids: list[str], rows: list[list[str]], lost: tuple[Skipped, ...]) -> ObservationBatch:
        found = super().batch(ids, rows, lost)
        value, where = found.data["demo_x"]
        return ObservationBatch(
            found.object_id, found.ra, found.dec, {"demo_x": (Scalar(value.value, unit="pc"), where)}, lost
        )


class Whimsical(Pairs):
    """Gives other values to who wants one modality only."""

    def batch(self, ids: list[str], rows: list[list[str]], lost: tuple[Skipped, ...]) -> ObservationBatch:
        return super().batch(ids, rows if self.wanted is None else [[*row[:2], "1"] for row in rows], lost)


class ReadsAbsent(Pairs):
    def _lines(self, path: Path) -> list[str]:
        return super()._lines(path) if path.exists() else ["pairs 0", ""]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run all rules on a reader; return the names of those that it breaks, and what is said."""
    import sys

    sys.modules.setdefault(HERE, sys.modules[__name__])

    def broken_by(cls: type[Reader]) -> dict[str, str]:
        monkeypatch.setattr(reading, "load_registry", lambda: registry(cls))
        given = GivenFiles(Contract())
        found = [rule.put(given, given.spec) for rule in RULES]
        return {outcome.rule: str(outcome) for outcome in found if outcome.status == "fail"}

    return broken_by


def test_a_reader_that_keeps_the_rules_passes(run: Any) -> None:
    assert run(Pairs) == {}


@pytest.mark.parametrize(
    ("cls", "rule"),
    [
        (ClaimsAll, "files_of_others_are_not_claimed"),
        (RaisesInClaims, "files_of_others_are_not_claimed"),
        (KeepsCut, "cut_files_are_refused"),
        (OtherError, "cut_files_are_refused"),
        (NamelessError, "cut_files_are_refused"),
        (CountsIds, "batch_size_does_not_matter"),
        (ScalesByBatch, "batch_size_does_not_matter"),
        (LosesSkipped, "batch_size_does_not_matter"),
        (TooLarge, "batches_are_as_asked_for"),
        (NotMeasured, "values_are_finite_unless_masked"),
        (NegativeRa, "objects_are_as_declared"),
        (Undeclared, "objects_are_as_declared"),
        (NotCompressed, "compressed_files_read_the_same"),
        (LoneGroup, "files_of_a_group_name_one_group"),
        (Parsecs, "units_are_those_of_the_modality"),
        (Whimsical, "other_wishes_do_not_matter"),
        (ReadsAbsent, "missing_files_are_named"),
    ],
)
def test_each_way_to_break_a_rule_is_seen(run: Any, cls: type[Reader], rule: str) -> None:
    broken = run(cls)
    assert rule in broken, broken
    assert "What to do: " in broken[rule]
