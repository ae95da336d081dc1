"""Decision bundles: their shapes, their digests, and what they refuse."""

import copy
import hashlib
import json
from typing import Any, cast

import pytest
from evidence_testing import ALICE, BOB, FROM_TEMPLATE, POLICY, bundle_dict, completed, edited, new_store, pending
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.bundle import (
    BUNDLE_VERSION,
    EXPORT_ERROR_DECISION_NOT_FOUND,
    IMPORT_ERROR_ATOMICITY_FAILED,
    IMPORT_ERROR_BUNDLE_INVALID_SCHEMA,
    IMPORT_ERROR_CONFLICT_MODE_INVALID,
    IMPORT_ERROR_DECISION_EXISTS,
    IMPORT_ERROR_INTEGRITY_MISMATCH,
    IMPORT_ERROR_REPLAY_INVALID,
    BundleDecision,
    BundleEvent,
    BundleIntegrity,
    BundleProvenance,
    BundleRouterLink,
    BundleTemplateSnapshot,
    DecisionBundle,
    ProvenanceRecord,
    compute_bundle_digest,
    compute_canonical_payload,
    compute_router_link_digest,
    event_text,
    provenance_id,
    validate_bundle_schema,
)
from nexus_control.canonical_json import canonical_json, canonical_json_bytes
from nexus_control.errors import MalformedBundle
from nexus_control.events import EventType
from nexus_control.export import export_decision
from nexus_control.json_data import copy_json, parse_json
from nexus_control.policy import Policy

CREATED_AT = "2025-01-01T00:00:00+00:00"


def golden_bundle() -> DecisionBundle:
    """The bundle whose digest is published."""
    event = BundleEvent(
        "evt_dec-1_0",
        "dec-1",
        0,
        "DECISION_CREATED",
        {"goal": "g", "plan": None, "requested_mode": "dry_run", "labels": []},
        CREATED_AT,
        {"type": "human", "id": "alice"},
        "ea08c8db72786a95e11ea83e80e8c4a6bbcdd2219ffd7278e74f80dc8e1b8efa",
    )
    digest = "sha256:c11c1ddfb547efaf89af8f4bd1fdafd377f01b3065540731daacf49771d16c2b"
    return DecisionBundle(
        "0.5",
        BundleDecision("dec-1", "g", "dry_run", CREATED_AT, "DRAFT"),
        [event],
        BundleTemplateSnapshot(False),
        BundleRouterLink.empty(),
        BundleIntegrity("sha256", digest),
        BundleProvenance([ProvenanceRecord("prov_1", "method", ["in"], ["out"])]),
    )


def full_bundle() -> DecisionBundle:
    """A bundle in which every optional member is present."""
    bundle = golden_bundle()
    bundle.decision.creator = {"type": "human", "id": "alice"}
    bundle.template_snapshot = BundleTemplateSnapshot(True, "prod", "sha256:ab", {"labels": ["a"]}, {"min_approvals": 1})
    bundle.router_link = BundleRouterLink("run-1", "ad", "sha256:aa", "sha256:bb", "sha256:cc")
    bundle.meta = {"exported_at": CREATED_AT, "tags": ["x"]}
    return bundle


def digest_of(bundle: DecisionBundle) -> str:
    return compute_bundle_digest(bundle.bundle_version, bundle.decision, bundle.events, bundle.template_snapshot, bundle.router_link)


# -- constants and golden values


def test_version_and_error_codes_are_the_published_ones() -> None:
    assert BUNDLE_VERSION == "0.5"
    assert EXPORT_ERROR_DECISION_NOT_FOUND == "DECISION_NOT_FOUND"
    assert IMPORT_ERROR_BUNDLE_INVALID_SCHEMA == "BUNDLE_INVALID_SCHEMA"
    assert IMPORT_ERROR_INTEGRITY_MISMATCH == "INTEGRITY_MISMATCH"
    assert IMPORT_ERROR_DECISION_EXISTS == "DECISION_EXISTS"
    assert IMPORT_ERROR_CONFLICT_MODE_INVALID == "CONFLICT_MODE_INVALID"
    assert IMPORT_ERROR_REPLAY_INVALID == "REPLAY_INVALID"
    assert IMPORT_ERROR_ATOMICITY_FAILED == "IMPORT_ATOMICITY_FAILED"


def test_bundle_digest_has_the_golden_value() -> None:
    assert digest_of(golden_bundle()) == "c11c1ddfb547efaf89af8f4bd1fdafd377f01b3065540731daacf49771d16c2b"


def test_link_digest_has_the_golden_value() -> None:
    assert compute_router_link_digest("dec-1", "run-1", "aa", "bb") == "546e28946fc2a794a0e82ffaf32e519a6a1aba354aeb5979e5e418a6098c0b7d"


def test_link_digest_without_a_run_is_none() -> None:
    assert compute_router_link_digest("dec-1", None, "aa", "bb") is None


def test_link_digest_counts_an_unknown_digest_as_null() -> None:
    record = b'{"decision_id":"dec-1","router_request_digest":null,"router_result_digest":null,"run_id":"run-1"}'
    assert compute_router_link_digest("dec-1", "run-1", None, None) == hashlib.sha256(record).hexdigest()


def test_provenance_id_has_the_golden_value() -> None:
    assert provenance_id("dec-1", "d" * 64) == "prov_7800b1d15a8d"


# -- digest composition


def test_canonical_payload_has_the_five_covered_parts() -> None:
    bundle = full_bundle()
    payload = compute_canonical_payload(bundle.bundle_version, bundle.decision, bundle.events, bundle.template_snapshot, bundle.router_link)
    assert list(payload) == ["bundle_version", "decision", "events", "template_snapshot", "router_link"]
    assert payload == {key: bundle.to_dict()[key] for key in payload}


@pytest.mark.parametrize("bundle", [golden_bundle(), full_bundle()], ids=["golden", "full"])
def test_bundle_digest_is_that_of_the_canonical_payload(bundle: DecisionBundle) -> None:
    payload = compute_canonical_payload(bundle.bundle_version, bundle.decision, bundle.events, bundle.template_snapshot, bundle.router_link)
    assert digest_of(bundle) == hashlib.sha256(canonical_json_bytes(payload)).hexdigest()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=8,
)
_text = st.text(st.characters(codec="utf-8"))


@given(
    _text,
    _text,
    st.integers(min_value=0),
    _text,
    st.dictionaries(_text, _json, max_size=3),
    _text,
    st.dictionaries(_text, _json, max_size=3),
    _text,
)
def test_event_text_is_the_canonical_json_of_the_event(
    event_id: str, decision_id: str, seq: int, kind: str, payload: dict[str, Any], ts: str, actor: dict[str, Any], digest: str
) -> None:
    event = BundleEvent(event_id, decision_id, seq, kind, payload, ts, actor, digest)
    assert event_text(event, canonical_json(payload)) == canonical_json(event.to_dict())


@pytest.mark.parametrize(
    "actor",
    [
        {"type": "human", "id": 'a"\\\n\u00e9\U0001f600'},
        {"id": "", "type": ""},
        {"type": "human", "id": "alice", "name": "Alice"},
        {"type": "human", "id": 1},
        {"type": EventType.DECISION_CREATED, "id": "alice"},
        {"type": None, "id": "alice"},
        {"id": "alice"},
        {"type": "human", "name": "alice"},
    ],
)
def test_event_text_writes_any_actor_as_canonical_json_does(actor: dict[str, Any]) -> None:
    event = BundleEvent("e", "d", 0, "T", {}, "t", actor, "x")
    assert event_text(event, "{}") == canonical_json(event.to_dict())


def test_integrity_provenance_and_meta_do_not_influence_the_digest() -> None:
    bundle = golden_bundle()
    before = digest_of(bundle)
    bundle.integrity, bundle.provenance, bundle.meta = BundleIntegrity("md5", "x"), BundleProvenance(), {"a": 1}
    assert digest_of(bundle) == before


def test_a_creator_counts_for_the_digest() -> None:
    bundle = golden_bundle()
    before = digest_of(bundle)
    bundle.decision.creator = {"type": "human", "id": "alice"}
    assert digest_of(bundle) != before


def test_nothing_is_cached_so_that_edits_in_place_change_the_digest() -> None:
    bundle = golden_bundle()
    before = digest_of(bundle)
    bundle.events[0].payload["goal"] = "other"
    assert digest_of(bundle) != before


def test_events_are_digested_in_the_given_order() -> None:
    bundle = golden_bundle()
    second = copy.deepcopy(bundle.events[0])
    second.seq = 1
    parts = bundle.template_snapshot, bundle.router_link
    one = compute_bundle_digest("0.5", bundle.decision, [bundle.events[0], second], *parts)
    other = compute_bundle_digest("0.5", bundle.decision, [second, bundle.events[0]], *parts)
    assert one != other


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {1: 2}, object()])
def test_content_that_is_no_json_has_no_digest(value: object) -> None:
    bundle = golden_bundle()
    bundle.events[0].payload["x"] = value
    with pytest.raises((ValueError, TypeError)):
        digest_of(bundle)


# -- shapes


def test_header_has_five_keys_and_a_creator_only_when_set() -> None:
    header = BundleDecision("d", None, "apply", CREATED_AT, "DRAFT")
    assert header.to_dict() == {"decision_id": "d", "goal": None, "mode": "apply", "created_at": CREATED_AT, "status": "DRAFT"}
    header.creator = {"type": "human", "id": "alice"}
    assert header.to_dict()["creator"] == {"type": "human", "id": "alice"}


def test_header_defaults_goal_and_mode() -> None:
    header = BundleDecision.from_dict({"decision_id": "d", "created_at": CREATED_AT, "status": "DRAFT"})
    assert header == BundleDecision("d", None, "dry_run", CREATED_AT, "DRAFT", None)


def test_event_has_eight_keys() -> None:
    assert golden_bundle().events[0].to_dict() == {
        "event_id": "evt_dec-1_0",
        "decision_id": "dec-1",
        "seq": 0,
        "type": "DECISION_CREATED",
        "payload": {"goal": "g", "plan": None, "requested_mode": "dry_run", "labels": []},
        "ts": CREATED_AT,
        "actor": {"type": "human", "id": "alice"},
        "digest": "ea08c8db72786a95e11ea83e80e8c4a6bbcdd2219ffd7278e74f80dc8e1b8efa",
    }


def test_event_defaults_payload_actor_and_digest() -> None:
    event = BundleEvent.from_dict({"event_id": "e", "decision_id": "d", "seq": 0, "type": "T", "ts": CREATED_AT})
    assert (event.payload, event.actor, event.digest) == ({}, {}, "")


def test_absent_template_snapshot_has_one_key() -> None:
    assert BundleTemplateSnapshot(False, "ignored").to_dict() == {"present": False}


def test_present_template_snapshot_has_five_keys() -> None:
    assert BundleTemplateSnapshot(True, "n", "sha256:a", {"k": 1}).to_dict() == {
        "present": True,
        "name": "n",
        "digest": "sha256:a",
        "snapshot": {"k": 1},
        "overrides": None,
    }


@pytest.mark.parametrize("data", [None, {}, "x", 5, [], {"present": False, "name": "n"}, {"present": 1}, {"present": "yes"}])
def test_anything_without_a_true_present_is_an_absent_snapshot(data: object) -> None:
    assert BundleTemplateSnapshot.from_dict(data) == BundleTemplateSnapshot(False)


def test_link_has_only_the_keys_that_are_set() -> None:
    assert BundleRouterLink.empty().to_dict() == {}
    assert BundleRouterLink("r", None, None, "sha256:a").to_dict() == {"run_id": "r", "router_result_digest": "sha256:a"}


def test_link_of_none_is_empty() -> None:
    assert BundleRouterLink.from_dict(None) == BundleRouterLink(None, None, None, None, None) == BundleRouterLink.empty()


def test_integrity_and_provenance_have_their_defaults() -> None:
    assert BundleIntegrity.from_dict({"canonical_digest": "x"}) == BundleIntegrity("sha256", "x")
    assert ProvenanceRecord.from_dict({"prov_id": "p", "method_id": "m"}) == ProvenanceRecord("p", "m", [], [])
    assert BundleProvenance.from_dict({}) == BundleProvenance([])


def test_bundle_has_seven_keys_the_derived_sections_and_meta_when_not_empty() -> None:
    keys = {"bundle_version", "decision", "events", "template_snapshot", "router_link", "integrity", "provenance", "policy", "approvals"}
    assert set(golden_bundle().to_dict()) == keys
    assert set(full_bundle().to_dict()) == keys | {"meta"}


def test_bundle_needs_only_decision_and_integrity() -> None:
    data = {"decision": {"decision_id": "d", "created_at": "", "status": "DRAFT"}, "integrity": {"canonical_digest": "x"}}
    assert DecisionBundle.from_dict(data) == DecisionBundle(
        "0.5",
        BundleDecision("d", None, "dry_run", "", "DRAFT"),
        [],
        BundleTemplateSnapshot(False),
        BundleRouterLink.empty(),
        BundleIntegrity("sha256", "x"),
        BundleProvenance(),
        {},
    )


@pytest.mark.parametrize("bundle", [golden_bundle(), full_bundle()], ids=["golden", "full"])
def test_bundle_round_trips_through_its_dict_and_its_text(bundle: DecisionBundle) -> None:
    assert DecisionBundle.from_dict(bundle.to_dict()) == bundle
    assert DecisionBundle.from_dict(json.loads(bundle.to_canonical_json())) == bundle


def test_canonical_text_without_meta_lacks_only_meta() -> None:
    bundle = full_bundle()
    data = bundle.to_dict()
    assert bundle.to_canonical_json() == canonical_json(data)
    del data["meta"]
    assert bundle.to_canonical_json(include_meta=False) == canonical_json(data)
    assert golden_bundle().to_canonical_json(include_meta=False) == golden_bundle().to_canonical_json()


# -- isolation


def test_edits_of_a_dict_do_not_reach_the_bundle() -> None:
    bundle = full_bundle()
    before = copy.deepcopy(bundle.to_dict())
    data = bundle.to_dict()
    data["events"][0]["payload"]["labels"].append("x")
    data["events"][0]["actor"]["id"] = "mallory"
    data["decision"]["creator"]["id"] = "mallory"
    data["template_snapshot"]["snapshot"]["labels"].append("x")
    data["template_snapshot"]["overrides"]["x"] = 1
    data["provenance"]["records"][0]["inputs"].append("x")
    data["meta"]["tags"].append("x")
    assert bundle.to_dict() == before


def test_edits_of_the_derived_sections_do_not_reach_the_bundle() -> None:
    store = new_store()
    bundle = export_decision(store, completed(store)).bundle
    assert bundle is not None
    before = copy.deepcopy(bundle.to_dict())
    data = bundle.to_dict()
    data["policy"]["allowed_modes"].append("x")
    data["approvals"][0]["actor"]["id"] = "mallory"
    assert bundle.to_dict() == before


def test_edits_of_a_bundle_do_not_reach_later_exports() -> None:
    store = new_store()
    first = export_decision(store, completed(store))
    assert first.bundle is not None
    first.bundle.events[0].payload["labels"].append("x")
    first.bundle.events[0].actor["id"] = "mallory"
    assert export_decision(store, "dec-1").digest == first.digest


# -- derived sections


def test_policy_is_that_of_the_last_policy_event_with_defaults() -> None:
    store = new_store()
    pending(store)
    store.append_event("dec-1", EventType.POLICY_ATTACHED, ALICE, {**FROM_TEMPLATE, "min_approvals": 3})
    assert bundle_dict(store)["policy"] == {**POLICY, "min_approvals": 3}
    store.append_event("dec-1", EventType.POLICY_ATTACHED, ALICE, {})
    assert bundle_dict(store)["policy"] == Policy().to_dict()


def test_policy_is_none_without_a_policy_event() -> None:
    assert golden_bundle().policy is None
    assert golden_bundle().to_dict()["policy"] is None


def test_approvals_are_listed_by_grant_with_their_revocations() -> None:
    store = new_store()
    pending(store)
    grant, revoke = EventType.APPROVAL_GRANTED, EventType.APPROVAL_REVOKED
    store.append_event("dec-1", revoke, BOB, {"reason": "of nothing"})
    store.append_event("dec-1", grant, BOB, {"expires_at": "2030-01-01T00:00:00+00:00", "comment": "ok"})
    store.append_event("dec-1", grant, ALICE, {"expires_at": None})
    store.append_event("dec-1", revoke, BOB, {"reason": "changed"})
    store.append_event("dec-1", grant, BOB, {})
    assert bundle_dict(store)["approvals"] == [
        {
            "actor": BOB,
            "ts": "2026-01-01T00:00:02+00:00",
            "expires_at": "2030-01-01T00:00:00+00:00",
            "comment": "ok",
            "revoked": True,
            "revoked_at": "2026-01-01T00:00:04+00:00",
            "reason": "changed",
        },
        {
            "actor": ALICE,
            "ts": "2026-01-01T00:00:03+00:00",
            "expires_at": None,
            "comment": None,
            "revoked": False,
            "revoked_at": None,
            "reason": None,
        },
        {
            "actor": BOB,
            "ts": "2026-01-01T00:00:05+00:00",
            "expires_at": None,
            "comment": None,
            "revoked": False,
            "revoked_at": None,
            "reason": None,
        },
    ]


def test_only_a_revocation_revokes_whatever_else_an_approver_does() -> None:
    store = new_store()
    pending(store)
    store.append_event("dec-1", EventType.APPROVAL_GRANTED, ALICE, {})
    store.append_event("dec-1", EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad", "dry_run": True})
    assert [approval["revoked"] for approval in bundle_dict(store)["approvals"]] == [False]


def test_approval_events_of_no_actor_are_not_listed() -> None:
    bundle = golden_bundle()
    bundle.events.append(BundleEvent("e", "dec-1", 1, "APPROVAL_GRANTED", {}, CREATED_AT, {"id": ["x"]}, ""))
    assert bundle.approvals == []


def test_derived_sections_follow_seq_and_not_the_order_of_the_list() -> None:
    store = new_store()
    bundle = export_decision(store, completed(store)).bundle
    assert bundle is not None
    policy, approvals = bundle.policy, bundle.approvals
    bundle.events.reverse()
    assert (bundle.policy, bundle.approvals) == (policy, approvals)


# -- refusals

_WRONG: list[object] = [None, True, 1, 1.5, "x", [], {}, [1], {"a": 1}]


def _wrong_for(*fitting: type) -> list[object]:
    return [value for value in _WRONG if type(value) not in fitting]


_none = type(None)
_MEMBERS: list[tuple[str, tuple[type, ...]]] = [
    ("bundle_version", (str,)),
    ("decision", ()),
    ("decision.decision_id", (str,)),
    ("decision.goal", (str, _none)),
    ("decision.mode", (str,)),
    ("decision.created_at", (str,)),
    ("decision.status", (str,)),
    ("decision.creator", (dict, _none)),
    ("events", (list,)),
    ("events.0", ()),
    ("events.0.event_id", (str,)),
    ("events.0.decision_id", (str,)),
    ("events.0.seq", (int,)),
    ("events.0.type", (str,)),
    ("events.0.payload", (dict,)),
    ("events.0.ts", (str,)),
    ("events.0.actor", (dict,)),
    ("events.0.digest", (str,)),
    ("template_snapshot.name", (str, _none)),
    ("template_snapshot.digest", (str, _none)),
    ("template_snapshot.snapshot", (dict, _none)),
    ("template_snapshot.overrides", (dict, _none)),
    ("router_link", (dict, _none)),
    ("router_link.run_id", (str, _none)),
    ("router_link.adapter_id", (str, _none)),
    ("router_link.router_request_digest", (str, _none)),
    ("router_link.router_result_digest", (str, _none)),
    ("router_link.control_router_link_digest", (str, _none)),
    ("integrity", ()),
    ("integrity.alg", (str,)),
    ("integrity.canonical_digest", (str,)),
    ("provenance", (dict,)),
    ("provenance.records", (list,)),
    ("provenance.records.0", ()),
    ("provenance.records.0.prov_id", (str,)),
    ("provenance.records.0.method_id", (str,)),
    ("provenance.records.0.inputs", (list,)),
    ("provenance.records.0.outputs", (list,)),
    ("provenance.records.0.inputs.0", (str,)),
    ("meta", (dict,)),
]


@pytest.mark.parametrize(("path", "wrong"), [(path, wrong) for path, fitting in _MEMBERS for wrong in _wrong_for(*fitting)])
def test_a_member_of_the_wrong_type_is_refused(path: str, wrong: object) -> None:
    data = edited(full_bundle().to_dict(), path, wrong)
    with pytest.raises(MalformedBundle):
        DecisionBundle.from_dict(data)


@pytest.mark.parametrize("seq", [-1, 1.0, True, "0", None])
def test_a_seq_that_is_no_natural_number_is_refused(seq: object) -> None:
    data = edited(golden_bundle().to_dict(), "events.0.seq", seq)
    with pytest.raises(MalformedBundle, match="seq"):
        DecisionBundle.from_dict(data)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("decision", "Missing required field: decision"),
        ("integrity", "Missing required field: integrity"),
        ("decision.decision_id", "Missing required field: decision.decision_id"),
        ("decision.created_at", "Missing required field: decision.created_at"),
        ("decision.status", "Missing required field: decision.status"),
        ("integrity.canonical_digest", "Missing required field: integrity.canonical_digest"),
        ("events.0.event_id", "Missing required field: event.event_id"),
        ("events.0.decision_id", "Missing required field: event.decision_id"),
        ("events.0.seq", "Missing required field: event.seq"),
        ("events.0.type", "Missing required field: event.type"),
        ("events.0.ts", "Missing required field: event.ts"),
        ("provenance.records.0.prov_id", "Missing required field: provenance.records.prov_id"),
        ("provenance.records.0.method_id", "Missing required field: provenance.records.method_id"),
    ],
)
def test_a_missing_member_is_named(path: str, text: str) -> None:
    data = full_bundle().to_dict()
    *parents, last = path.split(".")
    target: Any = data
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    del target[last]
    with pytest.raises(MalformedBundle) as refusal:
        DecisionBundle.from_dict(data)
    assert str(refusal.value) == text


@pytest.mark.parametrize("data", [None, [], "x", 1])
def test_a_bundle_is_an_object(data: object) -> None:
    with pytest.raises(MalformedBundle):
        DecisionBundle.from_dict(data)


# -- schema texts


def test_a_valid_bundle_has_no_problems() -> None:
    assert validate_bundle_schema(full_bundle().to_dict()) == []


def test_the_least_that_is_valid_has_no_problems() -> None:
    data = {
        "bundle_version": "x",
        "decision": {"decision_id": "x", "created_at": "x", "status": "x"},
        "events": [{"event_id": "x", "seq": 0, "type": "x", "ts": "x"}],
        "integrity": {"canonical_digest": "x"},
    }
    assert validate_bundle_schema(data) == []


def test_every_missing_top_level_key_is_named() -> None:
    assert validate_bundle_schema({}) == [
        "Missing required field: bundle_version",
        "Missing required field: decision",
        "Missing required field: events",
        "Missing required field: integrity",
    ]


def test_every_missing_member_is_named() -> None:
    data: dict[str, Any] = {"bundle_version": "0.5", "decision": {}, "events": [{}, {"event_id": "x", "seq": 1}], "integrity": {}}
    assert validate_bundle_schema(data) == [
        "Missing required field: decision.decision_id",
        "Missing required field: decision.created_at",
        "Missing required field: decision.status",
        "Missing required field: events[0].event_id",
        "Missing required field: events[0].seq",
        "Missing required field: events[0].type",
        "Missing required field: events[0].ts",
        "Missing required field: events[1].type",
        "Missing required field: events[1].ts",
        "Missing required field: integrity.canonical_digest",
    ]


def test_parts_of_the_wrong_kind_are_named() -> None:
    data: dict[str, Any] = {"bundle_version": "0.5", "decision": [], "events": {}, "integrity": "x"}
    assert validate_bundle_schema(data) == [
        "Field 'decision' must be an object",
        "Field 'events' must be an array",
        "Field 'integrity' must be an object",
    ]
    assert validate_bundle_schema({**data, "events": [1, None]})[1:3] == [
        "Event at index 0 must be an object",
        "Event at index 1 must be an object",
    ]


@pytest.mark.parametrize("data", [None, [], "x", 1])
def test_a_document_that_is_no_object_is_one_problem(data: object) -> None:
    assert validate_bundle_schema(data) == ["Bundle must be an object"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("decision.decision_id", "Field 'decision.decision_id' must be a string"),
        ("decision.created_at", "Field 'decision.created_at' must be a string"),
        ("decision.status", "Field 'decision.status' must be a string"),
        ("events.0.event_id", "Field 'events[0].event_id' must be a string"),
        ("events.0.type", "Field 'events[0].type' must be a string"),
        ("events.0.ts", "Field 'events[0].ts' must be a string"),
        ("events.0.digest", "Field 'events[0].digest' must be a string"),
        ("events.0.seq", "Field 'events[0].seq' must be a non-negative integer"),
        ("events.0.payload", "Field 'events[0].payload' must be an object"),
        ("events.0.actor", "Field 'events[0].actor' must be an object"),
        ("integrity.canonical_digest", "Field 'integrity.canonical_digest' must be a string"),
    ],
)
@pytest.mark.parametrize("wrong", [None, True, 1.5, [1]])
def test_a_member_of_the_wrong_type_is_a_problem(path: str, text: str, wrong: object) -> None:
    assert validate_bundle_schema(edited(full_bundle().to_dict(), path, wrong)) == [text]


@pytest.mark.parametrize("seq", [-1, True, 1.0, "1"])
def test_seq_is_a_natural_number(seq: object) -> None:
    data = edited(full_bundle().to_dict(), "events.0.seq", seq)
    assert validate_bundle_schema(data) == ["Field 'events[0].seq' must be a non-negative integer"]


def test_the_form_of_the_digest_is_no_matter_of_the_schema() -> None:
    assert validate_bundle_schema(edited(full_bundle().to_dict(), "integrity.canonical_digest", "sha256:short")) == []


# -- JSON text and copies


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not readable JSON"),
        ("", "not readable JSON"),
        (b"\xff", "not readable JSON"),
        ("\ufeff{}", "not readable JSON"),
        ('{"a":1,"a":2}', "same key twice"),
        ('{"x":{"a":1,"\\u0061":2}}', "same key twice"),
        ("NaN", "no finite number"),
        ("[-Infinity]", "no finite number"),
        ("1e999", "no finite number"),
        ("1" * 5000, "not readable JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_text_that_readers_could_understand_differently_is_refused(text: str | bytes, problem: str) -> None:
    with pytest.raises(MalformedBundle, match=problem):
        parse_json(text)


def test_json_text_may_be_bytes_and_keeps_its_numbers() -> None:
    assert parse_json('{"é":[1,1.0,-0.0,1e2]}'.encode()) == {"é": [1, 1.0, -0.0, 100.0]}


@given(_json)
def test_a_copy_is_equal_and_shares_nothing(value: Any) -> None:
    copied = copy_json(value)
    assert canonical_json(copied) == canonical_json(value)
    assert not _containers(copied) & _containers(value)


@given(_json, st.sampled_from(["", " ", "\n\t"]), st.sampled_from(["", " ", "\r\n", "}", "[]", "x", "\0"]))
def test_text_is_read_as_the_standard_decoder_reads_it(value: Any, before: str, after: str) -> None:
    text = before + json.dumps(value) + after
    try:
        expected: object = json.loads(text)
    except ValueError:
        with pytest.raises(MalformedBundle, match="not readable JSON"):
            parse_json(text)
    else:
        assert json.dumps(parse_json(text)) == json.dumps(expected)


def _containers(value: Any) -> set[int]:
    found: set[int] = set()
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, (dict, list)):
            members = cast("dict[str, Any]", item).values() if isinstance(item, dict) else cast("list[Any]", item)
            found.add(id(cast("object", item)))
            todo.extend(members)
    return found


def test_a_copy_makes_lists_of_tuples() -> None:
    assert copy_json({"a": (1, (2,))}) == {"a": [1, [2]]}


def test_circular_data_cannot_be_copied() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    with pytest.raises(MalformedBundle, match="circular"):
        copy_json(loop)


def test_data_as_deep_as_canonical_json_allows_can_be_copied() -> None:
    deep: Any = 1
    for _ in range(256):
        deep = [deep]
    canonical_json(deep)
    assert copy_json(deep) == deep
    with pytest.raises(MalformedBundle):
        copy_json([deep])
