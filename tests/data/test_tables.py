"""Tables of every format give the same columns, and say where they are damaged."""

from __future__ import annotations

import gzip
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data.tables import flags, numbers, open_table, text_columns

ALL = ("id", "ra", "ok")


def read(path: Path, names: Collection[str] = ALL, size: int = 2) -> dict[str, np.ndarray]:
    with open_table(path) as table:
        parts = list(table.rows(names, size))
    assert all(len(column) <= size for part in parts for column in part.values())
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["fits", "csv", "csv.gz", "archive.csv", "ecsv", "vot"]))
def test_every_format_gives_the_same_numbers(data: st.DataObject, form: str) -> None:
    values = data.draw(st.lists(st.floats(-1e300, 1e300) | st.just(np.nan), min_size=1, max_size=7))
    ids = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(values), max_size=len(values)))
    order = data.draw(st.permutations([*ALL, "extra"]))
    columns = {"id": np.array(ids), "ra": values, "ok": [x > 0 for x in values], "extra": ["x"] * len(values)}
    rows = Table({name.upper(): columns[name] for name in order})
    with TemporaryDirectory() as folder:
        path = Path(folder, f"table.{form}")
        if "csv" in form and form != "ecsv":
            rows.write(path.with_suffix(".plain"), format="ascii.csv")
            text = path.with_suffix(".plain").read_bytes()
            text = b"# SELECT a, b FROM c;\n# " + text if "archive" in form else text
            path.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
        else:
            rows.write(path, format={"ecsv": "ascii.ecsv", "vot": "votable"}.get(form, form))
        found = read(path)
        assert found.keys() == set(ALL)
        np.testing.assert_array_equal(numbers(found, "ra", path), values)
        assert [str(name) for name in found["id"]] == [str(name) for name in ids]  # to the last digit
        assert flags(found["ok"]).tolist() == columns["ok"]


def test_text_says_that_there_is_no_value_in_many_ways(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("ra,dec\n1.5,\n,2\nnull,NaN\nNULL,\\N\ninf,3\n")
    found = read(path, ("ra", "dec"))
    np.testing.assert_array_equal(numbers(found, "ra", path), [1.5, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(numbers(found, "dec", path), [np.nan, 2, np.nan, np.nan, 3])


def test_flags_of_text_are_read_as_archives_write_them() -> None:
    assert flags(np.array(["t", "True", "1", "y", "f", "False", "0", "", "n"])).tolist() == [True] * 4 + [False] * 5


def test_a_value_that_is_no_number_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("ra,dec\n1,2\n3,north\n")
    with pytest.raises(InputError, match=r"table\.csv: column dec, row 11: 'north' is no number"):
        numbers(read(path, ("ra", "dec")), "dec", path, first=10)
    with pytest.raises(InputError, match=r"column ra holds float64 \(2,\)"):
        numbers({"ra": np.ones((3, 2))}, "ra", path)


def test_a_heading_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("# ra,dec\n")
    with open_table(path) as table:
        assert list(table.rows(("ra",), 5)) == []


@pytest.mark.parametrize(
    "content", [b"", b"one word", b"<html>,</html>\n", b"a b,c d\n", b"\xff\xfe,\n", b"# ra dec\n1 2\n"]
)
def test_what_names_no_columns_is_no_comma_separated_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert text_columns(path) is None


@pytest.mark.parametrize("content", [b"ra,dec\n1,2\n3\n", b"", b"nothing"])
def test_a_damaged_table_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"table\.csv"):
        read(path, ("ra", "dec"))


def test_compression_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    text = "ra,dec\n" + "".join(f"{i * 0.137},{-i * 0.1}\n" for i in range(9000))
    path.write_bytes(gzip.compress(text.encode())[:-3000])
    with pytest.raises(InputError, match=r"table\.csv\.gz"):
        read(path, ("ra", "dec"), 1000)
