"""A small token space with one modality of every geometry, and models over it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from aion_core.contract import ModalitySpec, Provenance, Slot, TokenSpace, provenance_id
from aion_core.model import AionConfig, AionModel

CONFIG = AionConfig(dim=32, encoder_depth=2, decoder_depth=2, num_heads=4)


def spec(key: str, vocab_size: int, shape: tuple[int, ...], position: str, order: str = "masked") -> ModalitySpec:
    return ModalitySpec(
        key=key, survey="Test", title=key, citation="none", kind="source_list" if order == "causal" else "scalar",
        quantity="phot.flux", units="", vocab_size=vocab_size, shape=shape, position=position, order=order,
        item_tokens=5 if order == "causal" else 1,
        provenance=Provenance(id=provenance_id(key), instrument="none", release="none"),
    )  # fmt: skip


SPECS = (
    spec("test_image", 50, (4, 4), "grid2d"),
    spec("test_r", 20, (1,), "scalar"),
    spec("test_coefficients", 30, (7,), "grid2d"),
    spec("test_sources", 300, (20,), "seq1d", "causal"),
    spec("test_g", 20, (1,), "scalar"),
)


@pytest.fixture
def space() -> TokenSpace:
    return TokenSpace(slots=tuple(Slot(spec=s) for s in SPECS))


@pytest.fixture
def model(space: TokenSpace) -> AionModel:
    """Random weights, biases and norms included: a network at its initial values hides mistakes."""
    model = AionModel(CONFIG, space)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.fixture
def tokens() -> Callable[..., dict[str, torch.Tensor]]:
    """Random tokens of B objects in some modalities."""
    by_key = {s.key: s for s in SPECS}

    def draw(batch: int, *keys: str, seed: int = 1) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            k: torch.randint(204 if by_key[k].order == "causal" else 0, by_key[k].vocab_size,
                             (batch, by_key[k].n_tokens), generator=generator)
            for k in keys
        }  # fmt: skip

    return draw
