"""SDSS spectrum files: real ones against values read from them independently, and files written here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from aion_tok_sdss.pixels import BAD, HEEDED
from aion_tok_sdss.reader import UNIT, SpectrumReader
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data import ObservationBatch
from aion_core.data.files import find_files, find_reader
from aion_core.observations import Spectrum
from aion_core.plugins import load_registry
from aion_core.testing import ReaderContract


def read(path: Path, **options: Any) -> ObservationBatch:
    reader = SpectrumReader(SpectrumReader.Options(**options))
    assert reader.claims(path)
    (batch,) = reader.read(path, 10)
    return batch


def spectrum(batch: ObservationBatch) -> Spectrum:
    found, rows = batch.data["sdss_spectrum"]
    assert rows.tolist() == [0]
    assert isinstance(found, Spectrum)
    return found


def pixels(count: int = 30, **columns: Any) -> dict[str, Any]:
    """Columns of the first table."""
    rng = np.random.default_rng(count)
    base = {"flux": rng.normal(size=count), "loglam": 3.58 + 1e-4 * np.arange(count), "ivar": rng.uniform(1, 2, count)}
    return base | {"and_mask": np.zeros(count, np.int32)} | columns


def write(path: Path, first: dict[str, Any], second: dict[str, Any] | None = None, **header: Any) -> Path:
    """Write a spectrum file; the second table is one row, given by its values."""
    hdus = [fits.PrimaryHDU(header=fits.Header(header)), fits.BinTableHDU(Table(first))]
    if second is not None:
        hdus.append(fits.BinTableHDU(Table({name: [value] for name, value in second.items()})))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


class TestContract(ReaderContract):
    reader = "sdss_spectra"

    def files(self, folder: Path) -> Sequence[Path]:
        row = {"PLATE": 266, "MJD": 51602, "FIBERID": 7, "Z": 0.1, "ZWARNING": 0, "PLUG_RA": 1.0, "PLUG_DEC": 2.0}
        upper = {name.upper(): column for name, column in pixels(4000).items()}
        return [
            write(folder / "spec-0266-51602-0007.fits", pixels(5000), row),
            write(folder / "spec-a.fits", upper, row),
        ]


@pytest.fixture(scope="module")
def batches(sample_dir: Path) -> dict[Path, ObservationBatch]:
    return {path: read(path) for path in find_files([sample_dir / "sdss"])}


@pytest.fixture
def files(batches: dict[Path, ObservationBatch]) -> dict[str, Path]:
    return {path.stem: path for path in batches}


# --- real files ---


def test_every_real_file_is_read_but_the_one_without_a_good_pixel(batches: dict[Path, ObservationBatch]) -> None:
    registry = load_registry()
    assert len(batches) == 32
    for path, batch in batches.items():
        assert find_reader(path, registry)[0].name == "sdss_spectra"
        if path.name == "spec-0269-51581-0003.fits":
            assert len(batch) == 0
            (skipped,) = batch.skipped
            assert (skipped.name, skipped.reason) == (
                "HDU 1 COADD (0269-51581-0003)", "every pixel is masked or has no weight",
            )  # fmt: skip
        else:
            assert f"spec-{batch.object_id[0]}.fits" == path.name
            assert batch.skipped == ()


def test_pixels_position_and_redshift_are_those_of_the_file(batches: dict[Path, ObservationBatch]) -> None:
    for path, batch in batches.items():
        if not len(batch):
            continue
        with fits.open(path) as hdus:
            table, row = (Table(hdus[i].data) for i in (1, 2))
        for part in (table, row):
            part.rename_columns(part.colnames, [name.lower() for name in part.colnames])
        found = spectrum(batch)
        flagged = np.zeros(len(table), bool)
        for bit in HEEDED.values():
            flagged |= (table["and_mask"] >> bit & 1) == 1
        bad = flagged | (table["ivar"] <= 0)
        assert found.mask[0].numpy().tolist() == bad.tolist()
        assert (found.flux[0].numpy()[~bad] == table["flux"][~bad]).all()
        assert (found.ivar[0].numpy()[~bad] == table["ivar"][~bad]).all()
        np.testing.assert_allclose(found.wavelength[0], 10 ** table["loglam"].astype(float), rtol=1e-7)
        assert found.unit is None  # all files state the modality's own
        assert (batch.ra[0], batch.dec[0]) == (row["plug_ra"][0], row["plug_dec"][0])
        redshift = batch.data["catalog_redshift"][0].value.tolist()
        assert redshift == ([] if row["zwarning"][0] else [row["z"][0]])


def test_the_file_with_a_harmless_bit_in_every_pixel_is_not_blanked(files: dict[str, Path]) -> None:
    path = files["spec-3655-55240-0258"]
    assert (fits.getdata(path, 1)["AND_MASK"] != 0).mean() > 0.99
    assert float(spectrum(read(path)).mask.float().mean()) < 0.01


def test_awkward_files_keep_what_is_good(batches: dict[Path, ObservationBatch]) -> None:
    share = {path.stem: float(spectrum(b).mask.float().mean()) for path, b in batches.items() if len(b)}
    assert max(share.values()) == share["spec-1722-53852-0175"] < 0.2
    assert share["spec-9367-57758-0500"] < 0.07
    assert share["spec-0266-51602-0013"] < 0.02


def test_objects_of_some_classes_only_are_read_where_that_is_asked_for(files: dict[str, Path]) -> None:
    star, quasar = files["spec-9367-57758-0500"], files["spec-9367-57758-0345"]
    assert len(read(star, classes=("star",))) == len(read(quasar, classes=("GALAXY", "QSO"))) == 1
    (skipped,) = read(quasar, classes=("STAR",)).skipped
    assert skipped.reason == "its class is QSO, wanted: STAR"


def test_no_other_real_file_is_claimed(sample_dir: Path) -> None:
    for folder in ("desi", "gaia", "galaxyzoo", "hsc", "legacysurvey", "mmu"):
        for path in find_files([sample_dir / folder]):
            assert not SpectrumReader().claims(path), path


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_file_cut_short_is_refused(files: dict[str, Path], tmp_path: Path, share: float) -> None:
    content = files["spec-3655-55240-0002"].read_bytes()
    path = tmp_path / "spec-cut.fits"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"spec-cut\.fits: the file is cut short"):
        read(path)


# --- pixels ---


@pytest.mark.parametrize("bit", range(31))
def test_bits_are_heeded_or_not_as_documented(tmp_path: Path, bit: int) -> None:
    mask = np.zeros(30, np.int32)
    mask[5] = 1 << bit
    bad = spectrum(read(write(tmp_path / "spec-a.fits", pixels(and_mask=mask)))).mask[0]
    assert bool(bad[5]) == (bit in {0, 3, 18, 22, 23, 24, 25, 26, 27, 28}) == bool(BAD >> bit & 1)
    assert int(bad.sum()) == int(bad[5])


def test_values_that_are_not_finite_are_bad_pixels(tmp_path: Path) -> None:
    columns = pixels()
    columns["flux"][1], columns["ivar"][2], columns["ivar"][3] = np.nan, np.inf, -1
    found = spectrum(read(write(tmp_path / "spec-a.fits", columns)))
    assert np.flatnonzero(found.mask[0]).tolist() == [1, 2, 3]
    assert (found.flux[0][found.mask[0]] == 0).all()


def test_descending_wavelengths_are_turned_round(tmp_path: Path) -> None:
    up, down = (
        spectrum(read(write(tmp_path / "spec-a.fits", {name: column[::step] for name, column in pixels().items()})))
        for step in (1, -1)
    )
    assert (up.flux == down.flux).all()
    assert (up.wavelength == down.wavelength).all()
    assert (up.wavelength[0].diff() > 0).all()


@pytest.mark.parametrize(
    ("loglam", "sentence"),
    [
        ({4: np.nan}, "HDU 1, row 5: the wavelength is not a number"),
        ({4: 3.9}, "HDU 1, row 6: the wavelengths neither ascend nor descend"),
        ({29: 9000.0}, "HDU 1, row 30: loglam is 9000.0"),
    ],
)
def test_wavelengths_that_are_none_are_refused_with_the_row(
    tmp_path: Path, loglam: dict[int, float], sentence: str
) -> None:
    columns = pixels()
    for row, value in loglam.items():
        columns["loglam"][row] = value
    with pytest.raises(InputError, match=rf"spec-a\.fits: {re.escape(sentence)}"):
        read(write(tmp_path / "spec-a.fits", columns))


def test_the_unit_is_stated_where_it_is_another(tmp_path: Path) -> None:
    assert spectrum(read(write(tmp_path / "a.fits", pixels(), BUNIT="1E-17 erg/cm^2/s/Ang"))).unit is None
    other = spectrum(read(write(tmp_path / "a.fits", pixels(), BUNIT="erg/cm^2/s/Ang")))
    assert float(other.in_unit(UNIT).flux[0, 0]) == pytest.approx(pixels()["flux"][0] * 1e17, rel=1e-6)
    with pytest.raises(InputError, match="column flux: the unit 'parrots'"):
        read(write(tmp_path / "a.fits", pixels(), BUNIT="parrots"))
    with pytest.raises(InputError, match=r"in air \(VACUUM\)"):
        read(write(tmp_path / "a.fits", pixels(), VACUUM=False))


def test_columns_of_another_type_are_refused(tmp_path: Path) -> None:
    for name, column in (("flux", ["a"] * 30), ("and_mask", np.ones(30)), ("ivar", np.ones((30, 2)))):
        with pytest.raises(InputError, match=rf"HDU 1: column {name} holds"):
            read(write(tmp_path / "a.fits", pixels(**{name: column})))


# --- the object ---


def test_without_a_second_table_the_header_and_the_name_tell_the_object(tmp_path: Path) -> None:
    header = {"PLATEID": 266, "MJD": 51602, "FIBERID": 7, "PLUG_RA": 10.0, "PLUG_DEC": -1.0, "RA": 99.0, "DEC": 9.0}
    batch = read(write(tmp_path / "spec-a.fits", pixels(), **header))
    assert (batch.object_id[0], batch.ra[0], batch.dec[0]) == ("0266-51602-0007", 10, -1)
    assert len(batch.data["catalog_redshift"][1]) == 0
    bare = read(write(tmp_path / "spec-10656-58163-0123.fits", pixels(), RA=99.0, DEC=9.0))
    assert bare.object_id[0] == "10656-58163-0123"
    assert np.isnan([bare.ra[0], bare.dec[0]]).all()  # RA, DEC of the header are the telescope's


def test_sdss_v_files_are_named_by_field_and_catalogue_identifier(tmp_path: Path) -> None:
    row = {"FIELD": 15000, "MJD": 59146, "CATALOGID": 27021597775058535, "Z": 0.25, "ZWARNING": 0}
    row |= {"FIBER_RA": 12.5, "FIBER_DEC": 3.5, "CLASS": "GALAXY", "FIBERID": 3}
    batch = read(write(tmp_path / "spec-a.fits", {n.upper(): c for n, c in pixels().items()}, row))
    assert batch.object_id[0] == "015000-59146-27021597775058535"
    assert (batch.ra[0], batch.dec[0]) == (12.5, 3.5)
    assert batch.data["catalog_redshift"][0].value.tolist() == [0.25]


@pytest.mark.parametrize(("bit", "kept"), [(1, False), (2, False), (3, False), (4, True), (5, False), (8, False)])
def test_a_redshift_with_a_warning_is_absent_unless_it_is_many_outliers(tmp_path: Path, bit: int, kept: bool) -> None:
    batch = read(write(tmp_path / "spec-a.fits", pixels(), {"Z": 0.5, "ZWARNING": 1 << bit}))
    assert len(batch) == 1
    assert batch.data["catalog_redshift"][0].value.tolist() == ([0.5] if kept else [])


@pytest.mark.parametrize("row", [{"OBJTYPE": "SKY"}, {"SOURCETYPE": "SKY"}, {"ZWARNING": 1}])
def test_sky_is_skipped_unless_asked_for(tmp_path: Path, row: dict[str, Any]) -> None:
    path = write(tmp_path / "spec-a.fits", pixels(), {"Z": 0.1} | row)
    (skipped,) = read(path).skipped
    assert skipped.reason == "the fibre was put on blank sky"
    assert len(read(path, sky=True)) == 1


def test_an_unplugged_fibre_is_skipped(tmp_path: Path) -> None:
    (skipped,) = read(write(tmp_path / "spec-a.fits", pixels(), {"Z": 0.1, "ZWARNING": 128})).skipped
    assert "not plugged" in skipped.reason


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 60))
def test_columns_are_found_in_any_order_type_and_case(data: st.DataObject, size: int) -> None:
    reals, integers = st.sampled_from([">f8", "<f8", ">f4", "<f4"]), st.sampled_from([">i4", "<i4", ">i8", "<i8"])
    truth = pixels(size)
    first = {name: truth[name].astype(data.draw(reals)) for name in ("flux", "ivar", "loglam")}
    first |= {"or_mask": np.ones(size, np.int32), "wdisp": np.ones(size), "sky": np.ones(size)}
    if data.draw(st.booleans()):
        first["and_mask"] = truth["and_mask"].astype(data.draw(integers))
    second: dict[str, Any] = {"Z": 0.5, "ZWARNING": 0, "PLUG_RA": 1.5, "PLUG_DEC": -2.5, "EXTRA": "x"}
    spelt = [data.draw(st.sampled_from([str.upper, str.lower])) for _ in range(2)]
    with TemporaryDirectory() as folder:
        orders = [data.draw(st.permutations(sorted(part))) for part in (first, second)]
        one, two = (
            {spell(name): part[name] for name in order}
            for spell, part, order in zip(spelt, (first, second), orders, strict=True)
        )
        batch = read(write(Path(folder, "spec-a.fits"), one, two if data.draw(st.booleans()) else None))
    np.testing.assert_array_equal(spectrum(batch).flux[0], truth["flux"].astype(np.float32))
    assert not spectrum(batch).mask.any()
    assert batch.data["catalog_redshift"][0].value.tolist() in ([0.5], [])
