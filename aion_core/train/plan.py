"""What a run would do, told before it does it: size, memory, time, data; and whether it can be done at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import numpy as np
import torch

from aion_core.contract import AionError, TokenSpace
from aion_core.data.statistics import token_counts
from aion_core.engine import Checkpoints, World
from aion_core.engine.hardware import GIB, Gpu
from aion_core.model import AionModel
from aion_core.model.flops import sample_flops
from aion_core.model.growth import belongs
from aion_core.model.size import parameters_by_part
from aion_core.train.beginning import Beginning, find_beginning, has_moments, weights_sha256
from aion_core.train.config import TrainConfig
from aion_core.train.data import TrainingData
from aion_core.train.memory import memory_per_gpu, state_bytes
from aion_core.train.parallel import check_replicas, choose_trained
from aion_core.train.state import check_resumable

#: Samples that are drawn to see what a sample holds.
DRAWN = 1024
#: Ways of fitting a run that does not fit that are named, at most.
SUGGESTED = 3


@dataclass(frozen=True)
class Machine:
    """What a run is planned for: so many GPUs of a kind, used to a fraction `mfu` of their dense bf16 peak."""

    gpus: int
    gpu: Gpu
    mfu: float


def plan(config: TrainConfig, machine: Machine, changes: Collection[str] = ()) -> dict[str, Any]:
    """Return the plan of a run as JSON-serialisable facts; memory in bytes, time in seconds.

    Of the stores it reads metadata, positions, and a few samples; nothing is written, no model is built.

    Raises
    ------
    AionError
        If the run would be refused, or does not fit the memory of the GPUs.
    """
    world = World(0, machine.gpus, torch.device("cpu"))
    check_replicas(config.parallel, world)
    latest = Checkpoints(config.run.folder / "checkpoints").latest()
    beginning = find_beginning(config, latest, weights_sha256)
    config = beginning.config
    data = TrainingData(config.data, config.masking, config.run.seed, world, beginning)
    new = beginning.new(data.space)
    _check(config, data)
    if latest:
        check_resumable(latest, data, config, changes, new)
    inputs, targets = _drawn(data)
    memory = memory_per_gpu(config, data.space, machine.gpus, targets)
    if memory["total"] > machine.gpu.memory:
        raise AionError(_too_little(config, data.space, machine, targets, memory))
    given, asked = beginning.sides(new)
    with torch.device("meta"):
        model = AionModel(config.model.build(), data.space, inputs=given, outputs=asked)
    choose_trained(model, config)
    samples = config.data.batch_size * config.data.accumulate
    return {
        "folder": str(config.run.folder),
        "precision": config.run.precision,
        "steps": config.optimizer.steps,
        "continues_at_step": latest.step if latest else 0,
        "begins_with": _growth(config, beginning, model, new),
        "samples_per_step": samples,
        "samples_per_gpu": config.data.batch_size // machine.gpus,
        "accumulate": config.data.accumulate,
        "parallel": config.parallel.model_dump(),
        "parameters": parameters_by_part({name: p.shape for name, p in model.named_parameters()}),
        "memory": memory | {"available": machine.gpu.memory},
        "compute": _compute(config, data.space, machine, targets),
        "training_objects": sum(data.objects),
        "held_out_objects": sum(len(rows) for _, rows in data.validation),
        "sources": _sources(config, data),
        "modalities": _modalities(data, inputs, targets),
    }


def _check(config: TrainConfig, data: TrainingData) -> None:
    """Refuse names of modalities that the run would refuse."""
    for pair in config.evaluate.conditional:
        data.space.select((pair.target, *pair.given))
    for key in config.loss.weights:
        data.space.index(key)


def _growth(config: TrainConfig, beginning: Beginning, model: AionModel, new: Collection[str]) -> dict[str, Any] | None:
    """Return what the run begins with, what is appended to it, and what of all that is trained; None: nothing."""
    if beginning.folder is None or not (config.model.start or model.space.newest()):
        return None
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    appended = {key: sum(n for name, n in sizes.items() if belongs(name, [key])) for key in new}
    return {
        "from": str(beginning.folder),
        "moments": has_moments(beginning.folder),
        "appended": {
            key: {
                "vocab_size": model.space[key].spec.vocab_size,
                "tokens": model.space[key].spec.n_tokens,
                "parameters": n,
                "fingerprint": model.space[key].fingerprint,
            }
            for key, n in appended.items()
        },
        "trained": "what was appended" if config.model.freeze_old else "all",
        "parameters_trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _drawn(data: TrainingData) -> tuple[list[float], list[float]]:
    """Return the mean numbers of input and target tokens of a sample by slot, from the first samples of the run."""
    size = min(DRAWN, len(data.loader))
    batch = data.loader.samples(0, 0, size)
    slots = batch.input_slot.numpy().ravel()
    inputs = np.bincount(slots[slots >= 0], minlength=len(data.space))
    return (inputs / size).tolist(), [count / size for count in batch.target_counts]


def _compute(config: TrainConfig, space: TokenSpace, machine: Machine, targets: Sequence[float]) -> dict[str, Any]:
    masking, frozen = config.masking, config.model.freeze_old
    size = masking.input_budget, masking.target_budget
    by_sample = float(sample_flops(config.model.build(), space, *size, targets, frozen))
    samples = config.data.batch_size * config.data.accumulate
    step = by_sample * samples / (machine.gpus * machine.gpu.peak * machine.mfu)
    run = step * config.optimizer.steps
    return {
        "gpus": machine.gpus,
        "gpu": machine.gpu.title,
        "peak_flops_per_second": machine.gpu.peak,
        "mfu": machine.mfu,
        "flops_per_sample": by_sample,
        "flops_of_the_run": by_sample * samples * config.optimizer.steps,
        "seconds_per_step": step,
        "samples_per_second": samples / step,
        "samples_per_second_per_gpu": samples / step / machine.gpus,
        "tokens_per_second": samples / step * (masking.input_budget + masking.target_budget),
        "seconds": run,
        "gpu_hours": run * machine.gpus / 3600,
    }


def _sources(config: TrainConfig, data: TrainingData) -> list[dict[str, Any]]:
    sizes = data.objects
    weights = [source.weight if size else 0.0 for source, size in zip(config.data.train, sizes, strict=True)]
    drawn = config.data.batch_size * config.data.accumulate * config.optimizer.steps
    found = []
    for source, size, weight in zip(config.data.train, sizes, weights, strict=True):
        share = weight / sum(weights)
        where = [str(path) for path in source.stores]
        found.append({"stores": where, "objects": size, "share": share, "epochs": share * drawn / max(1, size)})
    return found


def _modalities(data: TrainingData, inputs: Sequence[float], targets: Sequence[float]) -> dict[str, Any]:
    counts = token_counts([store for store, _ in data.train])
    return {
        key: {
            "objects": counts[key][0] if key in counts else 0,
            "tokens": counts[key][1] if key in counts else 0,
            "inputs_per_sample": inputs[slot],
            "targets_per_sample": targets[slot],
        }
        for slot, key in enumerate(data.space.keys)
    }


# -- what to do where it does not fit ----------------------------------------------------------------------------------


def _too_little(
    config: TrainConfig, space: TokenSpace, machine: Machine, targets: Sequence[float], memory: dict[str, int]
) -> str:
    """Return the sentence that says what is missing, and which settings would do."""
    needed, most = memory["total"], machine.gpu.memory
    room = most - (needed - memory["activations"])
    remedies = list(_remedies(config, machine.gpus, memory["activations"] / room if room > 0 else None))
    fitting: list[str] = []
    # The last one is all of them together: where that does not fit, none does.
    for change in [remedies[-1], *remedies[:-1]] if remedies else []:
        changed = _changed(config, change)
        total = sum(state_bytes(changed, space, machine.gpus).values())
        if total <= most:
            total = memory_per_gpu(changed, space, machine.gpus, targets)["total"]
        if total <= most:
            words = " and ".join(f"{name} = {value}" for name, value in change.items())
            fitting.append(f"{words} ({total / GIB:.1f} GiB)")
        if not fitting or len(fitting) > SUGGESTED:
            break
    if len(fitting) > 1:
        del fitting[0]  # simpler ones do
    advice = f"these would fit: {'; '.join(fitting)}" if fitting else "use more GPUs, or a smaller model"
    return (
        f"The run needs {needed / GIB:.1f} GiB on each GPU, and {machine.gpus} × {machine.gpu.title} have "
        f"{machine.gpu.memory / GIB:.1f} GiB each; {advice}."
    )


def _remedies(config: TrainConfig, gpus: int, excess: float | None) -> Iterator[dict[str, Any]]:
    """Yield changes of settings that need less memory and train the same, the cheapest first.

    `excess` is how many times too large the activations are; None where not even none of them would fit.
    """
    for setting in ("selective", "full"):
        if config.parallel.activation_checkpointing == "none" or setting == "full":
            yield {"parallel.activation_checkpointing": setting}
    batch, times = config.data.batch_size, config.data.accumulate
    if excess is not None:
        first = 2 ** ceil(log2(max(2.0, excess)))
        for cut in (first, 2 * first):  # several passes keep whole gradients, for which the first may have no room
            if batch % (cut * gpus) == 0:
                yield {"data.batch_size": batch // cut, "data.accumulate": times * cut}
    if gpus > 1 and config.parallel.sharding != "full":
        yield {"parallel.sharding": "full"}
    everything: dict[str, Any] = {"parallel.activation_checkpointing": "full"}
    if gpus > 1:
        everything["parallel.sharding"] = "full"
    if batch > gpus:
        everything |= {"data.batch_size": gpus, "data.accumulate": times * batch // gpus}
    yield everything


def _changed(config: TrainConfig, change: dict[str, Any]) -> TrainConfig:
    for name, value in change.items():
        section, _, setting = name.partition(".")
        changed = getattr(config, section).model_copy(update={setting: value})
        config = config.model_copy(update={section: changed})
    return config
