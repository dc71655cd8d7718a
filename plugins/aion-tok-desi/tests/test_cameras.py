"""Joining of cameras, on files written here."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from aion_tok_desi.cameras import GRID, UNIT
from aion_tok_desi.reader import DesiReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data import ObservationBatch
from aion_core.observations import Spectrum
from aion_core.testing.memory import memory_growth

Make = Callable[..., dict[str, Any]]
Save = Callable[..., Path]


def read(path: Path, size: int = 100) -> ObservationBatch:
    (batch,) = DesiReader().read(path, size)
    return batch


def spectrum(path: Path) -> Spectrum:
    found = read(path).data["desi_spectrum"][0]
    assert isinstance(found, Spectrum)
    return found


@pytest.mark.parametrize("cameras", ["B", "BR", "BZ", "Z"])
def test_what_no_camera_covers_is_bad(make: Make, save: Save, tmp_path: Path, cameras: str) -> None:
    found = spectrum(save(tmp_path / "coadd-a.fits", make(2, cameras=cameras)))
    assert tuple(found.flux.shape) == (2, 7781)
    parts = {"B": range(0, 2751), "R": range(2700, 5026), "Z": range(4900, 7781)}
    covered = np.isin(np.arange(7781), [pixel for name in cameras for pixel in parts[name]])
    assert (found.mask[0].numpy() == ~covered).all()
    assert (found.flux[0][~covered] == 0).all()


def test_a_pixel_bad_in_one_camera_is_that_of_the_other(make: Make, save: Save, tmp_path: Path) -> None:
    hdus = make(1)
    hdus["B_MASK"][0, 2740] = 1 << 10
    hdus["R_FLUX"][0, 41] = np.nan
    hdus["B_IVAR"][0, 2742] = 0
    hdus["R_IVAR"][0, 42] = -1
    found = spectrum(save(tmp_path / "coadd-a.fits", hdus))
    assert found.flux[0, 2740] == hdus["R_FLUX"][0, 40]
    assert found.flux[0, 2741] == hdus["B_FLUX"][0, 2741]
    assert found.mask[0, 2742]
    assert (found.flux[0, 2742], found.ivar[0, 2742]) == (0, 0)
    b, r = (hdus[f"{name}_IVAR"][0, pixel].astype(float) for name, pixel in (("B", 2745), ("R", 45)))
    mean = (b * hdus["B_FLUX"][0, 2745] + r * hdus["R_FLUX"][0, 45]) / (b + r)
    assert float(found.flux[0, 2745]) == pytest.approx(mean, rel=1e-6)


def test_cameras_joined_before_are_the_same_as_joined_here(make: Make, save: Save, tmp_path: Path) -> None:
    hdus = make(3)
    apart = spectrum(save(tmp_path / "coadd-a.fits", hdus))
    joined = {"FIBERMAP": hdus["FIBERMAP"], "BRZ_WAVELENGTH": GRID, "BRZ_FLUX": apart.flux.numpy()}
    joined |= {"BRZ_IVAR": apart.ivar.numpy(), "BRZ_MASK": apart.mask.numpy().astype(np.int32)}
    again = spectrum(save(tmp_path / "coadd-b.fits", joined))
    assert (apart.flux == again.flux).all()
    assert (apart.mask == again.mask).all()


def test_a_joined_coadd_in_log_wavelength_keeps_its_grid(make: Make, save: Save, tmp_path: Path) -> None:
    grid = 10 ** np.arange(3.556, 3.99, 1e-4)
    flux = np.arange(2 * len(grid), dtype=np.float32).reshape(2, -1)
    hdus = {"BRZ_WAVELENGTH": grid, "BRZ_FLUX": flux, "BRZ_IVAR": np.ones_like(flux)}
    fibermap = {"FIBERMAP": make(2)["FIBERMAP"]}
    upward = spectrum(save(tmp_path / "coadd-a.fits", fibermap | hdus))
    assert (upward.flux.numpy() == flux).all()
    assert upward.wavelength[0].numpy() == pytest.approx(grid, rel=1e-6)
    downward = spectrum(save(tmp_path / "coadd-b.fits", fibermap | {n: v[..., ::-1].copy() for n, v in hdus.items()}))
    assert (downward.flux == upward.flux).all()
    assert (downward.wavelength == upward.wavelength).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_coadd_reads_the_same_whatever_its_order_types_and_batches(
    make: Make, save: Save, data: st.DataObject
) -> None:
    count, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    hdus = make(count, seed=data.draw(st.integers(0, 9)), cameras="BR")
    with TemporaryDirectory() as folder:
        plain = spectrum(save(Path(folder, "coadd-a.fits"), hdus))
        changed = {name: hdus[name] for name in data.draw(st.permutations(sorted(hdus.keys() - {"FIBERMAP"})))}
        for name in changed:
            kind = name.partition("_")[2]
            types = {"MASK": ["i4", "u4", "i2"], "WAVELENGTH": ["f8"]}.get(kind, ["f4", "f8"])
            changed[name] = changed[name].astype(data.draw(st.sampled_from("<>")) + data.draw(st.sampled_from(types)))
            if data.draw(st.booleans()) and kind == "WAVELENGTH":  # the camera's pixels in descending order
                camera = name[0]
                flipped = {n: v[..., ::-1].copy() for n, v in changed.items() if n[0] == camera}
                changed = {n: flipped.get(n, v) for n, v in changed.items()}
        if data.draw(st.booleans()):  # all or none: where only some cameras have one, the file is damaged
            del changed["B_MASK"], changed["R_MASK"]
        extra = {"SCORES": {"TARGETID": np.arange(count)}, "B_RESOLUTION": np.zeros((count, 11, 5), np.float32)}
        path = save(Path(folder, "coadd-b.fits"), {"FIBERMAP": hdus["FIBERMAP"]} | changed | extra)
        batches = list(DesiReader().read(path, size))
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        found = Spectrum.concatenate([batch.data["desi_spectrum"][0] for batch in batches])
    np.testing.assert_array_equal(found.mask, plain.mask)
    np.testing.assert_allclose(found.flux, plain.flux, rtol=1e-6)
    np.testing.assert_allclose(found.ivar, plain.ivar, rtol=1e-6)


# --- units ---


def test_another_unit_is_stated(make: Make, save: Save, tmp_path: Path) -> None:
    hdus = make(1)
    same = {f"{name}_FLUX": "10**-17 erg/(s cm2 Angstrom)" for name in "BRZ"}
    assert spectrum(save(tmp_path / "coadd-a.fits", hdus, same)).unit is None
    other = {f"{name}_FLUX": "W m-2 nm-1" for name in "BRZ"}
    stated = spectrum(save(tmp_path / "coadd-b.fits", hdus, other))
    assert float(stated.in_unit(UNIT).flux[0, 0]) == pytest.approx(hdus["B_FLUX"][0, 0] * 1e19, rel=1e-5)
    nanometres = hdus | {f"{name}_WAVELENGTH": hdus[f"{name}_WAVELENGTH"] / 10 for name in "BRZ"}
    scaled = save(tmp_path / "coadd-c.fits", nanometres, {f"{name}_WAVELENGTH": "nm" for name in "BRZ"})
    assert (spectrum(scaled).flux == stated.flux).all()


# --- damage ---


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("B_FLUX", lambda a: None, r"HDU B_FLUX is missing; the file has .*R_IVAR"),
        ("R_IVAR", lambda a: None, "HDU R_IVAR is missing"),
        ("R_FLUX", lambda a: a[:, :-1], r"HDU R_FLUX has shape \(3, 2325\); expected \(3, 2326\)"),
        ("Z_MASK", lambda a: None, "HDU Z_MASK is missing, though B_MASK is there"),
        ("Z_MASK", lambda a: a[:2], r"HDU Z_MASK has shape \(2, 2881\)"),
        ("B_WAVELENGTH", lambda a: np.where(a == a[7], np.nan, a), "HDU B_WAVELENGTH, pixel 8: the wavelength is nan"),
        ("B_WAVELENGTH", lambda a: np.roll(a, 9), "HDU B_WAVELENGTH, pixel 10: .*neither ascend nor descend"),
        ("Z_WAVELENGTH", lambda a: a + 0.4, "HDU Z_WAVELENGTH is not part of the grid"),
    ],
)
def test_a_damaged_camera_is_refused_with_its_hdu(
    make: Make, save: Save, tmp_path: Path, name: str, change: Callable[[Any], Any], sentence: str
) -> None:
    hdus = make(3)
    hdus[name] = change(hdus[name])
    with pytest.raises(InputError, match=rf"coadd-a\.fits: .*{sentence}"):
        read(save(tmp_path / "coadd-a.fits", hdus))


def test_odd_units_are_refused_with_the_hdu(make: Make, save: Save, tmp_path: Path) -> None:
    for name, unit in (("B_FLUX", "parrots"), ("B_WAVELENGTH", "Jy")):
        with pytest.raises(InputError, match=rf"HDU {name}: .*{unit}"):
            read(save(tmp_path / "coadd-a.fits", make(1), {name: unit}))
    with pytest.raises(InputError, match="different units"):
        read(save(tmp_path / "coadd-a.fits", make(1), {"B_FLUX": "W m-2 nm-1"}))


def test_a_fibermap_without_spectra_is_refused(make: Make, save: Save, tmp_path: Path) -> None:
    path = save(tmp_path / "fibermap-1.fits", {"FIBERMAP": make(3)["FIBERMAP"]})
    assert DesiReader().claims(path)
    with pytest.raises(InputError, match=r"fibermap-1\.fits: HDU B_WAVELENGTH .* is missing"):
        read(path)


def test_spectra_without_a_good_pixel_are_skipped_and_the_others_read(make: Make, save: Save, tmp_path: Path) -> None:
    hdus = make(3)
    for name in "BRZ":
        hdus[f"{name}_MASK"][0] = 1
        hdus[f"{name}_IVAR"][2] = 0
    batch = read(save(tmp_path / "coadd-a.fits", hdus))
    assert batch.object_id.tolist() == [str(hdus["FIBERMAP"]["TARGETID"][1])]
    assert [skipped.name.split(" (")[0] for skipped in batch.skipped] == ["row 1", "row 3"]
    assert {skipped.reason for skipped in batch.skipped} == {"every pixel of every camera is masked or has no weight"}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_memory_does_not_grow_with_the_file(make: Make, save: Save, tmp_path: Path, suffix: str) -> None:
    hdus = make(1)
    hdus = {n: v if v.ndim == 1 else np.repeat(v, 1000, 0) for n, v in hdus.items() if n != "FIBERMAP"}
    path = save(tmp_path / "coadd-a.fits", {"FIBERMAP": {"TARGETID": np.arange(1000)}} | hdus)
    assert path.stat().st_size > 90 << 20
    if suffix:
        packed = tmp_path / "coadd-b.fits.gz"
        with gzip.open(packed, "wb", 1) as target, path.open("rb") as source:
            shutil.copyfileobj(source, target)
        path = packed
    grown, count = memory_growth(path, 64)
    assert count == 1000
    assert grown < 45 << 20
