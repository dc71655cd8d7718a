"""The demo's files: a mock sky seen by every installed simulator, and real files that are at hand."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import AionError, InputError
from aion_core.data.files import build_reader, find_files, read_options, sample_files
from aion_core.data.join import WITHIN
from aion_core.data.survey_files import SurveyFiles
from aion_core.files import read_json, replacing, write_json
from aion_core.mock.simulate import choose, simulate
from aion_core.plugins import Registry

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from aion_core.cli.demo.settings import DemoSettings

#: The file in which a simulator says how its files are to be read (`aion_core.mock.simulate.Simulator`).
READERS = "readers.toml"


@dataclass(frozen=True)
class Truth:
    """What is true of the mock's objects: columns of the truth table ``[B]``, `kind` spelled out."""

    columns: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["object_id"])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    @property
    def names(self) -> npt.NDArray[np.str_]:
        return self.columns["object_id"].astype(str)

    def at_one(self, ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Whether positions (ICRS degrees, ``[n]``) are those of objects, to an arcsecond, or unknown (NaN)."""
        from astropy import units
        from astropy.coordinates import SkyCoord

        known = np.isfinite(ra) & np.isfinite(dec)
        found = ~known
        if known.any():
            sky = SkyCoord(self["ra"], self["dec"], unit=units.deg)
            _, away, _ = SkyCoord(ra[known], dec[known], unit=units.deg).match_to_catalog_sky(sky)
            found[known] = away < WITHIN * units.arcsec
        return found

    def of_kind(self, kind: str) -> npt.NDArray[np.bool_]:
        return np.asarray(self.columns["kind"] == kind)


@dataclass(frozen=True)
class Observed:
    """What simulators did: modalities that they may have observed, and why others were left out, by name."""

    modalities: set[str]
    left_out: dict[str, str]


def observe(folder: Path, settings: DemoSettings, registry: Registry, bar: Bar) -> Observed:
    """Write the mock sky, unless it is there."""
    done = folder / "simulated.json"
    if not done.exists():
        simulators = choose(registry.simulators, None)
        task = bar.add_task("observing the mock sky", total=settings.objects)
        report = simulate(
            simulators,
            settings.objects,
            folder,
            settings.seed,
            workers=_workers(settings.objects),
            callback=lambda now, _: bar.update(task, completed=now),
        )
        _write_positions(report.truth, folder / "objects.fits")
        write_json(done, {r.name: {"files": r.files, "reason": r.reason} for r in report.simulators})
    found = read_json(done)
    failed = {name: one["reason"] for name, one in found.items() if one["reason"]}
    empty = {name: "none of the objects is in its footprint" for name, one in found.items() if not one["files"]}
    good = [spec for spec in registry.simulators if found.get(spec.name, {}).get("files")]
    if not good:
        raise AionError(f"No simulator could observe the mock sky: {'; '.join((empty | failed).values())}.")
    return Observed({key for spec in good for key in spec.modalities}, empty | failed)


def read_truth(folder: Path) -> Truth:
    """Return what is true of the objects of a mock sky."""
    from astropy.table import Table

    table = Table.read(folder / "objects.fits")
    columns = {name: np.asarray(table[name]) for name in table.colnames}
    return Truth({name: v.astype(str) if v.dtype.kind in "SU" else v for name, v in columns.items()})


def mock_files(folder: Path, registry: Registry) -> SurveyFiles:
    """Return the files of a mock sky: stamps are cut at its objects, and not at all that is around them."""
    options: dict[str, dict[str, Any]] = {
        spec.name: {"positions": str(folder / "objects.fits")}
        for spec in registry.readers
        if "positions" in build_reader(spec).Options.model_fields
    }
    for path in sorted(folder.glob(f"*/{READERS}")):
        for reader, section in read_options(path, registry).items():
            options[reader] = options.get(reader, {}) | section
    return SurveyFiles([folder], registry, options=options)


def real_files(settings: DemoSettings, registry: Registry) -> SurveyFiles | None:
    """Return the real files at hand that a reader claims; None if there is none."""
    given = [settings.data] if settings.data else []
    samples = sample_files(registry)
    if not find_files(given) and not samples:
        return None
    folders = list(dict.fromkeys([*given, *(path.parent for path in samples)]))
    try:
        return SurveyFiles(folders, registry)
    except InputError:  # a folder that does not exist was found above; here every file is damaged
        return None
    except AionError:
        if settings.data and not samples:
            raise
        return None


def yielding(files: SurveyFiles, registry: Registry, keys: Collection[str]) -> SurveyFiles:
    """Return those files whose readers can yield some modalities, and these modalities of them."""
    readers = tuple(
        {type(build_reader(spec)) for spec in registry.readers if not set(keys).isdisjoint(spec.modalities)}
    )
    found = files.having(list(keys))
    found.files = [(path, reader) for path, reader in files.files if type(reader) in readers]
    return found


def groups(files: SurveyFiles, folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the folders right below `folder` (one for each simulator) with the numbers of their files."""
    found: dict[str, list[int]] = {}
    for number, (path, _) in enumerate(files.files):
        found.setdefault(path.relative_to(folder).parts[0], []).append(number)
    yield from found.items()


def _write_positions(parts: tuple[Path, ...], path: Path) -> None:
    from astropy.table import Table, vstack

    with replacing(path) as temporary:
        vstack([Table.read(part) for part in parts]).write(temporary, format="fits", overwrite=True)


def _workers(objects: int) -> int:
    """Return how many processes pay off: another one costs seconds to start, a field of objects some fifteen."""
    from aion_core.mock import FIELD

    return max(1, min(os.cpu_count() or 1, objects // FIELD))
