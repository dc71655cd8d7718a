"""Tokenizers for numbers: a monotone transform, and then one table of 1024 or so codes for each number.

Encoding is the release's: code i stands for ``table[i−1] < transform(x) ≤ table[i]``, the first code also for all
that lies below, the last for all above. The edges are carried back through the transform once, when the table is set,
to the last float32 that still falls below each, so that encoding is a search among the bare numbers. It gives exactly
the codes of transforming first (the transforms are monotone in float32: checked over all of them), and the same on
every device, where logarithms differ in the last bit.

Decoding gives the centre of a code's data, or the middle of its interval where the data is not known; ``at="edge"``
gives its upper edge, as the release does, which is half a code too high.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from math import exp, log
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from aion_core.contract import AionError, InputError, ModalitySpec
from aion_core.observations import Observation, Scalar
from aion_core.release import Artifact
from aion_core.tokenizers.base import Tokenizer, codec_name, fitting_tensor
from aion_core.tokenizers.search import EdgeSearch
from aion_core.tokenizers.sketch import QuantileSketch

At = Literal["centre", "edge"]
#: In the header of the weights file: the release's reservoir holds the centres of the codes.
OWN = {"format": "pt", "aion_core": json.dumps({"reservoir": "centres"})}


class ScalarTokenizer(Tokenizer):
    """One code for each of n numbers (n = 1 unless the kind is ``coefficients``).

    NaN becomes −1; where there are several numbers, one NaN makes all of them −1, since coefficients mean something
    only together. Negative and positive infinity become the first and the last code.

    Fit it with `observe` (any number of times, in any order, on any number of machines, joined by `merge`) and
    `finish`. Nothing else changes it.

    Attributes
    ----------
    table
        Upper edges of the codes, after the transform: float32 ``[n, codes]``; NaN before fitting.
    centre
        What the codes decode to, after the transform: float32 ``[n, codes]``.
    edge
        Upper edges before the transform, for the search: float32 ``[n, codes − 1]``.
    """

    observation: ClassVar[type[Observation]] = Scalar
    #: Values below are raised to it before the transform.
    lowest: float = float("-inf")

    def __init__(self, spec: ModalitySpec, codes: int | None = None) -> None:
        super().__init__(spec)
        self.codes = spec.vocab_size if codes is None else codes
        if not 2 <= self.codes <= spec.vocab_size:
            raise AionError(f"{spec.key}: {self.codes} codes do not fit a vocabulary of {spec.vocab_size}.")
        n = spec.n_tokens
        if n > 1 and spec.kind != "coefficients":
            raise AionError(f"{spec.key} has {n} tokens; only kind 'coefficients' has several numbers per object.")
        self.sketches = [QuantileSketch() for _ in range(n)]
        self._searched: tuple[int, int, EdgeSearch | None] | None = None
        self.table: Tensor
        self.centre: Tensor
        self.edge: Tensor
        self.register_buffer("table", torch.full((n, self.codes), torch.nan))
        self.register_buffer("centre", torch.full((n, self.codes), torch.nan))
        self.register_buffer("edge", torch.full((n, self.codes - 1), torch.nan))

    @property
    def fitted(self) -> bool:
        """Whether there is a table."""
        return not bool(self.table[:, 0].isnan().any())

    @staticmethod
    def transform(value: Tensor) -> Tensor:
        """Return what is quantized, for values that are `lowest` or above; monotone."""
        return value

    @staticmethod
    def inverse(value: Tensor) -> Tensor:
        """Return the values that `transform` takes to these."""
        return value

    def observe(self, obs: Scalar) -> None:
        """Take values into account; NaN is left out."""
        values = self._rows(self.accept(obs))
        kept = values[~values.isnan().any(dim=1)]
        columns = self.transform(kept.clamp(min=self.lowest)).T.cpu().numpy()
        for sketch, column in zip(self.sketches, columns, strict=True):
            sketch.add(column)

    def merge(self, other: ScalarTokenizer) -> None:
        """Take into account what another tokenizer of the same modality has observed."""
        if type(other) is not type(self) or other.spec.key != self.spec.key:
            raise AionError(f"What {other.spec.key} has observed says nothing about {self.spec.key}.")
        for mine, theirs in zip(self.sketches, other.sketches, strict=True):
            mine.merge(theirs)

    def finish(self) -> None:
        """Set table and centres from all that was observed; what comes later may be observed and finished again.

        Raises
        ------
        AionError
            If no finite value was observed.
        """
        pairs = [self._codebook(sketch) for sketch in self.sketches]
        table, centre = (torch.from_numpy(np.stack(arrays).astype(np.float32)) for arrays in zip(*pairs, strict=True))
        self._set(table, centre)

    def loss(self, *observations: Observation) -> dict[str, Tensor]:
        """Return ``reconstruction``: the mean square of the error after the transform, over all finite values.

        It is what the choice of codes costs; a table has nothing to be trained by gradients.
        """
        errors = []
        for obs in observations:
            values = self._rows(self.accept(obs))
            decoded = self._rows(self._decode(self.encode(obs)))
            error = self.transform(values.clamp(min=self.lowest)) - self.transform(decoded.clamp(min=self.lowest))
            errors.append(error[error.isfinite()])
        return {"reconstruction": torch.cat(errors).square().mean()}

    def code_vectors(self) -> Tensor:
        return torch.linspace(0, 1, self.codes)[:, None]

    def bound(self, tokens: Tensor) -> Tensor:
        """Return the width of each code, within which value and centre lie; the first and the last are open."""
        self._require_table()
        upper = self.inverse(self.table)
        width = torch.diff(upper, dim=1, prepend=upper.new_full((len(upper), 1), -torch.inf))
        width[:, -1] = torch.inf
        codes = tokens.reshape(len(tokens), self.spec.n_tokens).clamp(0, self.codes - 1)
        return width.gather(1, codes.T).T

    def encode_tensors(self) -> Mapping[str, Tensor]:
        self._require_table()
        return {"table": self.table[:, :-1]}

    def _encode(self, obs: Scalar) -> Tensor:
        self._require_table()
        values = self._rows(obs)
        search = self._search() if values.device.type == "cpu" else None
        if search is not None:
            codes = search(values)
        elif len(self.edge) == 1:  # the search in one table is faster by a third than that in a stack of them
            codes = torch.bucketize(values.contiguous(), self.edge[0])
        else:
            codes = torch.searchsorted(self.edge, values.T.contiguous()).T.contiguous()
        doubtful = values.sum(dim=1).isnan()  # cheaper than to ask every value, and NaN wherever one of them is
        if bool(doubtful.any()):
            rows = doubtful.nonzero()[:, 0]
            codes[rows[values[rows].isnan().any(dim=1)]] = -1
        return codes.reshape(-1, *self.spec.shape)

    def _search(self) -> EdgeSearch | None:
        """Return the fast search in these edges, made once; None where it would not be one."""
        version = 0 if self.edge.is_inference() else self.edge._version
        if self._searched is None or self._searched[:2] != (id(self.edge), version):
            self._searched = (id(self.edge), version, EdgeSearch.build(self.edge))
        return self._searched[2]

    def _decode(self, tokens: Tensor, *, at: At = "centre") -> Scalar:  # type: ignore[override]  # its own context
        self._require_table()
        book = {"centre": self.centre, "edge": self.table}.get(at)
        if book is None:
            raise InputError(f"{self.spec.key}: a code decodes at its 'centre' or its 'edge', not at {at!r}.")
        tokens = tokens.reshape(len(tokens), self.spec.n_tokens)
        codes = tokens.clamp(0, self.codes - 1)
        values = self.inverse(book).gather(1, codes.T).T.contiguous().masked_fill(tokens < 0, torch.nan)
        return Scalar(values if self.spec.kind == "coefficients" else values[:, 0], unit=self.spec.units)

    def _rows(self, obs: Scalar) -> Tensor:
        """Return the values as ``[B, n]``."""
        n = self.spec.n_tokens
        value = obs.value[:, None] if obs.value.ndim == 1 else obs.value
        if value.shape[1] != n:
            expected = "one number" if n == 1 else f"{n} numbers"
            raise InputError(f"{self.spec.key} is {expected} per object, but the values are {list(obs.value.shape)}.")
        return value

    def _require_table(self) -> None:
        if not self.fitted:
            raise AionError(
                f"{self.spec.key} has no table yet: load weights (load_tokenizer), or fit it "
                f"(aion tokenizer train PATH --modalities {self.spec.key} --out DIR)."
            )

    def _codebook(self, sketch: QuantileSketch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return edges at equal shares of the data, and the median of the data that each code stands for.

        A value that more data have than a share has a code of its own, not several of which all but one are never used.
        Where data are sparse, edges part what lies far from each other, and lie in the middle between data: a new value
        is nearest to one of its code.
        """
        try:
            table = sketch.gap(sketch.clear(sketch.shares(self.codes)))
        except AionError as error:
            raise AionError(f"{self.spec.key} cannot be fitted: {error}") from None
        upto = sketch.rank(table)
        below = np.concatenate([[0.0], upto[:-1]])
        centre = sketch.median(below, upto)
        return table, np.where(upto > below, centre.clip(sketch.minimum, table), table)

    def _set(self, table: Tensor, centre: Tensor | None = None) -> None:
        """Take a table ``[n, codes]``, and centres, if they are known."""
        key = self.spec.key
        if table[:, 0].isnan().any() or (table.diff(dim=1) < 0).any():
            raise InputError(f"The weights for {key} are damaged: the edges of its codes do not ascend.")
        self.table = table.to(self.device).contiguous()
        self.centre = (_middles(self.table) if centre is None else centre.to(self.device)).contiguous()
        self.edge = self._carried_back(self.table[:, :-1].contiguous().cpu()).to(self.device)

    def _carried_back(self, table: Tensor) -> Tensor:
        """Return the greatest float32 whose transform does not exceed each edge, by bisection over all floats.

        Below `lowest` the transform is that of `lowest`. Where even that exceeds an edge, the result is NaN, which no
        value is below in a search.
        """
        none = _order(torch.full_like(table, self.lowest)) - 1
        low, high = none, _order(torch.full_like(table, torch.inf)) + 1
        while bool((high - low > 1).any()):
            middle = (low + high) // 2
            below = self.transform(_float(middle)) <= table
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return _float(low).masked_fill(low == none, torch.nan)

    @abstractmethod
    def artifact(self) -> Artifact: ...


class QuantileTokenizer(ScalarTokenizer):
    """Codes that are used equally often: the edges are quantiles of the data."""

    def artifact(self) -> Artifact:
        self._require_table()
        tensors = {"quantizer._reservoir": self.centre[0], "quantizer._index_to_val": self.table[0]}
        return Artifact(self._release_config(), tensors, OWN)

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        tokenizer = cls(spec, **cls._settings_from(spec, artifact))
        table, reservoir = tokenizer._read(artifact, "")
        tokenizer._set(table[None], None if reservoir is None else reservoir[None])
        return tokenizer

    @classmethod
    def _settings_from(cls, spec: ModalitySpec, artifact: Artifact) -> dict[str, Any]:
        """Return the constructor's settings: the spec's, overruled by the artifact's."""
        return dict(spec.tokenizer.config) if spec.tokenizer else {}

    def _release_config(self) -> dict[str, Any]:
        """Return the configuration as the release has it; the reservoir is as long as the table."""
        return {"modality": codec_name(self.spec), "codebook_size": self.codes, "reservoir_size": self.codes}

    def _read(self, artifact: Artifact, member: str) -> tuple[Tensor, Tensor | None]:
        """Return a table, and its centres if the artifact is one of ours."""
        key, stated = self.spec.key, artifact.config.get("codebook_size", self.codes)
        if stated != self.codes:
            raise InputError(f"The weights for {key} have {stated!r} codes; the modality has {self.codes}.")
        prefix = "_quantizer." if any(name.startswith("_quantizer.") for name in artifact.tensors) else "quantizer."
        table = fitting_tensor(artifact, f"{prefix}{member}_index_to_val", (self.codes,), key)
        if artifact.metadata.get("aion_core") != OWN["aion_core"]:
            return table, None
        return table, fitting_tensor(artifact, f"{prefix}{member}_reservoir", (self.codes,), key)


class LogQuantileTokenizer(QuantileTokenizer):
    """Quantiles of the natural logarithm; values at or below `min_value` are raised to it and share the lowest code."""

    def __init__(self, spec: ModalitySpec, min_value: float = exp(-3), codes: int | None = None) -> None:
        super().__init__(spec, codes)
        if not 0 < min_value < float("inf"):
            raise AionError(f"{spec.key}: min_value is {min_value}; a logarithm needs one above zero.")
        self.min_log_value = log(min_value)
        self.lowest = float(torch.tensor(exp(self.min_log_value), dtype=torch.float32))

    @staticmethod
    def transform(value: Tensor) -> Tensor:
        return torch.log(value)

    @staticmethod
    def inverse(value: Tensor) -> Tensor:
        return torch.exp(value)

    def settings(self) -> dict[str, Any]:
        return {"lowest": self.lowest}

    @classmethod
    def _settings_from(cls, spec: ModalitySpec, artifact: Artifact) -> dict[str, Any]:
        settings = super()._settings_from(spec, artifact)
        stated = artifact.config.get("min_log_value")
        if stated is None:
            return settings
        if not isinstance(stated, int | float) or not -80 < stated < 80:
            raise InputError(f"The weights for {spec.key} have min_log_value {stated!r}; expected a number.")
        return settings | {"min_value": exp(stated)}

    def _release_config(self) -> dict[str, Any]:
        return {**super()._release_config(), "min_log_value": self.min_log_value}


class CoefficientTokenizer(QuantileTokenizer):
    """Quantiles of arcsinh(arcsinh(x)) of each of n coefficients, every one with its own table."""

    FUNCTIONS: ClassVar[tuple[list[str], list[str]]] = (["arcsinh", "arcsinh"], ["sinh", "sinh"])

    @staticmethod
    def transform(value: Tensor) -> Tensor:
        return torch.arcsinh(torch.arcsinh(value))

    @staticmethod
    def inverse(value: Tensor) -> Tensor:
        return torch.sinh(torch.sinh(value))

    def artifact(self) -> Artifact:
        self._require_table()
        tensors = {}
        for i, (table, centre) in enumerate(zip(self.table, self.centre, strict=True)):
            tensors[f"quantizer.quantizers.{i}._reservoir"] = centre
            tensors[f"quantizer.quantizers.{i}._index_to_val"] = table
        return Artifact(self._release_config(), tensors, OWN)

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        count, functions = artifact.config.get("num_quantizers"), artifact.config.get("compression_fns")
        if count not in (None, spec.n_tokens):
            raise InputError(f"The weights for {spec.key} have {count} coefficients; the modality has {spec.n_tokens}.")
        if functions not in (None, cls.FUNCTIONS[0]):
            raise InputError(f"The weights for {spec.key} compress by {functions}; expected {cls.FUNCTIONS[0]}.")
        tokenizer = cls(spec, **cls._settings_from(spec, artifact))
        tables, centres = zip(
            *(tokenizer._read(artifact, f"quantizers.{i}.") for i in range(spec.n_tokens)), strict=True
        )
        known = [centre for centre in centres if centre is not None]
        tokenizer._set(torch.stack(tables), torch.stack(known) if known else None)
        return tokenizer

    def _release_config(self) -> dict[str, Any]:
        compression, decompression = self.FUNCTIONS
        return {
            **super()._release_config(),
            "compression_fns": compression,
            "decompression_fns": decompression,
            "num_quantizers": self.spec.n_tokens,
        }


class GridTokenizer(ScalarTokenizer):
    """Codes of equal width over the range that the spec declares, or over that of the data where it declares none.

    Fitting widens a declared range where more than a thousandth of the data lie beyond: else all of them there would
    share a code.
    `codes` may be less than the vocabulary; codes above are never emitted, and decode as the last.
    """

    def __init__(self, spec: ModalitySpec, codes: int | None = None) -> None:
        super().__init__(spec, codes)
        if spec.tokenizer and spec.tokenizer.range:
            self._set(torch.linspace(*spec.tokenizer.range, self.codes)[None])

    def artifact(self) -> Artifact:
        self._require_table()
        config = {"modality": codec_name(self.spec), "codebook_size": self.codes}
        return Artifact(config, {"quantizer.buckets": self.table[0]}, {"format": "pt"})

    @classmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        tokenizer = cls(spec, **(spec.tokenizer.config if spec.tokenizer else {}))
        prefix = "_quantizer." if "_quantizer.buckets" in artifact.tensors else "quantizer."
        table = fitting_tensor(artifact, f"{prefix}buckets", (tokenizer.codes,), spec.key)
        tokenizer._set(table[None])
        return tokenizer

    def finish(self) -> None:
        declared = self.spec.tokenizer.range if self.spec.tokenizer else None
        low, high = (float(v) for v in self.sketches[0].quantile([0.001, 0.999] if declared else [0.0, 1.0]))
        if declared is not None:
            low, high = min(low, declared[0]), max(high, declared[1])
        self._set(torch.linspace(low, high, self.codes)[None])


def _middles(table: Tensor) -> Tensor:
    """Return the middle of every code's interval; the first is open below, and stands for its edge.

    An edge that is repeated is a value that more than a code's share of the data has: its code stands for it.
    """
    middles = table.clone()
    middles[:, 1:] = ((table[:, 1:].double() + table[:, :-1].double()) / 2).float()
    repeated = torch.nn.functional.pad(table.diff(dim=1) == 0, (0, 1))
    return torch.where(repeated, table, middles)


def _order(value: Tensor) -> Tensor:
    """Return int64 that sort as float32 do, without gaps."""
    bits = value.view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _float(order: Tensor) -> Tensor:
    """Return the float32 that `_order` came from."""
    bits = order.to(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
