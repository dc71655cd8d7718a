"""Files read together, readers' options, and objects that are skipped: from the reader to the store and back.

The survey of this test writes one file per band, ``<field>-<band>.band`` of lines ``id value``, of which ``x`` leads; a
file ``<field>.note`` may lie beside them. A value that is no number makes its object one that cannot be read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from aion_core.contract import AionError, InputError, ModalitySpec, ReaderSpec
from aion_core.contract.modality import Frozen, TokenizerSpec
from aion_core.data import ObservationBatch, Reader, Skipped, TokenStore, find_reader, tokenize_files
from aion_core.data.files import OptionsError, check_options, read_options
from aion_core.data.pipeline import describe_files, store_path
from aion_core.data.results import NAMED, NothingDoneError, SkipReport
from aion_core.data.survey_files import SurveyFiles
from aion_core.observations import Scalar
from aion_core.plugins import LoadedPlugin, Registry
from aion_core.tokenizers import TokenizerSet, build_tokenizer

HERE = "readers_of_test_groups"


class BandOptions(Frozen):
    scale: float = 1.0
    words: tuple[str, ...] = ()


class BandReader(Reader):
    Options = BandOptions

    def group(self, path: Path) -> tuple[Path, ...]:
        field = path.name.split("-")[0]
        beside = path.with_name(f"{field}.note")
        bands = sorted(path.parent.glob(f"{field}-*.band"), key=lambda p: (not p.stem.endswith("x"), p.name))
        return (*bands, *([beside] if beside.exists() else []))

    def claims(self, path: Path) -> bool:
        return path.read_text().startswith("band")

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        bands = [member for member in self.group(path) if member.suffix == ".band"]
        rows = [[line.split() for line in band.read_text().splitlines()[1:]] for band in bands]
        for start in range(0, len(rows[0]), batch_size):
            objects = range(start, min(start + batch_size, len(rows[0])))
            good = [i for i in objects if rows[0][i][1].replace(".", "").isdigit()]
            lost = tuple(Skipped(f"row {i + 1}", f"{rows[0][i][1]!r} is no number") for i in objects if i not in good)
            data = {}
            for key, lines in zip(("demo_x", "demo_y"), rows, strict=False):
                values = [float(lines[i][1]) * self.options.scale for i in good]
                data[key] = (Scalar(values), np.arange(len(good)))
            ids, nowhere = np.array([rows[0][i][0] for i in good], str), np.full(len(good), np.nan)
            yield ObservationBatch(ids, nowhere, nowhere, data, lost)


@pytest.fixture
def registry(make_spec: Callable[..., ModalitySpec]) -> Registry:
    sys.modules.setdefault(HERE, sys.modules[__name__])
    table = TokenizerSpec(path="aion_core.tokenizers.scalar:QuantileTokenizer")
    specs = tuple(make_spec(key, 16, (1,), "scalar", tokenizer=table) for key in ("demo_x", "demo_y"))
    keys = tuple(spec.key for spec in specs)
    reader = ReaderSpec(
        name="demo_bands", title="bands", patterns=("*.band",), reader=f"{HERE}:BandReader", modalities=keys
    )
    plugin = LoadedPlugin("demo", "aion-tok-demo", "1.0", 0.0, specs, (reader,))
    return Registry(MappingProxyType(dict(zip(keys, specs, strict=True))), (reader,), (), (plugin,), ())


@pytest.fixture
def tokenizers(registry: Registry) -> TokenizerSet:
    fitted = []
    for key in ("demo_x", "demo_y"):
        tokenizer = build_tokenizer(registry.resolve(key))
        tokenizer.observe(Scalar(torch.linspace(0, 10, 500)))  # type: ignore[operator]
        tokenizer.finish()  # type: ignore[operator]
        fitted.append(tokenizer)
    return TokenizerSet(fitted, registry)


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    folder = tmp_path / "survey"
    folder.mkdir()
    (folder / "field-a.band").write_text("band a\nstar 5.0\ngalaxy 6.0\n")
    (folder / "field-x.band").write_text("band x\nstar 1.0\ngalaxy 2.0\n")
    (folder / "field.note").write_text("clouds")
    return folder


def states(report: object) -> dict[str, str]:
    return {result.path.name: result.status for result in report.files}  # type: ignore[attr-defined]


def test_a_group_is_read_once_under_its_first_file(
    survey: Path, tmp_path: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    report = tokenize_files([survey], tokenizers, tmp_path / "out", registry)
    assert states(report) == {"field-a.band": "part", "field-x.band": "done", "field.note": "part"}
    lead = survey / "field-x.band"
    assert all(f"read together with {lead}" in (r.reason or "") for r in report.files if r.status == "part")
    (store,) = TokenStore.open(tmp_path / "out")
    assert store.path == store_path(lead, tmp_path / "out")
    assert report.objects == len(store) == 2
    assert report.total("modalities") == {"demo_x": 2, "demo_y": 2}
    assert report.failed == ()


@pytest.mark.parametrize("describing", [True, False])
def test_naming_a_companion_reads_the_file_that_leads(
    survey: Path, tmp_path: Path, registry: Registry, tokenizers: TokenizerSet, describing: bool
) -> None:
    named = [survey / "field-a.band"]
    if describing:
        report = describe_files(named, registry)
    else:
        report = tokenize_files(named, tokenizers, tmp_path / "out", registry)
    assert states(report) == {"field-a.band": "part", "field-x.band": "readable" if describing else "done"}
    assert report.objects == 2
    assert report.files[1].group == tuple(survey / n for n in ("field-x.band", "field-a.band", "field.note"))


def test_however_many_companions_are_met_first_the_group_is_read_once(
    survey: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (survey / "field-b.band").write_text("band b\n")
    read, calls = BandReader.read, []
    monkeypatch.setattr(BandReader, "read", lambda *words: calls.append(words[1]) or read(*words))
    report = describe_files([survey], registry)
    assert calls == [survey / "field-x.band"]
    assert list(states(report).values()) == ["part", "part", "readable", "part"]


def test_files_of_an_unreadable_group_fail_once_under_the_first(survey: Path, registry: Registry) -> None:
    (survey / "field-x.band").write_text("band x\nstar\n")
    (survey / "other-x.band").write_text("band x\nstar 1.0\n")
    report = describe_files([survey], registry)
    assert states(report) == {
        "field-a.band": "part",
        "field-x.band": "failed",
        "field.note": "not claimed",
        "other-x.band": "readable",
    }
    assert "field-x.band: the reader demo_bands of aion-tok-demo 1.0 is at fault" in (report.failed[0].reason or "")


@pytest.mark.parametrize("name", ["field-a.band", "field-x.band", "field.note"])
def test_a_change_in_any_file_of_the_group_counts(
    survey: Path, tmp_path: Path, registry: Registry, tokenizers: TokenizerSet, name: str
) -> None:
    def run() -> str:
        return states(tokenize_files([survey], tokenizers, tmp_path / "out", registry))["field-x.band"]

    assert [run(), run()] == ["done", "present"]
    os.utime(survey / name, ns=(1, 1))
    assert [run(), run()] == ["done", "present"]
    (survey / "field-b.band").write_text("band b\n")
    assert [run(), run()] == ["done", "present"]


def test_other_options_count_as_a_change_and_defaults_do_not(
    survey: Path, tmp_path: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    def run(**options: object) -> tuple[str, list[int]]:
        report = tokenize_files(
            [survey], tokenizers, tmp_path / "out", registry, options={"demo_bands": options} if options else None
        )
        (store,) = TokenStore.open(tmp_path / "out")
        return states(report)["field-x.band"], store.tokens([0, 1])["demo_x"][:, 0].tolist()

    assert run()[0] == "done"
    assert run(scale=1.0)[0] == "present"
    state, doubled = run(scale=2.0)
    assert state == "done"
    assert doubled == tokenizers["demo_x"].encode(Scalar([2.0, 4.0]))[:, 0].tolist()
    assert run(scale=2.0)[0] == "present"


def test_skipped_objects_are_counted_named_and_remembered(
    survey: Path, tmp_path: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    lines = [f"star{i} {'nine' if i % 3 == 0 else i}" for i in range(1, 11)]
    for band in "ax":
        (survey / f"field-{band}.band").write_text("\n".join(["band", *lines]))
    expected = SkipReport(3, tuple(Skipped(f"row {i}", "'nine' is no number") for i in (3, 6, 9)))
    for status in ("done", "present"):
        report = tokenize_files([survey], tokenizers, tmp_path / "out", registry, batch_size=4)
        (result,) = (r for r in report.files if r.status == status)
        assert result.skipped == expected
        assert (report.objects, report.skipped) == (7, 3)
    (result,) = (r for r in describe_files([survey], registry, batch_size=2).files if r.status == "readable")
    assert result.skipped == expected


def test_a_file_of_skipped_objects_only_says_so(survey: Path, registry: Registry) -> None:
    (survey / "field-x.band").write_text("band\nstar one\ngalaxy two\n")
    with pytest.raises(NothingDoneError, match="none of its 2 objects can be read; the first, row 1: 'one' is no num"):
        describe_files([survey], registry)


def test_few_of_many_skipped_objects_are_named() -> None:
    report = SkipReport()
    for start in range(0, 1000, 10):
        report += (Skipped(f"row {i}", "it is late") for i in range(start, start + 10))
    assert report.count == 1000
    assert [one.name for one in report.named] == [f"row {i}" for i in range(NAMED)]
    assert SkipReport.from_json(report.to_json()) == report


def test_skipped_objects_told_at_once_count_as_many() -> None:
    report = SkipReport()
    report += (Skipped("12 rows of a table", "off the image", 12), Skipped("row 3", "it has no position"))
    assert report.count == 13
    assert SkipReport.from_json(report.to_json()) == report


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[demo_band]\nscale = 2", "there is no reader 'demo_band'. Did you mean 'demo_bands'?"),
        ("[demo_bands]\nscal = 2", "there is no setting 'scal'. Did you mean 'scale'? Options of this reader: scale"),
        ("[demo_bands]\nscale = 'big'", "scale: Input should be a valid number"),
        ("demo_bands = 3", "is not a section"),
        ("[demo_bands", "is not valid TOML"),
    ],
)
def test_wrong_options_are_the_users_error(tmp_path: Path, registry: Registry, text: str, message: str) -> None:
    path = write(tmp_path / "readers.toml", text)
    with pytest.raises(AionError, match=r"readers\.toml") as refused:
        read_options(path, registry)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_wrong_options_stop_a_run_before_it_begins(
    survey: Path, tmp_path: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    wrong = {"demo_bands": {"scal": 2.0}}
    with pytest.raises(OptionsError):
        find_reader(survey / "field-x.band", registry, wrong)
    with pytest.raises(OptionsError):
        tokenize_files([survey], tokenizers, tmp_path / "out", registry, options=wrong)
    with pytest.raises(OptionsError):
        SurveyFiles([survey], registry, options=wrong)
    with pytest.raises(OptionsError, match="Installed readers: demo_bands"):
        check_options({"stranger": {}}, registry)


def test_training_reads_each_group_once_and_remembers_what_was_lost(survey: Path, registry: Registry) -> None:
    (survey / "field-x.band").write_text("band\nstar one\ngalaxy 2.0\n")
    for paths in ([survey], [survey / "field-a.band"], [survey / "field-a.band", survey / "field-x.band"]):
        files = SurveyFiles(paths, registry, options={"demo_bands": {"scale": 3.0}})
        seen: list[tuple[str, list[float]]] = []
        files.visit(lambda key, obs, seen=seen: seen.append((key, obs.value.tolist())))  # type: ignore[misc]
        assert seen == [("demo_x", [6.0]), ("demo_y", [18.0])]
        assert files.lost == {str(survey / "field-x.band"): SkipReport(1, (Skipped("row 1", "'one' is no number"),))}
        assert files.skipped == []


def test_the_store_says_which_files_and_options_it_was_made_of(
    survey: Path, tmp_path: Path, registry: Registry, tokenizers: TokenizerSet
) -> None:
    tokenize_files([survey], tokenizers, tmp_path / "out", registry, options={"demo_bands": {"words": ["a"]}})
    (store,) = TokenStore.open(tmp_path / "out")
    made_of = json.loads(store.metadata["aion_source"])
    assert [Path(path).name for path, _, _ in made_of["files"]] == ["field-x.band", "field-a.band", "field.note"]
    assert made_of["options"] == {"scale": 1.0, "words": ["a"]}


def test_a_reader_that_fails_on_a_group_is_no_reason_to_lose_the_next(survey: Path, registry: Registry) -> None:
    (survey / "gone-x.band").symlink_to(survey / "nowhere")
    with pytest.raises(InputError, match="no such file"):
        describe_files([survey / "gone-x.band"], registry)
    assert describe_files([survey], registry).objects == 2
