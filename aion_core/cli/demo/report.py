"""The demo's report: numbers as JSON, and one page with figures; what falls short of what it should be is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aion_core.cli.demo import figures
from aion_core.cli.demo.judge import Map, Narrowing
from aion_core.cli.demo.page import page, paragraph, picture, table
from aion_core.cli.demo.sky import Truth
from aion_core.data import TokenStore
from aion_core.files import replacing, write_json
from aion_core.tokenizers import TokenizerSet

#: What is aimed at: share of the codebook in use (per cent), R² of reconstructions, coverage of the central 68 %.
USED, KEPT, COVERED = 10.0, 0.8, (0.60, 0.76)
PERCENT = "% of V"
TOKENIZERS = {
    "key": "tokenizer", "objects": "objects", "vocab_size": "V", "codes_used": "codes used",
    "perplexity": "perplexity", "percent": PERCENT, "r2": "R², held-out mock", "r2_scaled": "R² as quantized",
    "baseline": "R² of the mean", "chi2": "χ²", "r2_real": "R², held-out real",
}  # fmt: skip
NARROWING = {
    "given": "given", "objects": "galaxies", "nll": "NLL", "crps": "CRPS", "coverage": "in the 68 % interval",
    "r2": "R²", "scatter": "σ",
}  # fmt: skip
PROBES = {
    "property": "property", "of": "of", "trained_on": "trained on", "held_out": "held out",
    "r2_embeddings": "R², embeddings", "r2_photometry": "R², photometry",
    "scatter_embeddings": "σ, embeddings", "scatter_photometry": "σ, photometry",
}  # fmt: skip
HELD_OUT = {"target": "modality", "targets": "tokens", "entropy": "entropy", "loss": "held-out loss"}


def write_report(
    out: Path,
    facts: dict[str, Any],
    curves: Sequence[dict[str, Any]],
    tokenizers: TokenizerSet,
    joined: TokenStore,
    truth: Truth,
    narrowing: Narrowing | None,
    found: Map,
) -> dict[str, Any]:
    """Write ``report/index.html`` and ``report/report.json``, both or neither; return what the latter holds."""
    folder = out / "report"
    facts = facts | {"falls_short": list(shortcomings(facts)), "page": str(folder / "index.html")}
    kinds = {row["key"]: row["kind"] for row in facts["tokenizers"]}
    pages = sorted((out / "pages").glob("*.png")) if (out / "pages").is_dir() else []
    sections = [
        ("What falls short", [*map(paragraph, facts["falls_short"])]),
        ("Observations beside what their tokens decode to", [picture(p.read_bytes(), p.stem) for p in pages]),
        ("Tokenizers", [table(facts["tokenizers"], TOKENIZERS), paragraph(TOKENIZERS_NOTE)]),
        (
            "What the model has learned",
            [
                picture(figures.losses(facts["held_out"]), "Held-out loss and unconditional entropy, by modality."),
                picture(figures.curves(curves, kinds), "Learning, by modality."),
                table(facts["held_out"], HELD_OUT),
            ],
        ),
        ("A posterior narrows as more is seen", list(_narrowing(facts, narrowing))),
        (
            "A map of embeddings",
            [
                picture(figures.sky_map(found, truth), "t-SNE of embeddings of held-out objects, coloured by truth."),
                picture(figures.neighbours(list(_pictures(found, tokenizers, joined, truth))), NEIGHBOURS_NOTE),
                table(facts["probes"], PROBES),
                paragraph(PROBES_NOTE) if facts["probes"] else "",
            ],
        ),
        ("Left out", [paragraph(f"{name}: {why}") for name, why in facts["left_out"].items()]),
    ]  # fmt: skip
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "report.json", facts)
        (temporary / "index.html").write_text(page("AION demo", _note(facts), sections))
    return facts


TOKENIZERS_NOTE = (
    "Perplexity of the codes in the token stores, mock and real. R² of fluxes and values, over all good pixels, noise "
    "included; as quantized: after the logarithm, or whatever numbers are quantized by, since of fluxes that span five "
    "decades the brightest star decides alone. R² of the mean is the better of two baselines without a tokenizer."
)
NEIGHBOURS_NOTE = "The query on the left, then its nearest neighbours by cosine; images as decoded from their tokens."
PROBES_NOTE = (
    "Ridge regressions on the embeddings, and on the photometry alone, fitted to the same objects and judged by the "
    "same held-out ones. σ is half of what the central 68 % of the errors span."
)


def shortcomings(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for everything that is not as it should be, with the number."""
    few = [f"{t['key']} {t['percent']:.1f} %" for t in facts["tokenizers"] if t["percent"] < USED]
    if few:
        yield f"Codebook perplexity below {USED:.0f} % of V: {', '.join(few)}."
    kept = {t["key"]: t["r2"] if t.get("r2_scaled") is None else t["r2_scaled"] for t in facts["tokenizers"]}
    poor = [f"{key} {r2:.3f}" for key, r2 in kept.items() if r2 is not None and r2 < KEPT]
    if poor:
        yield f"R² of held-out mock observations below {KEPT}: {', '.join(poor)}."
    vain = [
        f"{h['target']} {h['loss']:.2f} ({h['entropy']:.2f})"
        for h in facts["held_out"]
        if h["entropy"] is not None and h["loss"] >= h["entropy"]
    ]
    if vain:
        yield f"Held-out loss not below the unconditional entropy (in brackets): {', '.join(vain)}."
    rows = facts["narrowing"]
    for before, after in pairwise(rows):
        for score in ("nll", "crps"):
            if after[score] >= before[score]:
                step = f"{before['given']} → {after['given']}"
                found = f"{before[score]:.4f}, {after[score]:.4f}"
                yield f"{score.upper()} of the redshift does not fall at {step}: {found}."
    for row in rows:
        if not COVERED[0] <= row["coverage"] <= COVERED[1]:
            yield f"The 68 % interval given {row['given']} holds the truth of {100 * row['coverage']:.0f} %."
    if not rows:
        yield "No posterior is shown: no installed survey has redshifts, or too few held-out galaxies have everything."
    for probe in facts["probes"]:
        if probe["r2_embeddings"] < probe["r2_photometry"]:
            found = f"R² {probe['r2_embeddings']:.3f} from embeddings, {probe['r2_photometry']:.3f} from photometry"
            yield f"A probe for {probe['property']} does better on photometry alone: {found}."


def _note(facts: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count:,} {name}s".replace("galaxys", "galaxies") for name, count in facts["kinds"].items())
    settings = facts["settings"]
    quick = " A quick demo: a fraction of the training of the full one." if settings["quick"] else ""
    return (
        f"A mock sky of {facts['objects']:,} objects ({kinds}), seen by every installed survey in its own files, and "
        f"{facts['real_objects']:,} objects of real files; {facts['held_out_objects']:,} mock objects lie in sky cells "
        f"that no training saw, and all numbers are of those. A model of {facts['parameters'] / 1e6:.1f} M parameters; "
        f"{facts['seconds']['all']:.0f} s in all.{quick}"
    )


def _narrowing(facts: dict[str, Any], found: Narrowing | None) -> Iterator[str]:
    if found is None:
        return
    yield picture(figures.posteriors(found), "Redshift posteriors of held-out galaxies; the line is the truth.")
    yield picture(figures.predictions(found), "All held-out galaxies that have everything.")
    yield table(facts["narrowing"], NARROWING)
    yield paragraph("NLL of the density (nats), CRPS and σ in redshift; R² and σ are those of the posterior mean.")


def _pictures(
    found: Map, tokenizers: TokenizerSet, joined: TokenStore, truth: Truth
) -> Iterator[list[tuple[Any, str]]]:
    images = [spec.key for spec in joined.space.specs() if spec.kind == "image"]
    for query, neighbours, cosine in zip(found.queries, found.neighbours, found.cosine, strict=True):
        line = []
        for row, similar in zip([query, *neighbours], [None, *cosine], strict=True):
            caption = _caption(truth, int(row))
            line.append(
                (_decoded(images, tokenizers, joined, int(row)), caption + (f"\ncos {similar:.2f}" if similar else ""))
            )
        yield line


def _caption(truth: Truth, row: int) -> str:
    kind = str(truth["kind"][row])
    if kind == "star":
        return f"star, {truth['teff'][row]:.0f} K"
    more = f", {truth['log_mass'][row]:.1f} dex" if np.isfinite(truth["log_mass"][row]) else ""
    return f"{kind}, z {truth['redshift'][row]:.2f}{more}"


def _decoded(images: list[str], tokenizers: TokenizerSet, joined: TokenStore, row: int) -> Any:
    """Return the picture of an object from the tokens of the first image that it has; None without any."""
    for key in images:
        codes = joined.tokens([row], [key])[key]
        if (codes >= 0).all():
            decoded: Any = tokenizers[key].decode(torch.from_numpy(codes))
            return figures.colour(decoded.flux[0].cpu().double().numpy())
    return None
