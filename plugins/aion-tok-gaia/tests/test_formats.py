"""What every format must hold: the rules of readers, damage, odd spellings, and any order and type of columns."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aion_tok_gaia.reader import ArchiveReader, ArrayReader
from astropy.io import fits, votable
from astropy.table import MaskedColumn, Table
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.testing import ReaderContract

KINDS = ("fits", "csv", "tsv", "ecsv", "tabledata", "binary", "binary2", "json", "parquet")
SUFFIX = {"tabledata": "vot", "binary": "xml", "binary2": "votable"}
Objects = dict[str, dict[str, np.ndarray]]


def write(table: Table, path: Path, kind: str) -> Path:
    """Write a table in one of the formats; masked values become what the format has for them."""
    if kind in ("tabledata", "binary", "binary2"):
        votable.from_table(table).to_xml(str(path), tabledata_format=kind)
    elif kind in ("json", "parquet"):
        rows = [[None if value is np.ma.masked else _plain(value) for value in row] for row in table]
        if kind == "json":
            rows = json.dumps({"metadata": [{"name": n} for n in table.colnames], "data": rows})
            path.write_text(rows)
        else:
            pq.write_table(pa.table({n: [row[i] for row in rows] for i, n in enumerate(table.colnames)}), path)
    elif kind in ("csv", "tsv"):
        texts = Table({n: [_text(v) for v in table[n]] for n in table.colnames})
        texts.write(path, format="ascii.csv", delimiter="," if kind == "csv" else "\t")
    else:
        table.write(path, format={"fits": "fits", "ecsv": "ascii.ecsv"}[kind], overwrite=True)
    return path


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else value


def _text(value: object) -> str:
    if value is np.ma.masked:
        return ""
    return "(" + ", ".join(map(str, value.tolist())) + ")" if isinstance(value, np.ndarray) else str(value)


def read(path: Path, batch_size: int = 1000) -> tuple[Objects, list[tuple[str, str]]]:
    """Return ``{object id: {key: value}}`` of a whole file, and what was skipped."""
    objects: Objects = {}
    skipped: list[tuple[str, str]] = []
    for batch in ArchiveReader().read(path, batch_size):
        skipped += [(s.name, s.reason) for s in batch.skipped]
        for i, name in enumerate(batch.object_id):
            objects[str(name)] = {"ra": batch.ra[i], "dec": batch.dec[i]}
        for key, (observation, rows) in batch.data.items():
            for value, row in zip(observation.value.numpy(), rows, strict=True):
                objects[str(batch.object_id[row])][key] = value
    return objects, skipped


def spectra(count: int = 3, width: int = 55) -> Table:
    values = np.random.default_rng(count).normal(size=(2, count, width)).round(6)
    columns = {"bp_coefficients": values[0], "rp_coefficients": values[1]}
    return Table({"source_id": np.arange(count) + 2**60 + 1, **columns})


def sources(count: int = 5) -> Table:
    rng = np.random.default_rng(count)
    names = ("parallax", "ra", "dec", "phot_g_mean_flux", "phot_bp_mean_flux")
    numbers = {name: MaskedColumn(rng.uniform(1, 80, count).round(6), mask=rng.random(count) < 0.3) for name in names}
    return Table({"source_id": np.arange(count) + 2**60 + 1, **numbers, "designation": ["Gaia DR3"] * count})


def write_variable(path: Path, arrays: list[np.ndarray]) -> Path:
    """Write a FITS table whose spectra are a variable-length column, as the archive does."""
    cells = np.empty(len(arrays), object)
    cells[:] = arrays
    ids = fits.Column("source_id", "K", array=np.arange(len(arrays)) + 1)
    fits.BinTableHDU.from_columns([ids, fits.Column("bp_coefficients", "PD()", array=cells)]).writeto(path)
    return path


class TestBinaryFormats(ReaderContract):
    reader = "gaia_table"

    def files(self, folder: Path) -> Sequence[Path]:
        kinds = ("fits", "tabledata", "binary", "binary2", "json", "parquet")
        made = [write(t(), folder / f"{t.__name__}.{SUFFIX.get(k, k)}", k) for k in kinds for t in (spectra, sources)]
        return [*made, write_variable(folder / "variable.fits", list(spectra()["bp_coefficients"]))]


class TestText(ReaderContract):
    reader = "gaia_table"
    shows_cuts = False

    def files(self, folder: Path) -> Sequence[Path]:
        return [write(t(), folder / f"{t.__name__}.{k}", k) for k in ("csv", "ecsv") for t in (spectra, sources)]


class TestDataLink(ReaderContract):
    reader = "gaia_table"

    def files(self, folder: Path) -> Sequence[Path]:
        with zipfile.ZipFile(folder / "1700000000000.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for i in (1, 2):
                table = spectra(i)
                table["source_id"] += 1000 * i
                archive.write(write(table, folder.parent / "x", "fits"), f"XP_CONTINUOUS-Gaia DR3 {i}.fits")
            archive.writestr("XP_SAMPLED-Gaia DR3 1.csv", "source_id,flux,flux_error\n")
        return [folder / "1700000000000.zip"]


class TestArrays(ReaderContract):
    reader = "gaia_xp_arrays"

    def files(self, folder: Path) -> Sequence[Path]:
        values, ids = np.random.default_rng(0).normal(size=(20, 110)).astype(np.float32), np.arange(20) + 1
        np.savez_compressed(folder / "rows.npz", X=values, source_id=ids)
        np.savez(folder / "columns.npz", X=np.asfortranarray(values), source_id=ids.astype(">i8"))
        return [folder / "rows.npz", folder / "columns.npz"]


# --- rows that cannot be used ---


@pytest.mark.parametrize("kind", ["csv", "ecsv", "json", "parquet", "fits"])
def test_a_row_with_another_number_of_coefficients_is_skipped_among_good_ones(tmp_path: Path, kind: str) -> None:
    good, short = np.arange(55.0) + 1, np.arange(54.0) + 1
    path = tmp_path / f"x.{kind}"
    if kind == "fits":
        write_variable(path, [good, short, good])
    else:
        cells = np.empty(3, object)
        cells[:] = good, short, good
        write(Table({"source_id": [1, 2, 3], "bp_coefficients": cells}), path, kind)
    for size in (1, 2, 100):
        objects, skipped = read(path, size)
        assert list(objects) == ["1", "3"]
        ((name, reason),) = skipped
        assert name == "row 2 (source_id 2)"
        assert reason.startswith("it has 54 bp_coefficients, and gaia_xp_bp stands for 55 (DR3)")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 100])
def test_a_release_with_another_basis_is_refused_by_count_and_key(tmp_path: Path, kind: str, size: int) -> None:
    path = write(spectra(3, width=51), tmp_path / f"x.{SUFFIX.get(kind, kind)}", kind)
    with pytest.raises(
        InputError, match=r"x\..*: row 1 has 51 bp_coefficients, .* such as gaia_xp_bp_51, with a token"
    ):
        read(path, size)


def test_the_declared_number_of_coefficients_tells_a_damaged_row_from_another_basis(tmp_path: Path) -> None:
    for declared, width, message in ((55, 54, None), (51, 51, "row 1 has 51"), (51, 55, "row 1 has 51")):
        table = spectra(2, width)
        table["bp_n_parameters"] = table["RP_N_Parameters"] = declared
        path = write(table, tmp_path / "x.parquet", "parquet")
        if message is None:
            objects, skipped = read(path)
            assert (len(objects), len(skipped)) == (0, 2)
        else:
            with pytest.raises(InputError, match=message):
                read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spectrum_with_a_hole_is_skipped_with_its_row(tmp_path: Path, kind: str) -> None:
    table = spectra()
    table["rp_coefficients"][1, :2] = np.nan, np.inf
    objects, skipped = read(write(table, tmp_path / f"x.{SUFFIX.get(kind, kind)}", kind))
    assert list(objects) == [str(table["source_id"][0]), str(table["source_id"][2])]
    reason = "2 of its 55 rp_coefficients are missing or not finite"
    assert skipped == [(f"row 2 (source_id {table['source_id'][1]})", reason)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_floating_point_identifier_is_refused(tmp_path: Path, kind: str) -> None:
    table = sources()
    table["source_id"] = table["source_id"].astype(float)
    with pytest.raises(InputError, match=r"x\..*: source_id is a floating-point number .* which cannot hold"):
        read(write(table, tmp_path / f"x.{SUFFIX.get(kind, kind)}", kind))


@pytest.mark.parametrize("kind", ["fits", "parquet"])
def test_a_column_of_another_type_is_refused(tmp_path: Path, kind: str) -> None:
    path = write(Table({"source_id": [1, 2], "parallax": [True, False]}), tmp_path / "x", kind)
    with pytest.raises(InputError, match="column parallax holds truth values; expected one number in each row"):
        read(path)


# --- files that are cut or damaged ---


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("csv", "tsv", "ecsv")])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_without_its_end_is_refused(tmp_path: Path, kind: str, packed: bool) -> None:
    if packed and kind == "parquet":
        return
    path = write(spectra(20), tmp_path / "x", kind)
    content = gzip.compress(path.read_bytes()) if packed else path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(InputError, match=str(path)):
        read(path)


@pytest.mark.parametrize("kind", ["csv", "ecsv"])
@pytest.mark.parametrize("lines", [1, 1000])
def test_text_that_is_cut_in_a_line_is_refused(tmp_path: Path, kind: str, lines: int) -> None:
    path = write(sources(lines + 1), tmp_path / "x", kind)
    text = path.read_text().rstrip("\n")
    path.write_text(text[:-20])
    with pytest.raises(InputError, match=rf"x: the file is cut short in its last line, row {lines + 1}"):
        read(path, 100)


def test_packed_text_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = write(spectra(2000), tmp_path / "x", "csv")
    packed = gzip.compress(path.read_bytes())
    for cut in (len(packed) // 2, len(packed) - 9, len(packed) - 1):
        path.write_bytes(packed[:cut])
        with pytest.raises(InputError, match=str(path)):
            read(path)


def test_a_votable_with_its_data_elsewhere_is_refused(tmp_path: Path) -> None:
    head = (
        '<VOTABLE><RESOURCE><TABLE><FIELD name="source_id" datatype="long"/><FIELD name="parallax" datatype="double"/>'
        "<DATA>"
    )
    path = tmp_path / "x.vot"
    for data, message in (
        ('<BINARY><STREAM href="http://x.org/y"/></BINARY>', "data of this VOTable are not inside it"),
        ('<FITS><STREAM encoding="base64">AAAA</STREAM></FITS>', "FITS stream; ask for a FITS file"),
        ('<BINARY><STREAM encoding="base64">AA*A</STREAM></BINARY>', "cannot be read"),
        ('<BINARY><STREAM encoding="base64">AAAAAAAA</STREAM></BINARY>', "end in the middle of a row"),
    ):
        path.write_text(f"{head}{data}</DATA></TABLE></RESOURCE></VOTABLE>")
        with pytest.raises(InputError, match=message):
            read(path)


def test_a_row_of_a_votable_with_missing_cells_is_skipped(tmp_path: Path) -> None:
    path = write(sources(), tmp_path / "x.vot", "tabledata")
    lines = path.read_text().splitlines()
    del lines[[i for i, line in enumerate(lines) if "<TD" in line][8]]
    path.write_text("\n".join(lines))
    objects, skipped = read(path)
    assert len(objects) == 4
    assert skipped == [("row 2", "the row has 6 cells, expected 7")]


def test_integers_of_a_votable_that_stand_for_no_value_are_missing(tmp_path: Path) -> None:
    fields = (
        '<FIELD name="source_id" datatype="long"/><FIELD name="parallax" datatype="int"><VALUES null="-1"/></FIELD>'
    )
    shell = f"<VOTABLE><RESOURCE><TABLE>{fields}<DATA>%s</DATA></TABLE></RESOURCE></VOTABLE>"
    path = tmp_path / "x.vot"
    packed = b64encode(struct.pack(">qiqi", 1, -1, 2, 5)).decode()
    rows = "<TR><TD>1</TD><TD>-1</TD></TR><TR><TD>2</TD><TD>5</TD></TR>"
    for data in (
        f"<TABLEDATA>{rows}</TABLEDATA>",
        f'<BINARY><STREAM encoding="base64">\n{packed[:7]}\n {packed[7:]}</STREAM></BINARY>',
    ):
        path.write_text(shell % data)
        objects, _ = read(path)
        assert ["gaia_parallax" in measured for measured in objects.values()] == [False, True]


def test_an_array_that_does_not_match_its_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, X=np.full((20, 110), 1.5), source_id=np.arange(20) + 1)
    content = path.read_bytes()
    place = content.rindex(np.float64(1.5).tobytes())
    path.write_bytes(content[:place] + np.float64(2.5).tobytes() + content[place + 8 :])
    with pytest.raises(InputError, match=r"x\.npz: not a readable NumPy archive \(Bad CRC-32"):
        list(ArrayReader().read(path, 7))


def test_an_array_longer_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "x.npz", tmp_path / "whole.npz"
    np.savez(whole, X=np.ones((20, 110)), source_id=np.arange(20) + 1)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) + b"\0" * (880 if name == "X.npy" else 8))
    with pytest.raises(InputError, match="more in it than its header says"):
        list(ArrayReader().read(path, 7))


def test_a_missing_identifier_in_parquet_skips_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"source_id": [2**62 + 1, None, 3], "parallax": [1.0, 2.0, None]}), path)
    objects, skipped = read(path)
    assert list(objects) == [str(2**62 + 1), "3"]
    assert skipped == [("row 2", "source_id is missing")]


def test_a_fault_inside_an_archive_names_both_files(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    member = write(spectra(1, width=51), tmp_path / "y", "fits").read_bytes()
    for content, message in ((member, "row 1 has 51 bp_coefficients"), (member[:6000], ".*cut short")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("XP_CONTINUOUS_RAW.fits", content)
        with pytest.raises(InputError, match=rf"^{path}[:,] XP_CONTINUOUS_RAW\.fits[:,] {message}"):
            read(path)


def test_an_oversized_file_in_an_archive_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(write(spectra(), tmp_path / "y", "csv"), "XP_CONTINUOUS_RAW.csv")
    monkeypatch.setattr("aion_tok_gaia.formats.datalink.MEMBER_BYTES", 100)
    with pytest.raises(InputError, match=r"x\.zip.*XP_CONTINUOUS_RAW\.csv has .* GiB; unpack the archive"):
        read(path)


# --- any spelling, order, type ---

opening, quoted = st.sampled_from(["()", "[]"]), st.booleans()


@settings(max_examples=60, deadline=None)
@given(
    brackets=opening,
    quotes=quoted,
    comma=st.sampled_from([",", ", ", " , "]),
    place=st.integers(0, 2),
    ends=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    comment=st.booleans(),
    packed=st.booleans(),
    size=st.integers(1, 5),
)
def test_arrays_in_text_are_read_however_they_are_spelt(
    brackets: str, quotes: bool, comma: str, place: int, ends: str, bom: bool, comment: bool, packed: bool, size: int
) -> None:
    table = spectra(4)
    lines = []
    for row in table:
        cells = [str(row["parallax"]) if "parallax" in table.colnames else "", str(row["source_id"])]
        array = brackets[0] + comma.join(map(str, row["bp_coefficients"])) + brackets[1]
        cells.insert(place, f'"{array}"' if quotes else array)
        lines.append(",".join(cells))
    names = ["parallax", "source_id"]
    names.insert(place, "bp_coefficients")
    text = ends.join(["# made by hand"] * comment + [",".join(names), *lines]) + ends
    content = text.encode("utf-8-sig" if bom else "utf-8")
    with TemporaryDirectory() as folder:
        path = Path(folder, "x.csv")
        path.write_bytes(gzip.compress(content) if packed else content)
        assert ArchiveReader().claims(path)
        objects, skipped = read(path, size)
    assert skipped == []
    assert list(objects) == [str(i) for i in table["source_id"]]
    for measured, row in zip(objects.values(), table, strict=True):
        np.testing.assert_array_equal(measured["gaia_xp_bp"], row["bp_coefficients"].astype(np.float32))


numbers = st.one_of(st.floats(0, 80, width=32), st.sampled_from([np.nan, np.inf, -np.inf]))
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
        if np.isfinite(truth[name]).all() and draw(st.booleans()):
            truth[name] = [int(value) for value in truth[name]]
            columns[name] = np.array(truth[name], draw(st.sampled_from([">i2", "<i4", "<i8"])))
    columns |= {"solution_id": np.arange(size), "designation": np.array(["x, y"] * size)}
    order = draw(st.permutations(sorted(columns)))
    spelt = {name: draw(st.sampled_from([str.upper, str.lower, str.title]))(name) for name in order}
    return Table({spelt[name]: columns[name] for name in order}), truth


@settings(max_examples=90, deadline=None)
@given(tables(), st.sampled_from(KINDS), st.integers(1, 7))
def test_columns_are_found_in_any_order_type_and_case(
    drawn: tuple[Table, dict[str, list[float]]], kind: str, size: int
) -> None:
    table, truth = drawn
    with TemporaryDirectory() as folder:
        objects, skipped = read(write(table, Path(folder, "x"), kind), size)
    assert skipped == []
    assert list(objects) == [str(i) for i in truth["source_id"]]
    for name, key in scalars.items():
        for source, value in zip(truth["source_id"], truth.get(name, [np.nan] * len(objects)), strict=True):
            assert (key in objects[str(source)]) == np.isfinite(value)
            if np.isfinite(value):
                assert objects[str(source)][key] == np.float32(value)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=5), st.sampled_from(KINDS), st.sampled_from([float, int]))
def test_masked_values_are_not_measured(hidden: list[bool], kind: str, dtype: type) -> None:
    if kind == "binary":
        dtype = float  # astropy writes no integer without a value there
    parallax = MaskedColumn(np.arange(len(hidden)).astype(dtype) + 1, mask=hidden)
    table = Table({"source_id": np.arange(len(hidden)) + 1, "parallax": parallax})
    with TemporaryDirectory() as folder:
        objects, _ = read(write(table, Path(folder, "x"), kind))
    assert ["gaia_parallax" not in measured for measured in objects.values()] == hidden


@settings(max_examples=80, deadline=None)
@example(kind="fits", place=0.5234375, byte=0)  # in the card that names a column
@given(kind=st.sampled_from(KINDS), place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_byte_ends_in_a_sentence_or_in_objects(kind: str, place: float, byte: int) -> None:
    with TemporaryDirectory() as folder:
        path = write(sources(), Path(folder, "x"), kind)
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] = byte
        path.write_bytes(content)
        with suppress(InputError):
            if ArchiveReader().claims(path):
                read(path, 2)


@settings(max_examples=40, deadline=None)
@example(place=0.0234375, byte=0)  # in the length of the header, so that it ends within the numbers
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_array_file_is_foreign_or_refused(place: float, byte: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        values = np.random.default_rng(1).normal(size=(20, 110)).astype(np.float32)
        np.savez_compressed(path, X=values, source_id=np.arange(20) + 1)
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] = byte
        path.write_bytes(content)
        if ArrayReader().claims(path):
            with suppress(InputError):
                assert sum(len(batch) + len(batch.skipped) for batch in ArrayReader().read(path, 7)) == 20


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"SIMPLE  =", b"<VOTABLE>", b'{"metadata":', b"PK\x03\x04", b"\x1f\x8b", b"PAR1"]),
)
def test_whatever_the_bytes_claiming_answers(content: bytes, head: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "file.fits")
        path.write_bytes(head + content)
        assert ArchiveReader().claims(path) in (True, False)
        assert ArrayReader().claims(path) is False
