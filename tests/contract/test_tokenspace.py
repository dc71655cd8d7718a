"""Offsets, appending, what may be read under another token space, and the manifest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import (
    AionError,
    ModalitySpec,
    Slot,
    TokenSpace,
    TokenSpaceError,
    UnknownKeyError,
    provenance_id,
)
from aion_core.plugins import load_registry

A, B = "a" * 64, "b" * 64


@pytest.fixture
def slot(make):
    """Return a function that makes a slot with a provenance ID of its own."""

    def build(key: str, fingerprint: str | None = A, **fields) -> Slot:
        identity = fields.pop("id", provenance_id(key))
        provenance = {"id": identity, "instrument": "camera", "release": "DR1"}
        return Slot(spec=make(key=key, provenance=provenance, **fields), fingerprint=fingerprint)

    return build


@pytest.fixture
def space(slot):
    return TokenSpace(
        slots=(
            slot("demo_image", kind="image", shape=(24, 24), position="grid2d", vocab_size=4375),
            slot("demo_flux", upstream_key="tok_flux"),
            slot("demo_redshift", vocab_size=1025),
        )
    )


def test_slots_own_adjoining_rows_in_order(space):
    assert space.offsets == (0, 4375, 5399, 6424)
    assert space.keys == ("demo_image", "demo_flux", "demo_redshift")
    assert [spec.key for spec in space.specs()] == list(space.keys)
    assert len(space) == 3


def test_an_empty_space_has_no_rows():
    assert TokenSpace().offsets == (0,)


def test_a_slot_answers_to_its_key_and_its_upstream_key(space):
    assert space["tok_flux"] is space["demo_flux"]
    assert space.index("tok_flux") == 1
    assert "tok_flux" in space
    assert "tok_image" not in space


def test_an_unknown_key_is_an_error_with_the_nearest_one(space):
    with pytest.raises(UnknownKeyError, match="Did you mean 'demo_redshift'"):
        space["demo_redshfit"]


def test_appending_keeps_the_rows_of_the_old(space, slot):
    grown = space.append([slot("demo_mag")])
    assert grown.slots[: len(space)] == space.slots
    assert grown.offsets[: len(space.offsets)] == space.offsets
    assert grown.index("demo_mag") == 3
    assert len(space) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "demo_flux"},
        {"key": "demo_mag", "id": provenance_id("demo_flux")},
        {"key": "demo_mag", "upstream_key": "tok_flux"},
        {"key": "tok_flux"},
        {"key": "demo_mag", "upstream_key": "demo_image"},
    ],
)
def test_a_key_name_or_provenance_id_cannot_be_taken_twice(space, slot, fields):
    with pytest.raises(TokenSpaceError, match="twice"):
        space.append([slot(**fields)])


def test_selection_keeps_the_order_asked_for(space):
    assert space.select(["demo_redshift", "tok_flux"]).keys == ("demo_redshift", "demo_flux")


# The table of DESIGN section 4, row by row.


def test_a_modality_that_only_the_checkpoint_has_is_read(space):
    space.check_readable(TokenSpace())
    space.check_readable(space.select(["demo_flux"]))


def test_a_modality_that_only_the_store_has_is_ignored(space, slot):
    space.check_readable(space.append([slot("demo_mag")]))


def test_the_same_tokens_are_read_in_any_order_of_slots(space):
    space.check_readable(space.select(reversed(space.keys)))


def test_another_fingerprint_is_an_error_that_tells_both(space, slot):
    with pytest.raises(TokenSpaceError, match=f"demo_flux.*{B[:12]} there.*{A[:12]} here") as refused:
        space.check_readable(TokenSpace(slots=(slot("demo_flux", B),)))
    assert "--accept-fingerprint demo_flux" in str(refused.value)


def test_another_fingerprint_is_read_once_it_is_accepted(space, slot):
    other = TokenSpace(slots=(slot("demo_flux", B),))
    space.check_readable(other, accept=["demo_flux"])
    with pytest.raises(TokenSpaceError):
        space.check_readable(other, accept=["demo_image"])


@pytest.mark.parametrize("unknown_here", [True, False])
def test_an_unknown_fingerprint_is_let_through(slot, unknown_here):
    known, unknown = (TokenSpace(slots=(slot("demo_flux", f),)) for f in (A, None))
    (unknown if unknown_here else known).check_readable(known if unknown_here else unknown)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vocab_size": 2048}, "vocab_size is 1024 here and 2048 there"),
        ({"shape": (4,), "position": "grid2d"}, r"shape is \(1,\) here and \(4,\) there"),
        ({"id": 99}, "provenance ID .* here, 99 there"),
    ],
)
def test_another_meaning_is_an_error_even_if_its_fingerprint_is_accepted(space, slot, changed, words):
    other = TokenSpace(slots=(slot("demo_flux", B, **changed),))
    with pytest.raises(TokenSpaceError, match=words):
        space.check_readable(other, accept=["demo_flux"])


def test_another_order_is_an_error(slot):
    sequence = {"kind": "source_list", "shape": (50,), "position": "seq1d"}
    masked = TokenSpace(slots=(slot("demo_sources", **sequence),))
    causal = TokenSpace(slots=(slot("demo_sources", order="causal", **sequence),))
    with pytest.raises(TokenSpaceError, match="order is masked here and causal there"):
        masked.check_readable(causal)


# The manifest.


def test_the_manifest_of_everything_installed_is_read_back_equal():
    space = load_registry().token_space()
    again = TokenSpace.from_json(space.to_json())
    assert again == space
    assert again.offsets == space.offsets
    assert all(slot.distribution and slot.version for slot in again.slots)


_KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
_TEXT = st.text(min_size=1, max_size=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_GEOMETRY = st.sampled_from(
    [
        {"kind": "scalar", "shape": (1,), "position": "scalar"},
        {"kind": "image", "shape": (24, 24), "position": "grid2d"},
        {"kind": "source_list", "shape": (50,), "position": "seq1d", "order": "causal", "item_tokens": 5},
    ]
)


@st.composite
def spaces(draw: st.DrawFn) -> TokenSpace:
    keys = draw(st.lists(_KEYS, unique=True, max_size=4))
    ids = draw(st.lists(st.integers(1, 2**63 - 1), unique=True, min_size=len(keys), max_size=len(keys)))
    slots = []
    for key, identity in zip(keys, ids, strict=True):
        spec = ModalitySpec(
            key=key,
            survey=draw(_TEXT),
            title=draw(_TEXT),
            citation=draw(_TEXT),
            quantity="phot.flux;em.opt.R",
            units=draw(st.text(max_size=5)),
            vocab_size=draw(st.integers(205, 2**31 - 1)),
            provenance={"id": identity, "instrument": draw(_TEXT), "release": draw(_TEXT)},
            tokenizer={"path": "demo:Class", "config": draw(st.dictionaries(st.text(), _JSON, max_size=3))},
            **draw(_GEOMETRY),
        )
        slots.append(Slot(spec=spec, fingerprint=draw(st.sampled_from([None, A, B])), version=draw(st.none() | _TEXT)))
    return TokenSpace(slots=tuple(slots))


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_a_manifest_is_read_back_equal_and_written_the_same(space):
    text = space.to_json()
    again = TokenSpace.from_json(text)
    assert again == space
    assert again.to_json() == text
    assert TokenSpace.from_json(text.encode()) == space


@settings(max_examples=40, deadline=None)
@given(spaces(), spaces())
def test_appending_never_moves_a_row(first, second):
    try:
        grown = first.append(second.slots)
    except TokenSpaceError:
        assert set(first.keys) & set(second.keys) or {s.provenance.id for s in first.specs()} & {
            s.provenance.id for s in second.specs()
        }
        return
    assert grown.offsets[: len(first.offsets)] == first.offsets
    assert grown.offsets[-1] == first.offsets[-1] + second.offsets[-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[]", "no field 'aion_manifest'"),
        ("{}", "no field 'aion_manifest'"),
        ('{"aion_manifest": 2, "aion_core": "9.0"}', "version 2.*written by 9.0"),
        ('{"aion_manifest": 1, "slots": [{"spec": {}}]}', "Not a valid token space"),
        ('{"aion_manifest": 1, "slots": 5}', "Not a valid token space"),
    ],
)
def test_what_is_no_manifest_is_an_error_in_a_sentence(text, words):
    with pytest.raises(AionError, match=words):
        TokenSpace.from_json(text)


def test_a_manifest_with_a_field_of_the_future_is_refused_by_name(space):
    data = json.loads(space.to_json())
    data["slots"][1]["spec"]["colour"] = "red"
    with pytest.raises(TokenSpaceError, match=r"slots\.1\.spec\.colour"):
        TokenSpace.from_json(json.dumps(data))
