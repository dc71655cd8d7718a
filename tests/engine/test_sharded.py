"""Tensors in parts, on disk: any cut is read back whole or by rows, and what is not whole is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.engine.sharded import INFO, Part, SavedTensors, file_name, part_files, staged, write_parts
from aion_core.files import write_safetensors


def write(folder: Path, whole: dict[str, torch.Tensor], cuts: dict[str, list[int]], files: int) -> None:
    """Write tensors as `files` processes would, each of which has the rows between two cuts."""
    for rank in range(files):
        parts = {}
        for name, tensor in whole.items():
            if not tensor.ndim:
                if rank == 0:
                    parts[name] = Part(0, tensor)
                continue
            first, stop = ([0, *cuts[name], len(tensor)][rank + i] for i in (0, 1))
            if stop > first:
                parts[name] = Part(first, tensor[first:stop])
        write_parts(folder / file_name("model", rank, files), parts)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 9), files=st.integers(1, 4), data=st.data())
def test_any_rows_of_any_cut_are_read(tmp_path, rows, files, data) -> None:
    whole = {
        "matrix": torch.arange(rows * 3.0).view(rows, 3),
        "vector": torch.arange(float(rows)),
        "n": torch.tensor(7.0),
    }
    cuts = {name: sorted(data.draw(st.integers(0, rows)) for _ in range(files - 1)) for name in ("matrix", "vector")}
    folder = tmp_path / str(data.draw(st.integers(0, 10**9)))
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    write(folder, whole, cuts, files)
    first = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(first, rows))
    with SavedTensors(folder, "model") as saved:
        assert saved.shapes == {name: tuple(tensor.shape) for name, tensor in whole.items()}
        for name, tensor in whole.items():
            assert torch.equal(saved.read(name), tensor)
            filled = torch.full_like(tensor, -1)
            saved.fill(name, filled)
            assert torch.equal(filled, tensor)
        assert torch.equal(saved.read("matrix", first, stop), whole["matrix"][first:stop])


class TestWhatIsNotWhole:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        write(tmp_path, {"a": torch.arange(8.0).view(4, 2)}, {"a": [1, 2]}, 3)
        return tmp_path

    def test_a_missing_file_is_told(self, folder) -> None:
        (folder / file_name("model", 1, 3)).unlink()
        with pytest.raises(InputError, match=r"has 2 of the 3 files of model\.safetensors"):
            part_files(folder, "model")

    def test_no_file_at_all_is_told(self, folder) -> None:
        with pytest.raises(InputError, match=r"has no of the expected files of optimizer"):
            part_files(folder, "optimizer")

    def test_files_of_two_cuts_do_not_mix(self, folder) -> None:
        write(folder, {"a": torch.zeros(4, 2)}, {"a": [2]}, 2)
        with pytest.raises(InputError, match="not a whole checkpoint"):
            part_files(folder, "model")

    def test_missing_rows_are_told(self, folder) -> None:
        write_parts(folder / file_name("model", 1, 3), {})
        with (
            pytest.raises(InputError, match="the parts of a do not make up a whole tensor"),
            SavedTensors(folder, "model"),
        ):
            pass

    def test_a_cut_off_file_is_told(self, folder) -> None:
        path = folder / file_name("model", 2, 3)
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(InputError, match="not a whole safetensors file"), SavedTensors(folder, "model"):
            pass

    @pytest.mark.parametrize("info", ["{", '{"a": {}}', '{"a": {"saved_offsets": []}}', '{"a": 3}'])
    def test_a_header_that_says_something_else_is_told(self, folder, info) -> None:
        write_safetensors(folder / file_name("model", 2, 3), {"a": torch.zeros(2, 2)}, {INFO: info})
        with pytest.raises(InputError, match="does not say what parts"), SavedTensors(folder, "model"):
            pass

    def test_other_names_or_shapes_than_expected_are_told(self, folder) -> None:
        with SavedTensors(folder, "model") as saved:
            saved.check({"a": (4, 2)}, "the model")
            with pytest.raises(InputError, match=r"a is \(4, 2\) in the file and \(5, 2\) in the model"):
                saved.check({"a": (5, 2)}, "the model")
            with pytest.raises(InputError, match=r"b is missing in the file"):
                saved.check({"a": (4, 2), "b": (1,)}, "the model")


def test_the_same_parts_give_the_same_bytes_in_any_order(tmp_path) -> None:
    parts = {name: Part(1, torch.ones(2)) for name in "abc"}
    for number, names in enumerate(("abc", "cab")):
        write_parts(tmp_path / f"{number}-00001-of-00002.safetensors", {name: parts[name] for name in names})
    one, other = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert one == other
    assert json.loads(one[8 : 8 + int.from_bytes(one[:8], "little")])["__metadata__"].keys() == {INFO}


def test_what_is_staged_does_not_change_with_the_training() -> None:
    tensor = torch.ones(3)
    parts = staged({"a": tensor}, rank=0)
    tensor.zero_()
    assert torch.equal(parts["a"].tensor, torch.ones(3))
    assert staged({"a": tensor}, rank=1) == {}
