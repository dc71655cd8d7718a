"""Columns straight from the bytes of a table are what astropy makes of them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.data.files import find_files
from aion_core.data.fits import fits_columns, is_fits, open_fits
from aion_core.data.records import records

FORMS = {"L": bool, "B": np.uint8, "I": np.int16, "J": np.int32, "K": np.int64, "E": np.float32, "D": np.float64}


def column(name: str, form: str, rows: int, rng: np.random.Generator) -> fits.Column:
    """A column of random values in a TFORM."""
    count, kind = int(form[:-1] or 1), form[-1]
    shape = (rows,) if count == 1 else (rows, count)
    if kind == "A":
        words = rng.integers(97, 123, (rows, count), dtype=np.uint8).tobytes().decode()
        return fits.Column(name, form, array=[words[i * count : (i + 1) * count][: i % 4] for i in range(rows)])
    if kind == "X":
        return fits.Column(name, form, array=rng.integers(0, 2, (rows, count)).astype(bool))
    if kind in "CM":
        return fits.Column(name, form, array=rng.normal(size=shape) + 1j)
    return fits.Column(name, form, array=rng.integers(0, 2 if kind == "L" else 100, shape).astype(FORMS[kind]))


def equal(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.kind in "US":
        return bool((one == np.char.rstrip(other)).all())
    return one.dtype == other.dtype.newbyteorder("=") and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["L", "3L", "B", "I", "J", "2J", "K", "E", "4E", "D", "7A", "A", "11X", "C", "M"]),
                min_size=1, max_size=8), st.integers(1, 9), st.integers(1, 4), st.data())  # fmt: skip
def test_any_table_reads_as_by_astropy(forms: list[str], rows: int, size: int, data: st.DataObject) -> None:
    columns = [column(f"C{i}", form, rows, np.random.default_rng(i)) for i, form in enumerate(forms)]
    wanted = data.draw(st.sets(st.sampled_from([f"c{i}" for i in range(len(forms))])))
    with TemporaryDirectory() as folder:
        path = Path(folder, "table.fits")
        fits.BinTableHDU.from_columns(columns).writeto(path)
        with open_fits(path) as file:
            parts = list(file.rows(wanted, size))
        truth = fits.getdata(path, 1, memmap=False)
    for name in wanted:
        found = np.concatenate([part[name] for part in parts])
        assert equal(found, truth[name.upper()]), (name, forms)
        assert found.dtype.isnative


def test_what_is_not_plain_is_left_to_astropy(tmp_path: Path) -> None:
    columns = [
        fits.Column("SCALED", "I", array=np.array([3, 5], np.int16)),
        fits.Column("UNSIGNED", "J", bzero=2**31, array=np.array([1, 2**31 + 5], np.uint32)),
        fits.Column("LISTS", "PE()", array=np.array([np.ones(2), np.ones(3)], object)),
        fits.Column("GRID", "6E", dim="(2, 3)", array=np.zeros((2, 3, 2))),
        fits.Column("PLAIN", "E", array=np.array([7.0, 8.0])),
    ]
    path = tmp_path / "table.fits"
    table = fits.BinTableHDU.from_columns(columns)
    table.header["TSCAL1"] = 0.5
    table.writeto(path)
    header = fits.getheader(path, 1)
    assert [records(header, {c.name}) is None for c in columns] == [True, True, True, True, False]
    with open_fits(path) as file:
        (rows,) = file.rows({c.name.lower() for c in columns}, 10)
    assert rows["scaled"].tolist() == [1.5, 2.5]
    assert rows["unsigned"].tolist() == [1, 2**31 + 5]
    assert rows["grid"].shape == (2, 3, 2)
    assert [len(one) for one in rows["lists"]] == [2, 3]
    assert rows["plain"].tolist() == [7, 8]


def test_real_tables_read_as_by_astropy(sample_dir: Path) -> None:
    folders = [sample_dir / name for name in ("desi/fastspecfit", "sdss/legacy_full", "legacysurvey/fastspecfit")]
    seen = 0
    for path in find_files(folders):
        if not is_fits(path) or not (names := fits_columns(path)):
            continue
        with open_fits(path) as file:
            (rows,) = file.rows(names.keys(), 10_000)
        truth = fits.getdata(path, next(i for i, h in enumerate(fits.open(path)) if isinstance(h, fits.BinTableHDU)))
        for low, name in names.items():
            assert equal(rows[low], truth[name]), (path, name)
            seen += 1
    assert seen > 250


def test_a_table_without_rows_gives_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table.fits"
    fits.BinTableHDU.from_columns([fits.Column("A", "E", array=np.empty(0))]).writeto(path)
    with open_fits(path) as file:
        assert list(file.rows({"a"}, 5)) == []


@pytest.mark.parametrize("form", ["1Z", "PE"])
def test_a_form_that_is_none_is_left_to_astropy(form: str) -> None:
    header = fits.Header({"XTENSION": "BINTABLE", "TFIELDS": 1, "TFORM1": form, "TTYPE1": "A", "NAXIS1": 8})
    assert records(header, {"A"}) is None
