"""What the model knows of held-out mock objects, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aion_core.cli.demo.learn import target_of
from aion_core.cli.demo.settings import FEWEST, SPLIT
from aion_core.cli.demo.sky import Truth
from aion_core.contract import ModalitySpec, TokenSpace
from aion_core.data.split import split_mask
from aion_core.data.store import TokenStore
from aion_core.evaluate import BinnedPosterior, calibrate, embed_groups, linear_probe, nearest, scalar_posterior
from aion_core.model import AionModel
from aion_core.tokenizers import TokenizerSet

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
#: What linear probes are asked for: the kind of object, a column of the truth, its name and the scale it is read on.
PROBED = (
    ("galaxy", "log_mass", "stellar mass (dex)", False),
    ("galaxy", "age", "age (log10 Gyr)", True),
    ("star", "teff", "Teff (log10 K)", True),
)
NEIGHBOURS = 5
#: Of an image, the model is shown so many tokens a side, around the centre: of all the sky it knows nothing.
CENTRAL = 4


@dataclass(frozen=True)
class Step:
    """Posteriors of some objects given more and more."""

    given: str
    keys: tuple[str, ...]
    posterior: BinnedPosterior


@dataclass(frozen=True)
class Narrowing:
    """Posteriors of one quantity of held-out galaxies that have everything that is given at the last step."""

    target: str
    truth: Floats
    steps: tuple[Step, ...]

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each step: how its posteriors compare with the truth."""
        return [{"given": s.given, **calibrate(s.posterior, self.truth).asdict()} for s in self.steps]


@dataclass(frozen=True)
class Map:
    """Embeddings of objects on a plane, and who is whose neighbour.

    Attributes
    ----------
    rows
        Of the truth table, ``[B]``.
    plane
        ``[B, 2]``.
    queries, neighbours, cosine
        Rows of the truth table: ``[Q]`` and ``[Q, k]``.
    """

    rows: npt.NDArray[np.int64]
    plane: Floats
    queries: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int64]
    cosine: Floats


def is_photometry(spec: ModalitySpec) -> bool:
    """Whether a modality is a brightness in a band."""
    return spec.kind == "scalar" and spec.quantity.startswith(("phot.flux", "phot.mag"))


def held_out_rows(joined: TokenStore) -> Bools:
    """Return which objects of the joined store are held out."""
    return split_mask(joined.healpix, joined.ids, SPLIT.fraction, SPLIT.order, SPLIT.seed)


def steps_of(space: TokenSpace) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what is given at each step: photometry, then images too, then spectra too, as far as there are any."""
    keys: tuple[str, ...] = ()
    for name, chosen in (
        ("photometry", is_photometry),
        ("image", lambda spec: spec.kind == "image"),
        ("spectrum", lambda spec: spec.kind == "spectrum"),
    ):
        found = tuple(spec.key for spec in space.specs() if chosen(spec))
        if found:
            yield (name if not keys else f"+ {name}"), keys + found
            keys += found


def narrowing(model: AionModel, tokenizers: TokenizerSet, joined: TokenStore, truth: Truth) -> Narrowing | None:
    """Return how posteriors of held-out galaxies narrow; None where there is no such quantity, or too few of them."""
    target = target_of(model.space)
    steps = list(steps_of(model.space))
    if target is None or not steps or target not in tokenizers:
        return None
    centres: Any = tokenizers[target].decode(torch.arange(model.space[target].spec.vocab_size)[:, None])
    low, high = float(centres.value.min()), float(centres.value.max())
    value = truth["redshift"]
    chosen = held_out_rows(joined) & truth.of_kind("galaxy") & (value > low) & (value < high)
    for _, kind in _kinds(steps):
        chosen &= joined.present(kind)
    rows = np.flatnonzero(chosen)
    if len(rows) < FEWEST:
        return None
    found = []
    for given, keys in steps:
        tokens = seen_of(joined, rows, keys)
        found.append(Step(given, keys, scalar_posterior(model, tokenizers[target], tokens)))
    return Narrowing(target, value[rows].astype(np.float64), tuple(found))


def _kinds(steps: list[tuple[str, tuple[str, ...]]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what each step adds to the one before."""
    before: tuple[str, ...] = ()
    for name, keys in steps:
        yield name, keys[len(before) :]
        before = keys


def seen_of(joined: TokenStore, rows: npt.NDArray[np.int64], keys: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the tokens of objects that the model is shown: all, but of images those around the centre."""
    tokens = dict(joined.tokens(rows, list(keys)))
    for key in keys:
        spec = joined.space[key].spec
        if spec.kind == "image":
            away = [np.abs(np.arange(side) - (side - 1) / 2) > CENTRAL / 2 for side in spec.shape]
            outside = (away[0][:, None] | away[1]).ravel()
            tokens[key] = np.where(outside, -1, tokens[key])
    return tokens


def embeddings(model: AionModel, joined: TokenStore) -> Floats:
    """Return the embedding of every object from all that is known of it but what posteriors are asked of.

    That of each brightness, and means over the tokens of other numbers, of images, of spectra and of coefficients, one
    beside the other.
    """
    kinds = (("scalar", "source_list", "scalar_field"), ("image",), ("spectrum",), ("coefficients",))
    specs = [spec for spec in model.space.specs() if spec.key != target_of(model.space)]
    groups = [[spec.key] for spec in specs if is_photometry(spec)]
    groups += [[spec.key for spec in specs if spec.kind in kind and not is_photometry(spec)] for kind in kinds]
    groups = [group for group in groups if group]
    used = [key for group in groups for key in group]
    return embed_groups(model, seen_of(joined, np.arange(len(joined)), used), groups)


def photometry(tokenizers: TokenizerSet, joined: TokenStore) -> Floats:
    """Return the photometry of every object as numbers ``[B, F]``: asinh of each in units of its median size.

    As decoded from the codes, which is what the model sees of it. Beside each stands whether it is missing.
    """
    columns = []
    for spec in joined.space.specs():
        if not is_photometry(spec):
            continue
        codes = joined.tokens(np.arange(len(joined)), [spec.key])[spec.key]
        decoded: Any = tokenizers[spec.key].decode(torch.from_numpy(codes))
        value = np.asarray(decoded.value, np.float64).reshape(-1)
        known = np.isfinite(value)
        if known.any():
            size = np.median(np.abs(value[known])) or 1.0
            value = np.arcsinh(10 * value / size) if "phot.flux" in spec.quantity else value
            columns += [np.where(known, value, np.mean(value[known])), (~known).astype(np.float64)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(joined), 0))


def probes(embedded: Floats, raw: Floats, joined: TokenStore, truth: Truth) -> list[dict[str, Any]]:
    """Return how well a linear probe reads properties off embeddings, and off the photometry itself."""
    held_out, seen = held_out_rows(joined), _has_photometry(joined)
    found = []
    for kind, column, name, logarithm in PROBED:
        with np.errstate(invalid="ignore"):
            value = np.log10(truth[column]) if logarithm else truth[column].astype(np.float64)
        usable = truth.of_kind(kind) & np.isfinite(value) & seen
        train, test = np.flatnonzero(usable & ~held_out), np.flatnonzero(usable & held_out)
        if len(train) < FEWEST or len(test) < FEWEST or not raw.shape[1]:
            continue
        row: dict[str, Any] = {"property": name, "of": kind, "trained_on": len(train), "held_out": len(test)}
        for label, features in (("embeddings", embedded), ("photometry", raw)):
            probe = linear_probe(features[train], value[train], features[test], value[test])
            row |= {f"r2_{label}": probe.r2, f"scatter_{label}": probe.scatter}
        found.append(row)
    return found


def _has_photometry(joined: TokenStore) -> Bools:
    keys = [spec.key for spec in joined.space.specs() if is_photometry(spec)]
    return joined.present(keys) if keys else np.ones(len(joined), bool)


def on_a_map(embedded: Floats, joined: TokenStore, truth: Truth, seed: int) -> Map:
    """Lay held-out objects out on a plane by t-SNE of their embeddings, and find neighbours of one of each kind."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = np.flatnonzero(held_out_rows(joined) & _has_photometry(joined))
    if len(rows) < FEWEST:
        rows = np.arange(len(joined))
    x = embedded[rows]
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    x = PCA(min(30, *x.shape), random_state=seed).fit_transform(x)
    perplexity = min(30, (len(x) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500).fit_transform(x)
    queries = []
    for kind in np.unique(truth["kind"]):
        mine = np.flatnonzero(truth["kind"][rows] == kind)
        queries += mine[: 2 if kind == "galaxy" else 1].tolist()
    found, cosine = nearest(x, queries, NEIGHBOURS)
    return Map(rows, np.asarray(plane, np.float64), rows[queries], rows[found], cosine)
