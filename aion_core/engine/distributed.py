"""Several processes that train one model: who they are, and what they add up.

torchrun starts the processes and tells them about each other by environment variables; without it, the one process is
all there is, and nothing here communicates. Every collective is called by all ranks at the same place of the loop,
whatever data a rank holds: one that lacks a modality adds zeros.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aion_core.contract import AionError

#: What gloo and nccl say of a process that is no longer there.
PEER_LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes
    ----------
    rank, size
        This process, 0 … size − 1.
    device
        Where this process computes. Tensors on it are communicated by its own means (nccl on GPUs), tensors on the
        host by gloo, for which no device has to wait.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def lead(self) -> bool:
        """Whether this is the one process that writes and prints."""
        return self.rank == 0

    def share(self, total: int, what: str) -> int:
        """Return this rank's part of a number that all ranks share evenly; `what` names it if they cannot."""
        if total % self.size:
            raise AionError(
                f"{what} is {total}, which {self.size} processes cannot share evenly; choose a multiple of {self.size}."
            )
        return total // self.size

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def add(self, values: Sequence[int]) -> list[int]:
        """Return the sums of some integers over all ranks."""
        return self.sum(torch.tensor(values, dtype=torch.int64)).tolist() if self.size > 1 else list(values)

    def most(self, values: Sequence[float]) -> list[float]:
        """Return the largest of each number that any rank has."""
        largest = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def any(self, flag: bool) -> bool:
        """Return whether any rank raises the flag."""
        return self.add([int(flag)])[0] > 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add gradients up over all ranks, in place; a parameter that a rank did not use counts as zero there."""
        used = [p for p in parameters if p.requires_grad]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.size == 1 or not used:
            return
        flat = torch.cat([p.grad.reshape(-1) for p in used if p.grad is not None])
        dist.all_reduce(flat)
        for p, part in zip(used, flat.split([p.numel() for p in used]), strict=True):
            p.grad = part.view_as(p)

    def average_buffers(self, module: nn.Module) -> None:
        """Give all ranks the mean of each floating-point buffer that training moves (running statistics)."""
        if self.size > 1:
            for name, buffer in module.named_buffers():
                if "running_" in name and buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.size

    def gather(self, value: Any) -> list[Any]:
        """Return a JSON value of every rank, in the order of the ranks, on all ranks."""
        if self.size == 1:
            return [value]
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(text)]))
        padded = torch.zeros(max(int(n) for n in lengths), dtype=torch.uint8)
        padded[: len(text)] = text
        texts = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(texts, padded)
        return [json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(texts, lengths, strict=True)]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.add([0])


@contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """Yield the processes that torchrun started (gloo for the host, nccl for GPUs); this one alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if size == 1 or dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), device) if dist.is_initialized() else World(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    except RuntimeError as error:
        if not any(words in str(error) for words in PEER_LOST):
            raise
        raise AionError(
            "Another process of this run has ended, without which this one cannot go on; what that one said tells why. "
            "What was saved is untouched."
        ) from None
    finally:
        dist.destroy_process_group()


def is_lead() -> bool:
    """Whether this process is the one that prints, as far as the environment tells."""
    return os.environ.get("RANK", "0") == "0"


def mean_over_ranks(local: Tensor, count: int | Tensor) -> Tensor:
    """Return the mean over all ranks of means over `count` items each, for a loss that is not a sum over objects.

    Its value is that of the whole batch. Its gradient is that of the rank's own part, so that gradients that are
    summed over ranks with each rank's share of the items as weight are those of the whole batch. Every rank must call
    it equally often. In a single process, the tensor itself.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return local
    weight = torch.as_tensor(count, dtype=local.dtype, device=local.device)
    both = torch.cat([(local.detach() * weight).reshape(-1), weight.reshape(1)])
    dist.all_reduce(both)
    whole = (both[:-1] / both[-1].clamp(min=torch.finfo(local.dtype).tiny)).view_as(local)
    return local + (whole - local.detach())
