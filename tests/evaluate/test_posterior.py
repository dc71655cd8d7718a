"""Posteriors over bins, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from aion_core.contract import InputError
from aion_core.evaluate import BinnedPosterior, calibrate

EDGES = np.linspace(-12, 12, 6001)


def gaussian(mean, sigma, edges=EDGES):
    cumulative = norm.cdf((edges - np.asarray(mean)[:, None]) / np.asarray(sigma)[:, None])
    return BinnedPosterior(edges, np.diff(cumulative, axis=1))


def test_of_a_gaussian_all_scores_are_the_closed_forms():
    mean, sigma = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.5, 2.0])
    truth = np.array([0.3, 1.9, -5.0])
    posterior, z = gaussian(mean, sigma), (truth - mean) / sigma
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-4)
    np.testing.assert_allclose(posterior.quantile(0.16), norm.ppf(0.16, mean, sigma), atol=1e-3)
    np.testing.assert_allclose(posterior.rank(truth), norm.cdf(z), atol=1e-4)
    np.testing.assert_allclose(posterior.nll(truth), -norm.logpdf(truth, mean, sigma), atol=1e-2)
    # Gneiting & Raftery 2007, equation 21.
    crps = sigma * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(posterior.crps(truth), crps, rtol=1e-4)


def test_crps_of_one_narrow_bin_is_the_absolute_error_within_and_beyond_the_bins():
    edges = np.array([0.0, 1.0, 1.0001, 3.0])
    sure = BinnedPosterior(edges, np.tile([0.0, 1.0, 0.0], (4, 1)))
    np.testing.assert_allclose(sure.crps([0.25, 1.00005, 2.5, 7.0]), [0.75, 0, 1.5, 6.0], atol=1e-4)


def test_crps_of_a_uniform_distribution_is_its_closed_form_wherever_the_truth_lies_in_a_bin():
    uniform = BinnedPosterior(np.array([0.0, 0.3, 1.0]), np.tile([0.3, 0.7], (5, 1)))
    y = np.array([0.0, 0.1, 0.3, 0.77, 1.0])
    np.testing.assert_allclose(uniform.crps(y), (y**3 + (1 - y) ** 3) / 3, rtol=1e-12)
    np.testing.assert_allclose(uniform.nll(y), 0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 9))
def test_crps_is_the_integral_that_defines_it(seed, bins):
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.uniform(0.1, 2, bins + 1))
    posterior = BinnedPosterior(edges, rng.dirichlet(np.ones(bins), 3))
    truth = rng.uniform(edges[0] - 1, edges[-1] + 1, 3)
    grid = np.linspace(edges[0] - 1, edges[-1] + 1, 8001)
    for row in range(3):
        function = np.interp(grid, edges, posterior.cumulative[row])
        expected = np.trapezoid((function - (grid >= truth[row])) ** 2, grid)
        assert posterior.crps(truth)[row] == pytest.approx(expected, abs=1e-3)


def test_codes_become_bins_that_meet_half_way_whatever_their_order():
    posterior = BinnedPosterior.of_codes([3.0, 1.0, 1.0, 7.0], [[0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(posterior.edges, [0, 2, 5, 9])
    np.testing.assert_allclose(posterior.probability, [[0.5, 0.1, 0.4]])


def test_draws_from_the_posteriors_themselves_are_covered_as_often_as_stated():
    rng = np.random.default_rng(1)
    mean, sigma = rng.normal(size=4000), rng.uniform(0.3, 1.5, 4000)
    edges = np.linspace(-12, 12, 241)
    truth = rng.normal(mean, sigma)
    fair = calibrate(gaussian(mean, sigma, edges), truth)
    assert fair.coverage == pytest.approx(0.68, abs=0.025)
    bold = calibrate(gaussian(mean, sigma / 2, edges), truth)
    assert bold.coverage == pytest.approx(2 * norm.cdf(norm.ppf(0.84) / 2) - 1, abs=0.025)
    assert bold.nll > fair.nll
    assert bold.crps > fair.crps
    assert fair.r2 == pytest.approx(1 - ((truth - mean) ** 2).mean() / truth.var(), abs=1e-3)


def test_a_truth_that_no_bin_holds_costs_what_the_outermost_does():
    posterior = BinnedPosterior(np.array([0.0, 1.0, 2.0]), np.array([[0.25, 0.75]]))
    assert posterior.nll([9.0]) == pytest.approx(-np.log(0.75))
    assert posterior.rank([9.0]) == 1
    assert posterior.rank([-9.0]) == 0


@pytest.mark.parametrize(
    ("edges", "probability"),
    [([0.0, 1.0], [[0.5, 0.5]]), ([0.0, 0.0, 1.0], [[0.5, 0.5]]), ([0.0, 1.0, 2.0], [[0.5, 0.2]])],
)
def test_what_is_no_posterior_is_refused(edges, probability):
    with pytest.raises(InputError):
        BinnedPosterior(np.array(edges), np.array(probability))


def test_numbers_of_truths_and_posteriors_must_agree():
    with pytest.raises(InputError, match="do not fit 1 posteriors"):
        gaussian([0.0], [1.0]).crps([0.0, 1.0])
    with pytest.raises(InputError, match="no object"):
        calibrate(gaussian([], []), [])
