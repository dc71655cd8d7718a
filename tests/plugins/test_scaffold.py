"""``aion plugins new``: what it writes works, teaches, and is refused where it would be in the way of anybody."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from shutil import copytree

import pytest

from aion_core.cli import main
from aion_core.contract import AionError, provenance_id
from aion_core.data import TokenStore
from aion_core.plugins import load_registry
from aion_core.plugins.scaffold import KINDS, Scaffold, scaffold

ROOT = Path(__file__).parents[2]
#: The kind that is tried in every run; the others are alike, and slow.
QUICK = "scalar"
EACH_KIND = [kind if kind == QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
#: Settings that make the training of a network as short as it can be.
SHORT = {
    "optimizer.steps": 2, "optimizer.warmup_steps": 0, "data.batch_size": 4, "data.split.fraction": 0.3,
    "evaluate.objects": 4, "evaluate.page": 0,
}  # fmt: skip


def write(folder: Path, name: str, kind: str) -> Path:
    assert main(["plugins", "new", name, "--kind", kind, "--path", str(folder)]) == 0
    return folder / f"aion-tok-{name.replace('_', '-')}"


def refusal(capsys, *words: object) -> str:
    assert main(["plugins", "new", *map(str, words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.fixture
def site(tmp_path: Path, broken, monkeypatch) -> Path:
    """A folder that is as good as site-packages: `install` puts a package there."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def install(root: Path, site: Path, broken) -> None:
    (package,) = (root / "src").iterdir()
    copytree(package, site / package.name)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["aion.plugins"].items()
    broken.Package(project["name"], name, value=value).write(site)


# --- what is written


@pytest.mark.parametrize("name", ["ab", "a_survey_of_the_north_24"])
def test_all_kinds_pass_the_houses_linter_whatever_the_name(tmp_path, name):
    for kind in KINDS:
        write(tmp_path / kind, name, kind)
    for verb in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *verb, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
        done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_all_kinds_pass_the_houses_type_checker(tmp_path):
    roots = [write(tmp_path, f"typed{i}", kind) for i, kind in enumerate(KINDS)]
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, *(str(root / "src") for root in roots)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_whole_and_says_what_to_change(kind):
    made = scaffold("mine", kind, load_registry())
    source = PurePosixPath("src", "aion_tok_mine")
    expected = {source / f"{part}.py" for part in ("__init__", "plugin", "specs", "reader", "simulator")}
    assert expected | {PurePosixPath("pyproject.toml"), PurePosixPath("README.md")} < made.files.keys()
    assert {source / "preprocess.py", source / "tokenizer.py"} & made.files.keys()
    assert [path for path in made.files if path.name.startswith("test_")]
    for path, text in made.files.items():
        assert "$" not in text, path
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text)), path
    assert str(provenance_id(f"urn:aion:{made.key}")) in made.files[source / "specs.py"]
    for part in ("specs", "reader", "simulator"):
        assert "CHANGE" in made.files[source / f"{part}.py"], part
    assert made.simulator in made.files[PurePosixPath("README.md")]


def test_the_next_three_commands_are_printed(tmp_path, capsys):
    root = write(tmp_path / "a folder", "mine", "image")
    steps = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert steps == [
        f"pip install --no-deps --no-build-isolation -e '{root}'",
        "aion plugins check mine",
        "aion mock --objects 500 --simulators mine_mock --out mock",
    ]


def test_json_says_the_same(tmp_path, capsys):
    assert main(["plugins", "new", "mine", "--kind", "spectrum", "--path", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    root = tmp_path / "aion-tok-mine"
    assert (found["key"], found["folder"], len(found["next"])) == ("mine_spectrum", str(root), 3)
    assert set(found["files"]) == {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# --- what is refused


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("My-Survey", "Try 'my_survey'"), ("2mass", "Try 'mass'"), ("a__b", "Try 'a_b'"), ("a_", "letter first"),
        ("x", "2 to 24"), ("a" * 25, "2 to 24"), ("überblick", "Try 'berblick'"), ("a b", "Try 'a_b'"),
        ("", "2 to 24"), ("a.b", "Try 'a_b'"), ("../evil", "Try 'evil'"), ("aion", "reserved"), ("tok", "reserved"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_valid_is_refused(tmp_path, capsys, name, hint):
    assert hint in refusal(capsys, name, "--kind", "image", "--path", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused_and_says_by_whom(tmp_path, capsys):
    plugin = load_registry().plugins[0]
    assert plugin.distribution in refusal(capsys, plugin.name, "--kind", "image", "--path", tmp_path)
    nested = next(s.key for p in load_registry().plugins for s in p.modalities if s.key.count("_") > 1)
    said = refusal(capsys, nested.rpartition("_")[0], "--kind", "image", "--path", tmp_path)
    assert repr(nested) in said


def test_a_plugin_that_is_not_selected_or_did_not_load_has_its_name_all_the_same(
    tmp_path, capsys, site, broken, monkeypatch
):
    name = load_registry().plugins[0].name
    broken.Package("bad-taken", "taken", "raise RuntimeError").write(site)
    monkeypatch.setenv("AION_PLUGINS", "")
    for taken in (name, "taken"):
        assert "is taken" in refusal(capsys, taken, "--kind", "image", "--path", tmp_path)


def test_a_key_that_another_plugin_has_is_refused(tmp_path, capsys, site, broken):
    code = broken.hook("return [spec('old_flux', 970, upstream_key='young_flux')]")
    broken.Package("old-one", "old", code).write(site)
    assert "old-one 1.0 has 'young_flux'" in refusal(capsys, "young", "--kind", "scalar", "--path", tmp_path)


def test_a_package_that_is_installed_is_refused(tmp_path, capsys, site):
    (site / "aion_tok_stray").mkdir()
    (site / "aion_tok_stray" / "__init__.py").touch()
    assert "aion_tok_stray is installed" in refusal(capsys, "stray", "--kind", "scalar", "--path", tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_exists_is_left_alone(tmp_path, capsys, make):
    make(tmp_path / "aion-tok-mine")
    assert "exists" in refusal(capsys, "mine", "--kind", "image", "--path", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["aion-tok-mine"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    said = refusal(capsys, "mine", "--kind", "image", "--path", tmp_path / "file" / "below")
    assert f"{tmp_path / 'file'} is no folder" in said


def test_a_package_is_written_whole_or_not_at_all(tmp_path):
    files = {PurePosixPath("a.py"): "", PurePosixPath("b\0.py"): ""}
    made = Scaffold("mine", "image", "mine_image", "aion-tok-mine", "aion_tok_mine", "mine_mock", files)
    with pytest.raises(ValueError, match="null"):
        made.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_kind_without_a_template_is_refused():
    with pytest.raises(AionError, match="choose one of image, spectrum, coefficients, scalar, scalar_field"):
        scaffold("mine", "other", load_registry())


# --- what it does


@pytest.mark.parametrize("kind", EACH_KIND)
def test_a_package_is_discovered_simulates_reads_and_tokenizes(kind, tmp_path, site, broken, capsys):
    name = f"made{kind.replace('_', '')}"
    install(write(tmp_path, name, kind), site, broken)
    registry = load_registry()
    key = f"{name}_{KINDS[kind].noun}"
    assert registry.resolve(key).kind == kind
    assert [failure for failure in registry.failures if failure.plugin == name] == []
    mock, tokenizers, stores = (str(tmp_path / part) for part in ("mock", "tokenizers", "stores"))
    simulated = ["mock", "--objects", "40", "--simulators", f"{name}_mock", "--out", mock, "--workers", "1"]
    recipe = KINDS[kind].recipe.split()
    settings = [word for n, v in SHORT.items() for word in ("--set", f"{n}={v}")] if recipe else []
    assert main(simulated) == 0
    assert main(["tokenizer", "train", f"{mock}/{name}_mock", "--out", tokenizers, *recipe, *settings]) == 0
    assert main(["tokenize", f"{mock}/{name}_mock", "--tokenizers", tokenizers, "--out", stores]) == 0
    capsys.readouterr()
    (path,) = Path(stores).glob("*.arrow")
    store = TokenStore(path)
    assert store.space.keys == (key,)
    assert len(store.column(key).drop_null()) > 10


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with a package of each kind, and ``site`` below it, where pip has installed them all."""
    folder = tmp_path_factory.mktemp("installed")
    roots = [write(folder, f"own{kind.replace('_', '')}", kind) for kind in KINDS]
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(folder / "site")]
    done = subprocess.run([*command, *map(str, roots)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_package_that_pip_has_installed_passes_its_own_tests(kind, installed, broken):
    tests = installed / f"aion-tok-own{kind.replace('_', '')}" / "tests"
    options = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tests.parent)]
    done = broken.python(installed / "site", "-m", "pytest", *options, str(tests))
    assert done.returncode == 0, done.stdout
