"""What this plugin declares is valid, stable for ever and usable without any other plugin."""

from __future__ import annotations

from aion_tok_catalog.specs import MODALITIES

from aion_core.testing import SpecContract
from aion_core.tokenizers import build_tokenizer

UPSTREAM = {"catalog_sources": ("catalog", "catalog"), "catalog_redshift": ("tok_z", "Z")}


class TestSpecs(SpecContract):
    plugin = "catalog"
    modalities = MODALITIES
    upstream = UPSTREAM


def test_the_redshift_grid_has_one_code_less_than_its_vocabulary():
    (redshift,) = (spec for spec in MODALITIES if spec.key == "catalog_redshift")
    assert (build_tokenizer(redshift).codes, redshift.vocab_size) == (1024, 1025)
    assert redshift.tokenizer.range == (0.0, 1.0)
