"""Codes of equal width in the arcsinh of a flux."""

from __future__ import annotations

import torch

from aion_core.observations import Scalar
from aion_core.release import Artifact
from aion_core.tokenizers import Tokenizer

CODES, WIDTH = 64, 0.25


class FluxTokenizer(Tokenizer):
    observation = Scalar

    def loss(self, *observations):
        return {"nothing": torch.zeros(())}

    def _encode(self, obs):
        value = obs.value
        code = torch.floor(torch.asinh(value) / WIDTH).clamp(-CODES // 2, CODES // 2 - 1) + CODES // 2
        tokens = code.nan_to_num(-1).long()
        return tokens[:, None]

    def _decode(self, tokens):
        middle = torch.sinh((torch.arange(CODES) - CODES // 2 + 0.5) * WIDTH)
        value = middle[tokens[:, 0].clamp(min=0)]
        value = value.masked_fill(tokens[:, 0] < 0, torch.nan)
        return Scalar(value, unit=self.spec.units)

    def bound(self, tokens):
        edge = torch.sinh((torch.arange(CODES + 1) - CODES // 2) * WIDTH)
        half = edge.diff() * 0.55  # the middle of the arcsinh is a little off that of the interval
        half[0] = half[-1] = torch.inf
        return half[tokens.clamp(min=0)]

    def settings(self):
        return {"codes": CODES, "width": WIDTH}

    def encode_tensors(self):
        return {}

    def artifact(self):
        return Artifact({"codes": CODES}, {})

    @classmethod
    def from_artifact(cls, spec, artifact, sibling=None):
        return cls(spec)
