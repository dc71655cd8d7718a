"""One pass over all files: networks encode what they know, numbers are kept and fitted; all becomes token stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from aion_core.cli.demo.settings import SPLIT
from aion_core.contract import AionError
from aion_core.data.prefetch import prefetched
from aion_core.data.reader import ObservationBatch
from aion_core.data.split import split_mask
from aion_core.data.store import StoreWriter, healpix_of
from aion_core.observations import Observation
from aion_core.plugins import Registry
from aion_core.tokenizers import Tokenizer, TokenizerSet, build_tokenizer
from aion_core.tokenizers.base import Fittable, is_fittable
from aion_core.tokenizers.quality import Quality, quality

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from aion_core.data.survey_files import SurveyFiles

#: Objects read, and observations encoded, at a time.
READ, ENCODE = 128, 64
#: Held-out observations of each modality that are kept to be shown, of each source.
SHOWN = 24

Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Shown: TypeAlias = dict[str, Observation]


@dataclass
class Part:
    """Some objects, what networks made of them, and their numbers as they were read."""

    batch: ObservationBatch
    held_out: Bools
    codes: dict[str, tuple[npt.NDArray[np.int64], Rows]] = field(default_factory=dict)
    values: dict[str, tuple[Observation, Rows]] = field(default_factory=dict)


class Encoding:
    """What networks are to encode, gathered until it pays: files may hold one object each."""

    def __init__(self, networks: Mapping[str, Tokenizer]) -> None:
        self.networks = networks
        self.waiting: dict[Any, list[tuple[Part, Observation, Rows]]] = {}

    def add(self, part: Part, key: str, obs: Observation, rows: Rows) -> None:
        """Take over observations of one modality of a part."""
        kind = (key, *form_of(obs))
        waiting = self.waiting.setdefault(kind, [])
        waiting.append((part, obs, rows))
        if sum(len(rows) for _, _, rows in waiting) >= ENCODE:
            self._encode(key, self.waiting.pop(kind))

    def finish(self) -> None:
        """Encode what is left."""
        for (key, *_), waiting in self.waiting.items():
            self._encode(key, waiting)
        self.waiting = {}

    def _encode(self, key: str, waiting: list[tuple[Part, Observation, Rows]]) -> None:
        together = type(waiting[0][1]).concatenate([obs for _, obs, _ in waiting])
        codes = self.networks[key].encode(together).flatten(1).cpu().numpy()
        ends = np.cumsum([len(rows) for _, _, rows in waiting])
        for (part, _, rows), mine in zip(waiting, np.split(codes, ends[:-1]), strict=True):
            part.codes[key] = mine, rows


@dataclass
class Pass:
    """What one pass over some files found: parts by the name of the store that they go into."""

    parts: dict[str, list[Part]]
    shown: Shown

    @property
    def all(self) -> list[Part]:
        return [part for parts in self.parts.values() for part in parts]


def read_all(
    files: SurveyFiles,
    groups: Iterable[tuple[str, list[int]]],
    networks: Mapping[str, Tokenizer],
    registry: Registry,
    bar: Bar,
    what: str,
    most: int | None = None,
    only: Callable[[ObservationBatch], Bools] | None = None,
) -> Pass:
    """Read files once: networks encode, numbers are kept, a few held-out observations are set aside.

    Networks encode the first `most` objects of each modality; None: all. With `only`, objects that it does not choose
    are left out.
    """
    fitted = {key for key, spec in registry.modalities.items() if is_fittable(spec)}
    files = files.having([*networks, *fitted])
    listed = list(groups)
    task = bar.add_task(what, total=sum(len(numbers) for _, numbers in listed))
    encoding, found = Encoding(networks), Pass({}, {})
    kept: dict[str, list[Observation]] = {}
    encoded: dict[str, int] = {}

    def batches() -> Iterator[tuple[str, int, ObservationBatch]]:
        for name, numbers in listed:
            for number in numbers:
                for place, batch in enumerate(files.read(number, READ)):
                    yield name, int(place == 0), batch

    for name, new, batch in prefetched(batches(), 2):
        batch = batch if only is None else some_of(batch, only(batch))
        part = Part(batch, held_out_of(batch))
        found.parts.setdefault(name, []).append(part)
        for key, (obs, rows) in batch.data.items():
            if key in networks and len(rows):
                room = len(rows) if most is None else max(0, most - encoded.get(key, 0))
                encoded[key] = encoded.get(key, 0) + min(room, len(rows))
                if room:
                    encoding.add(part, key, obs[:room], rows[:room])
                few = np.flatnonzero(part.held_out[rows])[: SHOWN - sum(len(one) for one in kept.get(key, ()))]
                if len(few):
                    kept.setdefault(key, []).append(obs[few])
            elif key in fitted and len(rows):
                part.values[key] = obs, rows
        part.batch = ObservationBatch(batch.object_id, batch.ra, batch.dec)  # images need not stay in memory
        bar.advance(task, new)
    encoding.finish()
    bar.update(task, completed=sum(len(numbers) for _, numbers in listed))
    for key, pieces in kept.items():
        alike = [obs for obs in pieces if form_of(obs) == form_of(pieces[0])]
        found.shown[key] = type(alike[0]).concatenate(alike)
    return found


def fit(parts: Iterable[Part], registry: Registry) -> tuple[list[Tokenizer], dict[str, str]]:
    """Fit the numbers of all objects that are not held out; return the tokenizers, and why others failed."""
    parts = list(parts)
    tokenizers: list[Tokenizer] = []
    left_out: dict[str, str] = {}
    for key in (key for key in registry.modalities if any(key in part.values for part in parts)):
        tokenizer = build_tokenizer(registry.modalities[key])
        assert isinstance(tokenizer, Fittable)
        try:
            for part in parts:
                if key in part.values:
                    obs, rows = part.values[key]
                    train = np.flatnonzero(~part.held_out[rows])
                    if len(train):
                        tokenizer.observe(obs[train])
            tokenizer.finish()
        except AionError as error:
            left_out[key] = str(error)
            continue
        tokenizers.append(tokenizer)
    return tokenizers, left_out


def held_out_quality(parts: Iterable[Part], tokenizers: Iterable[Tokenizer]) -> dict[str, dict[str, Any]]:
    """Return how well the numbers of held-out objects survive their codes."""
    parts = list(parts)
    found: dict[str, dict[str, Any]] = {}
    for tokenizer in tokenizers:
        total: Quality | None = None
        for part in parts:
            obs, rows = part.values.get(tokenizer.spec.key, (None, None))
            held_out = np.flatnonzero(part.held_out[rows]) if rows is not None else np.zeros(0, np.int64)
            if obs is not None and len(held_out):
                one = quality(tokenizer, obs[held_out])
                total = one if total is None else total + one
        if total is not None:
            found[tokenizer.spec.key] = total.to_dict()
    return found


def write_stores(found: Pass, tokenizers: TokenizerSet, folder: Path, bar: Bar) -> None:
    """Write one store for each group of files, of those that are not there yet."""
    for name, parts in found.parts.items():
        path = folder / f"{name}.arrow"
        if path.exists():
            continue
        with StoreWriter(path, tokenizers.space) as writer:
            for part in bar.track(parts, description=f"writing tokens: {name}"):
                tokens: dict[str, tuple[Any, Rows]] = {k: v for k, v in part.codes.items() if k in tokenizers}
                for key, (obs, rows) in part.values.items():
                    if key in tokenizers:
                        tokens[key] = tokenizers[key].encode(obs), rows
                writer.write(part.batch.object_id, part.batch.ra, part.batch.dec, tokens)


def some_of(batch: ObservationBatch, chosen: Bools) -> ObservationBatch:
    """Return some of the objects of a batch, and what was measured of them."""
    place = np.cumsum(chosen) - 1
    data = {}
    for key, (obs, rows) in batch.data.items():
        mine = np.flatnonzero(chosen[rows])
        data[key] = obs[mine], place[rows[mine]]
    return ObservationBatch(batch.object_id[chosen], batch.ra[chosen], batch.dec[chosen], data, batch.skipped)


def held_out_of(batch: ObservationBatch) -> Bools:
    pixels = healpix_of(batch.ra, batch.dec)
    return split_mask(pixels, batch.object_id, SPLIT.fraction, SPLIT.order, SPLIT.seed)


def form_of(obs: Observation) -> tuple[Any, ...]:
    """Return what observations must have in common to be one batch."""
    return tuple(tuple(v.shape[1:]) if isinstance(v, Tensor) else v for v in vars(obs).values())
