"""How many floating-point operations a sample costs: counted from the shapes, beside the model."""

from __future__ import annotations

from collections.abc import Sequence

from aion_core.model.config import AionConfig


def forward_flops(config: AionConfig, inputs: int, targets: int, heads: Sequence[tuple[int, int]] = ()) -> int:
    """Matrix-product FLOPs (two per multiply–add) of one sample's forward pass.

    Parameters
    ----------
    inputs, targets
        Places N of the encoder and M of the decoder, padding included: padding is computed too.
    heads
        ``(targets of a modality, vocabulary)`` pairs: the output projections.
    """
    dim, n, m = config.dim, inputs + config.num_register_tokens, targets
    mlp = (3 if config.gated_mlp else 2) * dim * config.mlp_hidden
    encoder = n * (4 * dim * dim + mlp) + 2 * n * n * dim
    decoder = m * (4 * dim * dim + 2 * dim * dim + mlp) + n * 2 * dim * dim + 2 * m * m * dim + 2 * m * n * dim
    context = n * dim * dim
    logits = sum(count * vocab * dim for count, vocab in heads)
    return 2 * (config.encoder_depth * encoder + config.decoder_depth * decoder + context + logits)


def training_flops(config: AionConfig, inputs: int, targets: int, heads: Sequence[tuple[int, int]] = ()) -> int:
    """FLOPs of forward and backward, which costs twice the forward; recomputation is not counted."""
    return 3 * forward_flops(config, inputs, targets, heads)
