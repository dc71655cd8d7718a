"""What is particular to the modalities of this plugin; the conformance suite has the rest."""

from __future__ import annotations

from aion_tok_catalog.specs import MODALITIES

from aion_core.tokenizers import build_tokenizer


def test_the_redshift_grid_has_one_code_less_than_its_vocabulary():
    (redshift,) = (spec for spec in MODALITIES if spec.key == "catalog_redshift")
    assert (build_tokenizer(redshift).codes, redshift.vocab_size) == (1024, 1025)
    assert redshift.tokenizer.range == (0.0, 1.0)
