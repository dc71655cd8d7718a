"""The transformer against the released package, with random weights carried over by name."""

from __future__ import annotations

import pytest
import torch

from aion_core.contract import ModalitySpec, Provenance, Slot, TokenSpace
from aion_core.model import AionConfig, AionModel

peer = pytest.importorskip("aion.model")

SHAPES = {
    "tok_image_hsc": (4375, (24, 24), "grid2d"),
    "tok_spectrum_desi": (1024, (273,), "grid2d"),
    "tok_xp_bp": (1024, (55,), "grid2d"),
    "tok_mag_g": (1024, (1,), "scalar"),
    "tok_z": (1025, (1,), "scalar"),
}


def make_space() -> TokenSpace:
    slots = []
    for i, (key, (vocab, shape, position)) in enumerate(SHAPES.items()):
        provenance = Provenance(id=i + 1, instrument="x", release="x")
        spec = ModalitySpec(
            key=key, survey="x", title="x", citation="x", kind="scalar", quantity="phot.flux",
            units="", vocab_size=vocab, shape=shape, position=position, provenance=provenance,
        )  # fmt: skip
        slots.append(Slot(spec=spec))
    return TokenSpace(slots=tuple(slots))


def make_pair(dim: int = 96, depth: int = 2, heads: int = 4, **switches: object):
    """A peer model with random weights (biases and norms too), and ours with the same."""
    config = AionConfig(dim=dim, encoder_depth=depth, decoder_depth=depth, num_heads=heads, **switches)
    keys = list(SHAPES)
    theirs = peer.AION({**config.model_dump(), "domains_in": keys, "domains_out": keys}).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name and name.endswith("weight") else noise * 0.15)
    ours = AionModel(config, make_space()).eval()
    state = theirs.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    return ours, theirs


def random_tokens(batch: int, *keys: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    n = {key: torch.Size(SHAPES[key][1]).numel() for key in keys}
    return {key: torch.randint(SHAPES[key][0], (batch, n[key]), generator=generator) for key in keys}


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"qk_norm": False},
        {"qkv_bias": True, "proj_bias": True, "mlp_bias": True, "norm_bias": True},
        {"gated_mlp": False, "act_layer": "GELU", "mlp_bias": True},
    ],
)
def test_embeddings_and_logits_equal_the_peers(switches: dict[str, object]) -> None:
    ours, theirs = make_pair(**switches)
    tokens = random_tokens(3, "tok_image_hsc", "tok_xp_bp", "tok_mag_g")
    with torch.no_grad():
        expected = theirs.encode(tokens, num_encoder_tokens=10_000)
    found = ours.embed(tokens)
    # The peer concatenates in the order of a shuffled dict, so compare token by token through what identifies them.
    order = [key for key in ours.space.keys if key in tokens]
    mine = {key: found.values[0][found.modality[0] == ours.space.index(key)] for key in order}
    blocks = torch.cat([mine[key] for key in order])
    assert torch.allclose(blocks.sum(0), expected[0].sum(0), rtol=1e-4, atol=1e-3)
    distance = torch.cdist(blocks, expected[0]).min(dim=1).values
    assert distance.max() < 1e-3 * expected[0].norm(dim=1).mean()
    for target in ("tok_z",):

        class Target:
            token_key = target
            num_tokens = 1

        with torch.no_grad():
            theirs_logits = theirs(tokens, [Target])[target]
        ours_logits = ours.logits(tokens, [target])[target]
        assert theirs_logits.std() > 0.1
        assert torch.allclose(ours_logits, theirs_logits, rtol=1e-4, atol=1e-4)


def test_several_targets_of_one_modality_equal_the_peers_training_attention() -> None:
    """The peer's `forward` masks all decoder attention (REFERENCE section 5); its training path leaves it open."""
    ours, theirs = make_pair()
    tokens = random_tokens(2, "tok_xp_bp", "tok_mag_g")
    with torch.no_grad():
        embedded = theirs.embed_inputs(tokens, num_encoder_tokens=56)
        context = theirs._encode(*embedded[:3])
        wanted = torch.zeros(2, 273, dtype=torch.bool)
        asked = theirs.embed_targets({"tok_spectrum_desi": wanted}, num_decoder_tokens=273)
        open_attention = torch.zeros(2, 273, 273, dtype=torch.bool)
        decoded = theirs._decode(context, embedded[2], asked[0], asked[1], open_attention)
        expected = theirs.decoder_embeddings["tok_spectrum_desi"].forward_logits(decoded)
    found = ours.logits(tokens, ["tok_spectrum_desi"])["tok_spectrum_desi"]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
