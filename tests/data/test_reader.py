"""What readers stand on: batches that refuse contradictions, and FITS tables in slices."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data import ObservationBatch
from aion_core.data.reader import fits_columns, fits_rows
from aion_core.observations import Scalar

IDS = np.array(["a", "b"])


@pytest.mark.parametrize(
    ("ra", "dec", "rows", "message"),
    [
        ([1.0], [1.0, 2.0], [0], "shape"),
        ([1.0, np.inf], [1.0, 2.0], [0], "finite"),
        ([1.0, 2.0], [1.0, 91.0], [0], "−90 … 90"),
        ([1.0, 2.0], [1.0, 2.0], [2], "rows"),
        ([1.0, 2.0], [1.0, 2.0], [0, 1], "1 observations, but 2 rows"),
    ],
)
def test_a_contradictory_batch_is_refused(ra: list[float], dec: list[float], rows: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ObservationBatch(IDS, np.array(ra), np.array(dec), {"x": (Scalar([1.0]), np.array(rows))})


def test_unknown_positions_are_allowed() -> None:
    unknown = np.array([np.nan, 2.0])
    assert len(ObservationBatch(IDS, unknown, unknown)) == 2


def read(path: Path, names: set[str], size: int = 2) -> dict[str, np.ndarray]:
    slices = list(fits_rows(path, names, size))
    for column in (column for rows in slices for column in rows.values()):
        assert len(column) <= size
        assert column.dtype.isnative  # concatenating would make it so
    return {name: np.concatenate([rows[name] for rows in slices]) for name in slices[0]}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64, bool]), st.integers(1, 7))
def test_columns_come_in_native_byte_order_and_with_their_values(kind: type, size: int) -> None:
    values = np.arange(size).astype(kind)
    with TemporaryDirectory() as folder:
        path = Path(folder, "table.fits")
        Table({"Value": values, "Pair": np.stack([values, values], 1), "Name": ["x "] * size}).write(path)
        found = read(path, {"value", "pair", "name", "absent"})
    assert found.keys() == {"value", "pair", "name"}
    assert found["value"].dtype == values.dtype
    np.testing.assert_array_equal(found["value"], values)
    np.testing.assert_array_equal(found["pair"], np.stack([values, values], 1))
    assert set(found["name"]) == {"x"}


@pytest.mark.parametrize("block", [1, 40, 1 << 23])
def test_rows_are_the_same_however_the_file_is_cut_into_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    path = tmp_path / "table.fits"
    Table({"x": np.arange(23.0)}).write(path)
    monkeypatch.setattr("aion_core.data.fits.BLOCK_BYTES", block)
    for size in (1, 2, 23, 50):
        assert read(path, {"x"}, size)["x"].tolist() == list(range(23))


def test_variable_length_columns_come_as_native_arrays(tmp_path: Path) -> None:
    cells = np.empty(3, object)
    cells[:] = [np.arange(n, dtype=float) for n in (3, 0, 2)]
    fits.BinTableHDU.from_columns([fits.Column("cells", "PD()", array=cells)]).writeto(tmp_path / "table.fits")
    found = read(tmp_path / "table.fits", {"cells"})["cells"]
    assert [cell.tolist() for cell in found] == [[0, 1, 2], [], [0, 1]]
    assert all(cell.dtype.isnative for cell in found)
    assert found[0].flags.owndata


def test_the_first_table_counts_and_images_do_not(tmp_path: Path) -> None:
    path = tmp_path / "file.fits"
    image = fits.CompImageHDU(np.zeros((50, 50), np.float32), name="IMAGE")
    tables = [fits.BinTableHDU(Table({name: [1.0]})) for name in ("first", "second")]
    fits.HDUList([fits.PrimaryHDU(np.zeros(2000)), image, *tables]).writeto(path)
    packed = tmp_path / "file.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for each in (path, packed):
        assert fits_columns(each) == {"first": "first"}
        assert read(each, {"first", "second"}).keys() == {"first"}


def test_files_without_a_table_have_no_columns(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros(9)).writeto(tmp_path / "image.fits")
    (tmp_path / "text.fits").write_text("SIMPLE text")
    (tmp_path / "empty.fits").touch()
    for name in ("image", "text", "empty"):
        assert fits_columns(tmp_path / f"{name}.fits") is None
        with pytest.raises(InputError, match=name):
            list(fits_rows(tmp_path / f"{name}.fits", {"x"}, 10))


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_a_file_cut_short_keeps_its_columns_and_is_refused_when_read(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "table.fits"
    Table({"x": np.arange(5000.0)}).write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert fits_columns(path) == {"x": "x"}
    with pytest.raises(InputError, match="cut short"):
        list(fits_rows(path, {"x"}, 100))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Peak memory after reading 160 MB of rows stays within a tenth of that of the peak before."""
    path = tmp_path / "table.fits"
    Table({"x": np.zeros((20_000, 1000))}).write(path)
    script = (
        "import resource, sys; from pathlib import Path; from aion_core.data.reader import fits_columns, fits_rows\n"
        "path = Path(sys.argv[1]); fits_columns(path); next(fits_rows(path, {'x'}, 100))\n"
        "peak = lambda: max(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon'))\n"
        "before = peak(); most = max(peak() for rows in fits_rows(path, {'x'}, 100)); print(most - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000  # kB
