"""DESI files as observations: coadds and spectra with what their fibermap says, redrock files, redshift catalogues.

An object is called by its TARGETID, a single exposure of it by TARGETID and EXPID. A coadd is read together with the
redrock file beside it (`DesiReader.group`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen
from aion_core.data import ObservationBatch, Reader, Skipped
from aion_core.data.fits import FitsFile, fits_columns, fits_headers, open_fits
from aion_core.observations import Scalar
from aion_tok_desi import redshifts, targets
from aion_tok_desi.cameras import has_spectra, joined, open_cameras
from aion_tok_desi.redshifts import Redshifts, good_redshifts
from aion_tok_desi.targets import Columns

FIBERMAP = "FIBERMAP"
#: Spectra held at a time: 256 of three cameras are some 100 MB while they are joined.
SPECTRA = 256
#: Kinds of files that stand side by side under otherwise the same name.
KINDS = ("coadd", "spectra", "redrock")


class DesiReader(Reader):
    """Reads coadds and spectra (healpix and tile), redrock files, and redshift catalogues (FITS, gzipped or not)."""

    class Options(Frozen):
        """Options of the section ``[desi_files]``.

        Attributes
        ----------
        redshifts
            A redrock file or redshift catalogue to look redshifts up in, instead of the redrock file beside a coadd.
        sky
            Also read fibres that were put on blank sky.
        """

        redshifts: Path | None = None
        sky: bool = False

    options: Options

    def group(self, path: Path) -> tuple[Path, ...]:
        """Return a coadd and its redrock file; without a coadd, the spectra file and the redrock file."""
        beside = {kind: found for kind in KINDS if (found := _beside(path, kind)) is not None}
        lead = beside.get("coadd", beside.get("spectra"))
        if lead is None or "redrock" not in beside or path not in (lead, beside["redrock"]):
            return (path,)
        return lead, beside["redrock"]

    def claims(self, path: Path) -> bool:
        """Whether the first table is a fibermap, or has a TARGETID and a redshift."""
        names = fits_columns(path) or {}
        if "targetid" not in names:
            return False
        tables = (header for header in fits_headers(path) if header.get("XTENSION") == "BINTABLE")
        return "z" in names or str(next(tables).get("EXTNAME", "")).upper() == FIBERMAP

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        with open_fits(path) as file:
            if has_spectra(file) or "z" not in file.columns():
                yield from self._spectra(file, min(batch_size, SPECTRA))
            else:
                yield from self._redshifts(file, batch_size)

    def _spectra(self, file: FitsFile, batch_size: int) -> Iterator[ObservationBatch]:
        where = f"{file.path}: HDU {FIBERMAP}"
        if not has_spectra(file):
            raise InputError(
                f"{file.path}: HDU B_WAVELENGTH (or that of R, Z or joined cameras) is missing; the file has "
                f"{', '.join(file.names)}. Spectra of objects are in coadd-*.fits and spectra-*.fits."
            )
        every = [targets.identifiers(c, where) for c in file.rows({"targetid"}, redshifts.ROWS, FIBERMAP)]
        ids = np.concatenate([np.empty(0, np.int64), *every])
        cameras = open_cameras(file, len(ids))
        source = self.options.redshifts or next(iter(self.group(file.path)[1:]), None)
        known = None if source is None else Redshifts.read(source, ids)
        first = 0
        for columns in file.rows(targets.WANTED, batch_size, FIBERMAP):
            rows = slice(first, first + len(columns["targetid"]))
            keep, skipped = targets.choose(columns, first, self.options.sky)
            spectra, seen = joined(cameras, rows, str(file.path))
            for row in np.flatnonzero(keep & ~seen):
                name = targets.row_name(columns, int(row), first)
                skipped.append(Skipped(name, "every pixel of every camera is masked or has no weight"))
            keep &= seen
            values = targets.photometry(columns, where)
            if known is not None:
                values["catalog_redshift"] = known.of(ids[rows])
            batch = _batch(columns, values, keep, skipped, where)
            spectrum = spectra[np.flatnonzero(keep)], np.arange(len(batch))
            yield ObservationBatch(
                batch.object_id, batch.ra, batch.dec, {"desi_spectrum": spectrum, **batch.data}, batch.skipped
            )
            first = rows.stop

    def _redshifts(self, file: FitsFile, batch_size: int) -> Iterator[ObservationBatch]:
        """Yield the rows of a redshift table, with what a fibermap in the same file says of the same rows."""
        wanted = targets.WANTED | redshifts.WANTED
        parts = [file.rows(wanted, batch_size)]
        if FIBERMAP in file:
            parts.append(file.rows(targets.WANTED, batch_size, FIBERMAP))
            first_table = next(h for h in map(file.header, range(len(file.names))) if "TFIELDS" in h)
            lengths = [header["NAXIS2"] for header in (first_table, file.header(FIBERMAP))]
            if lengths[0] != lengths[1]:
                raise InputError(
                    f"{file.path}: HDU {FIBERMAP} has {lengths[1]} rows; expected {lengths[0]}, those of the redshifts."
                )
        first = 0
        for table, *fibermap in zip(*parts, strict=True):
            ids = targets.identifiers(table, f"{file.path}: first table")
            for columns in fibermap:
                if not np.array_equal(targets.identifiers(columns, f"{file.path}: HDU {FIBERMAP}"), ids):
                    raise InputError(
                        f"{file.path}: HDU {FIBERMAP}, rows {first + 1} to {first + len(ids)}: the TARGETIDs are not "
                        "those of the redshift table."
                    )
            columns = dict(chain.from_iterable(part.items() for part in (*fibermap, table)))
            where = f"{file.path}: redshift table"
            keep, skipped = targets.choose(columns, first, self.options.sky)
            values = targets.photometry(columns, where) | {"catalog_redshift": good_redshifts(table, file.path)}
            yield _batch(columns, values, keep, skipped, where)
            first += len(ids)


def _batch(
    columns: Columns,
    values: dict[str, npt.NDArray[np.float64]],
    keep: npt.NDArray[np.bool_],
    skipped: list[Skipped],
    where: str,
) -> ObservationBatch:
    """Return the rows to keep with their scalars, ``[B]`` each, NaN where absent."""
    data = {}
    for key, value in values.items():
        rows = np.flatnonzero(np.isfinite(value[keep]))
        data[key] = Scalar(value[keep][rows]), rows
    ids = targets.object_ids(columns, where)[keep]
    ra, dec = (axis[keep] for axis in targets.positions(columns, where))
    return ObservationBatch(ids, ra, dec, data, tuple(skipped))


def _beside(path: Path, kind: str) -> Path | None:
    """Return the file of a kind that stands beside another of the same stem; for its own kind, `path` itself."""
    own, _, rest = path.name.partition("-")
    if own not in KINDS or own == kind:
        return path if own == kind else None
    stem = rest.removesuffix(".gz").removesuffix(".fits")
    found = (path.with_name(f"{kind}-{stem}{suffix}") for suffix in (".fits", ".fits.gz"))
    return next((other for other in found if other.is_file()), None)
