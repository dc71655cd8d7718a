"""Stamps of coadds and cut-outs against cuts by astropy, and what happens where files disagree or lack something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from aion_tok_legacy.bricks import centres, pixels
from aion_tok_legacy.images import ImageReader
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data.files import NotClaimedError
from aion_core.data.pipeline import describe_files
from aion_core.data.reader import ObservationBatch
from aion_core.observations import Image
from aion_core.plugins import load_registry
from aion_core.testing import ReaderContract
from aion_core.testing.memory import memory_growth

BRICK, BRICKID = "0591m305", 170_000
SCALE = 0.262 / 3600


def world(
    ra: float = 59.0, dec: float = -30.5, shape: tuple[int, int] = (200, 220), angle: float = 0.0, flip: int = -1
) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = turn @ np.diag([flip * SCALE, SCALE])
    return wcs


def plane(values: np.ndarray, wcs: WCS, kind: str, band: str, packed: bool = True, **header: Any) -> fits.HDUList:
    """A plane of a coadd as a data release has it."""
    cards = wcs.to_header()
    cards["BRICKNAM"], cards["IMTYPE"], cards["FILTER"] = BRICK, kind, band
    cards.update(header)
    hdu: Any
    if packed:
        kind = {"compression_type": "GZIP_2", "quantize_level": 0} if len(values) < 1000 else {}
        hdu = fits.CompImageHDU(values, cards, tile_shape=(min(100, len(values)), 100), **kind)
    else:
        hdu = fits.ImageHDU(values, cards)
    return fits.HDUList([fits.PrimaryHDU(), hdu])


def brick(
    folder: Path, planes: Mapping[str, np.ndarray], wcs: WCS | None = None, packed: bool = True, **header: Any
) -> Path:
    """Write planes, named ``image-g`` and the like, as the files of a brick; return the first one."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = next(iter(planes.values())).shape
    paths = []
    for name, values in planes.items():
        kind, _, band = name.partition("-")
        hdus = plane(values, wcs or world(shape=shape), kind, band, packed, **header)
        paths.append(folder / f"legacysurvey-{BRICK}-{name}.fits{'.fz' if packed else ''}")
        hdus.writeto(paths[-1])
    return paths[0]


def noise(seed: int = 0, shape: tuple[int, int] = (200, 220), kind: str = "f4") -> np.ndarray:
    return np.random.default_rng(seed).normal(0.01, 0.02, shape).astype(kind)


def tractor(path: Path, ra: Sequence[float], dec: Sequence[float], **columns: Any) -> Path:
    n = len(ra)
    rows: dict[str, Any] = {"RELEASE": np.full(n, 9010), "BRICKID": np.full(n, BRICKID), "OBJID": np.arange(n)}
    rows |= {"RA": ra, "DEC": dec, "TYPE": ["SER"] * n, "FLUX_G": np.arange(n) + 1.0, "BRICK_PRIMARY": [True] * n}
    rows |= {f"SHAPE_{axis}": np.full(n, 0.3) for axis in ("R", "E1", "E2")}
    path.parent.mkdir(parents=True, exist_ok=True)
    Table(rows | columns).write(path)
    return path


def read(path: Path, batch_size: int = 100, **options: Any) -> list[ObservationBatch]:
    reader = ImageReader(ImageReader.Options(**options))
    assert reader.claims(path)
    return list(reader.read(path, batch_size))


def image_of(batch: ObservationBatch) -> Image:
    image = batch.data["legacy_image"][0]
    assert isinstance(image, Image)
    return image


@pytest.fixture
def legacy(sample_dir: Path) -> Path:
    return sample_dir / "legacysurvey"


# --- real files


def test_who_wants_images_only_gets_the_same_without_segmentation_maps(legacy: Path) -> None:
    path = legacy / "pysersic/cutout_59.1067_-30.4848.fits"
    (all_of_it,), (batch,) = read(path), ImageReader().wanting(["legacy_image"]).read(path, 8)
    assert set(all_of_it.data) == {"legacy_image", "legacy_segmap"}
    assert set(batch.data) == {"legacy_image"}
    assert torch.equal(image_of(batch).flux, image_of(all_of_it).flux)


def test_a_cutout_gives_the_pixels_around_its_centre_in_every_band(legacy: Path) -> None:
    path = legacy / "pysersic/cutout_59.1067_-30.4848.fits"
    (batch,) = read(path)
    image = image_of(batch)
    assert image.bands == ("DES-G", "DES-R", "DES-Z")
    assert image.flux.shape == (1, 3, 96, 96)
    assert image.zero_point == (22.5,) * 3
    assert image.pixel_scale == pytest.approx(0.262, abs=1e-4)
    assert list(batch.object_id) == ["cutout_59.1067_-30.4848"]
    with fits.open(path) as hdus:
        for i in range(3):
            cut = Cutout2D(hdus[2 * i + 1].data, (127.5, 127.5), 96, WCS(hdus[2 * i + 1].header))
            np.testing.assert_array_equal(image.flux[0, i], cut.data)
            weights = Cutout2D(hdus[2 * i + 2].data, (127.5, 127.5), 96).data
            np.testing.assert_array_equal(image.ivar[0, i], weights)
            np.testing.assert_array_equal(image.mask[0, i], weights <= 0)
        sky = [float(v) for v in cut.wcs.pixel_to_world_values(47.5, 47.5)]
    assert [batch.ra[0], batch.dec[0]] == pytest.approx(sky, abs=1e-9)
    peak = np.unravel_index(int(image.flux[0, 1].argmax()), (96, 96))
    assert np.hypot(*(np.array(peak) - 47.5)) < 5  # the galaxy after which the file is named


def test_a_compressed_brick_gives_pixels_weights_and_what_has_none(legacy: Path) -> None:
    folder = legacy / "desitarget_dr6_crop"
    path = folder / "legacysurvey-0959p805-image-g-crop.fits.fz"
    weights = path.with_name("legacysurvey-0959p805-invvar-g-crop.fits.fz")
    reader = ImageReader()
    assert reader.group(path) == reader.group(weights) == (path, weights)
    (batch,) = read(path, size=384)
    image = image_of(batch)
    assert image.bands == ("DES-G",)
    np.testing.assert_array_equal(image.flux[0, 0], fits.getdata(path, 1))
    np.testing.assert_array_equal(image.ivar[0, 0], fits.getdata(weights, 1))
    assert 0.004 < image.mask.float().mean() < 0.008  # 0.6 % have no weight
    assert list(batch.object_id) == ["legacysurvey-0959p805-crop"]


def test_stamps_of_the_real_brick_are_cut_where_the_positions_say(legacy: Path, tmp_path: Path) -> None:
    path = legacy / "desitarget_dr6_crop/legacysurvey-0959p805-image-g-crop.fits.fz"
    header = fits.getheader(path, 1)
    wcs, pixels_g = WCS(header), fits.getdata(path, 1)
    x, y = np.array([280.2, 30.0, 350.7, 5000.0]), np.array([57.9, 200.4, 111.1, 10.0])
    ra, dec = wcs.all_pix2world(x, y, 0)
    Table({"name": ["star", "edge", "faint", "off"], "RA": ra, "Dec": dec}).write(tmp_path / "mine.csv")
    (batch,) = read(path, positions=tmp_path / "mine.csv", identifier="Name")
    assert list(batch.object_id) == ["star", "faint", "edge"]  # from the bottom to the top
    np.testing.assert_allclose(batch.ra, ra[[0, 2, 1]])
    (skipped,) = batch.skipped
    assert (skipped.name.startswith("row 3, RA"), skipped.reason) == (True, "off the image")
    image = image_of(batch)
    for i, at in enumerate((0, 2, 1)):
        row, column = np.round(y[at]).astype(int), np.round(x[at]).astype(int)
        # astropy puts the pixel at 47 or 48 of an even stamp, as rounding goes; an odd number of pixels has a middle
        cut = Cutout2D(pixels_g, (column, row), 95, mode="partial", fill_value=0)
        np.testing.assert_array_equal(image.flux[i, 0, 1:, 1:], cut.data)
    assert image.mask[2, 0, :, :18].all()  # pixel 30 is the stamp's 48: 18 columns lie off the image
    assert not image.mask[2, 0, :, 18:].all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pysersic/copsf_59.1067_-30.4848.fits", "PSF"),
        ("desitarget_dr6_crop/legacysurvey-0959p805-nexp-g-crop.fits.fz", "kind nexp"),
        ("tractor_single_exposure/decam-520206-S16-image-sub.fits", "DECam exposure 520206.*ADU"),
        ("tractor_single_exposure/decam-520206-S16-invvar-sub.fits", "not calibrated"),
        ("tractor_single_exposure/decam-520206-S16-psfex.fits", "PSFEx"),
    ],
)
def test_what_is_no_coadd_is_refused_with_the_reason(legacy: Path, name: str, reason: str) -> None:
    with pytest.raises(NotClaimedError, match=reason) as caught:
        ImageReader().claims(legacy / name)
    assert str(caught.value).startswith(str(legacy / name))


def test_catalogues_are_left_to_their_own_reader(legacy: Path) -> None:
    for path in [*(legacy / "desitarget").iterdir(), legacy / "fastspecfit/tractor-1054p567.fits"]:
        assert not ImageReader().claims(path)


# --- where the stamp is


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0, 359.9), st.floats(-80, 80), st.floats(0, 6.28), st.sampled_from([-1, 1]),
    st.integers(0, 199), st.integers(0, 219), st.floats(-0.45, 0.45), st.floats(-0.45, 0.45), st.booleans(),
    st.sampled_from(["f4", "f8", "i2", "i4"]),
)  # fmt: skip
def test_a_bright_pixel_lands_in_the_middle_of_its_stamp(
    ra: float, dec: float, angle: float, flip: int, row: int, column: int, dy: float, dx: float, packed: bool, kind: str
) -> None:
    wcs = world(ra, dec, angle=angle, flip=flip)
    values = np.ones((200, 220), kind)
    values[row, column] = 1000
    lon, lat = (float(v) for v in wcs.all_pix2world(column + dx, row + dy, 0))
    with TemporaryDirectory() as folder:
        path = brick(Path(folder), {"image-r": values}, wcs, packed)
        Table({"object_id": [2**62 + 1], "RA": [lon % 360], "DEC": [lat]}).write(Path(folder, "here.fits"))
        (batch,) = read(path, positions=Path(folder, "here.fits"))
    image = image_of(batch)
    assert image.flux[0, 0, 48, 48] == 1000
    assert (image.flux[0, 0] == 1000).sum() == 1
    assert batch.object_id[0] == str(2**62 + 1)
    inside = np.zeros((96, 96), bool)
    inside[max(48 - row, 0) : 248 - row, max(48 - column, 0) : 268 - column] = True
    np.testing.assert_array_equal(image.mask[0, 0], ~inside)


def test_a_brick_of_a_data_release_is_read_at_the_rows_of_its_catalogue(tmp_path: Path) -> None:
    """Stamps, numbers and lists of sources are those of the same objects, in the same pixels."""
    folder = tmp_path / "coadd/059" / BRICK
    own = tuple(float(v) for v in centres(BRICKID))
    wcs = world(*own, shape=(3600, 3600))
    shape = (400, 420)
    wcs.wcs.crpix -= [1000, 2000]
    planes = {f"image-{b}": noise(i, shape) for i, b in enumerate("grz")}
    planes |= {f"invvar-{b}": np.full(shape, 2500, "f4") for b in "grz"}
    x, y = np.array([100.0, 130.3, 200.0, 300.0]), np.array([150.0, 170.6, 150.0, 30.0])
    for b in "grz":
        planes[f"image-{b}"][np.round(y).astype(int), np.round(x).astype(int)] = [5, 6, 7, 8]
    ra, dec = wcs.all_pix2world(x, y, 0)
    image_path = brick(folder, planes, wcs)
    catalogue = tractor(
        tmp_path / f"tractor/059/tractor-{BRICK}.fits",
        [*ra, 10.0], [*dec, 10.0], BRICK_PRIMARY=[True, True, False, True, True],
    )  # fmt: skip
    assert ImageReader().group(image_path)[-1] == catalogue
    first, second = read(image_path, batch_size=2)
    assert [*first.object_id, *second.object_id] == [f"9010-{BRICKID}-{i}" for i in (3, 0, 1)]
    assert [s.reason[:13] for s in first.skipped] == ["off the image", "BRICK_PRIMARY"]
    assert [s.count for s in first.skipped] == [1, 1]
    assert second.skipped == ()
    flux = torch.cat([image_of(first).flux, image_of(second).flux])
    assert flux[:, 0, 48, 48].tolist() == [8, 5, 6]
    assert first.data["legacy_flux_g"][0].value.tolist() == [4, 1]
    sources, rows = first.data["catalog_sources"]
    assert rows.tolist() == [0, 1]
    near = {(round(float(a)), round(float(b))) for a, b in zip(sources.x[1], sources.y[1], strict=True) if a == a}
    assert near == {(48, 48), (78, 69)}  # as the stamp has it: the neighbour's bright pixel
    assert flux[1, 0, 69, 78] == 6
    all_x, all_y = pixels(ra, dec, BRICKID)
    np.testing.assert_allclose([all_x - 1000, all_y - 2000], [x, y], atol=1e-3)


def test_a_catalogue_beside_its_images_says_that_its_objects_come_twice(tmp_path: Path) -> None:
    image = brick(tmp_path, {"image-g": noise(shape=(100, 100))})
    catalogue = tractor(tmp_path / f"tractor-{BRICK}.fits", [59.0, 59.0], [-30.5, -30.501])
    states = {result.path: result for result in describe_files([tmp_path], load_registry()).files}
    assert states[catalogue].status == "readable"
    assert f"also read with {image}" in (states[catalogue].reason or "")
    assert states[image].reason is None
    assert [result.reason for result in describe_files([catalogue], load_registry()).files] == [None]


# --- bands, weights, masks


def test_bands_are_those_that_there_are_in_the_order_of_wavelength(tmp_path: Path) -> None:
    path = brick(tmp_path, {f"image-{b}": np.full((100, 100), i + 1, "f4") for i, b in enumerate("zig")})
    for name in ("g", "i", "z"):
        member = tmp_path / f"legacysurvey-{BRICK}-image-{name}.fits.fz"
        assert ImageReader().group(member)[0].name.endswith("image-g.fits.fz")
    image = image_of(read(path)[0])
    assert image.bands == ("DES-G", "DES-I", "DES-Z")
    assert image.flux[0, :, 50, 50].tolist() == [3, 2, 1]


def test_without_inverse_variance_there_is_none_and_only_what_is_no_number_is_bad(tmp_path: Path) -> None:
    values = noise(shape=(100, 100))
    values[40:50, 40:50] = np.nan
    image = image_of(read(brick(tmp_path, {"image-g": values}))[0])
    assert image.ivar is None
    assert image.mask.sum() == 100
    assert image.mask[0, 0, 38, 38]  # 100 pixels: the stamp begins at pixel 2


def test_not_measured_is_masked_and_has_no_weight(tmp_path: Path) -> None:
    values, weights = noise(shape=(96, 96)), np.full((96, 96), 100, "f4")
    values[0, 0], values[0, 1], weights[0, 2], weights[0, 3], weights[0, 4] = np.nan, np.inf, 0, np.nan, -1
    path = brick(tmp_path, {"image-g": values, "invvar-g": weights})
    image = image_of(read(path)[0])
    expected = np.zeros((96, 96), bool)
    expected[0, :5] = True
    np.testing.assert_array_equal(image.mask[0, 0], expected)
    np.testing.assert_array_equal(image.ivar[0, 0] == 0, expected)


def test_a_pixel_without_weight_is_bad_also_where_another_band_has_no_weights(tmp_path: Path) -> None:
    weights = np.full((96, 96), 100, "f4")
    weights[3, 4] = 0
    planes = {"image-g": noise(1, (96, 96)), "image-r": noise(2, (96, 96)), "invvar-g": weights}
    image = image_of(read(brick(tmp_path, planes))[0])
    assert image.ivar is None
    assert np.argwhere(image.mask[0].numpy()).tolist() == [[0, 3, 4]]


def test_mask_bits_count_in_their_own_band_and_only_where_a_pixel_is_lost(tmp_path: Path) -> None:
    bits = np.zeros((96, 96), "i4")
    for bit in range(16):
        bits[bit, bit] = 1 << bit
    planes = {"image-g": noise(1, (96, 96)), "image-i": noise(2, (96, 96)), "image-z": noise(3, (96, 96))}
    image = image_of(read(brick(tmp_path, planes | {"maskbits-": bits}))[0])
    assert image.mask.sum() == 0  # named ``maskbits-.fits.fz``: not the survey's
    (tmp_path / f"legacysurvey-{BRICK}-maskbits-.fits.fz").rename(tmp_path / f"legacysurvey-{BRICK}-maskbits.fits.fz")
    image = image_of(read(tmp_path / f"legacysurvey-{BRICK}-image-g.fits.fz")[0])
    bad = [np.flatnonzero(np.diag(image.mask[0, band])).tolist() for band in range(3)]
    assert bad == [[2, 5], [14, 15], [4, 7]]


def test_another_zero_point_is_scaled_away(tmp_path: Path) -> None:
    planes = {"image-g": np.full((96, 96), 10, "f4"), "invvar-g": np.full((96, 96), 4, "f4")}
    image = image_of(read(brick(tmp_path, planes, MAGZERO=25.0))[0])
    assert image.zero_point == (22.5,)
    assert image.flux[0, 0, 0, 0] == pytest.approx(1.0)
    assert image.ivar[0, 0, 0, 0] == pytest.approx(400.0)


# --- the cut-out service


def cube(path: Path, bands: str, values: np.ndarray, invvar: np.ndarray | None = None, **cards: Any) -> Path:
    """A file of ``fits-cutout``: a cube, or an image where there is one band."""
    header = world(shape=values.shape[1:]).to_header()
    header["SURVEY"], header["VERSION"], header["BANDS"] = "LegacySurvey", "ls-dr10", bands
    header.update({f"BAND{i}": band for i, band in enumerate(bands)} | cards)
    hdus = [fits.PrimaryHDU(values[0] if len(bands) == 1 else values, header)]
    if invvar is not None:
        header["IMAGETYP"] = "invvar"
        hdus.append(fits.ImageHDU(invvar[0] if len(bands) == 1 else invvar, header))
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("bands", ["griz", "zr", "g"])
def test_a_cube_has_its_bands_where_its_header_says(tmp_path: Path, bands: str) -> None:
    values = np.stack([noise(i, (120, 110)) + i for i in range(len(bands))])
    (batch,) = read(cube(tmp_path / "mine.fits", bands, values, np.abs(values) + 1))
    image = image_of(batch)
    assert list(batch.object_id) == ["mine"]
    assert image.bands == tuple(f"DES-{b.upper()}" for b in "griz" if b in bands)
    for i, band in enumerate(image.bands):
        expected = values[bands.index(band[-1].lower()), 12:108, 7:103]
        np.testing.assert_array_equal(image.flux[0, i], expected)
        np.testing.assert_allclose(image.ivar[0, i], np.abs(expected) + 1)


def test_of_the_pieces_of_several_bricks_the_largest_counts(tmp_path: Path) -> None:
    hdus: list[Any] = [fits.PrimaryHDU()]
    for name, shape in (("0001p000", (100, 40)), ("0003p000", (100, 120))):
        for kind in ("image", "invvar"):
            header = world(shape=shape).to_header()
            header["BRICK"], header["BAND"], header["IMAGETYP"] = name, "r", kind
            hdus.append(fits.ImageHDU(np.full(shape, shape[1], "f4"), header))
    fits.HDUList(hdus).writeto(tmp_path / "both.fits")
    image = image_of(read(tmp_path / "both.fits")[0])
    assert image.flux[0, 0, 48, 48] == 120


@pytest.mark.parametrize("layer", [{"SURVEY": "SDSS", "VERSION": "DR12"}, {"BANDS": "12", "BAND0": "1", "BAND1": "2"}])
def test_other_surveys_of_the_cut_out_service_are_not_claimed(tmp_path: Path, layer: dict[str, str]) -> None:
    path = cube(tmp_path / "other.fits", "gr", np.zeros((2, 50, 50), "f4"), **layer)
    assert not ImageReader().claims(path)


# --- what is wrong


def test_pieces_smaller_than_a_stamp_are_filled_up_with_bad_pixels(tmp_path: Path) -> None:
    image = image_of(read(brick(tmp_path, {"image-g": noise(shape=(50, 60))}))[0])
    assert image.flux.shape == (1, 1, 96, 96)
    assert (~image.mask).sum() == 50 * 60
    assert not image.mask[0, 0, 23:73, 18:78].any()


def test_a_piece_without_a_good_pixel_is_skipped(tmp_path: Path) -> None:
    path = brick(tmp_path, {"image-g": noise(shape=(96, 96)), "invvar-g": np.zeros((96, 96), "f4")})
    (batch,) = read(path)
    assert len(batch) == 0
    assert [(s.name, s.reason) for s in batch.skipped] == [(f"legacysurvey-{BRICK}", "every pixel is masked")]


def test_objects_without_a_good_pixel_keep_what_the_catalogue_says(tmp_path: Path) -> None:
    weights = np.ones((200, 220), "f4")
    weights[:, :110] = 0
    path = brick(tmp_path, {"image-g": noise(), "invvar-g": weights})
    ra, dec = world().all_pix2world([30, 190], [100, 100], 0)
    tractor(tmp_path / f"tractor-{BRICK}.fits", ra, dec)
    (batch,) = read(path)
    assert len(batch) == 2
    assert batch.data["legacy_image"][1].tolist() == batch.data["legacy_segmap"][1].tolist() == [1]
    assert batch.data["legacy_flux_g"][1].tolist() == [0, 1]


def test_planes_of_different_shapes_are_refused(tmp_path: Path) -> None:
    path = brick(tmp_path, {"image-g": noise(shape=(100, 100)), "image-r": noise(shape=(100, 90))})
    with pytest.raises(InputError, match=r"image-r\.fits\.fz: HDU 1 is 90 × 100 pixels, but HDU 1 of .*100 × 100"):
        read(path)


def test_planes_of_different_places_are_refused(tmp_path: Path) -> None:
    path = brick(tmp_path, {"image-g": noise()})
    brick(tmp_path, {"image-r": noise()}, world(dec=-30.4))
    with pytest.raises(InputError, match=r"image-r\.fits\.fz: HDU 1 shows another part of the sky than HDU 1 of .*-g"):
        read(path)


def test_an_image_of_no_pixels_is_refused(tmp_path: Path) -> None:
    path = brick(tmp_path, {"image-g": np.zeros((0, 7), "f4")}, world(), packed=False)
    with pytest.raises(InputError, match=r"image-g\.fits: HDU 1 is an image of 7 × 0 pixels"):
        read(path)


def test_a_whole_brick_without_a_catalogue_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = brick(tmp_path, {"image-g": np.zeros((1200, 10), "f4")})
    with pytest.raises(InputError, match=r"10 × 1200 pixels, and no catalogue beside it.*positions"):
        read(path)


def test_positions_that_are_nowhere_are_refused(tmp_path: Path) -> None:
    path = brick(tmp_path, {"image-g": noise()})
    with pytest.raises(InputError, match=r"image-g.*no position of .*tractor.*lies on this image \(the first is row 0"):
        tractor(tmp_path / f"tractor-{BRICK}.fits", [10.0], [10.0])
        read(path)
    with pytest.raises(InputError, match=r"gone\.csv, is not there"):
        read(path, positions=tmp_path / "gone.csv")


def test_weights_without_their_image_are_refused(tmp_path: Path) -> None:
    path = brick(tmp_path, {"invvar-g": noise()})
    with pytest.raises(InputError, match=r"invvar-g.*no image in one of the bands g, r, i, z"):
        read(path)


def test_a_cube_that_names_too_few_bands_is_refused(tmp_path: Path) -> None:
    path = cube(tmp_path / "cube.fits", "gr", np.zeros((3, 50, 50), "f4"))
    with pytest.raises(InputError, match=r"cube\.fits: HDU 0 has 3 planes, but its header names 2 bands"):
        read(path)


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    shape = (3000, 3000)
    wcs = world(shape=shape)
    values = np.tile(noise(shape=(300, 300)), (10, 10))
    path = brick(tmp_path, {"image-g": values, "invvar-g": np.ones(shape, "f4")}, wcs)
    x, y = np.random.default_rng(0).uniform(0, 3000, (2, 300))
    tractor(tmp_path / f"tractor-{BRICK}.fits", *wcs.all_pix2world(x, y, 0))
    growth, objects = memory_growth(path, batch_size=50)
    assert objects == 300
    assert growth < 40 << 20  # a plane takes 36 MB, and there are two


class TestBricks(ReaderContract):
    reader = "legacy_image"
    cuts = (0.02, 0.31, 0.62, 0.97)

    def files(self, folder: Path) -> list[Path]:
        planes = {f"image-{b}": noise(i) for i, b in enumerate("gz")}
        planes |= {f"invvar-{b}": np.full((200, 220), 2500, "f4") for b in "gz"}
        path = brick(folder, planes)
        ra, dec = world().all_pix2world([30.2, 140.0, 60.0], [100.0, 20.0, 180.0], 0)
        tractor(folder / f"tractor-{BRICK}.fits", ra, dec, BRICK_PRIMARY=[True, False, True])
        return [path]


class TestCutouts(ReaderContract):
    reader = "legacy_image"
    cuts = (0.02, 0.31, 0.62, 0.97)

    def files(self, folder: Path) -> list[Path]:
        return [
            cube(folder / "cutout.fits", "grz", np.stack([noise(i) for i in range(3)]), np.ones((3, 200, 220), "f4"))
        ]
