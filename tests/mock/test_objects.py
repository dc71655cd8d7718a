"""Who there is on the mock sky, and what their light looks like."""

from __future__ import annotations

import numpy as np
import pytest

from aion_core.contract import InputError
from aion_core.mock import FIELD, GALAXY, QUASAR, STAR, draw, stars, stream
from aion_core.mock.galaxies import AGES, history, populations
from aion_core.mock.grid import WAVELENGTH, WIDTH


@pytest.fixture(scope="module")
def objects():
    return draw(5, 0, 400)


def test_an_object_is_the_same_whatever_is_drawn_with_it(objects):
    alone = draw(5, 317, 1)
    for name, column in alone.columns.items():
        np.testing.assert_array_equal(column, objects.columns[name][317:318], err_msg=name)
    wave = np.linspace(3600, 9800, 500)
    np.testing.assert_array_equal(alone.sed(wave), objects[310:320].sed(wave, [7]))


def test_a_stretch_across_fields_is_drawn_from_both():
    across = draw(5, FIELD - 2, 4)
    assert across.field.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(across.ra[2:], draw(5, FIELD, 2).ra)


def test_dust_is_smooth_across_a_field_and_another_one_in_the_next():
    field, other = draw(5, 0, FIELD), draw(5, FIELD, FIELD)
    near = np.hypot(field.ra[:, None] - field.ra, field.dec[:, None] - field.dec) < 0.005
    ratio = (field.ebv[:, None] / field.ebv)[near]
    assert 0 < np.abs(ratio - 1).max() < 0.1
    assert np.ptp(np.log(field.ebv)) > np.abs(ratio - 1).max()
    assert np.abs(np.log(np.median(field.ebv) / np.median(other.ebv))) > 0.05


def test_seeds_are_skies_of_their_own(objects):
    other = draw(6, 0, 400)
    assert not np.isin(other.object_id, objects.object_id).any()
    assert np.abs(other.ra - objects.ra).min() > 0


def test_fields_of_a_seed_are_different_pieces_of_the_sky():
    first, second = draw(5, 0, FIELD), draw(5, FIELD, FIELD)
    assert first.field_ra[0] != second.field_ra[0]
    assert not np.isin(first.ra, second.ra).any()
    assert (first.kind != second.kind).any()


def test_identifiers_are_unique():
    ids = np.concatenate([part.object_id for part in stream(3, 3 * FIELD + 7)])
    assert len(np.unique(ids)) == len(ids) == 3 * FIELD + 7


@pytest.mark.parametrize(("seed", "start", "count"), [(0, 0, 0), (0, 0, -3), (0, -1, 5), (-1, 0, 5), (2**31, 0, 5)])
def test_what_cannot_be_drawn_is_refused(seed, start, count):
    with pytest.raises(InputError, match="expected one object or more"):
        draw(seed, start, count)


def test_every_kind_has_its_parameters_and_no_other(objects):
    for kind, own, others in ((GALAXY, "log_mass", "teff"), (STAR, "teff", "log_mass"), (QUASAR, "slope", "age")):
        part = objects[objects.kind == kind]
        assert len(part) > 20
        assert np.isfinite(part.columns[own]).all()
        assert np.isnan(part.columns[others]).all()


def test_spectra_are_finite_and_not_negative(objects):
    flux = objects.sed(np.geomspace(3000, 2.5e5, 3000))
    assert np.isfinite(flux).all()
    assert (flux >= 0).all()
    assert (flux.max(1) > 0).all()


def test_bins_hold_the_flux_that_the_spectrum_has(objects):
    part = objects[:20]
    edges = np.arange(4000.0, 9000.0, 3.0)
    coarse = part.mean_flux(edges[::50])
    fine = part.mean_flux(edges)
    count = (len(edges) - 1) // 50
    np.testing.assert_allclose(fine[:, : 50 * count].reshape(20, count, 50).mean(2), coarse[:, :count], rtol=1e-4)


def test_emission_lines_lie_at_their_redshift(objects):
    galaxies = objects[(objects.kind == GALAXY) & (objects.log_ssfr > -10) & (objects.redshift < 0.45)]
    assert len(galaxies) > 20
    for one in range(20):
        z = galaxies.redshift[one]
        near = 6564.61 * (1 + z) + np.arange(-15, 15, 0.2)
        flux = galaxies.sed(near, [one])[0]
        assert abs(near[flux.argmax()] / 6564.61 - 1 - z) < 1.5e-4


def test_quasars_have_broad_lines_at_their_redshift(objects):
    quasars = objects[(objects.kind == QUASAR) & (objects.redshift > 1.6) & (objects.redshift < 4)]
    rest = np.arange(1480.0, 1620.0, 1.0)
    for one in range(len(quasars)):
        flux = quasars.sed(rest * (1 + quasars.redshift[one]), [one])[0]
        assert abs(rest[flux.argmax()] - 1549.06) < 12
        assert flux.max() > 1.1 * flux[0]


def test_redshift_moves_light_and_dims_it():
    one = draw(5, 0, 400)
    galaxy = one[np.flatnonzero(one.kind == GALAXY)[:1]]
    moved = type(galaxy)({**galaxy.columns, "redshift": galaxy.redshift * 0 + 0.5, "ebv": galaxy.ebv * 0})
    nearer = type(galaxy)({**galaxy.columns, "redshift": galaxy.redshift * 0 + 0.1, "ebv": galaxy.ebv * 0})
    from aion_core.mock.cosmology import luminosity_distance

    rest = np.linspace(3000, 6000, 400)
    ratio = moved.sed(rest * 1.5) / nearer.sed(rest * 1.1)
    expected = (luminosity_distance(0.1) / luminosity_distance(0.5)) ** 2 * 1.1 / 1.5
    np.testing.assert_allclose(np.median(ratio), expected, rtol=1e-3)


def test_quiescent_galaxies_have_the_break_and_star_forming_ones_the_lines(objects):
    galaxies = objects[objects.kind == GALAXY]
    above, below = (np.stack([galaxies.sed(w * (1 + z), [i])[0] for i, z in enumerate(galaxies.redshift)])
                    for w in (np.linspace(4000, 4100, 60), np.linspace(3850, 3950, 60)))  # fmt: skip
    strength = above.mean(1) / below.mean(1)
    old, young = galaxies.log_ssfr < -11.5, galaxies.log_ssfr > -9.8
    assert np.median(strength[old]) > 1.5
    assert np.median(strength[young]) < 1.4


def test_a_hot_star_is_bluer_and_its_continuum_that_of_a_black_body():
    teff = np.array([4000.0, 6000.0, 9000.0, 30000.0])
    flux = stars.surface_flux(teff, np.full(4, 4.3), np.zeros(4))
    blue, red = (flux[:, (at - 100 < WAVELENGTH) & (at + 100 > WAVELENGTH)].mean(1) for at in (4500, 7000))
    assert (np.diff(blue / red) > 0).all()
    # The hottest one has hardly a line: redward of the Balmer series it is a black body to 1 %.
    from aion_core.mock.grid import planck

    clean = (WAVELENGTH > 8000) & (WAVELENGTH < 12000)
    np.testing.assert_allclose(flux[3, clean] / planck(WAVELENGTH[clean], teff[3:])[0], 1.0, atol=0.01)


def test_metals_take_light_from_the_blue():
    rich, poor = stars.surface_flux(np.full(2, 5700.0), np.full(2, 4.4), np.array([0.3, -2.0]))
    blue = (WAVELENGTH > 3800) & (WAVELENGTH < 4000)
    assert rich[blue].mean() < 0.8 * poor[blue].mean()


def test_histories_form_every_star_once():
    shares = history(np.array([1.0, 8.0, 13.0]), np.array([0.1, 3.0, 50.0]))
    np.testing.assert_allclose(shares.sum(1), 1.0)
    assert (shares >= -1e-12).all()
    assert shares[0, AGES > 2].sum() < 1e-9


def test_populations_fade_and_redden_with_age():
    spectra = populations().reshape(3, len(AGES), -1)
    light = spectra @ WIDTH.astype(np.float32)
    assert (np.diff(light, axis=1) < 0).all()
    red = spectra[..., (WAVELENGTH > 6000) & (WAVELENGTH < 7000)].mean(-1)
    blue = spectra[..., (WAVELENGTH > 3500) & (WAVELENGTH < 3900)].mean(-1)
    assert (np.diff((blue / red)[1, 2:]) < 0).all()


def test_truth_has_a_row_for_each_object(objects):
    truth = objects.truth()
    assert len(truth) == len(objects)
    assert set(truth["kind"]) == {"galaxy", "star", "quasar"}
    assert truth["distance"].unit == "pc"
