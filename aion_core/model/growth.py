"""Modalities appended to a trained model: everything that is there stays what it is, bit for bit.

Parameters are per modality (DESIGN section 7), so a new one adds parameters of its own and moves none: token embeddings
and a head with a row for each code, and a provenance embedding; in a sequence, embeddings of teacher-forced tokens as
well. Positions are fixed. Initial values are functions of seed and parameter name, as in a model that is new.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn

from aion_core.contract import AionError, Origin, Slot
from aion_core.model.aion import AionModel
from aion_core.model.initialise import initial
from aion_core.model.released import SIDES


def grown(model: AionModel, slots: Sequence[Slot], seed: int = 0, origin: Origin | None = None) -> AionModel:
    """Return a model with further modalities behind its own, which can be given and asked for.

    The old parameters are shared with `model`. See `TokenSpace.grow` for what is refused.

    Examples
    --------
    >>> model = grown(AionModel.from_pretrained("models/first"), [registry.slot("demo_image")])  # doctest: +SKIP
    """
    space = model.space.grow(slots, origin)
    new = {slot.key for slot in slots}
    with torch.device("meta"):
        larger = AionModel(model.config, space, inputs=model.inputs | new, outputs=model.outputs | new)
    old = model.state_dict()
    state = {
        name: old[name] if name in old else initial(name, parameter.shape, seed).to(model.device)
        for name, parameter in larger.state_dict().items()
    }
    larger.load_state_dict(state, assign=True)
    larger.to(model.device)  # the tables of positions and rows
    larger.export_only = model.export_only
    return larger.train(model.training)


def belongs(name: str, keys: Collection[str]) -> bool:
    """Whether a parameter is one that some modalities alone have.

    Examples
    --------
    >>> belongs("decoder_embeddings.demo_image.to_logits.weight", ["demo_image"]), belongs("mask_token", ["demo_image"])
    (True, False)
    """
    side, _, rest = name.partition(".")
    return side in SIDES and rest.partition(".")[0] in keys


def freeze_old(model: nn.Module, keys: Collection[str]) -> None:
    """Let only what was appended be trained: embeddings, provenance and heads of some modalities."""
    if not keys:
        raise AionError(
            "Nothing was appended to this model, so there is nothing to train with its old parts frozen; name the new "
            "modality with --grow KEY."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(belongs(name, keys))
