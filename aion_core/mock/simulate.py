"""Observing the mock sky with the installed plugins: a field at a time, files in the surveys' formats, truth beside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aion_core.contract import InputError, SimulatorSpec, did_you_mean
from aion_core.files import replacing
from aion_core.mock.objects import MockObjects, generator, stream
from aion_core.plugins.discovery import import_object

#: ``(done, total, file)``: objects observed so far, of how many, and the last file.
Callback = Callable[[int, int, str], None]


class Simulator(Protocol):
    """What a `SimulatorSpec` names: a class without arguments."""

    def observe(self, objects: MockObjects, folder: Path, rng: np.random.Generator) -> list[Path]:
        """Write how the survey would see objects, in its own format, and return the files.

        Objects that it would not see (too faint, outside of its footprint) are left out. File names must differ for
        different fields (`MockObjects.fields`) and different seeds may share them.
        """
        ...


@dataclass(frozen=True)
class SimulatorResult:
    """What a simulator did: its files, or why it was left out."""

    name: str
    files: tuple[Path, ...] = ()
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
    simulators: Sequence[SimulatorSpec], count: int, folder: Path, seed: int = 0, callback: Callback | None = None
) -> MockReport:
    """Write `count` mock objects as every simulator sees them: ``folder/<simulator>/…`` and ``folder/truth/…``.

    What is written of a field depends on the seed and the simulator only, never on how many fields follow. Memory
    does not grow with `count`. A simulator that fails is left out from there on, and its reason reported.

    Raises
    ------
    InputError
        If `count` is not positive, or the folder cannot be written to.
    """
    if count < 1:
        raise InputError(f"{count} objects: expected one or more.")
    _check_writable(folder)
    running = {spec.name: _load(spec) for spec in simulators}
    files: dict[str, list[Path]] = {name: [] for name in running}
    reasons = {name: loaded for name, loaded in running.items() if isinstance(loaded, str)}
    truth: list[Path] = []
    done = 0
    for objects in stream(seed, count):
        field = int(objects.columns["field"][0])
        truth.append(write_truth(objects, folder / "truth" / f"truth-{seed}-{field:06d}.fits"))
        for name, simulator in running.items():
            if isinstance(simulator, str) or name in reasons:
                continue
            own = folder / name
            own.mkdir(parents=True, exist_ok=True)
            try:
                files[name] += simulator.observe(objects, own, generator("mock observation", seed, name, field))
            except OSError as error:
                raise InputError(f"{own}: cannot be written to ({error.strerror or error}).") from error
            except Exception as error:
                reasons[name] = f"{type(error).__name__}: {error} (field {field})"
            if callback:
                callback(done, count, files[name][-1].name if files[name] else name)
        done += len(objects)
        if callback:
            callback(done, count, "")
    results = tuple(SimulatorResult(name, tuple(files[name]), reasons.get(name)) for name in running)
    return MockReport(done, tuple(truth), results)


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


def _load(spec: SimulatorSpec) -> Simulator | str:
    """Return a simulator, or why it cannot be had."""
    try:
        return import_object(spec.simulator)()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".aion-mock"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror or error}).") from error
