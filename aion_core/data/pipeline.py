"""From survey files to token stores: one file, one store, one at a time.

A store is named after its file and the hash of the file's absolute path, so that files of one name in several folders
do not meet, and a changed file replaces its old tokens. The store's metadata say what it was made of; a rerun leaves it
alone if nothing of that has changed: the file's size and time of modification, its reader, the tokenizers.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from aion_core.contract import AionError, InputError, ReaderSpec
from aion_core.data.columns import SUFFIX
from aion_core.data.files import NotClaimedError, find_files, find_reader, owner
from aion_core.data.reader import Reader
from aion_core.data.store import StoreWriter, TokenStore
from aion_core.plugins import Registry
from aion_core.tokenizers import TokenizerSet

BATCH_SIZE = 256
#: Field of a store's metadata that says what it was made of.
SOURCE = "aion_source"

Status: TypeAlias = Literal["done", "present", "readable", "nothing", "not claimed", "failed"]
#: Called with (files finished, files in all, the file at hand, objects of it so far).
Progress: TypeAlias = Callable[[int, int, Path, int], None]


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    Attributes
    ----------
    status
        ``done`` (tokenized now), ``present`` (tokenized before, nothing has changed), ``readable`` (described only),
        ``nothing`` (no object, or no tokenizer for any of its modalities), ``not claimed`` (found in a folder, and no
        reader reads it), or ``failed``.
    objects, modalities, tokens
        Number of objects; and by modality, how many of them have it, and their tokens.
    left_out
        Objects by modality for which there is no tokenizer.
    reason
        One sentence, for the last three states.
    """

    path: Path
    status: Status
    reader: str | None = None
    store: Path | None = None
    objects: int = 0
    modalities: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None

    @property
    def good(self) -> bool:
        return self.status in ("done", "present", "readable")


@dataclass(frozen=True)
class Report:
    """What became of all files, in the order of their names."""

    files: tuple[FileResult, ...]

    @property
    def failed(self) -> tuple[FileResult, ...]:
        return tuple(result for result in self.files if result.status == "failed")

    @property
    def objects(self) -> int:
        return sum(result.objects for result in self.files)

    def total(self, what: Literal["modalities", "tokens", "left_out"]) -> dict[str, int]:
        """Return the sum over all files of one of their counts by modality."""
        total: Counter[str] = Counter()
        for result in self.files:
            total.update(getattr(result, what))
        return dict(total)


class NothingDoneError(InputError):
    """Not one file could be used; `report` says why."""

    def __init__(self, report: Report) -> None:
        self.report = report
        first = next((r for r in report.files if r.status == "failed"), report.files[0])
        count = len(report.files)
        which = "The file cannot be used" if count == 1 else f"None of the {count} files can be used; the first"
        super().__init__(f"{which}: {first.reason}")


def tokenize_files(
    paths: Iterable[Path | str],
    tokenizers: TokenizerSet,
    out: Path | str,
    registry: Registry,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Report:
    """Tokenize survey files into one token store each, ``<out>/<stem>-<hash>.arrow``.

    A file that fails is reported with its reason, and the others go on. Memory does not grow with files or their
    number, as far as their readers stream.

    Parameters
    ----------
    paths
        Files, and folders to search. A file that no reader claims fails if it was named, and is passed over in a
        folder. What lies below `out` is not searched.
    tokenizers
        Modalities without a tokenizer in the set are left out, and counted.
    out
        Folder of the stores; made if need be.
    batch_size
        Objects read and encoded at a time.

    Raises
    ------
    InputError
        If a path does not exist, there is no file, or none could be tokenized (`NothingDoneError`).
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; token stores go into a folder.")

    def work(path: Path, spec: ReaderSpec, reader: Reader, seen: Callable[[int], None]) -> FileResult:
        usable = [key for key in spec.modalities if key in tokenizers]
        if not usable:
            wanted = ", ".join(spec.modalities)
            return FileResult(path, "nothing", spec.name, reason=f"{path}: no tokenizer for any of {wanted}.")
        made_of = _made_of(path, spec, registry, {key: tokenizers.space[key].fingerprint for key in usable})
        store = store_path(path, out)
        if (before := _present(store, made_of)) is not None:
            return _from_store(before, path, spec)
        out.mkdir(parents=True, exist_ok=True)
        return _tokenize(path, spec, reader, tokenizers, store, made_of, batch_size, seen)

    return _over_files(paths, registry, work, progress, out)


def describe_files(
    paths: Iterable[Path | str],
    registry: Registry,
    keys: Iterable[str] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Report:
    """Read survey files without tokenizing them: which reader claims each, its objects and their modalities.

    `keys` restricts the modalities that are counted. Raises as `tokenize_files` does.
    """
    wanted = None if keys is None else {registry.resolve(key).key for key in keys}

    def work(path: Path, spec: ReaderSpec, reader: Reader, seen: Callable[[int], None]) -> FileResult:
        objects, modalities = 0, Counter[str]()
        for batch in reader.read(path, batch_size):
            objects += len(batch)
            counts = {key: len(rows) for key, (_, rows) in batch.data.items() if wanted is None or key in wanted}
            modalities.update(counts)
            seen(objects)
        if not objects:
            return FileResult(path, "nothing", spec.name, reason=f"{path}: the file holds no object.")
        return FileResult(path, "readable", spec.name, objects=objects, modalities=+modalities)

    return _over_files(paths, registry, work, progress)


def store_path(path: Path, out: Path) -> Path:
    """Return where the store of a file goes: its name and 32 bits of the hash of its absolute path."""
    stem = Path(path.name.removesuffix(".gz")).stem.lstrip(".")
    digest = hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()
    return out / f"{stem}-{digest[:8]}{SUFFIX}"


def _over_files(
    paths: Iterable[Path | str],
    registry: Registry,
    work: Callable[[Path, ReaderSpec, Reader, Callable[[int], None]], FileResult],
    progress: Progress | None,
    out: Path | None = None,
) -> Report:
    """Do the work on every file; whatever one of them meets with becomes its result."""
    given = [Path(path) for path in paths]
    named = {path for path in given if path.is_file()}
    found = [p for p in find_files(given) if p in named or out is None or out.absolute() not in p.absolute().parents]
    if not found:
        raise InputError(f"There is no file in {', '.join(map(str, given)) or 'an empty list of paths'}.")
    results: list[FileResult] = []
    for path in found:

        def seen(objects: int, path: Path = path) -> None:
            if progress is not None:
                progress(len(results), len(found), path, objects)

        seen(0)
        results.append(_guarded(path, registry, work, seen, path in named))
    if progress is not None:
        progress(len(results), len(found), found[-1], results[-1].objects)
    report = Report(tuple(results))
    if not any(result.good for result in results):
        raise NothingDoneError(report)
    return report


def _guarded(
    path: Path,
    registry: Registry,
    work: Callable[[Path, ReaderSpec, Reader, Callable[[int], None]], FileResult],
    seen: Callable[[int], None],
    named: bool,
) -> FileResult:
    reader_name = None
    try:
        spec, reader = find_reader(path, registry)
        reader_name = spec.name
        return work(path, spec, reader, seen)
    except NotClaimedError as error:
        return FileResult(path, "failed" if named else "not claimed", reason=str(error))
    except (AionError, OSError) as error:
        text = str(error)
        return FileResult(path, "failed", reader_name, reason=text if text.startswith(str(path)) else f"{path}: {text}")
    except Exception as error:  # a plugin's defect in one file of many thousands must not end the run
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        reason = f"{path}: defect in the reader {reader_name} or a tokenizer ({where}): {type(error).__name__}: {error}"
        return FileResult(path, "failed", reader_name, reason=reason)


def _tokenize(
    path: Path,
    spec: ReaderSpec,
    reader: Reader,
    tokenizers: TokenizerSet,
    store: Path,
    made_of: Mapping[str, Any],
    batch_size: int,
    seen: Callable[[int], None],
) -> FileResult:
    objects, modalities, tokens, left_out = 0, Counter[str](), Counter[str](), Counter[str]()
    try:
        with StoreWriter(store, tokenizers.space, {SOURCE: json.dumps(made_of, sort_keys=True)}) as writer:
            for batch in reader.read(path, batch_size):
                encoded = {}
                for key, (observation, rows) in batch.data.items():
                    if key not in tokenizers:
                        left_out[key] += len(rows)
                    elif len(rows):
                        codes = tokenizers[key].encode(observation)
                        valid = (codes >= 0).flatten(1)
                        modalities[key] += int(valid.any(1).sum())
                        tokens[key] += int(valid.sum())
                        encoded[key] = codes, rows
                writer.write(batch.object_id, batch.ra, batch.dec, encoded)
                objects += len(batch)
                seen(objects)
            if not tokens.total():
                raise _NothingError
    except _NothingError:
        store.unlink(missing_ok=True)  # of an earlier state of the file
        reason = f"{path}: {'none of its objects has a token' if objects else 'the file holds no object'}."
        return FileResult(path, "nothing", spec.name, left_out=+left_out, reason=reason)
    return FileResult(path, "done", spec.name, store, objects, +modalities, +tokens, +left_out)


class _NothingError(Exception):
    """Ends the writing of a store that would hold no token, so that none is left behind."""


def _made_of(
    path: Path, spec: ReaderSpec, registry: Registry, fingerprints: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return what the tokens of a file depend on, as JSON holds it."""
    status = path.stat()
    return {
        "path": str(path.absolute()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "reader": f"{spec.name} {owner(spec, registry)}".strip(),
        "tokenizers": dict(fingerprints),
    }


def _present(store: Path, made_of: Mapping[str, Any]) -> TokenStore | None:
    """Return the store if it was made of the very same; a damaged or outdated one is written again."""
    if not store.exists():
        return None
    try:
        found = TokenStore(store)
    except InputError:
        return None
    before = json.loads(found.metadata.get(SOURCE, "{}"))
    if before.get("path", made_of["path"]) != made_of["path"]:
        raise InputError(f"{store} holds the tokens of {before['path']}; choose another folder for those of this file.")
    return found if before == made_of else None


def _from_store(store: TokenStore, path: Path, spec: ReaderSpec) -> FileResult:
    """Return the result of an earlier run, counted from its store."""
    columns = {key: store.column(key).drop_null() for key in store.space.keys}
    modalities = {key: len(column) for key, column in columns.items()}
    tokens = {
        key: len(pc.list_flatten(column)) if pa.types.is_list(column.type) else len(column)
        for key, column in columns.items()
    }
    return FileResult(path, "present", spec.name, store.path, len(store), modalities, tokens)
