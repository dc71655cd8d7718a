"""The training loop of a tokenizer: batches in, checkpoints, figures and reconstructions out, exact on resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from aion_core.contract import AionError
from aion_core.engine import (
    Checkpoint,
    Checkpoints,
    MetricsLog,
    SkipRule,
    StopFlag,
    WeightAverage,
    World,
    autocast,
    build_optimizer,
    differences,
    learning_rate,
    peak_memory,
    set_learning_rate,
)
from aion_core.files import read_safetensors, write_json, write_safetensors
from aion_core.observations import Image, Observation
from aion_core.plugins import Registry, load_registry
from aion_core.tokenizers.base import Tokenizer
from aion_core.tokenizers.quality import Quality
from aion_core.tokenizers.sets import TokenizerSet
from aion_core.tokenizers.training.bands import without_some_bands
from aion_core.tokenizers.training.config import TokenizerConfig
from aion_core.tokenizers.training.evaluation import assess
from aion_core.tokenizers.training.page import has_matplotlib
from aion_core.tokenizers.training.source import Observations, ObservationSource, Position, TrainingBatch

#: Settings that may differ between the two halves of a resumed run: they do not touch the parameters.
FREE_TO_CHANGE = (
    "evaluate", "checkpoint", "run.folder", "run.log_every", "run.tensorboard",
    "optimizer.max_skipped", "data.prefetch",
)  # fmt: skip
#: What a checkpoint holds besides the tokenizer set, which has the averaged weights where there are any.
PARAMETERS, AVERAGE, TOKENIZERS = "parameters.safetensors", "average.safetensors", "tokenizers"


@dataclass(frozen=True)
class Progress:
    """What a display is told after a step."""

    step: int
    steps: int
    loss: float
    lr: float
    objects_per_second: float


@dataclass(frozen=True)
class Outcome:
    """How a call of `TokenizerTrainer.run` ended; `held_out` by modality, on the lead process only."""

    step: int
    finished: bool
    stopped_by: str | None
    held_out: dict[str, Quality]


class TokenizerTrainer:
    """Trains the tokenizers of one artifact; continues where the run folder's last checkpoint stands.

    Parameters
    ----------
    config
        The validated configuration; the run folder is ``config.run.folder``.
    tokenizers
        Of several modalities, with the same modules inside.
    source
        What is trained on.
    world
        The processes that share the work.
    on_step
        Called after each step, for a display.
    """

    def __init__(
        self,
        config: TokenizerConfig,
        tokenizers: Sequence[Tokenizer],
        source: ObservationSource,
        world: World,
        on_step: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.config, self.source, self.world, self.on_step = config, source, world, on_step
        self.folder, self.device = config.run.folder, world.device
        self.tokenizers = {t.spec.key: t.to(self.device) for t in tokenizers}
        self.lead: Tokenizer = tokenizers[0]
        world.share(config.data.batch_size, "data.batch_size")
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", not world.lead, config.run.tensorboard)
        self._freeze()
        self.optimizer = self._optimizer()
        self.average = WeightAverage(self.lead, config.optimizer.average) if config.optimizer.average else None
        self.skips = SkipRule(config.optimizer.max_skipped, self.metrics)
        self.step = self._saved = 0
        self.position: Position | None = None
        self.judged: Observations | None = None
        if latest := self.checkpoints.latest():
            self._restore(latest)

    def run(self) -> Outcome:
        """Train until the last step, or until a signal asks any process to stop; the last step done is saved."""
        self._open_folder()
        steps, every = self.config.optimizer.steps, self.config.checkpoint.every
        held_out: dict[str, Quality] | None = None
        with StopFlag() as stop:
            stream = self.source.batches(self.position)
            stopped = self.world.any(stop.raised is not None)
            while self.step < steps and not stopped:
                waited = perf_counter()
                batch, self.position = next(stream)
                self.train_step(batch, perf_counter() - waited)
                stopped = self.world.any(stop.raised is not None)
                last = self.step == steps
                if self.step % self.config.evaluate.every == 0 or last:
                    held_out = self.evaluate()
                if self.step % every == 0 or last or stopped:
                    self.save()
            stream.close()
        if self.step >= steps and held_out is None:
            held_out = self.evaluate()
        name = stop.raised.name if stop.raised else "another process" if stopped else None
        return Outcome(self.step, self.step >= steps, name, held_out or {})

    def train_step(self, batch: TrainingBatch, waited: float = 0.0) -> None:
        """Do one optimiser step on this process's part of a batch; a non-finite one changes nothing."""
        started = perf_counter()
        settings = self.config.optimizer
        lr = learning_rate(self.step, settings)
        set_learning_rate(self.optimizer, lr)
        self.lead.train()
        total = self.world.sum(torch.tensor(float(len(batch)), device=self.device))
        terms = self._terms(batch, len(batch) / float(total))
        torch.stack(list(terms.values())).sum().backward()
        self.world.sum_gradients(self.lead.parameters())
        self.world.average_buffers(self.lead)
        trained = [p for p in self.lead.parameters() if p.requires_grad]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm or math.inf))
        values = self.world.sum(torch.stack([t.detach().float() for t in terms.values()])).tolist()
        loss = sum(values)
        if self.skips.allows(self.step + 1, loss, norm, lambda: self._names(batch)):
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.lead, self.step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        seconds = waited + perf_counter() - started
        rate = float(total) / seconds
        self.on_step(Progress(self.step, settings.steps, loss, lr, rate))
        if self.step % self.config.run.log_every == 0 or self.step == settings.steps:
            figures = {"loss": loss, "terms": dict(zip(terms, values, strict=True)), "grad_norm": norm, "lr": lr}
            speed = {"objects_per_second": rate, "data_wait": waited / seconds}
            self.metrics.write("train", self.step, figures | speed | {"peak_memory_bytes": peak_memory(self.device)})

    def _terms(self, batch: TrainingBatch, share: float) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted by this process's share of the objects."""
        given = [self.tokenizers[key].accept(obs) for key, obs in self._thinned(batch)]
        with autocast(self.device, self.config.run.precision):
            terms = self.lead.loss(*given)
        return {name: term * share for name, term in terms.items()}

    def _thinned(self, batch: TrainingBatch) -> Iterator[tuple[str, Observation]]:
        """Yield the observations, images without some of their bands where that is asked for."""
        share, first = self.config.data.band_dropout, 0
        for key, obs in batch.observations:
            names = batch.names[first : first + len(obs)]
            first += len(obs)
            if share and isinstance(obs, Image):
                obs = without_some_bands(obs, share, [f"{self.step}/{name}" for name in names], self.config.run.seed)
            yield key, obs

    def _names(self, batch: TrainingBatch) -> list[str]:
        return [name for names in self.world.gather(list(batch.names)) for name in names]

    def _optimizer(self) -> torch.optim.AdamW:
        """Return the optimiser; where asked for, what codes depend on learns at a rate of its own."""
        settings = self.config.optimizer
        parts = [t.encode_tensors().values() for t in self.tokenizers.values()] if settings.encoder_lr != 1 else []
        encoder = {tensor.data_ptr() for part in parts for tensor in part}
        slow = {name for name, p in self.lead.named_parameters() if p.data_ptr() in encoder}
        rates = settings.model_copy(update={"embedding_lr": settings.encoder_lr})
        return build_optimizer(self.lead, rates, lambda name, p: p.ndim > 1, slow.__contains__)

    # -- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, Quality]:
        """Reconstruct held-out objects with the averaged weights; write down how well, and a page that shows it."""
        found: dict[str, Quality] = {}
        settings = self.config.evaluate
        if self.world.lead:
            if self.judged is None:
                self.judged = self.source.held_out(settings.objects)
            page = self.folder / "reconstructions" / f"step-{self.step:08d}"
            with self._averaged():
                found = assess(self.tokenizers, self.judged, page if settings.page else None, settings.page)
            self.metrics.write("evaluation", self.step, {key: q.to_dict() for key, q in found.items()})
        self.world.barrier()
        return found

    def _averaged(self) -> AbstractContextManager[None]:
        return self.average.applied(self.lead) if self.average is not None else nullcontext()

    # -- state -----------------------------------------------------------------------------------------------------

    def tokenizer_set(self) -> TokenizerSet:
        """Return the tokenizers as a set; their weights are the present ones, not the averaged."""
        return TokenizerSet(self.tokenizers.values(), self._registry)

    @cached_property
    def _registry(self) -> Registry:
        return load_registry()

    def settle(self) -> None:
        """Give the tokenizers their averaged weights for good, where there are any; training is over."""
        if self.average is not None:
            self.average.settle(self.lead)
        self.lead.eval()

    def save(self) -> None:
        """Write a checkpoint of the present step; a tokenizer set is in it."""
        position = {k: v for part in self.world.gather(self.position or {}) for k, v in part.items()}
        if self.world.lead:
            state = {
                "step": self.step,
                "position": position,
                "skipped": self.skips.in_a_row,
                "config": self._config_json(),
                "keys": list(self.tokenizers),
            }
            keep = self.config.checkpoint.keep
            self.checkpoints.save(self.step, self.lead, self._write, self.optimizer, state, keep)
        self.world.barrier()
        self._saved = self.step

    def _write(self, folder: Path) -> None:
        write_safetensors(folder / PARAMETERS, self.lead.state_dict())
        with self._averaged():
            self.tokenizer_set().save(folder / TOKENIZERS)
        if self.average is not None:
            write_safetensors(folder / AVERAGE, self.average.tensors)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state()
        differing = differences(state["config"], self._config_json(), FREE_TO_CHANGE)
        if state.get("keys") != list(self.tokenizers):
            differing.insert(0, f"modalities: {', '.join(state.get('keys', ()))} → {', '.join(self.tokenizers)}")
        if differing:
            raise AionError(
                f"{self.folder} holds a training with other settings ({'; '.join(differing)}). Continue it with its "
                "own settings, or remove that folder or choose another --out to begin anew."
            )
        tensors, _ = read_safetensors(checkpoint.folder / PARAMETERS)
        _load(self.lead, tensors, checkpoint.folder / PARAMETERS)
        checkpoint.load_optimizer(self.optimizer, self.lead)
        if self.average is not None:
            self.average.load(read_safetensors(checkpoint.folder / AVERAGE)[0])
        self.step, self.position, self.skips.in_a_row = state["step"], state["position"], state["skipped"]
        self._saved = self.step

    def _config_json(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def _open_folder(self) -> None:
        if self.world.lead:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "training.json", self._config_json() | {"modalities": list(self.tokenizers)})
            self.metrics.resume_at(self.step)
            if self.config.evaluate.page and not has_matplotlib() and not self.step:
                self.metrics.write("note", 0, {"text": "no page of reconstructions: matplotlib is not installed"})
        self.world.barrier()

    def _freeze(self) -> None:
        chosen = {id(p) for p in self.lead.trainable_parameters(self.config.train_only == "new").values()}
        for parameter in self.lead.parameters():
            parameter.requires_grad_(id(parameter) in chosen)


def _load(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Restore parameters and buffers in place."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise AionError(f"{path} does not fit the tokenizer ({str(error).splitlines()[-1].strip()}).") from None
