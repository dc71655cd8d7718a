"""Rules of the house that no single file can break unseen: who imports whom, what the core may not name, how long.

Each rule is a function over text, and each has a test that shows it a text which breaks it.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import aion_core
from aion_core.cli import VERBS
from aion_core.plugins import Registry, load_registry

ROOT = Path(__file__).parents[1]
CORE = ROOT / "aion_core"

# Who may import whom (DESIGN section 2), room by room; "data.batches" is that module only.
BASE = {"contract", "files"}
GROUND = BASE | {"plugins", "observations", "hub", "release", "engine"}
DATA = GROUND | {"tokenizers", "data"}
MODEL = BASE | {"plugins", "hub", "release", "data.batches", "model"}
MODEL |= {"engine.device", "engine.initialise", "engine.sharded"}
ALLOWED: dict[str, set[str]] = {
    "contract": set(),
    "files": {"contract"},
    "plugins": BASE,
    "observations": BASE,
    "hub": BASE,
    "release": BASE | {"hub"},
    "engine": BASE | {"hub"},
    "tokenizers": GROUND,
    "data": GROUND | {"tokenizers"},
    "model": MODEL,
    "train": DATA | MODEL,
    "mock": DATA,
    "testing": DATA | {"mock"},
    "evaluate": DATA | MODEL,
    "cli": {"contract", "files", "train", "mock", "testing", "evaluate"} | DATA | MODEL,
}
PLUGINS_MAY = {"contract", "plugins", "observations", "tokenizers", "data", "mock", "testing"}

#: Ordinary words among the names of plugins, surveys and release codecs: only the keys made of them are names.
ORDINARY = {"and", "catalog", "dec", "image", "legacy", "parallax", "ra", "spectrum", "surveys", "z"}


def imports(source: str, package: str = "") -> set[str]:
    """Return the dotted names that a source imports anywhere: at module level, in functions, for types only.

    ``from a import b`` gives ``a.b``. A public name of `aion_core` gives its home. Relative ones are made absolute.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                home = aion_core._HOME.get(alias.name) if base == "aion_core" else None
                found.add(home or f"{base}.{alias.name}")
    return found


def targets(source: str, package: str = "") -> set[str]:
    """Return what a source imports of `aion_core`, without that prefix: ``data.batches.TokenBatch``."""
    own = {name for name in imports(source, package) if name.startswith("aion_core.")}
    return {name.removeprefix("aion_core.") for name in own if name != "aion_core.__version__"}


def room(name: str) -> str:
    return name.partition(".")[0]


def within(target: str, allowed: Iterable[str]) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in allowed)


def layer_faults(home: str, wanted: set[str]) -> list[str]:
    """Return the imports that a room may not make."""
    return [f"{home} imports {t}" for t in sorted(wanted) if room(t) != home and not within(t, ALLOWED[home])]


def core_sources() -> Iterator[tuple[str, str, Path]]:
    """Yield room, package and path of every module of the core, the root itself left out."""
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(CORE).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], ".".join(("aion_core", *parts[:-1])), path


# --- import layers


def test_rooms_import_only_the_rooms_below():
    faults = [
        f"{path.relative_to(ROOT)}: {fault}"
        for home, package, path in core_sources()
        for fault in layer_faults(home, targets(path.read_text(), package))
    ]
    assert not faults, "\n".join(faults)


def test_rooms_import_each_other_in_no_circle():
    graph: dict[str, set[str]] = {}
    for home, package, path in core_sources():
        graph.setdefault(home, set()).update({room(t) for t in targets(path.read_text(), package)} - {home})
    graph["model"].discard("data")  # its batches only, as the rule above sees to
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' → '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("home", "source"),
    [
        ("contract", "from aion_core.plugins import load_registry"),
        ("contract", "def f():\n    import aion_core.data.store"),
        ("model", "from aion_core.data import TokenStore"),
        ("model", "from aion_core import TokenStore"),
        ("data", "from aion_core import Trainer"),
        ("tokenizers", "from ..data.batches import TokenBatch"),
        ("tokenizers", "from .. import model"),
        ("engine", "if True:\n    from aion_core.model import AionModel"),
    ],
)
def test_the_layer_rule_sees_an_import_upwards(home, source):
    assert layer_faults(home, targets(source, f"aion_core.{home}"))


@pytest.mark.parametrize(
    ("home", "source"),
    [
        ("model", "from aion_core.data.batches import TokenBatch"),
        ("contract", "from aion_core import __version__"),
        ("train", "from aion_core.model import AionModel"),
        ("data", "from .batches import TokenBatch"),
    ],
)
def test_the_layer_rule_lets_an_import_downwards_pass(home, source):
    assert not layer_faults(home, targets(source, f"aion_core.{home}"))


# --- no survey in the core


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; identifiers are split at underscores and changes of case."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)]


def forbidden(registry: Registry) -> tuple[set[str], set[str]]:
    """Return the words that the core may not use, and the names that it may not use whole."""
    surveys = {word for spec in registry.modalities.values() for word in words(spec.survey)}
    single = ({plugin.name for plugin in registry.plugins} | surveys) - ORDINARY
    whole = {
        name
        for spec in registry.modalities.values()
        for name in (spec.key, spec.upstream_key, spec.upstream_codec, *_bands(spec))
        if name and name.lower() not in ORDINARY
    }
    return single, whole


def _bands(spec: aion_core.ModalitySpec) -> list[str]:
    return [band.name for band in spec.tokenizer.bands] if spec.tokenizer else []


def named(text: str, single: set[str], whole: set[str]) -> list[str]:
    """Return what a text names of that."""
    tokens = set(re.findall(r"[\w-]+", text)) | set(re.findall(r"\w+", text))
    return sorted(single.intersection(words(text))) + sorted(whole & tokens)


def test_the_core_names_no_survey():
    single, whole = forbidden(load_registry())
    texts = [p for p in CORE.rglob("*") if p.suffix in (".py", ".toml", ".json", ".md", ".html", ".css", ".txt")]
    faults = {str(p.relative_to(ROOT)): n for p in sorted(texts) if (n := named(p.read_text(), single, whole))}
    assert not faults


def test_the_core_is_checked_for_every_installed_plugin():
    single, whole = forbidden(load_registry())
    assert {"hsc", "desi", "sdss", "gaia"} <= single
    assert {"catalog_redshift", "legacy_image", "tok_z", "FLUX_G", "phot_g_mean_flux"} <= whole


@pytest.mark.parametrize(
    "text",
    [
        "# as in SDSS",
        "class GaiaReader:",
        "HSCImage",
        "load_desi_files",
        '"catalog_redshift"',
        "legacy_flux_w1",
        "tok_z",
        'header["FLUX_G"]',
    ],
)
def test_the_naming_rule_sees_a_survey(text):
    assert named(text, *forbidden(load_registry()))


@pytest.mark.parametrize("text", ["a legacy file", "catalog_rows", "designed", "image", "the spectrum at ra, dec, z"])
def test_the_naming_rule_lets_ordinary_words_pass(text):
    assert not named(text, *forbidden(load_registry()))


# --- plugins


def plugin_faults(package: str, source: str) -> list[str]:
    """Return what a plugin's source imports, or names in an import string, that it may not."""
    own = imports(source, package)
    own |= {
        node.value.partition(":")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+:\w+", node.value)
    }
    core = {name for name in own if name.startswith("aion_core.") and room(name.partition(".")[2]) not in PLUGINS_MAY}
    others = {name for name in own if name.startswith("aion_tok_") and room(name) != room(package)}
    return sorted(core | others)


def plugin_sources(folder: str) -> list[tuple[str, Path]]:
    return [
        (f"aion_tok_{path.relative_to(ROOT).parts[1].rpartition('-')[2]}", path)
        for path in sorted(ROOT.glob(f"plugins/aion-tok-*/{folder}/**/*.py"))
    ]


def test_plugins_import_no_other_plugin_and_neither_model_nor_trainer():
    sources = plugin_sources("src")
    assert sources
    faults = {
        str(path.relative_to(ROOT)): f for package, path in sources if (f := plugin_faults(package, path.read_text()))
    }
    assert not faults


def test_tests_of_plugins_import_no_other_plugin():
    for package, path in plugin_sources("tests"):
        other = [n for n in imports(path.read_text()) if n.startswith("aion_tok_") and room(n) != package]
        assert not other, path


@pytest.mark.parametrize(
    "source",
    [
        "from aion_core.model import AionModel",
        "from aion_core import Trainer",
        "def f():\n    import aion_core.train.trainer",
        "from aion_tok_other.specs import MODALITIES",
        "path = 'aion_tok_other.tokenizer:Tokenizer'",
        "path = 'aion_core.model.aion:AionModel'",
    ],
)
def test_the_plugin_rule_sees_what_a_plugin_may_not_import(source):
    assert plugin_faults("aion_tok_this", source)


@pytest.mark.parametrize(
    "source",
    [
        "from aion_core.data.reader import Reader",
        "from aion_core import Image",
        "from aion_tok_this.specs import MODALITIES",
        "from .specs import MODALITIES",
        "path = 'aion_core.tokenizers.scalar:QuantileTokenizer'",
        "import numpy as np",
    ],
)
def test_the_plugin_rule_lets_the_rest_pass(source):
    assert not plugin_faults("aion_tok_this", source)


# --- files and verbs


def too_long(text: str, limit: int = 500) -> bool:
    return len(text.splitlines()) > limit


def test_no_file_is_longer_than_500_lines():
    folders = ("aion_core", "plugins", "tests", "examples", "benchmarks")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 50
    assert [str(path.relative_to(ROOT)) for path in paths if too_long(path.read_text())] == []


def test_the_length_rule_sees_line_501():
    assert not too_long("x\n" * 500)
    assert too_long("x\n" * 501)


def verb_faults(verb: str, source: str) -> list[str]:
    """Return what a verb's module lacks: its help with an example, and its two functions."""
    tree = ast.parse(source)
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    faults = [f"no function {name}" for name in ("add_arguments", "run") if name not in defined]
    lines = (ast.get_docstring(tree, clean=False) or "").splitlines()
    if not any(re.match(rf"  +.*\baion {verb}\b", line) for line in lines):
        faults.append(f"no example 'aion {verb} …' in its docstring")
    return faults


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    paths = [path for path in (CORE / "cli" / f"{verb}.py", CORE / "cli" / verb / "__init__.py") if path.exists()]
    assert len(paths) == 1
    assert not verb_faults(verb, paths[0].read_text())


@pytest.mark.parametrize("verb", VERBS)
def test_every_action_of_a_verb_has_help_with_an_example(verb):
    parser = argparse.ArgumentParser()
    import_module(f"aion_core.cli.{verb}").add_arguments(parser)
    for action in parser._actions:
        for name, inner in (action.choices or {}).items() if isinstance(action, argparse._SubParsersAction) else ():
            assert f"aion {verb} {name}" in inner.format_help(), name


@pytest.mark.parametrize(
    "source",
    [
        "def add_arguments(parser): ...\ndef run(args): ...",
        '"""Do it."""\ndef add_arguments(parser): ...\ndef run(args): ...',
        '"""Do it.\n\n    aion other\n"""\ndef add_arguments(parser): ...\ndef run(args): ...',
        '"""Do it.\n\n    aion verb FILE\n"""\ndef run(args): ...',
    ],
)
def test_the_verb_rule_sees_what_is_missing(source):
    assert verb_faults("verb", source)
    assert not verb_faults("verb", '"""Do.\n\n    aion verb FILE\n"""\ndef add_arguments(p): ...\ndef run(a): ...')
