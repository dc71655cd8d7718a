"""Preemption: a signal raises a flag, and the training loop looks at it between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopFlag:
    """While active, SIGTERM and SIGUSR1 set `.raised` instead of ending the process.

    Schedulers send one of them before they take a machine away; the loop then finishes its step, saves and returns.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.raised: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; a trainer run in another one cannot be stopped by a signal.
        for number in self.SIGNALS if threading.current_thread() is threading.main_thread() else ():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.raised = signal.Signals(number)
