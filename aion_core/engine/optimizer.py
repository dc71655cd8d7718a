"""AdamW over two groups of parameters, and the learning-rate schedule as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from aion_core.engine.settings import OptimizerSettings


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, decays: Callable[[str, Tensor], bool]
) -> torch.optim.AdamW:
    """Return AdamW (fused where the device has it) with weight decay on the parameters that `decays` selects.

    Embeddings and heads of modalities that a step does not see get zero gradients; AdamW would still shrink them,
    so they belong into the group without decay.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": settings.weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
    )


def learning_rate(step: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of step 0 … steps−1: linear warm-up, then half a cosine down to `final_lr`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.final_lr + (settings.lr - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
