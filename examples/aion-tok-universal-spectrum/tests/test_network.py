"""What is quantized: uncorrelated numbers about zero, whatever the network makes of spectra."""

from __future__ import annotations

import torch
from aion_tok_universal.network import Whitening
from torch import Tensor

from aion_core.tokenizers.fsq import FiniteScalarQuantizer


def saturated(size: int = 2000, seed: int = 0) -> Tensor:
    """Return what a network without whitening comes to: far from zero, and the same thing five times."""
    rng = torch.Generator().manual_seed(seed)
    one, each = torch.randn(size, 1, generator=rng), torch.randn(size, 5, generator=rng)
    return torch.tensor([-5.0, 3.3, -3.4, 3.2, 6.3]) + 0.2 * one + 0.05 * each


def test_codes_spread_from_the_first_batch_on() -> None:
    quantizer, whitening = FiniteScalarQuantizer((7, 5, 5, 5, 5)), Whitening(5)
    before = quantizer.encode(saturated().T[None]).unique()
    after = quantizer.encode(whitening(saturated()).T[None]).unique()
    assert len(before) <= 2
    assert len(after) > 800


def test_what_is_whitened_is_uncorrelated_about_zero_and_of_unit_spread() -> None:
    z = Whitening(5)(saturated())
    assert z.mean(0).abs().max() < 1e-4
    assert (torch.cov(z.T) - torch.eye(5)).abs().max() < 0.01


def test_the_mean_follows_what_is_seen_in_training_and_nothing_else() -> None:
    whitening = Whitening(5)
    for seed in range(20):
        whitening(saturated(seed=seed))
    whole = torch.cat([saturated(seed=seed) for seed in range(20)])
    assert torch.allclose(whitening.running_mean, whole.mean(0), atol=1e-3)
    assert torch.allclose(whitening.running_covariance, torch.cov(whole.T), atol=1e-3)
    before = {name: value.clone() for name, value in whitening.state_dict().items()}
    whitening.eval()(torch.zeros(4, 5))
    assert all(torch.equal(before[name], value) for name, value in whitening.state_dict().items())
