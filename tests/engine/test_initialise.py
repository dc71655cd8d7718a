"""Initial values are a function of the seed and the name."""

from __future__ import annotations

import torch

from aion_core.engine.initialise import keyed_generator


def draw(name: str, seed: int) -> torch.Tensor:
    return torch.rand(8, generator=keyed_generator(name, seed))


def test_a_name_and_a_seed_always_give_the_same_numbers_whatever_was_drawn_before() -> None:
    first = draw("stem.weight", 0)
    torch.manual_seed(1)
    draw("head.weight", 0)
    assert torch.equal(draw("stem.weight", 0), first)
    # written down: trained weights depend on it
    assert torch.allclose(first[:2], torch.tensor([0.23808068, 0.33704740]))


def test_another_name_or_another_seed_gives_others() -> None:
    draws = [draw("a", 0), draw("b", 0), draw("a", 1), draw("a", 10), draw("0:a", 0)]
    assert len({tuple(d.tolist()) for d in draws}) == len(draws)
