"""Linear probes and neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from aion_core.contract import InputError
from aion_core.evaluate import linear_probe, nearest


def test_a_linear_property_is_read_off_whatever_the_features_scales():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 5)) * [1e-6, 1.0, 1e5, 1.0, 0.0] + 3.0
    y = 2e6 * x[:, 0] - x[:, 1] + 7
    probe = linear_probe(x[:300], y[:300], x[300:], y[300:])
    assert probe.r2 > 0.999
    assert probe.scatter < 0.05 * y.std()


def test_noise_limits_a_probe_to_its_share_of_the_variance():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6000, 3))
    y = x[:, 0] + rng.normal(size=6000)
    probe = linear_probe(x[:4000], y[:4000], x[4000:], y[4000:])
    assert probe.r2 == pytest.approx(0.5, abs=0.04)
    assert probe.scatter == pytest.approx(0.994, abs=0.06)  # of a Gaussian: half of 0.16 … 0.84


def test_features_that_say_nothing_explain_nothing_however_many():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(300, 200)), rng.normal(size=300)
    assert linear_probe(x[:150], y[:150], x[150:], y[150:]).r2 < 0.1
    assert linear_probe(x[:150], y[:150], x[150:], y[150:]).penalty >= 1


def test_what_cannot_be_probed_is_refused():
    x = np.zeros((4, 2))
    with pytest.raises(InputError, match="do not fit"):
        linear_probe(x, np.zeros(3), x, np.zeros(4))
    with pytest.raises(InputError, match="finite"):
        linear_probe(x + np.nan, np.zeros(4), x, np.zeros(4))
    with pytest.raises(InputError, match="two objects or more"):
        linear_probe(x, np.zeros(4), x[:1], np.zeros(1))


def test_neighbours_are_those_in_the_same_direction_and_never_oneself():
    angle = np.radians([0, 5, 20, 180, 185, 270])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.array([1, 9, 2, 3, 1, 1])[:, None] + 100.0
    x -= x.mean(0) - 40.0  # a common offset says nothing
    rows, cosine = nearest(x, [0, 3], 2)
    centred = x - x.mean(0)
    centred /= np.linalg.norm(centred, axis=1)[:, None]
    for query, found, values in zip([0, 3], rows, cosine, strict=True):
        expected = [i for i in np.argsort(-(centred @ centred[query])) if i != query][:2]
        assert found.tolist() == expected
        np.testing.assert_allclose(values, centred[expected] @ centred[query])


def test_there_are_no_more_neighbours_than_objects():
    assert nearest(np.eye(3), [0], 10)[0].shape == (1, 2)
    with pytest.raises(InputError, match="rows of embeddings"):
        nearest(np.eye(3), [3], 1)
