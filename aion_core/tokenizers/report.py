"""How good a codebook is: how evenly its codes are used, and how much of the data they keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError

if TYPE_CHECKING:
    from torch import Tensor

Doubles = npt.NDArray[np.float64]


def perplexity(counts: npt.NDArray[np.int64]) -> float:
    """Return the effective number of codes, from how often each occurs, ``[V]``: the exponential of the entropy.

    V if all occur equally often, 1 if only one does, 0 if none does.
    """
    share = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


@dataclass(frozen=True)
class Measure:
    """What is known of some objects, their codes and what these decode to; ``a + b`` is known of both together.

    Attributes
    ----------
    objects
        Number of objects that have a token.
    uses
        How often each code occurs, ``[V]``.
    count, mean, square, residual
        Of every component of the data (one of n numbers; one for images and spectra as a whole): how many values are
        finite on both sides, their mean, their summed squared deviation from it, and their summed squared error.
    """

    objects: int
    uses: npt.NDArray[np.int64]
    count: Doubles
    mean: Doubles
    square: Doubles
    residual: Doubles

    def __add__(self, other: Measure) -> Measure:
        count = self.count + other.count
        weight = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        shift = other.mean - self.mean
        return Measure(
            self.objects + other.objects,
            self.uses + other.uses,
            count,
            self.mean + shift * weight,
            self.square + other.square + shift**2 * self.count * weight,
            self.residual + other.residual,
        )

    @property
    def codes_used(self) -> int:
        """Number of codes that occur."""
        return int((self.uses > 0).sum())

    @property
    def perplexity(self) -> float:
        """Effective number of codes; see the function of that name."""
        return perplexity(self.uses)

    @property
    def fraction(self) -> float:
        """Perplexity in units of the vocabulary."""
        return self.perplexity / len(self.uses)

    @property
    def rmse(self) -> float | None:
        """Root mean square error, in the unit of the data; None without data."""
        count = float(self.count.sum())
        return float(np.sqrt(self.residual.sum() / count)) if count else None

    @property
    def r2(self) -> float | None:
        """Share of the variance that decoding keeps, averaged over the components; None if nothing varies."""
        varying = self.square > 0
        return float((1.0 - self.residual[varying] / self.square[varying]).mean()) if varying.any() else None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "objects": self.objects,
            "vocab_size": len(self.uses),
            "codes_used": self.codes_used,
            "perplexity": self.perplexity,
            "fraction": self.fraction,
            "r2": self.r2,
            "rmse": self.rmse,
        }


def measure(values: Tensor, decoded: Tensor, tokens: Tensor, vocab_size: int) -> Measure:
    """Return the measure of a batch.

    Parameters
    ----------
    values, decoded
        Data and what its codes decode to, of one shape ``[B, …]``; entries that are not finite in both are left out.
    tokens
        Codes ``[B, …]``; −1 where there is none.
    vocab_size
        V.
    """
    if values.shape != decoded.shape or len(tokens) != len(values):
        shapes = ", ".join(str(list(t.shape)) for t in (values, decoded, tokens))
        raise InputError(f"Values, decoded values and tokens of the same objects are needed, not {shapes}.")
    codes = (tokens.flatten(1) if tokens.ndim > 1 else tokens[:, None]).detach().cpu().numpy()
    columns = values.shape[1] if values.ndim == 2 else 1
    x, y = (t.detach().cpu().double().reshape(-1, columns).numpy() for t in (values, decoded))
    finite = np.isfinite(x) & np.isfinite(y)
    count = finite.sum(axis=0).astype(np.float64)
    mean = np.where(finite, x, 0.0).sum(axis=0) / np.maximum(count, 1)
    with np.errstate(invalid="ignore"):
        square = np.where(finite, x - mean, 0.0) ** 2
        residual = np.where(finite, x - y, 0.0) ** 2
    return Measure(
        int((codes >= 0).any(axis=1).sum()),
        np.bincount(codes[codes >= 0], minlength=vocab_size).astype(np.int64),
        count,
        mean,
        square.sum(axis=0),
        residual.sum(axis=0),
    )
