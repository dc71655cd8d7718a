"""Compare mock files with real ones in distribution: noise, signal-to-noise, colours, XP coefficients.

    python benchmarks/mock_against_real.py --mock /tmp/mock --real ../shared/data --out results/mock

Both sides are read by the installed readers. Writes ``mock_against_real.json`` (for each quantity its 5th, 50th and
95th percentile in mock and real files, and the ratio of the medians) and a figure of the distributions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aion_core.contract import AionError
from aion_core.data.files import find_reader
from aion_core.files import write_json
from aion_core.plugins import load_registry

Values = dict[str, list[npt.NDArray[np.float64]]]
#: Objects of a mock file that are looked at, and files of one folder.
OBJECTS, FILES = 64, 60


def measured(batch: Any) -> dict[str, npt.NDArray[np.float64]]:
    """Return what is compared of a batch: numbers by name of the quantity."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    for key, (observation, _) in batch.data.items():
        kind = type(observation).__name__
        if kind == "Spectrum":
            found |= {f"{key}: {name}": value for name, value in _of_spectra(observation).items()}
        elif kind == "Image" and observation.ivar is not None:
            for band, name in enumerate(observation.bands):
                ivar = np.where(observation.mask[:, band], np.nan, observation.ivar[:, band])
                found[f"{key}: sky noise, {name}"] = _median(1 / np.sqrt(np.where(ivar > 0, ivar, np.nan)))
        elif kind == "Scalar" and observation.value.ndim == 2 and observation.value.shape[1] > 1:
            value = observation.value.numpy().astype(np.float64)
            norm = np.linalg.norm(value, axis=1)
            for k in (0, 1, 2, 5, 10, 20, 40):
                found[f"{key}: coefficient {k} / norm"] = value[:, k] / norm
    return found | _colours(batch)


def _of_spectra(spectrum: Any) -> dict[str, npt.NDArray[np.float64]]:
    good = ~spectrum.mask.numpy()
    flux, ivar = (np.where(good, x.numpy(), np.nan) for x in (spectrum.flux, spectrum.ivar))
    ivar[ivar <= 0] = np.nan
    wave = spectrum.wavelength.numpy()
    result = {"signal-to-noise": _median(np.abs(flux) * np.sqrt(ivar)), "pixels masked": 1 - good.mean(1)}
    for low, high in ((4000, 5000), (6000, 7000), (8000, 9000)):
        inside = (wave > low) & (wave < high)
        result[f"noise {low}–{high} Å"] = _median(np.where(inside, 1 / np.sqrt(ivar), np.nan))
    return result


def _colours(batch: Any) -> dict[str, npt.NDArray[np.float64]]:
    """Return colours of neighbouring bands of every survey that gives fluxes or magnitudes, where both are seen."""
    columns: dict[str, dict[str, npt.NDArray[np.float64]]] = defaultdict(dict)
    for key, (observation, rows) in batch.data.items():
        survey, _, rest = key.partition("_")
        what, _, band = rest.partition("_")
        if what in ("flux", "mag") and band:
            value = np.full(len(batch), np.nan)
            value[rows] = observation.value.numpy().ravel()
            with np.errstate(invalid="ignore", divide="ignore"):
                columns[survey][band] = (
                    value if what == "mag" else -2.5 * np.log10(np.where(value > 0.5, value, np.nan))
                )
    found = {}
    for survey, bands in columns.items():
        for blue, red in zip(list(bands), list(bands)[1:], strict=False):
            found[f"{survey}: {blue} − {red}"] = bands[blue] - bands[red]
    return found


def _median(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(values.reshape(len(values), -1), axis=1), np.float64)


def collect(folder: Path, limit: int | None) -> Values:
    """Return the quantities of all files of a folder that a reader claims."""
    registry = load_registry()
    values: Values = defaultdict(list)
    seen: dict[Path, int] = defaultdict(int)
    done: set[Path] = set()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path in done or (limit and seen[path.parent] >= limit):
            continue
        try:
            _, reader = find_reader(path, registry)
            done.update(reader.group(path))
            for count, batch in enumerate(reader.read(path, OBJECTS)):
                for name, value in measured(batch).items():
                    values[name].append(value[np.isfinite(value)])
                if limit and count >= 1:
                    break
            seen[path.parent] += 1
        except (AionError, OSError):
            continue
    return values


def compare(mock: Values, real: Values) -> dict[str, Any]:
    """Return percentiles and ratio of the medians of each quantity that both have."""
    result = {}
    for name in sorted(mock.keys() & real.keys()):
        ours, theirs = np.concatenate(mock[name]), np.concatenate(real[name])
        if len(ours) and len(theirs):
            a, b = np.percentile(ours, (5, 50, 95)), np.percentile(theirs, (5, 50, 95))
            row = {"mock": a.round(4).tolist(), "real": b.round(4).tolist(), "n": [len(ours), len(theirs)]}
            row["ratio"] = round(float(a[1] / b[1]), 3) if abs(b[1]) > 1e-6 else None
            # How much of the real central 90 % the mock's covers.
            inside = (theirs >= a[0]) & (theirs <= a[2])
            result[name] = row | {"real inside mock 5–95 %": round(float(inside.mean()), 3)}
    return result


def draw(mock: Values, real: Values, names: list[str], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = 5
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.4 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        ours, theirs = np.concatenate(mock[name]), np.concatenate(real[name])
        low, high = np.percentile(np.concatenate([ours, theirs]), (1, 99))
        edges = np.linspace(low, high if high > low else low + 1, 30)
        axis.hist(np.clip(ours, low, high), edges, density=True, alpha=0.6, label=f"mock ({len(ours)})")
        axis.hist(np.clip(theirs, low, high), edges, density=True, histtype="step", lw=2, label=f"real ({len(theirs)})")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=7)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mock", type=Path, required=True, help="folder written by `aion mock`")
    parser.add_argument("--real", type=Path, required=True, help="folder with real files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    args = parser.parse_args()
    mock, real = collect(args.mock, FILES), collect(args.real, None)
    result = compare(mock, real)
    if not result:
        print("nothing that mock and real files have in common was found", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "mock_against_real.json", result)
    draw(mock, real, list(result), args.out / "mock_against_real.png")
    for name, row in result.items():
        print(f"{name:45} mock {row['mock']}  real {row['real']}  ratio {row['ratio']}")
    print(json.dumps({"quantities": len(result), "figure": str(args.out / "mock_against_real.png")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
