"""What the model consumes: selected tokens only, before any embedding (DESIGN section 7)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """B samples with N input places and M target places; padding has slot −1 and code 0.

    Slots are the token space's slot numbers. The number of targets of each slot is known on the host, and
    `target_order` lists them slot by slot, so that no operation on the device has to wait for the host.

    Attributes
    ----------
    input_code, input_slot, input_position
        Code within the slot's vocabulary, slot number, and token index within the modality: int64 ``[B, N]``.
    target_code, target_slot, target_position
        The same for what is to be predicted: int64 ``[B, M]``, sorted by slot within each sample, padding last.
    target_input
        Teacher-forced previous code of a causal sequence; −1 where the decoder sees the mask token: ``[B, M]``.
    target_order
        Flat indices into ``B * M`` of the valid targets, sorted by slot (stable): int64 ``[T]``.
    target_counts
        Valid targets by slot, one integer per slot of the token space; they sum to T. On the host.
    input_full, target_full
        Whether no input (target) place is padding, in which case attention needs no padding mask. On the host.
    index
        Where each sample came from, for error reports: int64 ``[B]``, the loader's sample numbers. On the host.
    """

    input_code: Tensor
    input_slot: Tensor
    input_position: Tensor
    target_code: Tensor
    target_slot: Tensor
    target_position: Tensor
    target_input: Tensor
    target_order: Tensor
    target_counts: tuple[int, ...]
    input_full: bool
    target_full: bool
    index: Tensor

    def __len__(self) -> int:
        return len(self.input_slot)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """Return the batch with its device tensors on a device; `index` stays on the host."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if f.name.startswith(("input_", "target_")) and isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)
