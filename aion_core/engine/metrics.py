"""Metrics as JSON lines: one object a line, appended, and cut back to the checkpoint on resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aion_core.files import replacing


class MetricsLog:
    """``metrics.jsonl`` of a run. Every line has a ``kind`` and a ``step``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resume_at(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will do again (those after `step`), and any torn last line."""
        if self.path.exists():
            kept = [line for line in self.read() if line["step"] <= step]
            with replacing(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system."""
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}, allow_nan=True) + "\n")

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines; a last line torn by a crash is left out."""
        with self.path.open() as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)
