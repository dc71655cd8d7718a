"""Tensors of which several processes hold parts, on disk as safetensors.

Each process writes what it holds into a file of its own, ``model-00002-of-00004.safetensors``, whose header says where
in each whole tensor its part begins; a single process writes plain ``model.safetensors``. The files are those of
PyTorch's distributed checkpoints in safetensors: `torch.distributed.checkpoint.HuggingFaceStorageReader` reads them,
and any number of processes may.

They are not written by `torch.distributed.checkpoint` itself, whose asynchronous saving is declared experimental, plans
with collectives in a background thread beside those of the training, neither syncs nor renames, and by default keeps
its index in a pickle. Here nothing is communicated while a checkpoint is written, and nothing but tensors and JSON is
ever read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from aion_core.contract import InputError
from aion_core.files import open_safetensors, write_safetensors

#: Under this key of the header stands ``{name: {"saved_offsets": [first row, 0, …]}}``, as DCP writes it.
INFO, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


@dataclass(frozen=True)
class Part:
    """Rows of a tensor from `first` on, on the host."""

    first: int
    tensor: Tensor


Parts: TypeAlias = dict[str, Part]


def local_rows(tensor: Tensor) -> tuple[int, Tensor]:
    """Return what this process holds of a tensor, and the row at which that begins."""
    if not isinstance(tensor, DTensor):
        return 0, tensor
    local, first = tensor.to_local(), 0
    for axis, placement in enumerate(tensor.placements):
        if placement.is_shard(0):
            each = -(-tensor.shape[0] // tensor.device_mesh.size(axis))
            first = min(tensor.shape[0], each * tensor.device_mesh.get_local_rank(axis))
        elif not placement.is_replicate():
            raise ValueError(f"{placement} is neither whole nor cut by rows")
    return first, local


def holders(tensors: Mapping[str, Tensor]) -> int:
    """Return how many processes together hold all tensors once; these are the first ones."""
    cut = [t for t in tensors.values() if isinstance(t, DTensor)]
    return next((t.device_mesh.size(i) for t in cut for i, p in enumerate(t.placements) if p.is_shard()), 1)


def staged(tensors: Mapping[str, Tensor], rank: int) -> Parts:
    """Copy to the host what a process is to write: its rows of what is cut, and on the lead what is whole."""
    parts: Parts = {}
    if rank >= holders(tensors):
        return parts
    for name, tensor in tensors.items():
        if rank == 0 or isinstance(tensor, DTensor):
            first, local = local_rows(tensor.detach())
            if local.numel() or not tensor.numel():
                parts[name] = Part(first, torch.empty_like(local, device="cpu").copy_(local))
    return parts


def file_name(stem: str, rank: int, files: int) -> str:
    """Return the name of a process's file.

    Examples
    --------
    >>> file_name("model", 0, 1), file_name("model", 1, 4)
    ('model.safetensors', 'model-00002-of-00004.safetensors')
    """
    return f"{stem}.safetensors" if files == 1 else f"{stem}-{rank + 1:05d}-of-{files:05d}.safetensors"


def write_parts(path: Path, parts: Parts) -> None:
    """Write the parts of one process."""
    metadata = {"format": "pt"}
    if "-of-" in path.name:  # and nothing besides: safetensors writes several entries in any order
        starts = {name: [part.first, *[0] * part.tensor.ndim][: part.tensor.ndim] for name, part in parts.items()}
        metadata = {INFO: json.dumps({name: {OFFSETS: start} for name, start in starts.items()}, sort_keys=True)}
    write_safetensors(path, {name: part.tensor for name, part in parts.items()}, metadata)


class SavedTensors:
    """Tensors that a number of processes wrote under one stem; open while used as a context.

    Attributes
    ----------
    shapes
        Of the whole tensors, by name.

    Raises
    ------
    InputError
        If a file is missing or damaged, or if parts do not make up whole tensors.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder, self.stem = folder, stem
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, list[tuple[int, int, Any]]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for path in part_files(self.folder, self.stem):
                self._look_into(stack.enter_context(open_safetensors(path)), path)
            self._open = stack.pop_all()
        for name, parts in self._parts.items():
            parts.sort(key=lambda part: part[0])
            ends = [0, *(stop for _, stop, _ in parts)]
            if [first for first, _, _ in parts] != ends[:-1]:
                raise InputError(f"{self.folder}: the parts of {name} do not make up a whole tensor.")
            if self.shapes[name]:
                self.shapes[name] = (ends[-1], *self.shapes[name][1:])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._open.__exit__(kind, error, tb)

    def _look_into(self, file: Any, path: Path) -> None:
        try:
            places = json.loads((file.metadata() or {}).get(INFO, "{}"))
            for name in file.keys():  # noqa: SIM118
                shape = tuple(file.get_slice(name).get_shape())
                first = places[name][OFFSETS][0] if name in places and shape else 0
                self.shapes[name] = shape
                self._parts.setdefault(name, []).append((first, first + (shape[0] if shape else 0), file))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise InputError(f"{path}: its header does not say what parts of tensors it holds.") from None

    def read(self, name: str, first: int = 0, stop: int | None = None) -> Tensor:
        """Return a whole tensor, or its rows from `first` to before `stop`."""
        if not self.shapes[name]:
            return self._parts[name][0][2].get_tensor(name)
        stop = self.shapes[name][0] if stop is None else stop
        found = [
            file.get_slice(name)[max(first, begin) - begin : min(stop, end) - begin]
            for begin, end, file in self._parts[name]
            if begin < stop and first < end
        ]
        if not found:
            return self._parts[name][0][2].get_slice(name)[:0]
        return torch.cat(found) if len(found) > 1 else found[0]

    @torch.no_grad()
    def fill(self, name: str, tensor: Tensor) -> None:
        """Copy a saved tensor into one of the same shape, of which this process may hold a part only."""
        first, local = local_rows(tensor)
        local.copy_(self.read(name, first, first + len(local)) if local.ndim else self.read(name))

    def check(self, expected: Mapping[str, tuple[int, ...]], what: str) -> None:
        """Refuse names or shapes that differ from those expected by `what`."""
        if self.shapes != expected:
            name = min(set(expected.items()) ^ set(self.shapes.items()))[0]
            raise InputError(
                f"{self.folder / self.stem}.safetensors does not fit {what}: {name} is "
                f"{self.shapes.get(name, 'missing')} in the file and {expected.get(name, 'not expected')} in {what}."
            )


def part_files(folder: Path, stem: str) -> list[Path]:
    """Return the files of a stem, all of them or an `InputError`."""
    whole = folder / file_name(stem, 0, 1)
    if whole.is_file():
        return [whole]
    found = sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    try:
        files = int(found[0].stem.rpartition("-")[2]) if found else 0
    except ValueError:
        files = 0
    expected = [folder / file_name(stem, rank, files) for rank in range(files)]
    if not files or found != expected:
        raise InputError(
            f"{folder} has {len(found) or 'no'} of the {files or 'expected'} files of {stem}.safetensors: it is "
            "not a whole checkpoint."
        )
    return found
