"""Gaia files, as the archive and other projects hand them out, against values read from them independently."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aion_tok_gaia.reader import ArchiveReader, ArrayReader
from astropy import units
from astropy.io import votable
from astropy.table import Table

from aion_core.contract import InputError
from aion_core.data.files import NotClaimedError, find_reader, sample_files
from aion_core.plugins import load_registry

PROXIMA, MISSING_BP = "5853498713190525696", "5405570973190252288"
XP = ("gaia_xp_bp", "gaia_xp_rp")
NUMBERS = ("source_id", "ref_epoch", "ra", "dec", "parallax", *(f"phot_{b}_mean_flux" for b in ("g", "bp", "rp")))
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


@pytest.fixture(scope="module")
def products() -> dict[str, Path]:
    """Real DataLink archives of one source, by format; three products each."""
    found = find_spec("astroquery")
    assert found is not None
    folder = Path(found.submodule_search_locations[0], "gaia/tests/data")
    stem = "gaia_dr3_source_id_5937083312263887616_dl_products"
    return {kind: folder / f"{stem}_{kind}.zip" for kind in ("csv", "ecsv", "fits", "vot")}


@pytest.mark.parametrize("kind", ["csv", "ecsv", "fits", "vot"])
def test_datalink_products_are_read_in_every_format(products: dict[str, Path], tmp_path: Path, kind: str) -> None:
    with zipfile.ZipFile(products[kind]) as archive:
        archive.extractall(tmp_path)
    of = {path.name.partition("-")[0]: path for path in tmp_path.iterdir()}
    (measured,) = read(of["XP_CONTINUOUS"]).values()
    assert measured["gaia_xp_bp"].shape == measured["gaia_xp_rp"].shape == (55,)
    assert measured["gaia_xp_bp"][:2].tolist() == [np.float32(3325.743093963916), np.float32(-392.20328365493384)]
    with pytest.raises(NotClaimedError, match=r"XP_SAMPLED.*have no tokens; .* retrieval_type='XP_CONTINUOUS'"):
        find_reader(of["XP_SAMPLED"], load_registry())
    assert not ArchiveReader().claims(of["MCMC_MSC"])


@pytest.mark.parametrize("kind", ["csv", "ecsv", "fits", "vot"])
def test_the_continuous_spectra_in_a_datalink_archive_are_read(products: dict[str, Path], kind: str) -> None:
    spec, _ = find_reader(products[kind], load_registry())
    assert spec.name == "gaia_table"
    objects = read(products[kind])
    assert list(objects) == ["5937083312263887616"]
    assert objects["5937083312263887616"]["gaia_xp_rp"][0] == np.float32(3753.405973686201)


def test_the_declared_samples_are_read_by_these_readers() -> None:
    registry = load_registry()
    samples = [path for path in sample_files(registry) if "gaia" in path.parts]
    assert len(samples) == 4
    for path in samples:
        spec, reader = find_reader(path, registry)
        assert spec.name == "gaia_table"
        assert sum(map(len, reader.read(path, 10))) > 0


def test_sampled_spectra_are_refused_with_what_to_use_instead(gaia: Path, tmp_path: Path) -> None:
    bulk = tmp_path / "XpSampledMeanSpectrum_000000-003111.csv"
    bulk.write_text('source_id,solution_id,ra,dec,flux,flux_error\n1,2,3.0,4.0,"[1.0,2.0]","[0.1,0.1]"\n')
    for path in (*sorted((gaia / "astroquery").glob("XP_SAMPLED*")), bulk):
        with pytest.raises(NotClaimedError, match="download the continuous ones"):
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


# --- the same rows, written again in another form ---


@pytest.fixture(scope="module")
def spectra(gaia: Path) -> Table:
    """Two sources with all 26 columns, as astropy reads them."""
    return Table.read(gaia / "gaiaxpy/XP_CONTINUOUS_RAW.xml", format="votable")


@pytest.mark.parametrize("form", ["tabledata", "binary", "binary2"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_serialisation_of_a_votable_is_the_same(
    spectra: Table, gaia: Path, tmp_path: Path, form: str, packed: bool
) -> None:
    path = tmp_path / "x.vot"
    document = votable.from_table(spectra)
    document.to_xml(str(path), tabledata_format=form)
    assert f"<{form.upper()}>" in path.read_text()
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_equal(read(path), read(gaia / "gaiaxpy/XP_CONTINUOUS_RAW.csv"))


@pytest.mark.parametrize("kind", ["ecsv", "parquet", "json", "fits", "fits.gz"])
def test_spectra_are_the_same_in_other_formats(spectra: Table, gaia: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "json":
        metadata = [{"name": name} for name in spectra.colnames]
        path.write_text(json.dumps({"metadata": metadata, "data": [[_plain(v) for v in row] for row in spectra]}))
    elif kind == "parquet":
        table = {name: [_plain(v) for v in spectra[name]] for name in spectra.colnames}
        pq.write_table(pa.table(table), path)
    else:
        plain = Table({name: np.ma.getdata(np.ma.stack(list(spectra[name]))) for name in spectra.colnames})
        plain.write(path, format="ascii.ecsv" if kind == "ecsv" else "fits")
    np.testing.assert_equal(read(path), read(gaia / "gaiaxpy/XP_CONTINUOUS_RAW.csv"))


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize("kind", ["csv.gz", "fits", "vot", "parquet", "json"])
def test_archive_rows_are_the_same_in_every_format(gaia: Path, source_table: Table, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"GaiaSource_000000-003111.{kind}"
    if kind == "json":
        rows = [[None if v is np.ma.masked else _plain(v) for v in row] for row in source_table]
        path.write_text(json.dumps({"metadata": [{"name": n} for n in source_table.colnames], "data": rows}))
    elif kind == "csv.gz":  # as the archive's bulk files: an ECSV header, and null where there is no value
        source_table.write(tmp_path / "x.ecsv", format="ascii.ecsv", delimiter=",")
        path.write_bytes(gzip.compress((tmp_path / "x.ecsv").read_bytes().replace(b'""', b"null")))
    elif kind == "parquet":
        masked = {name: np.ma.asarray(source_table[name]) for name in NUMBERS}
        columns = {name: pa.array(v.data, mask=np.ma.getmaskarray(v)) for name, v in masked.items()}
        pq.write_table(pa.table(columns), path)
    else:
        source_table.write(path, format={"fits": "fits", "vot": "votable"}[kind])
    np.testing.assert_equal(read(path, 2), read(gaia / "astroquery/1712337806100O-result.ecsv"))


@pytest.mark.parametrize("kind", ["fits", "ecsv", "vot"])
def test_units_that_a_table_states_are_converted_or_refused(source_table: Table, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    expected = np.array(np.ma.filled(source_table["parallax"], np.nan), np.float32)
    table = source_table["source_id", "parallax", "ra", "phot_g_mean_flux"]
    form = {"fits": "fits", "ecsv": "ascii.ecsv", "vot": "votable"}[kind]
    table["parallax"] = expected / 1000
    table["parallax"].unit = units.arcsec
    table.write(path, format=form)
    found = [measured.get("gaia_parallax", np.nan) for measured in read(path).values()]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    table["phot_g_mean_flux"].unit = units.Jy
    table.write(path, format=form, overwrite=True)
    with pytest.raises(InputError, match=r"rows\..*column phot_g_mean_flux is in 'Jy'; expected 'electron / s'"):
        read(path)
