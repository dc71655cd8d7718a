"""The moving average of weights: what is judged and kept where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aion_core.contract import InputError


class WeightAverage:
    """Exponential moving average of a module's trainable parameters.

    Parameters
    ----------
    module
        Its present parameters are where the average starts.
    decay
        Weight of the past at each step, such as 0.9999. At step t it is at most (1 + t) / (10 + t), so that a short
        training is not judged by its initial weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the parameters that a module has after a step (1, 2, …)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        parameters = dict(module.named_parameters())
        for name, average in self.tensors.items():
            average.lerp_(parameters[name], weight)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Let a module have the averaged parameters for a while."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    @torch.no_grad()
    def settle(self, module: nn.Module) -> None:
        """Give a module the averaged parameters for good."""
        parameters = dict(module.named_parameters())
        for name, average in self.tensors.items():
            parameters[name].copy_(average)

    @torch.no_grad()
    def _swap(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        for name, average in self.tensors.items():
            kept = parameters[name].clone()
            parameters[name].copy_(average)
            average.copy_(kept)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the average of a checkpoint over."""
        if differing := sorted(set(tensors) ^ set(self.tensors)):
            raise InputError(f"The averaged weights and the model disagree on {differing[0]}; the file is damaged.")
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
