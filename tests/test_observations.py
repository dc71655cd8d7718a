"""Observations take arrays of any kind, convert them once, never change them, and refuse what cannot be right."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aion_core.contract import InputError
from aion_core.observations import Image, Scalar, ScalarField, SourceList, Spectrum

FEW = settings(max_examples=60, deadline=None)
DTYPES = st.sampled_from([f"{order}f{size}" for order in "<>" for size in (2, 4, 8)])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=6)


def image(batch: int = 2, bands: tuple[str, ...] = ("a", "b"), **kwargs: Any) -> Image:
    flux = np.arange(batch * len(bands) * 12, dtype=np.float32).reshape(batch, len(bands), 3, 4)
    return Image(flux, bands, **kwargs)


def spectrum(batch: int = 3, **kwargs: Any) -> Spectrum:
    flux = np.arange(batch * 5, dtype=np.float32).reshape(batch, 5)
    return Spectrum(flux, np.linspace(4000, 5000, 5), **kwargs)


ONE_OF_EACH = {
    "image": lambda: image(3, ivar=np.ones((3, 2, 3, 4)), mask=np.zeros((3, 3, 4), bool)),
    "spectrum": lambda: spectrum(ivar=np.ones((3, 5)), mask=np.zeros((3, 5), bool)),
    "scalar": lambda: Scalar([1.0, 2.0, 3.0]),
    "coefficients": lambda: Scalar(np.arange(6.0).reshape(3, 2)),
    "field": lambda: ScalarField(np.arange(36.0).reshape(3, 3, 4)),
    "sources": lambda: SourceList(*(np.arange(6.0).reshape(3, 2) + i for i in range(5))),
}


@FEW
@given(data=st.data(), dtype=DTYPES)
def test_numbers_of_any_float_type_and_byte_order_arrive_as_float32_and_stay_unchanged(data: Any, dtype: str) -> None:
    given_ = data.draw(hnp.arrays(np.dtype(dtype), SHAPES))
    before = given_.tobytes()
    with np.errstate(over="ignore"):
        expected = given_.astype(np.float32)
    value = Scalar(given_).value
    assert value.dtype == torch.float32
    np.testing.assert_array_equal(value.numpy(), expected)
    assert given_.tobytes() == before


@pytest.mark.parametrize("kind", [np.int16, np.uint8, ">i4", np.int64])
def test_integers_are_accepted(kind: Any) -> None:
    assert Scalar(np.array([1, 2], dtype=kind)).value.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("value", [["a", "b"], [1j], np.array([True]), [[1.0], [1.0, 2.0]], torch.tensor([True])])
def test_what_is_no_array_of_real_numbers_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"Scalar\.value"):
        Scalar(value)


def test_float32_arrays_share_memory_but_read_only_ones_are_copied() -> None:
    array = np.ones(3, np.float32)
    assert np.shares_memory(Scalar(array).value.numpy(), array)
    array.flags.writeable = False
    assert not np.shares_memory(Scalar(array).value.numpy(), array)


def test_reversed_and_strided_views_are_read_correctly() -> None:
    array = np.arange(10, dtype=np.float32)
    assert Scalar(array[::-2]).value.tolist() == [9, 7, 5, 3, 1]


def test_a_masked_array_hides_its_entries_as_nan_and_stays_unchanged() -> None:
    column = MaskedColumn([1.0, 2.0, 3.0], mask=[False, True, False])
    assert Scalar(column).value.isnan().tolist() == [False, True, False]
    assert column.data.data.tolist() == [1.0, 2.0, 3.0]
    assert Scalar(Masked([1.0, 2.0] * u.m, mask=[True, False]), unit="cm").value[1] == 200.0


def test_tensors_of_any_float_type_become_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int32):
        assert Scalar(torch.ones(2, dtype=dtype)).value.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Scalar(3.0), r"Scalar.value has shape \[\]; expected \[B\] or \[B, n\]"),
        (lambda: Scalar(np.zeros((1, 1, 1))), r"expected \[B\] or \[B, n\]"),
        (lambda: ScalarField(np.zeros((2, 3))), r"expected \[B, H, W\]"),
        (lambda: Spectrum(np.zeros(5), np.zeros(5)), r"expected \[B, L\]"),
        (lambda: Spectrum(np.zeros((2, 5)), np.zeros(4)), r"Spectrum.wavelength has shape \[4\]; expected \[2, 5\]"),
        (lambda: Spectrum(np.zeros((2, 5)), np.zeros((1, 5))), r"Spectrum.wavelength has shape \[1, 5\]"),
        (lambda: spectrum(ivar=np.zeros((3, 4))), r"Spectrum.ivar has shape \[3, 4\]; expected \[3, 5\]"),
        (lambda: spectrum(mask=np.zeros(5, bool)), r"Spectrum.mask has shape \[5\]"),
        (lambda: spectrum(mask=np.zeros((3, 5), np.int32)), r"Spectrum.mask holds int32; expected booleans"),
        (lambda: Image(np.zeros((2, 3, 4)), ["a"]), r"expected \[B, C, H, W\]"),
        (lambda: image(bands=("a", "b"), mask=np.zeros((2, 4, 4), bool)), r"Image.mask has shape \[2, 4, 4\]"),
        (lambda: Image(np.zeros((1, 2, 4, 4)), ["a"]), "has 2 bands, but Image.bands names 1"),
        (lambda: Image(np.zeros((1, 2, 4, 4)), ["a", "a"]), "names a twice"),
        (lambda: Image(np.zeros((1, 2, 4, 4)), "ab"), "expected a sequence of 2 band names"),
        (lambda: Image(np.zeros((1, 2, 4, 4)), None), "expected a sequence of 2 band names"),
        (lambda: image(zero_point=[22.5, 22.5, 22.5]), "expected one finite AB magnitude, or 2"),
        (lambda: image(zero_point=np.nan), "expected one finite AB magnitude"),
        (lambda: image(pixel_scale=0), "pixel_scale is 0"),
        (lambda: SourceList(*[np.zeros((2, 3))] * 4, np.zeros((2, 4))), r"SourceList.radius has shape \[2, 4\]"),
        (lambda: SourceList(*[np.zeros(3)] * 5), r"expected \[B, n\]"),
    ],
)
def test_wrong_shapes_and_bands_are_refused_with_what_was_expected(make: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        make()


def test_a_mask_without_a_band_axis_holds_for_every_band() -> None:
    mask = np.zeros((2, 3, 4), bool)
    mask[1, 2, 3] = True
    bad = image(mask=mask).mask
    assert bad.shape == (2, 2, 3, 4)
    assert bad[1, :, 2, 3].all()
    assert bad.sum() == 2


def test_a_square_stamp_takes_a_mask_of_one_plane_per_object_not_per_band() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[0] = True
    bad = Image(np.zeros((4, 4, 4, 4)), tuple("abcd"), mask=mask).mask
    assert bad[0].all()
    assert not bad[1:].any()


def test_one_zero_point_holds_for_all_bands() -> None:
    assert image(zero_point=27).zero_point == (27.0, 27.0)
    assert image(zero_point=(22.5, 27)).zero_point == (22.5, 27.0)
    assert image().zero_point is None


def test_a_shared_wavelength_grid_costs_one_row_and_survives_selection_and_concatenation() -> None:
    spectra = spectrum(4)
    both = Spectrum.concatenate([spectra[[3, 1]], spectra[1:]])
    assert both.wavelength.shape == (5, 5)
    assert both.wavelength.untyped_storage().nbytes() == 5 * 4
    assert both.to("cpu").wavelength.untyped_storage().nbytes() == 5 * 4
    torch.testing.assert_close(both.wavelength[4], torch.linspace(4000, 5000, 5))


def test_spectra_on_different_grids_can_be_concatenated() -> None:
    a, b = spectrum(2), Spectrum(np.zeros((1, 5)), np.arange(5.0))
    joined = Spectrum.concatenate([a, b]).wavelength
    assert joined[1].tolist() == a.wavelength[1].tolist()
    assert joined[2].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize(
    "rows",
    [
        slice(1, None),
        slice(None, None, 2),
        [2, 0],
        [],
        np.array([True, False, True]),
        torch.tensor([0, 0, 2]),
        torch.tensor([False, True, False]),
        np.array([-1]),
        1,
    ],
    ids=str,
)
def test_rows_are_selected_as_in_numpy_from_every_field(name: str, rows: Any) -> None:
    obs = ONE_OF_EACH[name]()
    part = obs[rows]
    index = [rows] if isinstance(rows, int) else rows
    index = np.array(index, dtype=int) if isinstance(index, list) else index
    assert type(part) is type(obs)
    for field in obs.batched:
        expected = getattr(obs, field).numpy()[index if isinstance(index, slice) else np.asarray(index)]
        np.testing.assert_array_equal(getattr(part, field).numpy(), expected)
    assert len(part) == len(getattr(part, obs.batched[-1]))


def test_a_row_outside_the_batch_is_an_index_error_so_that_iteration_ends() -> None:
    assert [float(obs.value) for obs in Scalar([1.0, 2.0])] == [1.0, 2.0]
    with pytest.raises(IndexError):
        Scalar([1.0])[1]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_splitting_and_concatenating_gives_the_observation_back(name: str) -> None:
    obs = ONE_OF_EACH[name]()
    again = type(obs).concatenate([obs[:1], obs[1:1], obs[1:]])
    for field in obs.batched:
        assert torch.equal(getattr(again, field), getattr(obs, field))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_batch_may_be_empty(name: str) -> None:
    assert len(ONE_OF_EACH[name]()[:0]) == 0


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], "at least one Image"),
        ([image(), image(bands=("a", "c"))], "differ in bands"),
        ([image(), image(ivar=np.ones((2, 2, 3, 4)))], "differ in ivar"),
        ([image(), image(zero_point=27)], "differ in zero_point"),
        ([image(), Image(np.zeros((1, 2, 5, 5)), ("a", "b"))], r"shape of flux: \[2, 2, 3, 4\] and \[1, 2, 5, 5\]"),
    ],
)
def test_what_differs_is_not_concatenated(parts: list[Image], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        Image.concatenate(parts)


def test_wavelengths_with_a_unit_are_converted_to_angstrom() -> None:
    grid = np.array([400.0, 500.0]) * u.nm
    assert Spectrum(np.zeros((1, 2)), grid).wavelength.tolist() == [[4000.0, 5000.0]]
    assert Spectrum(np.zeros((1, 2)), Column([0.4, 0.5], unit="um")).wavelength.tolist() == [[4000.0, 5000.0]]
    assert grid.value.tolist() == [400.0, 500.0]


def test_a_wavelength_in_seconds_is_refused() -> None:
    with pytest.raises(InputError, match=r"Spectrum.wavelength has unit 's'; expected 'Angstrom'"):
        Spectrum(np.zeros((1, 2)), [1, 2] * u.s)


def test_a_flux_keeps_its_unit_until_it_is_asked_for_in_another() -> None:
    density = u.Unit("1e-17 erg / (s cm2 AA)")
    obs = spectrum().in_unit("Jy")
    assert obs.unit is None
    obs = Spectrum(np.ones((1, 2)) * density, [1, 2] * u.AA, ivar=np.full((1, 2), 4) / density**2)
    assert u.Unit(obs.unit) == density
    other = obs.in_unit("1e-16 erg / (s cm2 AA)")
    torch.testing.assert_close(other.flux, torch.full((1, 2), 0.1))
    torch.testing.assert_close(other.ivar, torch.full((1, 2), 400.0))
    assert obs.flux.tolist() == [[1.0, 1.0]]


def test_stating_a_unit_converts_a_quantity_and_labels_bare_numbers() -> None:
    assert Scalar([1.0, 2.0] * u.arcsec, unit="mas").value.tolist() == [1000.0, 2000.0]
    assert Scalar([1.0], unit="arcsec").in_unit("mas").value.tolist() == [1000.0]


def test_conversion_happens_before_rounding_to_float32() -> None:
    tiny = np.full((1, 1), 1e-20) * u.Unit("erg / (s cm2 AA)")
    obs = Spectrum(tiny, [1] * u.AA, ivar=1 / tiny**2, unit="1e-17 erg / (s cm2 AA)")
    torch.testing.assert_close(obs.flux, torch.full((1, 1), 1e-3))
    torch.testing.assert_close(obs.ivar, torch.full((1, 1), 1e6))


def test_units_that_do_not_convert_by_a_factor_are_refused() -> None:
    with pytest.raises(InputError, match="Scalar has unit 's'; expected 'mas'"):
        Scalar([1.0] * u.s).in_unit("mas")
    with pytest.raises(InputError, match=r"mag\(AB\)"):
        Scalar([20.0] * u.ABmag).in_unit("Jy")
    with pytest.raises(InputError, match="expected a dimensionless number"):
        ScalarField(np.zeros((1, 2, 2)) * u.m)


def test_a_magnitude_in_its_own_system_passes() -> None:
    assert Scalar([20.0] * u.ABmag).in_unit("mag(AB)").value.tolist() == [20.0]


def test_an_inverse_variance_with_a_unit_needs_a_flux_with_one() -> None:
    with pytest.raises(InputError, match="give both as quantities, or neither"):
        spectrum(ivar=np.ones((3, 5)) / u.Jy**2)
    with pytest.raises(InputError, match="to the power -2"):
        Spectrum(np.ones((1, 2)) * u.Jy, [1, 2] * u.AA, ivar=np.ones((1, 2)) * u.Jy)


def test_an_observation_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Scalar([1.0]).value = torch.zeros(1)  # type: ignore[misc]


def test_importing_observations_does_not_import_astropy() -> None:
    code = "import sys, aion_core.observations; print('astropy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
