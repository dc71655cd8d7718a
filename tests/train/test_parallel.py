"""One process's view of sharing a model: the same weights however it is built, the same gradients whatever is kept."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aion_core.contract import AionError, TokenSpace
from aion_core.data.batches import batch_of_tokens
from aion_core.engine import World
from aion_core.model import AionConfig, AionModel
from aion_core.train.config import ParallelSettings
from aion_core.train.parallel import (
    blocks,
    check_replicas,
    checkpoint_activations,
    gradient_norm,
    local_parameters,
    materialise,
)

CPU = torch.device("cpu")
CONFIG = AionConfig(dim=16, encoder_depth=2, decoder_depth=2, num_heads=2)


def step(space: TokenSpace, kept: str) -> tuple[dict[str, torch.Tensor], int]:
    """Return the gradients of a small model, and the FLOPs that they took."""
    model = AionModel(CONFIG, space, seed=3)
    checkpoint_activations(model, ParallelSettings(activation_checkpointing=kept))
    codes = torch.randint(0, 12, (4, 5), generator=torch.Generator().manual_seed(0))
    batch = batch_of_tokens(model.space, {"test_a": codes[:, :1]}, {"test_b": codes[:, 1:2], "test_c": codes[:, 2:]})
    with FlopCounterMode(display=False) as counter:
        model(batch).sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}, counter.get_total_flops()


def test_what_is_computed_again_changes_no_bit_of_any_gradient(space) -> None:
    (whole, flops), (selective, same), (full, more) = (step(space, kept) for kept in ("none", "selective", "full"))
    for name, gradient in whole.items():
        assert torch.equal(gradient, selective[name]), name
        assert torch.equal(gradient, full[name]), name
    assert same == flops  # no matrix product is done twice
    assert 1.2 * flops < more < 1.35 * flops  # all of the blocks' are: a third more


def test_a_model_built_without_memory_gets_the_weights_of_one_built_with(space) -> None:
    with torch.device("meta"):
        model = AionModel(CONFIG, space, seed=3)
    assert all(p.is_meta for p in model.parameters())
    materialise(model, CPU, seed=3)
    expected = AionModel(CONFIG, space, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers(), strict=True))


def test_alone_the_optimiser_works_on_the_parameters_themselves(space) -> None:
    model = AionModel(CONFIG, space)
    local = local_parameters(model)
    assert all(local[name] is p for name, p in model.named_parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    norm = gradient_norm(model, local, World(0, 1, CPU))
    assert norm**2 == pytest.approx(sum(p.numel() for p in model.parameters()), rel=1e-4)


def test_every_layer_is_a_block(space) -> None:
    model = AionModel(CONFIG, space)
    assert len(blocks(model)) == 4


def test_replicas_must_divide_the_processes() -> None:
    check_replicas(ParallelSettings(replicate=2), World(0, 4, CPU))
    with pytest.raises(AionError, match=r"parallel\.replicate is 3, but 4 processes cannot form"):
        check_replicas(ParallelSettings(replicate=3), World(0, 4, CPU))
