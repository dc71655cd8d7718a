"""What training is given: batches of observations, each with the position behind it, and some that are held out.

Training knows nothing of files: whatever satisfies `ObservationSource` will do, such as
`aion_core.data.stream.ObservationStream`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from aion_core.observations import Observation

#: Where a source stands, as JSON: ``{lane: state}``. A lane is a part of the data that one process reads.
Position: TypeAlias = dict[str, Any]
#: Observations of some modalities by key; a key may occur several times, for what cannot be one batch.
Observations: TypeAlias = tuple[tuple[str, Observation], ...]


@dataclass(frozen=True)
class TrainingBatch:
    """One process's part of a batch: observations by modality, and what their objects are called, for complaints."""

    observations: Observations
    names: tuple[str, ...]

    def __len__(self) -> int:
        return sum(len(obs) for _, obs in self.observations)


class ObservationSource(Protocol):
    """Observations to train on without end, and some to judge by."""

    def batches(self, position: Position | None = None) -> Generator[tuple[TrainingBatch, Position], None, None]:
        """Yield this process's batches from a position on (None: the beginning), each with the position behind it.

        The position of the whole run is that of all processes together; it may be given as a whole.
        """

    def held_out(self, limit: int) -> Observations:
        """Return at most `limit` objects of every modality that are never trained on, the same ones each time."""
