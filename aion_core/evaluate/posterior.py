"""Posteriors over bins, and how they compare with the truth: likelihood, CRPS, coverage, R².

The softmax over a scalar's codes is a posterior of its value (paper, section 5). Each code stands for an interval; the
density within it is taken as constant, so that everything below is an exact integral over a piecewise linear
distribution function.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError

Floats = npt.NDArray[np.float64]
#: The interval whose coverage is reported: ± 1σ of a Gaussian.
CENTRAL = 0.68


@dataclass(frozen=True)
class BinnedPosterior:
    """B distributions over the same V bins.

    Attributes
    ----------
    edges
        Ends of the bins, ascending, ``[V + 1]``.
    probability
        Of each bin, ``[B, V]``; the rows sum to 1.
    """

    edges: Floats
    probability: Floats

    def __post_init__(self) -> None:
        if self.probability.ndim != 2 or len(self.edges) != self.probability.shape[1] + 1:
            raise InputError(f"{len(self.edges)} edges do not fit probabilities {list(self.probability.shape)}.")
        if not (np.diff(self.edges) > 0).all():
            raise InputError("The edges of a posterior's bins must ascend.")
        if self.probability.size and np.abs(self.probability.sum(1) - 1).max() > 1e-3:
            raise InputError("The probabilities of a posterior must sum to 1.")

    @classmethod
    def of_codes(cls, values: npt.ArrayLike, probability: npt.ArrayLike) -> Self:
        """Return the posterior over what codes decode to.

        Parameters
        ----------
        values
            What each code decodes to, ``[V]``, in any order; codes of one value become one bin.
        probability
            Of the codes, ``[B, V]``.

        The bins meet half way between values; the outermost reach as far out as in.
        """
        centres, place = np.unique(np.asarray(values, np.float64), return_inverse=True)
        given = np.asarray(probability, np.float64)
        if len(centres) < 2 or not np.isfinite(centres).all():
            raise InputError("A posterior needs two codes or more that decode to different, finite values.")
        merged = np.zeros((len(given), len(centres)))
        np.add.at(merged.T, place, given.T)
        between = (centres[1:] + centres[:-1]) / 2
        edges = np.concatenate([[2 * centres[0] - between[0]], between, [2 * centres[-1] - between[-1]]])
        return cls(edges, merged / merged.sum(1, keepdims=True))

    @cached_property
    def cumulative(self) -> Floats:
        """Distribution function at the edges, ``[B, V + 1]``."""
        return np.concatenate([np.zeros((len(self.probability), 1)), np.cumsum(self.probability, axis=1)], axis=1)

    @property
    def density(self) -> Floats:
        """Probability density in each bin, ``[B, V]``."""
        return self.probability / np.diff(self.edges)

    @property
    def mean(self) -> Floats:
        """Mean of each, ``[B]``."""
        middle: Floats = self.probability @ ((self.edges[1:] + self.edges[:-1]) / 2)
        return middle

    def quantile(self, level: float) -> Floats:
        """Return the value below which a share `level` of each lies, ``[B]``."""
        rows = np.arange(len(self.probability))
        index = np.clip((self.cumulative < level).sum(1) - 1, 0, len(self.edges) - 2)
        below, share = self.cumulative[rows, index], self.probability[rows, index]
        inside = np.divide(level - below, share, out=np.zeros_like(below), where=share > 0)
        return np.asarray(self.edges[index] + np.clip(inside, 0, 1) * np.diff(self.edges)[index])

    def rank(self, truth: npt.ArrayLike) -> Floats:
        """Return the distribution function at the truth, ``[B]``: uniform over 0 … 1 for calibrated posteriors."""
        index, inside = self._place(np.asarray(truth, np.float64))
        rows = np.arange(len(index))
        return np.asarray(self.cumulative[rows, index] + inside * self.probability[rows, index])

    def nll(self, truth: npt.ArrayLike) -> Floats:
        """Return the negative logarithm of the density at the truth, nats, ``[B]``.

        A truth outside of all bins counts as one in the outermost.
        """
        index, _ = self._place(np.asarray(truth, np.float64))
        return -np.log(np.maximum(self.density[np.arange(len(index)), index], 1e-300))

    def crps(self, truth: npt.ArrayLike) -> Floats:
        """Return the continuous ranked probability score, ``[B]``, in the unit of the value; 0 is perfect.

        The integral of (F(x) − [x ≥ truth])² (Gneiting & Raftery 2007, JASA 102, 359): for a posterior that is a
        single value, the absolute error.
        """
        y = np.asarray(truth, np.float64)
        index, inside = self._place(y)
        low, high, width = self.cumulative[:, :-1], self.cumulative[:, 1:], np.diff(self.edges)
        below = np.concatenate([np.zeros((len(y), 1)), np.cumsum(_square(low, high) * width, axis=1)], axis=1)
        above = np.concatenate([np.zeros((len(y), 1)), np.cumsum(_square(low - 1, high - 1) * width, axis=1)], axis=1)
        rows = np.arange(len(y))
        at, step = self.rank(y), width[index]
        left = below[rows, index] + inside * step * _square(low[rows, index], at)
        right = above[:, -1] - above[rows, index + 1] + (1 - inside) * step * _square(at - 1, high[rows, index] - 1)
        outside = np.maximum(self.edges[0] - y, 0) + np.maximum(y - self.edges[-1], 0)
        return np.asarray(left + right + outside)

    def _place(self, truth: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the bin of each truth, and how far into it that lies (0 … 1)."""
        if truth.shape != (len(self.probability),):
            raise InputError(f"{list(truth.shape)} true values do not fit {len(self.probability)} posteriors.")
        index = np.clip(np.searchsorted(self.edges, truth, side="right") - 1, 0, len(self.edges) - 2)
        return index, np.clip((truth - self.edges[index]) / np.diff(self.edges)[index], 0, 1)


def _square(a: Floats, b: Floats) -> Floats:
    """Return the mean square of a linear function between its ends."""
    return (a * a + a * b + b * b) / 3


@dataclass(frozen=True)
class Calibration:
    """How posteriors compare with the truth, over some objects.

    Attributes
    ----------
    nll, crps
        Means.
    coverage
        Share of the objects whose truth lies in the central 68 % of the posterior.
    r2, scatter
        Of the posterior mean: the share of the variance that it explains, and half of what the central 68 % of its
        errors span.
    """

    objects: int
    nll: float
    crps: float
    coverage: float
    r2: float | None
    scatter: float

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(posterior: BinnedPosterior, truth: npt.ArrayLike) -> Calibration:
    """Return how posteriors compare with the truth ``[B]``; without an object, an `InputError`."""
    y = np.asarray(truth, np.float64)
    if not len(y):
        raise InputError("There is no object to compare posteriors with.")
    rank, error = posterior.rank(y), posterior.mean - y
    low, high = (1 - CENTRAL) / 2, (1 + CENTRAL) / 2
    variance = float(((y - y.mean()) ** 2).sum())
    return Calibration(
        objects=len(y),
        nll=float(posterior.nll(y).mean()),
        crps=float(posterior.crps(y).mean()),
        coverage=float(((rank >= low) & (rank <= high)).mean()),
        r2=1 - float((error**2).sum()) / variance if variance > 0 else None,
        scatter=float(np.subtract(*np.quantile(error, (high, low))) / 2),
    )
