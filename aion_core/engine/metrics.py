"""Metrics as JSON lines: one object a line, appended, cut back to the checkpoint on resume; also for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aion_core.contract import AionError
from aion_core.files import replacing


class MetricsLog:
    """``metrics.jsonl`` of a run. Every line has a ``kind`` and a ``step``; a `silent` log only reads.

    With `tensorboard`, the numbers go into the folder ``tensorboard`` beside it as well.
    """

    def __init__(self, path: Path, silent: bool = False, tensorboard: bool = False) -> None:
        self.path, self.silent = path, silent
        if tensorboard and find_spec("tensorboard") is None:
            raise AionError("run.tensorboard needs the package tensorboard: pip install 'aion-core[tensorboard]'.")
        self._wanted = tensorboard and not silent
        self._board: Any = None

    def resume_at(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will do again (those after `step`), and any torn last line."""
        if not self.silent and self.path.exists():
            kept = [line for line in self.read() if line["step"] <= step]
            with replacing(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system; a full disk costs the line and not the run."""
        if self.silent:
            return
        with suppress(OSError), self.path.open("a") as file:
            file.write(json.dumps(_finite({"kind": kind, "step": step, **values}), allow_nan=False) + "\n")
        if self._wanted:
            try:
                self._show(kind, step, values)
            except OSError:  # its writer does not recover from a full disk: the next numbers get a new one
                self._board = None

    def _show(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a run did after its last checkpoint, before it was killed, is done again and hidden.
            self._board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=step)
        for name, value in _numbers(values, kind):
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines; those torn by a crash or damaged since are left out, for they must not stop a run."""
        if not self.path.exists():
            return
        with self.path.open(errors="replace") as file:
            for line in file:
                try:
                    values = json.loads(line)
                except ValueError:
                    continue
                if line.endswith("\n") and isinstance(values, dict) and {"kind", "step"} <= set(values):
                    yield values


def _numbers(values: Mapping[str, Any], name: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested dictionaries, under names like ``train/loss_by_modality/key``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}/{key}")
        elif isinstance(value, int | float):
            yield f"{name}/{key}", float(value)


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for by null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
