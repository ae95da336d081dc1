"""Actors, times, payloads, and the exact bytes of the records that chain a history."""

import copy
import dataclasses
import json
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_control import events
from nexus_control.canonical_json import canonical_json, canonical_json_bytes
from nexus_control.errors import InputError, InvalidActor, InvalidExpiresAt, MalformedEvent
from nexus_control.events import (
    ZERO_HASH,
    Actor,
    EventType,
    StoredEvent,
    decode_payload,
    event_digest,
    event_record,
    expiry_instant,
    generation_record,
    parse_actor,
    parse_expires_at,
    parse_time,
    require_text,
    template_event_record,
    utc_now,
)
from nexus_control.integrity import content_digest

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(TEXTS, JSON, max_size=4)
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
NUMBERS = st.integers(0, 2**63)

CREATED: dict[str, Any] = {"goal": "g", "plan": None, "requested_mode": "dry_run", "labels": []}
T0 = "2025-01-01T00:00:00+00:00"
HEADER_HASH = "c6eb07ea0fb280a63f2c8ef8f7094110979273fc6cd28e1376270c8ec60029ad"
FIRST_HASH = "1bfa836df10e3a07f7d1f54872520a4a933c6d403a142902c3efcd0c81c6a1f1"


# -- actors


def test_an_actor_is_a_mapping_of_two_entries_that_equals_the_plain_dict() -> None:
    actor = Actor(type="human", id="alice")
    assert actor == {"type": "human", "id": "alice"}
    assert (actor["type"], actor.get("id"), actor.get("key")) == ("human", "alice", None)
    assert dict(actor) == {"type": "human", "id": "alice"}
    assert json.loads(json.dumps(actor)) == {"type": "human", "id": "alice"}
    assert canonical_json(actor) == '{"id":"alice","type":"human"}'


def test_an_actor_has_its_entries_as_attributes() -> None:
    actor = Actor(type="system", id="ci")
    assert (actor.type, actor.id) == ("system", "ci")
    actor["id"] = "cd"
    assert actor.id == "cd"


def test_constructing_an_actor_does_not_judge_it() -> None:
    assert Actor(type="robot", id="") == {"type": "robot", "id": ""}


def test_an_actor_is_built_with_keywords_only() -> None:
    with pytest.raises(TypeError):
        cast("Callable[..., Actor]", Actor)("human", "alice")


class Kind(StrEnum):
    HUMAN = "human"


class Name(str):
    """Text whose own idea of itself differs."""

    def __repr__(self) -> str:
        return "?"


@pytest.mark.parametrize(
    "value",
    [
        {"type": "human", "id": "alice"},
        Actor(type="human", id="alice"),
        MappingProxyType({"type": "human", "id": "alice"}),
        {"type": Kind.HUMAN, "id": Name("alice")},
    ],
)
def test_any_mapping_of_the_two_entries_becomes_an_actor_of_plain_texts(value: object) -> None:
    actor = parse_actor(value)
    assert actor == {"type": "human", "id": "alice"}
    assert (type(actor), type(actor.type), type(actor.id)) == (Actor, str, str)


def test_parsing_an_actor_gives_an_object_of_its_own() -> None:
    given_actor = Actor(type="human", id="alice")
    parsed = parse_actor(given_actor)
    given_actor["id"] = "mallory"
    assert parsed.id == "alice"


@pytest.mark.parametrize("name", ["a", " ", "alice@example.org", "Zoë", "\U0001f511", "a\x00b", "x" * 100_000])
def test_every_non_empty_text_that_utf8_can_express_is_an_id(name: str) -> None:
    assert parse_actor({"type": "system", "id": name}).id == name


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "actor must be an object with 'type' and 'id', got NoneType"),
        ("alice", "actor must be an object with 'type' and 'id', got str"),
        (["human", "alice"], "actor must be an object with 'type' and 'id', got list"),
        (b"alice", "actor must be an object with 'type' and 'id', got bytes"),
        (1, "actor must be an object with 'type' and 'id', got int"),
        ({}, "actor.type must be 'human' or 'system'"),
        ({"id": "alice"}, "actor.type must be 'human' or 'system'"),
        ({"type": "robot", "id": "alice"}, "actor.type must be 'human' or 'system'"),
        ({"type": "Human", "id": "alice"}, "actor.type must be 'human' or 'system'"),
        ({"type": ["human"], "id": "alice"}, "actor.type must be 'human' or 'system'"),
        ({"type": None, "id": "alice"}, "actor.type must be 'human' or 'system'"),
        ({"type": "human"}, "actor.id must be a non-empty string"),
        ({"type": "human", "id": ""}, "actor.id must be a non-empty string"),
        ({"type": "human", "id": None}, "actor.id must be a non-empty string"),
        ({"type": "human", "id": 7}, "actor.id must be a non-empty string"),
        ({"type": "human", "id": ["alice"]}, "actor.id must be a non-empty string"),
        ({"type": "human", "id": "\ud800"}, "actor.id must not contain lone surrogates"),
        ({"type": "human", "id": "alice", "key": "k"}, "actor has unknown keys: 'key'"),
        ({"type": "human", "id": "alice", 1: 2}, "actor has unknown keys: int"),
    ],
)
def test_anything_else_is_refused_as_an_actor(value: object, problem: str) -> None:
    with pytest.raises(InvalidActor) as caught:
        parse_actor(value)
    assert str(caught.value) == problem
    assert caught.value.code == "INVALID_ACTOR"


# -- event types and payload types


def test_the_event_types_are_these_nine_and_each_is_its_name() -> None:
    assert [member.value for member in EventType] == [
        "DECISION_CREATED",
        "POLICY_ATTACHED",
        "APPROVAL_GRANTED",
        "APPROVAL_REVOKED",
        "EXECUTION_REQUESTED",
        "EXECUTION_STARTED",
        "EXECUTION_COMPLETED",
        "EXECUTION_FAILED",
        "TEMPLATE_CREATED",
    ]
    assert all(member == member.name for member in EventType)
    assert canonical_json(EventType.POLICY_ATTACHED) == '"POLICY_ATTACHED"'


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("BaseEventPayload", {"comment"}),
        ("DecisionCreatedPayload", {"comment", "goal", "plan", "requested_mode", "labels"}),
        (
            "PolicyAttachedPayload",
            {"comment", "min_approvals", "allowed_modes", "require_adapter_capabilities", "max_steps", "labels"},
        ),
        (
            "PolicyFromTemplatePayload",
            {
                "comment",
                "min_approvals",
                "allowed_modes",
                "require_adapter_capabilities",
                "max_steps",
                "labels",
                "template_name",
                "template_snapshot",
                "template_digest",
                "overrides_applied",
            },
        ),
        ("ApprovalGrantedPayload", {"comment", "expires_at"}),
        ("ApprovalRevokedPayload", {"comment", "reason"}),
        ("ExecutionRequestedPayload", {"comment", "adapter_id", "dry_run"}),
        ("ExecutionStartedPayload", {"comment", "router_request_digest"}),
        ("ExecutionCompletedPayload", {"comment", "run_id", "response_digest", "steps_executed"}),
        ("ExecutionFailedPayload", {"comment", "error_code", "error_message", "run_id"}),
        (
            "TemplateCreatedPayload",
            {
                "comment",
                "name",
                "description",
                "min_approvals",
                "allowed_modes",
                "require_adapter_capabilities",
                "max_steps",
                "labels",
            },
        ),
    ],
)
def test_a_payload_type_has_these_keys_and_an_optional_comment(name: str, keys: set[str]) -> None:
    payload_type = getattr(events, name)
    assert set(payload_type.__annotations__) == keys
    assert "comment" in payload_type.__optional_keys__
    assert payload_type(comment="why") == {"comment": "why"}


# -- stored events


def an_event(**local: Any) -> StoredEvent:
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    return StoredEvent("dec-1", 0, EventType.DECISION_CREATED, moment, Actor(type="human", id="alice"), dict(CREATED), "d", **local)


def test_the_fields_of_a_stored_event_keep_their_order() -> None:
    names = [field.name for field in fields(StoredEvent)]
    assert names == ["decision_id", "seq", "event_type", "ts", "actor", "payload", "digest", "prev_hash", "chain_hash", "position"]


def test_a_stored_event_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        cast("Any", an_event()).seq = 1


def test_an_event_as_data_has_eight_keys() -> None:
    event = an_event()
    assert event.event_id == "evt_dec-1_0"
    assert event.to_dict() == {
        "event_id": "evt_dec-1_0",
        "decision_id": "dec-1",
        "seq": 0,
        "event_type": "DECISION_CREATED",
        "ts": T0,
        "actor": {"type": "human", "id": "alice"},
        "payload": CREATED,
        "digest": "d",
    }
    assert type(event.to_dict()["event_type"]) is str
    assert type(event.to_dict()["actor"]) is dict


@pytest.mark.parametrize("local", [{"prev_hash": "p"}, {"chain_hash": "c"}, {"position": 3}])
def test_the_store_local_fields_appear_in_the_data_only_when_they_are_set(local: dict[str, Any]) -> None:
    assert an_event(**local).to_dict() == {**an_event().to_dict(), **local}


# -- frozen bytes


def test_event_digests_have_their_golden_values() -> None:
    granted = event_digest("APPROVAL_GRANTED", '{"expires_at":null}')
    assert granted == "79b78629bf4dee55065517c950fe627418e05dd0bbee2603b6e008838c3ce759"
    created = event_digest("DECISION_CREATED", canonical_json(CREATED))
    assert created == "ea08c8db72786a95e11ea83e80e8c4a6bbcdd2219ffd7278e74f80dc8e1b8efa"


def test_the_chain_of_a_header_and_two_events_has_its_golden_hashes() -> None:
    header = generation_record(decision_id="dec-1", generation=1, created_at=T0, tombstone=False, prev_hash=ZERO_HASH)
    assert sha256(header).hexdigest() == HEADER_HASH
    first = event_record(
        decision_id="dec-1",
        generation=1,
        seq=0,
        event_type="DECISION_CREATED",
        ts=T0,
        actor_type="human",
        actor_id="alice",
        payload_json=canonical_json(CREATED),
        prev_hash=HEADER_HASH,
    )
    assert sha256(first).hexdigest() == FIRST_HASH
    second = event_record(
        decision_id="dec-1",
        generation=1,
        seq=1,
        event_type="APPROVAL_GRANTED",
        ts="2025-01-01T00:00:01+00:00",
        actor_type="human",
        actor_id="bob",
        payload_json='{"expires_at":null}',
        prev_hash=FIRST_HASH,
    )
    assert sha256(second).hexdigest() == "e2f7cda69ac93d780091788e70114ce9e51b65a1fa6e607b1462a580da3dd243"


def test_a_template_event_has_exactly_these_bytes() -> None:
    record = template_event_record(
        template_name="t",
        seq=0,
        event_type="TEMPLATE_CREATED",
        ts=T0,
        actor_type="human",
        actor_id="alice",
        payload_json='{"name":"t"}',
        prev_hash=ZERO_HASH,
    )
    assert record.decode() == (
        '{"actor":{"id":"alice","type":"human"},"event_type":"TEMPLATE_CREATED","kind":"template_event","payload":{"name":"t"},'
        f'"prev_hash":"{ZERO_HASH}","seq":0,"template_name":"t","ts":"{T0}"}}'
    )


@given(name=TEXTS, generation=NUMBERS, created_at=TEXTS, tombstone=st.booleans(), prev_hash=HASHES)
def test_a_generation_record_is_the_canonical_form_of_its_object(
    name: str, generation: int, created_at: str, tombstone: bool, prev_hash: str
) -> None:
    values: dict[str, Any] = {"decision_id": name, "generation": generation, "created_at": created_at, "tombstone": tombstone}
    expected = canonical_json_bytes({"kind": "generation", **values, "prev_hash": prev_hash})
    assert generation_record(**values, prev_hash=prev_hash) == expected


@given(owner=TEXTS, generation=NUMBERS, seq=NUMBERS, kind=TEXTS, ts=TEXTS, who=TEXTS, name=TEXTS, payload=PAYLOADS, prev_hash=HASHES)
def test_event_records_are_the_canonical_form_of_their_objects(
    owner: str, generation: int, seq: int, kind: str, ts: str, who: str, name: str, payload: dict[str, Any], prev_hash: str
) -> None:
    common: dict[str, Any] = {"seq": seq, "event_type": kind, "ts": ts, "prev_hash": prev_hash}
    parts: dict[str, Any] = {**common, "actor_type": who, "actor_id": name, "payload_json": canonical_json(payload)}
    whole: dict[str, Any] = {**common, "actor": {"type": who, "id": name}, "payload": payload}
    assert event_record(decision_id=owner, generation=generation, **parts) == canonical_json_bytes(
        {**whole, "kind": "event", "decision_id": owner, "generation": generation}
    )
    assert template_event_record(template_name=owner, **parts) == canonical_json_bytes(
        {**whole, "kind": "template_event", "template_name": owner}
    )


@given(kind=st.sampled_from(EventType), payload=PAYLOADS)
def test_an_event_digest_is_the_content_digest_of_type_and_payload(kind: EventType, payload: dict[str, Any]) -> None:
    assert event_digest(kind.value, canonical_json(payload)) == content_digest({"event_type": kind, "payload": payload})


# -- times


def test_the_clock_of_the_engine_is_aware_and_in_utc() -> None:
    before = datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME), UTC)
    now = utc_now()
    assert now.utcoffset() == timedelta(0)
    assert timedelta(0) <= now - before < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        (T0, T0),
        ("2025-01-01T00:00:00Z", T0),
        ("2025-01-01T05:30:00+05:30", T0),
        ("2025-01-01T00:00:00", T0),
        ("2025-01-01", T0),
        ("2025-01-01T00:00:00.000001+00:00", "2025-01-01T00:00:00.000001+00:00"),
        ("2025-01-01T00:00:00+00:00:30", "2024-12-31T23:59:30+00:00"),
    ],
)
def test_a_stored_time_is_read_as_utc_with_or_without_offset(text: str, iso: str) -> None:
    moment = parse_time(text)
    assert (moment.tzinfo, moment.isoformat()) == (UTC, iso)


NO_TIMES: list[object] = [
    "",
    "now",
    "2025-13-01T00:00:00+00:00",
    "2025-01-01T25:00:00+00:00",
    "2025-01-01T00:00:00+25:00",
    "20250101T",
    "2025-01-01T00:00:00+00:00 ",
    "2025\ud800",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "x" * 10_000,
]


@pytest.mark.parametrize("text", [*NO_TIMES, None, 0, 1.5, b"2025-01-01", [], datetime(2025, 1, 1)])
def test_what_is_no_time_in_utc_is_an_unreadable_event(text: object) -> None:
    with pytest.raises(MalformedEvent, match="not an ISO 8601 time"):
        parse_time(cast("str", text))


def test_the_expiry_of_an_approval_is_a_time_or_never() -> None:
    assert expiry_instant({}) is None
    assert expiry_instant({"expires_at": None}) is None
    assert expiry_instant({"expires_at": "2025-01-01T00:00:00"}) == datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("value", ["", 0, False, [], {}, "never"])
def test_an_expiry_that_cannot_be_read_is_not_never(value: object) -> None:
    with pytest.raises(MalformedEvent):
        expiry_instant({"expires_at": value})


class Nowhere(tzinfo):
    """A zone that does not know its offset: Python calls such a time naive."""

    def utcoffset(self, _: datetime | None, /) -> None:
        return None


@pytest.mark.parametrize(
    ("value", "iso"),
    [
        (datetime(2030, 1, 1, tzinfo=UTC), "2030-01-01T00:00:00+00:00"),
        (datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2030-01-01T00:00:00+00:00"),
        ("2030-01-01T02:00:00+02:00", "2030-01-01T00:00:00+00:00"),
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00+00:00"),
        ("1999-01-01T00:00:00+00:00", "1999-01-01T00:00:00+00:00"),
    ],
)
def test_an_expiry_argument_is_a_time_with_offset_or_its_text(value: object, iso: str) -> None:
    expiry = parse_expires_at(value)
    assert expiry is not None
    assert (expiry.tzinfo, expiry.isoformat()) == (UTC, iso)


def test_an_expiry_argument_of_none_is_never() -> None:
    assert parse_expires_at(None) is None


@pytest.mark.parametrize(
    "value",
    [
        *NO_TIMES,
        "2030-01-01",
        "2030-01-01T00:00:00",
        datetime(2030, 1, 1),
        datetime(2030, 1, 1, tzinfo=Nowhere()),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
        0,
        1e10,
        True,
        [],
        {},
        b"2030-01-01T00:00:00Z",
    ],
)
def test_any_other_expiry_argument_is_refused(value: object) -> None:
    with pytest.raises(InvalidExpiresAt) as caught:
        parse_expires_at(value)
    assert caught.value.code == "INVALID_EXPIRES_AT"


# -- payload columns


@given(PAYLOADS)
def test_a_canonical_payload_column_is_read_as_what_was_written(payload: dict[str, Any]) -> None:
    assert canonical_json(decode_payload(canonical_json(payload))) == canonical_json(payload)


def test_a_payload_column_may_be_spelled_in_any_way_that_json_allows() -> None:
    assert decode_payload(' { "a" : [ 1.0 , "\\u00e9\\ud83d\\udd11" ] } ') == {"a": [1, "é\U0001f511"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "1",
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": -Infinity}',
        '{"a": 1e400}',
        '{"a": "\\ud800"}',
        '{"\\uDFFF": 1}',
        '{"a": 1, "a": 2}',
        '{"b": {"a": 1, "a": 1}}',
        '{"a": ' + "1" * 5000 + "}",
        '{"a": ' + "[" * 300 + "]" * 300 + "}",
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_a_payload_column_that_has_no_canonical_form_is_an_unreadable_event(text: str) -> None:
    with pytest.raises(MalformedEvent):
        decode_payload(text)


# -- texts


@pytest.mark.parametrize("text", ["", "plain", "é\U0001f511", "a\x00b"])
def test_a_text_that_can_be_stored_is_given_back(text: str) -> None:
    assert require_text(text, "goal") == text


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "goal must be a string, got NoneType"),
        (b"x", "goal must be a string, got bytes"),
        (["x"], "goal must be a string, got list"),
        ("\ud800", "goal must not contain lone surrogates"),
    ],
)
def test_what_is_no_text_is_refused_by_name(value: object, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        require_text(value, "goal")
    assert str(caught.value) == problem


def test_every_name_of_the_module_is_declared_in_order() -> None:
    assert events.__all__ == sorted(events.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert isinstance(cast("Mapping[str, object]", vars(events)), Mapping)


def test_an_actor_survives_what_dataclasses_and_copies_do_with_dicts() -> None:
    actor = Actor(type="human", id="alice")
    event = StoredEvent("d", 0, EventType.APPROVAL_GRANTED, datetime(2025, 1, 1, tzinfo=UTC), actor, {}, "x")
    assert dataclasses.asdict(event)["actor"] == actor
    assert dataclasses.astuple(event)[4] == actor
    assert Actor({"type": "human", "id": "alice"}) == actor
    assert copy.deepcopy(actor) == pickle.loads(pickle.dumps(actor)) == actor
