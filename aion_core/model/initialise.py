"""Initial weights: a function of the seed and the parameter's name only.

So a new modality cannot shift the initial values of another (`aion_core.engine.initialise`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aion_core.engine.initialise import keyed_generator

EMBEDDING_STD = 0.02


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fill all parameters in place, as the release did (REFERENCE section 3).

    Linear layers are Xavier-uniform, with the stacked matrices of Q, K and V (K and V) treated one by one; embeddings,
    the mask token and registers are normal with standard deviation 0.02; biases are zero and norm weights one.
    """
    for name, parameter in model.named_parameters():
        parameter.copy_(initial(name, parameter.shape, seed))


def initial(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Return the initial values of one parameter, drawn on the CPU: they do not depend on the device either."""
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:  # the weight of a norm
        return torch.ones(shape)
    values = torch.empty(shape, dtype=torch.float32, device="cpu")
    generator = keyed_generator(name, seed)
    if name in ("mask_token", "register_tokens") or ".token_emb." in name or name.endswith(".mod_emb"):
        return values.normal_(0.0, EMBEDDING_STD, generator=generator)
    stacked = 3 if ".qkv." in name else 2 if ".kv." in name else 1
    fan_out, fan_in = shape
    limit = math.sqrt(6.0 / (fan_out // stacked + fan_in))
    return values.uniform_(-limit, limit, generator=generator)
