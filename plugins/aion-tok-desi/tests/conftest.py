"""DESI files written for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

#: First wavelength and number of pixels of the cameras.
CAMERAS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}


def coadd(count: int, *, seed: int = 0, cameras: str = "BRZ", **columns: Any) -> dict[str, Any]:
    """Return the HDUs of a coadd: flux and ivar at random, no bad pixel, all fibres good."""
    rng = np.random.default_rng(seed)
    hdus: dict[str, Any] = {"FIBERMAP": {"TARGETID": 39627866878511337 + np.arange(count)} | columns}
    for name in cameras:
        first, size = CAMERAS[name]
        hdus |= {
            f"{name}_WAVELENGTH": np.round(first + 0.8 * np.arange(size), 6),
            f"{name}_FLUX": rng.normal(1, 2, (count, size)).astype(np.float32),
            f"{name}_IVAR": rng.uniform(0.5, 4, (count, size)).astype(np.float32),
            f"{name}_MASK": np.zeros((count, size), np.uint32),
        }
    return hdus


def write(path: Path, hdus: dict[str, Any], units: dict[str, str] | None = None) -> Path:
    """Write HDUs by name: mappings and tables as tables, arrays as images, those that are None not at all."""
    written = [fits.PrimaryHDU()]
    for name, content in hdus.items():
        if content is None:
            continue
        if isinstance(content, np.ndarray):
            written.append(fits.ImageHDU(content, name=name))
            if name in (units or {}):
                written[-1].header["BUNIT"] = units[name]
        else:
            written.append(fits.BinTableHDU(Table(content), name=name))
    fits.HDUList(written).writeto(path, overwrite=True)
    return path


@pytest.fixture
def make() -> Callable[..., dict[str, Any]]:
    return coadd


@pytest.fixture
def save() -> Callable[..., Path]:
    return write
