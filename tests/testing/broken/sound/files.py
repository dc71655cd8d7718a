"""NumPy archives of fluxes and spectra: how they are read, and how a mock survey writes them."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib

import numpy as np

from aion_core.contract import InputError
from aion_core.data.reader import ObservationBatch, Reader
from aion_core.observations import Scalar, Spectrum

SURVEY = "sound"


class ArrayReader(Reader):
    def _content(self, path):
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content

    def _open(self, path):
        with np.load(io.BytesIO(self._content(path))) as file:
            return {name: file[name] for name in file}

    def claims(self, path):
        try:
            return b"survey.npy" in self._content(path)[:100]
        except (OSError, EOFError, zlib.error):
            return False

    def read(self, path, batch_size):
        try:
            found = self._open(path)
        except FileNotFoundError:
            raise
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise InputError(f"{path}: this is no whole archive ({error}); fetch it again.") from error
        for start in range(0, len(found["ra"]), batch_size):
            yield self._batch({k: v[start : start + batch_size] for k, v in found.items() if v.ndim}, found)

    def _batch(self, part, found):
        rows = np.arange(len(part["ra"]))
        names = part["object_id"].astype(str)
        bright = np.flatnonzero(np.isfinite(part["flux"]))
        mask = part["good"] == 0
        spectrum = Spectrum(part["spectrum"], found["wavelength"], ivar=part["ivar"], mask=mask)
        data = {"sound_spectrum": (spectrum, rows), "sound_flux": (Scalar(part["flux"][bright]), bright)}
        return ObservationBatch(names, part["ra"], part["dec"], data)


class SurveySimulator:
    def observe(self, objects, folder, rng):
        files = []
        for field, part in objects.fields():
            size, wavelength = len(part), np.linspace(4000.0, 9000.0, 60)
            flux = rng.lognormal(1, 1, size)
            good = rng.random((size, 60)) > 0.05
            level = flux[:, None] * (1 + 0.2 * rng.normal(size=(size, 60)))
            path = folder / f"field-{field}.npz"
            np.savez(
                path,
                survey=SURVEY,
                object_id=part.object_id,
                ra=part.ra,
                dec=part.dec,
                flux=np.where(rng.random(size) < 0.1, np.nan, flux),
                wavelength=wavelength,
                spectrum=np.where(good, level, np.nan),
                ivar=np.where(good, 4.0, 0.0),
                good=good.astype(np.uint8),
            )
            files.append(path)
        return files
