"""``aion show``: pictures of what readers read, whatever its kind."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from aion_core.cli import main, plots
from aion_core.contract import ModalitySpec, Provenance
from aion_core.observations import Image, Observation, Scalar, ScalarField, SourceList, Spectrum
from aion_core.plugins import Registry

KINDS = {
    "demo_image": ("image", (24, 24), "grid2d"),
    "demo_spectrum": ("spectrum", (273,), "seq1d"),
    "demo_coefficients": ("coefficients", (55,), "seq1d"),
    "demo_map": ("scalar_field", (12, 12), "grid2d"),
    "demo_sources": ("source_list", (50,), "seq1d"),
    "demo_number": ("scalar", (1,), "scalar"),
}


def modality(key: str) -> ModalitySpec:
    kind, shape, position = KINDS[key]
    return ModalitySpec(
        key=key,
        survey="Demo",
        title=key,
        citation="nobody",
        kind=kind,
        quantity="phot.flux",
        units="nmgy",
        vocab_size=3468,
        shape=shape,
        position=position,
        provenance=Provenance(id=sum(key.encode()), instrument="none", release="none"),
        **({"order": "causal", "item_tokens": 5} if kind == "source_list" else {}),
    )


REGISTRY = Registry(MappingProxyType({key: modality(key) for key in KINDS}), (), (), (), ())


def observed(bad: float = np.nan) -> dict[str, Observation]:
    """One object with everything, of which one pixel each is bad."""
    rng = np.random.default_rng(0)
    flux, ivar = rng.normal(size=(1, 2, 30, 40)), np.ones((1, 2, 30, 40))
    flux[0, 0, 3, 4], ivar[0, 1, 5, 6] = bad, 0
    wave = np.linspace(4000, 5000, 200)
    lines, mask = rng.normal(size=(1, 200)), np.zeros((1, 200), bool)
    lines[0, 7], mask[0, 50:60] = bad, True
    sources = np.array([[10.0, 20.0, np.nan]])
    return {
        "demo_image": Image(flux, ("u", "v"), ivar),
        "demo_spectrum": Spectrum(lines, wave, np.ones((1, 200)), mask),
        "demo_coefficients": Scalar(rng.normal(size=(1, 55))),
        "demo_map": ScalarField(np.zeros((1, 9, 9))),
        "demo_sources": SourceList(sources, sources, sources, sources, sources),
        "demo_number": Scalar([bad]),
    }


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written."""
    seen: list[Figure] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (seen.append(figure), save(figure, path))[1])
    return seen


@pytest.mark.parametrize(("bad", "suffix"), [(np.nan, ".png"), (np.inf, ".pdf"), (1e30, ".svg")])
def test_every_kind_is_drawn_whatever_its_bad_pixels(tmp_path: Path, bad: float, suffix: str) -> None:
    objects = [plots.Shown(Path("a.fits"), "one", observed(bad)), plots.Shown(Path("b.fits"), "two", {})]
    plots.draw_objects(objects, tmp_path / f"all{suffix}", REGISTRY)
    assert (tmp_path / f"all{suffix}").stat().st_size > 1000


def test_bad_pixels_of_an_image_are_left_out_of_its_stretch_and_marked(tmp_path: Path, figures: list[Figure]) -> None:
    plots.draw_objects([plots.Shown(Path("a"), "one", observed(1e30))], tmp_path / "a.png", REGISTRY)
    pictures = [image for axes in figures[0].axes for image in axes.get_images()]
    first, second = (image.get_array() for image in pictures[:2])
    assert isinstance(pictures[0], AxesImage)
    assert np.argwhere(second.mask).tolist() == [[5, 6]]
    assert np.abs(np.ma.median(first)) < 0.1  # one wild pixel that no mask tells moves neither middle nor scatter


def test_bad_pixels_of_a_spectrum_are_shaded_and_not_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    plots.draw_objects([plots.Shown(Path("a"), "one", observed())], tmp_path / "a.png", REGISTRY)
    (axes,) = (a for a in figures[0].axes if "wavelength" in a.get_xlabel())
    _, good = axes.get_lines()
    missing = np.flatnonzero(np.isnan(good.get_ydata()))
    assert missing.tolist() == [7, *range(50, 60)]
    assert "5.5% bad" in axes.get_title("right")


def test_objects_with_numbers_only_become_distributions(tmp_path: Path, figures: list[Figure]) -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=999), [np.nan]])
    objects = [plots.Shown(Path("a"), str(i), {"demo_number": Scalar([value])}) for i, value in enumerate(values)]
    plots.draw_distributions(objects, tmp_path / "a.png", REGISTRY)
    (axes,) = figures[0].axes
    assert sum(patch.get_height() for patch in axes.patches) == 999
    plots.draw_distributions(objects[-1:], tmp_path / "none.png", REGISTRY)


def test_real_files_are_drawn_and_listed(sample_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "xp.png"
    words = ["show", str(sample_dir / "gaia/gaiaxpy"), "--out", str(out), "--objects", "7", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert out.stat().st_size > 10_000
    files = [Path(one["file"]).name for one in found["objects"]]
    assert len(files) == 7
    assert len(set(files[:5])) == 5  # in turn
    assert main([*words[:-1], "--modalities", "gaia_flux_g"]) == 0
    assert "1 objects of 1 files drawn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.txt"], "a picture is written as one of .png, .pdf, .svg"),
        (["--out", "x.png", "--modalities", "gaia_xp_b"], "Did you mean 'gaia_xp_bp'?"),
        (["--out", "x.png", "--modalities", "gaia_parallax"], "No object with gaia_parallax was found"),
    ],
)
def test_bad_input_is_one_sentence(
    sample_dir: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["show", str(sample_dir / "gaia/gaiaxpy"), *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
