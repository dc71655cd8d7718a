"""Tables whose columns the user names: every format, redshifts, sources by group and by position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from aion_tok_catalog.reader import TableReader
from aion_tok_catalog.sources import on_crop
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data import ObservationBatch
from aion_core.data.files import NotClaimedError, build_reader, find_files, find_reader
from aion_core.plugins import load_registry
from aion_core.testing import ReaderContract

REDSHIFTS = {"files": ["*"], "object_id": "name", "ra": "ra", "dec": "dec", "redshift": "z"}
SHAPES = {"e1": "e1", "e2": "e2", "radius": "r"}
#: Suffix -> what astropy calls the format.
FORMATS = {
    "fits": "fits", "csv": "ascii.csv", "ecsv": "ascii.ecsv", "vot": "votable", "parquet": "parquet", "hdf5": "hdf5",
    "tsv": "ascii.tab", "dat": "ascii.basic",
}  # fmt: skip
ID = 39627866878511337


def reader(*entries: dict[str, Any]) -> TableReader:
    return TableReader(TableReader.Options.model_validate({"tables": list(entries)}))


def read(path: Path, *entries: dict[str, Any], size: int = 100) -> list[ObservationBatch]:
    found = reader(*entries)
    assert found.claims(path)
    return list(found.read(path, size))


def table(count: int = 5) -> Table:
    columns = {"name": ID + np.arange(count), "ra": 10.0 + np.arange(count), "dec": -5.0 + np.arange(count)}
    return Table(columns | {"z": np.arange(count) / 10, "extra": ["x"] * count})


def write(rows: Table, folder: Path, suffix: str) -> Path:
    path = folder / f"rows.{suffix}"
    more = {"path": "data", "serialize_meta": True} if suffix == "hdf5" else {}
    rows.write(path, format=FORMATS[suffix], overwrite=True, **more)
    return path


class TestContract(ReaderContract):
    reader = "catalog_tables"
    options = {"tables": [REDSHIFTS]}  # noqa: RUF012
    shows_cuts = False

    def files(self, folder: Path) -> Sequence[Path]:
        return [write(table(40), folder, suffix) for suffix in ("fits", "csv", "parquet")]


# --- formats ---


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_objects(tmp_path: Path, suffix: str) -> None:
    batches = read(write(table(), tmp_path, suffix), REDSHIFTS, size=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [name for batch in batches for name in batch.object_id] == [str(ID + i) for i in range(5)]
    assert np.concatenate([batch.ra for batch in batches]).tolist() == [10, 11, 12, 13, 14]
    values = [value for batch in batches for value in batch.data["catalog_redshift"][0].value.tolist()]
    assert values == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "vot", "parquet", "hdf5"])
def test_units_are_honoured(tmp_path: Path, suffix: str) -> None:
    rows = QTable({"name": ["a"], "ra": [900.0] * units.arcmin, "dec": [60.0] * units.arcmin, "z": [0.5], "r": [0.1]})
    rows["r"].unit = units.arcmin
    path = write(Table(rows), tmp_path, suffix)
    (batch,) = read(path, REDSHIFTS)
    assert (batch.ra[0], batch.dec[0]) == pytest.approx((15, 1))
    wrong = REDSHIFTS | {"redshift": "r"}
    with pytest.raises(InputError, match=r"rows\..*: column r: .*arcmin.*expected a number without unit"):
        read(path, wrong)


@pytest.mark.parametrize("suffix", ["ecsv", "vot", "fits", "parquet"])
def test_missing_values_are_absent(tmp_path: Path, suffix: str) -> None:
    rows = table(3)
    rows["z"] = MaskedColumn([0.1, 0.2, 0.3], mask=[False, True, False])
    if suffix in ("fits", "parquet"):
        rows["z"] = rows["z"].filled(np.nan)
    (batch,) = read(write(rows, tmp_path, suffix), REDSHIFTS)
    assert (len(batch), batch.data["catalog_redshift"][1].tolist()) == (3, [0, 2])


def test_redshifts_with_a_warning_or_without_sense_are_absent(tmp_path: Path) -> None:
    rows = table(4)
    rows["z"] = [0.1, 0.2, -9999.0, np.inf]
    rows["zwarn"] = [0, 4, 0, 0]
    for suffix in ("fits", "csv"):
        (batch,) = read(write(rows, tmp_path, suffix), REDSHIFTS | {"warning": "zwarn"})
        assert batch.data["catalog_redshift"][1].tolist() == [0]


def test_objects_without_names_are_called_by_file_and_row(tmp_path: Path) -> None:
    entry = {"files": ["rows.*"], "redshift": "Z"}
    batches = read(write(table(3), tmp_path, "fits"), entry, size=2)
    assert [name for batch in batches for name in batch.object_id] == ["rows-0", "rows-1", "rows-2"]
    assert np.isnan(batches[0].ra).all()


def test_identifiers_that_lost_their_digits_are_refused(tmp_path: Path) -> None:
    rows = table(2)
    rows["name"] = rows["name"].astype(float)
    with pytest.raises(InputError, match="column name holds float64, which has not the digits"):
        read(write(rows, tmp_path, "fits"), REDSHIFTS)
    rows["name"] = [1.0, 2.0]
    assert read(write(rows, tmp_path, "fits"), REDSHIFTS)[0].object_id.tolist() == ["1", "2"]


# --- which tables ---


def test_no_table_is_claimed_that_is_not_named(tmp_path: Path) -> None:
    path = write(table(), tmp_path, "fits")
    with pytest.raises(NotClaimedError, match=r"rows\.fits: no installed reader recognises .*name, ra, dec, z, extra"):
        reader().claims(path)
    assert not reader().claims(write(table(), tmp_path, "vot"))
    with pytest.raises(NotClaimedError):
        reader(REDSHIFTS | {"files": ["others-*.fits"]}).claims(path)
    assert reader(REDSHIFTS | {"files": [f"{tmp_path}/*"]}).claims(path)


def test_columns_that_a_table_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotClaimedError, match=r"rows\.csv: columns .* are missing: photoz; the table has name, ra"):
        reader(REDSHIFTS | {"redshift": "photoz"}).claims(write(table(), tmp_path, "csv"))


def test_the_first_entry_for_a_file_counts(tmp_path: Path) -> None:
    rows = table(2)
    rows["zphot"] = [0.8, 0.9]
    path = write(rows, tmp_path, "csv")
    (batch,) = read(path, REDSHIFTS | {"files": ["rows*"], "redshift": "zphot"}, REDSHIFTS)
    assert batch.data["catalog_redshift"][0].value.tolist() == pytest.approx([0.8, 0.9])


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"files": ["*"]}, r"tables\.0: name a column of redshifts, or those of sources"),
        ({"redshift": "z"}, r"'tables\.0\.files' is missing"),
        ({"files": ["*"], "redshift": "z", "ra": "ra"}, "name both ra and dec"),
        ({"files": ["*"], "sources": SHAPES}, "either x and y, or ra and dec"),
        ({"files": ["*"], "sources": SHAPES | {"x": "x", "y": "y"}}, r"tables\.0\.sources: .* need group"),
        ({"files": ["*"], "redshif": "z"}, r"no setting 'tables\.0\.redshif'"),
    ],
)
def test_options_without_sense_are_refused(entry: dict[str, Any], sentence: str) -> None:
    (spec,) = (spec for spec in load_registry().readers if spec.name == "catalog_tables")
    with pytest.raises(InputError, match=rf"\[catalog_tables\]: .*{sentence}"):
        build_reader(spec, {"catalog_tables": {"tables": [entry]}})


def test_damaged_tables_are_refused_with_their_path(tmp_path: Path) -> None:
    for suffix in ("fits", "parquet", "hdf5", "vot"):
        path = write(table(2000), tmp_path, suffix)
        path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
        with pytest.raises((InputError, NotClaimedError), match=rf"rows\.{suffix}"):
            read(path, REDSHIFTS)
    text = tmp_path / "rows.csv"
    text.write_text("name,ra,dec,z\na,1,2,0.1\nb,1,2,much\n")
    with pytest.raises(InputError, match=r"rows\.csv: column z, row 1: 'much'"):
        read(text, REDSHIFTS)


def test_votes_without_redshifts_are_refused_and_light_curves_read(sample_dir: Path) -> None:
    registry = load_registry()
    for path in find_files([sample_dir / "galaxyzoo"]):
        with pytest.raises(NotClaimedError, match="name its columns in"):
            find_reader(path, registry)
    entry = {"files": ["*.hdf5"], "object_id": "object_id", "ra": "ra", "dec": "dec", "redshift": "redshift"}
    (batch,) = read(sample_dir / "mmu/example_SN2004dt.hdf5", entry)
    assert batch.object_id.tolist() == ["SN2004dt"]
    assert batch.data["catalog_redshift"][0].value.tolist() == pytest.approx([0.0197])
    (names,) = read(sample_dir / "galaxyzoo/example_ring_catalog_basic.csv",
                    {"files": ["example_ring*"], "object_id": "id_str", "redshift": "ring"}, size=500)  # fmt: skip
    assert (len(names), names.object_id[0]) == (470, "J000411.19+020924.0")


# --- sources ---


def sources(path: Path, *entries: dict[str, Any], size: int = 100) -> dict[str, list[list[float]]]:
    """Return ``{object id: [[x, y, e1, e2, radius], …]}``."""
    found: dict[str, list[list[float]]] = {}
    for batch in read(path, *entries, size=size):
        found |= {str(name): [] for name in batch.object_id}
        observation, rows = batch.data["catalog_sources"]
        parts = np.stack([getattr(observation, name).numpy() for name in ("x", "y", "e1", "e2", "radius")], -1)
        for row, listed in zip(rows, parts, strict=True):
            found[str(batch.object_id[row])] = listed[np.isfinite(listed).all(1)].tolist()
    return found


def groups(keys: Sequence[str], rng: np.random.Generator) -> Table:
    count = len(keys)
    columns = {name: rng.uniform(0, 95, count).round(3) for name in ("x", "y")}
    columns |= {"e1": np.zeros(count), "e2": np.zeros(count), "r": np.arange(count) + 1.0, "image": list(keys)}
    return Table(columns)


GROUPED = {"files": ["*"], "sources": SHAPES | {"x": "x", "y": "y", "group": "image"}}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 3))
def test_rows_of_a_group_are_the_sources_of_one_object_the_nearest_first(counts: list[int], size: int) -> None:
    keys = [f"image {i}" for i, count in enumerate(counts) for _ in range(count)]
    rows = groups(keys, np.random.default_rng(len(keys)))
    with TemporaryDirectory() as folder:
        found = sources(write(rows, Path(folder), "csv"), GROUPED, size=size)
    assert [len(listed) for listed in found.values()] == counts
    for key, listed in found.items():
        mine = rows[rows["image"] == key]
        order = np.argsort(np.hypot(mine["x"] - 47.5, mine["y"] - 47.5))
        assert [one[0] for one in listed] == pytest.approx(mine["x"][order].tolist(), rel=1e-6)
        assert [one[4] for one in listed] == mine["r"][order].tolist()


def test_groups_longer_than_a_slice_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aion_tok_catalog.reader.ROWS", 3)
    rows = groups(["a"] * 4 + ["b"] * 7 + ["c"], np.random.default_rng(0))
    found = sources(write(rows, tmp_path, "fits"), GROUPED, size=2)
    assert [len(listed) for listed in found.values()] == [4, 7, 1]


def test_a_group_that_occurs_again_is_refused(tmp_path: Path) -> None:
    rows = groups(["a", "b", "a"], np.random.default_rng(0))
    with pytest.raises(InputError, match=r"rows\.csv: row 3: image a occurs again .* sort"):
        sources(write(rows, tmp_path, "csv"), GROUPED)


def test_sources_off_the_crop_or_without_all_their_numbers_are_left_out(tmp_path: Path) -> None:
    rows = groups(["a", "a", "a", "b"], np.random.default_rng(0))
    rows["x"][0], rows["y"][1], rows["r"][3] = 95.6, -0.6, np.nan
    found = sources(write(rows, tmp_path, "fits"), GROUPED)
    assert {name: len(listed) for name, listed in found.items()} == {"a": 1, "b": 0}


def test_pixels_are_those_of_a_tangent_plane_north_up_and_east_left() -> None:
    rng = np.random.default_rng(1)
    for dec0 in (-80.0, 0.0, 45.0):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [359.999, dec0], [49, 49]  # from 1
        wcs.wcs.cdelt = [-0.262 / 3600, 0.262 / 3600]
        ra, dec = wcs.all_pix2world(*rng.uniform(0, 95, (2, 20)), 0)
        x, y = on_crop(ra, dec, np.full(20, 359.999), np.full(20, dec0), 0.262)
        np.testing.assert_allclose(np.stack([x, y]), wcs.all_world2pix(ra, dec, 0), atol=1e-6)


def field(count: int, rng: np.random.Generator) -> Table:
    columns = {"ra": rng.uniform(0, 0.02, count) % 360, "dec": rng.uniform(-0.01, 0.01, count)}
    shape = {"e1": rng.normal(size=count), "e2": rng.normal(size=count), "r": rng.uniform(1, 2, count)}
    return Table(columns | shape | {"name": np.arange(count), "z": rng.uniform(0, 1, count)})


@pytest.mark.parametrize("centres", [50_000, 7])
def test_sources_around_each_row_are_all_that_lie_in_its_crop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, centres: int
) -> None:
    monkeypatch.setattr("aion_tok_catalog.reader.CENTRES", centres)
    monkeypatch.setattr("aion_tok_catalog.reader.ROWS", 11)
    rows = field(60, np.random.default_rng(2))
    entry = REDSHIFTS | {"sources": SHAPES | {"ra": "ra", "dec": "dec"}}
    found = sources(write(rows, tmp_path, "fits"), entry, size=5)
    sky = SkyCoord(rows["ra"], rows["dec"], unit="deg")
    for i, listed in enumerate(found.values()):
        east, north = (angle.arcsec / 0.262 for angle in sky[i].spherical_offsets_to(sky))
        x, y = 48 - east, 48 + north
        inside = (x >= -0.5) & (x < 95.5) & (y >= -0.5) & (y < 95.5)
        assert sorted(one[4] for one in listed) == pytest.approx(sorted(rows["r"][inside]), rel=1e-6)
        assert listed[0][:2] == pytest.approx([48, 48], abs=1e-4)  # the object itself
        assert listed == sorted(listed, key=lambda one: np.hypot(one[0] - 47.5, one[1] - 47.5))


def test_objects_may_be_in_a_table_of_their_own(tmp_path: Path) -> None:
    rows = field(30, np.random.default_rng(3))
    centres = tmp_path / "centres.csv"
    Table({"name": ["here", "elsewhere"], "ra": [0.01, 200.0], "dec": [0.0, 0.0], "z": [0.3, 0.4]}).write(centres)
    entry = REDSHIFTS | {
        "files": ["rows.fits"],
        "sources": SHAPES | {"ra": "ra", "dec": "dec", "centres": str(centres)},
    }
    path = write(rows, tmp_path, "fits")
    (batch,) = read(path, entry)
    assert batch.object_id.tolist() == ["here", "elsewhere"]
    assert batch.data["catalog_sources"][1].tolist() == [0]
    assert batch.data["catalog_redshift"][0].value.tolist() == pytest.approx([0.3, 0.4])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_columns_are_found_in_any_order_type_and_case(data: st.DataObject, size: int) -> None:
    numbers = st.one_of(st.floats(-0.5, 10, width=32), st.just(np.nan))
    truth = data.draw(st.lists(numbers, min_size=size, max_size=size))
    kinds = st.sampled_from([">f8", "<f8", ">f4", "<f4"])
    columns: dict[str, Any] = {"z": np.array(truth, data.draw(kinds)), "name": np.arange(size, dtype=">i8")}
    columns |= {axis: np.arange(size).astype(data.draw(kinds)) for axis in ("ra", "dec", "other")}
    spelt = data.draw(st.sampled_from([str.upper, str.lower, str.title]))
    order = data.draw(st.permutations(sorted(columns)))
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.fits")
        fits.BinTableHDU(Table({spelt(name): columns[name] for name in order})).writeto(path)
        (batch,) = read(path, REDSHIFTS)
    assert batch.ra.dtype == np.float64
    assert batch.ra.dtype.isnative
    assert batch.data["catalog_redshift"][0].value.tolist() == [v for v in truth if np.isfinite(v)]
