"""``aion plugins``: what it prints, and what it must not import."""

from __future__ import annotations

import json

import pytest

from aion_core.cli import main, plugins
from aion_core.plugins import load_registry

HEAVY = ("torch", "numpy", "astropy", "pyarrow")
LOADED = f"print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"


@pytest.mark.parametrize(
    "work",
    [
        "from aion_core.cli import main; main(['plugins'])",
        "from aion_core.cli import main; main(['plugins', '--json'])",
        "from aion_core.plugins import load_registry; load_registry().token_space().to_json()",
        "import aion_core; aion_core.ModalitySpec, aion_core.load_registry",
    ],
)
def test_discovery_imports_nothing_heavy(work, broken, tmp_path):
    done = broken.python(tmp_path, "-c", f"import sys; {work}; {LOADED}")
    assert done.returncode == 0
    assert done.stderr.split() == []


def test_the_check_for_heavy_modules_can_fail(broken, tmp_path):
    done = broken.python(tmp_path, "-c", f"import sys; import aion_core; aion_core.Image; {LOADED}")
    assert "torch" in done.stderr.split()


def test_json_holds_every_spec_whole(capsys):
    assert main(["plugins", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    specs = {modality.pop("key"): modality for modality in document["modalities"]}
    for key, spec in load_registry().modalities.items():
        assert specs[key]["plugin"] == load_registry().origin(key).name
        assert {"key": key} | specs[key] == {"plugin": specs[key]["plugin"]} | spec.model_dump(mode="json")
    assert all(plugin["seconds"] > 0 for plugin in document["plugins"])


def test_the_table_has_a_row_for_every_key(capsys):
    assert main(["plugins"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    for key, spec in load_registry().modalities.items():
        assert spec.quantity in rows[key]
        assert str(spec.vocab_size) in rows[key]
        assert spec.upstream_key is None or spec.upstream_key in rows[key]


def test_an_interrupted_command_promises_finished_files_only(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(plugins, "run", interrupt)
    assert main(["plugins"]) == 130
    assert capsys.readouterr().err == "aion: interrupted; finished files and checkpoints are kept\n"


def test_faults_are_shown_with_exit_code_0(everything, broken):
    done = broken.python(everything, "-m", "aion_core.cli", "plugins")
    assert done.returncode == 0
    assert "What could not be loaded" in done.stdout
    assert "disk on fire" in done.stdout
    assert "\x1b" not in done.stdout  # colours are for terminals


def test_names_select_plugins_keys_and_upstream_keys(capsys):
    specs = [spec for spec in load_registry().modalities.values() if spec.upstream_key]
    whole, single = load_registry().origin(specs[0].key), specs[-1]
    assert main(["plugins", "list", whole.name, single.upstream_key, "--json"]) == 0
    listed = {modality["key"] for modality in json.loads(capsys.readouterr().out)["modalities"]}
    assert listed == {spec.key for spec in whole.modalities} | {single.key}


def test_an_unknown_name_is_refused_with_the_nearest_one(capsys):
    name = load_registry().plugins[0].name
    assert main(["plugins", "list", name + "x"]) == 2
    assert f"Did you mean {name!r}?" in capsys.readouterr().err


def test_json_may_stand_before_or_after_the_verb(capsys):
    for words in (["plugins", "--json", "list"], ["plugins", "list", "--json"]):
        assert main(words) == 0
        json.loads(capsys.readouterr().out)


def test_a_restriction_to_nothing_is_said(broken, tmp_path):
    done = broken.python(tmp_path, "-m", "aion_core.cli", "plugins", AION_PLUGINS="")
    assert done.returncode == 0
    assert done.stdout.strip() == "AION_PLUGINS restricts the plugins to: none"


def test_no_plugin_at_all_is_said_in_a_sentence(capsys, monkeypatch):
    monkeypatch.delenv("AION_PLUGINS", raising=False)
    plugins._show(load_registry([]), set())
    assert "'aion.plugins'" in capsys.readouterr().out
