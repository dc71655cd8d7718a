"""What the model consumes: selected tokens only, before any embedding (DESIGN section 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from aion_core.contract import SEQUENCE_IDS, InputError, ModalitySpec, TokenSpace


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
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def packed(self) -> Self:
        """Return the batch without input places that none of its samples needs; the order of the others stays.

        What objects lack, and places that are left out, would cost as much as what they have.
        """
        valid = self.input_slot >= 0
        kept = torch.argsort(~valid, dim=1, stable=True)[:, : max(1, int(valid.sum(1).max()))]
        code, slot, place = (t.gather(1, kept) for t in (self.input_code, self.input_slot, self.input_position))
        full = bool((slot >= 0).all())
        return replace(self, input_code=code, input_slot=slot, input_position=place, input_full=full)

    def pinned(self) -> Self:
        """Return the batch in page-locked memory, from which a GPU copies while it computes and the host goes on."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name.startswith(("input_", "target_"))}
        changed: dict[str, Any] = {name: change(v) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed)


def n_positions(spec: ModalitySpec) -> int:
    """Positions that a modality takes: its tokens; in a sequence one more an item for sentinels and end."""
    return spec.n_tokens + (spec.n_tokens // spec.item_tokens if spec.order == "causal" else 0)


def batch_of_tokens(
    space: TokenSpace,
    inputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    check: bool = True,
    previous: Mapping[str, Tensor] | None = None,
) -> TokenBatch:
    """Build the batch that asks for `targets` given `inputs`, all tokens kept, nothing masked at random.

    Parameters
    ----------
    space
        The model's token space.
    inputs, targets
        ``{key: codes}``, integer ``[B, n]`` or ``[B, *shape]``; −1 marks what an object lacks, and such places
        become padding where they stand. Target codes only matter to a loss.
    check
        Whether to look for codes outside the vocabulary (which waits for the device the codes are on).
    previous
        What the decoder sees in the places of a target modality, of the target's shape; the mask token by default.
    """
    for side in (inputs, targets):
        if len({space.index(key) for key in side}) < len(side):
            raise InputError(f"Two names of one modality are among {', '.join(side)}.")
    inputs, targets = ({key: _integers(key, codes) for key, codes in side.items()} for side in (inputs, targets))
    size = {len(codes) for side in (inputs, targets) for codes in side.values()}
    if len(size) != 1:
        raise InputError(f"Tokens of one batch must have one batch size, not {sorted(size) or 'no modality at all'}.")
    sides = []
    for side in (inputs, targets):
        by_slot = sorted((space.index(key), key) for key in side)
        parts = [_columns(space, index, side[key], check) for index, key in by_slot]
        sides.append([torch.cat(columns, dim=1) for columns in zip(*parts, strict=True)] if parts else None)
    empty = [torch.zeros((*size, 0), dtype=torch.int64)] * 3
    (code, slot, position), (t_code, t_slot, t_position) = (side or empty for side in sides)
    flat = t_slot.reshape(-1)
    order = torch.argsort(torch.where(flat < 0, len(space), flat), stable=True)
    counts = torch.bincount(flat[flat >= 0], minlength=len(space))
    return TokenBatch(
        input_code=code,
        input_slot=slot,
        input_position=position,
        target_code=t_code,
        target_slot=t_slot,
        target_position=t_position,
        target_input=_target_input(space, targets, previous or {}, t_code),
        target_order=order[: int(counts.sum())],
        target_counts=tuple(counts.tolist()),
        input_full=bool((slot >= 0).all()),
        target_full=bool((t_slot >= 0).all()),
        index=torch.arange(*size),
    )


def _integers(key: str, codes: Any) -> Tensor:
    tensor = torch.as_tensor(codes)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool or tensor.ndim == 0:
        raise InputError(f"{key}: tokens are integers [B, n], not {tensor.dtype} {list(tensor.shape)}.")
    return tensor.to(torch.int64)


def _columns(space: TokenSpace, index: int, codes: Tensor, check: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, slots and positions ``[B, n]`` of one modality; absent codes get slot −1."""
    spec = space.slots[index].spec
    flat = codes.flatten(1) if codes.ndim > 1 else codes[:, None]
    causal = spec.order == "causal"
    most = n_positions(spec)
    if flat.shape[1] > most or (flat.shape[1] < most and not causal):
        raise InputError(
            f"{spec.key}: {flat.shape[1]} tokens an object, expected {'at most ' if causal else ''}{most}."
        )
    if check and flat.numel() and (int(flat.min()) < -1 or int(flat.max()) >= spec.vocab_size):
        raise InputError(f"{spec.key}: codes must be −1 (absent) or 0 … {spec.vocab_size - 1}.")
    absent = flat < 0
    position = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    return flat.clamp(min=0), torch.where(absent, -1, index), position


def _target_input(
    space: TokenSpace, targets: Mapping[str, Tensor], previous: Mapping[str, Tensor], codes: Tensor
) -> Tensor:
    if unasked := sorted(set(previous) - set(targets)):
        raise InputError(
            f"What precedes the tokens of {unasked[0]} is given, but under that name nothing is asked for."
        )
    if not previous:
        return torch.full_like(codes, -1)
    parts = [previous.get(key, torch.full_like(targets[key], -1)) for key in sorted(targets, key=space.index)]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def conditional_batch(
    tokens: Mapping[str, Any], inputs: Sequence[str], targets: Sequence[str], space: TokenSpace
) -> TokenBatch:
    """Build the batch that asks for whole modalities given whole others: nothing is masked at random.

    A causal sequence is asked for from its first token to its end, teacher-forced, as if all of it were one hidden run.

    Parameters
    ----------
    tokens
        ``{key: codes [B, n] or [B, *shape]}``, arrays or tensors; −1 where an object lacks the modality, in which case
        its places are padding.
    inputs, targets
        Keys of `tokens`; none may be both.
    space
        The model's token space.
    """
    if both := set(inputs) & set(targets):
        raise InputError(f"{min(both)} cannot be both input and target of one prediction.")
    codes = {key: torch.as_tensor(tokens[key]).flatten(1).to(torch.int64) for key in (*inputs, *targets)}
    asked, previous = {key: codes[key] for key in targets}, {}
    for key in targets:
        if space[key].spec.order == "causal":
            asked[key], previous[key] = _teacher_forced(codes[key])
    return batch_of_tokens(space, {key: codes[key] for key in inputs}, asked, previous=previous)


def _teacher_forced(codes: Tensor) -> tuple[Tensor, Tensor]:
    """From sequences ``[B, n]`` to targets and what precedes them ``[B, n + 1]``; −1 behind each sequence's end."""
    empty = codes.new_full((len(codes), 1), -1)
    target, length = torch.cat([codes, empty], dim=1), (codes >= 0).sum(dim=1)
    there = torch.arange(target.shape[1], device=codes.device) <= torch.where(length > 0, length, -1)[:, None]
    target = torch.where(there & (target < 0), SEQUENCE_IDS.end, target)
    before = torch.cat([empty + 1 + SEQUENCE_IDS.first_sentinel, codes], dim=1)
    return target, torch.where(there, before, -1)
