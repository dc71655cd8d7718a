"""Metrics as JSON lines: one object a line, appended, and cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aion_core.files import replacing


class MetricsLog:
    """``metrics.jsonl`` of a run. Every line has a ``kind`` and a ``step``; a `silent` log only reads."""

    def __init__(self, path: Path, silent: bool = False) -> None:
        self.path, self.silent = path, silent

    def resume_at(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will do again (those after `step`), and any torn last line."""
        if self.path.exists() and not self.silent:
            kept = [line for line in self.read() if line["step"] <= step]
            with replacing(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system."""
        if self.silent:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(_finite({"kind": kind, "step": step, **values}), allow_nan=False) + "\n")

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines; those torn by a crash or damaged since are left out, for they must not stop a run."""
        with self.path.open(errors="replace") as file:
            for line in file:
                try:
                    values = json.loads(line)
                except ValueError:
                    continue
                if line.endswith("\n") and isinstance(values, dict) and {"kind", "step"} <= set(values):
                    yield values


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for by null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
