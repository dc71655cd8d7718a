"""Which files there are, and who reads them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from aion_core.contract import InputError, ReaderSpec
from aion_core.data import ObservationBatch, Reader, find_files, find_reader, sample_files
from aion_core.data.files import HintError, NotClaimedError
from aion_core.plugins import Failure, LoadedPlugin, Registry


class HeadReader(Reader):
    """Claims files that begin with its word."""

    word = ""

    def claims(self, path: Path) -> bool:
        return path.read_text().startswith(self.word)

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        yield from ()


class Alpha(HeadReader):
    word = "alpha"


class Any(HeadReader):
    word = "a"


class Broken(HeadReader):
    def claims(self, path: Path) -> bool:
        raise RuntimeError("its author forgot something")


class Hinting(HeadReader):
    def claims(self, path: Path) -> bool:
        raise HintError(f"{path}: name its columns.")


class Knowing(HeadReader):
    def claims(self, path: Path) -> bool:
        raise NotClaimedError(f"{path}: this is a log; give the table that it belongs to.")


def spec(name: str, *patterns: str, reader: str | None = None, samples: tuple[str, ...] = ()) -> ReaderSpec:
    sys.modules.setdefault("readers_of_test_files", sys.modules[__name__])
    path = reader or f"readers_of_test_files:{name.capitalize()}"
    return ReaderSpec(name=name, title=name, patterns=patterns, reader=path, modalities=("demo_x",), samples=samples)


def registry(*specs: ReaderSpec) -> Registry:
    plugin = LoadedPlugin("demo", "aion-tok-demo", "1.2", 0.0, (), specs)
    return Registry(MappingProxyType({}), specs, (), (plugin,), ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "sub/c.dat", ".hidden", ".git/config", "sub/.x/y"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("alpha")
    return tmp_path


def test_folders_are_searched_without_hidden_files(folder: Path) -> None:
    assert find_files([folder]) == [folder / "a.txt", folder / "b.txt", folder / "sub/c.dat"]


def test_a_file_named_twice_is_found_once_and_a_hidden_one_when_named(folder: Path) -> None:
    found = find_files([folder / "sub", str(folder / "sub/c.dat"), folder / ".hidden"])
    assert found == [folder / ".hidden", folder / "sub/c.dat"]


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "d.txt").touch()
    (folder / "linked").symlink_to(other)
    (other / "back").symlink_to(folder)
    (folder / "broken").symlink_to(folder / "nowhere")
    names = [path.name for path in find_files([folder])]
    assert sorted(names) == ["a.txt", "b.txt", "c.dat", "d.txt"]


def test_a_missing_path_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        find_files([folder, folder / "nowhere"])


def test_the_one_reader_that_claims_a_file_is_returned(folder: Path) -> None:
    found, reader = find_reader(folder / "a.txt", registry(spec("alpha", "*.TXT"), spec("any", "*.dat")))
    assert found.name == "alpha"
    assert isinstance(reader, Alpha)


def test_a_file_that_nobody_claims_tells_who_was_asked(folder: Path) -> None:
    (folder / "a.txt").write_text("omega")
    with pytest.raises(NotClaimedError, match="asked: alpha, any"):
        find_reader(folder / "a.txt", registry(spec("alpha", "*.txt"), spec("any", "a*")))
    with pytest.raises(NotClaimedError, match=r"no installed reader takes a file of this name .*alpha"):
        find_reader(folder / "a.txt", registry(spec("alpha", "*.fits", "*.csv")))
    with pytest.raises(NotClaimedError, match="no reader is installed"):
        find_reader(folder / "a.txt", registry())


def test_a_file_that_nobody_claims_tells_which_plugins_could_not_be_loaded(folder: Path) -> None:
    failure = Failure("broken", ("aion-tok-broken 1",), "import", "no module")
    partial = replace(registry(spec("alpha", "*.fits")), failures=(failure, failure))
    with pytest.raises(NotClaimedError, match=r"see `aion plugins`: broken\."):
        find_reader(folder / "a.txt", partial)


def test_a_file_that_two_claim_is_an_error_with_both_names(folder: Path) -> None:
    with pytest.raises(InputError, match="alpha and any both claim"):
        find_reader(folder / "a.txt", registry(spec("alpha", "*.txt"), spec("any", "*.txt")))


def test_empty_and_missing_files_have_their_own_sentence(folder: Path) -> None:
    (folder / "a.txt").write_text("")
    with pytest.raises(InputError, match="empty") as refused:
        find_reader(folder / "a.txt", registry(spec("alpha", "*.txt")))
    assert not isinstance(refused.value, NotClaimedError)
    with pytest.raises(NotClaimedError, match="empty"):  # a marker beside the data, by its name none of the survey's
        find_reader(folder / "a.txt", registry(spec("alpha", "*.fits")))
    with pytest.raises(InputError, match="no such file"):
        find_reader(folder / "z.txt", registry(spec("alpha", "*.txt")))
    with pytest.raises(InputError, match="not a file"):
        find_reader(folder, registry(spec("alpha", "*")))


@pytest.mark.parametrize("reader", [None, "no_such_module:Broken", "readers_of_test_files:Absent"])
def test_a_faulty_reader_is_named_and_harms_no_other(folder: Path, reader: str | None) -> None:
    broken = spec("broken", "*.txt", reader=reader)
    with pytest.raises(NotClaimedError, match=r"reader broken of aion-tok-demo 1\.2 is at fault"):
        find_reader(folder / "a.txt", registry(broken))
    with pytest.warns(RuntimeWarning, match=r"broken of aion-tok-demo 1\.2 is at fault"):
        found, _ = find_reader(folder / "a.txt", registry(broken, spec("alpha", "*.txt")))
    assert found.name == "alpha"


def test_a_reader_may_say_why_there_is_nothing_to_read(folder: Path) -> None:
    knowing = spec("knowing", "*.txt")
    with pytest.raises(NotClaimedError, match=r"a\.txt: this is a log; give the table that it belongs to\.$"):
        find_reader(folder / "a.txt", registry(knowing, spec("demo", "*.dat")))
    assert find_reader(folder / "a.txt", registry(knowing, spec("alpha", "*.txt")))[0].name == "alpha"


def test_a_hint_is_given_where_no_reader_knows_more(folder: Path) -> None:
    hinting, knowing = spec("hinting", "*.txt"), spec("knowing", "*.txt")
    with pytest.raises(NotClaimedError, match=r"^\S*a\.txt: name its columns\.$"):
        find_reader(folder / "a.txt", registry(hinting))
    with pytest.raises(NotClaimedError, match=r"^\S*a\.txt: this is a log"):
        find_reader(folder / "a.txt", registry(hinting, knowing))


def test_samples_are_found_where_their_package_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "carrier/tests/data").mkdir(parents=True)
    (tmp_path / "carrier/tests/data/real.fits").touch()
    (tmp_path / "carrier/__init__.py").write_text("raise RuntimeError('looking for a file imports nothing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = (
        "carrier:tests/data/real.fits",
        "carrier.tests:data/real.fits",
        "carrier:absent",
        "no_such_package:a",
        "no_such.deeper:a",
    )
    assert sample_files(registry(spec("alpha", "*", samples=names))) == [tmp_path / "carrier/tests/data/real.fits"]


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, aion_core.data, aion_core.data.files, aion_core.data.masking; "
        "print(sys.modules.keys() & {'torch', 'pyarrow', 'astropy', 'numba'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
