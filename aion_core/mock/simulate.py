"""Observing the mock sky with the installed plugins: a field at a time, files in the surveys' formats, truth beside."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aion_core.contract import InputError, SimulatorSpec, did_you_mean
from aion_core.files import replacing
from aion_core.mock.objects import FIELD, MockObjects, draw, generator
from aion_core.plugins.discovery import import_object

#: ``(done, total)``: objects observed so far, and of how many.
Callback = Callable[[int, int], None]


class Simulator(Protocol):
    """What a `SimulatorSpec` names: a class without arguments."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        """Write how the survey would see objects, in its own format, and return the files.

        Objects that it would not see (too faint, outside of its footprint) are left out. File names must differ for
        different fields (`MockObjects.fields`) and different seeds may share them.
        Where readers have to be told how the files are to be read, ``readers.toml`` in the folder says it.
        """
        ...


@dataclass(frozen=True)
class SimulatorResult:
    """What a simulator did: how many files it wrote, and why it was left out, if it was."""

    name: str
    files: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class MockReport:
    """What was written."""

    objects: int
    truth: tuple[Path, ...]
    simulators: tuple[SimulatorResult, ...]


def choose(simulators: Sequence[SimulatorSpec], names: Collection[str] | None) -> list[SimulatorSpec]:
    """Return the simulators of some names (default: all).

    Raises
    ------
    InputError
        If a name is unknown, or nothing is installed that could observe.
    """
    known = {spec.name: spec for spec in simulators}
    for name in names or ():
        if name not in known:
            raise InputError(f"No installed plugin has a simulator {name!r}.{did_you_mean(name, known)}")
    if not known:
        raise InputError("No installed plugin has a simulator; `aion plugins` lists what is installed.")
    return [spec for name, spec in known.items() if names is None or name in names]


def simulate(
    simulators: Sequence[SimulatorSpec],
    count: int,
    folder: Path,
    seed: int = 0,
    workers: int = 1,
    callback: Callback | None = None,
) -> MockReport:
    """Write `count` mock objects as every simulator sees them: ``folder/<simulator>/…`` and ``folder/truth/…``.

    What is written of a field depends on the seed and the simulator only, never on how many fields follow or on the
    number of processes, `workers`. Memory does not grow with `count`. A simulator that fails is left out from there
    on, and its reason reported.

    Raises
    ------
    InputError
        If `count` is not positive, or the folder cannot be written to.
    """
    if count < 1:
        raise InputError(f"{count} objects: expected one or more.")
    _check_writable(folder)
    results = {spec.name: SimulatorResult(spec.name) for spec in simulators}
    truth: list[Path] = []
    done = 0

    def tasks() -> Iterator[_Task]:
        for start in range(0, count, FIELD):
            running = tuple(spec for spec in simulators if results[spec.name].reason is None)
            yield _Task(running, folder, seed, start, min(FIELD, count - start))

    for field in _run(tasks(), workers):
        truth.append(field.truth)
        for name, files, reason in field.observed:
            results[name] = SimulatorResult(name, results[name].files + files, results[name].reason or reason)
        done += field.objects
        if callback:
            callback(done, count)
    return MockReport(done, tuple(truth), tuple(results.values()))


@dataclass(frozen=True)
class _Task:
    """A field to be observed."""

    simulators: tuple[SimulatorSpec, ...]
    folder: Path
    seed: int
    start: int
    count: int


@dataclass(frozen=True)
class _Done:
    """A field that was observed: name, number of files, and why not, of each simulator."""

    objects: int
    truth: Path
    observed: tuple[tuple[str, int, str | None], ...]


def _run(tasks: Iterator[_Task], workers: int) -> Iterator[_Done]:
    """Yield what becomes of tasks, in order, with a few of them under way at a time."""
    if workers == 1:
        yield from map(_observe, tasks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        under_way: deque[Future[_Done]] = deque()
        for task in tasks:
            under_way.append(pool.submit(_observe, task))
            if len(under_way) > workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _observe(task: _Task) -> _Done:
    objects = draw(task.seed, task.start, task.count)
    field = int(objects.field[0])
    truth = write_truth(objects, task.folder / "truth" / f"truth-{task.seed}-{field:06d}.fits")
    observed = []
    for spec in task.simulators:
        own, files, reason = task.folder / spec.name, 0, None
        own.mkdir(parents=True, exist_ok=True)
        try:
            simulator: Simulator = import_object(spec.simulator)()
            files = len(simulator.observe(objects, own, generator("mock observation", task.seed, spec.name, field)))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise InputError(f"{own}: cannot be written to ({error.strerror}).") from error
            reason = f"{error} (field {field})"
        except Exception as error:
            reason = f"{type(error).__name__}: {error} (field {field})"
        observed.append((spec.name, files, reason))
    return _Done(len(objects), truth, tuple(observed))


def write_truth(objects: MockObjects, path: Path) -> Path:
    """Write the truth table of some objects as FITS, whole or not at all."""
    with replacing(path) as temporary:
        objects.truth().write(temporary, format="fits", overwrite=True)
    return path


def write_fits(path: Path, hdus: Sequence[Any]) -> Path:
    """Write HDUs as a FITS file, whole or not at all."""
    from astropy.io import fits

    with replacing(path) as temporary:
        fits.HDUList(list(hdus)).writeto(temporary, overwrite=True)
    return path


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".aion-mock"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror or error}).") from error
