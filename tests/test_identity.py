import base64
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity_testing import SIGNED_AT, NotSealed, Seal, TooWeak, statement
from store_testing import ALICE, BOB, new_store

from nexus_control.decision import Decision
from nexus_control.errors import (
    InvalidEnvelope,
    MalformedEvent,
    SignatureForOtherAction,
    SignatureForOtherDecision,
    SignatureReplayed,
    VerifierMissing,
)
from nexus_control.events import Actor, EventType, StoredEvent
from nexus_control.identity import (
    ASSERTED,
    MAX_PAYLOAD_BYTES,
    NO_TRUST,
    PAYLOAD_TYPE,
    Identity,
    Statement,
    identity_of,
    pae,
    parse_envelope,
    parse_statement,
)
from nexus_control.import_ import import_bundle
from nexus_control.integrity import prefixed
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult

DIGEST = "sha256:" + "0" * 64
SAID = Statement(action="approve", decision_id="d", action_digest=DIGEST, actor=ALICE, signed_at="2025-01-01T12:00:00+00:00", comment="ok")
PAYLOAD = (
    b'{"action":"approve","action_digest":"' + DIGEST.encode() + b'","actor":{"id":"alice","type":"human"},"comment":"ok",'
    b'"decision_id":"d","expires_at":null,"signed_at":"2025-01-01T12:00:00+00:00","v":1}'
)
UUID = "3f0c9a52-6a0e-4c3f-9d0b-2c7f5f0e8a11"


def envelope(**changes: Any) -> dict[str, Any]:
    return {**Seal().sign(SAID), **changes}


def wrapped(payload: bytes, **changes: Any) -> dict[str, Any]:
    """An envelope around any bytes."""
    return envelope(payload=base64.b64encode(payload).decode(), **changes)


def altered(**changes: Any) -> bytes:
    """The payload with members set or, when `...`, dropped."""
    data = {key: value for key, value in {**SAID.to_dict(), **changes}.items() if value is not ...}
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Router:
    def run(self, **_: Any) -> dict[str, Any]:
        return {"run_id": "r", "steps_executed": 1}

    def get_adapter_capabilities(self, adapter_id: str) -> None:
        del adapter_id


# -- the format -------------------------------------------------------------------------------------------------------------------


def test_the_pre_authentication_encoding_is_that_of_the_dsse_specification() -> None:
    # https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md#test-vectors
    assert pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("\u00fc", b"") == b"DSSEv1 2 \xc3\xbc 0 "


def test_the_payload_of_a_statement_is_frozen() -> None:
    assert SAID.payload() == PAYLOAD
    assert parse_statement(PAYLOAD) == SAID


def test_an_envelope_is_taken_apart_and_put_together_without_loss_from_data_and_from_text() -> None:
    data = envelope()
    found = parse_envelope(data)
    assert found.statement == SAID
    assert found.signed_bytes == b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(PAYLOAD), PAYLOAD)
    assert found.to_dict() == data == parse_envelope(json.dumps(data, indent=1)).to_dict()


BROKEN_ENVELOPES: dict[str, Any] = {
    "no object": [],
    "null": None,
    "number": 1,
    "empty text": "",
    "no JSON": "{",
    "an array as text": "[]",
    "a duplicate key in the envelope": json.dumps(envelope())[:-1] + ',"payloadType":"' + PAYLOAD_TYPE + '"}',
    "a member too many": envelope(extra=1),
    "a member too few": {"payload": "", "payloadType": PAYLOAD_TYPE},
    "another payload type": envelope(payloadType="application/vnd.in-toto+json"),
    "a payload type that is no text": envelope(payloadType=[PAYLOAD_TYPE]),
    "no signature": envelope(signatures=[]),
    "two signatures": envelope(signatures=envelope()["signatures"] * 2),
    "signatures as an object": envelope(signatures={"0": envelope()["signatures"][0]}),
    "a signature that is no object": envelope(signatures=["x"]),
    "a signature without key id": envelope(signatures=[{"sig": envelope()["signatures"][0]["sig"]}]),
    "an empty key id": envelope(signatures=[{**envelope()["signatures"][0], "keyid": ""}]),
    "a long key id": envelope(signatures=[{**envelope()["signatures"][0], "keyid": "k" * 257}]),
    "a key id with a lone surrogate": envelope(signatures=[{**envelope()["signatures"][0], "keyid": "\ud800"}]),
    "a key id that is no text": envelope(signatures=[{**envelope()["signatures"][0], "keyid": 7}]),
    "a short signature": envelope(signatures=[{"keyid": "k", "sig": base64.b64encode(b"x" * 63).decode()}]),
    "a long signature": envelope(signatures=[{"keyid": "k", "sig": base64.b64encode(b"x" * 65).decode()}]),
    "a huge signature": envelope(signatures=[{"keyid": "k", "sig": "A" * 1_000_000}]),
    "a signature that is no base64": envelope(signatures=[{"keyid": "k", "sig": "!" * 88}]),
    "a signature beyond ASCII": envelope(signatures=[{"keyid": "k", "sig": "\u00fc" * 88}]),
    "base64 without padding": envelope(payload=base64.b64encode(PAYLOAD + b" ").decode().rstrip("=")),
    "base64 with a line break": envelope(payload=base64.b64encode(PAYLOAD).decode() + "\n"),
    "base64 with stray bits": envelope(signatures=[{"keyid": "k", "sig": base64.b64encode(b"x" * 64).decode()[:-3] + "B=="}]),
    "url-safe base64": envelope(signatures=[{"keyid": "k", "sig": base64.urlsafe_b64encode(b"\xff" * 64).decode()}]),
    "a payload that is no text": envelope(payload=PAYLOAD),
    "a huge text": '{"payload":"' + "A" * 10_000_000,
    "a deep text": "[" * 100_000,
    "a huge payload": wrapped(b" " * (MAX_PAYLOAD_BYTES + 1)),
    "a deep payload": wrapped(b"[" * 60_000),
    "deep JSON in the payload": wrapped(b"[" * 5_000 + b"]" * 5_000),
    "bytes that are no UTF-8": wrapped(b"\xff"),
    "an empty payload": wrapped(b""),
    "a payload that is no object": wrapped(b"[]"),
    "a duplicate key in the payload": wrapped(PAYLOAD[:-1] + b',"v":1}'),
    "another order of keys": wrapped(json.dumps(SAID.to_dict(), separators=(",", ":")).encode()),
    "spaces": wrapped(json.dumps(SAID.to_dict(), sort_keys=True).encode()),
    "a line feed at the end": wrapped(PAYLOAD + b"\n"),
    "an escaped letter": wrapped(PAYLOAD.replace(b'"ok"', b'"\\u006fk"')),
    "a lone surrogate": wrapped(PAYLOAD.replace(b'"ok"', b'"\\ud800"')),
    "a number of another spelling": wrapped(PAYLOAD.replace(b'"v":1', b'"v":1.0')),
    "NaN": wrapped(PAYLOAD.replace(b'"v":1', b'"v":NaN')),
    "a boolean version": wrapped(altered(v=True)),
    "a version of the future": wrapped(altered(v=2)),
    "a version as text": wrapped(altered(v="1")),
    "an unknown member": wrapped(altered(crit=["x"])),
    "no comment member": wrapped(altered(comment=...)),
    "an empty comment": wrapped(altered(comment="")),
    "a comment that is no text": wrapped(altered(comment=["ok"])),
    "an unknown action": wrapped(altered(action="delete")),
    "an action that is no text": wrapped(altered(action=["approve"])),
    "a raw digest": wrapped(altered(action_digest="0" * 64)),
    "a digest in capitals": wrapped(altered(action_digest="sha256:" + "A" * 64)),
    "a digest that is no text": wrapped(altered(action_digest=None)),
    "an actor that is a name": wrapped(altered(actor="alice")),
    "an actor with more in it": wrapped(altered(actor={"id": "alice", "type": "human", "role": "admin"})),
    "an actor of an unknown type": wrapped(altered(actor={"id": "alice", "type": "root"})),
    "no decision": wrapped(altered(decision_id="")),
    "a decision that is no text": wrapped(altered(decision_id=7)),
    "a request with an id that is no UUID": wrapped(altered(action="request")),
    "a signing time without offset": wrapped(altered(signed_at="2025-01-01T12:00:00")),
    "a signing time with Z": wrapped(altered(signed_at="2025-01-01T12:00:00Z")),
    "a signing time elsewhere": wrapped(altered(signed_at="2025-01-01T13:00:00+01:00")),
    "a signing time that is none": wrapped(altered(signed_at="soon")),
    "no signing time": wrapped(altered(signed_at=None)),
    "an expiry that is a number": wrapped(altered(expires_at=1)),
    "an expiry as a date": wrapped(altered(expires_at="2030-01-01")),
}


@pytest.mark.parametrize("name", BROKEN_ENVELOPES)
def test_an_envelope_has_one_spelling_and_everything_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidEnvelope):
        parse_envelope(BROKEN_ENVELOPES[name])


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.dictionaries(st.text(max_size=9), inner))
)
def test_no_value_is_an_envelope_by_accident(value: Any) -> None:
    with pytest.raises(InvalidEnvelope):
        parse_envelope(value)


@given(st.integers(0, len(PAYLOAD) - 1), st.integers(1, 255))
def test_a_changed_byte_of_the_payload_is_refused_or_says_something_else(index: int, flip: int) -> None:
    changed = bytearray(PAYLOAD)
    changed[index] ^= flip
    with suppress(InvalidEnvelope):
        assert parse_statement(bytes(changed)) != SAID


@pytest.mark.parametrize("bad", [{"comment": "\ud800"}, {"comment": object()}, {"decision_id": ""}, {"signed_at": "now"}])
def test_nothing_is_signed_that_could_not_be_read_again(bad: dict[str, Any]) -> None:
    values: dict[str, Any] = {"action": "approve", "decision_id": "d", "action_digest": DIGEST, "actor": ALICE, "signed_at": SAID.signed_at}
    with pytest.raises(InvalidEnvelope):
        Statement(**{**values, **bad}).payload()


def test_a_long_comment_can_be_signed_up_to_the_limit() -> None:
    room = MAX_PAYLOAD_BYTES - len(PAYLOAD) + 2
    most = Statement(action="approve", decision_id="d", action_digest=DIGEST, actor=ALICE, signed_at=SAID.signed_at, comment="x" * room)
    assert len(most.payload()) == MAX_PAYLOAD_BYTES
    assert parse_envelope(json.dumps(Seal().sign(most))).statement == most


# -- commands ---------------------------------------------------------------------------------------------------------------------


class Case:
    """One decision of `bob`, to be approved by `alice`."""

    def __init__(self, seal: Seal | None = None, **request: Any) -> None:
        self.seal = Seal() if seal is None else seal
        self.store: DecisionStore = new_store()
        self.tools = NexusControlTools(self.store, trust=self.seal)
        self.id: str = self.tools.request("rotate", BOB, **request).data["request_id"]

    @property
    def decision(self) -> Decision:
        return Decision.load(self.store, self.id, trust=self.seal)

    def sign(self, action: Any = "approve", actor: Actor = ALICE, **changes: Any) -> dict[str, Any]:
        return self.seal.sign(statement(self.decision, actor, action, **changes))

    def approve(self, signature: Any = None, actor: Actor = ALICE, **arguments: Any) -> ToolResult:
        return self.tools.approve(self.id, actor, signature=self.sign(actor=actor) if signature is None else signature, **arguments)

    def payload(self, seq: int = -1) -> dict[str, Any]:
        return self.store.get_events(self.id)[seq].payload


def test_what_was_not_given_is_not_recorded() -> None:
    case = Case()
    case.tools.approve(case.id, ALICE)
    case.tools.revoke_approval(case.id, ALICE, "no")
    assert [sorted(event.payload) for event in case.store.get_events(case.id)] == [
        ["goal", "labels", "plan", "requested_mode"],
        ["allowed_modes", "labels", "max_steps", "min_approvals", "require_adapter_capabilities"],
        ["expires_at"],
        ["reason"],
    ]
    assert case.decision.approvals["alice"].identity is ASSERTED


def test_the_strength_and_the_channel_are_recorded_in_every_event_that_an_actor_causes() -> None:
    tools = NexusControlTools(new_store())
    how: Any = {"assurance": "authenticated", "channel": "mcp-http"}
    request_id = tools.request("g", ALICE, **how).data["request_id"]
    tools.approve(request_id, ALICE, **how)
    tools.revoke_approval(request_id, ALICE, **how)
    tools.approve(request_id, ALICE, assurance="asserted")
    assert tools.execute(request_id, "a", ALICE, Router(), channel="cli").success
    assert [
        (event.event_type.value, event.payload.get("assurance"), event.payload.get("channel"))
        for event in tools.store.get_events(request_id)
    ] == [
        ("DECISION_CREATED", "authenticated", "mcp-http"),
        ("POLICY_ATTACHED", None, None),
        ("APPROVAL_GRANTED", "authenticated", "mcp-http"),
        ("APPROVAL_REVOKED", "authenticated", "mcp-http"),
        ("APPROVAL_GRANTED", "asserted", None),
        ("EXECUTION_REQUESTED", None, "cli"),
        ("EXECUTION_STARTED", None, None),
        ("EXECUTION_COMPLETED", None, None),
    ]


def test_a_signed_approval_is_kept_whole_and_counts() -> None:
    case = Case()
    signature = case.sign(comment="ok", expires_at="2030-01-01T00:00:00+00:00")
    assert case.approve(signature, comment="ok", expires_at="2030-01-01T01:00:00+01:00", channel="cli").data["is_approved"]
    assert case.payload() == {
        "expires_at": "2030-01-01T00:00:00+00:00",
        "comment": "ok",
        "assurance": "signed",
        "channel": "cli",
        "signature": signature,
    }
    assert case.decision.approvals["alice"].identity.assurance == "signed"
    assert case.tools.execute(case.id, "a", BOB, Router()).success


def test_an_envelope_may_come_as_text_and_with_the_word_signed_beside_it() -> None:
    case = Case()
    assert case.approve(json.dumps(case.sign()), assurance="signed").success


def test_a_revocation_and_an_execution_can_be_signed_as_well() -> None:
    case = Case()
    later = (SIGNED_AT + timedelta(hours=1)).isoformat()
    case.approve()
    signature = case.sign("revoke", comment="not today")
    assert case.tools.revoke_approval(case.id, ALICE, "not today", signature=signature).success
    assert case.payload()["signature"] == signature
    assert case.approve(case.sign(signed_at=later)).success
    assert case.tools.execute(case.id, "a", BOB, Router(), signature=case.sign("execute", BOB)).success
    assert case.payload(-3)["assurance"] == "signed"


def test_a_signed_request_gives_its_decision_the_id_that_was_signed_and_only_once() -> None:
    seal = Seal()
    tools = NexusControlTools(new_store(), trust=seal)
    shown = tools.request("rotate", ALICE, mode="apply", labels=["prod"], preview=True).data
    assert shown["state"] == "preview"
    assert tools.list_requests().data["count"] == 0
    said = Statement(action="request", decision_id=UUID, action_digest=shown["action_digest"], actor=ALICE, signed_at=SAID.signed_at)
    assert tools.request("rotate", ALICE, mode="apply", labels=["prod"], signature=seal.sign(said)).data["request_id"] == UUID
    assert prefixed(Decision.load(tools.store, UUID).action_digest) == shown["action_digest"]
    assert tools.request("rotate", ALICE, mode="apply", labels=["prod"], signature=seal.sign(said)).code == "SIGNATURE_REPLAYED"
    tools.store.delete_decision(UUID)
    assert tools.request("rotate", ALICE, mode="apply", labels=["prod"], signature=seal.sign(said)).code == "SIGNATURE_REPLAYED"


@pytest.mark.parametrize(
    "changes", [{"goal": "erase"}, {"labels": ["prod"]}, {"min_approvals": 2}, {"plan": "p"}, {"mode": "apply"}, {"template_name": "t"}]
)
def test_a_request_for_another_action_than_the_signed_one_is_refused(changes: dict[str, Any]) -> None:
    seal = Seal()
    tools = NexusControlTools(new_store(), trust=seal)
    tools.template_create("t", ALICE)
    digest = tools.request("rotate", ALICE, preview=True).data["action_digest"]
    said = Statement(action="request", decision_id=UUID, action_digest=digest, actor=ALICE, signed_at=SAID.signed_at)
    arguments: dict[str, Any] = {"goal": "rotate", "actor": ALICE, "signature": seal.sign(said), **changes}
    assert tools.request(**arguments).code == "SIGNATURE_FOR_OTHER_ACTION"
    assert tools.list_requests().data["count"] == 0


WRONG: dict[str, tuple[str, Callable[[Case], ToolResult]]] = {
    "another decision": ("SIGNATURE_FOR_OTHER_DECISION", lambda case: case.approve(case.sign(decision_id="elsewhere"))),
    "another action digest": ("SIGNATURE_FOR_OTHER_ACTION", lambda case: case.approve(case.sign(action_digest=DIGEST))),
    "another actor": ("SIGNATURE_FOR_OTHER_ACTOR", lambda case: case.tools.approve(case.id, BOB, signature=case.sign())),
    "the same name of another type": (
        "SIGNATURE_FOR_OTHER_ACTOR",
        lambda case: case.tools.approve(case.id, ALICE, signature=case.sign(actor=Actor(type="system", id="alice"))),
    ),
    "another command": ("SIGNATURE_FOR_OTHER_COMMAND", lambda case: case.approve(case.sign("revoke"))),
    "a rejection": ("SIGNATURE_FOR_OTHER_COMMAND", lambda case: case.approve(case.sign("reject"))),
    "an execution as request": ("SIGNATURE_FOR_OTHER_COMMAND", lambda case: case.tools.request("g", ALICE, signature=case.sign("execute"))),
    "an approval as execution": (
        "SIGNATURE_FOR_OTHER_COMMAND",
        lambda case: case.tools.execute(case.id, "a", ALICE, Router(), signature=case.sign()),
    ),
    "another comment": ("SIGNATURE_FOR_OTHER_COMMAND", lambda case: case.approve(case.sign(comment="never"), comment="ok")),
    "a comment that was not signed": ("SIGNATURE_FOR_OTHER_COMMAND", lambda case: case.approve(comment="ok")),
    "a signed comment left out": ("SIGNATURE_FOR_OTHER_COMMAND", lambda case: case.approve(case.sign(comment="if reviewed"))),
    "a later expiry": (
        "SIGNATURE_FOR_OTHER_COMMAND",
        lambda case: case.approve(case.sign(expires_at="2030-01-01T00:00:00+00:00"), expires_at="2031-01-01T00:00:00+00:00"),
    ),
    "an expiry dropped": ("SIGNATURE_FOR_OTHER_COMMAND", lambda case: case.approve(case.sign(expires_at="2030-01-01T00:00:00+00:00"))),
    "another reason": (
        "SIGNATURE_FOR_OTHER_COMMAND",
        lambda case: case.tools.revoke_approval(case.id, ALICE, "x", signature=case.sign("revoke", comment="y")),
    ),
    "a signature that the trust refuses": (
        "NOT_SEALED",
        lambda case: case.approve(Seal(b"mallory's").sign(statement(case.decision, ALICE))),
    ),
    "no envelope": ("SIGNATURE_MISSING", lambda case: case.tools.approve(case.id, ALICE, assurance="signed")),
    "a weaker word beside it": ("INVALID_ARGUMENT", lambda case: case.approve(assurance="asserted")),
    "an unknown word": ("INVALID_ARGUMENT", lambda case: case.tools.approve(case.id, ALICE, assurance="notarized")),  # pyright: ignore[reportArgumentType]
    "a word that is none": ("INVALID_ARGUMENT", lambda case: case.tools.approve(case.id, ALICE, assurance=["signed"])),  # pyright: ignore[reportArgumentType]
    "an empty channel": ("INVALID_ARGUMENT", lambda case: case.tools.approve(case.id, ALICE, channel="")),
    "a long channel": ("INVALID_ARGUMENT", lambda case: case.tools.approve(case.id, ALICE, channel="c" * 257)),
    "a channel that is none": ("INVALID_ARGUMENT", lambda case: case.tools.approve(case.id, ALICE, channel=1)),  # pyright: ignore[reportArgumentType]
    "no DSSE": ("ENVELOPE_INVALID", lambda case: case.approve({"sig": "x"})),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_command_that_is_not_the_signed_one_is_refused_by_its_own_code_and_leaves_nothing(name: str) -> None:
    case = Case()
    before = case.store.log_root()
    code, attempt = WRONG[name]
    result = attempt(case)
    assert (result.success, result.code) == (False, code)
    assert case.store.log_root() == before


def test_a_signature_is_refused_where_nobody_can_check_it() -> None:
    case = Case()
    assert NexusControlTools(case.store).approve(case.id, ALICE, signature=case.sign()).code == "VERIFIER_MISSING"
    with pytest.raises(VerifierMissing):
        NO_TRUST.judge(case.decision.act("approve", ALICE, Identity("signed", None, parse_envelope(case.sign())), SIGNED_AT))


def test_without_a_trust_a_name_is_believed_whatever_it_claims() -> None:
    case = Case()
    for identity in (ASSERTED, Identity("authenticated", "mcp", None)):
        NO_TRUST.judge(case.decision.act("approve", ALICE, identity, SIGNED_AT))


def test_an_envelope_is_good_for_one_approval() -> None:
    case = Case()
    signature = case.sign()
    assert case.approve(signature).success
    assert case.approve(signature).code == "SIGNATURE_REPLAYED"
    assert case.tools.revoke_approval(case.id, ALICE).success
    assert case.approve(signature).code == "SIGNATURE_REPLAYED"


def test_an_envelope_that_was_held_back_dies_with_its_signers_next_revocation() -> None:
    case = Case()
    held = case.sign(comment="first", signed_at=(SIGNED_AT - timedelta(minutes=1)).isoformat())
    case.approve()
    case.tools.revoke_approval(case.id, ALICE, signature=case.sign("revoke"))
    assert case.approve(held, comment="first").code == "SIGNATURE_REPLAYED"
    assert case.approve(case.sign(comment="same instant"), comment="same instant").code == "SIGNATURE_REPLAYED"
    assert case.approve(case.sign(signed_at=(SIGNED_AT + timedelta(minutes=1)).isoformat())).success


def test_an_unsigned_revocation_ends_earlier_signatures_at_its_own_time_and_of_its_actor_alone() -> None:
    case = Case()
    case.approve()
    case.tools.revoke_approval(case.id, ALICE)
    revoked_at = case.store.get_events(case.id)[-1].ts
    assert case.approve(case.sign(comment="b", signed_at=revoked_at.isoformat()), comment="b").code == "SIGNATURE_REPLAYED"
    early = datetime(2024, 1, 1, tzinfo=UTC).isoformat()
    assert case.approve(case.sign(actor=BOB, signed_at=early), BOB).success
    assert case.approve(case.sign(signed_at=(revoked_at + timedelta(microseconds=1)).isoformat())).success


# -- histories --------------------------------------------------------------------------------------------------------------------


def granted(payload: dict[str, Any], kind: EventType = EventType.APPROVAL_GRANTED, actor: Actor = ALICE) -> StoredEvent:
    return StoredEvent("d", 0, kind, SIGNED_AT, actor, payload, "")


def test_an_event_that_says_nothing_was_asserted() -> None:
    assert identity_of(granted({"expires_at": None})) is ASSERTED
    assert identity_of(granted({"signature": 1}, EventType.EXECUTION_FAILED)) is ASSERTED
    assert ASSERTED.assurance == "asserted"
    assert ASSERTED.members() == {}


CONTRADICTIONS: dict[str, StoredEvent] = {
    "signed without a signature": granted({"assurance": "signed"}),
    "a signature without a word": granted({"signature": envelope(), "comment": "ok"}),
    "a signature beside asserted": granted({"assurance": "asserted", "signature": envelope(), "comment": "ok"}),
    "a signature beside authenticated": granted({"assurance": "authenticated", "signature": envelope(), "comment": "ok"}),
    "an unknown word": granted({"assurance": "Signed"}),
    "null for a word": granted({"assurance": None}),
    "null for a signature": granted({"assurance": "signed", "signature": None}),
    "null for a channel": granted({"channel": None}),
    "a number for a channel": granted({"channel": 1}),
    "a broken envelope": granted({"assurance": "signed", "signature": envelope(payload=""), "comment": "ok"}),
    "two signatures": granted({"assurance": "signed", "signature": envelope(signatures=envelope()["signatures"] * 2), "comment": "ok"}),
    "another actor": granted({"assurance": "signed", "signature": envelope(), "comment": "ok"}, actor=BOB),
    "another comment": granted({"assurance": "signed", "signature": envelope(), "comment": "never"}),
    "a comment dropped": granted({"assurance": "signed", "signature": envelope()}),
    "an expiry changed": granted(
        {"assurance": "signed", "signature": envelope(), "comment": "ok", "expires_at": "2030-01-01T00:00:00+00:00"}
    ),
    "an approval as revocation": granted({"assurance": "signed", "signature": envelope(), "reason": "ok"}, EventType.APPROVAL_REVOKED),
    "an approval as creation": granted({"assurance": "signed", "signature": envelope()}, EventType.DECISION_CREATED),
    "an approval as execution": granted({"assurance": "signed", "signature": envelope()}, EventType.EXECUTION_REQUESTED),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_stored_event_that_contradicts_itself_ends_the_replay(name: str) -> None:
    with pytest.raises(MalformedEvent):
        identity_of(CONTRADICTIONS[name])
    with pytest.raises(MalformedEvent):
        Decision.replay("d", [CONTRADICTIONS[name]])


def test_a_stored_approval_for_another_decision_is_history_and_does_not_count() -> None:
    case = Case()
    case.store.append_event(case.id, EventType.APPROVAL_GRANTED, ALICE, {"assurance": "signed", "signature": case.sign(decision_id="x")})
    decision = Decision.load(case.store, case.id)
    assert isinstance(decision.approvals["alice"].mismatch, SignatureForOtherDecision)
    assert (decision.active_approval_count, decision.is_approved, decision.state.value) == (0, False, "pending_approval")
    assert "SIGNATURE_FOR_OTHER_DECISION" in (case.tools.execute(case.id, "a", BOB, Router()).error or "")
    assert case.approve().success


def test_a_stored_approval_that_repeats_an_earlier_statement_does_not_count() -> None:
    """The attack: after a revocation somebody writes the revoked approval into the store, or a bundle, once more."""
    case = Case()
    case.approve()
    again = case.payload()
    case.tools.revoke_approval(case.id, ALICE)
    case.store.append_event(case.id, EventType.APPROVAL_GRANTED, ALICE, again)
    assert isinstance(case.decision.approvals["alice"].mismatch, SignatureReplayed)
    assert not Decision.load(case.store, case.id).is_approved
    assert "SIGNATURE_REPLAYED" in (case.tools.execute(case.id, "a", BOB, Router()).error or "")


def test_a_stored_approval_that_was_held_back_until_after_a_revocation_does_not_count() -> None:
    case = Case()
    held = case.sign(signed_at=(SIGNED_AT - timedelta(minutes=1)).isoformat())
    case.approve()
    case.tools.revoke_approval(case.id, ALICE, signature=case.sign("revoke"))
    early = case.sign("revoke", comment="earlier", signed_at=(SIGNED_AT - timedelta(days=1)).isoformat())
    case.store.append_event(case.id, EventType.APPROVAL_REVOKED, ALICE, {"reason": "earlier", "assurance": "signed", "signature": early})
    case.store.append_event(case.id, EventType.APPROVAL_GRANTED, ALICE, {"assurance": "signed", "signature": held})
    assert isinstance(case.decision.approvals["alice"].mismatch, SignatureReplayed)


def test_a_signature_does_not_survive_a_change_of_the_action() -> None:
    case = Case()
    signature = case.sign()
    case.store.append_event(case.id, EventType.POLICY_ATTACHED, BOB, {"min_approvals": 1, "allowed_modes": ["dry_run"], "max_steps": 1})
    assert case.approve(signature).code == "SIGNATURE_FOR_OTHER_ACTION"
    case.store.append_event(case.id, EventType.APPROVAL_GRANTED, ALICE, {"assurance": "signed", "signature": signature})
    assert isinstance(case.decision.approvals["alice"].mismatch, SignatureForOtherAction)
    assert not case.decision.is_approved


def test_an_action_that_changed_after_it_had_been_signed_is_not_executed() -> None:
    case = Case()
    case.approve()
    case.store.append_event(case.id, EventType.POLICY_ATTACHED, BOB, {"min_approvals": 1, "allowed_modes": ["dry_run"], "max_steps": 1})
    assert case.tools.execute(case.id, "a", BOB, Router()).code == "ACTION_CHANGED"


def test_an_imported_approval_that_nobody_signed_makes_nothing_executable() -> None:
    """The attack: a bundle with an invented envelope, digests recomputed."""
    theirs = Case(Seal(b"mallory's"))
    theirs.approve()
    document = theirs.tools.export_bundle(theirs.id, render=False).data["bundle"]
    ours = Case(new_seal := Seal())
    assert import_bundle(ours.store, document, conflict_mode="overwrite").success
    result = ours.tools.execute(theirs.id, "a", BOB, Router())
    assert result.code == "POLICY_VALIDATION_FAILED"
    assert (result.error or "").endswith(
        "Insufficient approvals: 0 of 1; the approval of alice does not count: NOT_SEALED: that is not the signature"
    )
    status = ours.tools.status(theirs.id).data
    assert (status["state"], status["active_approvals"]) == ("pending_approval", 0)
    assert status["blocking_reasons"][0]["details"] == {"required": 1, "current": 0, "missing": 1, "not_believed": {"alice": "NOT_SEALED"}}
    assert isinstance(Decision.load(ours.store, theirs.id, trust=new_seal).refusal(ours.decision.approvals["alice"]), NotSealed)


def test_an_import_under_a_new_id_does_not_carry_signatures_over() -> None:
    case = Case()
    case.approve()
    document = case.tools.export_bundle(case.id, render=False).data["bundle"]
    copy = import_bundle(case.store, document, conflict_mode="new_decision_id")
    assert copy.success
    assert case.tools.status(copy.decision_id or "").data["active_approvals"] == 0


def test_without_a_trust_signatures_count_for_history_and_not_for_execution() -> None:
    case = Case()
    case.approve()
    assert Decision.load(case.store, case.id).is_approved
    blind = NexusControlTools(case.store)
    assert blind.status(case.id).data["is_approved"] is False
    assert "VERIFIER_MISSING" in (blind.execute(case.id, "a", BOB, Router()).error or "")


def test_a_trust_that_wants_signatures_refuses_names_when_they_are_given_and_when_they_count() -> None:
    """The downgrade: the signature is stripped from a stored approval, and the name remains."""
    case = Case(Seal(only_signed=frozenset({"approve"})))
    assert case.tools.approve(case.id, ALICE).code == "TOO_WEAK"
    case.store.append_event(case.id, EventType.APPROVAL_GRANTED, ALICE, {"expires_at": None})
    assert Decision.load(case.store, case.id).is_approved
    assert isinstance(case.decision.refusal(case.decision.approvals["alice"]), TooWeak)
    assert "TOO_WEAK" in (case.tools.execute(case.id, "a", BOB, Router()).error or "")
    assert case.approve().success
    assert case.tools.execute(case.id, "a", BOB, Router()).success


@pytest.mark.parametrize("action", ["request", "revoke", "execute"])
def test_every_command_is_put_before_the_trust(action: Any) -> None:
    case = Case()
    case.approve()
    strict = NexusControlTools(case.store, trust=Seal(only_signed=frozenset({action})))
    results = {
        "request": lambda: strict.request("g", ALICE),
        "revoke": lambda: strict.revoke_approval(case.id, ALICE),
        "execute": lambda: strict.execute(case.id, "a", ALICE, Router()),
    }
    before = case.store.log_root()
    assert results[action]().code == "TOO_WEAK"
    assert case.store.log_root() == before


def test_a_trust_sees_labels_template_requester_and_time() -> None:
    seal = Seal()
    store = new_store()
    tools = NexusControlTools(store, trust=seal)
    tools.template_create("prod-change", BOB, labels=["prod"])
    request_id = tools.request("g", BOB, template_name="prod-change").data["request_id"]
    tools.approve(request_id, ALICE)
    asked, approved = seal.judged[0], seal.judged[1]
    assert (asked.action, asked.actor, asked.labels, asked.template, asked.requester) == ("request", BOB, {"prod"}, "prod-change", None)
    assert (approved.action, approved.actor, approved.labels, approved.template) == ("approve", ALICE, {"prod"}, "prod-change")
    assert approved.requester == BOB
    seal.judged.clear()
    tools.status(request_id)
    assert seal.judged[0].at == store.get_events(request_id)[-1].ts


def test_a_revocation_counts_whoever_it_was() -> None:
    case = Case(Seal(only_signed=frozenset({"approve", "revoke"})))
    case.approve()
    case.store.append_event(case.id, EventType.APPROVAL_REVOKED, ALICE, {"reason": ""})
    assert not case.decision.is_approved


def test_expired_and_disbelieved_approvals_are_told_apart() -> None:
    case = Case(Seal(only_signed=frozenset({"approve"})), min_approvals=2)
    case.approve(case.sign(expires_at="2020-01-01T00:00:00+00:00"), expires_at="2020-01-01T00:00:00+00:00")
    case.store.append_event(case.id, EventType.APPROVAL_GRANTED, BOB, {"expires_at": None})
    (reason,) = case.tools.status(case.id).data["blocking_reasons"]
    assert (reason["code"], reason["details"]) == (
        "MISSING_APPROVALS",
        {"required": 2, "current": 0, "missing": 2, "not_believed": {"bob": "TOO_WEAK"}},
    )


def test_a_view_tells_how_approvers_were_established_and_who_is_not_believed() -> None:
    case = Case(Seal(only_signed=frozenset({"approve"})), min_approvals=1)
    case.store.append_event(
        case.id, EventType.APPROVAL_GRANTED, BOB, {"expires_at": "2020-01-01T00:00:00+00:00", "assurance": "authenticated"}
    )
    assert case.approve(channel="cli").success
    data = case.tools.inspect(case.id).data
    alice, bob = data["approval"]["approvers"]
    assert (alice["assurance"], alice["channel"], "not_believed" in alice) == ("signed", "cli", False)
    assert (bob["assurance"], "channel" in bob, bob["not_believed"]) == ("authenticated", False, "TOO_WEAK")
    assert "  - by alice, signed, does not expire\n" in data["rendered"]
    assert "  - by bob, authenticated, expired 2020-01-01T00:00:00Z, does not count: TOO_WEAK: sign it\n" in data["rendered"]


def test_an_approval_that_is_not_believed_meets_no_threshold_in_the_timeline() -> None:
    case = Case(Seal(only_signed=frozenset({"approve"})))
    case.store.append_event(case.id, EventType.APPROVAL_GRANTED, BOB, {"expires_at": None})
    assert case.approve().success
    met = [entry for entry in case.tools.inspect(case.id).data["timeline"] if entry["event_type"] == "THRESHOLD_MET"]
    assert [entry["seq"] for entry in met] == [3]
