"""How many parameters a model has, part by part, from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod


def parameters_by_part(shapes: Mapping[str, Iterable[int]]) -> dict[str, int]:
    """Return the parameters of encoder, decoder, embeddings and heads, and their total.

    Examples
    --------
    >>> parameters_by_part({"mask_token": (1, 1, 8), "decoder_embeddings.x.to_logits.weight": (4, 8)})["heads"]
    32
    """
    groups = {"encoder": 0, "decoder": 0, "embeddings": 0, "heads": 0}
    for name, shape in shapes.items():
        if "to_logits" in name:
            group = "heads"
        elif "_embeddings." in name or name == "mask_token":
            group = "embeddings"
        else:
            group = "encoder" if name.startswith("encoder") else "decoder"
        groups[group] += prod(shape)
    return {**groups, "total": sum(groups.values())}
