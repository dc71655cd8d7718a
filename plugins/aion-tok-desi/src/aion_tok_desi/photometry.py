"""Fluxes of a spectrum in the bands of the imaging, against what the fibermap says.

``python -m aion_tok_desi.photometry COADD.fits`` prints a row for each object and band. It needs `speclite` (the filter
curves): ``pip install 'aion-tok-desi[photometry]'``.

What to expect: DESI calibrates its fluxes with stars, so that a point source has its total flux although its fibre
misses part of it (``MEAN_PSF_TO_FIBER_SPECFLUX`` is what it catches, 0.8 or so). Of a galaxy, the fibre catches
``FIBERFLUX``, that within 1.5 arcsec as imaged at 1 arcsec seeing, and the spectrum has it divided by that fraction.
The total ``FLUX`` is more, by the light of the galaxy beyond the fibre (Guy et al. 2023, AJ 165, 144).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import AionError, InputError
from aion_core.data.fits import open_fits
from aion_core.observations import Spectrum
from aion_tok_desi.cameras import UNIT
from aion_tok_desi.reader import FIBERMAP, DesiReader

BANDS = ("g", "r", "z")
#: Filter curves by photometric system: north of declination 32.375 degrees the imaging is BASS and MzLS, else DECam.
FILTERS = {
    "N": ("BASS-g", "BASS-r", "MzLS-z"),
    "S": ("decamDR1-g", "decamDR1-r", "decamDR1-z"),
}
NANOMAGGY = 22.5
COLUMNS = {"targetid", "photsys", "mean_psf_to_fiber_specflux", *(f"{f}flux_{b}" for f in ("", "fiber") for b in BANDS)}


@dataclass(frozen=True)
class Comparison:
    """Fluxes of one object in one band, nanomaggies; `fibre` is the imaging's flux as the spectrum should show it."""

    object_id: str
    filter: str
    spectrum: float
    total: float
    fibre: float


def synthetic_fluxes(spectrum: Spectrum, filters: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return the fluxes in nanomaggies ``[B, bands]`` of spectra as seen through some filters of `speclite`.

    Bad pixels are interpolated; where a filter reaches beyond the spectrum, the last pixel goes on.
    """
    from astropy import units
    from speclite.filters import load_filters

    spectrum = spectrum.in_unit(UNIT)
    curves = load_filters(*filters)
    result = np.empty((len(spectrum), len(filters)))
    for i in range(len(spectrum)):
        wavelength, flux = (getattr(spectrum, part)[i].double().numpy() for part in ("wavelength", "flux"))
        if spectrum.mask is not None:
            good = ~spectrum.mask[i].numpy()
            flux = np.interp(wavelength, wavelength[good], flux[good])
        padded = curves.pad_spectrum(flux * units.Unit(UNIT), wavelength * units.AA, method="edge")
        fluxes = curves.get_ab_maggies(*padded)
        result[i] = [10 ** (0.4 * NANOMAGGY) * fluxes[0][name] for name in curves.names]
    return result


def compare(path: Path) -> Iterator[Comparison]:
    """Yield each object of a coadd in each band."""
    rows = _fibermap(path)
    for batch in DesiReader().read(path, 64):
        spectrum = batch.data["desi_spectrum"][0]
        for i, name in enumerate(batch.object_id):
            row = rows[str(name)]
            filters = FILTERS.get(str(row["photsys"]).strip())
            if filters is None:
                continue
            assert isinstance(spectrum, Spectrum)
            fluxes = synthetic_fluxes(spectrum[i], filters)[0]
            for band, curve, flux in zip(BANDS, filters, fluxes, strict=True):
                fibre = float(row[f"fiberflux_{band}"]) / float(row.get("mean_psf_to_fiber_specflux", np.nan))
                yield Comparison(str(name), curve, float(flux), float(row[f"flux_{band}"]), fibre)


def _fibermap(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with open_fits(path) as file:
        for columns in file.rows(COLUMNS, 1024, FIBERMAP):
            for i, target in enumerate(columns["targetid"]):
                found[str(target)] = {name: column[i] for name, column in columns.items()}
    missing = sorted(COLUMNS - {"mean_psf_to_fiber_specflux"} - next(iter(found.values()), {}).keys())
    if missing:
        raise InputError(f"{path}: HDU {FIBERMAP} has no photometry to compare with: {', '.join(missing).upper()}.")
    return found


def main(arguments: list[str]) -> int:
    """Print the table for the files named."""
    try:
        rows = [one for path in arguments for one in compare(Path(path))]
    except AionError as error:
        print(error, file=sys.stderr)
        return 2
    print("nanomaggies           object      filter  spectrum     FLUX  ratio  FIBERFLUX/PSF  ratio")
    for row in rows:
        print(
            f"{row.object_id:>28} {row.filter:>11} {row.spectrum:9.3f} {row.total:8.3f} {row.spectrum / row.total:6.3f}"
            f" {row.fibre:14.3f} {row.spectrum / row.fibre:6.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
