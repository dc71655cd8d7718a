"""Presets of whole runs: the paper's, under whatever the user's own file says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from aion_core.cli import main
from aion_core.contract import AionError
from aion_core.model.config import PRESETS
from aion_core.train.config import ModelSettings, TrainConfig, preset_names

OWN = """
preset = "{preset}"
[run]
folder = "runs/mine"
[[data.train]]
stores = ["stores"]
"""


@pytest.fixture
def own_file(tmp_path):
    def write(preset: str, more: str = ""):
        path = tmp_path / "train.toml"
        path.write_text(OWN.format(preset=preset) + more)
        return path

    return write


@pytest.mark.parametrize("name", ["aion-b", "aion-l", "aion-xl"])
def test_a_preset_is_the_papers_run(own_file, name) -> None:
    config = TrainConfig.from_toml(own_file(name))
    assert config.model.build().model_dump().items() >= PRESETS[name].items()
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (2e-4, (0.9, 0.95), 0.05)
    assert (optimizer.schedule, optimizer.steps) == ("cosine", 205_000)
    assert 0 < optimizer.warmup_steps < optimizer.steps
    assert config.data.batch_size * config.data.accumulate == 8192
    assert (config.masking.input_budget, config.masking.target_budget) == (256, 128)
    assert (config.run.precision, config.parallel.sharding) == ("bf16", "zero2")


def test_every_size_of_the_model_has_a_preset() -> None:
    assert preset_names() == sorted(PRESETS)


def test_ones_own_file_and_overrides_win(own_file) -> None:
    path = own_file("aion-b", "[optimizer]\nlr = 1e-3\n[model]\ndim = 96\n")
    config = TrainConfig.from_toml(path, ["optimizer.steps=20000", "data.batch_size=2048"])
    assert (config.optimizer.lr, config.optimizer.steps, config.data.batch_size) == (1e-3, 20_000, 2048)
    assert (config.model.build().dim, config.model.build().encoder_depth) == (96, 12)
    assert config.optimizer.weight_decay == 0.05


def test_a_preset_can_be_chosen_on_the_command_line(own_file) -> None:
    assert TrainConfig.from_toml(own_file("aion-b"), ["preset=aion-xl"]).model.build().dim == 2048


def _settings(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        below = [a for a in (field.annotation, *get_args(field.annotation)) if hasattr(a, "model_fields")]
        if below and below[0] is not ModelSettings:
            yield from _settings(below[0], f"{path}{name}.")
        elif not below:
            yield f"{path}{name}"


def test_every_setting_stands_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    names = list(_settings(TrainConfig))
    assert len(names) > 40
    assert [name for name in names if f"`{name.rpartition('.')[2]}`" not in page] == []


def test_an_unknown_preset_is_one_sentence(own_file, capsys) -> None:
    with pytest.raises(AionError, match="Did you mean 'aion-b'"):
        TrainConfig.from_toml(own_file("aion-bb"))
    assert main(["train", str(own_file("aion-bb"))]) == 2
    error = capsys.readouterr().err
    assert "There is no preset 'aion-bb' (aion-b, aion-l, aion-xl)" in error
    assert error.count("\n") == 1
