"""Canonical JSON against an implementation by others: the `rfc8785` package, https://github.com/trailofbits/rfc8785.py."""

import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_control.canonical_json import canonical_json_bytes

# The oracle refuses integers outside the range that ECMAScript represents exactly; here they are written (and tested) as they are.
integers = st.integers(-(2**53) + 1, 2**53 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
# Characters on both sides of the surrogates, where the order of code points and the order of UTF-16 code units part.
awkward_text = st.text(st.sampled_from('a\x00"\\\x7f\u00f6\ud7ff\ue000\ufb33\uffff\U00010000\U0001f600\U0010ffff'), max_size=4)


def trees(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | integers | floats | keys,
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(keys, inner, max_size=6),
        max_leaves=30,
    )


@settings(max_examples=500)
@given(trees(text) | trees(awkward_text))
def test_every_tree_has_the_bytes_of_the_oracle(value: Any) -> None:
    assert canonical_json_bytes(value) == rfc8785.dumps(value)


@settings(max_examples=500)
@given(st.dictionaries(awkward_text, st.integers(0, 9), min_size=2, max_size=12))
def test_every_order_of_keys_is_that_of_the_oracle(value: dict[str, int]) -> None:
    assert canonical_json_bytes(value) == rfc8785.dumps(value)


@settings(max_examples=500)
@given(floats | st.floats(1e-8, 1e-3) | st.floats(1e15, 1e23) | st.integers(-(2**70), 2**70).map(float))
def test_every_float_has_the_bytes_of_the_oracle(value: float) -> None:
    assert canonical_json_bytes([value]) == rfc8785.dumps([value])


def test_both_sides_of_every_power_of_ten_have_the_bytes_of_the_oracle() -> None:
    for exponent in range(-30, 31):
        (bits,) = struct.unpack(">q", struct.pack(">d", float(f"1e{exponent}")))
        for neighbour in range(bits - 3, bits + 4):
            (value,) = struct.unpack(">d", struct.pack(">q", neighbour))
            assert canonical_json_bytes([value, -value]) == rfc8785.dumps([value, -value])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"\udfff": 1}, {1: 2}, b"bytes"], ids=ascii)
def test_what_the_oracle_refuses_is_refused(value: Any) -> None:
    with pytest.raises((rfc8785.CanonicalizationError, UnicodeEncodeError)):
        rfc8785.dumps(value)
    with pytest.raises((ValueError, TypeError)):
        canonical_json_bytes(value)
