"""AdamW over groups of parameters, and the learning-rate schedule as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product

import torch
from torch import Tensor, nn

from aion_core.engine.settings import OptimizerSettings


def build_optimizer(
    model: nn.Module | Mapping[str, nn.Parameter],
    settings: OptimizerSettings,
    decays: Callable[[str, Tensor], bool],
    is_embedding: Callable[[str], bool] = lambda name: False,
) -> torch.optim.AdamW:
    """Return AdamW (fused where the device has it) with a group for each kind of parameter.

    Parameters
    ----------
    model
        Whose parameters are trained, or these by name.
    decays
        Which parameters have weight decay. Embeddings and heads of modalities that a step does not see get zero
        gradients; AdamW would still shrink them, so they should not.
    is_embedding
        Which parameters learn at `embedding_lr` times the rate of the others.
    """
    parameters = model.named_parameters() if isinstance(model, nn.Module) else model.items()
    named = [(name, p) for name, p in parameters if p.requires_grad]
    groups = []
    for decay, embedding in product((True, False), repeat=2):
        members = [p for n, p in named if decays(n, p) == decay and is_embedding(n) == embedding]
        if members:
            weight_decay = settings.weight_decay if decay else 0.0
            scale = settings.embedding_lr if embedding else 1.0
            groups.append({"params": members, "weight_decay": weight_decay, "lr_scale": scale})
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group, each in its proportion."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def learning_rate(step: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of step 0 … steps−1: linear warm-up, then constant, or half a cosine to `final_lr`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.final_lr + (settings.lr - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
