"""Linear probes: how much of a property a linear map reads off some features (paper, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aion_core.contract import AionError, InputError

Floats = npt.NDArray[np.float64]
#: Strengths of the penalty that are tried, in units of the features' variance times the number of objects.
PENALTIES = tuple(10.0**k for k in np.arange(-4, 2.1, 0.5))


@dataclass(frozen=True)
class Probe:
    """What a probe finds of objects that it was not fitted to.

    Attributes
    ----------
    predicted
        ``[B]``, in the unit of the target.
    r2
        Share of the variance that is explained; negative where the mean would do better.
    scatter
        Half of what the central 68 % of the errors span.
    penalty
        The one chosen, by leaving out each training object in turn.
    """

    predicted: Floats
    r2: float
    scatter: float
    penalty: float


def linear_probe(train: npt.ArrayLike, target: npt.ArrayLike, test: npt.ArrayLike, truth: npt.ArrayLike) -> Probe:
    """Fit a ridge regression to some objects and judge it by others.

    Parameters
    ----------
    train, test
        Features, ``[n, F]`` and ``[B, F]``, finite; scaled to unit variance here.
    target, truth
        The property, ``[n]`` and ``[B]``.

    Raises
    ------
    AionError
        If scikit-learn is not installed.
    InputError
        If shapes do not fit, there are fewer than two objects to judge by, or numbers are not finite.
    """
    try:
        from sklearn.linear_model import RidgeCV
    except ImportError:
        raise AionError("Linear probes need scikit-learn: pip install 'aion-core[evaluate]'") from None
    x, y, x_test, y_test = (np.asarray(a, np.float64) for a in (train, target, test, truth))
    if x.ndim != 2 or y.shape != x.shape[:1] or x_test.shape != (len(y_test), x.shape[1]):
        raise InputError(
            f"Features {list(x.shape)} and {list(x_test.shape)} do not fit targets {list(y.shape)} and "
            f"{list(y_test.shape)}."
        )
    if len(x) < 2 or len(x_test) < 2 or not all(np.isfinite(a).all() for a in (x, y, x_test, y_test)):
        raise InputError("A probe needs finite features and targets, of two objects or more on either side.")
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-9 * np.abs(x).max(0).clip(1e-30)] = np.inf  # what never varies tells nothing
    fitted = RidgeCV(alphas=[p * len(x) for p in PENALTIES]).fit((x - mean) / scale, y)
    predicted = np.asarray(fitted.predict((x_test - mean) / scale), np.float64)
    error = predicted - y_test
    variance = float(((y_test - y_test.mean()) ** 2).sum())
    low, high = np.quantile(error, (0.16, 0.84))
    r2 = 1 - float((error**2).sum()) / variance if variance > 0 else float("nan")
    return Probe(predicted, r2, float(high - low) / 2, float(fitted.alpha_) / len(x))
