"""Preparing items ahead in a background thread."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import Empty, Full, Queue
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def prefetched(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """Yield the items of an iterator, up to `depth` of which a thread prepares ahead; 0: none.

    What the iterator raises is raised here, in its place. Closing the generator ends the thread.
    """
    if depth < 1:
        yield from items
        return
    ahead: Queue[object] = Queue(depth)
    closed = threading.Event()

    def put(item: object) -> None:
        while not closed.is_set():
            try:
                ahead.put(item, timeout=0.1)
                return
            except Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
            put(_END)
        except BaseException as error:
            put(_Raised(error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ahead.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]  # what the iterator gave
    finally:
        closed.set()
        while thread.is_alive():
            try:
                ahead.get_nowait()
            except Empty:
                thread.join(0.01)


class _Raised:
    """What the iterator raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
