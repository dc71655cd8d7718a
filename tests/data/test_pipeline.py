"""Files to stores, with a plugin of the test's own: lines of ``id ra dec x y``, where ``-`` is not measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from aion_core.contract import InputError, ModalitySpec, ReaderSpec
from aion_core.contract.modality import TokenizerSpec
from aion_core.data import ObservationBatch, Reader, TokenStore, tokenize_files
from aion_core.data.pipeline import NothingDoneError, describe_files, store_path
from aion_core.observations import Scalar
from aion_core.plugins import LoadedPlugin, Registry
from aion_core.tokenizers import TokenizerSet, build_tokenizer

HERE = "readers_of_test_pipeline"


class LinesReader(Reader):
    """Reads the lines; a word of its author's shows what happens when he errs."""

    def claims(self, path: Path) -> bool:
        return path.read_text().startswith("# lines\n")

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            if any(row[0] == "defect" for row in part):
                raise KeyError("his column")
            if any(len(row) != 5 for row in part):
                raise InputError(f"a line after {start} does not have five words")
            numbers = np.array([[np.nan if v == "-" else float(v) for v in row[1:]] for row in part])
            data = {}
            for key, values in (("demo_x", numbers[:, 2]), ("demo_y", numbers[:, 3])):
                there = np.flatnonzero(np.isfinite(values))
                data[key] = (Scalar(values[there]), there)
            yield ObservationBatch(np.array([row[0] for row in part]), numbers[:, 0], numbers[:, 1], data)


class HalfReader(LinesReader):
    """Yields values that are not measured instead of leaving them out."""

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        for batch in super().read(path, batch_size):
            values = np.full(len(batch), np.nan, np.float32)
            observation, rows = batch.data["demo_x"]
            values[rows] = observation.value
            yield ObservationBatch(
                batch.object_id, batch.ra, batch.dec, {"demo_x": (Scalar(values), np.arange(len(batch)))}
            )


@pytest.fixture
def registry(make_spec: Callable[..., ModalitySpec]) -> Registry:
    sys.modules.setdefault(HERE, sys.modules[__name__])
    table = TokenizerSpec(path="aion_core.tokenizers.scalar:QuantileTokenizer")
    specs = tuple(make_spec(key, 16, (1,), "scalar", tokenizer=table) for key in ("demo_x", "demo_y"))
    keys = tuple(spec.key for spec in specs)
    readers = tuple(
        ReaderSpec(name=name, title=name, patterns=(pattern,), reader=f"{HERE}:{cls}", modalities=keys)
        for name, pattern, cls in (("demo_lines", "*.txt", "LinesReader"), ("demo_half", "*.half", "HalfReader"))
    )
    plugin = LoadedPlugin("demo", "aion-tok-demo", "1.0", 0.0, specs, readers)
    return Registry(MappingProxyType(dict(zip(keys, specs, strict=True))), readers, (), (plugin,), ())


def fitted(registry: Registry, *keys: str, scale: float = 1.0) -> TokenizerSet:
    tokenizers = []
    for key in keys:
        tokenizer = build_tokenizer(registry.resolve(key))
        tokenizer.observe(Scalar(torch.linspace(0, scale, 500)))  # type: ignore[operator]
        tokenizer.finish()  # type: ignore[operator]
        tokenizers.append(tokenizer)
    return TokenizerSet(tokenizers, registry)


@pytest.fixture
def tokenizers(registry: Registry) -> TokenizerSet:
    return fitted(registry, "demo_x", "demo_y")


LINES = "# lines\na 10 20 0.1 0.9\nb 11 21 - 0.8\nc - - 0.3 -\nd 12 22 - -\n"


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    folder = tmp_path / "survey"
    (folder / "other").mkdir(parents=True)
    (folder / "one.txt").write_text(LINES)
    (folder / "other/one.txt").write_text("# lines\ne 1 2 0.5 0.6\n")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_file_becomes_a_store_of_its_tokens(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    report = tokenize_files([survey], tokenizers, out, registry, batch_size=2)
    assert [r.status for r in report.files] == ["done", "done"]
    assert names(out) == sorted(r.store.name for r in report.files if r.store)
    first = TokenStore(store_path(survey / "one.txt", out))
    first.verify()
    assert first.ids.to_pylist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(first.ra, [10, 11, np.nan, 12])
    found = first.tokens(range(4))
    codes = {key: tokenizers[key].encode(Scalar([0.1, 0.3, 0.9, 0.8]))[:, 0].tolist() for key in ("demo_x", "demo_y")}
    assert found["demo_x"][:, 0].tolist() == [codes["demo_x"][0], -1, codes["demo_x"][1], -1]
    assert found["demo_y"][:, 0].tolist() == [codes["demo_y"][2], codes["demo_y"][3], -1, -1]
    assert first.space == tokenizers.space
    assert first.column("demo_x").null_count == 2
    assert report.objects == 5
    assert report.total("modalities") == report.total("tokens") == {"demo_x": 3, "demo_y": 3}


def test_a_value_that_encodes_to_nothing_is_null_and_not_counted(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    path = survey / "one.half"
    path.write_text(LINES)
    report = tokenize_files([path], tokenizers, out, registry)
    assert report.total("modalities") == {"demo_x": 2}
    assert TokenStore(store_path(path, out)).column("demo_x").is_valid().to_pylist() == [True, False, True, False]


def test_a_rerun_leaves_done_files_alone_and_counts_the_same(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tokenize_files([survey], tokenizers, out, registry)
    stores = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    monkeypatch.setattr(LinesReader, "read", None)
    after = tokenize_files([survey], tokenizers, out, registry)
    assert [r.status for r in after.files] == ["present", "present"]
    assert stores == {name: (out / name).stat().st_mtime_ns for name in names(out)}
    for what in ("modalities", "tokens"):
        assert after.total(what) == before.total(what)
    assert after.objects == before.objects


def test_a_changed_file_replaces_its_tokens(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    tokenize_files([survey], tokenizers, out, registry)
    (survey / "one.txt").write_text("# lines\nz 1 2 0.5 0.6\n")
    report = tokenize_files([survey], tokenizers, out, registry)
    assert [r.status for r in report.files] == ["done", "present"]
    assert len(names(out)) == 2
    assert TokenStore(store_path(survey / "one.txt", out)).ids.to_pylist() == ["z"]


def test_a_touched_file_other_tokenizers_or_another_plugin_version_count_as_a_change(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    tokenize_files([survey], tokenizers, out, registry)
    refitted = fitted(registry, "demo_x", "demo_y", scale=2.0)
    assert {r.status for r in tokenize_files([survey], refitted, out, registry).files} == {"done"}
    assert {r.status for r in tokenize_files([survey], refitted, out, registry).files} == {"present"}
    os.utime(survey / "one.txt", ns=(1, 1))
    assert [r.status for r in tokenize_files([survey], refitted, out, registry).files] == ["done", "present"]
    newer = LoadedPlugin("demo", "aion-tok-demo", "1.1", 0.0, readers=registry.readers)
    upgraded = Registry(registry.modalities, registry.readers, (), (newer,), ())
    assert {r.status for r in tokenize_files([survey], refitted, out, upgraded).files} == {"done"}


def test_a_damaged_store_is_written_again(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    tokenize_files([survey], tokenizers, out, registry)
    store = store_path(survey / "one.txt", out)
    store.write_bytes(store.read_bytes()[:-100])
    assert [r.status for r in tokenize_files([survey], tokenizers, out, registry).files] == ["done", "present"]
    TokenStore(store).verify()


def test_a_failing_file_is_reported_and_the_others_go_on(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    (survey / "bad.txt").write_text(LINES + "e 1 2\n")
    (survey / "defect.txt").write_text(LINES + "defect 1 2 3 4\n")
    (survey / "empty.txt").touch()
    report = tokenize_files([survey], tokenizers, out, registry, batch_size=1)
    assert [r.status for r in report.files] == ["failed", "failed", "failed", "done", "done"]
    bad, defect, empty = (r.reason or "" for r in report.failed)
    assert bad == f"{survey / 'bad.txt'}: a line after 4 does not have five words"
    assert "the reader demo_lines of aion-tok-demo 1.0 is at fault" in defect
    assert "KeyError" in defect
    assert "test_pipeline.py, line" in defect
    assert "empty (0 bytes)" in empty
    assert len(names(out)) == 2  # and nothing half-written, hidden names included


def test_a_file_that_fails_keeps_its_earlier_tokens(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    tokenize_files([survey], tokenizers, out, registry)
    (survey / "one.txt").write_text(LINES + "e 1 2\n")
    assert len(tokenize_files([survey], tokenizers, out, registry).failed) == 1
    assert len(TokenStore(store_path(survey / "one.txt", out))) == 4


def test_an_unknown_file_fails_where_it_is_named_and_is_passed_over_in_a_folder(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    (survey / "notes.md").write_text("notes")
    (survey / "zeta.txt").write_text("notes")
    found = tokenize_files([survey], tokenizers, out, registry)
    assert [r.status for r in found.files] == ["not claimed", "done", "done", "not claimed"]
    assert found.failed == ()
    named = tokenize_files([survey, survey / "notes.md"], tokenizers, out, registry)
    assert [r.status for r in named.files] == ["failed", "present", "present", "not claimed"]


def test_modalities_without_a_tokenizer_are_left_out_and_counted(survey: Path, out: Path, registry: Registry) -> None:
    report = tokenize_files([survey], fitted(registry, "demo_y"), out, registry)
    assert report.total("left_out") == {"demo_x": 3}
    assert TokenStore(store_path(survey / "one.txt", out)).space.keys == ("demo_y",)


def test_a_file_without_tokens_leaves_no_store(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    tokenize_files([survey], tokenizers, out, registry)
    (survey / "one.txt").write_text("# lines\na 1 2 - -\n")
    (survey / "none.txt").write_text("# lines\n")
    report = tokenize_files([survey], tokenizers, out, registry)
    assert [r.status for r in report.files] == ["nothing", "nothing", "present"]
    assert "holds no object" in (report.files[0].reason or "")
    assert "none of its objects has a token" in (report.files[1].reason or "")
    assert report.objects == 1
    assert names(out) == [store_path(survey / "other/one.txt", out).name]


def test_a_run_without_any_success_is_an_error_that_says_why(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    (survey / "one.txt").write_text("# lines\na\n")
    with pytest.raises(NothingDoneError, match=r"one\.txt: a line after 0") as failed:
        tokenize_files([survey / "one.txt"], tokenizers, out, registry)
    assert len(failed.value.report.failed) == 1
    with pytest.raises(NothingDoneError, match="no tokenizer for any of demo_x, demo_y"):
        tokenize_files([survey / "other"], TokenizerSet([], registry), out, registry)
    (survey / "hollow").mkdir()
    with pytest.raises(InputError, match="There is no file in"):
        tokenize_files([survey / "hollow"], tokenizers, out, registry)
    with pytest.raises(InputError, match="no such file"):
        tokenize_files([survey / "nowhere"], tokenizers, out, registry)
    with pytest.raises(InputError, match="token stores go into a folder"):
        tokenize_files([survey], tokenizers, survey / "one.txt", registry)


def test_stores_below_the_input_are_not_taken_for_input(
    survey: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    for _ in range(2):
        report = tokenize_files([survey], tokenizers, survey / "tokens", registry)
        assert [r.path.name for r in report.files] == ["one.txt", "one.txt"]


def test_a_store_of_another_file_is_not_replaced(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    tokenize_files([survey], tokenizers, out, registry)
    store_path(survey / "one.txt", out).rename(store_path(survey / "other/one.txt", out))
    report = tokenize_files([survey], tokenizers, out, registry)
    assert [r.status for r in report.files] == ["done", "failed"]
    assert "holds the tokens of" in (report.files[1].reason or "")


def test_progress_tells_files_and_objects(
    survey: Path, out: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    calls: list[tuple[int, int, str, int]] = []
    tokenize_files(
        [survey], tokenizers, out, registry, 3, lambda done, total, path, n: calls.append((done, total, path.name, n))
    )
    one = "one.txt"
    assert calls == [(0, 2, one, 0), (0, 2, one, 3), (0, 2, one, 4), (1, 2, one, 0), (1, 2, one, 1), (2, 2, one, 1)]


def test_describing_counts_without_writing(survey: Path, out: Path, registry: Registry) -> None:
    report = describe_files([survey], registry)
    assert [(r.status, r.reader, r.objects) for r in report.files] == [
        ("readable", "demo_lines", 4),
        ("readable", "demo_lines", 1),
    ]
    assert report.total("modalities") == {"demo_x": 3, "demo_y": 3}
    assert describe_files([survey], registry, keys=["demo_y"]).total("modalities") == {"demo_y": 3}
    assert not out.exists()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of a million objects (60 MB as columns) takes little more at its end than after a tenth of it."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest, numpy as np, test_pipeline as t
from pathlib import Path
from aion_core.data import ObservationBatch, tokenize_files

def read(self, path, batch_size):
    for start in range(0, 1_000_000, 5000):
        ids = np.arange(start, start + 5000).astype(str)
        place = np.random.default_rng(start).uniform(0, 90, 5000)
        yield ObservationBatch(ids, place, place, {{"demo_x": (t.Scalar(place / 90), np.arange(5000))}})

def used():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

sizes = []
t.LinesReader.read = read
registry = t.registry.__wrapped__(conftest.make_spec.__wrapped__())
path = Path("million.txt"); path.write_text("# lines\\n")
sizes = {{}}
tokenize_files([path], t.fitted(registry, "demo_x"), "out", registry, 5000, lambda *a: sizes.setdefault(a[3], used()))
print(sizes[1_000_000] - sizes[100_000])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000  # kB
