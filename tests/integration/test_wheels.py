"""The wheels that ``make dist`` builds: nothing is missing in them, and they install in any order into an empty place.

Nothing is downloaded: third parties are those that are installed here, shown to the new environments by links.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.name for path in ROOT.glob("plugins/aion-tok-*"))
OURS = re.compile(r"(_editable_impl_|__editable__[._])?aion[_-](core|tok)")
SHORT = ("optimizer.steps=1", "optimizer.warmup_steps=0", "data.batch_size=4", "data.split.fraction=0.3",
         "evaluate.objects=4", "evaluate.page=0")  # fmt: skip

pytestmark = pytest.mark.slow


class Environment:
    """A virtual environment with all that is installed here but what is ours."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder, self.wheels = folder, wheels
        venv.create(folder, with_pip=False, symlinks=True)
        third = folder / "third-parties"
        third.mkdir()
        for item in Path(sysconfig.get_paths()["purelib"]).iterdir():
            if not OURS.match(item.name):
                (third / item.name).symlink_to(item)
        site = sysconfig.get_path("purelib", vars={"base": str(folder)})
        Path(site, "third-parties.pth").write_text(f"{third}\n")

    def pip(self, *words: str) -> subprocess.CompletedProcess[str]:
        python = ["--python", str(self.folder / "bin" / "python")]
        options = ["--no-index", "--find-links", str(self.wheels), "--disable-pip-version-check", "-q"]
        return run(sys.executable, "-m", "pip", *python, "install", *options, *words, cwd=self.folder)

    def aion(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(str(self.folder / "bin" / "aion"), *words, cwd=self.folder)

    def plugins(self) -> set[str]:
        """Return the names of the plugins that work; there must be no others."""
        document = json.loads(self.aion("plugins", "--json").stdout)
        assert document["failures"] == []
        return {plugin["name"] for plugin in document["plugins"]}


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "AION_PLUGINS")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """The wheels of the core and of all plugins, built as ``make dist`` builds them, but without a network."""
    folder = tmp_path_factory.mktemp("dist")
    sources = [str(ROOT), *(str(ROOT / "plugins" / name) for name in PLUGINS)]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), *sources, cwd=folder)
    return folder


@pytest.fixture
def empty(tmp_path, wheels) -> Environment:
    return Environment(tmp_path / "environment", wheels)


def test_there_is_a_wheel_of_each_with_its_entry_point(wheels):
    found = {path.name.partition("-")[0].replace("_", "-"): path for path in wheels.glob("*.whl")}
    assert sorted(found) == sorted(["aion-core", *PLUGINS])
    for name in PLUGINS:
        with ZipFile(found[name]) as wheel:
            (points,) = (wheel.read(n).decode() for n in wheel.namelist() if n.endswith("entry_points.txt"))
        assert "[aion.plugins]" in points


def test_the_wheel_of_the_core_has_all_files_that_are_no_code(wheels):
    listed = subprocess.run(["git", "ls-files", "aion_core"], cwd=ROOT, capture_output=True, text=True).stdout
    (path,) = wheels.glob("aion_core-*.whl")
    assert {name for name in listed.split() if not name.endswith(".py")} <= set(ZipFile(path).namelist())


def test_a_plugin_alone_pulls_the_core_and_works(empty):
    empty.pip("aion-tok-desi")
    assert empty.plugins() == {"desi"}
    (simulator,) = json.loads(empty.aion("plugins", "--json").stdout)["simulators"]
    empty.aion("mock", "--objects", "30", "--simulators", simulator["name"], "--out", "mock", "--workers", "1")
    network = ["--preset", "small-spectrum", *(word for setting in SHORT for word in ("--set", setting))]
    empty.aion("tokenizer", "train", "mock", "--modalities", "desi_spectrum", "--out", "tokenizers", *network)
    tokenized = empty.aion(
        "tokenize", f"mock/{simulator['name']}", "--tokenizers", "tokenizers", "--out", "s", "--json"
    )
    files = json.loads(tokenized.stdout)["files"]
    assert sum(file["tokens"].get("desi_spectrum", 0) for file in files) > 273
    empty.aion("plugins", "new", "mine", "--kind", "scalar")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_wheels_install_one_by_one_the_core_first_or_last(place, empty):
    order = ["aion-tok-gaia", "aion-tok-desi"]
    order.insert(place, "aion-core")
    for name in order:
        empty.pip("--no-deps", name)
    assert empty.plugins() == {"gaia", "desi"}


def test_all_together_are_all_that_there_is(empty):
    empty.pip(*reversed(PLUGINS))
    assert empty.plugins() == {name.rpartition("-")[2] for name in PLUGINS}


def test_an_environment_has_nothing_of_ours_before(empty):
    code = "import importlib.util as u; print(u.find_spec('aion_core'), u.find_spec('torch') is None)"
    assert run(str(empty.folder / "bin" / "python"), "-c", code, cwd=empty.folder).stdout.split() == ["None", "False"]
