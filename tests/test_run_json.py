"""Plans and tool outputs are read strictly; run records are written in one way."""

import hashlib
import json
import math
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.run_json import MAX_DEPTH, UnsafeJson, read_json, run_json

VECTORS = Path(__file__).parent / "vectors" / "router"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_what_was_written_is_read_back_and_written_the_same(value: object) -> None:
    text = run_json(value)
    assert read_json(text) == value
    assert run_json(read_json(text)) == text


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[1e999]", '{"a": -1e999}', '{"a": [NaN]}'])
def test_a_number_that_is_not_finite_is_refused(text: str) -> None:
    with pytest.raises(UnsafeJson, match="finite"):
        read_json(text)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"x": {"a": 1, "b": 2, "a": 3}}]', '{"a": 1, "\\u0061": 2}'])
def test_a_duplicate_key_is_refused_at_every_depth(text: str) -> None:
    with pytest.raises(UnsafeJson, match="duplicate key 'a'"):
        read_json(text)


def test_a_duplicate_key_after_thousands_of_others_is_found_in_linear_time() -> None:
    members = ",".join(f'"k{number}":1' for number in range(100_000))
    began = process_time()
    with pytest.raises(UnsafeJson, match="duplicate key 'z'"):
        read_json("{" + members + ',"z":1,"z":2}')
    assert process_time() - began < 10


@pytest.mark.parametrize("text", ['"\\ud800"', '["ok", "\\udfff"]', '{"\\ud83d": 1}', '{"a": {"b": "x\\ud83dy"}}'])
def test_a_lone_surrogate_is_refused_in_values_and_keys(text: str) -> None:
    with pytest.raises(UnsafeJson, match="surrogates"):
        read_json(text)


def test_a_surrogate_pair_is_one_character() -> None:
    assert read_json('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("text", ["", " ", "{", '{"a": 1', "{} {}", "[1,]", "{'a': 1}", "\ufeff{}", "{} trailing", "nul"])
def test_text_that_is_no_json_is_told_apart_from_json_that_is_refused(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        read_json(text)


def test_nesting_is_accepted_up_to_the_limit_and_refused_beyond_it() -> None:
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert read_json('{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH) is not None
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        inner = "" if opening == "[" else "1"
        with pytest.raises(UnsafeJson, match="nested deeper than 100 levels"):
            read_json(opening * (MAX_DEPTH + 1) + inner + closing * (MAX_DEPTH + 1))


def test_nesting_that_would_exhaust_the_stack_is_refused_like_any_other() -> None:
    with pytest.raises(UnsafeJson, match="nested deeper"):
        read_json("[" * 200_000 + "]" * 200_000)


def test_an_integer_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(UnsafeJson, match="digits"):
        read_json("9" * 5_000)


def test_large_integers_keep_their_value() -> None:
    assert read_json("9007199254740993") == 9007199254740993
    assert run_json(2**200) == str(2**200)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"a": math.nan}])
def test_numbers_that_are_not_finite_are_never_written(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_json(value)


def test_what_contains_itself_is_never_written() -> None:
    value: dict[str, object] = {}
    value["a"] = [value]
    with pytest.raises(ValueError, match="nested too deeply, or circular"):
        run_json(value)


def test_bytes_are_read_as_the_text_that_they_encode() -> None:
    assert read_json('{"a":"\u00e9"}'.encode()) == {"a": "\u00e9"}
    with pytest.raises(UnsafeJson, match="duplicate key"):
        read_json(b'{"a":1,"a":2}')


def test_the_text_is_that_of_the_run_digest_vector() -> None:
    # Escapes for everything outside ASCII, U+007F too, astral characters as pairs, keys by code point; made with nexus-router 1.1.1.
    vector = json.loads((VECTORS / "router-digest-vector.json").read_text(encoding="utf-8"))
    assert run_json(vector["input"]) == vector["canonical"]
    assert hashlib.sha256(run_json(vector["input"]).encode()).hexdigest() == vector["sha256"]
