"""A plugin that is slow, large, or fails when it is used: the core stays up, and says which plugin it is."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from shutil import copytree
from textwrap import dedent, indent

import pytest

from aion_core.cli import main
from aion_core.plugins import load_registry
from aion_core.plugins.discovery import SLOW
from aion_core.plugins.scaffold import scaffold

FAULTS = {
    "raises": "raise RuntimeError('the lamp is out')",
    "outside the vocabulary": "return super()._encode(obs) + 5000",
}


# --- discovery


@pytest.fixture(scope="module")
def heavy(tmp_path_factory, broken) -> Path:
    return broken.build(tmp_path_factory.mktemp("heavy"), broken.HEAVY)


@pytest.fixture(scope="module")
def told(heavy, broken) -> dict:
    return broken.report(heavy)


def test_how_long_each_plugin_took_is_told_also_of_one_that_failed(told):
    seconds = {plugin["name"]: plugin["seconds"] for plugin in told["plugins"]}
    assert seconds["slow"] >= 0.3
    (failure,) = (failure for failure in told["failures"] if failure["plugin"] == "slowbad")
    assert failure["seconds"] >= 0.3
    assert "after all that" in failure["reason"]


def test_a_plugin_with_500_modalities_has_them_all_and_costs_nobody_else_any(told):
    keys = {modality["key"]: modality["plugin"] for modality in told["modalities"]}
    assert sum(plugin == "many" for plugin in keys.values()) == 500
    assert keys.keys() >= load_registry().modalities.keys()


def test_people_are_told_what_every_command_waits_for(heavy, broken):
    done = broken.python(heavy, "-m", "aion_core.cli", "plugins", AION_PLUGINS="slow,slowbad,many")
    _, _, waits = done.stdout.partition("What every command waits for")
    waits = waits.partition("What could not be loaded")[0]
    rows = {line.split()[0]: line for line in waits.splitlines() if line.strip()}
    assert "slow-good 1.0" in rows["slow"]
    assert "slow-bad 1.0" in rows["slowbad"]
    assert SLOW < 0.3
    (row,) = (line for line in done.stdout.splitlines() if "many-keys 1.0" in line and " 500 " in line)
    assert row.split()[0] == "many"


# --- use


@pytest.fixture
def plugin(tmp_path, monkeypatch, broken):
    """Installs the package of a scalar with more methods at the end of a module's last class; returns its simulator."""

    def install(name: str, module: str = "tokenizer", methods: str = "") -> str:
        made = scaffold(name, "scalar", load_registry())
        root = made.write(tmp_path / "source")
        path = root / "src" / made.package / f"{module}.py"
        path.write_text(path.read_text() + indent(dedent(methods), "    "))
        copytree(root / "src" / made.package, tmp_path / "site" / made.package)
        broken.Package(made.distribution, name, value=f"{made.package}.plugin").write(tmp_path / "site")
        monkeypatch.syspath_prepend(tmp_path / "site")
        return made.simulator

    return install


def simulate(folder: Path, *simulators: str) -> None:
    words = ["--simulators", *simulators, "--objects", "30", "--workers", "1"]
    assert main(["mock", *words, "--out", str(folder)]) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tokenizer_that_fails_costs_its_own_files_and_is_named(fault, plugin, tmp_path, capsys, monkeypatch):
    number = list(FAULTS).index(fault)
    bad, good = f"bad{number}", f"good{number}"
    method = f"""
        def _encode(self, obs):
            if FAULTY:
                {FAULTS[fault]}
            return super()._encode(obs)
    """
    simulate(tmp_path / "files", plugin(bad, "tokenizer", method), plugin(good))
    monkeypatch.setattr(import_module(f"aion_tok_{bad}.tokenizer"), "FAULTY", False, raising=False)
    assert main(["tokenizer", "train", str(tmp_path / "files"), "--out", str(tmp_path / "set")]) == 0
    monkeypatch.setattr(import_module(f"aion_tok_{bad}.tokenizer"), "FAULTY", True)
    capsys.readouterr()
    words = ["tokenize", str(tmp_path / "files"), "--tokenizers", str(tmp_path / "set")]
    assert main([*words, "--out", str(tmp_path / "stores"), "--json"]) == 2
    files = {Path(file["path"]).parent.name: file for file in json.loads(capsys.readouterr().out)["files"]}
    assert files[f"{good}_mock"]["status"] == "done"
    assert files[f"{bad}_mock"]["status"] == "failed"
    assert f"{bad}_flux" in files[f"{bad}_mock"]["reason"]
    if "RuntimeError" in FAULTS[fault]:
        told = f"the tokenizer of {bad}_flux of aion-tok-{bad} 1.0 is at fault (tokenizer.py, line"
        assert told in files[f"{bad}_mock"]["reason"]
        assert "the reader" not in files[f"{bad}_mock"]["reason"]
    assert not list((tmp_path / "stores").glob(f"{bad}*"))


def test_a_reader_that_fails_costs_its_own_files_and_is_named(plugin, tmp_path, capsys):
    read = """
        def read(self, path, batch_size):
            raise RuntimeError("the lamp is out")
            yield
    """
    simulate(tmp_path, plugin("badreader", "reader", read), plugin("goodreader"))
    capsys.readouterr()
    files = [str(tmp_path / f"{name}_mock") for name in ("badreader", "goodreader")]
    assert main(["tokenize", *files, "--describe", "--json"]) == 2
    bad, good = json.loads(capsys.readouterr().out)["files"]
    assert "the reader badreader_catalogues of aion-tok-badreader 1.0 is at fault (reader.py, line" in bad["reason"]
    assert "the lamp is out" in bad["reason"]
    assert good["status"] == "readable"


def test_a_simulator_that_fails_is_left_out_and_named(plugin, tmp_path, capsys):
    named = plugin("badsim", "specs", "")
    good = plugin("goodsim")
    path = tmp_path / "site" / "aion_tok_badsim" / "simulator.py"
    path.write_text(path.read_text().replace("return [_field", "return [1 / 0 or _field"))
    words = ["mock", "--simulators", named, good, "--objects", "30", "--workers", "1", "--out", str(tmp_path / "mock")]
    assert main([*words, "--json"]) == 0
    results = {one["name"]: one for one in json.loads(capsys.readouterr().out)["simulators"]}
    assert "ZeroDivisionError" in results[named]["reason"]
    assert (results[good]["files"], results[good]["reason"]) == (1, None)


#: Where a plugin may fail in `aion tokenizer`: module, and what is put at its end, which is in its last class.
DEFECTS = {
    "train: reader": (
        "reader",
        "    def read(self, path, batch_size):\n        raise KeyError('lamp')\n        yield\n",
    ),
    "train: load": ("tokenizer", "raise RuntimeError('lamp')\n"),
    "train: observe": ("tokenizer", "    def observe(self, obs):\n        [][1]\n"),
    "eval: encode": ("tokenizer", "    def _encode(self, obs):\n        1 / 0\n"),
    "eval: reader": ("reader", "    def group(self, path):\n        return (path,)[3]\n"),
}


@pytest.mark.parametrize("place", DEFECTS)
def test_a_plugin_that_fails_while_tokenizers_are_made_or_judged_is_named_in_a_sentence(
    place, plugin, tmp_path, capsys, monkeypatch
):
    verb, number = place.partition(":")[0], list(DEFECTS).index(place)
    module, code = DEFECTS[place]
    name = f"defect{number}"
    simulate(tmp_path / "files", plugin(name))
    words = [str(tmp_path / "files"), "--modalities", f"{name}_flux"]
    path = tmp_path / "site" / f"aion_tok_{name}" / f"{module}.py"
    if verb == "eval":
        assert main(["tokenizer", "train", *words, "--out", str(tmp_path / "set")]) == 0
    path.write_text(path.read_text() + code)
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(f"aion_tok_{name}")]:
        monkeypatch.delitem(sys.modules, loaded)
    capsys.readouterr()
    last = ["--out", str(tmp_path / "none")] if verb == "train" else ["--tokenizers", str(tmp_path / "set")]
    assert main(["tokenizer", verb, *words, *last]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(rf"aion: .* of aion-tok-{name} 1\.0 is at fault \({module}\.py, line \d+\): \w+: ", told)


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("aion_core.cli.plugins.run", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["plugins"])
