"""What a training runs on."""

from __future__ import annotations

import torch

from aion_core.engine import without_denormals


def test_numbers_that_slow_a_cpu_down_are_zero_while_training_and_only_then() -> None:
    tiny = torch.full((8,), 1e-40)
    assert (tiny * 1).all()
    with without_denormals():
        assert not (tiny * 1).any()
    assert (tiny * 1).all()
