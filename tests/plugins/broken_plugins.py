"""Real small distributions with one fault each, built in a folder that goes on ``PYTHONPATH``.

Run as a script it builds them all, asks ``aion plugins --json`` in a fresh process with all of them installed at
once, beside the real plugins, and prints as a Markdown table what it says of each:

    python tests/plugins/broken_plugins.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

HEAD = """
from aion_core.contract import ModalitySpec, Provenance, ReaderSpec, SimulatorSpec, TokenizerSpec
from aion_core.plugins import hookimpl


def spec(key, id, **more):
    fields = dict(
        key=key, survey="Test", title="a flux", citation="nobody 2026", kind="scalar", quantity="phot.flux", units="",
        vocab_size=1024, shape=(1,), position="scalar", provenance=dict(id=id, instrument="camera", release="DR1"),
    )
    return ModalitySpec(**(fields | more))


def reader(name, *modalities):
    return ReaderSpec(name=name, title="files", patterns=("*.dat",), reader="nowhere:Reader", modalities=modalities)


api_version = 1
"""


@dataclass(frozen=True)
class Package:
    """One distribution with one plugin: its name, the plugin's name, and the code below `HEAD`."""

    distribution: str
    plugin: str
    code: str = ""
    value: str = ""  # of the entry point; default: the package written here
    metadata: str | None = None  # default: name and version 1.0

    @property
    def module(self) -> str:
        return self.distribution.replace("-", "_")

    def write(self, folder: Path) -> None:
        if not self.value:
            package = folder / self.module
            package.mkdir(parents=True)
            (package / "__init__.py").write_text(HEAD + dedent(self.code))
        info = folder / f"{self.module}-1.0.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {self.distribution}\nVersion: 1.0\n"
        points = f"[aion.plugins]\n{self.plugin} = {self.value or self.module}\n"
        (info / "METADATA").write_text(metadata if self.metadata is None else self.metadata)
        (info / "entry_points.txt").write_text(points)


@dataclass(frozen=True)
class Case:
    """A fault, and what must be said of it: the stage, words of the reason, the keys that it costs."""

    fault: str
    packages: tuple[Package, ...]
    stage: str
    reason: tuple[str, ...]
    disabled: tuple[str, ...] = ()
    survivors: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def distributions(self) -> set[str]:
        return {package.distribution for package in self.packages}


def hook(body: str, name: str = "aion_modalities") -> str:
    return f"\n@hookimpl\ndef {name}():\n    {body}\n"


def one(fault: str, code: str, stage: str, *reason: str, **more: Any) -> Case:
    """A fault of one distribution, named after the fault, whose plugin is the distribution without its dashes."""
    name = more.pop("name")
    return Case(fault, (Package(name, name.replace("-", ""), code),), stage, reason, **more)


GOOD = hook("return [spec('{0}_flux', {1})]")

CASES = (
    one("import of a package that is absent", "import a_package_that_is_absent", "import",
        "ModuleNotFoundError", "a_package_that_is_absent", name="bad-import"),
    one("import of a name that another aion-core has", "from aion_core.contract import ReaderSpecOfTomorrow", "import",
        "ReaderSpecOfTomorrow", "this is aion-core", "made for another", name="bad-future"),
    one("syntax error", "def (", "import", "SyntaxError", name="bad-syntax"),
    one("leaves the interpreter while imported", "raise SystemExit(3)", "import", "SystemExit: 3", name="bad-exit"),
    one("spec with a vocabulary of 0, made at import", "SPEC = spec('badspec_flux', 900, vocab_size=0)", "import",
        "ModalitySpec.vocab_size", "greater than or equal to 2", "got '0'", name="bad-spec"),
    Case("entry point to a name that is absent",
         (Package("bad-target", "badtarget", value="json:no_such_plugin"),), "import", ("no_such_plugin",)),
    one("api_version newer than the core's", "api_version = 99", "api_version", "99", "upgrade aion-core",
        name="bad-newer"),
    one("api_version missing", "del api_version", "api_version", "is missing", "upgrade the plugin",
        name="bad-missing"),
    one("api_version is True", "api_version = True", "api_version", "is True", "upgrade the plugin", name="bad-bool"),
    one("hook raises", hook("raise RuntimeError('disk on fire')"), "hook", "aion_modalities raised",
        "RuntimeError: disk on fire", name="bad-hook"),
    one("hook forgets to return", hook("[spec('badnone_flux', 901)]"), "hook", "returned NoneType",
        "list[ModalitySpec]", name="bad-none"),
    one("hook returns a dict", hook("return {'baddict_flux': spec('baddict_flux', 902)}"), "hook",
        "aion_modalities returned dict", name="bad-dict"),
    one("hook returns a list with a string", hook("return [spec('baditem_flux', 903), 'baditem_mag']"), "hook",
        "list with str", "expected ModalitySpec", name="bad-item"),
    one("hook takes an argument that no hook has",
        "@hookimpl\ndef aion_modalities(config):\n    return []\n", "hook", "config", name="bad-argument"),
    one("unknown hook", GOOD.format("badunknown", 904) + hook("return []", "aion_instruments"), "hook",
        "no hook is called aion_instruments", "aion_modalities", name="bad-unknown"),
    one("hook without @hookimpl", "def aion_modalities():\n    return []\n", "hook",
        "aion_modalities is not marked with @hookimpl", name="bad-unmarked"),
    one("spec changed past its validation",
        hook("return [spec('badcopy_flux', 905).model_copy(update={'shape': (0,)})]"), "declaration",
        "ModalitySpec.shape", "axis below 1", name="bad-copy"),
    one("tokenizer settings that JSON cannot hold",
        hook("return [spec('badjson_flux', 906, tokenizer=TokenizerSpec(path='a:B', config={'f': len}))]"), "hook",
        "TokenizerSpec.config", "JSON", name="bad-json"),
    one("key without the plugin's prefix", hook("return [spec('flux', 907)]"), "declaration",
        "'flux' must begin with the plugin's name", "'badprefix_flux'", name="bad-prefix"),
    Case("plugin name with a capital and a dash", (Package("bad-name", "Bad-Name", GOOD.format("badname", 908)),),
         "declaration", ("lower-case letters", "'Bad-Name'")),
    one("reader names an own modality that is not declared",
        GOOD.format("badreader", 909) + hook("return [reader('badreader_files', 'badreader_image')]", "aion_readers"),
        "declaration", "badreader_files", "'badreader_image'", name="bad-reader", survivors=("badreader_flux",)),
    Case("same reader name from two distributions",
         (Package("read-one", "read", GOOD.format("read", 926) + hook(
             "return [reader('read_files', 'read_flux')]", "aion_readers")),
          Package("read-two", "read", hook("return [spec('read_mag', 927)]") + hook(
              "return [reader('read_files', 'read_mag')]", "aion_readers"))),
         "conflict", ("the name 'read_files' is given 2 times",), survivors=("read_flux", "read_mag")),
    Case("same key from two plugins",
         (Package("key-one", "wide", hook("return [spec('wide_deep_flux', 910), spec('wide_mag', 911)]")),
          Package("key-two", "wide_deep", hook("return [spec('wide_deep_flux', 912), spec('wide_deep_mag', 913)]"))),
         "conflict", ("the name 'wide_deep_flux' claimed by both",), ("wide_deep_flux",),
         survivors=("wide_mag", "wide_deep_mag")),
    Case("same plugin name and keys from two distributions",
         (Package("fork-one", "fork", hook("return [spec('fork_flux', 914), spec('fork_mag', 915)]")),
          Package("fork-two", "fork", hook("return [spec('fork_flux', 914), spec('fork_size', 916)]"))),
         "conflict", ("'fork_flux' and provenance ID 914 claimed by both",), ("fork_flux",),
         survivors=("fork_mag", "fork_size")),
    Case("same upstream key from two plugins",
         (Package("up-one", "upone", hook("return [spec('upone_flux', 917, upstream_key='up_flux')]")),
          Package("up-two", "uptwo", hook(
              "return [spec('uptwo_flux', 918, upstream_key='up_flux'), spec('uptwo_mag', 919)]"))),
         "conflict", ("the name 'up_flux' claimed by both",), ("upone_flux", "uptwo_flux"), survivors=("uptwo_mag",)),
    Case("upstream key of one is the key of the other",
         (Package("cross-one", "crossone", hook("return [spec('crossone_flux', 920)]")),
          Package("cross-two", "crosstwo", hook("return [spec('crosstwo_flux', 921, upstream_key='crossone_flux')]"))),
         "conflict", ("the name 'crossone_flux' claimed by both",), ("crossone_flux", "crosstwo_flux")),
    Case("same provenance ID from two plugins",
         (Package("id-one", "idone", hook("return [spec('idone_flux', 922), spec('idone_mag', 923)]")),
          Package("id-two", "idtwo", hook("return [spec('idtwo_flux', 922)]"))),
         "conflict", ("provenance ID 922 claimed by both",), ("idone_flux", "idtwo_flux"), survivors=("idone_mag",)),
    one("same provenance ID twice in one plugin",
        hook("return [spec('idtwice_flux', 924), spec('idtwice_mag', 924), spec('idtwice_size', 925)]"), "conflict",
        "provenance ID 924 claimed by several modalities", name="id-twice",
        disabled=("idtwice_flux", "idtwice_mag"), survivors=("idtwice_size",)),
)  # fmt: skip

#: What a plugin uses that will go, and says what to use instead.
GOING = "spec(grid=…) goes with aion-core 0.9; use shape"
#: Distributions that are odd, but not at fault.
HARMLESS = (
    Package("ok-going", "going", "import warnings" + hook(
        f"warnings.warn('{GOING}', DeprecationWarning, stacklevel=2); return [spec('going_flux', 945)]")),
    Package("ok-noisy", "noisy", "print('at import')" + hook("print('in a hook'); return [spec('noisy_flux', 940)]")),
    Package("ok-nameless", "nameless", GOOD.format("nameless", 941), metadata=""),
    Package("pair-one", "pair", GOOD.format("pair", 942)),
    Package("pair-two", "pair", hook("return [spec('pair_mag', 943)]")),
    Package("ok-reader", "okreader", GOOD.format("okreader", 944) + hook(
        "return [reader('okreader_files', 'okreader_flux', 'elsewhere_redshift')]", "aion_readers")),
)  # fmt: skip

#: Distributions that make every command wait, by import or by what they declare; in a folder of their own.
HEAVY = (
    Package("slow-good", "slow", "import time; time.sleep(0.3)" + GOOD.format("slow", 950)),
    Package("slow-bad", "slowbad", "import time; time.sleep(0.3); raise RuntimeError('after all that')"),
    Package("many-keys", "many", hook("return [spec(f'many_flux_{i}', 10_000 + i) for i in range(500)]")),
)


def build(folder: Path, packages: tuple[Package, ...]) -> Path:
    """Write the distributions into a folder and return it."""
    for package in packages:
        package.write(folder)
    return folder


def build_all(folder: Path) -> Path:
    """Write every distribution of `CASES` and `HARMLESS` into one folder."""
    return build(folder, (*(p for case in CASES for p in case.packages), *HARMLESS))


def python(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter that sees the folder's distributions besides the installed ones."""
    clean = {k: v for k, v in os.environ.items() if k not in ("AION_PLUGINS", "PYTHONPATH")}
    env = clean | {"PYTHONPATH": str(folder)} | environment
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


def report(folder: Path, **environment: str) -> dict[str, Any]:
    """Return what ``aion plugins --json`` prints."""
    done = python(folder, "-m", "aion_core.cli", "plugins", "--json", **environment)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def failures_of(case: Case, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the failures that name one of the case's distributions."""
    return [f for f in document["failures"] if {d.split()[0] for d in f["distributions"]} & case.distributions]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        document = report(build_all(Path(name)))
        absent = report(Path(name), AION_PLUGINS="noisy,nosy")
    loaded = {f"{plugin['distribution']} {plugin['version']}" for plugin in document["plugins"]}
    rows = [(case.fault, failure) for case in CASES for failure in failures_of(case, document)]
    rows += [("`AION_PLUGINS=noisy,nosy`, of which one exists", failure) for failure in absent["failures"]]
    print("| fault | distributions | stage | disabled | what `aion plugins` says |\n|---|---|---|---|---|")
    for fault, failure in rows:
        whole = "the plugin" if loaded.isdisjoint(failure["distributions"]) else "that part"
        cells = (
            fault,
            ", ".join(failure["distributions"]) or "not installed",
            failure["stage"],
            ", ".join(failure["keys"]) or whole,
            failure["reason"].replace("|", "\\|"),
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
