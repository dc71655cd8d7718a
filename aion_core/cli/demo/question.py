"""A last training, on the very question that posteriors answer: a redshift, given photometry, images, spectra.

Masked modelling shows a sample a random handful of its tokens; here the model, a copy of it, is given what it is given
when it is judged, and asked for the redshift alone. That is what users of a trained model do who want one thing of it.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from aion_core.cli.demo.judge import held_out_rows, seen_of, steps_of
from aion_core.cli.demo.learn import target_of
from aion_core.cli.demo.settings import FEWEST
from aion_core.cli.demo.views import disturbed, uses_of
from aion_core.contract import TokenSpace
from aion_core.data import TokenStore
from aion_core.data.batches import TokenBatch, batch_of_tokens
from aion_core.engine import OptimizerSettings, build_optimizer, learning_rate, set_learning_rate
from aion_core.engine.average import WeightAverage
from aion_core.files import replacing
from aion_core.mock import generator
from aion_core.model import AionModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from aion_core.cli.demo.settings import DemoSettings
    from aion_core.cli.demo.views import Int

#: Share of the tokens given that are left out, by kind: of numbers, so that what else is given has to be looked at; of
#: images and spectra, which no other view of an object disturbs, so that they are not learned by heart.
LEFT_OUT = {"scalar": 0.45, "image": 0.7, "spectrum": 0.75}
#: Share of the objects of which only what the last step adds is given: beside all else, little of it is learned.
ALONE = 0.6
#: Weight of the past in the moving average of the weights, which is what is kept: few objects are drawn from.
AVERAGED = 0.98
WEIGHT_DECAY = 0.3


@dataclass(frozen=True)
class Question:
    """What is asked of which objects.

    Attributes
    ----------
    space
        The model's.
    target
        Key of the number that is asked for.
    given
        Keys of what is given at each step.
    rows
        Of the joined store: objects that are not held out and whose answer is known.
    uses
        How often each code of a number occurs, by key (`aion_core.cli.demo.views`).
    """

    joined: TokenStore
    space: TokenSpace
    target: str
    given: tuple[tuple[str, ...], ...]
    rows: Int
    uses: dict[str, Int]

    def batch(self, size: int, step: int, seed: int) -> TokenBatch:
        """Return the batch of a step, numbers disturbed as in the views, the answer too."""
        first, *others = self.given
        turns = [first, *(keys for keys in others for _ in range(2))]  # where more is given, there is more to learn
        keys = turns[step % len(turns)]
        before = self.given[-2] if keys == self.given[-1] != first else ()
        draw = generator("demo question", seed, step)
        mine, alone = draw.choice(self.rows, size), draw.random((size, 1)) < ALONE
        tokens = seen_of(self.joined, mine, [*keys, self.target])
        for key in tokens:
            rng = generator("demo question", seed, step, key)  # its own: a set's order is another in every process
            if key in self.uses:
                tokens[key] = disturbed(tokens[key], self.uses[key], rng)
            left_out = LEFT_OUT.get(self.space[key].spec.kind, 0.0) if key != self.target else 0.0
            out = rng.random(tokens[key].shape) < left_out
            tokens[key] = np.where(out | (alone & (key in before)), -1, tokens[key])
        answer = {self.target: torch.from_numpy(tokens.pop(self.target))}
        shown = {key: torch.from_numpy(codes) for key, codes in tokens.items()}
        return batch_of_tokens(self.space, shown, answer, check=False).packed()


def question_of(joined: TokenStore, space: TokenSpace) -> Question | None:
    """Return what there is to ask; None without such a quantity, anything to give, or objects to learn from."""
    target, given = target_of(space), tuple(keys for _, keys in steps_of(space))
    if target is None or not given:
        return None
    rows = np.flatnonzero(~held_out_rows(joined) & joined.present([target]) & joined.present(given[0]))
    numbers = [key for key in (*given[-1], target) if space[key].spec.kind == "scalar"]
    uses = {key: uses_of(joined, rows, space[key].spec) for key in numbers}
    return Question(joined, space, target, given, rows, uses) if len(rows) >= FEWEST else None


def train_on_question(
    model: AionModel, joined: TokenStore, folder: Path, settings: DemoSettings, show: Callable[[int], None]
) -> AionModel:
    """Return a copy of the model, trained on the question; or read what was trained before, or the model itself.

    `show` is told how many steps are done.
    """
    if folder.exists():
        return AionModel.from_pretrained(folder)
    question = question_of(joined, model.space)
    if question is None:
        return model
    phase = settings.sizes.question
    steps = settings.scaled(phase.steps)
    warmup = min(phase.warmup, steps // 4)
    schedule = OptimizerSettings(steps=steps, lr=phase.lr, warmup_steps=warmup, weight_decay=WEIGHT_DECAY)
    model = deepcopy(model).train()
    average = WeightAverage(model, AVERAGED)
    optimizer = build_optimizer(model, schedule, lambda name, p: p.ndim > 1)
    for step in range(steps):
        batch = question.batch(phase.batch, step, settings.seed).to(model.device)
        set_learning_rate(optimizer, learning_rate(step, schedule))
        (model(batch).sum() / sum(batch.target_counts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step + 1)
        show(step + 1)
    average.settle(model)
    with replacing(folder) as temporary:
        model.save_pretrained(temporary)
    return model.eval()
