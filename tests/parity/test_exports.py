"""What we export is read by the release's package, strictly, and gives the same codes there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("aion.codecs")
cases_spectrum = pytest.importorskip("cases_spectrum")
cases_sources = pytest.importorskip("cases_sources")


def reread(codec_class: Any, folder: Path) -> Any:
    """Build a codec of the release from a folder, as its own loading does."""
    config = json.loads((folder / "config.json").read_text())
    import inspect

    known = inspect.signature(codec_class.__init__).parameters
    codec = codec_class(**{k: v for k, v in config.items() if k in known}).eval()
    codec.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return codec


def test_the_release_reads_a_spectrum_tokenizer_that_was_built_here(tmp_path: Path) -> None:
    from aion.codecs.spectrum import SpectrumCodec
    from aion.modalities import DESISpectrum

    from aion_core.observations import Spectrum
    from aion_core.tokenizers.spectrum import SpectrumTokenizer

    (tokenizer,) = SpectrumTokenizer.build(
        [cases_spectrum.REGISTRY.resolve("desi_spectrum")], seed=1, **cases_spectrum.SMALL
    )
    tokenizer.save_pretrained(tmp_path)
    codec = reread(SpectrumCodec, tmp_path / "codecs" / "spectrum")
    arrays = cases_spectrum.drawn(cases_spectrum.DESI, 2)
    obs = Spectrum(arrays["flux"], arrays["wavelength"], arrays["ivar"], arrays["mask"])
    with torch.no_grad():
        theirs = torch.cat([codec.encode(DESISpectrum(**{k: v[i : i + 1] for k, v in arrays.items()})) for i in (0, 1)])
    assert torch.equal(tokenizer.encode(obs), theirs.long())


def test_the_release_reads_a_source_list_tokenizer_that_was_fitted_here(tmp_path: Path) -> None:
    from aion.codecs.catalog import CatalogCodec
    from aion.modalities import LegacySurveyCatalog

    from aion_core.observations import SourceList
    from aion_core.tokenizers.base import build_tokenizer

    tokenizer: Any = build_tokenizer(cases_sources.REGISTRY.resolve("catalog_sources"))
    lists = [cases_sources.chosen(t) for t in cases_sources.drawn(200, 20)]
    tokenizer.observe(SourceList(*cases_sources.padded(lists, float("nan")).unbind(-1)))
    tokenizer.finish()
    tokenizer.save_pretrained(tmp_path)
    codec = reread(CatalogCodec, tmp_path / "codecs" / "catalog")
    given = cases_sources.padded(lists, 9999)
    columns = {name: given[..., i] for i, name in enumerate(cases_sources.NAMES)}
    columns |= {name: columns[name].round().long() for name in ("X", "Y")}
    theirs = codec.encode(LegacySurveyCatalog(**columns)).long()
    ours = tokenizer.encode(SourceList(*cases_sources.padded(lists, float("nan")).unbind(-1)))
    assert torch.equal(ours, torch.where(theirs == 9999, -1, theirs + 204))
