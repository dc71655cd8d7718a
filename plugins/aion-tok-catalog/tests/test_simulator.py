"""Mock tables, read back as their own options say."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
from aion_tok_catalog.reader import TableReader
from aion_tok_catalog.simulator import CROP, CompilationSimulator

from aion_core.data.files import NotClaimedError
from aion_core.mock import draw, generator


def read(tmp_path, which):
    objects = draw(24, 0, 80)
    files = CompilationSimulator().observe(objects, tmp_path, generator("catalog", 1))
    options = tomllib.loads((tmp_path / "readers.toml").read_text())["catalog_tables"]
    reader = TableReader(TableReader.Options.model_validate(options))
    path = next(file for file in files if which in file.name)
    assert reader.claims(path)
    (batch,) = reader.read(path, 1000)
    return objects, batch


def test_good_redshifts_are_true_and_bad_ones_absent(tmp_path):
    objects, batch = read(tmp_path, "redshifts")
    redshift, rows = batch.data["catalog_redshift"]
    assert batch.object_id.tolist() == objects.object_id.astype(str).tolist()
    assert 0.85 * len(objects) < len(rows) < len(objects)
    np.testing.assert_allclose(redshift.value.numpy().ravel(), objects.redshift[rows], atol=0.005)


def test_every_object_is_at_the_middle_of_its_own_sources(tmp_path):
    objects, batch = read(tmp_path, "sources")
    sources, rows = batch.data["catalog_sources"]
    assert len(rows) == len(objects)
    distance = np.hypot(sources.x.numpy() - CROP // 2, sources.y.numpy() - CROP // 2)
    assert np.nanmin(distance, axis=1).max() < 1e-3
    order = {name: k for k, name in enumerate(batch.object_id)}
    mine = [order[str(i)] for i in objects.object_id]
    radius = np.take_along_axis(sources.radius.numpy(), np.nanargmin(distance, axis=1)[:, None], 1)[:, 0]
    np.testing.assert_allclose(radius[mine], objects.radius, rtol=1e-5)


def test_the_tables_are_not_read_without_their_options(tmp_path):
    files = CompilationSimulator().observe(draw(24, 0, 5), tmp_path, generator("catalog", 1))
    with pytest.raises(NotClaimedError, match="catalog_tables"):
        TableReader().claims(files[1])
