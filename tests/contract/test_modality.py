"""What a spec accepts and refuses, and the provenance ID."""

from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aion_core.contract import SEQUENCE_IDS, Band, ModalitySpec, TokenizerSpec, Weights, is_key, provenance_id

GRID = {"kind": "image", "shape": (24, 24), "position": "grid2d"}
SEQUENCE = {
    "kind": "source_list",
    "shape": (50,),
    "position": "seq1d",
    "order": "causal",
    "vocab_size": 3468,
    "item_tokens": 5,
}


@pytest.mark.parametrize(("fields", "tokens"), [({}, 1), (GRID, 576), (SEQUENCE, 50), ({**GRID, "shape": (273,)}, 273)])
def test_the_number_of_tokens_is_the_product_of_the_shape(make, fields, tokens):
    assert make(**fields).n_tokens == tokens


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"key": "Demo_flux"}, "key"),
        ({"key": "1demo_flux"}, "key"),
        ({"key": "demo-flux"}, "key"),
        ({"key": "demo_flux\n"}, "key"),
        ({"survey": ""}, "survey"),
        ({"title": ""}, "title"),
        ({"citation": ""}, "citation"),
        ({"kind": "cube"}, "kind"),
        ({"quantity": ""}, "quantity"),
        ({"quantity": "flux in r"}, "quantity"),
        ({"vocab_size": 1}, "vocab_size"),
        ({"vocab_size": 2**31}, "vocab_size"),
        ({"shape": ()}, "shape"),
        ({"shape": (2, 2, 2), "position": "grid2d"}, "shape"),
        ({"shape": (0,), "position": "grid2d"}, "axis below 1"),
        ({"shape": (4, -1), "position": "grid2d"}, "axis below 1"),
        ({"shape": (2,)}, "position 'scalar' has shape (1,)"),
        ({**SEQUENCE, "shape": (5, 10)}, "'seq1d' has one axis"),
        ({**GRID, "order": "causal"}, "needs position 'seq1d'"),
        ({**SEQUENCE, "vocab_size": SEQUENCE_IDS.first_code}, "reserved ids"),
        ({**SEQUENCE, "item_tokens": 7}, "item_tokens 7"),
        ({**SEQUENCE, "order": "masked"}, "item_tokens 5"),
        ({"item_tokens": 0}, "item_tokens"),
        ({"kind": "other"}, "observation class"),
        ({"observation": "demo.plugin:Cube"}, "observation class"),
        ({"kind": "other", "observation": "demo.plugin"}, "observation"),
        ({"colour": "red"}, "colour"),
        ({"provenance": {"id": 0, "instrument": "camera", "release": "DR1"}}, "provenance.id"),
        ({"provenance": {"id": 2**63, "instrument": "camera", "release": "DR1"}}, "provenance.id"),
        ({"provenance": {"id": 7, "instrument": "", "release": "DR1"}}, "provenance.instrument"),
        ({"provenance": {"id": 7, "instrument": "camera", "release": ""}}, "provenance.release"),
        ({"provenance": {"id": 7, "instrument": "camera", "release": "DR1", "doi": "ab089d"}}, "provenance.doi"),
        ({"tokenizer": {"path": "demo.tokenizer"}}, "tokenizer.path"),
        ({"tokenizer": {"path": "demo tokenizer:Class"}}, "tokenizer.path"),
    ],
)
def test_a_spec_against_a_rule_is_refused_and_the_field_is_named(make, fields, words):
    with pytest.raises(ValidationError) as refused:
        make(**fields)
    assert words in str(refused.value)


def test_kind_other_with_its_class_is_accepted(make):
    assert make(kind="other", observation="demo.plugin:Cube").observation == "demo.plugin:Cube"


def test_the_smallest_causal_vocabulary_holds_one_code(make):
    spec = make(**SEQUENCE | {"vocab_size": SEQUENCE_IDS.first_code + 1})
    assert spec.vocab_size == 205


def test_a_spec_cannot_be_changed(make):
    with pytest.raises(ValidationError, match="frozen"):
        make().vocab_size = 2048


def test_every_missing_field_is_named():
    with pytest.raises(ValidationError) as refused:
        ModalitySpec.model_validate({})
    missing = {error["loc"][0] for error in refused.value.errors()}
    assert missing == {
        "key", "survey", "title", "citation", "kind", "quantity", "units", "vocab_size", "shape", "position",
        "provenance",
    }  # fmt: skip


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, math.nan, math.inf, len, {"a": {1}}, b"bytes"])
def test_tokenizer_settings_that_json_would_change_are_refused(value):
    with pytest.raises(ValidationError, match="JSON"):
        TokenizerSpec(path="demo.tokenizer:Class", config={"setting": value})


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_band_limit_is_finite_and_positive(value):
    with pytest.raises(ValidationError):
        Band(name="CAM-R", limit=value, zero_point=22.5, pixel_scale=0.2)


def test_a_range_is_finite():
    with pytest.raises(ValidationError, match="finite"):
        TokenizerSpec(path="demo.tokenizer:Class", range=(0.0, math.inf))


def test_a_checksum_is_64_hex_digits():
    assert Weights(repo="demo/weights", sha256="0" * 64).sha256 == "0" * 64
    with pytest.raises(ValidationError, match="sha256"):
        Weights(repo="demo/weights", sha256="0" * 63)


@pytest.mark.parametrize(
    ("name", "answer"), [("a", True), ("a_1", True), ("_a", False), ("A", False), ("", False), ("a\n", False)]
)
def test_what_may_be_a_key(name, answer):
    assert is_key(name) is answer


def test_a_provenance_id_is_for_ever():
    assert provenance_id("https://example.org/survey/dr1/image") == 7423867943782080336


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_a_provenance_id_is_the_top_63_bits_of_sha256(uri):
    number = provenance_id(uri)
    bits = f"{int(hashlib.sha256(uri.encode()).hexdigest(), 16):0256b}"
    assert number == int(bits[:63], 2)
    assert 1 <= number < 2**63
