"""Stamps of HSC's cut-outs against cuts by astropy; mask planes by name; bands joined by the names of their files."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from aion_tok_hsc.cutouts import BAD_PLANES, ZERO_POINT
from aion_tok_hsc.images import ImageReader
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data.files import NotClaimedError
from aion_core.data.reader import ObservationBatch
from aion_core.observations import Image
from aion_core.testing import ReaderContract

SCALE = 0.168 / 3600
#: As in PDR3; the numbers differ between releases.
PLANES = {
    "BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "DETECTED_NEGATIVE": 6, "SUSPECT": 7,
    "NO_DATA": 8, "BRIGHT_OBJECT": 9, "CROSSTALK": 10, "NOT_DEBLENDED": 11, "UNMASKEDNAN": 12, "REJECTED": 13,
    "CLIPPED": 14, "SENSOR_EDGE": 15, "INEXACT_PSF": 16,
}  # fmt: skip


def world(ra: float = 150.0, dec: float = 2.0, shape: tuple[int, int] = (120, 130), angle: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = turn @ np.diag([-SCALE, SCALE])
    return wcs


def cutout(
    path: Path,
    band: str = "g",
    flux: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    variance: np.ndarray | None = None,
    *,
    wcs: WCS | None = None,
    planes: dict[str, int] = PLANES,
    packed: bool = False,
    **header: Any,
) -> Path:
    """Write a file as the archive does, of the planes that are given."""
    flux = np.random.default_rng(0).normal(0, 0.05, (120, 130)).astype("f4") if flux is None else flux
    cards = (wcs or world(shape=flux.shape)).to_header()
    primary = fits.PrimaryHDU()
    primary.header.update({"FILTER": band, "FLUXMAG0": 10 ** (0.4 * 27)} | header)
    hdus: list[Any] = [primary]
    for kind, values in (("IMAGE", flux), ("MASK", mask), ("VARIANCE", variance)):
        if values is not None:
            own = cards.copy()
            own["EXTTYPE"] = kind
            if kind == "MASK":
                own.update({f"HIERARCH MP_{name}": bit for name, bit in planes.items()})
            hdus.append(
                fits.CompImageHDU(values, own, quantize_level=0, compression_type="GZIP_2")
                if packed
                else fits.ImageHDU(values, own)
            )
    path.parent.mkdir(exist_ok=True, parents=True)
    fits.HDUList([h for h in hdus if h is not None]).writeto(path)
    return path


def read(path: Path, batch_size: int = 100, **options: Any) -> list[ObservationBatch]:
    reader = ImageReader(ImageReader.Options(**options))
    assert reader.claims(path)
    return list(reader.read(path, batch_size))


def image_of(batch: ObservationBatch) -> Image:
    image = batch.data["hsc_image"][0]
    assert isinstance(image, Image)
    return image


# --- real files


def test_real_cutouts_of_three_bands_are_one_object(sample_dir: Path) -> None:
    folder = sample_dir / "hsc/multiprofit"
    paths = [folder / f"222.51551376,0.09749601_300x300_{band}.fits" for band in "gri"]
    for path in paths:
        assert ImageReader().group(path) == tuple(paths)
    (batch,) = read(paths[0])
    image = image_of(batch)
    assert image.bands == ("HSC-G", "HSC-R", "HSC-I")
    assert image.zero_point == (27.0, 27.0, 27.0)
    assert image.pixel_scale == pytest.approx(0.168, abs=1e-4)
    assert list(batch.object_id) == ["222.51551376,0.09749601_300x300"]
    assert [batch.ra[0], batch.dec[0]] == pytest.approx([222.51551376, 0.09749601], abs=0.1 / 3600)
    for i, path in enumerate(paths):
        with fits.open(path) as hdus:
            flux, bits, variance = (Cutout2D(hdus[k].data, (150, 150), 95).data for k in (1, 2, 3))
            bad = np.zeros(bits.shape, bool)
            for name in BAD_PLANES:
                bad |= (bits >> hdus[2].header[f"MP_{name}"]) & 1 == 1
        np.testing.assert_array_equal(image.flux[0, i, 1:, 1:], flux)
        np.testing.assert_array_equal(image.mask[0, i, 1:, 1:], bad)
        np.testing.assert_allclose(image.ivar[0, i, 1:, 1:], np.where(bad, 0, 1 / variance), rtol=1e-6)
    assert image.mask.float().mean() < 0.01  # though BRIGHT_OBJECT covers 85 to 100 % of it
    y, x = divmod(int(image.flux[0, 2].argmax()), 96)
    assert np.hypot(y - 48, x - 48) < 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("multiprofit/222.51551376,0.09749601_g_psf.fits", "PSF"),
        ("scarlet/Cut_HSC.fits", "without a zero point"),
        ("scarlet/Cut_HSC1.fits", "without a zero point"),
        ("scarlet/PSF_HSC.fits", "without coordinates"),
        ("scarlet/hsc_cosmos_35.npz", "arrays without a zero point"),
    ],
)
def test_what_is_not_calibrated_is_refused_with_the_reason(sample_dir: Path, name: str, reason: str) -> None:
    path = sample_dir / "hsc" / name
    with pytest.raises(NotClaimedError, match=reason) as caught:
        ImageReader().claims(path)
    assert str(caught.value).startswith(str(path))


# --- pixels


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0, 359.9), st.floats(-80, 80), st.floats(0, 6.28), st.integers(0, 119), st.integers(0, 129),
    st.floats(-0.45, 0.45), st.floats(-0.45, 0.45), st.booleans(), st.sampled_from(["f4", "f8"]),
)  # fmt: skip
def test_a_bright_pixel_lands_in_the_middle_of_its_stamp(
    ra: float, dec: float, angle: float, row: int, column: int, dy: float, dx: float, packed: bool, kind: str
) -> None:
    wcs = world(ra, dec, angle=angle)
    values = np.ones((120, 130), kind)
    values[row, column] = 1000
    lon, lat = (float(v) for v in wcs.all_pix2world(column + dx, row + dy, 0))
    with TemporaryDirectory() as folder:
        path = cutout(Path(folder, "mine_r.fits"), "r", values, wcs=wcs, packed=packed)
        Path(folder, "here.csv").write_text(f"name,RA,DEC\nmine,{lon % 360!r},{lat!r}\n")
        (batch,) = read(path, positions=Path(folder, "here.csv"), identifier="name")
    image = image_of(batch)
    assert list(batch.object_id) == ["mine"]
    assert image.flux[0, 0, 48, 48] == 1000
    inside = np.zeros((96, 96), bool)
    inside[max(48 - row, 0) : 168 - row, max(48 - column, 0) : 178 - column] = True
    np.testing.assert_array_equal(image.mask[0, 0], ~inside)
    assert image.ivar is None


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(len(PLANES))), st.booleans())
def test_planes_are_bad_by_name_wherever_their_bit_is(order: list[int], packed: bool) -> None:
    planes = dict(zip(PLANES, order, strict=True))
    bits = np.zeros((96, 96), "i4")
    for i, name in enumerate(PLANES):
        bits[0, i] = 1 << planes[name]
    with TemporaryDirectory() as folder:
        path = cutout(Path(folder, "mine.fits"), "g", np.ones((96, 96), "f4"), bits, planes=planes, packed=packed)
        image = image_of(read(path)[0])
    assert {name for i, name in enumerate(PLANES) if image.mask[0, 0, 0, i]} == set(BAD_PLANES)
    assert image.mask.sum() == len(BAD_PLANES)


def test_not_measured_is_masked_and_has_no_weight(tmp_path: Path) -> None:
    flux, variance = np.ones((96, 96), "f4"), np.full((96, 96), 0.25, "f4")
    flux[0, 0], flux[0, 1], variance[0, 2], variance[0, 3], variance[0, 4] = np.nan, np.inf, 0, np.nan, np.inf
    image = image_of(read(cutout(tmp_path / "mine.fits", "g", flux, None, variance))[0])
    expected = np.zeros((96, 96), bool)
    expected[0, :5] = True
    np.testing.assert_array_equal(image.mask[0, 0], expected)
    np.testing.assert_array_equal(image.ivar[0, 0], np.where(expected, 0, 4))


@pytest.mark.parametrize("header", [{"FLUXMAG0": 10 ** (0.4 * 31.4)}, {"FLUXMAG0": None, "BUNIT": "nJy"}])
def test_flux_and_weight_are_scaled_to_the_zero_point_of_the_coadds(tmp_path: Path, header: dict[str, Any]) -> None:
    ones = np.ones((96, 96), "f4")
    path = cutout(tmp_path / "mine.fits", "g", ones * 57.544, np.zeros((96, 96), "i4"), ones, **header)
    if header["FLUXMAG0"] is None:
        with fits.open(path, mode="update") as hdus:
            del hdus[0].header["FLUXMAG0"]
    image = image_of(read(path)[0])
    assert image.zero_point == (ZERO_POINT,)
    assert image.flux[0, 0, 0, 0] == pytest.approx(1.0, rel=1e-4)  # 57.544 nJy are magnitude 27
    assert image.ivar[0, 0, 0, 0] == pytest.approx(57.544**2, rel=1e-4)


# --- bands


@pytest.mark.parametrize(
    ("names", "label"),
    [
        ({b: f"here_{b}.fits" for b in "grizy"}, "here"),
        ({b: f"2-cutout-HSC-{b.upper()}-9813-pdr3_wide.fits" for b in "rgy"}, "2-cutout-9813-pdr3_wide"),
        ({"g": "calexp-HSC-G-9813-4,4.fits", "r": "calexp-HSC-R2-9813-4,4.fits"}, "calexp-9813-4,4"),
        (
            {
                "g": "cutout-HSC-G-8524-s17a_dud-180417-060421.fits",
                "i": "cutout-HSC-I-8524-s17a_dud-180417-060445.fits",
            },
            "cutout-8524-s17a_dud-180417-060421",
        ),
    ],
)
def test_bands_of_one_piece_are_found_by_the_names_of_their_files(
    tmp_path: Path, names: dict[str, str], label: str
) -> None:
    for i, (band, name) in enumerate(names.items()):
        filters = {"g": "HSC-G", "r": "HSC-R2", "i": "i2", "z": "z", "y": "HSC-Y"}
        cutout(tmp_path / name, filters[band], np.full((100, 100), i, "f4"))
    # others: another object, and another piece of sky under a name that tells them apart by its time only
    cutout(tmp_path / "3-cutout-HSC-G-9813-pdr3_wide.fits", "g")
    cutout(tmp_path / "cutout-HSC-R-8524-s17a_dud-180417-060000.fits", "r", wcs=world(151.0))
    expected = tuple(tmp_path / names[band] for band in "grizy" if band in names)
    for name in names.values():
        assert ImageReader().group(tmp_path / name) == expected
    (batch,) = read(expected[0])
    assert list(batch.object_id) == [label]
    image = image_of(batch)
    assert image.bands == tuple(f"HSC-{b.upper()}" for b in "grizy" if b in names)
    assert image.flux[0, :, 0, 0].tolist() == [list(names).index(b) for b in "grizy" if b in names]


def test_of_two_downloads_of_a_band_the_later_counts(tmp_path: Path) -> None:
    first = cutout(tmp_path / "cutout-HSC-G-1-wide-180417-060421.fits", "g")
    later = cutout(tmp_path / "cutout-HSC-G-1-wide-180417-070421.fits", "g")
    red = cutout(tmp_path / "cutout-HSC-R-1-wide-180417-060500.fits", "r")
    reader = ImageReader()
    assert reader.group(later) == reader.group(red) == (later, red)
    assert reader.group(first) == (first,)


def test_a_filter_that_contradicts_the_name_is_refused(tmp_path: Path) -> None:
    path = cutout(tmp_path / "mine_g.fits", "g")
    cutout(tmp_path / "mine_r.fits", "g")
    with pytest.raises(InputError, match=r"mine_r\.fits: HDU 0: FILTER is 'g'; expected another one"):
        read(path)


def test_bands_of_different_shapes_or_places_are_refused(tmp_path: Path) -> None:
    path = cutout(tmp_path / "a/mine_g.fits", "g")
    cutout(tmp_path / "a/mine_r.fits", "r", np.zeros((120, 131), "f4"))
    with pytest.raises(InputError, match=r"mine_r\.fits: HDU 1 is 131 × 120 pixels, but HDU 1 of mine_g\.fits is 130"):
        read(path)
    path = cutout(tmp_path / "b/mine_g.fits", "g")
    cutout(tmp_path / "b/mine_r.fits", "r", wcs=world(150.01))
    with pytest.raises(InputError, match=r"mine_r\.fits: HDU 1 shows another part of the sky"):
        read(path)


# --- positions


def test_a_plane_that_only_some_bands_have_is_missed(tmp_path: Path) -> None:
    """As when a file ends behind its image: nothing in the file itself tells."""
    zeros, ones = np.zeros((120, 130), "i4"), np.ones((120, 130), "f4")
    path = cutout(tmp_path / "a_g.fits", "g", mask=zeros, variance=ones)
    cutout(tmp_path / "a_r.fits", "r", mask=zeros)
    with pytest.raises(InputError, match=r"a_r\.fits: HDU VARIANCE is missing"):
        read(path)


def test_rows_of_the_archives_catalogue_bring_what_they_say(tmp_path: Path) -> None:
    path = cutout(tmp_path / "here_100x100_g.fits", "g")
    ra, dec = world().all_pix2world([60, 20, 100, 5000], [90, 30, 10, 5000], 0)
    ids = 2**60 + np.arange(4)
    Table(
        {
            "object_id": ids,
            "ra": ra,
            "dec": dec,
            "g_cmodel_mag": [20.0, 21, 22, 23],
            "isprimary": [True, True, False, True],
        }
    ).write(tmp_path / "here_forced.fits")
    assert ImageReader().group(path)[-1] == tmp_path / "here_forced.fits"
    (batch,) = read(path)
    assert list(batch.object_id) == [str(ids[1]), str(ids[0])]
    assert batch.data["hsc_mag_g"][0].value.tolist() == [21, 20]
    off, blend = batch.skipped
    assert (off.name[:10], off.reason) == ("row 3, RA ", "off the image")
    assert blend.name == "1 rows of here_forced.fits"
    assert blend.reason.startswith("isprimary is false")


def test_a_large_coadd_without_positions_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = cutout(tmp_path / "calexp-HSC-G-1-4,4.fits", "g", np.zeros((1100, 20), "f4"))
    with pytest.raises(InputError, match=r"20 × 1100 pixels, and no catalogue beside it.*positions"):
        read(path)


# --- what is wrong


@pytest.mark.parametrize(
    ("name", "header", "reason"),
    [
        ("N921", {}, "filter N921; the survey's five bands"),
        ("g", {"FLUXMAG0": None}, "zero point is unknown: FLUXMAG0"),
        ("g", {"FLUXMAG0": -1.0}, "zero point is unknown: FLUXMAG0"),
    ],
)
def test_images_that_nothing_can_be_made_of_are_refused(
    tmp_path: Path, name: str, header: dict[str, Any], reason: str
) -> None:
    path = cutout(tmp_path / "mine.fits", name, np.ones((96, 96), "f4"), np.zeros((96, 96), "i4"), **header)
    with pytest.raises(NotClaimedError, match=reason):
        ImageReader().claims(path)


def test_a_mask_that_does_not_say_what_its_bits_mean_is_refused(tmp_path: Path) -> None:
    path = cutout(tmp_path / "mine.fits", "g", np.ones((96, 96), "f4"), np.zeros((96, 96), "i4"), planes={})
    with pytest.raises(InputError, match=r"mine\.fits: HDU 2 is a mask without MP_ keys"):
        read(path)


def test_an_image_of_no_pixels_is_refused(tmp_path: Path) -> None:
    path = cutout(tmp_path / "mine.fits", "g", np.zeros((0, 7), "f4"))
    with pytest.raises(InputError, match=r"mine\.fits: HDU 1 is an image of 7 × 0 pixels"):
        read(path)


def test_a_piece_without_a_good_pixel_is_skipped(tmp_path: Path) -> None:
    path = cutout(tmp_path / "mine_g.fits", "g", np.full((96, 96), np.nan, "f4"))
    (batch,) = read(path)
    assert len(batch) == 0
    assert [(s.name, s.reason) for s in batch.skipped] == [("mine", "every pixel is masked")]


class TestCutouts(ReaderContract):
    reader = "hsc_image"
    cuts = (0.02, 0.31, 0.62, 0.97)

    def files(self, folder: Path) -> list[Path]:
        rng = np.random.default_rng(0)
        for band in "gr":
            flux = rng.normal(0, 0.05, (120, 130)).astype("f4")
            bits = rng.integers(0, 1 << 17, (120, 130)) * (rng.random((120, 130)) < 0.05)
            cutout(folder / f"here_{band}.fits", band, flux, bits.astype("i4"), np.full((120, 130), 0.0025, "f4"))
        return [folder / "here_g.fits"]


class TestPositions(TestCutouts):
    def files(self, folder: Path) -> list[Path]:
        ra, dec = world().all_pix2world([60, 20, 100], [90, 30, 10], 0)
        Table({"object_id": [5, 6, 7], "ra": ra, "dec": dec, "i_cmodel_mag": [20.0, 21, 22]}).write(
            folder / "here_forced.fits"
        )
        return super().files(folder)
