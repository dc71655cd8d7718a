"""What users of the release met with scalars (REFERENCE section 5), each by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aion_core.observations import Scalar
from aion_core.tokenizers import build_tokenizer


def test_half_a_bin_of_bias_is_gone_and_the_edge_is_a_switch(fitted: Any, draw: Any) -> None:
    tokenizer, values = fitted("grid"), torch.from_numpy(draw("grid", 20_000, 7).astype(np.float32))
    tokens, width = tokenizer.encode(Scalar(values)), 6.0 / 1023
    bias = {at: float((tokenizer.decode(tokens, at=at).value - values).mean()) / width for at in ("centre", "edge")}
    assert bias["centre"] == pytest.approx(0.0, abs=0.01)
    assert bias["edge"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["plain", "log", "grid", "coefficients"])
def test_nan_does_not_become_code_1023(kind: str, fitted: Any) -> None:
    tokenizer = fitted(kind)
    values = np.full((1, 5) if kind == "coefficients" else 1, np.nan)
    assert (tokenizer.encode(Scalar(values)) == -1).all()


@pytest.mark.parametrize("kind", ["plain", "log", "coefficients"])
def test_resuming_a_fit_does_not_overwrite_what_was_seen(kind: str, specs: Any, draw: Any) -> None:
    whole, resumed = build_tokenizer(specs[kind]), build_tokenizer(specs[kind])
    values = draw(kind, 4000)
    whole.observe(Scalar(values))  # type: ignore[attr-defined]
    for part in (values[:3000], values[3000:]):
        resumed.observe(Scalar(part))  # type: ignore[attr-defined]
        resumed.finish()  # type: ignore[attr-defined]
    whole.finish()  # type: ignore[attr-defined]
    assert resumed.fingerprint == whole.fingerprint


@pytest.mark.parametrize("kind", ["plain", "log", "grid", "coefficients"])
def test_using_a_tokenizer_never_updates_it(kind: str, fitted: Any, draw: Any) -> None:
    tokenizer = fitted(kind)
    before = tokenizer.fingerprint
    obs = Scalar(draw(kind, 500, 9) * 100)
    tokenizer.train()
    tokenizer.decode(tokenizer.encode(obs))
    tokenizer.loss(obs)
    tokenizer.eval()
    assert tokenizer.fingerprint == before


def test_the_spare_redshift_code_1024_decodes_as_1023(fitted: Any) -> None:
    decoded = fitted("grid").decode([1023, 1024]).value
    assert decoded[0] == decoded[1]
    assert int(fitted("grid").encode(Scalar([1e9])).max()) == 1023
