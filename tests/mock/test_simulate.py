"""Observing the mock sky with simulators, and what is said of those that fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from aion_core.cli import main
from aion_core.contract import InputError, SimulatorSpec
from aion_core.mock import FIELD, draw, generator
from aion_core.mock import simulate as module
from aion_core.mock.simulate import choose, simulate


def spec(name, cls):
    return SimulatorSpec(name=name, modalities=("x_y",), simulator=f"{module.__name__}:{cls}")


class Listing:
    """Writes the number of the objects, and of a random draw, into a file."""

    def observe(self, objects, folder, rng):
        path = folder / f"{int(objects.field[0])}.json"
        path.write_text(json.dumps([len(objects), int(rng.integers(1 << 30))]))
        return [path]


class Failing:
    def observe(self, objects, folder, rng):
        if objects.field[0] == 1:
            raise ValueError("no such filter")
        return Listing().observe(objects, folder, rng)


class FullDisk:
    def observe(self, objects, folder, rng):
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def simulators(monkeypatch):
    for cls in (Listing, Failing, FullDisk):
        monkeypatch.setattr(module, cls.__name__, cls, raising=False)


def test_every_field_is_observed_and_its_truth_written(tmp_path):
    seen = []
    report = simulate([spec("a", "Listing")], FIELD + 3, tmp_path, 4, callback=lambda *at: seen.append(at))
    assert [json.loads((tmp_path / "a" / f"{k}.json").read_text())[0] for k in (0, 1)] == [FIELD, 3]
    assert seen == [(FIELD, FIELD + 3), (FIELD + 3, FIELD + 3)]
    truth = [Table.read(path) for path in report.truth]
    assert sum(map(len, truth)) == report.objects == FIELD + 3
    np.testing.assert_array_equal(truth[1]["object_id"], draw(4, FIELD, 3).object_id)


def test_an_observation_does_not_depend_on_what_else_is_observed(tmp_path):
    simulate([spec("a", "Listing")], FIELD, tmp_path / "short")
    simulate([spec("b", "Listing"), spec("a", "Listing")], 2 * FIELD, tmp_path / "long")
    first, again = ((tmp_path / k / "a" / "0.json").read_text() for k in ("short", "long"))
    assert first == again
    assert (tmp_path / "long" / "b" / "0.json").read_text() != first
    assert (tmp_path / "long" / "a" / "1.json").read_text() != first


def test_a_simulator_that_fails_is_left_out_from_there_on_and_said_so(tmp_path):
    report = simulate([spec("bad", "Failing"), spec("good", "Listing")], 3 * FIELD, tmp_path)
    bad, good = report.simulators
    assert bad.reason == "ValueError: no such filter (field 1)"
    assert (bad.files, good.files) == (1, 3)
    assert good.reason is None
    assert report.objects == 3 * FIELD


def test_a_simulator_that_cannot_be_imported_is_left_out(tmp_path):
    missing = SimulatorSpec(name="gone", modalities=("x_y",), simulator="no_such_package.simulator:Gone")
    report = simulate([missing, spec("good", "Listing")], 10, tmp_path)
    assert "no_such_package" in report.simulators[0].reason
    assert report.simulators[1].files == 1


def test_a_full_disk_ends_the_run_with_a_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written to \\(No space left"):
        simulate([spec("a", "FullDisk")], 10, tmp_path)


def test_no_objects_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected one or more"):
        simulate([spec("a", "Listing")], 0, tmp_path)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        simulate([spec("a", "Listing")], 5, tmp_path / "file" / "below")


def test_an_unknown_simulator_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="desi_brick"):
        choose([spec("desi_brick", "Listing")], ["desi_bick"])
    with pytest.raises(InputError, match="No installed plugin has a simulator"):
        choose([], None)
    assert [s.name for s in choose([spec("a", "Listing"), spec("b", "Listing")], ["b"])] == ["b"]


def test_processes_write_what_one_process_writes(tmp_path):
    from aion_core.plugins import load_registry

    one = [s for s in load_registry().simulators if s.name.startswith("catalog")]
    assert one
    for workers in (1, 2):
        simulate(one, FIELD + 20, tmp_path / str(workers), 9, workers)
    files = [sorted(p.relative_to(tmp_path / k) for p in (tmp_path / k).rglob("*.fits")) for k in ("1", "2")]
    assert files[0] == files[1] != []
    assert all((tmp_path / "1" / f).read_bytes() == (tmp_path / "2" / f).read_bytes() for f in files[0])


def test_generators_of_different_keys_are_unrelated():
    draws = {generator("a", 1, k).integers(1 << 60) for k in range(100)} | {
        generator("a1", k).integers(1 << 60) for k in range(100)
    }
    assert len(draws) == 200
    assert generator("a", 1).integers(1 << 60) == generator("a", 1).integers(1 << 60)


def test_the_command_writes_files_and_reports_them(tmp_path, capsys):
    words = ["mock", "--objects", "30", "--out", str(tmp_path), "--simulators", "catalog_compilation", "--workers", "1"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["objects"] == 30
    assert document["simulators"] == [{"name": "catalog_compilation", "files": 3, "reason": None}]
    assert all(Path(path).is_file() for path in document["truth"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objects", "0"], "expected one or more"),
        (["--objects", "10", "--simulators", "catalog_complation"], "catalog_compilation"),
        (["--objects", "10", "--seed", "-4"], "seed"),
    ],
)
def test_the_command_refuses_bad_input_with_a_sentence(tmp_path, capsys, words, said):
    assert main(["mock", "--out", str(tmp_path), "--workers", "1", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
