"""A plugin package to begin with: complete, working, and to be changed line by line into a survey's own.

What is written are the files below ``templates``: those of ``common``, and those of the kind, with names filled in.
They end in ``.txt`` because they are no modules of this package; tests check what they become.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from string import Template
from textwrap import fill

from aion_core import __version__
from aion_core.contract import AionError, provenance_id
from aion_core.contract.plugin import API
from aion_core.files import replacing
from aion_core.plugins.registry import Registry
from aion_core.plugins.scaffold.kinds import KINDS, Kind
from aion_core.plugins.scaffold.names import check_name

__all__ = ["KINDS", "Scaffold", "check_name", "scaffold"]

SUFFIX = ".txt"


@dataclass(frozen=True)
class Scaffold:
    """The files of a package, and what it is called.

    Attributes
    ----------
    files
        Text by path within the package's folder.
    """

    name: str
    kind: str
    key: str
    distribution: str
    package: str
    simulator: str
    files: Mapping[PurePosixPath, str]

    def write(self, folder: Path) -> Path:
        """Write the package below a folder, whole or not at all, and return its own folder.

        Raises
        ------
        AionError
            If there is something of that name, or the folder cannot be written to.
        """
        root = folder / self.distribution
        if root.exists() or root.is_symlink():
            raise AionError(f"{root} exists; remove it, or choose another --path or name.")
        blocked = next(above for above in (folder, *folder.absolute().parents) if above.exists())
        if not blocked.is_dir() or not os.access(blocked, os.W_OK | os.X_OK):
            raise AionError(f"{blocked} is no folder that can be written to; choose another --path.")
        with replacing(root) as temporary:
            for path, text in self.files.items():
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
        return root


def scaffold(name: str, kind: str, registry: Registry) -> Scaffold:
    """Return the package of a plugin with one modality.

    Raises
    ------
    AionError
        If the name is not valid or taken, or there is no such kind.
    """
    if kind not in KINDS:
        raise AionError(f"There is no template for kind {kind!r}; choose one of {', '.join(KINDS)}.")
    described = KINDS[kind]
    key = f"{name}_{described.noun}"
    check_name(name, key, registry)
    words = _words(name, key, described)
    package = f"aion_tok_{name}"
    found = {}
    for part in ("common", kind):
        for path, text in _templates(files(__name__) / "templates" / part, PurePosixPath()):
            place = PurePosixPath("src", package, *path.parts[1:]) if path.parts[0] == "src" else path
            found[place] = Template(text).substitute(words)
    return Scaffold(name, kind, key, words["distribution"], package, words["simulator"], dict(sorted(found.items())))


def _words(name: str, key: str, kind: Kind) -> dict[str, str]:
    """Return what stands in the templates, by its name there."""
    return {
        "name": name,
        "key": key,
        "title": name.upper() if len(name) <= 5 else name.replace("_", " ").title(),
        "band": name.upper().replace("_", "-"),
        "distribution": f"aion-tok-{name.replace('_', '-')}",
        "package": f"aion_tok_{name}",
        "core": ".".join(__version__.split(".")[:2]),
        "api_version": str(API.version),
        "provenance": str(provenance_id(f"urn:aion:{key}")),
        "reader": f"{name}_{kind.files_are}",
        "simulator": f"{name}_mock",
        **kind.words(),
        "files": fill(f"The reader `{name}_{kind.files_are}` reads {kind.files}", 118, break_on_hyphens=False),
    }


def _templates(folder: Traversable, below: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield path and text of the templates in a folder."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _templates(item, below / item.name)
        elif item.name.endswith(SUFFIX):
            yield below / item.name.removesuffix(SUFFIX), item.read_text(encoding="utf-8")
