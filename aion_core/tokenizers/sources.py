"""Tokenizers for lists of sources: the ten nearest the centre of a cutout, five tokens each (REFERENCE section 2).

A source is x, y (the nearest of 96 pixels), e1, e2 and radius (quantile codes); the code ranges follow one another,
behind the ids that the transformer's table reserves. The release leaves sorting and choosing to whoever prepares its
data, gives ids without the reserved ones, and pads with 9999.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from aion_core.contract import SEQUENCE_IDS, AionError, InputError, ModalitySpec
from aion_core.observations import Observation, Scalar, SourceList
from aion_core.release import Artifact
from aion_core.tokenizers.base import Tokenizer, fitting_tensor
from aion_core.tokenizers.scalar import OWN, At, ScalarTokenizer

#: Pixels of the cutout's side.
SIDE = 96
#: Codes of each quantile codebook, and how many samples the release's have.
CODES, RESERVOIR = 1024, 100_000
ATTRIBUTES = ("x", "y", "e1", "e2", "radius")
SIZES = (SIDE, SIDE, CODES, CODES, CODES)


class _Shapes(ScalarTokenizer):
    """Quantile codes of e1, e2 and radius, each with a table of its own."""

    def __init__(self, spec: ModalitySpec) -> None:
        fields = {"kind": "coefficients", "shape": (len(ATTRIBUTES) - 2,), "vocab_size": CODES, "order": "masked"}
        super().__init__(spec.model_copy(update={**fields, "item_tokens": 1, "position": "grid2d"}))

    def artifact(self) -> Artifact:
        raise AionError("The tables of shapes are saved with their source list.")

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        shapes = _names(spec)[2:]
        ours = f"_quantizer.quantizers.{shapes[0]}._index_to_val" in artifact.tensors
        names = [f"{'_' if ours else ''}quantizer.quantizers.{name}" for name in shapes]
        tables = [fitting_tensor(artifact, f"{name}._index_to_val", (CODES,), spec.key) for name in names]
        centres = None
        if artifact.metadata.get("aion_core") == OWN["aion_core"]:
            samples = [fitting_tensor(artifact, f"{name}._reservoir", (RESERVOIR,), spec.key) for name in names]
            centres = torch.stack(samples)[:, _first_samples()]
        tokenizer = cls(spec)
        tokenizer._set(torch.stack(tables), centres)
        return tokenizer


class SourceListTokenizer(Tokenizer):
    """At most `n_tokens` / 5 sources, nearest the centre first; −1 behind the last.

    A source counts if its five attributes are finite and its pixel lies in the cutout. Fitted in one pass: `observe`,
    `merge`, `finish`. `names` are those of the attributes in the weights file.
    """

    observation: ClassVar[type[Observation]] = SourceList

    def __init__(self, spec: ModalitySpec, names: Sequence[str] = ATTRIBUTES) -> None:
        super().__init__(spec)
        self.names = tuple(names)
        if len(set(names)) != len(ATTRIBUTES):
            raise AionError(f"{spec.key}: {names} does not name {', '.join(ATTRIBUTES)}.")
        if spec.n_tokens % len(ATTRIBUTES) or spec.vocab_size < SEQUENCE_IDS.first_code + sum(SIZES):
            raise AionError(
                f"{spec.key}: a list of sources has {len(ATTRIBUTES)} tokens for each and a vocabulary of "
                f"{SEQUENCE_IDS.first_code + sum(SIZES)}, not {spec.n_tokens} and {spec.vocab_size}."
            )
        self.shapes = _Shapes(spec)
        self.first: Tensor  # id of the first code of each attribute
        sizes = torch.tensor(SIZES)
        self.register_buffer("first", SEQUENCE_IDS.first_code + sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("size", sizes, persistent=False)
        self.size: Tensor

    def observe(self, obs: SourceList) -> None:
        """Take the shapes of the sources that would be encoded into account."""
        chosen = self._choose(self.accept(obs)).flatten(0, 1)
        self.shapes.observe(Scalar(chosen[~chosen[:, 0].isnan(), 2:]))

    def merge(self, other: SourceListTokenizer) -> None:
        """Take into account what another tokenizer of the same modality has observed."""
        self.shapes.merge(other.shapes)

    def finish(self) -> None:
        """Set the tables from all that was observed."""
        self.shapes.finish()

    def loss(self, *observations: Observation) -> dict[str, Tensor]:
        """Return ``reconstruction``: the mean squared error of all numbers of the sources encoded."""
        errors = []
        for obs in observations:
            _, values, decoded = self.reconstruct(obs)
            error = (values - decoded).flatten()
            errors.append(error[error.isfinite()])
        return {"reconstruction": torch.cat(errors).square().mean()}

    def reconstruct(self, obs: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, the attributes of the sources encoded, and what they decode to, ``[B, n_tokens]`` each."""
        tokens = self.encode(obs)
        decoded = self.decode(tokens)
        fields = torch.stack([getattr(decoded, name) for name in ATTRIBUTES], dim=-1)
        return tokens, self._choose(self.accept(obs)).flatten(1), fields.flatten(1)

    def bound(self, tokens: Tensor) -> Tensor:
        """Return half a pixel for positions, and the width of its code for each shape."""
        codes = tokens.unflatten(1, (-1, len(ATTRIBUTES))) - self.first
        shapes = self.shapes.bound(codes[..., 2:].flatten(0, 1)).unflatten(0, codes.shape[:2])
        return torch.cat([shapes.new_full((*codes.shape[:2], 2), 0.5), shapes], dim=-1).flatten(1)

    def encode_tensors(self) -> Mapping[str, Tensor]:
        return self.shapes.encode_tensors()

    def artifact(self) -> Artifact:
        """Return the release's: its reservoirs, of a fixed length, hold the centre of each code equally often."""
        self.shapes.encode_tensors()  # must be fitted
        tensors: dict[str, Tensor] = {}
        for name in self.names[:2]:
            tensors[f"_quantizer.quantizers.{name}._codebook_size"] = torch.tensor(SIDE)
        for name, table, centre in zip(self.names[2:], self.shapes.table, self.shapes.centre, strict=True):
            tensors[f"_quantizer.quantizers.{name}._reservoir"] = centre[torch.arange(RESERVOIR) * CODES // RESERVOIR]
            tensors[f"_quantizer.quantizers.{name}._index_to_val"] = table
        return Artifact({"mask_value": 9999}, tensors, OWN)

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        tokenizer = cls(spec, _names(spec))
        tokenizer.shapes = _Shapes.from_artifact(spec, artifact)
        for name, size in artifact.tensors.items():
            if name.endswith("_codebook_size") and int(size) != SIDE:
                raise InputError(f"The weights for {spec.key} are for cutouts of {int(size)} pixels; expected {SIDE}.")
        return tokenizer

    def _choose(self, obs: SourceList) -> Tensor:
        """Return the attributes of the sources nearest the centre, ``[B, most, 5]``; NaN behind the last."""
        most = self.spec.n_tokens // len(ATTRIBUTES)
        values = torch.stack([getattr(obs, name) for name in ATTRIBUTES], dim=-1)
        values = torch.cat([values, values.new_full((len(values), most, len(ATTRIBUTES)), torch.nan)], dim=1)
        pixel = values[..., :2].round()
        counts = values.isfinite().all(-1) & ((pixel >= 0) & (pixel < SIDE)).all(-1)
        middle = (SIDE - 1) / 2
        distance = torch.hypot(*(values[..., :2] - middle).unbind(-1)).where(counts, torch.inf)
        order = distance.argsort(dim=1, stable=True)[:, :most, None].expand(-1, -1, len(ATTRIBUTES))
        return values.where(counts[..., None], torch.nan).gather(1, order)

    def _encode(self, obs: SourceList) -> Tensor:
        chosen = self._choose(obs)
        there = ~chosen[..., :1].isnan()
        shapes = self.shapes._encode(Scalar(chosen[..., 2:].flatten(0, 1))).unflatten(0, chosen.shape[:2])
        pixels = chosen[..., :2].nan_to_num().round().long()
        codes = torch.cat([pixels, shapes], dim=-1) + self.first
        return codes.where(there, -1).flatten(1)

    def _decode(self, tokens: Tensor, *, at: At = "centre") -> SourceList:  # type: ignore[override]  # its own context
        """Return sources; a token that is no code of its attribute gives NaN, and so does one that is missing."""
        width = len(ATTRIBUTES)
        tokens = torch.nn.functional.pad(tokens, (0, -tokens.shape[1] % width), value=-1)
        codes = tokens.unflatten(1, (tokens.shape[1] // width, width)) - self.first
        codes = codes.where((codes >= 0) & (codes < self.size), -1)
        pixels = codes[..., :2].float().masked_fill(codes[..., :2] < 0, torch.nan)
        shapes = self.shapes._decode(codes[..., 2:].flatten(0, 1), at=at).value.unflatten(0, codes.shape[:2])
        return SourceList(*torch.cat([pixels, shapes], dim=-1).unbind(-1))


def _names(spec: ModalitySpec) -> Sequence[str]:
    """Return the names of the attributes in the weights file, which the spec declares."""
    config = spec.tokenizer.config if spec.tokenizer else {}
    names: Sequence[str] = config.get("names", ATTRIBUTES)
    return names


def _first_samples() -> Tensor:
    """Return where in a reservoir the first sample of each code is."""
    return -(torch.arange(CODES) * RESERVOIR // -CODES)
