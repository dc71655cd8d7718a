"""`replacing` after a crash: what a killed process left behind neither blocks nor loses anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aion_core.files import read_safetensors, replacing, write_json, write_safetensors


def put(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / name).write_text(name)
    return folder


def write_set(path: Path, name: str) -> None:
    with replacing(path) as temporary:
        put(temporary, name)


def held(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["set", "a.json"])
def test_a_temporary_that_was_left_is_cleared_whatever_it_is(tmp_path: Path, name: str) -> None:
    put(tmp_path / f".{name}.{os.getpid()}.tmp", "torn")
    if name == "set":
        write_set(tmp_path / name, "new")
        assert held(tmp_path) == ["set", "set/new"]
    else:
        write_json(tmp_path / name, 1)
        assert held(tmp_path) == [name]


CRASH = """
import os, sys
from pathlib import Path
from aion_core.files import replacing

rename = Path.rename
Path.rename = lambda self, target: os._exit(9) if self.name.endswith(".tmp") else rename(self, target)
with replacing(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
"""


def crash_between_the_renames(path: Path) -> None:
    """Let another process set the folder aside, and die before the new one has its name."""
    assert subprocess.run([sys.executable, "-c", CRASH, str(path)]).returncode == 9
    assert not path.exists()


def test_a_folder_set_aside_by_any_process_comes_back(tmp_path: Path) -> None:
    path = put(tmp_path / "set", "old")
    crash_between_the_renames(path)
    with pytest.raises(RuntimeError), replacing(path):
        raise RuntimeError
    assert held(path) == ["old"]


def test_a_folder_set_aside_by_any_process_is_no_obstacle(tmp_path: Path) -> None:
    path = put(tmp_path / "set", "old")
    crash_between_the_renames(path)
    write_set(path, "second")
    assert held(path) == ["second"]
    assert not list(tmp_path.glob("*.old"))


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = put(tmp_path / "set", "old"), Path.rename

    def fail(source: Path, target: Path) -> Path:
        if source.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_set(path, "new")
    assert held(tmp_path) == ["set", "set/old"]


def test_a_link_to_a_folder_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    real = put(tmp_path / "real", "kept")
    (tmp_path / "set").symlink_to(real)
    for name in ("first", "second"):
        write_set(tmp_path / "set", name)
    assert held(tmp_path) == ["real", "real/kept", "set", "set/second"]


def test_what_was_set_aside_for_another_name_is_left_alone(tmp_path: Path) -> None:
    for name in (".sets.old", ".set.old.bak", ".set.x.old"):
        put(tmp_path / name, "other")
    write_set(tmp_path / "set", "new")
    assert held(tmp_path / "set") == ["new"]
    assert len(list(tmp_path.glob(".set*"))) == 3


def test_a_file_without_tensors_is_read_back(tmp_path):
    write_safetensors(tmp_path / "none.safetensors", {}, {})
    assert read_safetensors(tmp_path / "none.safetensors") == ({}, {})
