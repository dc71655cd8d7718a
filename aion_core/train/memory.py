"""How much memory a step takes on one GPU, found out without having it.

What weights, gradients and optimiser take follows from the number of parameters N and of GPUs that share them, S
(`state_bytes`). What the forward and backward pass take on top depends on every operation of the model, so it is not
modelled: the model's own code runs on tensors that have shapes and no contents, and what would be allocated is added
up (`step_bytes`). Compiled blocks keep a tenth to a fifth less, because they compute cheap things again.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aion_core.contract import AionError, TokenSpace
from aion_core.data.batches import TokenBatch
from aion_core.data.masking import MaskingConfig
from aion_core.model import AionModel
from aion_core.model.config import AionConfig
from aion_core.train.config import TrainConfig
from aion_core.train.parallel import blocks, checkpoint_activations, choose_trained, weights_of_products

#: CUDA context, communication buffers, and what the allocator cannot fill.
RESERVE = 3 << 30


def memory_per_gpu(config: TrainConfig, space: TokenSpace, gpus: int, targets: Sequence[float]) -> dict[str, int]:
    """Return the bytes that one of the GPUs needs, by what needs them, and their ``total``.

    Parameters
    ----------
    targets
        Mean number of targets of a sample by slot.
    """
    samples = config.data.batch_size // gpus
    parts = state_bytes(config, space, gpus)
    parts["activations"] = step_bytes(config, space, samples, targets, sharded=gpus > 1)
    parts["reserve"] = RESERVE
    return parts | {"total": sum(parts.values())}


@contextmanager
def telling_what_is_too_little() -> Iterator[None]:
    """Turn running out of memory into one sentence that says what needs less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        where = "of the GPU" if isinstance(error, torch.OutOfMemoryError) else "of this machine"
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise AionError(
            f"The memory {where} is too little ({str(error).splitlines()[0][:120].rstrip('.')}); what was saved is "
            "untouched. Set parallel.activation_checkpointing, lower data.batch_size and raise data.accumulate as "
            "much, or share the model among more GPUs; `aion train --dry-run` tells what a run needs."
        ) from None


def state_bytes(config: TrainConfig, space: TokenSpace, gpus: int) -> dict[str, int]:
    """Return what is there besides activations, by kind.

    With N parameters in float32, shared by S = GPUs / replicas: weights ``4 N / S``, and for those that are trained
    gradients ``4 N / S`` and moments of AdamW ``8 N / S``. Several GPUs compute with gathered copies, of c bytes a
    parameter (2, or 4 in fp32): all N for ZeRO-2; of the root (embeddings and heads) and of two blocks, one in use and
    one on its way, for full sharding. Gradients come whole, a block or the root at a time, c bytes a parameter and 4
    more to be summed over ranks; while steps accumulate, ``4 N`` of them stay whole. Alone, a GPU computes with copies
    that count as activations; in bfloat16, without accumulation, it keeps gradients of products so: 2 bytes.
    """
    with torch.device("meta"):
        model = AionModel(config.model.build(), space)
    choose_trained(model, config)
    (total, root, largest), (trained, *parts) = (_sizes(model, only) for only in (False, True))
    shards = max(1, gpus // config.parallel.replicate)
    found = {"weights": 4 * total // shards, "gradients": 4 * trained // shards, "optimiser": 8 * trained // shards}
    if gpus == 1 and config.run.precision != "fp32" and config.data.accumulate == 1:
        found["gradients"] -= 2 * sum(p.numel() for p in weights_of_products(model) if p.requires_grad)
    if gpus > 1:
        copy = 4 if config.run.precision == "fp32" else 2
        gathered = total if config.parallel.sharding == "zero2" else root + 2 * largest
        found["gathered weights"] = copy * gathered
        found["gradients not yet shared"] = (copy + 4) * max(parts)
        if config.data.accumulate > 1:
            found["gradients not yet shared"] += 4 * trained
    return found


def _sizes(model: AionModel, trained: bool) -> tuple[int, int, int]:
    """Return the parameters of a model, of its root (embeddings and heads) and of its largest block."""

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)

    by_block = [size(block) for block in blocks(model)]
    return size(model), size(model) - sum(by_block), max(by_block)


def step_bytes(
    config: TrainConfig, space: TokenSpace, samples: int, targets: Sequence[float], sharded: bool = False
) -> int:
    """Return the most bytes that the forward and backward pass of some samples take besides weights and gradients.

    Measured at depths 1 and 2 and extended, for every further block is like those.
    """
    model = config.model.build()

    def at(encoder: int, decoder: int) -> int:
        shallow = model.model_copy(update={"encoder_depth": encoder, "decoder_depth": decoder})
        return _peak(shallow, space, config, samples, targets, sharded)

    base, depth = at(1, 1), model.encoder_depth
    if depth == model.decoder_depth:
        return base + (at(2, 2) - base) * (depth - 1)
    deeper = ((at(2, 1) - base) * (model.encoder_depth - 1), (at(1, 2) - base) * (model.decoder_depth - 1))
    return base + sum(deeper)


def _peak(
    model_config: AionConfig,
    space: TokenSpace,
    config: TrainConfig,
    samples: int,
    targets: Sequence[float],
    sharded: bool,
) -> int:
    half = config.run.precision != "fp32"
    with FakeTensorMode():
        model = AionModel(model_config, space)
        choose_trained(model, config)
        if sharded and half:  # sharding hands out weights in bf16, so that autocast has nothing to copy
            _halve(model)
        checkpoint_activations(model, config.parallel)
        batch = any_batch(space, config.masking, samples, targets)
        return peak_of_step(model, batch, half)


def _halve(model: nn.Module) -> None:
    for module in model.modules():  # `to` cannot swap tensors that have no contents
        for name, parameter in module.named_parameters(recurse=False):
            half = parameter.detach().to(torch.bfloat16)
            setattr(module, name, nn.Parameter(half, parameter.requires_grad))


def peak_of_step(model: AionModel, batch: TokenBatch, half: bool) -> int:
    """Return the most bytes that were alive at once in a forward and backward pass, besides weights and gradients."""
    for parameter in model.parameters():  # as soon as it is there, a gradient is counted elsewhere
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with LiveBytes() as live:
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext():
            loss = model(batch).sum()
        loss.backward()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Adds up the memory of all tensors that are made while it is active and still alive.

    Attributes
    ----------
    now, peak
        Bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in inputs | self._alive:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        size, name = storage.nbytes(), id(storage)
        self._alive.add(name)
        self.now += size
        self.peak = max(self.peak, self.now)

        def remove() -> None:
            self._alive.discard(name)
            self.now -= size

        weakref.finalize(storage, remove)


def any_batch(space: TokenSpace, masking: MaskingConfig, samples: int, targets: Sequence[float]) -> TokenBatch:
    """Return a batch of some shape, for counting: as many targets of each slot as the mean says, places not all full.

    On average; what is left over by rounding down goes to none.
    """
    counts = tuple(int(samples * mean) for mean in targets)
    inputs = torch.zeros(samples, masking.input_budget, dtype=torch.int64)
    places = torch.zeros(samples, masking.target_budget, dtype=torch.int64)
    return TokenBatch(
        input_code=inputs,
        input_slot=inputs,
        input_position=inputs,
        target_code=places,
        target_slot=places,
        target_position=places,
        target_input=places - 1,
        target_order=torch.zeros(sum(counts), dtype=torch.int64),
        target_counts=counts,
        input_full=False,
        target_full=False,
        index=torch.zeros(samples, dtype=torch.int64),
    )


__all__ = [
    "LiveBytes",
    "any_batch",
    "memory_per_gpu",
    "peak_of_step",
    "state_bytes",
    "step_bytes",
    "telling_what_is_too_little",
]
