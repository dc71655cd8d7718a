"""Token, position and provenance embeddings of all modalities, as one table each.

Parameters stay per modality, which keeps growth and checkpoints trivial; they are concatenated once per step, so
that embedding a batch is three gathers and every parameter takes part in every step (DESIGN section 7).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_core.contract import ModalitySpec, TokenSpace
from aion_core.data.batches import n_positions


class TokenTable(nn.Module):
    """Weights ``[V, D]`` of one vocabulary, under the name that the release uses."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocab_size, dim))


class EncoderEmbedding(nn.Module):
    """What the encoder learns of one modality: its tokens ``[V, D]`` and its provenance ``[1, 1, D]``."""

    def __init__(self, spec: ModalitySpec, dim: int) -> None:
        super().__init__()
        self.token_emb = TokenTable(spec.vocab_size, dim)
        self.mod_emb = nn.Parameter(torch.zeros(1, 1, dim))


class DecoderEmbedding(nn.Module):
    """The head ``[V, D]`` of one modality, and, for causal sequences, the embeddings of teacher-forced tokens.

    The provenance embedding is the encoder's (REFERENCE section 3) unless `provenance` asks for one of its own. Masked
    modalities have no decoder token embedding: the mask token stands in their place, so it would never be trained.
    """

    def __init__(self, spec: ModalitySpec, dim: int, provenance: bool = False) -> None:
        super().__init__()
        self.to_logits = TokenTable(spec.vocab_size, dim)
        self.token_emb = TokenTable(spec.vocab_size, dim) if spec.order == "causal" else None
        self.mod_emb = nn.Parameter(torch.zeros(1, 1, dim)) if provenance else None


class Positions(nn.Module):
    """Fixed sine–cosine positions of all slots in one table; grids of equal geometry share their rows."""

    table: Tensor
    first_row: Tensor

    def __init__(self, space: TokenSpace, dim: int) -> None:
        super().__init__()
        blocks: dict[tuple[str, tuple[int, ...]], int] = {}
        tables: list[Tensor] = []
        rows = []
        for spec in space.specs():
            geometry = (spec.position, spec.shape)
            if geometry not in blocks:
                blocks[geometry] = sum(len(t) for t in tables)
                tables.append(position_table(spec, dim))
            rows.append(blocks[geometry])
        self.register_buffer("table", torch.cat([*tables, torch.zeros(0, dim)]), persistent=False)
        self.register_buffer("first_row", torch.tensor(rows, dtype=torch.int64), persistent=False)

    def forward(self, slot: Tensor, position: Tensor) -> Tensor:
        return F.embedding(self.first_row[slot] + position, self.table)


def position_table(spec: ModalitySpec, dim: int, rows: int | None = None) -> Tensor:
    """Sine–cosine positions ``[n_positions, D]`` of a modality, as in the release (REFERENCE section 3).

    For a grid of H × W tokens the first half of the channels encodes ``index // H`` and the second ``index % H``,
    each as sines then cosines; a sequence encodes its index, up to `rows` if given. A scalar is a grid of one token.
    """
    if spec.position == "seq1d":
        return _sines(torch.arange(rows or n_positions(spec)), dim)
    index = torch.arange(spec.n_tokens)
    height = spec.shape[0]
    return torch.cat([_sines(index // height, dim // 2), _sines(index % height, dim // 2)], dim=1)


def _sines(index: Tensor, dim: int) -> Tensor:
    frequency = 1.0 / 10_000 ** (torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))
    phase = index.to(torch.float32)[:, None] * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=1)
