"""What this plugin declares is valid, stable for ever and usable without any other plugin."""

from __future__ import annotations

import pytest
from aion_tok_catalog.specs import MODALITIES
from astropy.io.votable.ucd import parse_ucd
from astropy.units import Unit

from aion_core.contract import provenance_id
from aion_core.plugins import load_registry
from aion_core.tokenizers import build_tokenizer

UPSTREAM = {"catalog_sources": ("catalog", "catalog"), "catalog_redshift": ("tok_z", "Z")}


def test_every_modality_has_its_name_in_the_release():
    assert {spec.key: (spec.upstream_key, spec.upstream_codec) for spec in MODALITIES} == UPSTREAM


@pytest.mark.parametrize("spec", MODALITIES, ids=lambda spec: spec.key)
def test_key_units_quantity_and_provenance_are_valid(spec):
    assert spec.key.startswith("catalog_")
    Unit(spec.units)
    parse_ucd(spec.quantity, check_controlled_vocabulary=True)
    assert spec.provenance.id == provenance_id(f"urn:aion:{spec.key}")
    assert spec.provenance.doi


def test_every_tokenizer_that_is_named_can_be_built():
    for spec in MODALITIES:
        if spec.tokenizer:
            assert build_tokenizer(spec).spec == spec


def test_the_plugin_is_whole_by_itself(monkeypatch):
    monkeypatch.setenv("AION_PLUGINS", "catalog")
    registry = load_registry()
    assert registry.failures == ()
    assert tuple(registry.modalities.values()) == MODALITIES


def test_the_redshift_grid_has_one_code_less_than_its_vocabulary():
    (redshift,) = (spec for spec in MODALITIES if spec.key == "catalog_redshift")
    assert (build_tokenizer(redshift).codes, redshift.vocab_size) == (1024, 1025)
    assert redshift.tokenizer.range == (0.0, 1.0)
