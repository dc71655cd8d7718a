"""From XP coefficients to calibrated spectra, by GaiaXPy (``pip install 'aion-tok-gaia[xp]'``).

A check of what the reader hands on, and of what tokens make of it. De Angeli et al. 2023 (A&A 674, A2) describe the
coefficients, Montegriffo et al. 2023 (A&A 674, A3) the calibration.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import AionError, InputError

COEFFICIENTS = 55
#: The wavelengths of the archive's own sampled spectra, in nm.
WAVELENGTH = np.arange(336.0, 1021.0, 2.0)


def sampled_spectrum(bp: Any, rp: Any, wavelength: Any = WAVELENGTH) -> npt.NDArray[np.float64]:
    """Return calibrated spectra of some sources at given wavelengths.

    Parameters
    ----------
    bp, rp
        Coefficients of the BP and RP spectra, electron/s, ``[B, 55]`` each.
    wavelength
        Ascending, in nm, ``[L]``; by default those of the archive's sampled spectra.

    Returns
    -------
    array
        Flux in W m⁻² nm⁻¹, ``[B, L]``.

    Raises
    ------
    InputError
        If shapes or wavelengths do not fit, or a coefficient is not finite.
    """
    bands = {"bp": np.asarray(bp, np.float64), "rp": np.asarray(rp, np.float64)}
    grid = np.asarray(wavelength, np.float64)
    for band, values in bands.items():
        if values.ndim != 2 or values.shape[1] != COEFFICIENTS or len(values) != len(bands["bp"]):
            raise InputError(f"{band} has shape {list(values.shape)}; expected [B, {COEFFICIENTS}], B as in bp.")
        if not np.isfinite(values).all():
            raise InputError(f"{band} holds values that are not finite; give the sources that have both spectra.")
    if grid.ndim != 1 or not len(grid) or not (np.diff(grid) > 0).all() or grid[0] < 330 or grid[-1] > 1050:
        raise InputError("wavelength must be one ascending list of nm within 330 … 1050.")
    if not len(bands["bp"]):
        return np.empty((0, len(grid)))
    calibrate = import_gaiaxpy().calibrate
    from pandas import DataFrame  # type: ignore[import-untyped, unused-ignore]

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # its progress displays
        table, _ = calibrate(DataFrame(_columns(bands)), sampling=grid, save_file=False)
    return np.stack(table["flux"].to_list()).astype(np.float64)


def import_gaiaxpy() -> Any:
    """Import GaiaXPy without its side effects: it lets matplotlib typeset by LaTeX, and keeps stdout for its bars."""
    try:
        from matplotlib import rc_context

        with rc_context(), redirect_stdout(io.StringIO()):
            import gaiaxpy
    except ImportError as error:
        raise AionError("This needs GaiaXPy: pip install 'aion-tok-gaia[xp]'.") from error
    return gaiaxpy


def _columns(bands: dict[str, npt.NDArray[np.float64]]) -> dict[str, Any]:
    """Return the columns that GaiaXPy asks for; errors, which only lead to errors, are those of unit matrices."""
    size = len(bands["bp"])
    columns: dict[str, Any] = {"source_id": np.arange(1, size + 1)}
    for band, values in bands.items():
        columns |= {
            f"{band}_n_parameters": COEFFICIENTS,
            f"{band}_standard_deviation": 1.0,
            f"{band}_coefficients": list(values),
            f"{band}_coefficient_errors": list(np.ones((size, COEFFICIENTS))),
            f"{band}_coefficient_correlations": list(np.zeros((size, COEFFICIENTS * (COEFFICIENTS - 1) // 2))),
            f"{band}_n_relevant_bases": COEFFICIENTS,
            f"{band}_relative_shrinking": 1.0,
        }
    return columns
