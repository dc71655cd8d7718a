"""AdamW over groups of parameters, its steps, and the learning-rate schedule as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, product

import torch
from torch import Tensor, nn

from aion_core.engine.settings import OptimizerSettings

#: In how many portions gradients are widened: each takes a pass over the parameters' names.
PORTIONS = 32


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


def halve_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Let the gradients of some float32 parameters be kept in bfloat16, in which products in bfloat16 give them.

    Nothing is lost where a step has one backward pass only, and every parameter one product: else they would be added
    up in bfloat16. Takes effect from PyTorch 2.10 on.
    """
    for parameter in parameters:
        if hasattr(parameter, "grad_dtype"):
            parameter.grad_dtype = torch.bfloat16


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients together, in float32."""
    every = list(gradients)
    if all(g.dtype == torch.float32 for g in every):
        return torch.nn.utils.get_total_norm(every)
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in every]))


def take_step(optimizer: torch.optim.Optimizer, norm: Tensor, largest: float) -> None:
    """Do a step with the gradients, scaled so that their norm, which is `norm`, is `largest` at most (infinite: not).

    Gradients in bfloat16 (`halve_gradients`) are widened and used up a portion at a time; they are None afterwards.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    halves = {p: p.grad for p in parameters if p.grad.dtype != p.dtype}
    for parameter in halves:
        parameter.grad = None
    clip = math.isfinite(largest)
    if clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    optimizer.step()
    if not halves:
        return
    optimizer.zero_grad(set_to_none=True)
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)  # as clip_grads_with_norm_ has it
    for portion in _portions(list(halves)):
        for parameter in portion:
            parameter.grad_dtype = torch.float32
            parameter.grad = halves.pop(parameter).float()
            if clip:
                parameter.grad.mul_(scale)
        optimizer.step()
        for parameter in portion:
            parameter.grad = None
            parameter.grad_dtype = torch.bfloat16


def _portions(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Cut a sequence of parameters into `PORTIONS` of about the same size."""
    ends = list(accumulate(p.numel() for p in parameters))
    portions: list[list[nn.Parameter]] = [[] for _ in range(PORTIONS)]
    for parameter, end in zip(parameters, ends, strict=True):
        portions[math.ceil(PORTIONS * end / ends[-1]) - 1].append(parameter)
    return [portion for portion in portions if portion]


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
