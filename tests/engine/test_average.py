"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aion_core.contract import InputError
from aion_core.engine import OptimizerSettings, WeightAverage, learning_rate
from aion_core.engine.device import choose_device


def make() -> nn.Linear:
    module = nn.Linear(2, 1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def test_it_follows_the_weights_slowly() -> None:
    module = make()
    average = WeightAverage(module, 0.9)
    nn.init.ones_(module.weight)
    average.update(module, 1000)
    assert torch.allclose(average.tensors["weight"], torch.full((1, 2), 0.1))
    average.update(module, 1001)
    assert torch.allclose(average.tensors["weight"], torch.full((1, 2), 0.19))


def test_the_first_steps_are_forgotten_faster() -> None:
    module = make()
    average = WeightAverage(module, 0.9999)
    nn.init.ones_(module.weight)
    for step in range(1, 200):
        average.update(module, step)
    assert (average.tensors["weight"] > 0.99).all()


def test_applied_for_a_while_and_for_good() -> None:
    module = make()
    average = WeightAverage(module, 0.5)
    nn.init.ones_(module.weight)
    with average.applied(module):
        assert torch.equal(module.weight, torch.zeros(1, 2))
    assert torch.equal(module.weight, torch.ones(1, 2))
    assert torch.equal(average.tensors["weight"], torch.zeros(1, 2))
    average.settle(module)
    assert torch.equal(module.weight, torch.zeros(1, 2))


def test_what_is_not_trained_is_not_averaged() -> None:
    module = make()
    module.bias.requires_grad_(False)
    assert set(WeightAverage(module, 0.5).tensors) == {"weight"}


def test_a_damaged_file_is_a_sentence() -> None:
    with pytest.raises(InputError, match="disagree on bias"):
        WeightAverage(make(), 0.5).load({"weight": torch.zeros(1, 2)})


def test_a_constant_schedule_warms_up_and_stays() -> None:
    settings = OptimizerSettings(steps=100, lr=1.0, warmup_steps=3, schedule="constant")
    assert [learning_rate(step, settings) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert learning_rate(99, settings) == 1.0


def test_under_torchrun_each_process_has_a_gpu_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("auto") == torch.device("cuda", 3)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.delenv("LOCAL_RANK")
    assert choose_device("cuda") == torch.device("cuda")
