"""How many floating-point operations a sample costs: counted from the shapes, beside the model."""

from __future__ import annotations

from collections.abc import Sequence

from aion_core.contract import TokenSpace
from aion_core.model.config import AionConfig


def forward_flops(config: AionConfig, inputs: int, targets: int, heads: Sequence[tuple[float, int]] = ()) -> float:
    """Matrix-product FLOPs (two per multiply–add) of one sample's forward pass.

    Parameters
    ----------
    inputs, targets
        Places N of the encoder and M of the decoder, padding included: padding is computed too.
    heads
        ``(targets of a modality, vocabulary)`` pairs: the output projections.
    """
    dim, n, m = config.dim, inputs + config.num_register_tokens, targets
    encoder, decoder = 2 * n * n * dim, 2 * m * m * dim + 2 * m * n * dim
    attention = 2 * (config.encoder_depth * encoder + config.decoder_depth * decoder)
    return attention + _weight_flops(config, n, m, heads)


def training_flops(
    config: AionConfig,
    inputs: int,
    targets: int,
    heads: Sequence[tuple[float, int]] = (),
    frozen_heads: Sequence[tuple[float, int]] | None = None,
) -> float:
    """FLOPs of forward and backward, which costs twice the forward; recomputation is not counted.

    Where the blocks are frozen, and with them `frozen_heads` besides the `heads` that are trained, their weights have
    no gradients, which would cost as much as the forward pass does in products with weights.
    """
    forward = forward_flops(config, inputs, targets, [*heads, *(frozen_heads or ())])
    if frozen_heads is None:
        return 3 * forward
    return 3 * forward - _weight_flops(config, inputs + config.num_register_tokens, targets, frozen_heads)


def sample_flops(
    config: AionConfig, space: TokenSpace, inputs: int, targets: int, counts: Sequence[float], frozen: bool = False
) -> float:
    """FLOPs of training on a sample that has `counts` targets of each modality, with all but the newest `frozen`."""
    new = space.newest() if frozen else space.keys
    heads = [(n, slot.spec.vocab_size, slot.key in new) for n, slot in zip(counts, space.slots, strict=True)]
    trained, others = ([(n, v) for n, v, t in heads if t == wanted] for wanted in (True, False))
    return training_flops(config, inputs, targets, trained, others if frozen else None)


def _weight_flops(config: AionConfig, n: int, m: int, heads: Sequence[tuple[float, int]]) -> float:
    """Products with weights alone, of N places (registers included) and M."""
    dim = config.dim
    mlp = (3 if config.gated_mlp else 2) * dim * config.mlp_hidden
    encoder = n * (4 * dim * dim + mlp)
    decoder = m * (4 * dim * dim + 2 * dim * dim + mlp) + n * 2 * dim * dim
    context = n * dim * dim
    logits = sum(count * vocab * dim for count, vocab in heads)
    return 2 * (config.encoder_depth * encoder + config.decoder_depth * decoder + context + logits)
