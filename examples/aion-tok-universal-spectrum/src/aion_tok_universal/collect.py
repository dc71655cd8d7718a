"""``python -m aion_tok_universal.collect PATH … --out FOLDER``: spectra of any installed plugin, as tables of this one.

A file has one reader, so this package does not claim the files of others. It asks the registry which reader reads each,
takes all spectra that it yields, whatever their modality, and writes them as tables that `TableReader` reads: the way
for DESI, SDSS, and whatever is installed next to it, into one tokenizer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aion_core.contract import AionError
from aion_core.data.files import NotClaimedError, find_files, find_reader
from aion_core.observations import Spectrum
from aion_core.plugins import load_registry
from aion_tok_universal.specs import UNIT
from aion_tok_universal.tables import write_table

#: Spectra of a table.
ROWS = 256
#: Identifier, right ascension, declination, and the spectrum, one object long.
Row = tuple[str, float, float, Spectrum]


def spectra(paths: Iterable[Path | str], limit: int | None = None) -> Iterator[Row]:
    """Yield the spectra in files that installed plugins read, at most `limit` of a file; others are passed over."""
    registry = load_registry()
    for path in find_files(paths):
        try:
            _, reader = find_reader(path, registry)
        except NotClaimedError:
            continue
        if path != reader.group(path)[0]:
            continue
        left = limit
        for batch in reader.read(path, 64):
            for observation, rows in batch.data.values():
                if not isinstance(observation, Spectrum):
                    continue
                for i, row in enumerate(rows[:left]):
                    name, ra, dec = (getattr(batch, name)[row] for name in ("object_id", "ra", "dec"))
                    yield str(name), float(ra), float(dec), observation[i].in_unit(UNIT)
                left = None if left is None else left - len(rows[:left])
            if left == 0:
                break


def collect(paths: Iterable[Path | str], folder: Path) -> list[Path]:
    """Write the spectra of files as tables, spectra of one length together, and return the tables."""
    waiting: dict[int, list[Row]] = {}
    written: list[Path] = []

    def write(rows: list[Row]) -> None:
        path = folder / f"spectra-{len(written):05d}.fits"
        names, ra, dec, parts = zip(*rows, strict=True)
        whole = {name: np.concatenate([_part(part, name) for part in parts]) for name in ("wavelength", "flux", "ivar")}
        bad = np.concatenate([_part(part, "mask") for part in parts]).astype(bool)
        written.append(write_table(path, np.array(names), np.array(ra), np.array(dec), **whole, mask=bad))

    folder.mkdir(parents=True, exist_ok=True)
    for row in spectra(paths):
        rows = waiting.setdefault(row[3].flux.shape[1], [])
        rows.append(row)
        if len(rows) == ROWS:
            write(rows)
            rows.clear()
    for rows in waiting.values():
        if rows:
            write(rows)
    return written


def _part(spectrum: Spectrum, name: str) -> npt.NDArray[np.float32]:
    """Return a field of a spectrum; without an inverse variance pixels weigh the same, without a mask they are good."""
    value = getattr(spectrum, name)
    if value is None:
        value = spectrum.flux.new_full(spectrum.flux.shape, 1.0 if name == "ivar" else 0.0)
    found: npt.NDArray[np.float32] = value.numpy()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, and say how many."""
    parser = argparse.ArgumentParser(prog="python -m aion_tok_universal.collect", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where tables are written")
    args = parser.parse_args(arguments)
    try:
        written = collect(args.paths, args.out)
    except AionError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(written)} tables in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
