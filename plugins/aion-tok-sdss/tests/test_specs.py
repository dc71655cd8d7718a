"""What this plugin declares is valid, stable for ever and usable without any other plugin."""

from __future__ import annotations

import pytest
from aion_tok_sdss.specs import MODALITIES
from astropy.io.votable.ucd import parse_ucd
from astropy.units import Unit

from aion_core.contract import provenance_id
from aion_core.plugins import load_registry
from aion_core.tokenizers import build_tokenizer

UPSTREAM = {"sdss_spectrum": ("tok_spectrum_sdss", "spectrum")}


def test_every_modality_has_its_name_in_the_release():
    assert {spec.key: (spec.upstream_key, spec.upstream_codec) for spec in MODALITIES} == UPSTREAM


@pytest.mark.parametrize("spec", MODALITIES, ids=lambda spec: spec.key)
def test_key_units_quantity_and_provenance_are_valid(spec):
    assert spec.key.startswith("sdss_")
    Unit(spec.units)
    parse_ucd(spec.quantity, check_controlled_vocabulary=True)
    assert spec.provenance.id == provenance_id(f"urn:aion:{spec.key}")
    assert spec.provenance.doi


def test_every_tokenizer_that_is_named_can_be_built():
    for spec in MODALITIES:
        if spec.tokenizer:
            assert build_tokenizer(spec).spec == spec


def test_the_plugin_is_whole_by_itself(monkeypatch):
    monkeypatch.setenv("AION_PLUGINS", "sdss")
    registry = load_registry()
    assert registry.failures == ()
    assert tuple(registry.modalities.values()) == MODALITIES
