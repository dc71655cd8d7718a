"""Similar objects: those whose embeddings point the same way (paper, section 5: retrieval by cosine)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aion_core.contract import InputError

Floats = npt.NDArray[np.floating]


def nearest(
    embeddings: Floats, queries: npt.ArrayLike, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the rows of the `count` objects most similar to each query, itself left out, and their cosines.

    Parameters
    ----------
    embeddings
        ``[B, D]``. Their mean is taken off first: what all objects share would make all of them similar.
    queries
        Rows, ``[Q]``.

    Returns
    -------
    rows, cosine
        ``[Q, count]`` each, the most similar first; fewer columns where there are fewer objects.
    """
    x = np.asarray(embeddings, np.float64)
    rows = np.asarray(queries, np.int64)
    if x.ndim != 2 or (rows.size and (rows.min() < 0 or rows.max() >= len(x))):
        raise InputError(f"Queries are rows of embeddings [B, D]; found shape {list(x.shape)}.")
    x = x - x.mean(0)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    cosine = x[rows] @ x.T
    cosine[np.arange(len(rows)), rows] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(x) - 1)]
    return order, np.take_along_axis(cosine, order, axis=1)
