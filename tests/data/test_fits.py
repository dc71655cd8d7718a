"""FITS files of several HDUs: what is wanted comes in native order, a part at a time; what is damaged is told."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data.fits import fits_columns, fits_headers, fits_rows, open_fits

COUNTS = np.arange(12, dtype=np.int16).reshape(3, 4)


def whole(packed: bool = False) -> fits.HDUList:
    flux = np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32)
    first = fits.BinTableHDU.from_columns([fits.Column("ID", "K", array=np.arange(5))], name="first")
    second = fits.BinTableHDU.from_columns([fits.Column("Z", "D", array=np.arange(7) / 7)], name="SECOND")
    counts = fits.ImageHDU(COUNTS, name="Counts")
    counts.header["BZERO"], counts.header["BSCALE"] = 100.0, 0.5
    image = (fits.CompImageHDU if packed else fits.ImageHDU)(flux, name="FLUX")
    image.header["CTYPE1"], image.header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    return fits.HDUList([fits.PrimaryHDU(), first, counts, image, second])


@pytest.fixture(params=["plain", "gzip", "tiles"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file.fits"
    whole(request.param == "tiles").writeto(path)
    if request.param == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def test_hdus_are_found_by_name_in_any_case_and_by_number(path: Path) -> None:
    with open_fits(path) as file:
        assert file.names == ("PRIMARY", "FIRST", "COUNTS", "FLUX", "SECOND")
        assert [hdu in file for hdu in ("second", "Flux", 4, "third", 5, -1)] == [True, True, True, False, False, False]
        assert file.columns("second") == {"z": "Z"}
        assert file.columns() == file.columns(1) == {"id": "ID"}
        assert file.header("counts")["BZERO"] == 100
        assert [len(rows["z"]) for rows in file.rows({"z"}, 3, "SECOND")] == [3, 3, 1]
        assert file.image().hdu == 2
    assert [header.get("EXTNAME") for header in fits_headers(path)] == [None, "FIRST", "COUNTS", "FLUX", "SECOND"]
    assert fits_columns(path, "SECOND") == fits_columns(path, 4) == {"z": "Z"}
    assert fits_columns(path, "FLUX") is None
    assert next(fits_rows(path, {"z"}, 10, "second"))["z"].tolist() == (np.arange(7) / 7).tolist()


def test_parts_of_images_come_scaled_and_in_native_order(path: Path) -> None:
    with open_fits(path) as file:
        scaled, flux = file.image("counts"), file.image("flux")
        assert (scaled.shape, len(scaled), flux.shape) == ((3, 4), 3, (50, 60))
        np.testing.assert_allclose(scaled[:, 1:3], 100 + 0.5 * np.arange(12).reshape(3, 4)[:, 1:3])
        part = flux[10:20, 30:35]
        assert part.dtype == np.float32
        assert part.dtype.isnative
        assert flux.wcs.wcs.ctype[0] == "RA---TAN"
    original = whole()["FLUX"].data
    if "CompImage" in str(type(fits.open(path)["FLUX"])):
        np.testing.assert_allclose(part, original[10:20, 30:35], atol=0.1)  # quantized when it was packed
    else:
        np.testing.assert_array_equal(part, original[10:20, 30:35])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda file: file.header("third"), "HDU third is missing; the file has 0 PRIMARY, 1 FIRST, 2 COUNTS"),
        (lambda file: file.columns("flux"), "HDU flux holds no table"),
        (lambda file: file.image("first"), "HDU first holds no image"),
        (lambda file: file.image(0), "HDU 0 holds no image"),
        (lambda file: list(file.rows({"id"}, 5, 9)), "HDU 9 is missing"),
        (lambda file: file.image("counts")[5, 5, 5], "HDU counts: not a whole FITS file"),
        (lambda file: file.image("counts").wcs, "HDU counts has no celestial coordinates"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(path: Path, what: object, message: str) -> None:
    with open_fits(path) as file, pytest.raises(InputError) as refused:
        what(file)  # type: ignore[operator]
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.booleans(), st.booleans())
def test_a_file_cut_anywhere_is_refused_or_lacks_whole_hdus(part: float, tiles: bool, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.fits")
        whole(tiles).writeto(path)
        content = gzip.compress(path.read_bytes(), 1) if packed else path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        names = [header.get("EXTNAME") for header in fits_headers(path)]  # never raises
        try:
            with open_fits(path) as file:
                assert [name or "PRIMARY" for name in names] != []
                for hdu in ("first", "second"):
                    if hdu in file:
                        found = [rows[c] for c in ("id", "z") for rows in file.rows({c}, 100, hdu) if c in rows]
                        assert [len(column) for column in found] == [5 if hdu == "first" else 7]
        except InputError as error:
            if not str(error).startswith(str(path)):
                pytest.fail(f"the sentence does not name the file: {error}")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_overwritten_bytes_give_a_sentence_or_numbers_and_no_other_error(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.fits")
        whole().writeto(path)
        content = np.frombuffer(path.read_bytes(), np.uint8).copy()
        headers = np.flatnonzero(np.frombuffer(content.tobytes(), np.uint8) == ord("="))
        places = rng.choice(headers, min(count, len(headers)))[:, None] + rng.integers(-8, 30, (1, 3))
        content[places.clip(0, len(content) - 1)] = rng.integers(32, 127, places.shape)
        path.write_bytes(content.tobytes())
        try:
            with open_fits(path) as file:
                for hdu in file.names:
                    if hdu in ("FIRST", "SECOND"):
                        list(file.rows({"id", "z"}, 3, hdu))
                    elif hdu in ("COUNTS", "FLUX"):
                        file.image(hdu)[:2]
        except InputError:
            pass


def test_damaged_compression_is_found_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.fits.gz"
    whole().writeto(tmp_path / "file.fits")
    content = bytearray(gzip.compress((tmp_path / "file.fits").read_bytes()))
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="not a whole FITS file"), open_fits(path):
        pytest.fail("it was opened")


def test_a_card_that_cannot_be_parsed_counts_as_missing_and_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.fits"
    whole().writeto(path)
    content = path.read_bytes()
    place = content.index(b"CTYPE1  = 'RA---TAN'") + 10
    path.write_bytes(content[:place] + b"\0" + content[place + 1 :])
    with open_fits(path) as file:
        header = file.header("FLUX")
        assert header.get("CTYPE1") is None
        with pytest.raises(KeyError, match="CTYPE1"):
            header["CTYPE1"]
        assert header["CTYPE2"] == "DEC--TAN"


def test_a_table_whose_columns_cannot_be_named_has_none(tmp_path: Path) -> None:
    path = tmp_path / "file.fits"
    whole().writeto(path)
    path.write_bytes(path.read_bytes().replace(b"TTYPE1  = 'ID", b"TTYPE1  = \0ID"))
    assert fits_columns(path) is None


def test_words_after_the_end_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "file.fits"
    whole().writeto(path)
    content = path.read_bytes()
    for tail in (b"", b"\0" * 7, b"\0" * 2880, b"END OF TAPE"):
        path.write_bytes(content + tail)
        with open_fits(path) as file:
            assert len(file.names) == 5


@pytest.mark.parametrize("lost", [1, 7, 2000])
def test_a_file_cut_in_the_padding_of_an_hdu_is_refused(tmp_path: Path, lost: int) -> None:
    """What came behind is lost with the padding, and the headers that are left know nothing of it."""
    path = tmp_path / "file.fits"
    whole().writeto(path)
    with fits.open(path) as hdus:
        end = hdus["first"].fileinfo()["datLoc"] + hdus["first"].fileinfo()["datSpan"]
    path.write_bytes(path.read_bytes()[: end - lost])
    with pytest.raises(InputError, match=rf"cut short \({end - lost} bytes, its HDU \d FIRST .* padded to {end}\)"):
        open_fits(path).__enter__()


def test_a_file_cut_in_the_first_word_of_a_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.fits"
    whole().writeto(path)
    with fits.open(path) as hdus:
        end = hdus["first"].fileinfo()["datLoc"] + hdus["first"].fileinfo()["datSpan"]
    path.write_bytes(path.read_bytes()[: end + 3])
    with pytest.raises(InputError, match=f"header that begins at byte {end}"):
        open_fits(path).__enter__()


def test_temporary_copies_of_compressed_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.fits.gz"
    whole().writeto(path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    rows = fits_rows(path, {"id"}, 2)
    next(rows)
    assert len(list(scratch.iterdir())) == 1
    rows.close()
    assert list(scratch.iterdir()) == []
