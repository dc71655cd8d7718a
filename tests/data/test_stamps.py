"""Positions on the sky become pixels, and pixels become stamps that say what of them is beyond the image."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS

from aion_core.contract import InputError
from aion_core.data.stamps import cut_stamps, nearest_pixels


@pytest.fixture
def wcs() -> WCS:
    """A tangent plane at RA 359.99, Dec 45, 0.262 arcsec pixels, whose middle is pixel (100, 60)."""
    found = WCS(naxis=2)
    found.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    found.wcs.crval = [359.99, 45.0]
    found.wcs.crpix = [101, 61]
    found.wcs.cdelt = [-0.262 / 3600, 0.262 / 3600]
    return found


def test_the_nearest_pixel_is_that_which_holds_the_position(wcs: WCS) -> None:
    x, y = np.array([0, 99.6, 100.4, 150, -3.0]), np.array([0, 59.6, 60.4, 7, 200.0])
    ra, dec = wcs.all_pix2world(x, y, 0)
    rows, columns = nearest_pixels(wcs, ra, dec)
    assert rows.tolist() == [0, 60, 60, 7, 200]
    assert columns.tolist() == [0, 100, 100, 150, -3]
    again = nearest_pixels(wcs, ra - 360, dec)
    assert (again[0].tolist(), again[1].tolist()) == (rows.tolist(), columns.tolist())


def test_a_position_that_the_image_cannot_show_has_no_pixel(wcs: WCS) -> None:
    rows, columns = nearest_pixels(wcs, [359.99, 179.99, np.nan, 0, np.inf], [45, -45, 0, np.nan, 91])
    assert np.isnan(rows).tolist() == np.isnan(columns).tolist() == [False, True, True, True, True]


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_a_position_where_a_distortion_cannot_be_inverted_has_no_pixel(wcs: WCS) -> None:
    header = wcs.to_header()
    header.update({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"})
    header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-4, "B_0_2": 1e-4})
    distorted = WCS(header)
    ra, dec = distorted.all_pix2world([100, 150], [60, 7], 0)
    rows, columns = nearest_pixels(distorted, [*ra, 0.5, 359.2, 179.99], [*dec, 45.2, 44.5, -45])
    assert rows[:2].tolist() == [60, 7]
    assert columns[:2].tolist() == [100, 150]
    assert np.isnan(rows[2:]).all()


def test_stamps_at_the_edge_say_what_is_beyond_it() -> None:
    image = np.arange(1, 201, dtype=">f4").reshape(10, 20)
    stamps = cut_stamps({"flux": image, "ivar": image * 2}, [0, 5, 9], [0, 10, 19], size=4)
    assert stamps.rows.tolist() == [0, 1, 2]
    assert stamps.skipped == ()
    assert stamps.outside.sum((1, 2)).tolist() == [12, 0, 7]
    assert stamps.pixels["flux"].dtype == np.float32
    for name, factor in (("flux", 1), ("ivar", 2)):
        assert (stamps.pixels[name][stamps.outside] == 0).all()
        assert (stamps.pixels[name][~stamps.outside] > 0).all()
        assert stamps.pixels[name][:, 2, 2].tolist() == [factor * v for v in (1, 111, 200)]


def test_positions_off_the_image_are_skipped_with_their_pixel() -> None:
    image = np.ones((10, 20))
    stamps = cut_stamps({"flux": image}, [-1, 3, 10, np.nan, 0], [4, 20, 2, 2, 0], size=96)
    assert stamps.rows.tolist() == [4]
    assert [one.name for one in stamps.skipped] == [f"position {i}" for i in range(4)]
    reasons = [one.reason for one in stamps.skipped]
    assert reasons[0] == "it lies off the image (pixel x 4, y -1; the image has 20 × 10)"
    assert "unknown" in reasons[3]
    assert stamps.outside.sum() == 96 * 96 - 10 * 20  # smaller than the stamp, and wholly in it


def test_without_positions_there_are_no_stamps() -> None:
    stamps = cut_stamps({"flux": np.ones((5, 5))}, [], [], size=4)
    assert stamps.pixels["flux"].shape == stamps.outside.shape == (0, 4, 4)


def test_images_of_several_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        cut_stamps({"flux": np.ones((5, 5)), "ivar": np.ones((5, 6))}, [1], [1])
