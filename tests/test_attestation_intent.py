"""Intents: golden digests, and what is refused."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_attest.attestation import AttestationIntent
from nexus_attest.attestation.errors import InvalidIntent

BINDING = "sha256:" + "a" * 64
FULL: dict[str, Any] = {
    "subject_type": "nexus.audit_package",
    "binding_digest": BINDING,
    "package_version": "0.6",
    "run_id": "run_1",
    "env": "prod",
    "tenant": "acme",
    "labels": {"b": "2", "a": "1"},
}


def intent(**members: Any) -> AttestationIntent:
    base: dict[str, Any] = {"subject_type": "nexus.audit_package", "binding_digest": BINDING}
    return AttestationIntent(**{**base, **members})


def test_digests_are_the_published_ones() -> None:
    assert intent().intent_digest() == "9a79bfd9b9e15dedcbdbd161f16ca5aa50d08bce537cab264b91d00a7cbe9d5f"
    assert intent(**FULL).intent_digest() == "a7a22a7a19b732a6b4c30319c276acf28ad47e698c29a5f7c7fbc7c6ecb53866"


def test_the_digest_does_not_depend_on_the_order_of_labels_nor_on_absent_members() -> None:
    assert intent(**{**FULL, "labels": {"a": "1", "b": "2"}}).intent_digest() == intent(**FULL).intent_digest()
    assert intent(run_id=None, labels={}, claims={}).intent_digest() == intent().intent_digest()


def test_every_member_is_in_the_digest() -> None:
    digests = {intent(**FULL).intent_digest()}
    for name, value in {**FULL, "claims": {"a": 1}}.items():
        other = {"c": "3"} if isinstance(value, dict) else "sha256:" + "b" * 64
        digests.add(intent(**{**FULL, name: other}).intent_digest())
    assert len(digests) == len(FULL) + 2


def test_dict_forms_have_labels_sorted_or_as_given() -> None:
    made = intent(**FULL, claims={"z": True, "a": None})
    assert list(made.to_canonical_dict()) == ["intent_version", *FULL, "claims"]
    assert json.dumps(made.to_canonical_dict()["labels"]) == '{"a": "1", "b": "2"}'
    assert json.dumps(made.to_dict()["labels"]) == '{"b": "2", "a": "1"}'
    assert list(made.to_canonical_dict()["claims"]) == ["a", "z"]
    assert intent().to_dict() == {"intent_version": "0.1", "subject_type": "nexus.audit_package", "binding_digest": BINDING}


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=256)
KEY = st.from_regex(r"[a-zA-Z0-9._-]{1,64}", fullmatch=True)


@given(
    st.dictionaries(KEY, TEXT, max_size=32),
    st.dictionaries(KEY, TEXT | st.booleans() | st.integers() | st.none(), max_size=32),
    st.none() | st.text(st.characters(exclude_categories=("Cs",))),
)
def test_a_dict_form_gives_the_same_intent(labels: dict[str, str], claims: dict[str, Any], run_id: str | None) -> None:
    made = intent(labels=labels, claims=claims, run_id=run_id)
    assert AttestationIntent.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_limits_are_inclusive() -> None:
    largest = intent(labels={f"{n:064}": "x" * 256 for n in range(32)}, run_id="x" * 100_000)
    assert (len(largest.labels), len(largest.run_id or "")) == (32, 100_000)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"binding_digest": "a" * 64}, "binding_digest"),
    ({"binding_digest": BINDING + "\n"}, "binding_digest"),
    ({"binding_digest": "sha256:" + "A" * 64}, "binding_digest"),
    ({"binding_digest": None}, "binding_digest"),
    ({"subject_type": 7}, "subject_type"),
    ({"env": b"prod"}, "env"),
    ({"tenant": "\ud800"}, "tenant"),
    ({"labels": {str(n): "x" for n in range(33)}}, "max 32"),
    ({"claims": {str(n): "x" for n in range(33)}}, "max 32"),
    ({"labels": {"": "x"}}, "label key"),
    ({"labels": {"a\n": "x"}}, "label key"),
    ({"labels": {"x" * 65: "x"}}, "label key"),
    ({"labels": {"\u0661": "x"}}, "label key"),
    ({"labels": {1: "x"}}, "label key"),
    ({"claims": {"a b": "x"}}, "claim key"),
    ({"labels": {"a": "x" * 257}}, "label value"),
    ({"labels": {"a": 1}}, "label value"),
    ({"labels": {"a": None}}, "label value"),
    ({"claims": {"a": "x" * 257}}, "claim value"),
    ({"claims": {"a": 1.5}}, "claim value"),
    ({"claims": {"a": 10**256}}, "claim value"),
    ({"claims": {"a": ["x"]}}, "claim value"),
    ({"labels": {"a": "\x1f"}}, "control characters"),
    ({"labels": {"a": "\x7f"}}, "control characters"),
    ({"claims": {"a": "\x9f"}}, "control characters"),
    ({"labels": ["a"]}, "labels must be an object"),
    ({"claims": None}, "claims must be an object"),
]


@pytest.mark.parametrize(("members", "text"), BAD)
def test_what_cannot_be_said_is_refused_by_name(members: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidIntent, match=text) as refused:
        intent(**members)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("data", [None, [], "x", {}, {"subject_type": "x"}, {**FULL, "more": 1}, {**FULL, 1: 2}, {**FULL, "labels": None}])
def test_other_dict_forms_are_refused(data: Any) -> None:
    with pytest.raises(InvalidIntent):
        AttestationIntent.from_dict(data)


def test_an_intent_cannot_be_changed_from_outside() -> None:
    labels = {"a": "1"}
    made = intent(labels=labels)
    labels["a"] = "2"
    made.to_dict()["labels"]["a"] = "3"
    assert made.labels == {"a": "1"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.env = "other"  # pyright: ignore[reportAttributeAccessIssue]
