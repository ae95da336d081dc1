"""`nexus_control.integrity`: digests of content, their two forms, and comparing them."""

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_control import integrity
from nexus_control.integrity import (
    DIGEST_PATTERN,
    PREFIX,
    content_digest,
    digests_equal,
    prefixed,
    sha256_digest,
    unprefixed,
    verify_digest,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
EMPTY_OBJECT = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_sha256_of_abc_is_the_value_of_fips_180() -> None:
    assert sha256_digest(b"abc") == ABC
    assert sha256_digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        ({}, EMPTY_OBJECT),
        ({"b": 1, "a": [2, 3]}, "2aae3bfa906be39530e7d7a4aa90a7e6d4f29c33e3ac80e1c3b05598c5953c04"),
        (
            {"event_type": "APPROVAL_GRANTED", "payload": {"expires_at": None}},
            "79b78629bf4dee55065517c950fe627418e05dd0bbee2603b6e008838c3ce759",
        ),
        (
            {
                "event_type": "DECISION_CREATED",
                "payload": {"goal": "g", "plan": None, "requested_mode": "dry_run", "labels": []},
            },
            "ea08c8db72786a95e11ea83e80e8c4a6bbcdd2219ffd7278e74f80dc8e1b8efa",
        ),
        (
            {
                "decision_id": "dec-1",
                "run_id": "run-1",
                "router_request_digest": "aa",
                "router_result_digest": "bb",
            },
            "546e28946fc2a794a0e82ffaf32e519a6a1aba354aeb5979e5e418a6098c0b7d",
        ),
    ],
)
def test_content_digest_has_its_golden_values(value: Any, digest: str) -> None:
    assert content_digest(value) == digest


def test_content_digest_is_over_the_canonical_bytes() -> None:
    assert content_digest({"ö": 1.0, "a": "€"}) == sha256('{"a":"€","ö":1}'.encode()).hexdigest()


@pytest.mark.parametrize(
    "value", [float("nan"), "\ud800", {1: 2}, object()], ids=["NaN", "a lone surrogate", "a key that is no text", "no JSON type"]
)
def test_what_has_no_canonical_form_has_no_digest(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        content_digest(value)
    with pytest.raises((ValueError, TypeError)):
        verify_digest(value, ABC)


@pytest.mark.parametrize("data", ["abc", None, 3, ["a"]], ids=repr)
def test_only_bytes_have_a_byte_digest(data: Any) -> None:
    with pytest.raises(TypeError):
        sha256_digest(data)


def test_expected_digest_may_be_raw_or_prefixed() -> None:
    assert verify_digest({}, EMPTY_OBJECT) is True
    assert verify_digest({}, f"sha256:{EMPTY_OBJECT}") is True


@pytest.mark.parametrize("place", range(64))
def test_one_changed_digit_does_not_verify(place: int) -> None:
    digit = "0" if EMPTY_OBJECT[place] != "0" else "1"
    changed = EMPTY_OBJECT[:place] + digit + EMPTY_OBJECT[place + 1 :]
    assert verify_digest({}, changed) is False
    assert verify_digest({}, prefixed(changed)) is False


@pytest.mark.parametrize(
    "expected",
    [
        "",
        "sha256:",
        EMPTY_OBJECT[:-1],
        EMPTY_OBJECT + "0",
        EMPTY_OBJECT + "\n",
        " " + EMPTY_OBJECT,
        EMPTY_OBJECT.upper(),
        "SHA256:" + EMPTY_OBJECT,
        "sha512:" + EMPTY_OBJECT,
        "sha256:sha256:" + EMPTY_OBJECT,
        EMPTY_OBJECT + "é",
        "\ud800",
        None,
        0,
        True,
        EMPTY_OBJECT.encode(),
        [EMPTY_OBJECT],
        {},
    ],
    ids=ascii,
)
def test_anything_else_does_not_verify(expected: Any) -> None:
    assert verify_digest({}, expected) is False
    assert digests_equal(EMPTY_OBJECT, expected) is False
    assert digests_equal(expected, EMPTY_OBJECT) is False


@pytest.mark.parametrize("a", [ABC, "sha256:" + ABC])
@pytest.mark.parametrize("b", [ABC, "sha256:" + ABC])
def test_both_forms_of_a_digest_are_equal(a: str, b: str) -> None:
    assert digests_equal(a, b) is True


@pytest.mark.parametrize("value", [None, 1, b"abc", "é", "\ud800"], ids=ascii)
def test_what_is_no_ascii_string_equals_nothing_not_even_itself(value: Any) -> None:
    assert digests_equal(value, value) is False


def test_digest_like_strings_compare_as_strings() -> None:
    assert digests_equal("abc", "sha256:abc") is True
    assert digests_equal("abc", "abd") is False


def test_prefix_is_added_always_and_taken_off_once() -> None:
    assert PREFIX == "sha256:"
    assert prefixed(ABC) == "sha256:" + ABC
    assert prefixed("sha256:x") == "sha256:sha256:x"
    assert unprefixed("sha256:" + ABC) == ABC
    assert unprefixed(ABC) == ABC
    assert unprefixed("sha256:sha256:x") == "sha256:x"


@given(st.binary())
def test_pattern_matches_every_prefixed_digest(data: bytes) -> None:
    assert DIGEST_PATTERN.fullmatch(prefixed(sha256_digest(data)))


@pytest.mark.parametrize(
    "text",
    [
        ABC,
        "sha256:" + ABC[:-1],
        "sha256:" + ABC + "0",
        "sha256:" + ABC + "\n",
        "sha256:" + ABC.upper(),
        "sha256:" + "g" * 64,
        "sha256:" + "\u0663" * 64,
        "",
    ],
)
def test_pattern_matches_nothing_else(text: str) -> None:
    assert DIGEST_PATTERN.fullmatch(text) is None


def test_public_names() -> None:
    assert integrity.__all__ == [
        "DIGEST_PATTERN",
        "PREFIX",
        "Digest",
        "content_digest",
        "digests_equal",
        "prefixed",
        "sha256_digest",
        "unprefixed",
        "verify_digest",
    ]
