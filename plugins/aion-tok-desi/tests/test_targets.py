"""What columns say of a target: which rows show one, its photometry, its redshift."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from aion_tok_desi.reader import DesiReader
from aion_tok_desi.targets import AXES, FIBERSTATUS, USABLE
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import InputError
from aion_core.data import ObservationBatch

Make = Callable[..., dict[str, Any]]
Save = Callable[..., Path]

FIRST = 39627866878511337  # a TARGETID that float64 cannot hold


def read(path: Path, **options: Any) -> ObservationBatch:
    (batch,) = DesiReader(DesiReader.Options(**options)).read(path, 100)
    return batch


def catalogue(path: Path, **columns: Any) -> Path:
    """Write a redshift catalogue."""
    size = len(next(iter(columns.values())))
    Table({"TARGETID": FIRST + np.arange(size), "Z": np.arange(size) / 10} | columns).write(path, overwrite=True)
    return path


def values(batch: ObservationBatch, key: str) -> dict[int, float]:
    """Return the values of a modality by row of the batch."""
    observation, rows = batch.data[key]
    return dict(zip(rows.tolist(), observation.value.tolist(), strict=True))


# --- which rows show a target ---


def test_a_targetid_survives_to_its_last_digit(make: Make, save: Save, tmp_path: Path) -> None:
    assert int(float(FIRST)) != FIRST
    assert read(save(tmp_path / "coadd-a.fits", make(2))).object_id.tolist() == [str(FIRST), str(FIRST + 1)]
    assert read(catalogue(tmp_path / "z.fits", Z=[0.1, 0.2])).object_id.tolist() == [str(FIRST), str(FIRST + 1)]


@pytest.mark.parametrize("name", ["COADD_FIBERSTATUS", "FIBERSTATUS"])
@pytest.mark.parametrize("bit", range(31))
def test_a_fibre_is_dead_by_any_bit_that_is_not_informative(tmp_path: Path, name: str, bit: int) -> None:
    path = catalogue(tmp_path / "z.fits", **{name: np.array([0, 1 << bit, 8])})
    batch = read(path)
    usable = FIBERSTATUS.get(bit) in USABLE
    assert len(batch) == 2 + usable
    if not usable:
        (skipped,) = batch.skipped
        assert skipped.name == f"row 2 (TARGETID {FIRST + 1})"
        assert f"{name} {1 << bit})" in skipped.reason
        assert FIBERSTATUS.get(bit, f"bit {bit}") in skipped.reason or bit == 0


def test_sky_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    kinds = ["TGT", "SKY", "NON", "", "BAD"]
    path = catalogue(tmp_path / "z.fits", OBJTYPE=kinds)
    assert len(read(path)) == 1
    assert [s.reason.partition(" ")[0] for s in read(path).skipped] == ["the", "no", "no", "no"]
    assert len(read(path, sky=True)) == 2


def test_repeats_of_a_target_are_skipped_where_the_catalogue_names_the_primary_row(tmp_path: Path) -> None:
    ids = np.array([FIRST, FIRST, FIRST + 1])
    path = catalogue(tmp_path / "z.fits", TARGETID=ids, Z=[0.1, 0.2, 0.3], ZCAT_PRIMARY=[False, True, True])
    batch = read(path)
    assert batch.object_id.tolist() == [str(FIRST), str(FIRST + 1)]
    assert values(batch, "catalog_redshift") == pytest.approx({0: 0.2, 1: 0.3})
    assert "ZCAT_PRIMARY" in batch.skipped[0].reason


# --- positions ---


def test_positions_come_from_either_pair_of_columns_or_are_unknown(make: Make, save: Save, tmp_path: Path) -> None:
    target = make(2, TARGET_RA=[10.5, np.nan], TARGET_DEC=[-5.0, 3.0], RA=[1.0, 1.0], DEC=[2.0, 2.0])
    batch = read(save(tmp_path / "coadd-a.fits", target))
    assert (batch.ra[0], batch.dec[0]) == (10.5, -5)
    assert np.isnan([batch.ra[1], batch.dec[1]]).all()
    plain = read(save(tmp_path / "coadd-b.fits", make(2, RA=[360.0, -99.0], DEC=[2.0, -99.0])))
    assert (plain.ra[0], plain.dec[0]) == (0, 2)
    assert np.isnan([plain.ra[1], plain.dec[1]]).all()


# --- photometry ---


def test_bands_that_were_not_observed_are_absent(tmp_path: Path) -> None:
    path = catalogue(
        tmp_path / "z.fits",
        FLUX_G=[1.0, 2.0, 0.0, np.nan], FLUX_IVAR_G=[1.0, 0.0, 3.0, 1.0],
        FLUX_W1=[0.0, -2.0, 3.0, np.inf], EBV=[0.0, 0.02, np.nan, 0.01],
    )  # fmt: skip
    batch = read(path)
    assert values(batch, "legacy_flux_g") == {0: 1, 2: 0}
    assert values(batch, "legacy_flux_w1") == {1: -2, 2: 3}
    assert values(batch, "legacy_ebv") == pytest.approx({1: 0.02, 3: 0.01})
    assert "legacy_flux_r" not in batch.data


def test_only_a_fitted_model_has_a_shape(tmp_path: Path) -> None:
    shapes = {f"SHAPE_{axis.upper()}": [0.0, 0.5, 0.5, 0.5, 0.5] for axis in AXES}
    path = catalogue(tmp_path / "z.fits", MORPHTYPE=["PSF", "SER", "", "DUP", "GPSF"], **shapes)
    assert values(read(path), "legacy_shape_r") == {0: 0, 1: 0.5}
    del shapes["SHAPE_E1"]
    assert "legacy_shape_r" not in read(catalogue(tmp_path / "z.fits", **shapes)).data


# --- redshifts ---


def test_a_redshift_with_a_warning_is_absent_and_its_object_is_not(tmp_path: Path) -> None:
    batch = read(catalogue(tmp_path / "z.fits", Z=[0.5, 0.6, np.nan, -1.0, -0.001], ZWARN=[0, 4, 0, 0, 0]))
    assert len(batch) == 5
    assert values(batch, "catalog_redshift") == pytest.approx({0: 0.5, 4: -0.001})


def test_the_first_good_redshift_of_a_target_counts(make: Make, save: Save, tmp_path: Path) -> None:
    path = save(tmp_path / "coadd-a.fits", make(3))
    ids = [FIRST + 2, FIRST, FIRST, FIRST, FIRST + 99]
    source = catalogue(tmp_path / "z.fits", TARGETID=ids, Z=[0.1, 0.2, 0.3, 0.4, 0.5], ZWARN=[0, 4, 0, 0, 0])
    assert values(read(path, redshifts=source), "catalog_redshift") == pytest.approx({0: 0.3, 2: 0.1})
    primary = catalogue(tmp_path / "p.fits", TARGETID=ids, Z=[0.1] * 5, ZCAT_PRIMARY=[False, False, True, False, True])
    assert values(read(path, redshifts=primary), "catalog_redshift") == pytest.approx({0: 0.1})


def test_a_fibermap_with_redshifts_does_not_hide_the_spectra(make: Make, save: Save, tmp_path: Path) -> None:
    batch = read(save(tmp_path / "coadd-a.fits", make(2, Z=[0.1, 0.2])))
    assert batch.data.keys() == {"desi_spectrum"}


def test_the_redshift_table_may_stand_behind_an_image(save: Save, tmp_path: Path) -> None:
    table = {"TARGETID": FIRST + np.arange(3), "Z": np.ones(3)}
    hdus = {
        "EMPTY": np.zeros((2, 2)),
        "REDSHIFTS": table,
        "FIBERMAP": {"TARGETID": table["TARGETID"], "EBV": [0.1] * 3},
    }
    assert read(save(tmp_path / "redrock-a.fits", hdus)).data.keys() == {"catalog_redshift", "legacy_ebv"}


def test_rows_of_a_redrock_file_must_be_those_of_its_fibermap(save: Save, tmp_path: Path) -> None:
    redshifts = {"TARGETID": FIRST + np.arange(3), "Z": np.ones(3)}
    for ids, sentence in ((FIRST + np.arange(3)[::-1], "not those"), (FIRST + np.arange(2), "has 2 rows; expected 3")):
        path = save(tmp_path / "redrock-a.fits", {"REDSHIFTS": redshifts, "FIBERMAP": {"TARGETID": ids}})
        with pytest.raises(InputError, match=rf"redrock-a\.fits: HDU FIBERMAP.*{sentence}"):
            read(path)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"TARGETID": [1.0, 2.0]}, "column TARGETID holds float64"),
        ({"Z": ["a", "b"]}, "column Z holds"),
        ({"ZWARN": [[1, 2], [3, 4]]}, "column ZWARN holds"),
        ({"FLUX_G": ["a", "b"]}, "column FLUX_G holds"),
    ],
)
def test_columns_of_another_type_are_refused(tmp_path: Path, columns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"z\.fits.*{sentence}"):
        read(catalogue(tmp_path / "z.fits", **columns))


def test_a_catalogue_without_redshifts_is_refused_as_a_source(make: Make, save: Save, tmp_path: Path) -> None:
    path = save(tmp_path / "coadd-a.fits", make(1))
    Table({"TARGETID": [FIRST], "HEIGHT": [1.0]}).write(tmp_path / "no.fits")
    with pytest.raises(InputError, match=r"no\.fits: column Z is missing"):
        read(path, redshifts=tmp_path / "no.fits")
    with pytest.raises(InputError, match=r"absent\.fits"):
        read(path, redshifts=tmp_path / "absent.fits")


numbers = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf]))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_columns_are_found_in_any_order_type_and_case(data: st.DataObject, size: int) -> None:
    truth = {name: data.draw(st.lists(numbers, min_size=size, max_size=size)) for name in ("z", "flux_r", "ebv")}
    reals, integers = st.sampled_from([">f8", "<f8", ">f4", "<f4"]), st.sampled_from([">i4", "<i4", ">i8", "<i8"])
    columns: dict[str, Any] = {name: np.array(values, data.draw(reals)) for name, values in truth.items()}
    columns |= {"zwarn": np.zeros(size, data.draw(integers)), "flux_ivar_r": np.ones(size, data.draw(reals))}
    columns |= {"targetid": np.arange(size, dtype=">i8") + FIRST, "subtype": ["x"] * size}
    spelt = data.draw(st.sampled_from([str.upper, str.lower]))
    with TemporaryDirectory() as folder:
        path = Path(folder, "zall.fits")
        order = data.draw(st.permutations(sorted(columns)))
        fits.BinTableHDU(Table({spelt(name): columns[name] for name in order})).writeto(path)
        assert DesiReader().claims(path)
        batch = read(path)
    good = {
        "catalog_redshift": [v for v in truth["z"] if np.isfinite(v) and v > -1],
        "legacy_flux_r": [v for v in truth["flux_r"] if np.isfinite(v)],
        "legacy_ebv": [v for v in truth["ebv"] if np.isfinite(v) and v != 0],
    }
    assert {key: batch.data[key][0].value.tolist() for key in good} == {
        key: np.float32(found).tolist() for key, found in good.items()
    }
