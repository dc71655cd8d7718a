"""The training loop: batches in, checkpoints and metrics out, exact on resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from aion_core.contract import AionError
from aion_core.data.batches import TokenBatch
from aion_core.data.loader import Position
from aion_core.engine import (
    Checkpoints,
    MetricsLog,
    SkipRule,
    StopFlag,
    World,
    autocast,
    build_optimizer,
    choose_device,
    learning_rate,
    peak_memory,
    set_learning_rate,
    take_step,
)
from aion_core.engine.device import on_its_way
from aion_core.engine.hardware import gpu_of
from aion_core.engine.saving import Saver
from aion_core.files import write_json
from aion_core.model.flops import sample_flops
from aion_core.train.beginning import find_beginning, weights_sha256
from aion_core.train.config import TrainConfig
from aion_core.train.data import TrainingData
from aion_core.train.evaluation import HeldOut, Selection, conditional_loss, masked_losses, modality_loss, pairs
from aion_core.train.parallel import build_model, communicate_gradients, gradient_norm, local_parameters, reshard
from aion_core.train.state import begin_with, check_resumable, restore, run_tensors, write_documents


@dataclass(frozen=True)
class Progress:
    """What a display is told after a step."""

    step: int
    steps: int
    loss: float
    lr: float
    tokens_per_second: float


@dataclass(frozen=True)
class Outcome:
    """How a call of `Trainer.run` ended."""

    step: int
    finished: bool
    stopped_by: str | None
    held_out: tuple[HeldOut, ...]
    folder: Path


class Trainer:
    """Trains one model as a `TrainConfig` says; continues where the run folder's last checkpoint stands.

    Parameters
    ----------
    config
        The validated configuration.
    on_step
        Called after each optimiser step, for a display.
    on_problem
        Called on the lead with a sentence on what went wrong without ending the run.
    world
        The processes that share the work; by default this one works alone.
    changes
        Names of settings in which the run may differ from its checkpoint (``optimizer.lr``, say).

    Examples
    --------
    >>> Trainer(TrainConfig.from_toml("train.toml")).run()  # doctest: +SKIP
    """

    def __init__(
        self,
        config: TrainConfig,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_problem: Callable[[str], None] = lambda sentence: None,
        world: World | None = None,
        changes: Collection[str] = (),
    ) -> None:
        self.on_step, self.on_problem = on_step, on_problem
        self.folder = config.run.folder
        self.world = world or World(0, 1, choose_device(config.run.device))
        self.device = self.world.device
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        latest, self.changed = self.checkpoints.latest(), []
        beginning = find_beginning(config, latest, self._digest)
        self.config = config = beginning.config
        self.data = TrainingData(config.data, config.masking, config.run.seed, self.world, beginning)
        self.grown = beginning.new(self.data.space)
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", not self.world.lead, config.run.tensorboard)
        for pair in config.evaluate.conditional:
            self.data.space.select((pair.target, *pair.given))
        if latest:
            self.changed = check_resumable(latest, self.data, config, changes, self.grown)
        self.model = build_model(config, self.data.space, self.world, *beginning.sides(self.grown))
        self.local = local_parameters(self.model)
        self.optimizer = build_optimizer(self.local, config.optimizer, _decays, _is_embedding)
        self.weights = self._loss_weights()
        self.skips = SkipRule(config.optimizer.max_skipped, self.metrics)
        self.saver = Saver(self.checkpoints, self.world, config.checkpoint.keep)
        self.step = 0
        self.unlogged = (0, 0.0, 0.0)  # steps, seconds that they waited for data, seconds that they took
        self.position = Position(epoch=0, index=0, seed=config.run.seed)
        if latest:
            state = restore(latest, self.model, self.local, self.optimizer, self.grown)
            self.step, self.position, self.skips.in_a_row = state["step"], state["position"], state["skipped"]
        elif beginning.folder:
            begin_with(beginning.folder, self.model, self.local, self.optimizer, self.grown)

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train until the last step, or until a signal asks any process to stop; the last step done is saved."""
        self._open_folder()
        steps = self.config.optimizer.steps
        held_out: tuple[HeldOut, ...] | None = None
        stopped = False
        with StopFlag() as stop:
            stream = self.data.batches(self.position)
            while self.step < steps and not (stopped := self._boundary(stop)):
                waited = perf_counter()
                drawn = [next(stream) for _ in range(self.config.data.accumulate)]
                self.train_step([batch for batch, _ in drawn], perf_counter() - waited)
                self.position = drawn[-1][1]
                last = self.step == steps
                if self.step % self.config.evaluate.every == 0 or last:
                    held_out = self.evaluate()
                if self.step % self.config.checkpoint.every == 0 or last:
                    self.save()
            stream.close()
            self._finish_saving()
        finished = self.step >= steps
        if finished and held_out is None:  # nothing was left to do: the evaluation of the last step stands in the log
            held_out = self._logged_evaluation() or self.evaluate()
        name = stop.raised.name if stop.raised else "another process" if stopped else None
        return Outcome(self.step, finished, name, held_out or (), self.folder)

    def _boundary(self, stop: StopFlag) -> bool:
        """Exchange what all processes must know between two steps; return whether any of them has to stop."""
        stops, busy = self.world.add([stop.raised is not None, self.saver.busy])
        if self.saver.pending and not busy:
            self._note(self.saver.settle())
        return stops > 0

    def train_step(self, micro: list[TokenBatch], waited: float = 0.0) -> None:
        """Do one optimiser step on this process's part of some batches; a non-finite one changes nothing."""
        started = perf_counter()
        settings = self.config.optimizer
        lr = learning_rate(self.step, settings)
        set_learning_rate(self.optimizer, lr)
        counts = self.world.add([sum(column) for column in zip(*(batch.target_counts for batch in micro), strict=True)])
        parts: list[Tensor] = []
        for batch in micro:
            communicate_gradients(self.model, self.config.parallel.sharding, last=len(parts) == len(micro) - 1)
            with self.autocast():
                sums = self.model(batch.to(self.device))
            modality_loss(sums, counts, self.weights, self.config.loss.by).backward()
            parts.append(sums.detach())
        norm = gradient_norm(self.model, self.local, self.world)
        sums = self.world.sum(torch.stack(parts).sum(0))
        loss = modality_loss(sums, counts, self.weights, self.config.loss.by)
        numbers = on_its_way(torch.cat([torch.stack([loss, norm]), sums]))
        # AdamW itself leaves everything as it is where this is 1: the host need not know before it queues the step.
        self.optimizer.found_inf = 1 - (loss.isfinite() & norm.isfinite()).float()  # type: ignore[attr-defined]
        take_step(self.optimizer, norm, settings.clip_norm or math.inf)
        for holder in (self.optimizer, self.model):
            holder.zero_grad(set_to_none=True)
        loss_value, norm_value, *by_slot = numbers()
        try:
            self.skips.allows(self.step + 1, loss_value, norm_value, partial(self._names, micro, parts))
        except AionError:  # all processes give up together: what they have written is still a checkpoint
            self._note(self.saver.finish())
            raise
        self.step += 1
        self._report(micro, counts, by_slot, loss_value, norm_value, lr, waited, perf_counter() - started)

    def _names(self, micro: list[TokenBatch], parts: list[Tensor]) -> list[str]:
        """Return the objects of all processes' batches with a loss that is not finite; of all, if there is none."""
        bad = [batch for batch, part in zip(micro, parts, strict=True) if not part.isfinite().all()]
        some = self.world.any(bool(bad))
        mine = [int(i) for batch in (bad if some else micro) for i in batch.index]
        return [name for names in self.world.gather(self.data.object_names(mine)) for name in names]

    def _report(
        self,
        micro: list[TokenBatch],
        counts: list[int],
        sums: list[float],
        loss: float,
        norm: float,
        lr: float,
        waited: float,
        seconds: float,
    ) -> None:
        samples = sum(len(batch) for batch in micro) * self.world.size
        places = micro[0].input_code.shape[1] + micro[0].target_code.shape[1]
        steps = self.config.optimizer.steps
        self.on_step(Progress(self.step, steps, loss, lr, samples * places / (waited + seconds)))
        many, before, spent = self.unlogged
        self.unlogged = many + 1, before + waited, spent + waited + seconds
        if self.step % self.config.run.log_every and self.step < steps:
            return
        waited, total, memory = self.world.most([*self.unlogged[1:], float(peak_memory(self.device))])
        done, self.unlogged = (many + 1) * samples, (0, 0.0, 0.0)
        size = micro[0].input_code.shape[1], micro[0].target_code.shape[1]
        targets, frozen = [count / samples for count in counts], self.config.model.freeze_old
        flops = sample_flops(self.model.config, self.model.space, *size, targets, frozen)
        by_modality = {key: sums[i] / counts[i] for i, key in enumerate(self.model.space.keys) if counts[i]}
        values: dict[str, Any] = {
            "loss": loss,
            "loss_by_modality": by_modality,
            "grad_norm": norm,
            "lr": lr,
            "samples": self.step * samples,
            "samples_per_second": done / total,
            "tokens_per_second": done * places / total,
            "flops_per_second": flops * done / total,
            "data_wait": waited / total,
            "peak_memory_bytes": int(memory),
            "processes": self.world.size,
        }
        if gpu := gpu_of(self.device):
            values["mfu"] = values["flops_per_second"] / (self.world.size * gpu.peak)
        self.metrics.write("train", self.step, values)

    # -- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(self) -> tuple[HeldOut, ...]:
        """Measure the held-out losses, write them down, and return them."""
        self.model.eval()
        settings, entropies, world = self.config.evaluate, self.data.entropies, self.world
        selection = self.data.held_out(settings.samples)
        batches = self.data.validation_batches(settings.samples)
        found = masked_losses(self.model, batches, entropies, self.autocast, world)
        space = self.model.space
        asked: list[tuple[str, tuple[str, ...], Selection]]
        asked = [(space[p.target].key, tuple(space[k].key for k in p.given), selection) for p in settings.conditional]
        if settings.pairs:
            asked += [(t, (s,), objects) for s, t, objects in pairs(selection, self.data.found, settings.pairs)]
        for target, given, objects in asked:
            result = conditional_loss(self.model, objects, target, given, entropies.get(target), self.autocast, world)
            found += [result] if result else []
        reshard(self.model)
        self.model.train()
        by_name = {h.name: h.loss for h in found}
        self.metrics.write("evaluation", self.step, {"held_out": [h.asdict() for h in found], "loss": by_name})
        return tuple(found)

    def _logged_evaluation(self) -> tuple[HeldOut, ...] | None:
        """Return what the log says of the present step; all processes go by what the lead reads."""
        lines = [line for line in self.metrics.read() if line["kind"] == "evaluation" and line["step"] == self.step]
        found = self.world.gather(lines[-1]["held_out"] if lines and self.world.lead else None)[0]
        return None if found is None else tuple(map(HeldOut.fromdict, found))

    def autocast(self) -> AbstractContextManager[object]:
        """Return the precision of forward passes."""
        return autocast(self.device, self.config.run.precision)

    # -- state -----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Begin a checkpoint of the present step, which is written while training goes on."""
        state = {
            "step": self.step,
            "position": self.position,
            "skipped": self.skips.in_a_row,
            "objects": self.data.objects,
            "modalities": self.data.found.keys,
            "config": self._config_json(),
        }
        tensors = run_tensors(self.model, self.local, self.optimizer)
        self._note(self.saver.start(self.step, tensors, partial(write_documents, self.model, state)))

    def _finish_saving(self) -> None:
        """Save the last step done, if it is not, and wait for it; only here a save that fails ends the run."""
        self._note(self.saver.finish())
        if self.step > self.saver.saved:
            self.save()
            if failure := self.saver.finish():
                raise AionError(f"{self.folder}: {failure}.")

    def _note(self, failure: str | None) -> None:
        """Tell of a checkpoint that could not be written; the run goes on, and the next may be."""
        if failure and self.world.lead:
            self.metrics.write("unsaved", self.step, {"reason": failure})
            self.on_problem(f"{failure[0].upper()}{failure[1:]}; training goes on, and the next is tried as planned.")

    def _digest(self, folder: Path) -> str:
        """Return the SHA-256 of weights, which the lead alone reads for it."""
        return self.world.gather(weights_sha256(folder) if self.world.lead else "")[0]

    def _config_json(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def _open_folder(self) -> None:
        if self.world.lead:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "train.json", self._config_json())
            write_json(self.folder / "manifest.json", self.data.space.manifest())
            self.metrics.resume_at(self.step)
            if self.changed:
                self.metrics.write("changed", self.step, {"settings": self.changed})
            if self.grown:
                origin = self.data.space[self.grown[0]].grown_from
                self.metrics.write("grown", self.step, {"modalities": self.grown, "from": origin and dict(origin)})
            if not self.step:
                self.metrics.write("data", 0, {"entropy_by_modality": self.data.entropies})
        self.world.barrier()

    def _loss_weights(self) -> Tensor:
        space, weights = self.model.space, self.config.loss.weights
        by_slot = {space.index(key): weight for key, weight in weights.items()}
        return torch.tensor([by_slot.get(i, 1.0) for i in range(len(space))], device=self.device)


def _decays(name: str, parameter: Tensor) -> bool:
    """Weight matrices of the blocks decay; norms, biases, embeddings and heads do not."""
    return parameter.ndim == 2 and not name.startswith(("encoder_embeddings.", "decoder_embeddings."))


def _is_embedding(name: str) -> bool:
    return ".token_emb." in name
