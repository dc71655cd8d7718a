"""Gaia files, as the archive and other projects hand them out, against values read from them independently."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from aion_tok_gaia.reader import ArchiveReader, ArrayReader
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data.files import NotClaimedError, find_reader, sample_files
from aion_core.plugins import load_registry

PROXIMA, MISSING_BP = "5853498713190525696", "5405570973190252288"
XP = ("gaia_xp_bp", "gaia_xp_rp")
FLUXES = ("gaia_flux_g", "gaia_flux_bp", "gaia_flux_rp")


def read(path: Path, batch_size: int = 1000) -> dict[str, dict[str, np.ndarray]]:
    """Return ``{object id: {key: value}}`` of a whole file."""
    reader = ArrayReader() if path.suffix == ".npz" else ArchiveReader()
    assert reader.claims(path)
    objects: dict[str, dict[str, np.ndarray]] = {}
    for batch in reader.read(path, batch_size):
        assert len(batch) <= batch_size
        for i, name in enumerate(batch.object_id):
            objects[str(name)] = {"ra": batch.ra[i], "dec": batch.dec[i]}
        for key, (observation, rows) in batch.data.items():
            for value, row in zip(observation.value.numpy(), rows, strict=True):
                objects[str(batch.object_id[row])][key] = value
    return objects


def count(objects: dict[str, dict[str, np.ndarray]], key: str) -> int:
    return sum(key in measured for measured in objects.values())


@pytest.fixture(scope="module")
def gaia(sample_dir: Path) -> Path:
    return sample_dir / "gaia"


@pytest.fixture
def source_table(gaia: Path) -> Table:
    return Table.read(gaia / "astroquery/1712337806100O-result.ecsv", format="ascii.ecsv")


# --- real files ---


@pytest.mark.parametrize("name", ["XP_CONTINUOUS_RAW.csv", "XP_CONTINUOUS_RAW.fits", "XP_CONTINUOUS_RAW.xml"])
def test_the_coefficients_are_the_same_in_every_format(gaia: Path, name: str) -> None:
    objects = read(gaia / "gaiaxpy" / name)
    assert objects[PROXIMA]["gaia_xp_bp"][0] == np.float32(56947.03696840172)
    with (gaia / "gaiaxpy/XP_CONTINUOUS_RAW.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(objects) == [row["source_id"] for row in rows]
    for row in rows:
        for key, column in zip(XP, ("bp_coefficients", "rp_coefficients"), strict=True):
            expected = np.array(json.loads(f"[{row[column][1:-1]}]"), np.float32)
            np.testing.assert_array_equal(objects[row["source_id"]][key], expected)


def test_a_source_without_bp_lacks_that_modality_only(gaia: Path) -> None:
    objects = read(gaia / "gaiaxpy/XP_CONTINUOUS_RAW_with_missing_BP.csv")
    assert len(objects) == 3
    assert count(objects, "gaia_xp_bp") == 2
    assert count(objects, "gaia_xp_rp") == 3
    assert "gaia_xp_bp" not in objects[MISSING_BP]
    assert objects[MISSING_BP]["gaia_xp_rp"][0] == np.float32(38.18018501664883)


def test_a_row_with_spectrum_and_magnitude_yields_both(gaia: Path) -> None:
    (measured,) = read(gaia / "gaiaxpy/18Sco-XP-spectra.csv").values()
    assert {*XP, "gaia_flux_g"} == measured.keys() - {"ra", "dec"}
    assert measured["gaia_flux_g"] == pytest.approx(10 ** (0.4 * (25.6873668671 - 5.327651)), rel=1e-6)
    assert measured["gaia_xp_bp"][0] == np.float32(9226249.48757417)


def test_a_spectrum_alone_has_no_position(gaia: Path) -> None:
    for measured in read(gaia / "gaiaxpy/XP_CONTINUOUS_RAW.fits").values():
        assert np.isnan(measured["ra"])
        assert np.isnan(measured["dec"])
        assert "gaia_ra" not in measured


def test_plain_arrays_are_bp_then_rp(gaia: Path) -> None:
    path = gaia / "xp_coefficients_only/gaia_dr3_xp_c110_binary_subset.npz"
    objects = read(path, batch_size=1000)
    with np.load(path) as file:
        assert list(objects) == [str(i) for i in file["source_id"]]
        values = np.array([np.concatenate([o[key] for key in XP]) for o in objects.values()])
        np.testing.assert_array_equal(values, file["X"])
    assert len(objects) == 2815


def test_dr2_rows_without_colour_or_parallax_lack_these(gaia: Path) -> None:
    path = gaia / "legacypipe/chunk-05483.fits"
    objects = read(path, batch_size=100)
    assert len(objects) == 884
    found = {key: count(objects, key) for key in (*FLUXES, "gaia_parallax", "gaia_ra", "gaia_dec")}
    assert list(found.values()) == [884, 884 - 52, 884 - 52, 884 - 109, 884, 884]
    table = Table.read(path)
    for row in table[::50]:
        measured = objects[str(row["source_id"])]
        assert (measured["ra"], measured["dec"]) == (row["ra"], row["dec"])
        assert measured["gaia_flux_g"] == pytest.approx(
            10 ** (0.4 * (25.6883657251 - float(row["phot_g_mean_mag"]))), 1e-6
        )
        if np.isfinite(row["phot_bp_mean_mag"]):
            expected = 10 ** (0.4 * (25.3513881707 - float(row["phot_bp_mean_mag"])))
            assert measured["gaia_flux_bp"] == pytest.approx(expected, 1e-6)


def test_magnitudes_lead_to_the_published_fluxes(source_table: Table, tmp_path: Path) -> None:
    fluxes = [f"phot_{band}_mean_flux" for band in ("g", "bp", "rp")]
    magnitudes = source_table["source_id", "ref_epoch", *(name.replace("flux", "mag") for name in fluxes)]
    magnitudes.write(tmp_path / "magnitudes.fits")
    objects = read(tmp_path / "magnitudes.fits")
    for row in source_table:
        for key, name in zip(FLUXES, fluxes, strict=True):
            assert objects[str(row["source_id"])][key] == pytest.approx(row[name], rel=1e-3)


def test_fluxes_as_given_win_over_magnitudes(source_table: Table, tmp_path: Path) -> None:
    source_table["phot_g_mean_mag"] = 1.0
    path = tmp_path / "rows.fits"
    source_table["source_id", "ref_epoch", "phot_g_mean_mag", "phot_g_mean_flux"].write(path)
    for row in source_table:
        assert read(path)[str(row["source_id"])]["gaia_flux_g"] == np.float32(row["phot_g_mean_flux"])


def test_the_same_rows_in_ecsv_and_json_are_the_same(gaia: Path, source_table: Table) -> None:
    ecsv = read(gaia / "astroquery/1712337806100O-result.ecsv")
    tap = read(gaia / "astroquery/cone_search.json")
    assert (len(ecsv), len(tap)) == (5, 50)
    assert count(tap, "gaia_parallax") == 44
    for row in source_table:
        measured = ecsv[str(row["source_id"])]
        assert measured == tap[str(row["source_id"])]
        assert (measured["ra"], measured["dec"]) == (row["ra"], row["dec"])
        assert measured["gaia_flux_rp"] == np.float32(row["phot_rp_mean_flux"])
        assert ("gaia_parallax" in measured) == np.isfinite(row["parallax"])


def test_a_votable_of_whole_rows_is_read(gaia: Path) -> None:
    path = gaia / "astroquery/1710099405832VAL-result.vot"
    objects = read(path)
    table = Table.read(path, format="votable")
    assert list(objects) == [str(i) for i in table["SOURCE_ID"]]
    for row in table:
        assert objects[str(row["SOURCE_ID"])]["gaia_parallax"] == np.float32(row["parallax"])


@pytest.mark.parametrize("kind", ["csv", "ecsv", "fits", "vot"])
def test_datalink_products_are_read_and_other_products_not_claimed(tmp_path: Path, kind: str) -> None:
    found = find_spec("astroquery")
    assert found is not None
    data = Path(found.submodule_search_locations[0], "gaia/tests/data")
    with zipfile.ZipFile(data / f"gaia_dr3_source_id_5937083312263887616_dl_products_{kind}.zip") as archive:
        archive.extractall(tmp_path)
    continuous, *others = sorted(tmp_path.iterdir(), key=lambda path: not path.name.startswith("XP_CONTINUOUS"))
    (measured,) = read(continuous).values()
    assert measured["gaia_xp_bp"].shape == measured["gaia_xp_rp"].shape == (55,)
    assert measured["gaia_xp_bp"][:2].tolist() == [np.float32(3325.743093963916), np.float32(-392.20328365493384)]
    assert len(others) == 2
    assert not any(ArchiveReader().claims(path) for path in others)


def test_the_declared_samples_are_read_by_these_readers() -> None:
    registry = load_registry()
    samples = [path for path in sample_files(registry) if "gaia" in path.parts]
    assert len(samples) == 3
    for path in samples:
        spec, reader = find_reader(path, registry)
        assert spec.name == "gaia_table"
        assert sum(map(len, reader.read(path, 10))) > 0


def test_sampled_spectra_are_not_claimed(gaia: Path) -> None:
    for path in sorted((gaia / "astroquery").glob("XP_SAMPLED*")):
        with pytest.raises(NotClaimedError, match="no installed reader recognises"):
            find_reader(path, load_registry())


def test_a_bulk_download_is_read_packed_with_its_comments(gaia: Path, tmp_path: Path) -> None:
    original = (gaia / "gaiaxpy/XP_CONTINUOUS_RAW_with_missing_BP.csv").read_text()
    text = original.replace('"(', '"[').replace(')"', ']"').replace(",,", ",null,").replace(",,", ",null,")
    path = tmp_path / "XpContinuousMeanSpectrum_000000-003111.csv.gz"
    path.write_bytes(gzip.compress(f"# %ECSV 1.0\n# ---\n# delimiter: ','\n#\n{text}".encode()))
    expected = read(gaia / "gaiaxpy/XP_CONTINUOUS_RAW_with_missing_BP.csv")
    found = read(path)
    assert found.keys() == expected.keys()
    assert "gaia_xp_bp" not in found[MISSING_BP]
    np.testing.assert_array_equal(found[PROXIMA]["gaia_xp_rp"], expected[PROXIMA]["gaia_xp_rp"])


@pytest.mark.parametrize("name", ["gaiaxpy/XP_CONTINUOUS_RAW_with_missing_BP.csv", "legacypipe/chunk-05483.fits"])
def test_batches_of_any_size_hold_the_same(gaia: Path, name: str) -> None:
    whole = read(gaia / name)
    for size in (1, 2, 7):
        parts = read(gaia / name, size)
        assert list(parts) == list(whole)
        np.testing.assert_equal(parts, whole)


# --- damaged and foreign files ---


def test_a_magnitude_of_zero_is_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    columns = {"source_id": [1, 2, 3], "ref_epoch": [2016.0] * 3, "phot_rp_mean_mag": [0.0, np.nan, 12.0]}
    Table(columns).write(path)
    assert ["gaia_flux_rp" in measured for measured in read(path).values()] == [False, False, True]


@pytest.mark.parametrize("kind", ["csv", "fits"])
def test_another_number_of_coefficients_is_refused_with_row_and_count(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"short.{kind}"
    good, short = np.arange(55.0) + 1, np.arange(54.0) + 1
    if kind == "csv":
        cells = ["(" + ", ".join(map(str, values)) + ")" for values in (good, short)]
        path.write_text("source_id,bp_coefficients\n" + "".join(f'{i},"{c}"\n' for i, c in enumerate(cells, 10)))
    else:
        cells = np.empty(2, object)
        cells[:] = good, short
        columns = [fits.Column("source_id", "K", array=[10, 11]), fits.Column("bp_coefficients", "PD()", array=cells)]
        fits.BinTableHDU.from_columns(columns).writeto(path)
    for size in (1, 2):
        with pytest.raises(InputError, match=r"short.*row 2 \(source_id 11\) has 54 bp_coefficients, expected 55"):
            read(path, size)


def test_a_fits_file_that_is_cut_short_is_refused(gaia: Path, tmp_path: Path) -> None:
    whole = (gaia / "gaiaxpy/XP_CONTINUOUS_RAW.fits").read_bytes()
    path = tmp_path / "cut.fits"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.fits: the file is cut short \(21600 bytes"):
        read(path)


def test_a_packed_file_that_is_cut_short_is_refused(gaia: Path, tmp_path: Path) -> None:
    for suffix in ("csv", "fits"):
        packed = gzip.compress((gaia / f"gaiaxpy/XP_CONTINUOUS_RAW.{suffix}").read_bytes())
        path = tmp_path / f"cut.{suffix}.gz"
        path.write_bytes(packed[: len(packed) // 2])
        with pytest.raises(InputError, match=r"cut\."):
            read(path)


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_array_file_is_foreign_or_refused(place: float, byte: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        values = np.random.default_rng(1).normal(size=(20, 110)).astype(np.float32)
        np.savez_compressed(path, X=values, source_id=np.arange(20))
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] = byte
        path.write_bytes(content)
        if ArrayReader().claims(path):
            with suppress(InputError):
                assert sum(map(len, ArrayReader().read(path, 7))) == 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "source_id,parallax\n1,abc\n", "abc"),
        ("a.csv", "source_id,parallax\n1,2.0\n3\n", "Expected 2 columns"),
        ("a.csv", "source_id,parallax\n5.8e18,2.0\n", "5.8e18"),
        ("a.csv", "source_id,parallax\n,2.0\n", "source_id is missing"),
        ("a.csv", 'source_id,bp_coefficients\n1,"(1.0, x)"\n', "x"),
        ("a.csv", "source_id,phot_g_mean_mag\n1,12.0\n", "ref_epoch"),
        ("a.csv", "source_id,phot_g_mean_mag,ref_epoch\n1,12.0,2015.0\n", "row 1 has a magnitude and ref_epoch 2015"),
        ("a.csv", "source_id,parallax,dec\n1,2.0,123\n", "dec"),
        ("a.json", '{"metadata": [{"name": "source_id"}, {"name": "parallax"}], "data": [[1.5, 2]]}', "lose"),
        ("a.json", '{"metadata": [{"name": "source_id"}, {"name": "parallax"}], "data": [[1]]}', "cannot be read"),
    ],
)
def test_damaged_tables_are_refused_with_a_sentence(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.fits", b"This is a text file, named as if it were something else.\n"),
        ("wrong.csv", b"id,ra,dec\n1,2,3\n"),
        ("position.csv", b"source_id,ra,dec\n1,2,3\n"),
        ("page.xml", b"<html><body>404</body></html>"),
        ("cut.xml", b"<VOTABLE><RESOURCE><TABLE><FIELD name='source_id'"),
        ("other.json", b'{"source_id": [1], "parallax": [2.0]}'),
        ("cut.json", b'{"metadata": [{"name": "source_id"'),
        ("noise.csv", bytes(range(256))),
        ("noise.csv.gz", b"\x1f\x8b" + bytes(range(64))),
        ("broken.fits.gz", gzip.compress(bytes(99))[:12] + b"\xff" * 99),
        ("empty.npz", b"PK\x05\x06" + bytes(18)),
    ],
)
def test_foreign_files_are_not_claimed(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert not ArchiveReader().claims(path)
    assert not ArrayReader().claims(path)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"SIMPLE  =", b"<VOTABLE>", b'{"metadata":', b"PK\x03\x04", b"\x1f\x8b"]),
)
def test_whatever_the_bytes_claiming_answers(content: bytes, head: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "file.fits")
        path.write_bytes(head + content)
        assert ArchiveReader().claims(path) in (True, False)
        assert ArrayReader().claims(path) is False


# --- any order, type and spelling of columns ---

numbers = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf, -np.inf]))
scalars = {"parallax": "gaia_parallax", "phot_bp_mean_flux": "gaia_flux_bp", "ra": "gaia_ra"}


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, dict[str, list[float]]]:
    """A table with shuffled, renamed, retyped and extra columns, and the values that it holds."""
    size = draw(st.integers(1, 6))
    ids = draw(st.lists(st.integers(1, 2**62), min_size=size, max_size=size, unique=True))
    truth: dict[str, list[float]] = {"source_id": ids}
    columns = {"source_id": np.array(ids, draw(st.sampled_from([">i8", "<i8"])))}
    for name in draw(st.sets(st.sampled_from(sorted(scalars)), min_size=1)) | {"parallax"}:
        truth[name] = draw(st.lists(numbers, min_size=size, max_size=size))
        columns[name] = np.array(truth[name], draw(st.sampled_from([">f8", "<f8", ">f4", "<f4"])))
    columns |= {"solution_id": np.arange(size), "designation": np.array(["x"] * size)}
    order = draw(st.permutations(sorted(columns)))
    spelt = {name: draw(st.sampled_from([str.upper, str.lower, str.title]))(name) for name in order}
    return Table({spelt[name]: columns[name] for name in order}), truth


def check(path: Path, truth: dict[str, list[float]]) -> None:
    objects = read(path, batch_size=2)
    assert list(objects) == [str(i) for i in truth["source_id"]]
    for name, key in scalars.items():
        for source, value in zip(truth["source_id"], truth.get(name, [np.nan] * len(objects)), strict=True):
            assert (key in objects[str(source)]) == np.isfinite(value)
            if np.isfinite(value):
                assert objects[str(source)][key] == np.float32(value)


@settings(max_examples=40, deadline=None)
@given(tables(), st.sampled_from(["fits", "csv", "ecsv", "xml"]))
def test_columns_are_found_in_any_order_type_and_case(drawn: tuple[Table, dict[str, list[float]]], kind: str) -> None:
    table, truth = drawn
    formats = {"csv": "ascii.csv", "ecsv": "ascii.ecsv", "xml": "votable", "fits": "fits"}
    with TemporaryDirectory() as folder:
        path = Path(folder, f"table.{kind}")
        table.write(path, format=formats[kind])
        check(path, truth)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=5), st.sampled_from(["fits", "ecsv", "xml"]))
def test_masked_values_are_not_measured(hidden: list[bool], kind: str) -> None:
    parallax = MaskedColumn(np.arange(len(hidden)) + 1.0, mask=hidden)
    table = Table({"source_id": np.arange(len(hidden)), "parallax": parallax})
    with TemporaryDirectory() as folder:
        path = Path(folder, f"masked.{kind}")
        table.write(path, format={"ecsv": "ascii.ecsv", "xml": "votable", "fits": "fits"}[kind])
        objects = read(path)
    assert ["gaia_parallax" not in measured for measured in objects.values()] == hidden


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from(["f8", "f4"]))
def test_coefficients_with_a_bad_value_are_not_measured(data: st.DataObject, kind: str) -> None:
    values = np.arange(110, dtype=kind).reshape(2, 55) + 1
    bad = data.draw(st.sets(st.tuples(st.integers(0, 1), st.integers(0, 54)), max_size=3))
    for place in bad:
        values[place] = data.draw(st.sampled_from([np.nan, np.inf]))
    with TemporaryDirectory() as folder:
        path = Path(folder, "fixed.fits")
        Table({"SOURCE_ID": [1, 2], "BP_COEFFICIENTS": values}).write(path)
        objects = read(path)
    for row, measured in enumerate(objects.values()):
        assert ("gaia_xp_bp" in measured) == bool(np.isfinite(values[row]).all())


@pytest.fixture(autouse=True)
def _only_known_warnings(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    assert [str(w.message) for w in recwarn if w.category is RuntimeWarning] == []
