"""From survey files to token stores: one file, one store, one at a time.

Files that a reader reads together (one per band, a catalogue beside an image) are one file in this sense: their store
is named after the first of them. A store is named after its file and the hash of the file's absolute path, so that
files of one name in several folders do not meet, and a changed file replaces its old tokens. The store's metadata say
what it was made of; a rerun leaves it alone if nothing of that has changed: the sizes and times of modification of the
files, their reader and its options, the tokenizers and their precision.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from aion_core.contract import AionError, InputError, ReaderSpec
from aion_core.data.columns import SUFFIX
from aion_core.data.files import NotClaimedError, ReaderOptions, check_options, find_files, find_reader, owner
from aion_core.data.reader import Reader
from aion_core.data.results import FileResult, NothingDoneError, Report, SkipReport
from aion_core.data.store import StoreWriter, TokenStore
from aion_core.observations import Observation
from aion_core.plugins import Registry
from aion_core.plugins.blame import fault
from aion_core.tokenizers import TokenizerSet

BATCH_SIZE = 256
#: Fields of a store's metadata that say what it was made of, and what of it could not be read.
SOURCE, SKIPPED = "aion_source", "aion_skipped"

#: Called with (files finished, files in all, the file at hand, objects of it so far).
Progress: TypeAlias = Callable[[int, int, Path, int], None]


@dataclass(frozen=True)
class Source:
    """Files that are read together, under the name of the first, and their reader."""

    group: tuple[Path, ...]
    spec: ReaderSpec
    reader: Reader

    @property
    def path(self) -> Path:
        return self.group[0]

    @property
    def options(self) -> dict[str, Any]:
        """The reader's options in effect, as JSON holds them."""
        return dict(self.reader.options.model_dump(mode="json"))

    def result(self, **what: Any) -> FileResult:
        return FileResult(self.path, reader=self.spec.name, group=self.group, options=self.options, **what)


#: What is done with files; called with a function that is told the objects so far.
Work: TypeAlias = Callable[[Source, Callable[[int], None]], FileResult]


def tokenize_files(
    paths: Iterable[Path | str],
    tokenizers: TokenizerSet,
    out: Path | str,
    registry: Registry,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    options: ReaderOptions | None = None,
) -> Report:
    """Tokenize survey files into one token store each, ``<out>/<stem>-<hash>.arrow``.

    A file that fails is reported with its reason, and the others go on; an object that its reader has to leave out is
    counted and listed. Memory does not grow with files or their number, as far as their readers stream.

    Parameters
    ----------
    paths
        Files, and folders to search. A file that no reader claims fails if it was named, and is passed over in a
        folder. What lies below `out` is not searched.
    tokenizers
        Modalities without a tokenizer in the set are left out, and counted. They encode in the precision that they are
        in (`Tokenizer.fast`).
    out
        Folder of the stores; made if need be.
    batch_size
        Objects read and encoded at a time.
    options
        Those of readers, by their name.

    Raises
    ------
    InputError
        If a path does not exist, there is no file, options are wrong, or no file could be tokenized
        (`NothingDoneError`).
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; token stores go into a folder.")

    def work(source: Source, seen: Callable[[int], None]) -> FileResult:
        path, keys = source.path, source.spec.modalities
        usable = [key for key in keys if key in tokenizers]
        if not usable:
            return source.result(status="nothing", reason=f"{path}: no tokenizer for any of {', '.join(keys)}.")
        made_of = _made_of(source, registry, tokenizers, usable)
        store = store_path(path, out)
        if (before := _present(store, made_of)) is not None:
            return _from_store(before, source)
        out.mkdir(parents=True, exist_ok=True)
        return _tokenize(source, tokenizers, store, made_of, batch_size, seen)

    return _over_files(paths, registry, work, progress, options or {}, out)


def describe_files(
    paths: Iterable[Path | str],
    registry: Registry,
    keys: Iterable[str] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    options: ReaderOptions | None = None,
) -> Report:
    """Read survey files without tokenizing them: which reader claims each, its objects and their modalities.

    `keys` restricts the modalities that are counted. Raises as `tokenize_files` does.
    """
    wanted = None if keys is None else {registry.resolve(key).key for key in keys}

    def work(source: Source, seen: Callable[[int], None]) -> FileResult:
        objects, modalities, skipped = 0, Counter[str](), SkipReport()
        for batch in source.reader.read(source.path, batch_size):
            objects += len(batch)
            skipped += batch.skipped
            counts = {key: len(rows) for key, (_, rows) in batch.data.items() if wanted is None or key in wanted}
            modalities.update(counts)
            seen(objects)
        if not objects:
            return source.result(status="nothing", skipped=skipped, reason=_why_nothing(source.path, 0, skipped))
        return source.result(status="readable", objects=objects, modalities=+modalities, skipped=skipped)

    return _over_files(paths, registry, work, progress, options or {})


def store_path(path: Path, out: Path) -> Path:
    """Return where the store of a file goes: its name and 32 bits of the hash of its absolute path."""
    stem = Path(path.name.removesuffix(".gz")).stem.lstrip(".")
    digest = hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()
    return out / f"{stem}-{digest[:8]}{SUFFIX}"


def _over_files(
    paths: Iterable[Path | str],
    registry: Registry,
    work: Work,
    progress: Progress | None,
    options: ReaderOptions,
    out: Path | None = None,
) -> Report:
    """Do the work on every file; whatever one of them meets with becomes its result."""
    check_options(options, registry)
    given = [Path(path) for path in paths]
    named = {path for path in given if path.is_file()}
    found = [p for p in find_files(given) if p in named or out is None or out.absolute() not in p.absolute().parents]
    if not found:
        raise InputError(f"There is no file in {', '.join(map(str, given)) or 'an empty list of paths'}.")
    results: dict[Path, FileResult] = {}
    for done, path in enumerate(found):

        def seen(objects: int, done: int = done, path: Path = path) -> None:
            if progress is not None:
                progress(done, len(found), path, objects)

        seen(0)
        for result in _guarded(path, registry, work, seen, path in named, options, results):
            results[result.path] = result
    if progress is not None:
        progress(len(found), len(found), found[-1], results[found[-1]].objects)
    complete = _companions(results)
    report = Report(tuple(complete[path] for path in sorted(results)))
    if not any(result.good for result in report.files):
        raise NothingDoneError(report)
    return report


def _guarded(
    path: Path,
    registry: Registry,
    work: Work,
    seen: Callable[[int], None],
    named: bool,
    options: ReaderOptions,
    before: Mapping[Path, FileResult],
) -> list[FileResult]:
    """Return the result of a file; and of the first of its group, where it is not that one and was not met yet."""
    if path in before:  # the first of the group of another file
        return []
    lead, name = path, None
    try:
        spec, reader = find_reader(path, registry, options)
        name = spec.name
        source = Source(reader.group(path), spec, reader)
        lead = source.path
        others = [_part(path, lead, name)] if path != lead else []
        return others if lead in before else [work(source, seen), *others]
    except NotClaimedError as error:
        return [FileResult(path, "failed" if named else "not claimed", reason=str(error))]
    except (AionError, OSError) as error:
        text = str(error)
        reason = text if text.startswith(str(lead)) else f"{lead}: {text}"
    except Exception as error:  # a plugin's defect in one file of many thousands must not end the run
        reason = f"{lead}: {fault(f'the reader {name}', '' if name is None else owner(spec, registry), error)}"
    failed = FileResult(lead, "failed", name, reason=reason)
    return [failed, _part(path, lead, name)] if path != lead else [failed]


def _part(path: Path, lead: Path, reader: str | None) -> FileResult:
    return FileResult(path, "part", reader, reason=f"{path}: read together with {lead}.")


def _companions(results: dict[Path, FileResult]) -> dict[Path, FileResult]:
    """Return the results, in which what no reader claims by itself is a part of the file that it was read with.

    What another reader has read by itself, such as a catalogue beside an image, keeps its result and says so.
    """
    leads = {member: result for result in results.values() for member in result.group if member != result.path}
    unclaimed = [r for r in results.values() if r.reader is None and r.path in leads]
    twice = (r for r in results.values() if r.good and r.path in leads)
    return (
        results
        | {r.path: _part(r.path, leads[r.path].path, leads[r.path].reader) for r in unclaimed}
        | {
            r.path: replace(r, reason=f"{r.path}: some of its objects are also read with {leads[r.path].path}.")
            for r in twice
        }
    )


def _tokenize(
    source: Source,
    tokenizers: TokenizerSet,
    store: Path,
    made_of: Mapping[str, Any],
    batch_size: int,
    seen: Callable[[int], None],
) -> FileResult:
    objects, skipped = 0, SkipReport()
    modalities, tokens, left_out = Counter[str](), Counter[str](), Counter[str]()
    try:
        with StoreWriter(store, tokenizers.space, {SOURCE: json.dumps(made_of, sort_keys=True)}) as writer:
            for batch in source.reader.read(source.path, batch_size):
                encoded = {}
                for key, (observation, rows) in batch.data.items():
                    if key not in tokenizers:
                        left_out[key] += len(rows)
                    elif len(rows):
                        codes, valid = _encode(tokenizers, key, observation)
                        modalities[key] += int(valid.any(1).sum())
                        tokens[key] += int(valid.sum())
                        encoded[key] = codes, rows
                writer.write(batch.object_id, batch.ra, batch.dec, encoded)
                objects += len(batch)
                skipped += batch.skipped
                seen(objects)
            if not tokens.total():
                raise _NothingError
            writer.metadata[SKIPPED] = skipped.to_json()
    except _NothingError:
        store.unlink(missing_ok=True)  # of an earlier state of the file
        reason = _why_nothing(source.path, objects, skipped)
        return source.result(status="nothing", left_out=+left_out, skipped=skipped, reason=reason)
    return source.result(
        status="done",
        store=store,
        objects=objects,
        modalities=+modalities,
        tokens=+tokens,
        left_out=+left_out,
        skipped=skipped,
    )


def _encode(tokenizers: TokenizerSet, key: str, observation: Observation) -> tuple[Tensor, Tensor]:
    """Return codes, and which of them there are, ``[B, n]``; what goes wrong is told with the tokenizer's plugin."""
    try:
        codes = tokenizers[key].encode(observation)
        return codes, (codes >= 0).flatten(1)
    except AionError:
        raise
    except Exception as error:
        slot = tokenizers.space[key]
        plugin = f"{slot.distribution or ''} {slot.version or ''}".strip()
        raise AionError(fault(f"the tokenizer of {key}", plugin, error)) from error


class _NothingError(Exception):
    """Ends the writing of a store that would hold no token, so that none is left behind."""


def _why_nothing(path: Path, objects: int, skipped: SkipReport) -> str:
    if objects:
        return f"{path}: none of its objects has a token."
    if skipped.count:
        first = skipped.named[0]
        return f"{path}: none of its {skipped.count} objects can be read; the first, {first.name}: {first.reason}."
    return f"{path}: the file holds no object."


def _made_of(source: Source, registry: Registry, tokenizers: TokenizerSet, usable: Sequence[str]) -> dict[str, Any]:
    """Return what the tokens of a file depend on, as JSON holds it."""
    states = [(str(path.absolute()), path.stat()) for path in source.group]
    return {
        "path": str(source.path.absolute()),
        "files": [[path, state.st_size, state.st_mtime_ns] for path, state in states],
        "reader": f"{source.spec.name} {owner(source.spec, registry)}".strip(),
        "options": source.options,
        "tokenizers": {key: tokenizers.space[key].fingerprint for key in usable},
        "precision": {key: tokenizers[key].precision for key in usable},
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


def _from_store(store: TokenStore, source: Source) -> FileResult:
    """Return the result of an earlier run, counted from its store."""
    columns = {key: store.column(key).drop_null() for key in store.space.keys}
    modalities = {key: len(column) for key, column in columns.items()}
    tokens = {
        key: len(pc.list_flatten(column)) if pa.types.is_list(column.type) else len(column)
        for key, column in columns.items()
    }
    skipped = SkipReport.from_json(store.metadata[SKIPPED]) if SKIPPED in store.metadata else SkipReport()
    return source.result(
        status="present", store=store.path, objects=len(store), modalities=modalities, tokens=tokens, skipped=skipped
    )
