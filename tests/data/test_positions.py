"""Rows of a catalogue on an image: found, sorted, and the others accounted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data.positions import places_on

IMAGE, CATALOGUE = Path("image.fits"), Path("folder/catalogue.fits")


def wcs_at(ra: float, dec: float, angle: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [ra, dec], [50.5, 40.5]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = turn @ np.diag([-1, 1]) * 0.2 / 3600
    return wcs


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 359.99), st.floats(-89, 89), st.floats(0, 6.28), st.integers(1, 5))
def test_rows_on_the_image_come_from_bottom_to_top_with_their_columns(
    seed: int, ra: float, dec: float, angle: float, size: int
) -> None:
    rng = np.random.default_rng(seed)
    wcs = wcs_at(ra, dec, angle)
    x, y = rng.uniform(-30, 130, 20), rng.uniform(-30, 110, 20)
    x[0], y[0] = 20, 30
    lon, lat = wcs.all_pix2world(x, y, 0)
    parts = [
        {"ra": lon[i : i + size] % 360, "dec": lat[i : i + size], "id": np.arange(20)[i : i + size]}
        for i in range(0, 20, size)
    ]
    places = places_on(parts, wcs, (80, 100), CATALOGUE, IMAGE)
    row, column = np.floor(y + 0.5), np.floor(x + 0.5)
    on = np.flatnonzero((row >= 0) & (row < 80) & (column >= 0) & (column < 100))
    assert sorted(places.number) == on.tolist()
    assert (places.columns["id"] == places.number).all()
    np.testing.assert_array_equal(places.row, row[places.number])
    np.testing.assert_array_equal(places.column, column[places.number])
    assert (np.diff(places.row) >= 0).all()
    if len(on) < 19:
        (skipped,) = places.skipped
        assert skipped.name.startswith(f"{20 - len(on)} rows of catalogue.fits")


def test_rows_without_a_position_are_listed() -> None:
    part = {"ra": np.array([10.0, np.nan, 10.0]), "dec": np.array([5.0, 5.0, 5.01])}
    places = places_on([part], wcs_at(10, 5), (80, 100), CATALOGUE, IMAGE)
    assert places.number.tolist() == [0]
    assert [s.name for s in places.skipped] == [
        "row 1 of catalogue.fits",
        "row 2, RA 10.000000, Dec 5.010000 of catalogue.fits",
    ]


def test_a_catalogue_of_another_part_of_the_sky_is_refused() -> None:
    part = {"ra": np.array([190.0]), "dec": np.array([-5.0])}
    with pytest.raises(InputError, match=r"image\.fits: no position of folder.catalogue\.fits.*row 0, RA 190\.000000"):
        places_on([part], wcs_at(10, 5), (80, 100), CATALOGUE, IMAGE)


def test_a_catalogue_without_positions_is_refused() -> None:
    with pytest.raises(InputError, match="no column dec"):
        places_on([{"ra": np.array([1.0])}], wcs_at(10, 5), (80, 100), CATALOGUE, IMAGE)
