"""What the tokens of an AION-1 release mean, where no manifest says it.

Vocabularies and positions are read off the tensors; the rest comes from the installed plugins that declare an upstream
key. Where none does, the modality keeps that key, and its stored tokens can be used (DESIGN section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aion_core.contract import (
    SEQUENCE_IDS,
    DisabledKeyError,
    InputError,
    ModalitySpec,
    Provenance,
    Slot,
    TokenSpace,
    TokenSpaceError,
    UnknownKeyError,
    is_key,
    provenance_id,
)
from aion_core.model.embeddings import position_table
from aion_core.plugins import load_registry

#: Rows of the release's position table of a sequence, whatever the sequence's greatest length.
SEQUENCE_ROWS = 512

#: Kind of a modality that nothing describes, by its positions.
KINDS = {"scalar": "scalar", "seq1d": "source_list", "column": "coefficients", "grid2d": "image"}


def released_space(domains: Iterable[str], tensors: Mapping[str, Tensor], dim: int, path: Path) -> TokenSpace:
    """Return the token space of a release's tensors, its modalities in the order of `domains`."""
    registry = load_registry()
    slots = []
    for name in domains:
        vocab_size, table = _vocabulary(name, tensors, dim, path), _positions(name, tensors, dim, path)
        try:
            slot = registry.slot(name)
        except (UnknownKeyError, DisabledKeyError):
            slots.append(Slot(spec=_undescribed(name, vocab_size, table, path)))
            continue
        spec = slot.spec
        if spec.vocab_size != vocab_size or not _is_table(spec, table):
            raise TokenSpaceError(
                f"{path}: {name} has {vocab_size} codes and {_rows(table)} positions, but the installed plugin's "
                f"{spec.key} has {spec.vocab_size} codes on a grid of {'×'.join(map(str, spec.shape))}; a changed "
                "meaning needs a new key."
            )
        slots.append(slot)
    return TokenSpace().append(slots)


def _vocabulary(name: str, tensors: Mapping[str, Tensor], dim: int, path: Path) -> int:
    candidates = [f"encoder_embeddings.{name}.token_emb.weight", f"decoder_embeddings.{name}.to_logits.weight"]
    found = [tensors[candidate] for candidate in candidates if candidate in tensors]
    if not found:
        raise InputError(
            f"The configuration beside {path} names the modality {name!r}, of which the file has no tensors "
            f"({candidates[0]}); the two are not of one model."
        )
    for candidate in candidates:
        if candidate in tensors and (tensors[candidate].ndim != 2 or tensors[candidate].shape[1] != dim):
            found_shape = list(tensors[candidate].shape)
            raise InputError(f"{path}: {candidate} is {found_shape}; the configuration expects [codes, {dim}].")
    return len(found[0])


def _positions(name: str, tensors: Mapping[str, Tensor], dim: int, path: Path) -> Tensor:
    """Return the stored positions ``[1, n, D]`` of a modality; both sides have the same."""
    names = [f"{side}_embeddings.{name}.pos_emb" for side in ("encoder", "decoder")]
    found = {n: tensors[n] for n in names if n in tensors}
    if not found:
        raise InputError(
            f"{path} has no {names[0]}, and the folder has no manifest.json, so nothing says what {name!r} is."
        )
    first = next(iter(found.values()))
    for stored, table in found.items():
        if not table.is_floating_point():
            raise InputError(f"{path}: {stored} holds {table.dtype}, not floating-point numbers.")
        if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != dim:
            raise InputError(f"{path}: {stored} is {list(table.shape)}; the configuration expects [1, n, {dim}].")
        if table.shape != first.shape or not _close(table, first):  # sines may differ by a rounding, run by run
            raise InputError(f"{path}: {' and '.join(found)} differ, but a token's position is the same for both.")
    return first


def _undescribed(name: str, vocab_size: int, table: Tensor, path: Path) -> ModalitySpec:
    """Return the spec of a modality that no installed plugin declares."""
    if not is_key(name):
        raise InputError(f"{path}: {name!r} cannot be a modality's key (lower-case letters, digits, underscores).")
    n = _rows(table)
    # Of a sequence, the table has a row for each token and for each sentinel, were every token hidden by itself.
    shapes: list[tuple[str, tuple[int, ...]]] = [("scalar", (1,))] if n == 1 else []
    if n > 1:
        shapes = [("grid2d", (n,)), *(("grid2d", (h, n // h)) for h in range(1, n) if n % h == 0)]
    if n % 2 == 0 and vocab_size > SEQUENCE_IDS.first_code:
        shapes.append(("seq1d", (n // 2,)))
    for position, shape in shapes:
        spec = _spec(name, vocab_size, position, shape)
        if _is_table(spec, table):
            return spec
    raise InputError(f"{path}: the positions of {name!r} are not the fixed sines of a grid or a sequence.")


def _spec(name: str, vocab_size: int, position: Any, shape: tuple[int, ...]) -> ModalitySpec:
    kind: Any = KINDS["column" if position == "grid2d" and len(shape) == 1 else position]
    return ModalitySpec(
        key=name,
        upstream_key=name,
        survey="unknown",
        title=f"{name} of the AION-1 release; no installed plugin describes it",
        citation="AION-1, arXiv 2510.17960",
        kind=kind,
        quantity="meta.code",
        units="",
        vocab_size=vocab_size,
        shape=shape,
        position=position,
        order="causal" if position == "seq1d" else "masked",
        provenance=Provenance(
            id=provenance_id(f"urn:aion:release:{name}"), instrument="unknown", release="AION-1 release"
        ),
    )


def _rows(table: Tensor) -> int:
    return table.shape[1]


def _is_table(spec: ModalitySpec, table: Tensor) -> bool:
    """Whether stored positions ``[1, n, D]`` are those of a spec, up to the rounding of the type they are stored in."""
    if spec.position != "seq1d" and _rows(table) != spec.n_tokens:
        return False
    return _close(table[0], position_table(spec, table.shape[2], _rows(table)))


def _close(stored: Tensor, expected: Tensor) -> bool:
    tolerance = max(1e-5, 2 * torch.finfo(stored.dtype).eps)
    return bool(torch.allclose(stored.float(), expected.float(), rtol=0, atol=tolerance))
