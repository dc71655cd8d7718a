"""Which files there are, and which installed reader reads each of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from aion_core.contract import AionError, InputError, ReaderSpec, did_you_mean
from aion_core.plugins import Registry, import_object

if TYPE_CHECKING:
    from aion_core.data.reader import Reader


#: What a user sets for readers: ``{name of the reader: {option: value}}``.
ReaderOptions: TypeAlias = Mapping[str, Mapping[str, Any]]


class NotClaimedError(InputError):
    """No installed reader reads this file.

    A reader whose `claims` raises it knows the file, and says why there is nothing in it to read and what to use
    instead; the sentence begins with the path.
    """


class HintError(NotClaimedError):
    """A reader does not know the file either, but could be told how to read it: used where no other knows more."""


class OptionsError(InputError):
    """The options given for a reader are not ones that it has."""


def find_files(paths: Iterable[Path | str]) -> list[Path]:
    """Return the files that some paths stand for, sorted, each once.

    A folder stands for all files below it, symbolic links followed, names that begin with a dot left out; a file
    stands for itself, whatever its name.

    Raises
    ------
    InputError
        If a path does not exist.
    """
    found: set[Path] = set()
    for path in map(Path, paths):
        if path.is_dir():
            found.update(_below(path))
        elif path.exists():
            found.add(path)
        else:
            raise InputError(f"{path}: there is no such file or folder.")
    return sorted(found)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the visible files below a folder; a folder that links lead to twice is entered once."""
    entered: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(root, name) for name in names if not name.startswith("."))
        yield from (path for path in visible if path.is_file())


def read_options(path: Path | str | None, registry: Registry) -> dict[str, dict[str, Any]]:
    """Return the readers' options that a TOML file sets, one section a reader; none where there is no file.

    Raises
    ------
    InputError
        If it is no TOML, or `check_options` finds a fault.
    """
    from aion_core.engine.toml import read_toml

    if path is None:
        return {}
    options = read_toml(path)
    try:
        check_options(options, registry)
    except OptionsError as error:
        raise OptionsError(f"{path}: {error}") from None
    return options


def check_options(options: ReaderOptions, registry: Registry) -> None:
    """Raise `OptionsError` if options name a reader or an option that there is not, or a value does not fit."""
    readers = {spec.name: spec for spec in registry.readers}
    for name, section in options.items():
        if name not in readers:
            known = ", ".join(sorted(readers)) or "none"
            raise OptionsError(f"there is no reader {name!r}.{did_you_mean(name, readers)} Installed readers: {known}.")
        if not isinstance(section, Mapping):
            raise OptionsError(f"{name} = {section!r} is not a section; options stand below [{name}].")
        build_reader(readers[name], options)


def build_reader(spec: ReaderSpec, options: ReaderOptions | None = None) -> Reader:
    """Return the reader that a spec names, with the options given under its name.

    Raises
    ------
    OptionsError
        If the options have an unknown name or a value that does not fit.
    """
    from aion_core.engine.toml import parse

    cls: type[Reader] = import_object(spec.reader)
    given = (options or {}).get(spec.name)
    if not given:
        return cls()
    try:
        return cls(parse(cls.Options, given, f"[{spec.name}]"))
    except AionError as error:
        known = ", ".join(cls.Options.model_fields) or "none"
        raise OptionsError(f"{error} Options of this reader: {known}.") from None


def find_reader(
    path: Path | str, registry: Registry, options: ReaderOptions | None = None
) -> tuple[ReaderSpec, Reader]:
    """Return the one installed reader that claims a file; `options` are those of readers, by their name.

    Candidates are the readers one of whose patterns matches the file's name (in any letter case); which of them
    it is, their `claims` decide from the content. A reader that raises there is at fault, not the file: it is
    named in a warning, and in the error if no other reader claims the file.

    Raises
    ------
    NotClaimedError
        If no reader claims the file; the message names those that looked at it, or all that are installed.
    InputError
        If the file does not exist, is empty though its name is that of a survey file, or is claimed by more than one
        reader; or if the options do not fit (`OptionsError`).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'this is not a file' if path.exists() else 'there is no such file'}.")
    candidates = [spec for spec in registry.readers if _matches(path, spec)]
    if path.stat().st_size == 0:
        kind = InputError if candidates else NotClaimedError
        raise kind(f"{path}: the file is empty (0 bytes); fetch it again.")
    claimants: list[tuple[ReaderSpec, Reader]] = []
    refusals: list[str] = []
    hints: list[str] = []
    faults: list[str] = []
    for spec in candidates:
        try:
            reader = build_reader(spec, options)
            if reader.claims(path):
                claimants.append((spec, reader))
        except OptionsError:
            raise
        except NotClaimedError as error:
            (hints if isinstance(error, HintError) else refusals).append(str(error))
        except Exception as error:
            faults.append(_fault(spec, registry, error))
    if not claimants:
        raise NotClaimedError(" ".join(refusals or hints) or _nobody(path, candidates, faults, registry))
    for fault in faults:
        warnings.warn(fault, RuntimeWarning, stacklevel=2)
    if len(claimants) > 1:
        names = " and ".join(spec.name for spec, _ in claimants)
        raise InputError(f"{path}: {names} both claim this file; AION_PLUGINS restricts which plugins are used.")
    return claimants[0]


def sample_files(registry: Registry) -> list[Path]:
    """Return the real files that readers name as samples, where the packages that carry them are installed."""
    return list(dict.fromkeys(path for spec in registry.readers for path in samples_of(spec)))


def samples_of(spec: ReaderSpec) -> list[Path]:
    """Return the samples of one reader that are installed here."""
    paths = (_resource(sample) for sample in spec.samples)
    return list(dict.fromkeys(path for path in paths if path is not None))


def _matches(path: Path, spec: ReaderSpec) -> bool:
    return any(fnmatchcase(path.name.lower(), pattern.lower()) for pattern in spec.patterns)


def owner(spec: ReaderSpec, registry: Registry) -> str:
    """Return distribution and version of the plugin that a reader belongs to; empty if none is known."""
    return next((plugin.label for plugin in registry.plugins if spec in plugin.readers), "")


def _fault(spec: ReaderSpec, registry: Registry, error: Exception) -> str:
    """Return the sentence for a reader that failed where it should have answered yes or no."""
    whose = f" of {owner(spec, registry)}" if owner(spec, registry) else ""
    text = str(error) if isinstance(error, AionError) else f"{type(error).__name__}: {error}"
    return f"The reader {spec.name}{whose} is at fault: it failed when asked whether it reads a file ({text})."


def _nobody(path: Path, candidates: list[ReaderSpec], faults: list[str], registry: Registry) -> str:
    if faults:
        why = f"no reader claims this file. {' '.join(faults)}"
    elif candidates:
        why = f"no installed reader recognises the content; asked: {', '.join(spec.name for spec in candidates)}."
    elif registry.readers:
        known = ", ".join(spec.name for spec in registry.readers)
        why = f"no installed reader takes a file of this name (`aion plugins --json` lists patterns of {known})."
    else:
        why = "no reader is installed; install the plugin of the survey that it is from."
    missing = ", ".join(dict.fromkeys(failure.plugin for failure in registry.failures))
    return f"{path}: {why}{f' Not all of these could be loaded, see `aion plugins`: {missing}.' if missing else ''}"


def _resource(name: str) -> Path | None:
    """Return the file that ``package:path/inside`` names, or None where that package or file is absent.

    Looked up without importing anything: importing a client package may cost seconds, or call its server.
    """
    package, _, inside = name.partition(":")
    top, *below = package.split(".")
    spec = find_spec(top)
    folders = spec.submodule_search_locations if spec else None
    paths = (Path(folder, *below, inside) for folder in folders or ())
    return next((path for path in paths if path.is_file()), None)
