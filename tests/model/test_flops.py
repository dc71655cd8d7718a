"""The FLOP count against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aion_core.data.batches import batch_of_tokens
from aion_core.model import PRESETS, AionConfig, AionModel
from aion_core.model.flops import forward_flops, training_flops
from aion_core.model.growth import freeze_old

SWITCHES: dict[str, dict[str, object]] = {
    "released": {},
    "plain mlp": {"gated_mlp": False, "act_layer": "GELU", "mlp_ratio": 3.0},
    "biases, no qk-norm": {"qkv_bias": True, "proj_bias": True, "mlp_bias": True, "norm_bias": True, "qk_norm": False},
    "registers, own embeddings": {"num_register_tokens": 5, "share_modality_embeddings": False},
    "other masks": {"decoder_sep_mask": False, "decoder_causal_mask": True},
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_the_count_equals_pytorchs_forward_and_backward(space, tokens, switches: dict[str, object]) -> None:
    config = AionConfig(**{"dim": 64, "encoder_depth": 3, "decoder_depth": 2, "num_heads": 4} | switches)
    model = AionModel(config, space)
    batch = batch_of_tokens(space, tokens(3, "test_image", "test_coefficients"), tokens(3, "test_r", "test_g"))
    heads = [(1, 20), (1, 20)]
    with sdpa_kernel(SDPBackend.MATH):  # the fused CPU kernel is not counted
        with FlopCounterMode(display=False) as forward:
            loss = model(batch).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    assert forward.get_total_flops() == 3 * forward_flops(config, 23, 2, heads)
    assert forward.get_total_flops() + backward.get_total_flops() == 3 * training_flops(config, 23, 2, heads)


def test_frozen_weights_cost_no_gradients(space, tokens) -> None:
    config = AionConfig(dim=64, encoder_depth=3, decoder_depth=2, num_heads=4)
    model = AionModel(config, space)
    freeze_old(model, ["test_g"])
    batch = batch_of_tokens(space, tokens(3, "test_image", "test_coefficients"), tokens(3, "test_r", "test_g"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(batch).sum().backward()
    assert counted.get_total_flops() == 3 * training_flops(config, 23, 2, [(1, 20)], [(1, 20)])


def test_the_paper_sizes_cost_what_the_reference_says() -> None:
    """REFERENCE section 3: 0.243 / 0.849 / 3.32 TFLOP a sample at budgets 256 and 128."""
    for preset, tera in (("aion-b", 0.243), ("aion-l", 0.849), ("aion-xl", 3.32)):
        flops = training_flops(AionConfig(**PRESETS[preset]), 256, 128, [(128, 1500)])
        assert flops / 1e12 == pytest.approx(tera, rel=5e-3)


def test_sizes_have_the_released_number_of_parameters(space) -> None:
    """Blocks of B alone: 314.3 M less all embeddings of the forty modalities."""
    with torch.device("meta"):
        from aion_core.model.layers import Block, DecoderBlock

        config = AionConfig(**PRESETS["aion-b"])
        blocks = [Block(config) for _ in range(12)] + [DecoderBlock(config) for _ in range(12)]
    count = sum(p.numel() for block in blocks for p in block.parameters())
    assert count == 12 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768 + 128) + 12 * (
        8 * 768**2 + 3 * 768 * 2048 + 4 * 768 + 256
    )
