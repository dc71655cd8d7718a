"""A reader under check: its files, and what is read from them, each object by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from aion_core.contract import InputError, ModalitySpec, ReaderSpec
from aion_core.data.files import NotClaimedError, build_reader, read_options
from aion_core.data.reader import ObservationBatch, Reader, Skipped
from aion_core.observations import Observation, SourceList
from aion_core.plugins import Registry, load_registry
from aion_core.testing.rules import told

#: One object: its position, and its arrays by modality and name.
Object: TypeAlias = dict[Any, Any]

#: A file beside simulated ones that says how readers are to read them (`aion tokenize --readers`).
OPTIONS = "readers.toml"

#: Files that take more bytes are not read, copied and cut many times.
LARGE = 16 << 20

_CLASSES = {"coefficients": "scalar"}


@dataclass
class ReaderCase:
    """A reader, its files, and what rules on it are to know.

    Attributes
    ----------
    files
        Files that it claims, one of each group.
    shows_cuts, cuts
        Whether the format shows that its last object is cut in two; at which parts of their length files are cut.
    scratch
        A folder for what rules write.
    """

    spec: ReaderSpec
    files: Sequence[Path]
    registry: Registry
    scratch: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    shows_cuts: bool = True
    cuts: Sequence[float] = (0.02, 0.31, 0.62, 0.97)
    _read: dict[tuple[Path, int], tuple[dict[str, Object], list[Skipped]]] = field(default_factory=dict)

    def build(self) -> Reader:
        return build_reader(self.spec, {self.spec.name: dict(self.options)})

    def claims(self, path: Path) -> bool:
        """Ask the reader; a reason why not counts as no."""
        try:
            return self.build().claims(path)
        except NotClaimedError:
            return False

    def folder(self, name: str) -> Path:
        """Return an own folder for a rule's files."""
        folder = self.scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def objects(self, path: Path, size: int) -> dict[str, Object]:
        """Read a file, once: ``{object_id: {"ra": …, (key, array): …}}``."""
        return self._whole(path, size)[0]

    def skipped(self, path: Path, size: int) -> list[Skipped]:
        """Return the objects that could not be read."""
        return self._whole(path, size)[1]

    def large(self, path: Path) -> bool:
        """Whether a file, with those that are read together with it, is too large to be read many times."""
        return sum(member.stat().st_size for member in self.build().group(path)) >= LARGE

    def _whole(self, path: Path, size: int) -> tuple[dict[str, Object], list[Skipped]]:
        if (path, size) not in self._read:
            lost: list[Skipped] = []
            self._read[path, size] = objects_of(self.build(), path, size, lost), lost
        return self._read[path, size]

    def fits(self, observation: Observation, spec: ModalitySpec) -> bool:
        """Whether an observation is of the class that a modality's kind stands for."""
        if spec.kind == "other":
            return f"{type(observation).__module__}:{type(observation).__name__}" == spec.observation
        wanted = _CLASSES.get(spec.kind, spec.kind.replace("_", ""))
        return type(observation).__name__.lower() == wanted


class _Contract(Protocol):
    reader: Any
    options: Any
    shows_cuts: Any
    cuts: Any

    def files(self, folder: Path) -> Sequence[Path]: ...


class GivenFiles:
    """What rules on readers are put to where somebody gives the files."""

    def __init__(self, contract: _Contract) -> None:
        self.contract = contract
        self._temporary = tempfile.TemporaryDirectory(prefix="aion-check-", ignore_cleanup_errors=True)

    @property
    def spec(self) -> ReaderSpec:
        found = {spec.name: spec for spec in self.registry.readers}
        if self.contract.reader not in found:
            raise InputError(f"No installed plugin declares the reader {self.contract.reader!r}.")
        return found[self.contract.reader]

    @cached_property
    def registry(self) -> Registry:
        return load_registry()

    @cached_property
    def _case(self) -> ReaderCase:
        own = Path(self._temporary.name)
        (own / "given").mkdir()
        files = [Path(path) for path in self.contract.files(own / "given")]
        if not files:
            raise InputError("Give at least one file.")
        given = self.contract
        return ReaderCase(self.spec, files, self.registry, own / "scratch", given.options, given.shows_cuts, given.cuts)

    def case(self, spec: ReaderSpec) -> ReaderCase:
        return self._case


class ReadBack:
    """What the readers of a plugin find in files of its own.

    Attributes
    ----------
    batches
        What was read.
    claimed
        By reader, the files that it claims, the first of each group.
    faults
        Why files could not be read.
    """

    def __init__(self, files: Sequence[Path], own: Sequence[ReaderSpec], registry: Registry) -> None:
        self.batches: list[ObservationBatch] = []
        self.claimed: dict[str, list[Path]] = {}
        self.faults: list[str] = []
        self.options: dict[str, dict[str, Any]] = {}
        for path in (p for p in files if p.name == OPTIONS):
            self.options |= read_options(path, registry)
        done: set[Path] = set()
        for path in (p for p in files if p.name != OPTIONS):
            if path in done:
                continue
            claimants = [spec for spec in own if self._claims(spec, path)]
            for spec in claimants:
                self.claimed.setdefault(spec.name, []).append(path)
            if not claimants:
                self.faults.append(f"{path.name} is claimed by no reader of the plugin")
                continue
            done |= self._read(claimants[0], path)

    def _claims(self, spec: ReaderSpec, path: Path) -> bool:
        if not any(fnmatchcase(path.name.lower(), pattern.lower()) for pattern in spec.patterns):
            return False
        try:
            return build_reader(spec, self.options).claims(path)
        except Exception:  # rules on readers say what is wrong
            return False

    def _read(self, spec: ReaderSpec, path: Path) -> set[Path]:
        """Read a file, and return the files of its group."""
        try:
            reader = build_reader(spec, self.options)
            group = reader.group(path)
            self.batches += reader.read(group[0], 64)
        except Exception as error:
            self.faults.append(f"{path.name} cannot be read: {told(error)}")
            return {path}
        return set(group)

    @property
    def modalities(self) -> set[str]:
        return {key for batch in self.batches for key, (_, rows) in batch.data.items() if len(rows)}


def objects_of(reader: Reader, path: Path, size: int, lost: list[Skipped] | None = None) -> dict[str, Object]:
    """Return the objects of a file by identifier; those that cannot be read are put into `lost`.

    Raises
    ------
    InputError
        If there is none, or an identifier occurs twice.
    """
    found: list[tuple[str, Object]] = []
    for batch in reader.read(path, size):
        found += split(batch)
        if lost is not None:
            lost += batch.skipped
    objects = dict(found)
    if not objects:
        raise InputError(f"{path.name}: there is no object in it.")
    if len(objects) != len(found):
        names = [name for name, _ in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path.name}: the object identifier {twice!r} occurs more than once.")
    return objects


def different(one: Object, other: Object) -> str | None:
    """Return in what two objects differ, bit for bit; None where they are the same."""
    if one.keys() != other.keys():
        lacking = one.keys() ^ other.keys()
        return f"the presence of {next(iter(lacking))}"
    for name, value in one.items():
        pairs = zip(value, other[name], strict=False) if isinstance(value, list) else [(value, other[name])]
        if not all(_equal(a, b) for a, b in pairs):
            return " ".join(name) if isinstance(name, tuple) else str(name)
    return None


def _equal(one: Any, other: Any) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def split(batch: ObservationBatch) -> Iterator[tuple[str, Object]]:
    """Yield name and content of each object of a batch."""
    found: list[Object] = [{"ra": ra, "dec": dec} for ra, dec in zip(batch.ra, batch.dec, strict=True)]
    for key, (observation, rows) in batch.data.items():
        for name, array in _arrays(observation, len(rows)).items():
            for i, row in enumerate(rows):
                found[row][key, name] = array[i]
    yield from zip(map(str, batch.object_id), found, strict=True)


def _arrays(observation: Observation, size: int) -> dict[str, Any]:
    """Return the arrays of an observation, each with one item an object; what all share is repeated."""
    arrays: dict[str, Any] = {}
    for name, value in vars(observation).items():
        if isinstance(value, torch.Tensor):
            array = value.cpu().numpy()
            arrays[name] = array if name in observation.batched else np.broadcast_to(array, (size, *array.shape))
            if isinstance(observation, SourceList):  # padded to the longest list, whatever that is in this batch
                arrays[name] = [sources[np.isfinite(sources)] for sources in array]
    return arrays
