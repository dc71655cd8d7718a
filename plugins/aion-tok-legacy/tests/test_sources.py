"""Lists of sources against projections by astropy, whatever the order and the blocks of the catalogue's rows."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from aion_tok_legacy.bricks import centres, pixels
from aion_tok_legacy.reader import CatalogueReader
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

FIELDS = ("x", "y", "e1", "e2", "radius")


def brick_wcs(ra: float, dec: float) -> WCS:
    """The WCS of a brick's coadd, as its header gives it."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [ra, dec], [1800.5, 1800.5]
    wcs.wcs.cd = np.diag([-1, 1]) * 0.262 / 3600
    return wcs


def read(path: Path, batch_size: int, **options: object) -> dict[str, np.ndarray]:
    """Return ``{object id: [n, 5]}``."""
    reader = CatalogueReader(CatalogueReader.Options(**options))
    found = {}
    for batch in reader.read(path, batch_size):
        sources, rows = batch.data["catalog_sources"]
        for i, row in enumerate(rows):
            values = np.stack([getattr(sources, name)[i].numpy() for name in FIELDS], 1)
            found[str(batch.object_id[row])] = values[np.isfinite(values).all(1)]
    return found


def catalogue(x: np.ndarray, y: np.ndarray, brick: np.ndarray, seed: int = 0) -> Table:
    """A sweep of sources at given pixels of their bricks."""
    rng = np.random.default_rng(seed)
    ra, dec = np.zeros(len(x)), np.zeros(len(x))
    for own in np.unique(brick):
        wcs = brick_wcs(*(float(v) for v in centres(own)))
        ra[brick == own], dec[brick == own] = wcs.all_pix2world(x[brick == own], y[brick == own], 0)
    columns: dict[str, Any] = {
        "RELEASE": np.full(len(x), 9010),
        "BRICKID": brick,
        "OBJID": np.arange(len(x)),
        "RA": ra,
        "DEC": dec,
    }
    columns |= {"TYPE": ["SER"] * len(x), "FLUX_G": np.ones(len(x))}
    return Table(columns | {f"SHAPE_{a}": rng.uniform(0, 1, len(x)).astype("f4") for a in ("R", "E1", "E2")})


@pytest.mark.parametrize("name", ["tractor_single_exposure/tractor-1816p325-sub", "fastspecfit/tractor-1054p567"])
def test_pixels_of_a_brick_are_those_of_the_catalogue(sample_dir: Path, name: str) -> None:
    rows = fits.getdata(sample_dir / f"legacysurvey/{name}.fits", 1)
    x, y = pixels(rows["ra"], rows["dec"], rows["brickid"])
    np.testing.assert_allclose(x, rows["bx"], atol=2e-3)
    np.testing.assert_allclose(y, rows["by"], atol=2e-3)


def test_the_centre_of_a_brick_is_that_of_its_coadd(sample_dir: Path) -> None:
    path = sample_dir / "legacysurvey/desitarget_dr6_crop/legacysurvey-0959p805-image-g-crop.fits.fz"
    header = fits.getheader(path, 1)
    assert centres(header["BRICKID"]) == pytest.approx((header["CRVAL1"], header["CRVAL2"]), abs=1e-9)
    assert centres([1, 662174])[1].tolist() == [-89.9375, 89.9375]


def test_a_real_tractor_file_gives_the_pair_of_sources_in_each_others_crop(sample_dir: Path) -> None:
    path = sample_dir / "legacysurvey/tractor_single_exposure/tractor-1816p325-sub.fits"
    rows = fits.getdata(path, 1)
    first, second = read(path, 10).values()
    assert first.shape == second.shape == (2, 5)
    np.testing.assert_allclose(first[0, 2:], [rows[f"shapedev_{a}"][0] for a in ("e1", "e2", "r")])
    np.testing.assert_allclose(first[1, 2:], [rows[f"shapeexp_{a}"][1] for a in ("e1", "e2", "r")])
    # bx 1720.3771: pixel 1720 is the crop's 48
    np.testing.assert_allclose(first[:, 0], rows["bx"] - 1720 + 48, atol=1e-3)
    np.testing.assert_allclose(first[:, 1], rows["by"] - 2354 + 48, atol=1e-3)
    np.testing.assert_allclose(second[:, 0], rows["bx"][::-1] - 1753 + 48, atol=1e-3)


def test_a_star_has_no_extent_and_a_duplicate_is_no_source(tmp_path: Path) -> None:
    rows = catalogue(np.array([100.0, 104.0, 108.0]), np.full(3, 100.0), np.full(3, 300_000))
    rows["TYPE"] = ["PSF", "SER", "DUP"]
    rows["SHAPE_R"][0] = rows["SHAPE_E1"][0] = rows["SHAPE_E2"][0] = 0
    rows.write(tmp_path / "sweep.fits")
    found = read(tmp_path / "sweep.fits", 10)
    assert [len(sources) for sources in found.values()] == [2, 2, 2]
    assert found["9010-300000-0"][0].tolist() == pytest.approx([48, 48, 0, 0, 0], abs=1e-3)


def test_target_files_and_parts_of_catalogues_give_no_lists(tmp_path: Path) -> None:
    rows = catalogue(np.array([100.0]), np.array([100.0]), np.array([300_000]))
    rows.write(tmp_path / "sweep.fits")
    options = CatalogueReader.Options(whole=False)
    assert all("catalog_sources" not in b.data for b in CatalogueReader(options).read(tmp_path / "sweep.fits", 10))
    rows["DESI_TARGET"] = [1]
    rows.write(tmp_path / "targets.fits")
    assert all("catalog_sources" not in b.data for b in CatalogueReader().read(tmp_path / "targets.fits", 10))


def test_what_belongs_to_another_brick_is_a_neighbour_all_the_same(tmp_path: Path) -> None:
    rows = catalogue(np.array([100.0, 110.0]), np.array([100.0, 100.0]), np.full(2, 300_000))
    rows["BRICK_PRIMARY"] = [True, False]
    rows.write(tmp_path / "tractor.fits")
    found = read(tmp_path / "tractor.fits", 10)
    assert {name: len(sources) for name, sources in found.items()} == {"9010-300000-0": 2}


def test_an_object_without_a_position_has_no_list_and_the_others_have(tmp_path: Path) -> None:
    rows = catalogue(np.array([100.0, 110.0]), np.array([100.0, 100.0]), np.full(2, 300_000))
    rows["RA"][0] = np.nan
    rows.write(tmp_path / "sweep.fits")
    assert {name: len(sources) for name, sources in read(tmp_path / "sweep.fits", 10).items()} == {"9010-300000-1": 1}


LAST_OF_ITS_ROW = 331_807  # beyond its eastern edge, right ascension begins again at 0


def test_the_edge_of_right_ascension_is_where_the_next_test_takes_it_to_be() -> None:
    (ra, after), (dec, above) = centres([LAST_OF_ITS_ROW, LAST_OF_ITS_ROW + 1])
    assert ra == pytest.approx(359.875)
    assert after == pytest.approx(0.125)
    assert above - dec == 0.25


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 300_000, 508_648, 657_438, LAST_OF_ITS_ROW]),
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(2, 6),
)
def test_lists_hold_every_source_of_the_crop_wherever_its_row_is(
    seed: int, brick: int, count: int, batch_size: int, block: int
) -> None:
    """Rows are shuffled; blocks, and what is kept of them, so small that they are read again and again."""
    rng = np.random.default_rng(seed)
    wcs = brick_wcs(*(float(v) for v in centres(brick)))
    # about the eastern edge of a brick, where crops of objects of either brick hold sources of both; and far away
    near = catalogue(rng.uniform(-60, 120, count), rng.uniform(1700, 1850, count), np.full(count, brick), seed)
    far = catalogue(np.full(count, 3000.0), rng.uniform(0, 3000, count), np.full(count, brick), seed)
    rows = Table({name: np.concatenate([near[name], far[name]]) for name in near.colnames})
    rows["OBJID"] = np.arange(2 * count)
    if brick != LAST_OF_ITS_ROW:
        rows["BRICKID"] += rng.integers(0, 2, len(rows))  # 1 is the brick to the east
    rows = rows[rng.permutation(len(rows))]
    with (
        TemporaryDirectory() as folder,
        patch("aion_tok_legacy.sources.BLOCK", block),
        patch("aion_tok_legacy.sources.KEPT", 2),
    ):
        path = Path(folder, "sweep.fits")
        rows.write(path)
        found = read(path, batch_size)
    projected = {}
    for own in np.unique(rows["BRICKID"]):
        wcs = brick_wcs(*(float(v) for v in centres(own)))
        projected[own] = wcs.all_world2pix(rows["RA"], rows["DEC"], 0)
    for i, row in enumerate(rows):
        x, y = (axis - np.floor(axis[i] + 0.5) + 48 for axis in projected[row["BRICKID"]])
        inside = np.flatnonzero((x >= -0.5) & (x < 95.5) & (y >= -0.5) & (y < 95.5))
        inside = inside[np.argsort(np.hypot(x[inside] - 47.5, y[inside] - 47.5))]
        shape = [rows[f"SHAPE_{axis}"][inside] for axis in ("E1", "E2", "R")]
        expected = np.stack([x[inside], y[inside], *shape], 1)
        sources = found[f"9010-{row['BRICKID']}-{row['OBJID']}"]
        np.testing.assert_allclose(sources, expected, rtol=0, atol=2e-3)
