"""Spectra of the three cameras as one.

The cameras' wavelength grids are parts of one grid, 3600 to 9824 Å in steps of 0.8 Å, on which they overlap by 51 and
126 pixels; there the spectrum is the mean weighted with the inverse variances, as the pipeline's own joined coadds are.
Every bit of the mask means that the pixel must not be used (DESI data model, SPECMASK).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from astropy.units import Quantity

from aion_core.contract import InputError
from aion_core.data.fits import FitsFile, FitsImage
from aion_core.data.units import stated_unit
from aion_core.observations import Spectrum

UNIT = "1e-17 erg / (s cm2 Angstrom)"
STEP = 0.8
#: Vacuum wavelength in Angstrom, 7 781 pixels.
GRID = 3600 + STEP * np.arange(7781, dtype=np.float64)
#: Angstrom by which a camera's wavelengths may miss the grid: a hundredth of a pixel.
TOLERANCE = 0.008


@dataclass(frozen=True)
class Camera:
    """Spectra of one camera (or of several, already joined) for all rows of a file.

    Attributes
    ----------
    wavelength
        Vacuum wavelength in Angstrom, ascending or descending, ``[n]``.
    flux, ivar, mask
        ``[rows, n]``, read as far as they are asked for.
    unit
        Of the flux, if the file says another than `UNIT`.
    """

    name: str
    wavelength: npt.NDArray[np.float64]
    flux: FitsImage
    ivar: FitsImage
    mask: FitsImage | None
    unit: str | None

    def weighted(self, rows: slice) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return flux and inverse variance of some rows, ``[B, n]``; both 0 where a pixel must not be used."""
        flux, ivar = (part[rows].astype(np.float64) for part in (self.flux, self.ivar))
        good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
        if self.mask is not None:
            good &= self.mask[rows] == 0
        return np.where(good, flux, 0.0), np.where(good, ivar, 0.0)


def has_spectra(file: FitsFile) -> bool:
    return bool(_names(file))


def open_cameras(file: FitsFile, rows: int) -> list[Camera]:
    """Return the cameras of a file whose fibermap has some number of rows.

    Raises
    ------
    InputError
        If an HDU of a camera is missing, has another shape, or wavelengths that are no grid.
    """
    cameras = [_camera(file, name, rows) for name in _names(file)]
    masked = [camera.name for camera in cameras if camera.mask is not None]
    if masked and (without := next((camera.name for camera in cameras if camera.mask is None), None)):
        raise InputError(
            f"{file.path}: HDU {without}_MASK is missing, though {masked[0]}_MASK is there; the file may be cut short: "
            "fetch it again."
        )
    units = {camera.unit for camera in cameras}
    if len(units) > 1:
        raise InputError(f"{file.path}: the cameras' fluxes have different units ({', '.join(map(str, units))}).")
    return cameras


def joined(cameras: Sequence[Camera], rows: slice, where: str) -> tuple[Spectrum, npt.NDArray[np.bool_]]:
    """Return the spectra of some rows, of all cameras together, ``[B, 7781]``, and which have a usable pixel, ``[B]``.

    A single camera on a grid of its own, such as a joined coadd in steps of log wavelength, keeps that grid.
    """
    places = [grid_places(camera.wavelength) for camera in cameras]
    if any(place is None for place in places):
        if len(cameras) > 1:
            odd = next(camera.name for camera, place in zip(cameras, places, strict=True) if place is None)
            raise InputError(
                f"{where}: HDU {odd}_WAVELENGTH is not part of the grid of 3600 to 9824 Å in steps of {STEP} Å, on "
                "which cameras are joined."
            )
        flux, ivar = cameras[0].weighted(rows)
        order = slice(None, None, -1 if cameras[0].wavelength[0] > cameras[0].wavelength[-1] else 1)
        return _spectrum(flux[:, order], ivar[:, order], cameras[0].wavelength[order], cameras[0].unit)
    count = len(range(*rows.indices(len(cameras[0].flux))))
    total: npt.NDArray[np.float64] = np.zeros((count, len(GRID)))
    weight = np.zeros_like(total)
    for camera, place in zip(cameras, places, strict=True):
        flux, ivar = camera.weighted(rows)
        total[:, place] += flux * ivar
        weight[:, place] += ivar
    np.divide(total, weight, out=total, where=weight > 0)
    return _spectrum(total, weight, GRID, cameras[0].unit)


def grid_places(wavelength: npt.NDArray[np.float64]) -> npt.NDArray[np.int64] | None:
    """Return the pixels of the joint grid that wavelengths fall on, ``[n]``; None if they are no part of it."""
    places = np.rint((wavelength - GRID[0]) / STEP).astype(np.int64)
    inside = (places >= 0) & (places < len(GRID))
    if not inside.all() or np.abs(GRID[places] - wavelength).max() > TOLERANCE:
        return None
    return places


def _spectrum(
    flux: npt.NDArray[np.float64], ivar: npt.NDArray[np.float64], wavelength: npt.NDArray[np.float64], unit: str | None
) -> tuple[Spectrum, npt.NDArray[np.bool_]]:
    bad: npt.NDArray[np.bool_] = ~(ivar > 0)
    return Spectrum(flux, wavelength, ivar, bad, unit=unit), ~np.all(bad, axis=1)


def _names(file: FitsFile) -> list[str]:
    found = (re.fullmatch(r"([A-Z]+)_WAVELENGTH", name) for name in file.names)
    return [match[1] for match in found if match]


def _camera(file: FitsFile, name: str, rows: int) -> Camera:
    wavelength = _wavelengths(file, f"{name}_WAVELENGTH")
    parts = {part: f"{name}_{part}" for part in ("FLUX", "IVAR", "MASK")}
    images = {part: file.image(hdu) for part, hdu in parts.items() if part != "MASK" or hdu in file}
    for part, image in images.items():
        if image.shape != (rows, len(wavelength)):
            raise InputError(
                f"{file.path}: HDU {parts[part]} has shape {image.shape}; expected {(rows, len(wavelength))}, rows of "
                f"FIBERMAP by pixels of {name}_WAVELENGTH."
            )
    try:
        unit = stated_unit(images["FLUX"].header.get("BUNIT"), UNIT)
    except ValueError as error:
        raise InputError(f"{file.path}: HDU {name}_FLUX: {error} (BUNIT).") from None
    return Camera(name, wavelength, images["FLUX"], images["IVAR"], images.get("MASK"), unit)


def _wavelengths(file: FitsFile, hdu: str) -> npt.NDArray[np.float64]:
    """Return a camera's wavelengths in Angstrom, ``[n]``, which must ascend or descend."""
    image = file.image(hdu)
    values = image[:].astype(np.float64)
    try:
        if (unit := stated_unit(image.header.get("BUNIT"), "Angstrom")) is not None:
            values = Quantity(values, unit).to_value("Angstrom")
    except ValueError as error:
        raise InputError(f"{file.path}: HDU {hdu}: {error} (BUNIT).") from None
    if values.ndim != 1 or len(values) < 2:
        raise InputError(f"{file.path}: HDU {hdu} has shape {values.shape}; expected one wavelength a pixel.")
    if not np.isfinite(values).all():
        pixel = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"{file.path}: HDU {hdu}, pixel {pixel + 1}: the wavelength is {values[pixel]}.")
    steps = np.diff(values)
    if not ((steps > 0).all() or (steps < 0).all()):
        pixel = int(np.flatnonzero(np.sign(steps) != np.sign(steps[0]))[0] if steps[0] else 0) + 1
        raise InputError(
            f"{file.path}: HDU {hdu}, pixel {pixel + 1}: the wavelengths neither ascend nor descend throughout."
        )
    return values
