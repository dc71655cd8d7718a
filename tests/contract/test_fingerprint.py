"""The fingerprint changes with everything that the encode path reads, and with nothing else."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from aion_core.contract import fingerprint

TENSORS = (("codes", "float32", (2, 3), b"a" * 24), ("scale", "float32", (1,), b"b" * 4))
BASE = {"implementation": "demo:Class", "preprocessing": 1, "settings": {"limit": 80.0}, "tensors": TENSORS}


def test_it_is_64_hex_digits_and_the_same_each_time():
    assert fingerprint(**BASE) == fingerprint(**BASE)
    assert len(fingerprint(**BASE)) == 64
    assert int(fingerprint(**BASE), 16) >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"implementation": "demo:Other"},
        {"preprocessing": 2},
        {"settings": {"limit": 80.5}},
        {"settings": {"limit": 80.0, "zero_point": 22.5}},
        {"settings": {}},
        {"tensors": TENSORS[:1]},
        {"tensors": (("code", *TENSORS[0][1:]), TENSORS[1])},
        {"tensors": (("codes", "int32", (2, 3), b"a" * 24), TENSORS[1])},
        {"tensors": (("codes", "float32", (3, 2), b"a" * 24), TENSORS[1])},
        {"tensors": (("codes", "float32", (2, 3), b"a" * 23 + b"b"), TENSORS[1])},
        # the same bytes, cut elsewhere
        {"tensors": (("codes", "float32", (2, 3), b"a" * 20), ("scale", "float32", (1,), b"aaaa" + b"b" * 4))},
    ],
)
def test_it_changes_with_everything_that_the_encode_path_reads(change):
    assert fingerprint(**BASE | change) != fingerprint(**BASE)


def test_the_order_of_tensors_and_settings_does_not_matter():
    first = fingerprint("demo:Class", 1, {"a": 1, "b": 2}, TENSORS)
    second = fingerprint("demo:Class", 1, {"b": 2, "a": 1}, iter(TENSORS[::-1]))
    assert first == second


def test_a_setting_that_is_not_a_number_of_json_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        fingerprint("demo:Class", 1, {"limit": float("nan")}, ())


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=64), st.integers(0, 511))
def test_one_bit_of_a_tensor_is_enough(data, bit):
    flipped = bytearray(data)
    flipped[bit // 8 % len(data)] ^= 1 << bit % 8
    one, other = ((("t", "uint8", (len(data),), bytes(d)),) for d in (data, flipped))
    assert fingerprint("demo:Class", 1, {}, one) != fingerprint("demo:Class", 1, {}, other)
