"""Rules on readers, each put to files of its own: simulated ones, samples that are installed, or given ones."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from aion_core.contract import InputError, ReaderSpec
from aion_core.data.files import NotClaimedError, find_reader
from aion_core.testing.reading import LARGE, ReaderCase, different, objects_of, split
from aion_core.testing.rules import NotApplicableError, Rule, rule, told

#: Contents that no survey wrote.
STRANGERS = {
    "nothing": b"",
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
    "a letter": b"Dear colleague,\nplease find attached\n",
    "a table of others": b"name,height\nanna,1.7\nbert,1.8\n",
    "a web page": b"<html><body>404 not found</body></html>",
    "JSON": b'{"metadata": 1, "data": {}}',
    "the first word of FITS": b"SIMPLE  =                    T",
    "a cut compression": gzip.compress(b"SIMPLE  =                    T" * 500)[:40],
    "a zip without members": b"PK\x05\x06" + bytes(18),
}
#: Objects of a batch where a file is read as a whole.
WHOLE = 1000


@rule("reader", "let `claims` look for what only this kind of file has; two readers that claim a file are an error")
def it_alone_claims_its_files(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """Of all installed readers it is the one that claims its files."""
    case = subject.case(spec)
    for path in case.files:
        try:
            found = find_reader(path, case.registry, {spec.name: dict(case.options)})[0].name
        except InputError as error:
            yield str(error)
            continue
        if found != spec.name:
            yield f"{path.name} is claimed by {found}"


@rule("reader", "return from `group` the same tuple, itself included, for every file of it that `claims` says yes to")
def files_of_a_group_name_one_group(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """Files that are read together name the same group, whichever is asked for."""
    case = subject.case(spec)
    reader = case.build()
    for path in case.files:
        group = reader.group(path)
        if path not in group or len(set(group)) != len(group) or not all(member.is_file() for member in group):
            yield f"the group of {path.name} is {_names(group)}; expected existing files, each once, itself included"
            continue
        claimed = [member for member in group if case.claims(member)]
        if group[0] not in claimed:
            yield f"the first file of the group of {path.name}, {group[0].name}, is not claimed"
        yield from (
            f"{member.name} names another group than {path.name}" for member in claimed if reader.group(member) != group
        )


@rule("reader", "let `claims` return False for whatever it cannot make sense of, and judge by content, not by name")
def files_of_others_are_not_claimed(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """Files with a fitting name and another content are not claimed, and `claims` raises nothing."""
    case = subject.case(spec)
    for path in case.files:
        stranger = case.folder("strange") / path.name
        for content, data in STRANGERS.items():
            stranger.write_bytes(data)
            yield from _claimed(case, stranger, content)
        for content, write in _foreign_fits():
            with stranger.open("wb") as file:  # astropy takes names such as x.zip for a wish to compress
                write(file)
            yield from _claimed(case, stranger, content)


@rule("reader", "declare what it yields; ids are text, positions float64 degrees with 0 ≤ ra < 360, rows int64")
def objects_are_as_declared(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """Objects have ids and positions in degrees, and the modalities and classes of observation that are declared."""
    case = subject.case(spec)
    declared = case.registry.modalities
    for path in case.files:
        for batch in case.build().read(path, 100):
            if batch.object_id.dtype.kind != "U" or bool((batch.object_id == "").any()):
                yield f"{path.name}: object_id is {batch.object_id.dtype}, or empty for some; expected text"
            if not (batch.ra.dtype == batch.dec.dtype == np.float64):  # in native byte order
                yield f"{path.name}: ra and dec are {batch.ra.dtype} and {batch.dec.dtype}; expected float64"
            if bool(((batch.ra < 0) | (batch.ra >= 360)).any()):
                yield f"{path.name}: a right ascension lies outside of 0 ≤ ra < 360 degrees"
            for key, (observation, rows) in batch.data.items():
                if key not in spec.modalities or key not in declared:
                    yield f"{path.name}: {key} is yielded, but not among the reader's modalities"
                elif not case.fits(observation, declared[key]):
                    yield f"{path.name}: {key} of kind {declared[key].kind!r} is a {type(observation).__name__}"
                if rows.dtype != np.int64:
                    yield f"{path.name}: the rows of {key} are {rows.dtype}; expected int64"


@rule("reader", "convert to the modality's unit in the reader, or say `unit=...` so that the tokenizer can")
def units_are_those_of_the_modality(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """What is read is in the modality's unit, or in one that converts to it."""
    case = subject.case(spec)
    declared = case.registry.modalities
    for path in case.files:
        for batch in case.build().read(path, 100):
            for key, (observation, _) in batch.data.items():
                if key in declared:
                    try:
                        observation.in_unit(declared[key].units)
                    except InputError as error:
                        yield f"{path.name}: {key}: {error}"


@rule("reader", "yield at most batch_size objects at a time, so that memory does not grow with the file")
def batches_are_as_asked_for(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """Objects come in batches of the size asked for."""
    case = subject.case(spec)
    for path in case.files:
        sizes = [len(batch) for batch in case.build().read(path, 3)]
        if max(sizes, default=0) > 3:
            yield f"{path.name}: a batch has {max(sizes)} objects; 3 were asked for"


@rule("reader", "mask it, or leave the modality out for that object; a mask is True where a pixel is BAD")
def values_are_finite_unless_masked(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """Measured values are finite wherever no mask and no inverse variance of 0 says otherwise."""
    case = subject.case(spec)
    for path in case.files:
        for name, one in case.objects(path, WHOLE).items():
            for key in {place[0] for place in one if isinstance(place, tuple)}:
                bad = one.get((key, "mask"), np.zeros((), bool)) | (one.get((key, "ivar"), np.ones(())) <= 0)
                for array in ("flux", "value"):
                    if (key, array) in one and not (np.isfinite(one[key, array]) | bad).all():
                        yield f"{path.name}: {key} of object {name} is not finite where it is not masked"


@rule("reader", "check the polarity: a mask is True where a pixel is BAD, and flags and weights mean the same pixels")
def masks_are_true_where_bad(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """Most pixels of most objects are good: a mask that says otherwise, or against the weights, is upside down."""
    case = subject.case(spec)
    for path in case.files:
        shares: dict[str, list[tuple[float, float]]] = {}
        for one in case.objects(path, WHOLE).values():
            for key in {place[0] for place in one if isinstance(place, tuple) and place[1] == "mask"}:
                mask, ivar = one[key, "mask"], one.get((key, "ivar"))
                weighed = float((ivar[mask] > 0).mean()) if ivar is not None and mask.any() else 0.0
                shares.setdefault(key, []).append((float(mask.mean()), weighed))
        for key, found in shares.items():
            masked, weighed = np.median(np.array(found), axis=0)
            if masked > 0.5 and weighed > 0.5:
                yield f"{path.name}: {100 * masked:.0f} % of {key} are masked in half of the objects, and have weights"


@rule("reader", "name objects by what the survey calls them, and let nothing depend on the batch or its size")
def batch_size_does_not_matter(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """Objects, their ids, values, and what was skipped are the same for every batch size; ids occur once."""
    case = subject.case(spec)
    for path in case.files:
        whole, sizes = case.objects(path, WHOLE), (7,) if case.large(path) else (1, 7)
        for size in sizes:
            part = case.objects(path, size)
            if list(part) != list(whole):
                yield f"{path.name}: identifiers differ between batches of {size} and of {WHOLE}"
                continue
            yield from (
                f"{path.name}: object {name}: {where} differs in batches of {size}"
                for name, one in whole.items()
                if (where := different(one, part[name]))
            )
        if any(case.skipped(path, size) != case.skipped(path, WHOLE) for size in sizes):
            yield f"{path.name}: the objects that are skipped depend on the size of batches"


@rule("reader", "let `wants(key)` leave out work only; objects and the other modalities stay what they are")
def other_wishes_do_not_matter(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """A modality is the same whatever else is wanted."""
    case = subject.case(spec)
    for path in case.files[:1]:
        whole = case.objects(path, WHOLE)
        for key in sorted({place[0] for one in whole.values() for place in one if isinstance(place, tuple)}):
            found = objects_of(case.build().wanting([key]), path, WHOLE)
            if list(found) != list(whole):
                yield f"{path.name}: there are other objects when only {key} is wanted"
                continue
            for name, one in found.items():
                mine, known = ({k: v for k, v in o.items() if k[0] == key} for o in (one, whole[name]))
                if where := different(mine, known):
                    yield f"{path.name}: object {name}: {where} differs when only {key} is wanted"


@rule("reader", "open files by what unpacks them (`aion_core.data.fits`, `gzip`), or leave `.gz` out of the patterns")
def compressed_files_read_the_same(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """A compressed file whose name fits the patterns reads as the file itself."""
    case = subject.case(spec)
    for path in case.files:
        packed = case.folder("packed") / f"{path.name}.gz"
        fits = any(fnmatchcase(packed.name.lower(), pattern.lower()) for pattern in spec.patterns)
        if not fits or len(case.build().group(path)) > 1:
            continue
        packed.write_bytes(gzip.compress(path.read_bytes(), 1))
        if not case.claims(packed):
            yield f"{packed.name} is not claimed, though {path.name} is"
            continue
        plain, found = case.objects(path, WHOLE), case.objects(packed, WHOLE)
        pairs = zip(plain.values(), found.values(), strict=False)
        if len(plain) != len(found) or any(different(one, other) for one, other in pairs):
            yield f"{packed.name} gives other objects than {path.name}"


@rule("reader", "check that all is there (lengths, counts), and raise InputError with the path where it is not")
def cut_files_are_refused(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """A file cut short is refused by a sentence with its name, or loses whole objects only."""
    case = subject.case(spec)
    groups = [case.build().group(path) for path in case.files]
    small = [not case.large(path) for path in case.files]
    if not any(small):
        raise NotApplicableError(f"its files take more than {LARGE >> 20} MB: give smaller ones, by a ReaderContract")
    for place, (path, group) in enumerate(zip(case.files, groups, strict=True)):
        if not small[place]:
            continue
        whole = case.objects(path, WHOLE)
        for member in group:
            content = member.read_bytes()
            for cut in case.cuts if place == 0 else case.cuts[::4]:
                folder = case.folder(f"cut-{place}-{member.name}-{cut}")
                for other in group:
                    shutil.copyfile(other, folder / other.name)
                (folder / member.name).write_bytes(content[: max(1, int(len(content) * cut))])
                faults = _cut(case, folder / path.name, whole)
                yield from (f"{member.name} cut to {100 * cut:g} %: {fault}" for fault in faults)
                shutil.rmtree(folder)


@rule("reader", "let the error of opening the file through, or raise InputError with the path")
def missing_files_are_named(subject: Any, spec: ReaderSpec) -> Iterator[str]:
    """A file that is not there is named."""
    case = subject.case(spec)
    for path in case.files:
        absent = path.with_name(f"absent-{path.name}")
        try:
            found = list(case.build().read(absent, 10))
        except (InputError, FileNotFoundError) as error:
            if "absent-" not in str(error):
                yield f"the error does not name the file: {error}"
        except Exception as error:
            yield f"a file that is not there ends in {told(error)}"
        else:
            yield f"a file that is not there gives {sum(map(len, found))} objects"


#: In the order in which they are put.
RULES: tuple[Rule, ...] = (
    it_alone_claims_its_files,
    files_of_a_group_name_one_group,
    files_of_others_are_not_claimed,
    objects_are_as_declared,
    units_are_those_of_the_modality,
    batches_are_as_asked_for,
    values_are_finite_unless_masked,
    masks_are_true_where_bad,
    batch_size_does_not_matter,
    other_wishes_do_not_matter,
    compressed_files_read_the_same,
    cut_files_are_refused,
    missing_files_are_named,
)


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths) or "empty"


def _claimed(case: ReaderCase, path: Path, content: str) -> Iterator[str]:
    """Yield what is wrong with what a reader says of a file that is not its own."""
    try:
        if case.build().claims(path):
            yield f"{path.name} is claimed though it holds {content}"
    except NotClaimedError as error:
        if not str(error).startswith(str(path)):
            yield f"a reason not to claim a file begins with its path, not so: {error}"
    except Exception as error:
        yield f"asked whether it claims {path.name} holding {content}, it raises {told(error)}"


def _foreign_fits() -> Iterator[tuple[str, Callable[[Any], None]]]:
    from astropy.io import fits

    table = fits.BinTableHDU.from_columns([fits.Column("height", "D", array=np.ones(3))])
    hdus = {
        "an empty FITS file": [fits.PrimaryHDU()],
        "a FITS image of others": [fits.PrimaryHDU(), fits.ImageHDU(np.zeros((5, 5), np.float32))],
        "a FITS table of others": [fits.PrimaryHDU(), table],
        "a primary image of others": [fits.PrimaryHDU(np.zeros((9, 9)))],
    }
    for content, parts in hdus.items():
        yield content, fits.HDUList(parts).writeto


def _cut(case: ReaderCase, path: Path, whole: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with how a cut file is read."""
    if not case.claims(path):
        return
    found: list[tuple[str, Any]] = []
    try:
        for batch in case.build().read(path, 100):
            found += split(batch)
    except InputError as error:
        if not any(str(member) in str(error) for member in path.parent.iterdir()):
            yield f"the sentence names no file: {error}"
    except Exception as error:
        yield f"it ends in {told(error)}; expected an InputError"
    for name, one in found if case.shows_cuts else found[:-1]:
        if name not in whole:
            yield f"there is an object {name}, which the whole file has not"
            continue
        shared = one.keys() & whole[name].keys()
        if where := different({k: one[k] for k in shared}, {k: whole[name][k] for k in shared}):
            yield f"{where} of object {name} is not that of the whole file"
