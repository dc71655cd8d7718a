"""The encoder–decoder transformer over a token space."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_core.contract import AionError, TokenSpace
from aion_core.data.batches import TokenBatch, batch_of_tokens
from aion_core.model.config import AionConfig
from aion_core.model.embeddings import DecoderEmbedding, EncoderEmbedding, Positions
from aion_core.model.initialise import initialise
from aion_core.model.layers import Block, DecoderBlock, LayerNorm
from aion_core.model.linear import Linear, linear

if TYPE_CHECKING:
    from aion_core.model.released import ExportOnly

Known = TypeVar("Known", Mapping[str, Tensor], Sequence[str])


@dataclass(frozen=True)
class Embeddings:
    """What the encoder makes of B objects with N tokens.

    `values` ``[B, N, D]`` is the decoder's cross-attention context, ``proj(encoder output) + position + modality``;
    `valid` ``[B, N]`` is False where an object lacks the token; `modality` ``[B, N]`` is the slot number, −1 where
    not valid.
    """

    values: Tensor
    valid: Tensor
    modality: Tensor


class AionModel(nn.Module):
    """AION-1's transformer (paper section 3, appendix A) for any token space.

    Examples
    --------
    >>> model = AionModel(AionConfig(dim=64, encoder_depth=1, decoder_depth=1, num_heads=4), space)  # doctest: +SKIP
    >>> model.embed({"demo_flux_r": tokens}, pool="mean").shape                                      # doctest: +SKIP
    torch.Size([8, 64])
    """

    slot_offset: Tensor
    causal_row: Tensor
    is_causal: Tensor

    def __init__(
        self,
        config: AionConfig,
        space: TokenSpace,
        seed: int = 0,
        *,
        inputs: Collection[str] | None = None,
        outputs: Collection[str] | None = None,
    ) -> None:
        """Build a model with initial weights (`seed`); without any on the meta device.

        `inputs` and `outputs` are the modalities that can be given and asked for (default: all of the space).
        """
        super().__init__()
        if not len(space):
            raise AionError("A model needs at least one modality; its token space is empty.")
        self.config = config
        self.space = space
        self.export_only: ExportOnly | None = None  # what a release held besides
        self.inputs, self.outputs = (frozenset(space.keys if k is None else k) for k in (inputs, outputs))
        if space.keys[0] not in self.inputs:  # whose first row stands in the places of padding
            raise AionError(f"The first modality of a model must be one of its inputs; {space.keys[0]} is none.")
        self.encoder_embeddings = nn.ModuleDict(
            {s.key: EncoderEmbedding(s, config.dim) for s in space.specs() if s.key in self.inputs}
        )
        self.encoder = nn.ModuleList(Block(config) for _ in range(config.encoder_depth))
        self.encoder_norm = LayerNorm(config.dim, config.norm_bias)
        self.decoder_proj_context = Linear(config.dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, config.dim)) if registers else None
        shared = self.inputs if config.share_modality_embeddings else frozenset()
        self.decoder_embeddings = nn.ModuleDict(
            {
                s.key: DecoderEmbedding(s, config.dim, s.key not in shared)
                for s in space.specs()
                if s.key in self.outputs
            }
        )
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_depth))
        self.decoder_norm = LayerNorm(config.dim, config.norm_bias)
        with torch.device("cpu"):  # real also where parameters are on the meta device, to be materialised in shards
            self.positions = Positions(space, config.dim)
            causal = [spec.order == "causal" for spec in space.specs()]
            self.register_buffer("slot_offset", _first_rows(space, self.inputs), persistent=False)
            # Row 0 of the decoder's input table is the mask token; the causal vocabularies follow.
            sequences = {key for key, c in zip(space.keys, causal, strict=True) if c and key in self.outputs}
            self.register_buffer("causal_row", 1 + _first_rows(space, sequences).clamp(min=0), persistent=False)
            self.register_buffer("is_causal", torch.tensor(causal), persistent=False)
        if not self.mask_token.is_meta:
            initialise(self, seed)

    @property
    def device(self) -> torch.device:
        return self.mask_token.device

    # -- the two halves ------------------------------------------------------------------------------------------

    def encode(self, batch: TokenBatch) -> tuple[Tensor, Tensor | None]:
        """Return the context ``[B, R + N, D]`` and the mask of its valid places ``[B, 1, 1, R + N]`` (None: all).

        R registers, if the model has any, come first.
        """
        valid = batch.input_slot >= 0
        slot = batch.input_slot.clamp(min=0)
        tokens = self._encoder_tokens(batch, slot)
        place = self._place(slot, batch.input_position, self._provenance(self.encoder_embeddings))
        mask = None
        if not batch.input_full:
            tokens, place = tokens * valid[..., None], place * valid[..., None]
            mask = valid[:, None, None, :]
        x = tokens + place
        if (registers := self.register_tokens) is not None:
            front = (0, 0, registers.shape[1], 0)  # registers have no position, and are always there
            x = torch.cat([registers.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
            place = F.pad(place, front)
            mask = None if mask is None else F.pad(mask, front[2:], value=True)
        for block in self.encoder:
            x = block(x, mask)
        return self.decoder_proj_context(self.encoder_norm(x)) + place, mask

    def decode(self, batch: TokenBatch, context: Tensor, context_mask: Tensor | None, mean: bool = False) -> Tensor:
        """Return the decoder's output ``[B, M, D]`` at the target places of a batch; for `mean`, see `logits`."""
        slot = batch.target_slot.clamp(min=0)
        provenance = self._provenance(self.decoder_embeddings)
        x = self._decoder_tokens(batch, slot) + self._place(slot, batch.target_position, provenance)
        if not batch.target_full:
            x = x * (batch.target_slot >= 0)[..., None]
        mask = self._target_mask(batch)
        if mean and not self.config.decoder_causal_mask:
            # Before such a number all scores vanish, so that their softmax is uniform; −inf would give no attention.
            mask = x.new_full((), -1e30).expand(1, 1, x.shape[1], x.shape[1])
        for block in self.decoder:
            x = block(x, context, mask, context_mask)
        return self.decoder_norm(x)

    def head_logits(self, batch: TokenBatch, decoded: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield ``key, logits [T_key, V]`` of the valid targets of every output, in the batch's `target_order`.

        Outputs without targets are not left out: each head has a gradient in every step, if only of zeros.
        """
        by_slot = decoded.flatten(0, 1).index_select(0, batch.target_order).split(list(batch.target_counts))
        for key, x in zip(self.space.keys, by_slot, strict=True):
            if key in self.decoder_embeddings:
                yield key, linear(x, cast("DecoderEmbedding", self.decoder_embeddings[key]).to_logits.weight)

    def _encoder_embeddings(self) -> list[EncoderEmbedding]:
        return cast("list[EncoderEmbedding]", list(self.encoder_embeddings.values()))

    def _decoder_embeddings(self) -> list[DecoderEmbedding]:
        return cast("list[DecoderEmbedding]", list(self.decoder_embeddings.values()))

    def _provenance(self, side: nn.ModuleDict) -> Tensor:
        """Provenance embeddings ``[S, D]`` by slot: those of one side, where it has its own, else of the other."""
        other = self.decoder_embeddings if side is self.encoder_embeddings else self.encoder_embeddings
        own = [side[key].mod_emb if key in side else None for key in self.space.keys]
        pairs = zip(self.space.keys, own, strict=True)
        return torch.cat([cast("Tensor", other[key].mod_emb if e is None else e)[0] for key, e in pairs])

    def _place(self, slot: Tensor, position: Tensor, provenance: Tensor) -> Tensor:
        return self.positions(slot, position) + F.embedding(slot, provenance)

    def _encoder_tokens(self, batch: TokenBatch, slot: Tensor) -> Tensor:
        table = torch.cat([e.token_emb.weight for e in self._encoder_embeddings()])
        return F.embedding(self.slot_offset[slot] + batch.input_code, table)

    def _decoder_tokens(self, batch: TokenBatch, slot: Tensor) -> Tensor:
        causal = [e.token_emb.weight for e in self._decoder_embeddings() if e.token_emb is not None]
        table = torch.cat([self.mask_token[0], *causal])
        row = torch.where(batch.target_input >= 0, self.causal_row[slot] + batch.target_input, 0)
        return F.embedding(row, table)

    def _target_mask(self, batch: TokenBatch) -> Tensor | None:
        """Which targets see which ``[B, 1, M, M]``: those of their modality; in a causal sequence, the past of it.

        Without `decoder_sep_mask`, those of the modalities before it, too; with `decoder_causal_mask`, the past only.
        """
        slots = [i for i, count in enumerate(batch.target_counts) if count]
        ordered = self.config.decoder_causal_mask
        causal = ordered or any(self.space.slots[i].spec.order == "causal" for i in slots)
        if batch.target_full and len(slots) <= 1 and not causal:
            return None
        query, key = batch.target_slot[:, :, None], batch.target_slot[:, None, :]
        mask = query == key
        if not self.config.decoder_sep_mask:
            mask = mask | (key < query) & (key >= 0)
        if causal:
            size = batch.target_slot.shape[1]
            past = torch.ones(size, size, dtype=torch.bool, device=query.device).tril()
            mask = mask & (past if ordered else past | ~self.is_causal[query.clamp(min=0)])
        return mask[:, None]

    # -- what training and users call ------------------------------------------------------------------------------

    def forward(self, batch: TokenBatch) -> Tensor:
        """Return the cross-entropy sums by slot ``[S]``, in nats, over the valid targets of the batch.

        Dividing by the number of targets is the caller's: the counts of one step are summed over accumulation steps
        and ranks before they divide.
        """
        context, mask = self.encode(batch)
        decoded = self.decode(batch, context, mask)
        by_slot = batch.target_code.flatten().index_select(0, batch.target_order).split(list(batch.target_counts))
        codes = dict(zip(self.space.keys, by_slot, strict=True))
        sums = dict.fromkeys(self.space.keys, context.new_zeros((), dtype=torch.float32))
        for key, logits in self.head_logits(batch, decoded):  # one head's logits at a time are in memory
            sums[key] = F.cross_entropy(logits.float(), codes[key], reduction="sum")
        return torch.stack(list(sums.values()))

    @torch.no_grad()
    def embed(self, tokens: Mapping[str, Tensor], pool: Literal["mean"] | None = None) -> Embeddings | Tensor:
        """Embed objects from all the tokens given; nothing is dropped.

        Parameters
        ----------
        tokens
            ``{key: codes}``, integer ``[B, n]`` or ``[B, *shape]``; −1 marks what an object lacks.
        pool
            ``"mean"`` returns ``[B, D]``, the mean over an object's valid tokens (NaN where it has none).
        """
        batch = batch_of_tokens(self.space, self._known(tokens, self.inputs), {}).to(self.device)
        values, _ = self.encode(batch)
        values = values[:, self.config.num_register_tokens :]
        valid = batch.input_slot >= 0
        if pool is None:
            return Embeddings(values, valid, batch.input_slot)
        if pool != "mean":
            raise AionError(f"pool must be None or 'mean', not {pool!r}.")
        return (values * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)

    @torch.no_grad()
    def logits(
        self,
        tokens: Mapping[str, Tensor],
        targets: Sequence[str],
        target_attention: Literal["open", "mean"] = "open",
    ) -> dict[str, Tensor]:
        """Return ``{target: logits [B, n, V]}`` of all tokens of the target modalities, given `tokens`.

        Parameters
        ----------
        tokens
            ``{key: codes}``, integer ``[B, n]`` or ``[B, *shape]``; −1 marks what an object lacks.
        targets
            Keys of modalities, under which the logits are returned.
        target_attention
            How the targets, which all hold the mask token, attend to each other. ``"open"``: as in training.
            ``"mean"``: as in the release's ``forward``, which masks all of them alike, so that each receives the mean
            over all targets of the call (REFERENCE section 5). A single token comes out the same.
        """
        if target_attention not in ("open", "mean"):
            raise AionError(f"target_attention must be 'open' or 'mean', not {target_attention!r}.")
        keys = [self.space[key].key for key in self._known(targets, self.outputs)]
        for key in keys:
            if self.space[key].spec.order == "causal":
                raise AionError(f"{key} is a sequence: its tokens depend on each other and have to be generated.")
        size = len(next(iter(tokens.values()))) if tokens else 0
        asked = {k: torch.zeros(size, self.space[k].spec.n_tokens, dtype=torch.int64) for k in keys}
        batch = batch_of_tokens(self.space, self._known(tokens, self.inputs), asked).to(self.device)
        decoded = self.decode(batch, *self.encode(batch), mean=target_attention == "mean")
        logits = dict(self.head_logits(batch, decoded))
        shapes = [(size, self.space[key].spec.n_tokens, self.space[key].spec.vocab_size) for key in keys]
        return {
            target: logits[key].view(shape) if size else decoded.new_zeros(shape)
            for target, key, shape in zip(targets, keys, shapes, strict=True)
        }

    def posterior(self, tokens: Mapping[str, Tensor], key: str) -> Tensor:
        """Return the probabilities of a modality's codes: ``[B, V]`` for a scalar, else ``[B, n, V]``.

        For a scalar this is the posterior of its value, binned by the codebook (paper, section 5).
        """
        name = self.space[key].key
        probabilities = self.logits(tokens, [name])[name].float().softmax(-1)
        return probabilities[:, 0] if self.space[name].spec.n_tokens == 1 else probabilities

    def _known(self, names: Known, side: frozenset[str]) -> Known:
        """Return what was given, whose keys must all be on one side: inputs or outputs."""
        for name in names:
            if self.space[name].key not in side:
                what = "asked for" if side is self.inputs else "given"
                raise AionError(f"{name} can only be {what}: this model has {', '.join(sorted(side))} on that side.")
        return names

    # -- files -------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, layout: Literal["aion", "release"] = "aion") -> None:
        """Write ``config.json``, ``model.safetensors`` and, in our own layout, ``manifest.json`` into a folder.

        ``layout="release"`` writes what the AION-1 release's own package loads: modalities go by their upstream keys,
        and the token space's fingerprints are left out, for which it has no place.
        """
        from aion_core.model.files import save_model
        from aion_core.model.released import save_released

        if layout not in ("aion", "release"):
            raise AionError(f"layout must be 'aion' or 'release', not {layout!r}.")
        (save_released if layout == "release" else save_model)(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, source: str | Path, revision: str | None = None, local_files_only: bool = False
    ) -> AionModel:
        """Load a model, ours or the AION-1 release's, from a folder or a Hub repository.

        Needs none of the plugins that gave its modalities. In a release, those of which a plugin is installed go by
        its key (and by the upstream key as well), the others by the upstream key.
        """
        from aion_core.model.files import load_model

        return load_model(source, revision, local_files_only)


def _first_rows(space: TokenSpace, keys: Collection[str]) -> Tensor:
    """First row of each slot ``[S]`` in a table of some vocabularies; far outside the table for all others."""
    rows = torch.tensor([slot.spec.vocab_size if slot.key in keys else 0 for slot in space.slots])
    return torch.where(rows > 0, rows.cumsum(0) - rows, -(2**40))
