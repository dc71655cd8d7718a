"""Legacy Surveys catalogues against values read from the files independently."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from aion_tok_legacy.reader import CatalogueReader
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data.files import find_files

AXES = ("r", "e1", "e2")
GALAXY = "9011-607466-2657"


def read(path: Path, batch_size: int = 1000) -> dict[str, dict[str, float]]:
    """Return ``{object id: {key: value}}`` of a whole file."""
    reader = CatalogueReader()
    assert reader.claims(path)
    objects: dict[str, dict[str, float]] = {}
    for batch in reader.read(path, batch_size):
        assert len(batch) <= batch_size
        for i, name in enumerate(batch.object_id):
            objects[str(name)] = {"ra": batch.ra[i], "dec": batch.dec[i]}
        for key, (observation, rows) in batch.data.items():
            if key == "catalog_sources":
                continue  # test_sources.py
            for value, row in zip(observation.value.numpy(), rows, strict=True):
                objects[str(batch.object_id[row])][key.removeprefix("legacy_")] = value
    return objects


def table(**columns: object) -> Table:
    """A table of two objects with the columns that every catalogue has, and more."""
    base = {"RA": [1.0, 2.0], "DEC": [3.0, 4.0], "RELEASE": [9010, 9010], "BRICKID": [7, 7], "OBJID": [0, 1]}
    return Table(base | {"FLUX_G": [5.0, 6.0], "FLUX_R": [7.0, 8.0]} | columns)


@pytest.fixture
def legacy(sample_dir: Path) -> Path:
    return sample_dir / "legacysurvey"


# --- real files ---


def test_a_tractor_row_gives_every_number_as_it_stands(legacy: Path) -> None:
    path = legacy / "fastspecfit/tractor-1054p567.fits"
    row = fits.getdata(path, 1)[0]
    ((name, measured),) = read(path).items()
    assert name == GALAXY == f"{row['RELEASE']}-{row['BRICKID']}-{row['OBJID']}"
    assert (measured.pop("ra"), measured.pop("dec")) == (row["RA"], row["DEC"])
    fluxes = {f"flux_{b}": row[f"FLUX_{b.upper()}"] for b in ("g", "r", "z", "w1", "w2", "w3", "w4")}
    assert measured == fluxes | {"ebv": row["EBV"]} | {f"shape_{a}": row[f"SHAPE_{a.upper()}"] for a in AXES}


@pytest.mark.parametrize("name", ["sweep-320m005-330p000", "sweep-310m005-320p000", "tractor-3301m002"])
def test_up_to_dr8_the_shape_is_that_of_the_objects_type(legacy: Path, name: str) -> None:
    path = legacy / f"desitarget/{name}.fits"
    objects = list(read(path).values())
    assert len(objects) == 6
    prefix = {"DEV": "SHAPEDEV", "EXP": "SHAPEEXP", "REX": "SHAPEEXP"}
    for row, measured in zip(fits.getdata(path, 1), objects, strict=True):
        for axis in AXES:
            shape = 0.0 if row["TYPE"] == "PSF" else row[f"{prefix[row['TYPE']]}_{axis.upper()}"]
            assert measured[f"shape_{axis}"] == np.float32(shape)
        assert measured["flux_r"] == row["FLUX_R"]
        assert measured["flux_w4"] == row["FLUX_W4"]


def test_a_target_file_gives_what_it_has(legacy: Path) -> None:
    path = legacy / "desitarget/targets.fits"
    objects = read(path, batch_size=300)
    assert len(objects) == 1001
    rows = fits.getdata(path, 1)
    for i, measured in enumerate(objects.values()):
        assert measured.keys() - {"ra", "dec"} == {f"flux_{b}" for b in ("g", "r", "z", "w1", "w2")}
        assert measured["flux_z"] == rows["FLUX_Z"][i]
        assert (measured["ra"], measured["dec"]) == (rows["RA"][i], rows["DEC"][i])
    assert list(objects)[::500] == ["targets-0", "targets-500", "targets-1000"]
    assert min(measured["flux_w2"] for measured in objects.values()) < 0


def test_the_same_object_has_the_same_identifier_in_every_file(legacy: Path) -> None:
    found = [read(path) for path in find_files([legacy / "desitarget"]) if path.name != "targets.fits"]
    assert sum(map(len, found)) == len({name for objects in found for name in objects}) == 24


def test_before_dr5_the_bands_of_a_camera_lie_in_one_column(legacy: Path) -> None:
    path = legacy / "tractor_single_exposure/tractor-1816p325-sub.fits"
    rows = fits.getdata(path, 1)
    devaucouleurs, exponential = read(path).values()
    assert list(read(path)) == ["508648-667", "508648-668"]
    for i, measured in enumerate((devaucouleurs, exponential)):
        wise = {f"flux_w{n + 1}": rows["wise_flux"][i, n] for n in range(4)}
        z = {"flux_z": rows["decam_flux"][i, 4], "ebv": rows["ebv"][i]}  # no exposure in g and r
        assert {k: v for k, v in measured.items() if k[:4] in ("flux", "ebv")} == wise | z
    assert devaucouleurs["shape_r"] == rows["shapedev_r"][0] > 6
    assert exponential["shape_r"] == rows["shapeexp_r"][1] == np.float32(0.45)


def test_images_and_psfs_are_not_claimed(legacy: Path) -> None:
    folders = ("pysersic", "desitarget_dr6_crop", "tractor_single_exposure")
    paths = [path for path in find_files(legacy / folder for folder in folders) if "tractor-" not in path.name]
    assert len(paths) == 8
    for path in paths:
        assert not CatalogueReader().claims(path)


def test_no_other_real_file_is_claimed(sample_dir: Path) -> None:
    for folder in ("desi", "gaia", "galaxyzoo", "hsc", "sdss"):
        for path in find_files([sample_dir / folder]):
            assert not CatalogueReader().claims(path), path


@pytest.mark.parametrize("size", [1, 4, 6])
def test_batches_of_any_size_hold_the_same(legacy: Path, size: int) -> None:
    path = legacy / "desitarget/sweep-320m005-330p000.fits"
    assert read(path, size) == read(path)


# --- what is not measured ---


def test_a_band_without_exposures_or_weight_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    columns = {"FLUX_IVAR_G": [1.0, 0.0], "NOBS_R": [0, 3], "FLUX_IVAR_R": [1.0, 1.0], "FLUX_W1": [0.0, 2.0]}
    table(**columns).write(path)
    first, second = read(path).values()
    assert first.keys() - {"ra", "dec"} == {"flux_g"}
    assert second.keys() - {"ra", "dec"} == {"flux_r", "flux_w1"}


def test_a_measured_flux_of_zero_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    table(FLUX_W1=[0.0, -1.0], FLUX_IVAR_W1=[2.0, 2.0]).write(path)
    assert [measured["flux_w1"] for measured in read(path).values()] == [0, -1]


def test_values_that_are_not_finite_are_absent(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    table(EBV=[np.nan, 0.1], FLUX_Z=[np.inf, 1.0], RA=[np.nan, 2.0]).write(path)
    first, second = read(path).values()
    assert np.isnan(first["ra"])
    assert {"ebv", "flux_z"}.isdisjoint(first)
    assert {"ebv", "flux_z"} <= second.keys()


def test_a_composite_has_the_shape_of_its_brighter_component(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    shapes = {f"shape{m}_{a}": [v, v] for m, v in (("dev", 1.0), ("exp", 2.0)) for a in AXES}
    table(TYPE=["COMP", "COMP"], FRACDEV=[0.7, 0.2], **shapes).write(path)
    assert [measured["shape_e1"] for measured in read(path).values()] == [1.0, 2.0]


def test_an_object_without_a_fitted_model_has_no_shape(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    table(TYPE=["DUP", "PSF"], **{f"SHAPE_{a.upper()}": [0.0, 0.0] for a in AXES}).write(path)
    first, second = read(path).values()
    assert "shape_r" not in first
    assert second["shape_r"] == 0
    shapes = {f"SHAPE{m}_{a.upper()}": [0.5, 0.5] for m in ("DEV", "EXP") for a in AXES}
    table(TYPE=["NEW", "EXP"], **shapes).write(path, overwrite=True)
    first, second = read(path).values()
    assert "shape_r" not in first
    assert second["shape_r"] == 0.5


def test_target_files_name_type_and_number_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    shapes = {f"SHAPE{m}_{a.upper()}": [0.5, 0.6] for m in ("DEV", "EXP") for a in AXES}
    rows = table(MORPHTYPE=["DEV", "EXP"], **shapes)
    rows.rename_column("OBJID", "BRICK_OBJID")
    rows.write(path)
    objects = read(path)
    assert list(objects) == ["9010-7-0", "9010-7-1"]
    assert [measured["shape_r"] for measured in objects.values()] == pytest.approx([0.5, 0.6])


def test_rows_of_another_brick_are_skipped_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    rows = table(BRICK_PRIMARY=[False, True], TYPE=["PSF", "PSF"])
    rows["SHAPE_R"], rows["SHAPE_E1"], rows["SHAPE_E2"] = 0.0, 0.0, 0.0
    rows.write(path)
    (batch,) = CatalogueReader().read(path, 10)
    assert list(batch.object_id) == ["9010-7-1"]
    assert batch.ra == [2.0]
    (skipped,) = batch.skipped
    assert skipped.name == "row 0"
    assert "another brick" in skipped.reason
    assert len(batch.data["legacy_flux_g"][1]) == len(batch.data["legacy_shape_r"][1]) == 1


def test_an_impossible_position_is_unknown_and_its_neighbours_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    rows = table()
    rows["DEC"] = [100.0, 5.0]
    rows.write(path)
    (batch,) = CatalogueReader().read(path, 10)
    assert np.isnan([batch.ra[0], batch.dec[0]]).all()
    assert batch.dec[1] == 5
    assert len(batch.data["legacy_flux_g"][1]) == 2


# --- damaged and foreign files ---


def test_a_file_that_is_cut_short_is_refused(legacy: Path, tmp_path: Path) -> None:
    whole = (legacy / "desitarget/targets.fits").read_bytes()
    path = tmp_path / "cut.fits"
    path.write_bytes(whole[:60_000])
    with pytest.raises(InputError, match=r"cut\.fits: the file is cut short \(60000 bytes"):
        read(path)
    packed = tmp_path / "cut.fits.gz"
    packed.write_bytes(gzip.compress(whole)[:40_000])
    with pytest.raises(InputError, match=r"cut\.fits\.gz"):
        read(packed)


def test_a_column_of_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    table(EBV=["a", "b"]).write(path)
    with pytest.raises(InputError, match=r"rows\.fits: column ebv holds"):
        read(path)
    table(FLUX_Z=[[1.0, 2.0], [3.0, 4.0]]).write(path, overwrite=True)
    with pytest.raises(InputError, match=r"column flux_z holds float64 \(2,\)"):
        read(path)


@pytest.mark.parametrize("missing", ["RA", "RELEASE"])
def test_tables_without_what_identifies_a_catalogue_are_not_claimed(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "rows.fits"
    rows = table()
    rows.remove_column(missing)
    rows.write(path)
    assert not CatalogueReader().claims(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"SIMPLE  =", b"SIMPLE  = T", b"\x1f\x8b\x08"]))
def test_whatever_the_bytes_claiming_answers(content: bytes, head: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "file.fits")
        path.write_bytes(head + content)
        assert CatalogueReader().claims(path) is False


# --- any order, type and spelling of columns ---

numbers = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf, -np.inf]))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_columns_are_found_in_any_order_type_and_case(data: st.DataObject, size: int) -> None:
    names = data.draw(st.sets(st.sampled_from(["flux_g", "flux_w1", "ebv"]))) | {"flux_r"}
    truth = {name: data.draw(st.lists(numbers, min_size=size, max_size=size)) for name in names}
    reals, integers = st.sampled_from([">f8", "<f8", ">f4", "<f4"]), st.sampled_from([">i4", "<i4", ">i8", "<i8"])
    columns = {name: np.array(values, data.draw(reals)) for name, values in truth.items()}
    columns |= {name: np.arange(size).astype(data.draw(integers)) for name in ("release", "brickid", "objid")}
    columns |= {name: np.arange(size, dtype=">f8") for name in ("ra", "dec", "extra")}
    columns |= {f"flux_ivar_{name[5:]}": np.ones(size) for name in names - {"ebv"}}
    order = data.draw(st.permutations(sorted(columns)))
    spelt = data.draw(st.sampled_from([str.upper, str.lower, str.title]))
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.fits")
        Table({spelt(name): columns[name] for name in order}).write(path)
        objects = read(path, batch_size=2)
    assert list(objects) == [f"{i}-{i}-{i}" for i in range(size)]
    for i, measured in enumerate(objects.values()):
        assert measured.keys() - {"ra", "dec"} == {name for name in names if np.isfinite(truth[name][i])}
        for name in measured.keys() & names:
            assert measured[name] == np.float32(truth[name][i])
