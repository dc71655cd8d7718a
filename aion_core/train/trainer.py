"""The training loop: batches in, checkpoints and metrics out, exact on resume."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    Checkpoint,
    Checkpoints,
    MetricsLog,
    SkipRule,
    StopFlag,
    autocast,
    build_optimizer,
    choose_device,
    differences,
    learning_rate,
    peak_memory,
    set_learning_rate,
)
from aion_core.files import write_json
from aion_core.model import AionModel
from aion_core.model.files import load_weights, read_space, save_model
from aion_core.model.flops import training_flops
from aion_core.release import WEIGHTS
from aion_core.train.config import TrainConfig
from aion_core.train.data import TrainingData
from aion_core.train.evaluation import HeldOut, conditional_loss, masked_losses, modality_loss
from aion_core.train.plan import plan

#: Settings that may differ between the two halves of a resumed run: they do not touch the parameters.
FREE_TO_CHANGE = ("evaluate", "checkpoint", "run.folder", "run.log_every", "data.accept_fingerprints")


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

    Examples
    --------
    >>> Trainer(TrainConfig.from_toml("train.toml")).run()  # doctest: +SKIP
    """

    def __init__(self, config: TrainConfig, on_step: Callable[[Progress], None] = lambda progress: None) -> None:
        self.config = config
        self.on_step = on_step
        self.folder = config.run.folder
        self.device = choose_device(config.run.device)
        self.data = TrainingData(config.data, config.masking, config.run.seed)
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.metrics = MetricsLog(self.folder / "metrics.jsonl")
        for pair in config.evaluate.conditional:
            self.data.space.select((pair.target, *pair.given))
        latest = self.checkpoints.latest()
        if latest:
            self._check_resumable(latest)
        self.model = AionModel(config.model.build(), self.data.space, config.run.seed).to(self.device)
        self.optimizer = build_optimizer(self.model, config.optimizer, _decays, _is_embedding)
        self.weights = self._loss_weights()
        self.skips = SkipRule(config.optimizer.max_skipped, self.metrics)
        self.step = 0
        self._saved = 0
        self.position = Position(epoch=0, index=0, seed=config.run.seed)
        if latest:
            self._restore(latest)

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train until the last step, or until a signal asks to stop; either way the last step done is saved."""
        self._open_folder()
        settings = self.config.optimizer
        held_out: tuple[HeldOut, ...] | None = None
        with StopFlag() as stop:
            stream = self.data.batches(self.position)
            while self.step < settings.steps and not stop.raised:
                waited = perf_counter()
                drawn = [next(stream) for _ in range(self.config.data.accumulate)]
                self.train_step([batch for batch, _ in drawn], perf_counter() - waited)
                self.position = drawn[-1][1]
                last = self.step == settings.steps
                if self.step % self.config.evaluate.every == 0 or last:
                    held_out = self.evaluate()
                if (self.step % self.config.checkpoint.every == 0 or last) and not stop.raised:
                    self.save()
            stream.close()
            if stop.raised and self.step > self._saved:
                self.save()
        finished = self.step >= settings.steps
        if finished and held_out is None:  # nothing was left to do: the evaluation of the last step stands in the log
            held_out = self._logged_evaluation() or self.evaluate()
        return Outcome(self.step, finished, stop.raised.name if stop.raised else None, held_out or (), self.folder)

    def train_step(self, micro: list[TokenBatch], waited: float = 0.0) -> None:
        """Do one optimiser step on some batches; a non-finite one changes nothing."""
        started = perf_counter()
        settings = self.config.optimizer
        lr = learning_rate(self.step, settings)
        set_learning_rate(self.optimizer, lr)
        counts = [sum(column) for column in zip(*(batch.target_counts for batch in micro), strict=True)]
        sums = torch.zeros(len(counts), device=self.device)
        for batch in micro:
            with self.autocast():
                part = self.model(batch.to(self.device))
            modality_loss(part, counts, self.weights, self.config.loss.by).backward()
            sums += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm or math.inf)
        loss = float(modality_loss(sums, counts, self.weights, self.config.loss.by))
        if self.skips.allows(self.step + 1, loss, float(norm), partial(self._names, micro)):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._report(micro, counts, sums, loss, float(norm), lr, waited, perf_counter() - started)

    def _names(self, micro: list[TokenBatch]) -> list[str]:
        return self.data.object_names([int(i) for batch in micro for i in batch.index])

    def _report(
        self,
        micro: list[TokenBatch],
        counts: list[int],
        sums: Tensor,
        loss: float,
        norm: float,
        lr: float,
        waited: float,
        seconds: float,
    ) -> None:
        samples = sum(len(batch) for batch in micro)
        places = micro[0].input_code.shape[1] + micro[0].target_code.shape[1]
        rate = samples * places / (waited + seconds)
        steps = self.config.optimizer.steps
        self.on_step(Progress(self.step, steps, loss, lr, rate))
        if self.step % self.config.run.log_every and self.step < steps:
            return
        heads = [
            (count / samples, spec.vocab_size) for count, spec in zip(counts, self.model.space.specs(), strict=True)
        ]
        flops = training_flops(self.model.config, micro[0].input_code.shape[1], micro[0].target_code.shape[1])
        flops += int(6 * self.model.config.dim * sum(n * v for n, v in heads))
        by_modality = {key: float(sums[i]) / counts[i] for i, key in enumerate(self.model.space.keys) if counts[i]}
        values = {
            "loss": loss,
            "loss_by_modality": by_modality,
            "grad_norm": norm,
            "lr": lr,
            "samples": self.step * samples,
            "samples_per_second": samples / (waited + seconds),
            "tokens_per_second": rate,
            "flops_per_second": flops * samples / (waited + seconds),
            "data_wait": waited / (waited + seconds),
            "peak_memory_bytes": peak_memory(self.device),
        }
        self.metrics.write("train", self.step, values)

    def plan(self) -> dict[str, Any]:
        """Return what `run` would do; nothing has been written."""
        return plan(self)

    # -- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(self) -> tuple[HeldOut, ...]:
        """Measure the held-out losses, write them down, and return them."""
        self.model.eval()
        selection = self.data.held_out(self.config.evaluate.samples)
        batches = self.data.validation_batches(self.config.evaluate.samples)
        found = masked_losses(self.model, batches, self.data.entropies, self.autocast)
        for pair in self.config.evaluate.conditional:
            target = self.model.space[pair.target].key
            entropy = self.data.entropies.get(target)
            result = conditional_loss(self.model, selection, target, pair.given, entropy, self.autocast)
            found += [result] if result else []
        self.model.train()
        self.metrics.write("evaluation", self.step, {"held_out": [f.asdict() for f in found]})
        return tuple(found)

    def _logged_evaluation(self) -> tuple[HeldOut, ...] | None:
        lines = [line for line in self.metrics.read() if line["kind"] == "evaluation" and line["step"] == self.step]
        return tuple(HeldOut.fromdict(found) for found in lines[-1]["held_out"]) if lines else None

    def autocast(self) -> AbstractContextManager[object]:
        """Return the precision of forward passes."""
        return autocast(self.device, self.config.run.precision)

    # -- state -----------------------------------------------------------------------------------------------------

    def save(self) -> Checkpoint:
        """Write a checkpoint of the present step; it can also be loaded as a model."""
        state = {
            "step": self.step,
            "position": self.position,
            "skipped": self.skips.in_a_row,
            "config": self._config_json(),
        }
        write_model, keep = partial(save_model, self.model), self.config.checkpoint.keep
        saved = self.checkpoints.save(self.step, self.model, write_model, self.optimizer, state, keep)
        self._saved = self.step
        return saved

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state()
        load_weights(self.model, checkpoint.folder / WEIGHTS)
        checkpoint.load_optimizer(self.optimizer, self.model)
        self.step, self.position, self.skips.in_a_row = state["step"], state["position"], state["skipped"]
        self._saved = self.step

    def _check_resumable(self, checkpoint: Checkpoint) -> None:
        accept = self.config.data.accept_fingerprints
        space = read_space(checkpoint.folder)
        space.check_readable(self.data.space, accept)
        if space.keys != self.data.space.keys:
            changed = sorted(set(space.keys) ^ set(self.data.space.keys)) or list(self.data.space.keys)
            raise AionError(
                f"{checkpoint.folder} was trained on other modalities than these stores have ({', '.join(changed)}). "
                "Name those to train on in data.modalities, or start a new run with --set run.folder=…"
            )
        differing = differences(checkpoint.state()["config"], self._config_json(), FREE_TO_CHANGE)
        if differing:
            raise AionError(
                f"{self.folder} holds a run with other settings ({'; '.join(differing)}). Continue it with its own "
                "settings, or start a new one with --set run.folder=…"
            )

    def _config_json(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def _open_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "train.json", self._config_json())
        write_json(self.folder / "manifest.json", self.data.space.manifest())
        self.metrics.resume_at(self.step)
        if not self.step:
            self.metrics.write("data", 0, {"entropy_by_modality": self.data.entropies})

    def _loss_weights(self) -> Tensor:
        space, weights = self.model.space, self.config.loss.weights
        by_slot = {space.index(key): weight for key, weight in weights.items()}
        return torch.tensor([by_slot.get(i, 1.0) for i in range(len(space))], device=self.device)


def _decays(name: str, parameter: Tensor) -> bool:
    """Weight matrices of the blocks decay; norms, biases, embeddings and heads do not."""
    return parameter.ndim == 2 and not name.startswith(("encoder_embeddings.", "decoder_embeddings."))


def _is_embedding(name: str) -> bool:
    return ".token_emb." in name
