"""The masking rule of 4M, one sample after another, as the other side of benchmarks/pipeline.py.

After the paper (Mizrahi et al. 2023, section 2.3): the shares of the modalities in the input are drawn from a symmetric
Dirichlet distribution, and so are those in the targets, from what the input left; tokens of grids are drawn at random,
of sequences in spans that a sentinel replaces each. What comes out are masks over all tokens of the sample, which the
model's forward pass turns into selections. Its own code is not published for these modalities; this is ours, without
tricks and without waste.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aion_core.contract import SEQUENCE_IDS, TokenSpace

#: Concentration of both distributions; below 1, few modalities share a budget.
ALPHA = 0.5


@dataclass(frozen=True)
class FourM:
    """Masks for the samples of one token space."""

    space: TokenSpace
    input_budget: int = 256
    target_budget: int = 128

    def __call__(self, tokens: dict[str, Tensor], generator: torch.Generator) -> dict[str, dict[str, Tensor]]:
        """Return what `aion.fourm` trains on: tokens ``[n]`` of one sample with masks, True where not used."""
        length = torch.tensor([len(t) for t in tokens.values()])
        inputs = self._budgets(length, self.input_budget)
        targets = self._budgets(length - inputs, self.target_budget)
        result = {}
        for i, (key, codes) in enumerate(tokens.items()):
            shown, asked = int(inputs[i]), int(targets[i])
            sequence = self.space[key].spec.order == "causal"
            result[key] = (self._sequence if sequence else self._grid)(codes, shown, asked, generator)
        return result

    @staticmethod
    def _budgets(most: Tensor, budget: int) -> Tensor:
        share = torch.distributions.Dirichlet(torch.full((len(most),), ALPHA)).sample()
        return torch.minimum((share * budget).floor().long(), most)

    @staticmethod
    def _grid(codes: Tensor, shown: int, asked: int, generator: torch.Generator) -> dict[str, Tensor]:
        order = torch.argsort(torch.rand(len(codes), generator=generator))
        input_mask = torch.ones(len(codes), dtype=torch.bool)
        target_mask = torch.ones(len(codes), dtype=torch.bool)
        input_mask[order[:shown]] = False
        target_mask[order[shown : shown + asked]] = False
        attention = torch.zeros(len(codes), dtype=torch.long)
        if asked:
            attention[torch.argmin(target_mask.int())] = asked
        return {
            "tensor": codes,
            "input_mask": input_mask,
            "target_mask": target_mask,
            "decoder_attention_mask": attention,
        }

    @staticmethod
    def _sequence(codes: Tensor, shown: int, asked: int, generator: torch.Generator) -> dict[str, Tensor]:
        keep = torch.rand(len(codes), generator=generator) < shown / max(1, len(codes))
        seen: list[int] = []
        hidden: list[int] = []
        runs = 0
        for i, code in enumerate(codes.tolist()):
            if keep[i]:
                seen.append(code)
                continue
            if i == 0 or keep[i - 1]:  # a new run: its sentinel stands in both
                sentinel = SEQUENCE_IDS.first_sentinel + runs
                runs += 1
                seen.append(sentinel)
                hidden.append(sentinel)
            hidden.append(code)
        shown, asked = min(shown, len(seen)), min(asked, len(hidden))
        tensor = torch.tensor(seen + hidden)
        input_mask = torch.ones(len(tensor), dtype=torch.bool)
        target_mask = torch.ones(len(tensor), dtype=torch.bool)
        input_mask[:shown] = False
        target_mask[len(seen) : len(seen) + asked] = False
        return {
            "tensor": tensor,
            "input_mask": input_mask,
            "target_mask": target_mask,
            "decoder_attention_mask": (~target_mask).long(),
        }
