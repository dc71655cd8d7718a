"""Observations kept in memory to train on: a few passes over a thousand objects should not read files as often."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aion_core.cli.demo.tokens import form_of, held_out_of
from aion_core.contract import AionError
from aion_core.mock import generator
from aion_core.observations import Observation
from aion_core.tokenizers.training.source import Observations, Position, TrainingBatch

if TYPE_CHECKING:
    from aion_core.data.survey_files import SurveyFiles

#: Objects read at a time, and those of each modality that are kept to train on, at most.
READ, KEPT = 128, 640


@dataclass
class _Kept:
    """Observations of one modality in batches of one form each, and the names of their objects."""

    parts: list[tuple[Observation, npt.NDArray[np.str_]]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(names) for _, names in self.parts)

    def add(self, obs: Observation, names: npt.NDArray[np.str_], most: int) -> None:
        room = max(0, most - len(self))
        if room and len(obs):
            self.parts.append((obs[:room], names[:room]))

    def join(self) -> None:
        """Make one batch of those that have a form in common."""
        alike: dict[object, list[tuple[Observation, npt.NDArray[np.str_]]]] = {}
        for obs, names in self.parts:
            alike.setdefault(form_of(obs), []).append((obs, names))
        self.parts = [
            (type(group[0][0]).concatenate([obs for obs, _ in group]), np.concatenate([names for _, names in group]))
            for group in alike.values()
        ]


class Memory:
    """Satisfies `aion_core.tokenizers.training.ObservationSource` for one process.

    Parameters
    ----------
    files
        Read once, on first need, up to where enough is known of every modality.
    keys
        Modalities; each batch has as many of one as of another.
    batch_size
        Observations of a batch.
    judged
        Held-out observations of each modality that are kept.
    seed
        A batch depends on it and on the step alone.
    """

    def __init__(self, files: SurveyFiles, keys: Sequence[str], batch_size: int, judged: int, seed: int) -> None:
        self.files, self.keys, self.batch_size, self.judged, self.seed = files, keys, batch_size, judged, seed
        self._train: dict[str, _Kept] = {}
        self._held_out: dict[str, _Kept] = {}

    def batches(self, position: Position | None = None) -> Generator[tuple[TrainingBatch, Position], None, None]:
        """Yield batches without end, from a step on."""
        self._read()
        step = int(position["step"]) if position else 0
        keys = [key for key in self.keys if len(self._train[key])]
        if not keys:
            raise AionError(f"There is no object to train on with {' or '.join(self.keys)} in the mock sky.")
        while True:
            found: list[tuple[str, Observation]] = []
            names: list[str] = []
            for place, key in enumerate(keys):
                share = (place + 1) * self.batch_size // len(keys) - place * self.batch_size // len(keys)
                for obs, called in self._drawn(key, max(1, share), step):
                    found.append((key, obs))
                    names += called
            step += 1
            yield TrainingBatch(tuple(found), tuple(names)), {"step": step}

    def sample(self, count: int) -> Observations:
        """Return some observations of each modality, far apart in the files."""
        self._read()
        found = []
        for key in self.keys:
            for obs, _ in self._train[key].parts:
                found.append((key, obs[:: max(1, len(obs) // count)][:count]))
        return tuple(found)

    def held_out(self, limit: int) -> Observations:
        """Return held-out observations, at most `limit` of each modality and form."""
        self._read()
        return tuple((key, obs[:limit]) for key in self.keys for obs, _ in self._held_out[key].parts)

    def _drawn(self, key: str, count: int, step: int) -> Generator[tuple[Observation, list[str]], None, None]:
        """Yield some observations of a modality, those of each form together."""
        kept = self._train[key]
        rows = generator("demo batches", self.seed, key, step).integers(len(kept), size=count)
        first = 0
        for obs, names in kept.parts:
            mine = rows[(rows >= first) & (rows < first + len(names))] - first
            if len(mine):
                yield obs[mine], [str(name) for name in names[mine]]
            first += len(names)

    def _read(self) -> None:
        if self._train:
            return
        train, held_out = ({key: _Kept() for key in self.keys} for _ in "ab")
        files = self.files.having(self.keys)
        for number in range(len(files)):
            for batch in files.read(number, READ):
                apart = held_out_of(batch)
                for key in (key for key in self.keys if key in batch.data):
                    obs, rows = batch.data[key]
                    for kept, chosen, most in (
                        (train[key], ~apart[rows], KEPT),
                        (held_out[key], apart[rows], self.judged),
                    ):
                        place = np.flatnonzero(chosen)
                        kept.add(obs[place], batch.object_id[rows[place]], most)
                if all(
                    len(train[key]) >= KEPT and len(held_out[key]) >= self.judged
                    for key in batch.data
                    if key in self.keys
                ):
                    break
        for kept in (*train.values(), *held_out.values()):
            kept.join()
        self._train, self._held_out = train, held_out
