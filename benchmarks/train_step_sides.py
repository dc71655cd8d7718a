"""Both sides of the training-step benchmark (see benchmarks/train_step.py): same weights, same tokens, same masks.

The peer trains by its own ``FourM.forward``: it embeds all tokens of a sample, for the encoder and for the decoder, and
drops those that are masked. What is masked is said to it by masks; here they mark the places that our masking chose, so
that both sides have the same loss. Its sequences are cut at 50 places: catalogues here have eight objects at most.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aion_core.contract import SEQUENCE_IDS, ModalitySpec, TokenSpace
from aion_core.data.batches import TokenBatch
from aion_core.data.loader import TokenLoader
from aion_core.data.store import StoreWriter, TokenStore
from aion_core.engine import OptimizerSettings, build_optimizer, take_step
from aion_core.engine.device import computes_bf16
from aion_core.model import AionConfig, AionModel
from aion_core.train.config import ParallelSettings
from aion_core.train.evaluation import modality_loss
from aion_core.train.parallel import checkpoint_activations, compile_blocks, spare_memory

MOST_ITEMS = 8
LR = 2e-4


@dataclass(frozen=True)
class Work:
    """One batch in both forms: ours, and the peer's ``{modality: {tensor, masks}}``."""

    space: TokenSpace
    batch: TokenBatch
    peer: dict[str, dict[str, Tensor]]


@dataclass
class Step:
    """What one training step took, in seconds of the clock and of the processors, and its loss."""

    seconds: dict[str, float]
    cpu_seconds: float
    loss: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def work(space: TokenSpace, batch_size: int, seed: int) -> Work:
    """Draw objects that have every modality, and mask them as training does."""
    rng = np.random.default_rng(seed)
    codes = {spec.key: _codes(spec, batch_size, rng) for spec in space.specs()}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "objects.arrow"
        with StoreWriter(path, space) as writer:
            every = np.arange(batch_size)
            nowhere = np.full(batch_size, np.nan)
            writer.write([str(i) for i in every], nowhere, nowhere, {key: (c, every) for key, c in codes.items()})
        batch = TokenLoader([TokenStore(path)], space, batch_size, seed=seed, prefetch=0).batch(0, 0)
    rows = batch.index.numpy()
    return Work(space, batch, {_upstream(s): _peers(s, i, batch, codes[s.key][rows]) for i, s in _enumerated(space)})


def _upstream(spec: ModalitySpec) -> str:
    assert spec.upstream_key, f"{spec.key} is none of the release's modalities"
    return spec.upstream_key


def _codes(spec: ModalitySpec, n: int, rng: np.random.Generator) -> np.ndarray:
    if spec.order == "masked":
        return rng.integers(0, spec.vocab_size, (n, spec.n_tokens))
    codes = rng.integers(SEQUENCE_IDS.first_code, spec.vocab_size, (n, spec.n_tokens))
    codes[np.arange(spec.n_tokens) >= rng.integers(1, MOST_ITEMS + 1, n)[:, None] * spec.item_tokens] = -1
    return codes


def _enumerated(space: TokenSpace) -> list[tuple[int, ModalitySpec]]:
    return list(enumerate(space.specs()))


def _peers(spec: ModalitySpec, slot: int, batch: TokenBatch, codes: np.ndarray) -> dict[str, Tensor]:
    """Return a modality as the peer's training wants it; masks are True where a token is not used."""
    if spec.order == "causal":
        return _peers_sequence(slot, batch)
    shown, asked = (torch.ones(codes.shape, dtype=torch.bool) for _ in range(2))
    for mask, slots, position in (
        (shown, batch.input_slot, batch.input_position),
        (asked, batch.target_slot, batch.target_position),
    ):
        sample, column = torch.nonzero(slots == slot, as_tuple=True)
        mask[sample, position[sample, column]] = False
    attention = torch.zeros(codes.shape, dtype=torch.int64)
    counts = (~asked).sum(1)
    some = counts > 0
    attention[some, (~asked).int().argmax(1)[some]] = counts[some]  # at the first target: all see each other
    tensor = torch.from_numpy(np.ascontiguousarray(codes))
    return {"tensor": tensor, "input_mask": shown, "target_mask": asked, "decoder_attention_mask": attention}


def _peers_sequence(slot: int, batch: TokenBatch) -> dict[str, Tensor]:
    """Lay out one sequence a sample: what is shown, then what is asked with the sentinel before it."""
    rows: list[tuple[Tensor, Tensor]] = []
    for i in range(len(batch)):
        shown, asked = batch.input_slot[i] == slot, batch.target_slot[i] == slot
        target = torch.cat([batch.target_input[i][asked][:1], batch.target_code[i][asked]])
        assert (batch.target_input[i][asked] == target[:-1]).all(), "targets are not one teacher-forced run"
        rows.append((batch.input_code[i][shown], target))
    width = max(len(a) + len(b) for a, b in rows) + 1
    tensor = torch.zeros(len(rows), width, dtype=torch.int64)
    input_mask, target_mask = torch.ones_like(tensor, dtype=torch.bool), torch.ones_like(tensor, dtype=torch.bool)
    attention = torch.zeros_like(tensor)
    for i, (shown, target) in enumerate(rows):
        a, b = len(shown), len(shown) + len(target)
        assert max(a, b - a) <= 50, "the peer's sequences have 50 places"
        tensor[i, :a], tensor[i, a:b] = shown, target
        input_mask[i, :a], target_mask[i, a:b], attention[i, a:b] = False, False, 1
    return {"tensor": tensor, "input_mask": input_mask, "target_mask": target_mask, "decoder_attention_mask": attention}


class Side:
    """A model with its optimiser; `step` trains on the work once."""

    def __init__(self, work: Work, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.work, self.model, self.optimizer, self.device = work, model, optimizer, device

    def loss(self) -> Tensor:
        raise NotImplementedError

    def step(self, precision: str) -> Step:
        bf16 = torch.autocast(self.device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
        _synchronised(self.device)
        marks, cpu = [self._mark()], process_time()
        with bf16:
            loss = self.loss()
        marks.append(self._mark())
        loss.backward()
        marks.append(self._mark())
        self.update()
        self.optimizer.zero_grad(set_to_none=True)
        marks.append(self._mark())
        _synchronised(self.device)
        parts = zip(("forward", "backward", "optimizer"), marks, marks[1:], strict=False)
        seconds = {name: _seconds_between(a, b) for name, a, b in parts}
        return Step(seconds, process_time() - cpu, float(loss.detach()))

    def update(self) -> None:
        self.optimizer.step()

    def _mark(self) -> Any:
        """Note the time; on a GPU, of the device, so that nothing waits within the step."""
        if self.device.type != "cuda":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _seconds_between(a: Any, b: Any) -> float:
    return b - a if isinstance(a, float) else a.elapsed_time(b) / 1000


class Ours(Side):
    def __init__(
        self, work: Work, config: AionConfig, device: torch.device, compile: bool, again: str, precision: str
    ) -> None:
        model = AionModel(config, work.space).to(device)
        spare_memory(model, device, halve=computes_bf16(device, precision))
        checkpoint_activations(model, ParallelSettings(activation_checkpointing=again))
        if compile:
            compile_blocks(model, ParallelSettings(compile="always"), device)
        settings = OptimizerSettings(lr=LR, steps=1)
        super().__init__(work, model, build_optimizer(model, settings, lambda name, p: p.ndim == 2), device)
        self.batch = work.batch.to(device)
        self.weights = torch.ones(len(work.space), device=device)

    def update(self) -> None:
        take_step(self.optimizer, torch.ones((), device=self.device), math.inf)

    def loss(self) -> Tensor:
        return modality_loss(self.model(self.batch), self.work.batch.target_counts, self.weights, "modality")


class Peer(Side):
    """The released package as it is; AdamW as its users call it: ``torch.optim.AdamW(parameters)``."""

    def __init__(self, work: Work, config: AionConfig, device: torch.device) -> None:
        from aion.fourm.fm import FM

        keys = [_upstream(spec) for spec in work.space.specs()]
        names = ["norm_bias", "act_layer", "dim", "encoder_depth", "decoder_depth", "num_heads", "mlp_ratio"]
        names += ["qkv_bias", "proj_bias", "mlp_bias", "gated_mlp", "qk_norm"]
        model = FM({**{n: getattr(config, n) for n in names}, "domains_in": keys, "domains_out": keys})
        _copy_weights(AionModel(config, work.space), model, dict(zip(work.space.keys, keys, strict=True)))
        model = model.to(device)
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        super().__init__(work, model, torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95)), device)
        self.tensors = {k: {n: t.to(device) for n, t in d.items()} for k, d in work.peer.items()}
        self.present = sum(map(bool, work.batch.target_counts))
        self.budgets = work.batch.input_slot.shape[1], work.batch.target_slot.shape[1]

    def loss(self) -> Tensor:
        loss, by_modality = self.model({k: dict(d) for k, d in self.tensors.items()}, *self.budgets)
        return loss.sum() * (len(by_modality) / self.present)  # it counts modalities without targets, too


def _copy_weights(ours: AionModel, peer: nn.Module, names: dict[str, str]) -> None:
    state = {}
    for name, tensor in ours.state_dict().items():
        parts = name.split(".")
        if parts[0] in ("encoder_embeddings", "decoder_embeddings"):
            parts[1] = names[parts[1]]
        state[".".join(parts)] = tensor
    missing, unexpected = peer.load_state_dict(state, strict=False)
    # What the peer has beside: fixed positions, zero biases of its norms, the shared embedding's other name, and the
    # decoder's token embeddings that the mask token replaces.
    unknown = [n for n in missing if not n.endswith(("pos_emb", "norm.bias", "mod_emb", "token_emb.weight"))]
    unknown = [n for n in unknown if not (".norm" in n and n.endswith(".bias"))]
    if unexpected or unknown:
        raise SystemExit(f"The weights do not carry over: {unexpected[:3]} {unknown[:3]}")


def matmul_seconds(
    config: AionConfig, batch_size: int, budgets: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[int, float]:
    """Return FLOPs and seconds of the blocks' linear layers alone: forward and both products of backward.

    A GPU does each as often as there are blocks, one after the other, so that starting it does not count.
    """
    n, m, d, h = batch_size * budgets[0], batch_size * budgets[1], config.dim, config.mlp_hidden
    mlp = [(d, h), (d, h), (h, d)] if config.gated_mlp else [(d, h), (h, d)]
    encoder = [(n, *shape) for shape in [(d, 3 * d), (d, d), *mlp]]
    decoder = [(m, *shape) for shape in [(d, 3 * d), (d, d), (d, d), (d, d), *mlp]] + [(n, d, 2 * d)]
    flops, seconds = 0, 0.0
    for depth, shapes in ((config.encoder_depth, encoder), (config.decoder_depth, decoder)):
        for rows, k, width in shapes:
            x, w = (torch.randn(size, dtype=dtype, device=device) for size in ((rows, k), (width, k)))
            g = torch.randn(rows, width, dtype=dtype, device=device)
            times = depth if device.type == "cuda" else 1
            if times > 1:
                x @ w.T, g @ w, g.T @ x  # the first of a shape looks for its kernel
            start = _synchronised(device)
            for _ in range(times):
                x @ w.T, g @ w, g.T @ x
            seconds += depth / times * (_synchronised(device) - start)
            flops += depth * 6 * rows * k * width
    return flops, seconds


def _synchronised(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter()
