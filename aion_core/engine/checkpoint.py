"""Checkpoints: a folder a step, visible only when whole, the last few kept, everything in safetensors and JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import Tensor, nn

from aion_core.contract import InputError
from aion_core.files import read_json, read_safetensors, replacing, write_json, write_safetensors

PREFIX = "step-"
NAME = re.compile(rf"{PREFIX}\d+")
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
STATE_FIELDS = {"step", "position", "skipped", "config"}


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk."""

    folder: Path

    @property
    def step(self) -> int:
        """Optimiser steps done when it was written."""
        return int(self.folder.name.removeprefix(PREFIX))

    def state(self) -> dict[str, Any]:
        """Return the JSON state of the training loop."""
        state = read_json(self.folder / STATE)
        if not isinstance(state, dict) or not set(state) >= STATE_FIELDS:
            raise InputError(f"{self.folder / STATE} is not the state of a run ({', '.join(sorted(STATE_FIELDS))}).")
        return state

    def load_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Restore the optimiser's state in place, matched by parameter name."""
        if self.state()["skipped"] >= self.step:  # no step has changed anything: there are no moments
            return
        tensors, _ = read_safetensors(self.folder / OPTIMIZER)
        entries: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            name, _, entry = path.rpartition("/")
            entries.setdefault(name, {})[entry] = tensor
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if differing := sorted(set(trained) ^ set(entries)):
            raise InputError(f"{self.folder / OPTIMIZER} and the model disagree on {differing[0]}; it is damaged.")
        for name, parameter in trained.items():
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in entries[name].items()}


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, under ``<run>/checkpoints``."""

    folder: Path

    def all(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first (incomplete ones have a temporary name)."""
        found = self.folder.iterdir() if self.folder.is_dir() else []
        whole = [Checkpoint(path) for path in found if NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(whole, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint."""
        complete = self.all()
        return complete[-1] if complete else None

    def save(
        self,
        step: int,
        model: nn.Module,
        write_model: Callable[[Path], None],
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        keep: int,
    ) -> Checkpoint:
        """Write a checkpoint under a temporary name, rename it, then remove all but the last `keep`.

        `write_model` puts the model's own files into the folder, so that a checkpoint is a loadable model as well.
        """
        self.remove_torn()
        path = self.path(step)
        with replacing(path) as temporary:
            temporary.mkdir(parents=True)
            write_model(temporary)
            if moments := optimizer_tensors(optimizer, model):  # none while every step was skipped
                write_safetensors(temporary / OPTIMIZER, moments)
            write_json(temporary / STATE, state)
        self.prune(keep)
        return Checkpoint(path)

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"{PREFIX}{step:08d}"

    def remove_torn(self) -> None:
        """Remove what was left behind by processes that were killed while saving, or while removing."""
        for torn in self.folder.glob(".*.tmp"):
            rmtree(torn, ignore_errors=True)

    def prune(self, keep: int) -> None:
        """Remove all but the last `keep`, hidden first, so that none is ever seen in part.

        What cannot be removed now, because somebody reads it over a network file system, goes with a later save.
        """
        for old in self.all()[:-keep]:
            with suppress(OSError):
                rmtree(old.folder.rename(old.folder.with_name(f".old-{old.folder.name}.tmp")))


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as ``{parameter name/entry: tensor}``."""
    return {
        f"{name}/{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }
