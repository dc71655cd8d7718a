"""The state of a training run on disk: what a checkpoint of the model holds, and how a run goes on from it.

A checkpoint is a folder::

    config.json manifest.json    what the model is, and what its tokens mean
    model.safetensors            its weights; model-00001-of-00004.safetensors … where four processes share them
    optimizer.safetensors        the moments of AdamW, {parameter/entry: tensor}, cut in the same way
    state.json                   step, position in the data, configuration

A run goes on from it with any number of processes, and `load_model_from_checkpoint` makes a model of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from aion_core.contract import AionError
from aion_core.engine import Checkpoint, differences
from aion_core.engine.checkpoint import STATE
from aion_core.engine.sharded import SavedTensors, local_rows
from aion_core.files import write_json
from aion_core.model import AionModel
from aion_core.model.files import read_space, save_description
from aion_core.model.growth import belongs
from aion_core.model.released import is_released, load_released
from aion_core.train.beginning import MODEL, OPTIMIZER, has_moments, weights_folder
from aion_core.train.config import TrainConfig
from aion_core.train.data import TrainingData

#: Settings that may differ between the two halves of a resumed run: they do not touch the parameters. Of `batch_size`
#: and `accumulate` it is the product that counts; what `modalities` leads to is compared with what the model has.
FREE_TO_CHANGE = (
    "evaluate", "checkpoint", "parallel", "run.folder", "run.device", "run.log_every", "run.tensorboard",
    "data.accept_fingerprints", "data.batch_size", "data.accumulate", "data.modalities", "optimizer.max_skipped",
    "model.grow",
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


def begin_with(
    folder: Path,
    model: nn.Module,
    local: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    new: Collection[str] = (),
) -> None:
    """Give a model the weights of a folder, and its optimiser the moments that lie beside them, in place.

    What the folder has no moments of begins without any, as AdamW does: at its step 0. That is what modalities have
    that are `new`, and what was frozen before.
    """
    fill_weights(model, folder, new)
    if has_moments(folder):
        fill_moments(folder, model, local, optimizer, lambda name: True)


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    local: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    new: Collection[str] = (),
) -> dict[str, Any]:
    """Give a model and its optimiser the values of a checkpoint, in place; return the state of the loop.

    Of modalities that are `new` it has none, and of what was frozen until now no moments.
    """
    state = checkpoint.state()
    fill_weights(model, checkpoint.folder, new)
    if state["skipped"] >= checkpoint.step and not has_moments(checkpoint.folder):  # no step has changed anything
        return state
    frozen = state["config"]["model"].get("freeze_old", False)
    trained = read_space(checkpoint.folder).newest()

    def without(name: str) -> bool:
        return belongs(name, new) or (frozen and not belongs(name, trained))

    fill_moments(checkpoint.folder, model, local, optimizer, without)
    return state


def fill_moments(
    folder: Path,
    model: nn.Module,
    local: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    may_lack: Callable[[str], bool],
) -> None:
    """Give an optimiser the moments of a checkpoint, in place; what it lacks is left to begin at step 0."""
    with SavedTensors(folder, OPTIMIZER) as saved:
        had = {path.rpartition("/")[0] for path in saved.shapes}
        entries = sorted({path.rpartition("/")[2] for path in saved.shapes})
        expected: dict[str, tuple[int, ...]] = {}
        for name, parameter in model.named_parameters():
            optional = may_lack(name) or not parameter.requires_grad
            if name in had or not optional:
                expected |= {f"{name}/{e}": () if e == "step" else tuple(parameter.shape) for e in entries}
        saved.check(expected, "the optimiser")
        for name, parameter in model.named_parameters():
            for entry in entries if parameter.requires_grad and f"{name}/{entries[0]}" in expected else ():
                # The number of steps lies where the fused optimiser keeps it.
                held = local[name].detach()
                value = held.new_zeros(()) if entry == "step" else torch.zeros_like(held)
                saved.fill(f"{name}/{entry}", _cut_like(parameter, value))
                optimizer.state[local[name]][entry] = value


def fill_weights(model: nn.Module, folder: Path, new: Collection[str] = ()) -> None:
    """Give a model, or the part of it that this process holds, the weights of a folder, in place.

    What belongs to modalities that are `new` is left as it is.
    """
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not belongs(name, new)}
    if is_released(folder):
        whole = load_released(folder).state_dict()
        for name, tensor in tensors.items():
            first, held = local_rows(tensor)
            held.copy_(whole[name][first : first + len(held)])
        return
    with SavedTensors(folder, MODEL) as saved:
        saved.check({name: tuple(tensor.shape) for name, tensor in tensors.items()}, "its configuration")
        for name, tensor in tensors.items():
            saved.fill(name, tensor)


def load_model_from_checkpoint(folder: Path) -> AionModel:
    """Return the model of a checkpoint, of the latest one of a run folder, or of a release, whole, on the CPU.

    However many processes wrote it, `save_pretrained` of what is returned gives the release's single file.
    """
    return AionModel.from_pretrained(weights_folder(folder))


def check_resumable(
    checkpoint: Checkpoint,
    data: TrainingData,
    config: TrainConfig,
    changes: Collection[str] = (),
    new: Collection[str] = (),
) -> list[str]:
    """Refuse to continue a run with other modalities, tokenizers or settings than it began with.

    Parameters
    ----------
    changes
        Names of settings, or of their sections, whose change is intended; what differs of them is returned.
    new
        Modalities that are appended now.
    """
    state = checkpoint.state()
    _check_modalities(checkpoint, data, state, new)
    # What an older version of the program did not know has the value that it has by default.
    before, now = (c.model_dump(mode="json") for c in (TrainConfig.parse(state["config"], "its settings"), config))
    free = (*FREE_TO_CHANGE, "model.freeze_old") if new else FREE_TO_CHANGE
    changed = differences(before, now, free)
    differing = differences(before, now, (*free, *changes))
    if (had := state.get("objects", data.objects)) != data.objects:
        grown = f"data.train, objects of its sources: {had} → {data.objects}"
        changed.append(grown)
        differing += [] if {"data", "data.train"} & set(changes) else [grown]
    if (was := samples_per_step(before)) != (is_now := samples_per_step(now)):
        differing.append(f"data.batch_size × data.accumulate: {was} → {is_now}")
    if differing:
        raise AionError(
            f"{config.run.folder} holds a run with other settings ({'; '.join(differing)}). Continue it with its "
            "own settings, say with --accept-change NAME that a change is intended, or start a new run with --set "
            "run.folder=…"
        )
    return changed


def _check_modalities(
    checkpoint: Checkpoint, data: TrainingData, state: Mapping[str, Any], new: Collection[str]
) -> None:
    begun = read_space(checkpoint.folder)
    begun.check_readable(data.found, data.accept)
    had, now = list(state.get("modalities", begun.keys)), [key for key in data.found.keys if key not in new]
    if had == now or (data.space is not data.found and set(had) == set(now)):  # a model of its own has its own order
        return
    lacking, surplus = (", ".join(k for k in a if k not in b) for a, b in ((had, now), (now, had)))
    found = [f"these stores lack {lacking}"] if lacking else []
    found += [f"the model lacks {surplus}"] if surplus else []
    raise AionError(
        f"{checkpoint.folder} was trained on other modalities: {' and '.join(found) or 'their order differs'}. "
        "Name those of the model in data.modalities, as `aion checkpoint inspect` lists them, append new ones with "
        "--grow KEY, or start a new run with --set run.folder=…"
    )


def samples_per_step(config: Mapping[str, Any]) -> int:
    """Return the samples that all processes together see in an optimiser step."""
    return int(config["data"]["batch_size"] * config["data"]["accumulate"])
