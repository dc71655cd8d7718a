"""Rows of HSC's catalogue as its archive writes them, whatever the format, the order and the types of columns."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from aion_tok_hsc.reader import COLUMNS, CatalogueReader
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data.files import find_files
from aion_core.testing import ReaderContract

IDS = [36407053903512345, 36407053903512347]  # beyond what a float64 tells apart


def rows(count: int = 2, **columns: Any) -> Table:
    base: dict[str, Any] = {"object_id": np.array(IDS[:1] * (count - 2) + IDS)[:count] + np.arange(count)}
    base |= {"ra": 150.0 + np.arange(count), "dec": 2.0 + np.arange(count)}
    for i, name in enumerate(COLUMNS.values()):
        base[name] = (20.0 + i + np.arange(count)).astype("f4")
    return Table(base | columns)


def write(table: Table, path: Path) -> Path:
    """Write a table as the archive does: FITS, or text whose line of names begins with ``#``."""
    if ".csv" not in path.name:
        table.write(path)
        return path
    text = "# " + ",".join(table.colnames) + "\n"
    for row in table:
        text += (
            ",".join({"True": "t", "False": "f", "nan": ""}.get(str(value), repr(value.item())) for value in row) + "\n"
        )
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path, batch_size: int = 10) -> dict[str, dict[str, float]]:
    reader = CatalogueReader()
    assert reader.claims(path)
    objects: dict[str, dict[str, float]] = {}
    for batch in reader.read(path, batch_size):
        for i, name in enumerate(batch.object_id):
            objects[str(name)] = {"ra": batch.ra[i], "dec": batch.dec[i]}
        for key, (observation, members) in batch.data.items():
            for value, member in zip(observation.value.tolist(), members, strict=True):
                objects[str(batch.object_id[member])][key] = value
    return objects


numbers = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 5), st.sampled_from(["t.fits", "t.csv", "t.csv.gz", "t.fits.gz"]))
def test_columns_are_found_in_any_order_type_case_and_format(data: st.DataObject, size: int, name: str) -> None:
    keys = sorted(data.draw(st.sets(st.sampled_from(sorted(COLUMNS)), min_size=1)))
    real = st.sampled_from([">f8", "<f8", ">f4", "<f4"])
    truth = {key: np.array(data.draw(st.lists(numbers, min_size=size, max_size=size)), data.draw(real)) for key in keys}
    null = {key: np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size))) for key in keys[::2]}
    columns: dict[str, Any] = {COLUMNS[key]: values for key, values in truth.items()}
    columns |= {f"{COLUMNS[key]}_isnull": values for key, values in null.items()}
    columns |= {"object_id": 2**62 + np.arange(size), "ra": np.arange(size) / 7, "dec": np.arange(size) / 9}
    columns["other"] = np.arange(size)
    order = data.draw(st.permutations(sorted(columns)))
    spelt = data.draw(st.sampled_from([str.upper, str.lower]))
    with TemporaryDirectory() as folder:
        path = write(Table({spelt(column): columns[column] for column in order}), Path(folder, name))
        objects = read(path, batch_size=2)
    assert list(objects) == [str(2**62 + i) for i in range(size)]
    for i, measured in enumerate(objects.values()):
        assert (measured.pop("ra"), measured.pop("dec")) == (i / 7, i / 9)
        present = {key for key in keys if np.isfinite(truth[key][i]) and not (key in null and null[key][i])}
        assert measured == {key: np.float32(truth[key][i]) for key in present}


def test_every_modality_has_its_own_column(tmp_path: Path) -> None:
    first, second = read(write(rows(), tmp_path / "rows.fits")).values()
    expected = {key: 20.0 + i for i, key in enumerate(COLUMNS)}
    assert {key: value for key, value in first.items() if key not in ("ra", "dec")} == expected
    assert second["hsc_mag_g"] == 21
    assert COLUMNS["hsc_shape_12"] == "i_sdssshape_shape12"
    assert COLUMNS["hsc_extinction_y"] == "a_y"


def test_what_is_masked_is_absent(tmp_path: Path) -> None:
    table = rows()
    table["g_cmodel_mag"] = np.ma.array([20.0, 21.0], mask=[True, False])
    table.write(tmp_path / "rows.fits")
    first, second = read(tmp_path / "rows.fits").values()
    assert "hsc_mag_g" not in first
    assert second["hsc_mag_g"] == 21


@pytest.mark.parametrize("name", ["rows.fits", "rows.csv"])
def test_rows_that_are_no_objects_of_their_own_are_skipped_and_listed(tmp_path: Path, name: str) -> None:
    path = write(rows(4, isprimary=[True, False, True, False]), tmp_path / name)
    (batch,) = CatalogueReader().read(path, 10)
    assert len(batch) == 2
    assert [skipped.name for skipped in batch.skipped] == ["row 1", "row 3"]
    assert "isprimary" in batch.skipped[0].reason
    assert all(len(members) == 2 for _, members in batch.data.values())


def test_without_positions_they_are_unknown(tmp_path: Path) -> None:
    table = rows()
    table.remove_columns(["ra", "dec"])
    assert all(np.isnan(measured["ra"]) for measured in read(write(table, tmp_path / "rows.csv")).values())


def test_object_numbers_that_have_lost_digits_are_refused(tmp_path: Path) -> None:
    path = write(rows(object_id=np.array(IDS, float)), tmp_path / "rows.fits")
    with pytest.raises(InputError, match=r"rows\.fits: column object_id holds float64"):
        read(path)


def test_object_numbers_rounded_in_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("object_id,g_cmodel_mag\n43158034708430848,20.5\n4.315803470843085e+16,21\n")
    with pytest.raises(InputError, match=r"rows\.csv: column object_id holds '4.315803470843085e\+16'"):
        read(path)


def test_an_impossible_position_is_unknown_and_its_neighbours_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("object_id,ra,dec,g_cmodel_mag\n1,370,5,20\n2,10,100,21\n3,10,,22\n")
    (batch,) = CatalogueReader().read(path, 10)
    np.testing.assert_array_equal(batch.ra, [10, np.nan, np.nan])
    np.testing.assert_array_equal(batch.dec, [5, np.nan, np.nan])
    assert len(batch.data["hsc_mag_g"][1]) == 3


def test_text_in_a_column_of_numbers_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("# object_id,g_cmodel_mag\n1,20.5\n2,faint\n")
    with pytest.raises(InputError, match=r"rows\.csv: column g_cmodel_mag, row 1: 'faint' is no number"):
        read(path)


def test_a_row_with_too_few_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("# object_id,ra,g_cmodel_mag\n1,2,20.5\n2,3\n")
    with pytest.raises(InputError, match=r"rows\.csv: not a whole table"):
        read(path)


def test_no_file_of_another_survey_is_claimed(sample_dir: Path) -> None:
    for path in find_files([sample_dir]):
        if path.suffix in (".fits", ".csv", ".gz"):
            assert not CatalogueReader().claims(path), path


class TestFits(ReaderContract):
    reader = "hsc_catalogue"

    def files(self, folder: Path) -> list[Path]:
        return [write(rows(30, isprimary=np.arange(30) % 5 > 0), folder / "rows.fits")]


class TestText(ReaderContract):
    reader = "hsc_catalogue"
    shows_cuts = False

    def files(self, folder: Path) -> list[Path]:
        return [write(rows(30, isprimary=np.arange(30) % 5 > 0), folder / "rows.csv")]
