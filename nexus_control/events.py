"""Events, actors and times: what a decision's history is made of, and the exact bytes that chain it.

An event is a fact that was stored; nothing here judges whether it should have been. Times are timezone-aware UTC, written with
`datetime.isoformat()`. The records of this module are the leaves of the store's log; their composition is frozen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from json.encoder import encode_basestring as _quote  # a single string's canonical text (RFC 8785 section 3.2.2.2)
from typing import Any, Literal, TypedDict, cast

from nexus_control.canonical_json import MAX_DEPTH, canonical_json
from nexus_control.errors import InputError, InvalidActor, InvalidExpiresAt, MalformedEvent, brief
from nexus_control.integrity import sha256_digest
from nexus_control.json_data import decode_json

__all__ = [
    "ZERO_HASH",
    "Actor",
    "ApprovalGrantedPayload",
    "ApprovalRevokedPayload",
    "BaseEventPayload",
    "Clock",
    "DecisionCreatedPayload",
    "EventPayload",
    "EventType",
    "ExecutionCompletedPayload",
    "ExecutionFailedPayload",
    "ExecutionMode",
    "ExecutionRequestedPayload",
    "ExecutionStartedPayload",
    "PolicyAttachedPayload",
    "PolicyFromTemplatePayload",
    "StoredEvent",
    "TemplateCreatedPayload",
    "are_event_cells",
    "event_digest",
    "event_record",
    "expiry_instant",
    "generation_record",
    "in_utc",
    "parse_actor",
    "parse_expires_at",
    "parse_time",
    "template_event_record",
    "utc_now",
]

ZERO_HASH = "0" * 64
"""`prev_hash` of the first row of a chain."""

_ACTOR_KEYS = frozenset({"type", "id"})
_ACTOR_TYPES = ("human", "system")

ExecutionMode = Literal["dry_run", "apply"]

Clock = Callable[[], datetime]
"""Gives the current time, with an offset."""


def utc_now() -> datetime:
    """The system clock, timezone-aware UTC. The one place of the engine that reads it."""
    return datetime.now(UTC)


def in_utc(clock: Clock) -> Clock:
    """`clock`, its times brought to UTC. They raise InputError where they have no offset: nobody could tell when that was."""

    def now() -> datetime:
        moment = clock()
        if moment.utcoffset() is None:
            raise InputError(f"clock must give times with an offset, as datetime.now(UTC) does, got {moment.isoformat()}")
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            raise InputError(f"clock must give times of the years 1 to 9999 in UTC, got {moment.isoformat()}") from None

    return now


class EventType(StrEnum):
    """The kinds of events; the value equals the name. `TEMPLATE_CREATED` occurs only in the logs of templates."""

    DECISION_CREATED = "DECISION_CREATED"
    POLICY_ATTACHED = "POLICY_ATTACHED"
    APPROVAL_GRANTED = "APPROVAL_GRANTED"
    APPROVAL_REVOKED = "APPROVAL_REVOKED"
    EXECUTION_REQUESTED = "EXECUTION_REQUESTED"
    EXECUTION_STARTED = "EXECUTION_STARTED"
    EXECUTION_COMPLETED = "EXECUTION_COMPLETED"
    EXECUTION_FAILED = "EXECUTION_FAILED"
    TEMPLATE_CREATED = "TEMPLATE_CREATED"


class Actor(dict[str, str]):
    """Who did it: `Actor(type="human", id="alice")`, equal to the plain dict of the same two entries.

    `type` is `"human"` or `"system"`; approvals are counted by `id`. Construction does not validate: `parse_actor` does, at the
    edges. The name alone proves nothing about who called (SECURITY.md).
    """

    @property
    def type(self) -> str:
        """`"human"` or `"system"`."""
        return self["type"]

    @property
    def id(self) -> str:
        """Unique, non-empty identifier."""
        return self["id"]


def parse_actor(value: object) -> Actor:
    """An `Actor` out of outside data.

    Raises InvalidActor unless `value` is a mapping with exactly `type` (`human` or `system`) and `id` (a non-empty string that
    UTF-8 can express).
    """
    if not isinstance(value, (dict, Mapping)):  # the former is asked for much sooner
        raise InvalidActor(f"actor must be an object with 'type' and 'id', got {type(value).__name__}")
    data = cast("Mapping[object, object]", value)
    if not data.keys() <= _ACTOR_KEYS:
        unknown = sorted(brief(key) for key in data if key not in _ACTOR_KEYS)
        raise InvalidActor(f"actor has unknown keys: {', '.join(unknown[:10])}")
    kind, name = data.get("type"), data.get("id")
    if not isinstance(kind, str) or kind not in _ACTOR_TYPES:
        raise InvalidActor("actor.type must be 'human' or 'system'")
    if not isinstance(name, str) or not name:
        raise InvalidActor("actor.id must be a non-empty string")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidActor("actor.id must not contain lone surrogates") from None
    return Actor(type=str(kind), id=str(name))


class BaseEventPayload(TypedDict, total=False):
    """What every payload may carry."""

    comment: str


class DecisionCreatedPayload(BaseEventPayload):
    """The action that is asked for."""

    goal: str
    plan: str | None
    requested_mode: ExecutionMode
    labels: list[str]


class PolicyAttachedPayload(BaseEventPayload):
    """The policy that the action must satisfy."""

    min_approvals: int
    allowed_modes: list[str]
    require_adapter_capabilities: list[str]
    max_steps: int | None
    labels: list[str]


class PolicyFromTemplatePayload(PolicyAttachedPayload):
    """A policy that came from a template, with the template as it was then (`template_digest` is raw)."""

    template_name: str
    template_snapshot: dict[str, Any]
    template_digest: str
    overrides_applied: dict[str, Any]


class ApprovalGrantedPayload(BaseEventPayload):
    """`expires_at` is ISO 8601; absent an offset it is read as UTC."""

    expires_at: str | None


class ApprovalRevokedPayload(BaseEventPayload):
    """Why an approval no longer stands."""

    reason: str


class ExecutionRequestedPayload(BaseEventPayload):
    """The claim: from here on this execution, and no other, may run."""

    adapter_id: str
    dry_run: bool


class ExecutionStartedPayload(BaseEventPayload):
    """Raw digest of the compiled router request."""

    router_request_digest: str


class ExecutionCompletedPayload(BaseEventPayload):
    """`response_digest` is the raw digest of what `router.run` returned."""

    run_id: str
    response_digest: str
    steps_executed: int


class ExecutionFailedPayload(BaseEventPayload):
    """`run_id` is None when the router recorded nothing."""

    error_code: str
    error_message: str
    run_id: str | None


class TemplateCreatedPayload(BaseEventPayload):
    """The values of a template."""

    name: str
    description: str
    min_approvals: int
    allowed_modes: list[str]
    require_adapter_capabilities: list[str]
    max_steps: int | None
    labels: list[str]


EventPayload = (
    DecisionCreatedPayload
    | PolicyAttachedPayload
    | PolicyFromTemplatePayload
    | ApprovalGrantedPayload
    | ApprovalRevokedPayload
    | ExecutionRequestedPayload
    | ExecutionStartedPayload
    | ExecutionCompletedPayload
    | ExecutionFailedPayload
    | TemplateCreatedPayload
    | dict[str, object]
)
"""Any payload; a plain dict at run time."""


@dataclass(frozen=True, init=False)
class StoredEvent:
    """One row of a decision's log.

    `digest` covers type and payload only; `chain_hash` covers the whole record and its predecessor (`event_record`). The last three
    fields are local to a store and None for an event that never was in one.
    """

    decision_id: str
    seq: int
    event_type: EventType
    ts: datetime
    actor: Actor
    payload: dict[str, Any]
    digest: str
    prev_hash: str | None
    chain_hash: str | None
    position: int | None

    # Written out, because the constructor of a frozen class assigns ten times what it was given, and every event that is read makes one.
    def __init__(
        self,
        decision_id: str,
        seq: int,
        event_type: EventType,
        ts: datetime,
        actor: Actor,
        payload: dict[str, Any],
        digest: str,
        prev_hash: str | None = None,
        chain_hash: str | None = None,
        position: int | None = None,
    ) -> None:
        own = vars(self)
        own["decision_id"], own["seq"], own["event_type"], own["ts"] = decision_id, seq, event_type, ts
        own["actor"], own["payload"], own["digest"] = actor, payload, digest
        own["prev_hash"], own["chain_hash"], own["position"] = prev_hash, chain_hash, position

    @property
    def event_id(self) -> str:
        """`evt_<decision id>_<seq>`, unique within a generation."""
        return f"evt_{self.decision_id}_{self.seq}"

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON data; the store-local fields only when set."""
        data: dict[str, Any] = {
            "event_id": self.event_id,
            "decision_id": self.decision_id,
            "seq": self.seq,
            "event_type": self.event_type.value,
            "ts": self.ts.isoformat(),
            "actor": dict(self.actor),
            "payload": self.payload,
            "digest": self.digest,
        }
        if self.prev_hash is not None:
            data["prev_hash"] = self.prev_hash
        if self.chain_hash is not None:
            data["chain_hash"] = self.chain_hash
        if self.position is not None:
            data["position"] = self.position
        return data


def event_digest(event_type: str, payload_json: str) -> str:
    """Raw digest of canonical `{"event_type": ..., "payload": ...}`; `payload_json` is the payload's canonical text."""
    return sha256_digest(f'{{"event_type":{_quote(event_type)},"payload":{payload_json}}}'.encode())


# The three records below are canonical JSON put together from canonical parts, keys in canonical order, so that a payload is
# serialised once and not once per digest. Tests compare each with `canonical_json_bytes` of the same object.


def generation_record(*, decision_id: str, generation: int, created_at: str, tombstone: bool, prev_hash: str) -> bytes:
    """Canonical bytes of the chained record of a header row; `created_at` is the stored text."""
    return (
        f'{{"created_at":{_quote(created_at)},"decision_id":{_quote(decision_id)},"generation":{generation},'
        f'"kind":"generation","prev_hash":"{prev_hash}","tombstone":{"true" if tombstone else "false"}}}'
    ).encode()


def are_event_cells(
    seq: object,
    event_type: object,
    ts: object,
    actor_type: object,
    actor_id: object,
    payload: object,
    digest: object,
    prev: object,
    chain: object,
    decision_id: object,
) -> bool:
    """Whether the cells of an event's row are of the types that a store writes; some 0.2 microseconds."""
    return (
        str is type(event_type) is type(ts) is type(actor_type) is type(actor_id) is type(payload) is type(digest) is type(decision_id)
        and bytes is type(prev) is type(chain)
        and type(seq) is int
    )


def event_record(
    *,
    decision_id: str,
    generation: int,
    seq: int,
    event_type: str,
    ts: str,
    actor_type: str,
    actor_id: str,
    payload_json: str,
    prev_hash: str,
) -> bytes:
    """Canonical bytes of the chained record of a decision event; `payload_json` is the payload's canonical text."""
    return (
        f'{{"actor":{{"id":{_quote(actor_id)},"type":{_quote(actor_type)}}},"decision_id":{_quote(decision_id)},'
        f'"event_type":{_quote(event_type)},"generation":{generation},"kind":"event","payload":{payload_json},'
        f'"prev_hash":"{prev_hash}","seq":{seq},"ts":{_quote(ts)}}}'
    ).encode()


def template_event_record(
    *, template_name: str, seq: int, event_type: str, ts: str, actor_type: str, actor_id: str, payload_json: str, prev_hash: str
) -> bytes:
    """Canonical bytes of the chained record of a template event; `payload_json` is the payload's canonical text."""
    return (
        f'{{"actor":{{"id":{_quote(actor_id)},"type":{_quote(actor_type)}}},"event_type":{_quote(event_type)},'
        f'"kind":"template_event","payload":{payload_json},"prev_hash":"{prev_hash}","seq":{seq},'
        f'"template_name":{_quote(template_name)},"ts":{_quote(ts)}}}'
    ).encode()


def parse_time(text: str) -> datetime:
    """A stored ISO 8601 time as timezone-aware UTC; without offset it is read as UTC.

    Raises MalformedEvent when it is no time, or none that exists in UTC.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is UTC:  # as we write it
            return moment
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise MalformedEvent(f"not an ISO 8601 time: {brief(text)}") from None


def expiry_instant(payload: Mapping[str, Any]) -> datetime | None:
    """The `expires_at` of an approval payload as UTC, None when it does not expire.

    Raises MalformedEvent when it is neither null nor a time: an expiry that cannot be read must not become "never".
    """
    text = payload.get("expires_at")
    return None if text is None else parse_time(text)


def parse_expires_at(value: object) -> datetime | None:
    """An expiry argument as UTC: a timezone-aware datetime, ISO 8601 text with an offset, or None.

    A time in the past is fine; the approval then does not count. Raises InvalidExpiresAt for a naive time, for text that is no
    time, and for any other type.
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidExpiresAt(f"expires_at is no ISO 8601 time: {brief(value)}") from None
    if not isinstance(value, datetime):
        raise InvalidExpiresAt(f"expires_at must be a time or ISO 8601 text, got {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidExpiresAt("expires_at must carry an offset, for example 2030-01-01T00:00:00+00:00")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidExpiresAt("expires_at lies outside the calendar of UTC") from None


def decode_payload(text: str) -> dict[str, Any]:
    """The payload column of a stored event, in any spelling that JSON allows.

    Raises MalformedEvent unless it is the JSON text of an object that has a canonical form: one that every reader understands alike.
    """
    try:
        value: object = decode_json(text)
        # Lone surrogates can only be written as escapes, and depth takes brackets; canonical texts have few of either.
        if "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH:
            canonical_json(value)
    except (ValueError, TypeError) as problem:  # the latter for a cell that is no text
        raise MalformedEvent(f"payload is not readable JSON: {problem}") from None
    if not isinstance(value, dict):
        raise MalformedEvent("payload is not a JSON object")
    return cast("dict[str, Any]", value)


def require_page(limit: object, offset: object) -> None:
    """What a database counts with, and no page has less than nothing. Raises InputError for other types and numbers."""
    if not all(type(number) is int and 0 <= number < 2**63 for number in (limit, offset)):
        raise InputError("limit and offset must be integers from 0 to 2**63 - 1")


def require_text(value: object, name: str) -> str:
    """A string argument that can be stored. Raises InputError for other types and for lone surrogates."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, got {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} must not contain lone surrogates") from None
    return value
