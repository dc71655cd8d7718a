"""Which tokens are input and which are targets: AION-1's masking (paper section 4; REFERENCE section 3), by counting.

For each sample a modality is drawn and keeps a random number of its tokens; the rest of the input budget is filled
uniformly from the other modalities. Targets come from what is left: one modality takes a number drawn without
constraint, the others numbers from a Beta distribution skewed to zero, and what is left of the budget is filled
uniformly. Where that leaves room, it is read as follows.

- Both first modalities are drawn among the modalities that have tokens (left), each as likely as another.
- The first one of the input keeps 0 … n tokens, all numbers equally likely, cut to the budget. Where all the tokens
  would fit the budget, the budget is drawn from 0 … total − 1 instead, so that something is left to predict.
- "Without constraint" is 1 … n, all equally likely, cut to the budget: every sample has targets.
- The others take ``Beta(a, b)`` of what they have left, in random order while the budget lasts, rounded up or down
  at random so that the mean is kept: a scalar is taken in a share a / (a + b) of the draws.
- Sequences count in whole items (`aion_core.data.selecting`); what they cannot use goes to single tokens.

First the *numbers* of tokens by modality are drawn, then which tokens these are, all equally likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat

from aion_core.contract import AionError, TokenSpace
from aion_core.contract.modality import Frozen
from aion_core.data.keyed import U64, Float

Int = npt.NDArray[np.int64]

#: What stands before a target that is not part of a sequence: the mask token.
NO_REFERENCE = -(2**31)


class MaskingConfig(Frozen):
    """How many tokens the encoder sees and how many the decoder predicts."""

    input_budget: int = Field(default=256, ge=1)
    target_budget: int = Field(default=128, ge=1)
    target_beta: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.1, 1.0), description="a and b of Beta(a, b), of which a modality takes its share of the targets"
    )


@dataclass(frozen=True)
class Places:
    """Selected places of B samples, sorted by slot and those without a token last; int64 ``[B, budget]`` each.

    Attributes
    ----------
    slot
        Of which modality; −1 where there is no token.
    reference
        The token's index in the modality; −1 − id for a reserved id of a sequence (sentinel, end).
    position
        Where the model is told that the token stands: the index in a grid, the place in a sequence.
    """

    slot: Int
    reference: Int
    position: Int


@dataclass(frozen=True)
class Selection:
    """What a batch shows to the encoder, and what it asks of the decoder.

    `previous` is the reference before each target, which the decoder sees instead of a mask token; `NO_REFERENCE`
    outside sequences: int64 ``[B, M]``.
    """

    inputs: Places
    targets: Places
    previous: Int


class Masking:
    """The masking of one token space.

    Parameters
    ----------
    space
        The model's token space.
    config
        Budgets. A target budget in which no whole item of a sequence fits is an `AionError`.
    """

    def __init__(self, space: TokenSpace, config: MaskingConfig) -> None:
        self.config = config
        self.width = np.array([spec.item_tokens for spec in space.specs()], np.int64)
        self.causal = np.array([spec.order == "causal" for spec in space.specs()], bool)
        self._beta, self._table = np.array(config.target_beta, float), beta_table(*config.target_beta)
        for spec in space.specs():
            if spec.order == "causal" and spec.item_tokens + 1 > config.target_budget:
                raise AionError(
                    f"A target budget of {config.target_budget} cannot hold one item of {spec.key} "
                    f"({spec.item_tokens} tokens and the end); make it {spec.item_tokens + 1} or more."
                )

    def select(self, lengths: npt.NDArray[Any], keys: U64) -> Selection:
        """Draw the input and the targets of B samples.

        Parameters
        ----------
        lengths
            Tokens of each sample in each slot, ``[B, S]``; 0 where absent.
        keys
            One key for each sample, ``[B]``: all that its draws depend on, besides its lengths.
        """
        from aion_core.data.selecting import select  # the compiler is loaded where something is drawn, only

        inputs, targets = select(
            np.ascontiguousarray(lengths, np.int64),
            np.ascontiguousarray(keys),
            self.width,
            self.causal,
            (self.config.input_budget, self.config.target_budget),
            self._beta,
            self._table,
        )
        return Selection(Places(*inputs), Places(*targets[:3]), targets[3])


def beta_table(a: float, b: float, steps: int = 4096) -> Float:
    """Return what makes `selecting.share` the inverse of the distribution function of Beta(a, b).

    For x = (1 − (1 − w)^(1/b))^(1/a), w is uniform if a or b is 1 (Kumaraswamy 1980): nothing is needed. Else its
    density is proportional to ((1 − x) / (1 − xᵃ))^(b − 1), which lies between 1 and a^(1 − b): that is integrated
    numerically, and w's distribution function returned, at `steps` equal steps from 0 to 1.
    """
    if 1 in (a, b):
        return np.zeros(0)
    w = np.linspace(0, 1, steps + 1)[:-1]
    x = (1 - (1 - w) ** (1 / b)) ** (1 / a)
    logarithm = (b - 1) * np.append(np.log1p(-x) - np.log1p(-(x**a)), -np.log(a))
    density = np.exp(logarithm - logarithm.max())
    below = np.append(0.0, np.cumsum(density[1:] + density[:-1]))
    return np.asarray(below / below[-1])
