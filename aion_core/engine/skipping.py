"""Steps whose loss or gradient is not finite: they change nothing, are written down, and too many end the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from aion_core.contract import AionError
from aion_core.engine.metrics import MetricsLog


class SkipRule:
    """Counts non-finite steps in a row.

    Attributes
    ----------
    in_a_row
        How many there were up to now.
    """

    def __init__(self, limit: int, metrics: MetricsLog) -> None:
        self.limit, self.metrics = limit, metrics
        self.in_a_row = 0

    def allows(self, step: int, loss: float, norm: float, samples: Callable[[], Sequence[str]]) -> bool:
        """Return whether a step may be taken; if not, the names of its `samples` go into the log.

        Raises
        ------
        AionError
            If it is the last of too many in a row.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.metrics.write("skipped", step, {"loss": str(loss), "grad_norm": str(norm), "samples": list(samples())})
        if self.in_a_row >= self.limit:
            raise AionError(
                f"{self.in_a_row} steps in a row had a non-finite loss or gradient (step {step}); the samples are in "
                f"{self.metrics.path}. Lower optimizer.lr, or leave those samples out; the last checkpoint is "
                "untouched."
            )
        return False
