"""Joining stores by position."""

from __future__ import annotations

import numpy as np
import pytest

from aion_core.contract import InputError, Slot, TokenSpace
from aion_core.data.join import join_stores, matches
from aion_core.data.store import StoreWriter, TokenStore

RA, DEC = np.array([150.0, 150.1, 359.99999, 10.0]), np.array([2.0, 2.0, 0.0, 89.9])
ARCSEC = 1 / 3600


def store(path, space, ra, dec, **codes):
    with StoreWriter(path, space) as writer:
        names = [f"{path.stem}{i}" for i in range(len(ra))]
        tokens = {key: (np.asarray(v), np.arange(len(v))) for key, v in codes.items()}
        writer.write(names, ra, dec, tokens)
    return TokenStore(path)


@pytest.fixture
def two(make_spec, make_space, tmp_path):
    first = make_space(make_spec("test_r", 1024, (1,), "scalar"), make_spec("test_z", 1024, (1,), "scalar"))
    second = make_space(make_spec("test_z", 1024, (1,), "scalar"), make_spec("test_image", 4375, (3, 3), "grid2d"))
    image = np.arange(36).reshape(4, 9)
    return (
        store(tmp_path / "a.arrow", first, RA[[1, 0]], DEC[[1, 0]], test_r=[[11], [10]], test_z=[[-1], [20]]),
        store(tmp_path / "b.arrow", second, [150.1, 0.00001, np.nan, 150.0], [2 + 0.9 * ARCSEC, 0.0, np.nan, 2.0],
              test_z=[[31], [32], [33], [34]], test_image=image),
    )  # fmt: skip


def test_each_object_gets_what_any_store_has_of_it_the_first_store_first(two, tmp_path):
    seen = []
    joined = join_stores(two, np.array(["p", "q", "r", "s"]), RA, DEC, tmp_path / "joined.arrow", progress=seen.append)
    assert joined.ids.to_pylist() == ["p", "q", "r", "s"]
    np.testing.assert_array_equal(joined.ra, RA)
    codes = joined.tokens(np.arange(4))
    assert codes["test_r"].ravel().tolist() == [10, 11, -1, -1]
    assert codes["test_z"].ravel().tolist() == [20, 31, 32, -1]
    assert codes["test_image"].tolist() == [list(range(27, 36)), list(range(9)), list(range(9, 18)), [-1] * 9]
    assert joined.space.keys == ("test_r", "test_z", "test_image")
    assert seen == [4]


def test_what_is_farther_away_belongs_to_nobody(two):
    assert matches(two[1], RA, DEC).tolist() == [3, 0, 1, -1]
    assert matches(two[1], RA, DEC, within=0.5).tolist() == [3, -1, 1, -1]


def test_an_object_that_a_store_has_in_several_rows_gets_what_each_of_them_has(make_spec, make_space, tmp_path):
    """A catalogue and the images beside it are two rows of one object: neither hides the other."""
    space = make_space(make_spec("test_r", 1024, (1,), "scalar"), make_spec("test_image", 4375, (3, 3), "grid2d"))
    dec = [2 + 0.1 * ARCSEC, 2.0, 2.0, 2 + 0.2 * ARCSEC]
    both = store(tmp_path / "both.arrow", space, [150.0, 150.0, 150.1, 150.1], dec,
                 test_r=[[10], [-1], [12], [13]], test_image=[[-1] * 9, range(9), [-1] * 9, range(9, 18)])  # fmt: skip
    joined = join_stores([both], np.array(["p", "q"]), RA[:2], DEC[:2], tmp_path / "joined.arrow")
    codes = joined.tokens([0, 1])
    assert codes["test_r"].ravel().tolist() == [10, 12]
    assert codes["test_image"].tolist() == [list(range(9)), list(range(9, 18))]


def test_tokens_of_different_tokenizers_are_not_joined(two, make_spec, tmp_path):
    slot = Slot(spec=make_spec("test_z", 1024, (1,), "scalar"), fingerprint="f" * 64)
    other = store(tmp_path / "c.arrow", TokenSpace(slots=(slot,)), RA[:1], DEC[:1], test_z=[[1]])
    with pytest.raises(InputError, match="by another tokenizer"):
        join_stores([*two, other], np.array(["p"]), RA[:1], DEC[:1], tmp_path / "joined.arrow")


def test_there_must_be_objects_with_positions_and_something_to_join(two, tmp_path):
    with pytest.raises(InputError, match="nothing to join"):
        join_stores([], np.array(["p"]), RA[:1], DEC[:1], tmp_path / "joined.arrow")
    with pytest.raises(InputError, match="one of them has none"):
        join_stores(two, np.array(["p"]), [np.nan], [0.0], tmp_path / "joined.arrow")
