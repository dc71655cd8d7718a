"""Images that lose bands in training."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from aion_core.observations import Image
from aion_core.tokenizers.training.bands import without_some_bands


def images(count: int, bands: int, mask: torch.Tensor | None = None) -> Image:
    return Image(torch.ones(count, bands, 4, 4), [f"B{i}" for i in range(bands)], mask=mask, zero_point=27.0)


def lost(image: Image) -> torch.Tensor:
    """Which bands of which image are masked as a whole, ``[B, C]``."""
    assert image.mask is not None
    return image.mask.flatten(2).all(2)


@given(st.integers(0, 5), st.integers(1, 6), st.floats(0, 1), st.integers(0, 10**6))
def test_every_image_keeps_a_band_and_nothing_but_the_mask_changes(count, bands, share, seed) -> None:
    before = images(count, bands)
    after = without_some_bands(before, share, [f"{seed}/{i}" for i in range(count)])
    assert (~lost(after)).any(1).all()
    assert torch.equal(after.flux, before.flux)
    assert (after.bands, after.zero_point, before.mask) == (before.bands, before.zero_point, None)


def test_a_share_of_the_images_lose_bands_every_number_of_them_and_each_as_often() -> None:
    gone = lost(without_some_bands(images(4000, 4), 0.5, [str(i) for i in range(4000)]))
    numbers = torch.bincount(gone.sum(1), minlength=5) / 4000
    assert torch.allclose(numbers, torch.tensor([0.5, 1 / 6, 1 / 6, 1 / 6, 0]), atol=0.03)
    assert torch.allclose(gone.float().mean(0), torch.tensor(0.25), atol=0.03)


def test_what_an_image_loses_depends_on_its_key_alone() -> None:
    keys = [str(i) for i in range(50)]
    together = lost(without_some_bands(images(50, 5), 0.7, keys))
    apart = [lost(without_some_bands(images(1, 5), 0.7, [key])) for key in reversed(keys)]
    assert torch.equal(together, torch.cat(apart[::-1]))
    assert not torch.equal(together, lost(without_some_bands(images(50, 5), 0.7, [f"other {key}" for key in keys])))


def test_bad_pixels_stay_bad() -> None:
    mask = torch.zeros(40, 3, 4, 4, dtype=torch.bool)
    mask[:, :, 1, 2] = True
    after = without_some_bands(images(40, 3, mask), 0.5, [str(i) for i in range(40)]).mask
    assert after is not None
    assert after[:, :, 1, 2].all()
    assert mask.sum() == 40 * 3, "the mask that was given is not written to"
