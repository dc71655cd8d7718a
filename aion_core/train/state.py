"""The state of a training run on disk: what a checkpoint of the model holds, and how a run goes on from it.

A checkpoint is a folder::

    config.json manifest.json    what the model is, and what its tokens mean
    model.safetensors            its weights; model-00001-of-00004.safetensors … where four processes share them
    optimizer.safetensors        the moments of AdamW, {parameter/entry: tensor}, cut in the same way
    state.json                   step, position in the data, configuration

A run goes on from it with any number of processes, and `load_model_from_checkpoint` makes a model of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from aion_core.contract import AionError, TokenSpace
from aion_core.engine import Checkpoint, Checkpoints, differences
from aion_core.engine.checkpoint import STATE
from aion_core.engine.sharded import SavedTensors
from aion_core.files import write_json
from aion_core.model import AionModel
from aion_core.model.files import read_space, save_description

MODEL, OPTIMIZER = "model", "optimizer"
#: Settings that may differ between the two halves of a resumed run: they do not touch the parameters. Of `batch_size`
#: and `accumulate` it is the product that counts; what `modalities` leads to is compared with what the model has.
FREE_TO_CHANGE = (
    "evaluate", "checkpoint", "parallel", "run.folder", "run.device", "run.log_every", "run.tensorboard",
    "data.accept_fingerprints", "data.batch_size", "data.accumulate", "data.modalities", "optimizer.max_skipped",
)  # fmt: skip


def run_tensors(
    model: nn.Module, local: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """Return all tensors of a run, by the stem of their files; the optimiser works on `local` parameters."""
    moments = {
        f"{name}/{entry}": _cut_like(parameter, value)
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(local[name], {}).items()
    }
    return {MODEL: dict(model.state_dict()), OPTIMIZER: moments}


def _cut_like(parameter: Tensor, local: Tensor) -> Tensor:
    """Return what a process holds of a tensor that is cut as a parameter is, as that tensor; numbers are whole."""
    if not isinstance(parameter, DTensor) or not local.ndim:
        return local
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def write_documents(model: AionModel, state: Mapping[str, Any], folder: Path) -> None:
    """Write the files of a checkpoint that are not tensors."""
    save_description(model, folder)
    write_json(folder / STATE, state)


def restore(
    checkpoint: Checkpoint, model: nn.Module, local: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Give a model and its optimiser the values of a checkpoint, in place; return the state of the loop."""
    state = checkpoint.state()
    fill_weights(model, checkpoint.folder)
    if state["skipped"] >= checkpoint.step:  # no step has changed anything: there are no moments
        return state
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with SavedTensors(checkpoint.folder, OPTIMIZER) as saved:
        entries = sorted({path.rpartition("/")[2] for path in saved.shapes})
        expected = {
            f"{name}/{entry}": () if entry == "step" else tuple(p.shape)
            for name, p in trained.items()
            for entry in entries
        }
        saved.check(expected, "the optimiser")
        for name, parameter in trained.items():
            for entry in entries:
                # The number of steps lies where the fused optimiser keeps it.
                held = local[name].detach()
                value = held.new_zeros(()) if entry == "step" else torch.zeros_like(held)
                saved.fill(f"{name}/{entry}", _cut_like(parameter, value))
                optimizer.state[local[name]][entry] = value
    return state


def fill_weights(model: nn.Module, folder: Path) -> None:
    """Give a model, or the part of it that this process holds, the weights of a checkpoint, in place."""
    tensors = dict(model.state_dict())
    with SavedTensors(folder, MODEL) as saved:
        saved.check({name: tuple(tensor.shape) for name, tensor in tensors.items()}, "its configuration")
        for name, tensor in tensors.items():
            saved.fill(name, tensor)


def load_model_from_checkpoint(folder: Path) -> AionModel:
    """Return the model of a checkpoint, of the latest one of a run folder, or of a release, whole, on the CPU.

    However many processes wrote it, `save_pretrained` of what is returned gives the release's single file.
    """
    latest = Checkpoints(folder / "checkpoints").latest()
    return AionModel.from_pretrained(latest.folder if latest else folder)


def check_resumable(
    checkpoint: Checkpoint,
    space: TokenSpace,
    config: Mapping[str, Any],
    accept: Collection[str],
    objects: Sequence[int],
    changes: Collection[str] = (),
) -> list[str]:
    """Refuse to continue a run with other modalities, tokenizers or settings than it began with.

    Parameters
    ----------
    accept
        Keys whose other fingerprint is intended.
    objects
        How many objects each source has to train on: with others, a position would lead somewhere else.
    changes
        Names of settings, or of their sections, whose change is intended; what differs of them is returned.
    """
    begun = read_space(checkpoint.folder)
    begun.check_readable(space, accept)
    if begun.keys != space.keys:
        lacking, surplus = (", ".join(k for k in a.keys if k not in b) for a, b in ((begun, space), (space, begun)))
        found = [f"these stores lack {lacking}"] if lacking else []
        found += [f"the model lacks {surplus}"] if surplus else []
        raise AionError(
            f"{checkpoint.folder} was trained on other modalities: {' and '.join(found) or 'their order differs'}. "
            "Name those of the model in data.modalities, as `aion checkpoint inspect` lists them, or start a new run "
            "with --set run.folder=…"
        )
    state = checkpoint.state()
    before: Mapping[str, Any] = state["config"]
    changed = differences(before, config, FREE_TO_CHANGE)
    differing = differences(before, config, (*FREE_TO_CHANGE, *changes))
    if (had := state.get("objects", list(objects))) != list(objects):
        grown = f"data.train, objects of its sources: {had} → {list(objects)}"
        changed.append(grown)
        differing += [] if {"data", "data.train"} & set(changes) else [grown]
    if (was := samples_per_step(before)) != (now := samples_per_step(config)):
        differing.append(f"data.batch_size × data.accumulate: {was} → {now}")
    if differing:
        raise AionError(
            f"{config['run']['folder']} holds a run with other settings ({'; '.join(differing)}). Continue it with its "
            "own settings, say with --accept-change NAME that a change is intended, or start a new run with --set "
            "run.folder=…"
        )
    return changed


def samples_per_step(config: Mapping[str, Any]) -> int:
    """Return the samples that all processes together see in an optimiser step."""
    return int(config["data"]["batch_size"] * config["data"]["accumulate"])
