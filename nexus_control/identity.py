"""Who said it: how strongly an actor's name was established, and the signed statement that no operator can forge.

    asserted         the caller gave the name; proves nothing beyond access to the store
    authenticated    a server bound the name to a verified token or to its own configuration; the operator vouches
    signed           the actor's own Ed25519 key signed a statement of this very command; the actor vouches

A statement travels in a DSSE envelope (https://github.com/secure-systems-lab/dsse, v1.0.2) and is kept whole in the event. Here it is
taken apart strictly, one spelling only, and compared with the command or the event that it stands beside. Whether the signature is
that of a key of this actor is left to a `Trust`, because it needs public-key cryptography and knowledge of keys: nothing that is
called `signed` here has been verified before one has judged it.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, cast, get_args

from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.errors import (
    InputError,
    InvalidActor,
    InvalidEnvelope,
    MalformedBundle,
    MalformedEvent,
    SignatureForOtherActor,
    SignatureForOtherCommand,
    SignatureForOtherDecision,
    SignatureMissing,
    VerifierMissing,
    brief,
)
from nexus_control.events import Actor, EventType, StoredEvent, parse_actor, parse_time, require_text
from nexus_control.integrity import DIGEST_PATTERN
from nexus_control.json_data import parse_json

__all__ = [
    "ASSERTED",
    "MAX_PAYLOAD_BYTES",
    "NO_TRUST",
    "PAYLOAD_TYPE",
    "STATEMENT_VERSION",
    "Act",
    "Action",
    "Assurance",
    "Envelope",
    "Identity",
    "Statement",
    "Trust",
    "identity_of",
    "pae",
    "parse_envelope",
    "parse_identity",
    "parse_statement",
    "require_statement",
]

PAYLOAD_TYPE = "application/vnd.nexus.approval+json"
"""The DSSE payload type of a statement; it keeps a signature from meaning anything else."""

STATEMENT_VERSION = 1

MAX_PAYLOAD_BYTES = 64 * 1024
"""A longer statement is refused unread; the comment is the only part that can be long."""

_MAX_ENVELOPE_CHARACTERS = 4 * MAX_PAYLOAD_BYTES
_MAX_NAME_CHARACTERS = 256
_SIGNATURE_BYTES = 64

Assurance = Literal["asserted", "authenticated", "signed"]
"""How strongly the actor's name was established, in ascending order."""

Action = Literal["request", "approve", "revoke", "reject", "execute"]
"""What a statement does to the decision that it names. `reject` is reserved: no command takes it."""

_ACTIONS = get_args(Action)
_ASSURANCES = get_args(Assurance)
_MEMBERS = ("assurance", "channel", "signature")
_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATEMENT_KEYS = {"v", "action", "decision_id", "action_digest", "actor", "comment", "expires_at", "signed_at"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What an actor signs: one action on one decision, as this decision was defined then.

    `action_digest` is the prefixed digest of `Decision.action_digest`. `comment` is the comment of an approval or the reason of a
    revocation, None when there is none; `expires_at` that of an approval. Both times are `isoformat()` in UTC. For a request,
    `decision_id` is the id that the new decision gets: a UUID that the signer made up, so that no envelope can make two decisions.
    """

    action: Action
    decision_id: str
    action_digest: str
    actor: Actor
    signed_at: str
    comment: str | None = None
    expires_at: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The statement as JSON data."""
        return {
            "v": STATEMENT_VERSION,
            "action": self.action,
            "decision_id": self.decision_id,
            "action_digest": self.action_digest,
            "actor": dict(self.actor),
            "comment": self.comment,
            "expires_at": self.expires_at,
            "signed_at": self.signed_at,
        }

    def payload(self) -> bytes:
        """The canonical bytes that go into an envelope. Raises InvalidEnvelope for what `parse_statement` would refuse."""
        try:
            payload = canonical_json_bytes(self.to_dict())
        except (ValueError, TypeError) as problem:
            raise InvalidEnvelope(f"the statement is not JSON: {problem}") from None
        parse_statement(payload)
        return payload

    @property
    def signed_instant(self) -> datetime:
        """`signed_at` as UTC: what the signer's clock said."""
        return parse_time(self.signed_at)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A DSSE envelope with one signature, taken apart. `key_id` is a hint which key to try, and not covered by the signature."""

    statement: Statement
    payload: bytes
    key_id: str
    signature: bytes

    @property
    def signed_bytes(self) -> bytes:
        """What the 64 bytes of `signature` are an Ed25519 signature of."""
        return pae(PAYLOAD_TYPE, self.payload)

    def to_dict(self) -> dict[str, Any]:
        """The envelope as JSON data (DSSE v1.0.2)."""
        return {
            "payload": b64encode(self.payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": self.key_id, "sig": b64encode(self.signature).decode()}],
        }


@dataclass(frozen=True, slots=True)
class Identity:
    """How the actor of a command or of a stored event was established. What was not stated is not recorded; it counts as asserted.

    `channel` names the way by which the command came in, such as `cli` or `mcp-http`, for the record alone.
    """

    stated: Assurance | None = None
    channel: str | None = None
    envelope: Envelope | None = None

    @property
    def assurance(self) -> Assurance:
        """The strength; `signed` exactly when there is an envelope."""
        return "asserted" if self.stated is None else self.stated

    def members(self) -> dict[str, Any]:
        """What is recorded of it in an event's payload: only what was given."""
        members: dict[str, Any] = {}
        if self.stated is not None:
            members["assurance"] = self.stated
        if self.channel is not None:
            members["channel"] = self.channel
        if self.envelope is not None:
            members["signature"] = self.envelope.to_dict()
        return members


ASSERTED = Identity()
"""Nothing was stated about how the actor was established."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One actor doing one thing to one decision, for a `Trust` to judge.

    `at` is the instant at which it was recorded, or is about to be; `labels` and `template` are those of the decision, `requester`
    who asked for it, or, with `imported`, who did so according to another system.
    """

    action: Action
    actor: Actor
    identity: Identity
    at: datetime
    labels: frozenset[str] = frozenset()
    template: str | None = None
    requester: Actor | None = None
    imported: bool = False


class Trust(Protocol):
    """Whom to believe: what the engine asks about every act, when it happens and whenever it counts."""

    def judge(self, act: Act) -> None:
        """Return when the act is believed; raise a subclass of IdentityRefused, never anything else, when it is not.

        Must verify the signature of an envelope with a key of the act's actor that was valid at `act.at` and at the time of signing.
        Must be quick and read nothing that can change: it is asked inside write transactions, and often about the same act.
        """
        ...


class _NoTrust:
    """Believes names as they are given, and no signature, because it cannot check any."""

    def judge(self, act: Act) -> None:
        if act.identity.envelope is not None:
            raise VerifierMissing("a signature was given, but no trust policy is configured to check it with")


NO_TRUST: Trust = _NoTrust()
"""The judgement where no trust was configured: believes names as they are given, and no signature, as it cannot check any."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers: the pre-authentication encoding of DSSE v1.0.2."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_envelope(value: object) -> Envelope:
    """An envelope out of outside data: JSON data or JSON text.

    Raises InvalidEnvelope unless it has exactly the members of DSSE, our payload type, one signature of 64 bytes with a key id, base64
    in its one standard spelling, and as payload the canonical bytes of a statement.
    """
    data = _object(_decoded(value) if isinstance(value, str) else value, {"payload", "payloadType", "signatures"}, "the envelope")
    if data["payloadType"] != PAYLOAD_TYPE:
        raise InvalidEnvelope(f"payloadType must be {PAYLOAD_TYPE}, got {brief(data['payloadType'])}")
    signatures: object = data["signatures"]
    if not isinstance(signatures, list | tuple) or len(cast("list[object]", signatures)) != 1:
        raise InvalidEnvelope("signatures must be an array with exactly one signature")
    signature = _object(cast("list[object]", signatures)[0], {"keyid", "sig"}, "the signature")
    raw = _bytes(signature["sig"], "sig", _SIGNATURE_BYTES)
    if len(raw) != _SIGNATURE_BYTES:
        raise InvalidEnvelope(f"sig must be the {_SIGNATURE_BYTES} bytes of an Ed25519 signature")
    payload = _bytes(data["payload"], "payload", MAX_PAYLOAD_BYTES)
    return Envelope(parse_statement(payload), payload, _name(signature["keyid"], "keyid"), raw)


def parse_statement(payload: bytes) -> Statement:
    """The statement of an envelope's payload.

    Raises InvalidEnvelope unless the bytes are the canonical JSON of a statement of this version with nothing else in it.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise InvalidEnvelope(f"the payload has more than {MAX_PAYLOAD_BYTES} bytes")
    data = _object(_decoded(payload), _STATEMENT_KEYS, "the statement")
    try:
        canonical = canonical_json_bytes(data)
    except ValueError as problem:
        raise InvalidEnvelope(f"the payload is not JSON that everybody reads alike: {problem}") from None
    if canonical != payload:
        raise InvalidEnvelope("the payload is not in canonical form (RFC 8785)")
    if type(data["v"]) is not int or data["v"] != STATEMENT_VERSION:
        raise InvalidEnvelope(f"the statement's version must be {STATEMENT_VERSION}")
    action = data["action"]
    if not isinstance(action, str) or action not in _ACTIONS:
        raise InvalidEnvelope(f"the statement's action must be one of {', '.join(_ACTIONS)}")
    digest = data["action_digest"]
    if not isinstance(digest, str) or not DIGEST_PATTERN.fullmatch(digest):
        raise InvalidEnvelope("action_digest must be sha256: and 64 lowercase hex digits")
    comment = data["comment"]
    if comment is not None and (not isinstance(comment, str) or not comment):
        raise InvalidEnvelope("comment must be null or a non-empty string")
    try:
        actor = parse_actor(data["actor"])
    except InvalidActor as problem:
        raise InvalidEnvelope(f"the statement's {problem}") from None
    decision_id = _decision_id(data["decision_id"], action)
    return Statement(
        action=cast("Action", action),
        decision_id=decision_id,
        action_digest=digest,
        actor=actor,
        signed_at=_time(data["signed_at"], "signed_at"),
        comment=comment,
        expires_at=None if data["expires_at"] is None else _time(data["expires_at"], "expires_at"),
    )


def parse_identity(assurance: object, channel: object, signature: object) -> Identity:
    """How the actor of a command was established, out of a caller's arguments; None for each that was not given.

    A signature needs no `assurance` beside it, and no other than `signed`. Raises InputError for other values, SignatureMissing for
    `signed` without a signature, InvalidEnvelope.
    """
    if assurance is not None and (not isinstance(assurance, str) or assurance not in _ASSURANCES):
        raise InputError(f"assurance must be one of {', '.join(_ASSURANCES)}, got {brief(assurance)}")
    if channel is not None and (not require_text(channel, "channel") or len(cast("str", channel)) > _MAX_NAME_CHARACTERS):
        raise InputError(f"channel must have 1 to {_MAX_NAME_CHARACTERS} characters")
    if signature is None:
        if assurance == "signed":
            raise SignatureMissing("assurance signed needs the envelope of the signature")
        if assurance is None and channel is None:
            return ASSERTED
        return Identity(cast("Assurance | None", assurance), cast("str | None", channel))
    if assurance not in (None, "signed"):
        raise InputError(f"a signature makes an actor signed, not {assurance}")
    return Identity("signed", cast("str | None", channel), parse_envelope(signature))


def require_statement(
    envelope: Envelope, *, action: Action, decision_id: str | None, actor: Mapping[str, str], comment: str | None, expires_at: str | None
) -> None:
    """Raise unless the signed statement is that of this command; `decision_id` None leaves the decision to the signer.

    SignatureForOtherCommand, SignatureForOtherDecision or SignatureForOtherActor. The action's digest is compared where the decision
    is at hand.
    """
    said = envelope.statement
    if said.action != action:
        raise SignatureForOtherCommand(f"the signed statement is a {said.action}, this is a {action}")
    if decision_id is not None and said.decision_id != decision_id:
        raise SignatureForOtherDecision(f"the signature is for decision {said.decision_id}")
    if said.actor != actor:
        raise SignatureForOtherActor(f"the signature is in the name of {said.actor.type} {brief(said.actor.id)}")
    if said.comment != (comment or None):
        raise SignatureForOtherCommand("the signed comment is not the comment of this command")
    if said.expires_at != expires_at:
        raise SignatureForOtherCommand(f"the signature says that it expires at {said.expires_at}, this command {expires_at}")


_STORED: Mapping[EventType, tuple[Action, str | None]] = {
    EventType.DECISION_CREATED: ("request", None),
    EventType.APPROVAL_GRANTED: ("approve", "comment"),
    EventType.APPROVAL_REVOKED: ("revoke", "reason"),
    EventType.EXECUTION_REQUESTED: ("execute", None),
}
"""Events that say who did them, with the action and the payload's key of the comment in their statements."""


def identity_of(event: StoredEvent) -> Identity:
    """How the actor of a stored event was established.

    Raises MalformedEvent for members that cannot be understood or contradict each other or the event: `signed` without an envelope, an
    envelope beside another strength, a statement of another action, actor, comment or expiry. A statement for another decision is no
    contradiction (bundles are imported under new ids); what it is worth is for the caller to judge.
    """
    payload = event.payload
    if event.event_type not in _STORED or payload.keys().isdisjoint(_MEMBERS):
        return ASSERTED
    given = [payload.get(member) for member in _MEMBERS]
    if None in (payload[member] for member in _MEMBERS if member in payload):
        raise MalformedEvent("assurance, channel and signature must not be null")
    if given[2] is not None and given[0] != "signed":
        raise MalformedEvent("a signature needs the assurance signed beside it")
    action, comment_key = _STORED[event.event_type]
    try:
        identity = parse_identity(*given)
        if identity.envelope is not None:
            comment = payload.get(comment_key) if comment_key else None
            expires_at = payload.get("expires_at") if action == "approve" else None
            require_statement(identity.envelope, action=action, decision_id=None, actor=event.actor, comment=comment, expires_at=expires_at)
    except (InputError, SignatureForOtherCommand, SignatureForOtherActor) as problem:
        raise MalformedEvent(f"{problem.code}: {problem}") from None
    return identity


def _decoded(text: str | bytes) -> object:
    if len(text) > _MAX_ENVELOPE_CHARACTERS:
        raise InvalidEnvelope(f"the envelope has more than {_MAX_ENVELOPE_CHARACTERS} characters")
    try:
        return parse_json(text)
    except MalformedBundle as problem:
        raise InvalidEnvelope(str(problem)) from None


def _object(value: object, keys: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidEnvelope(f"{what} must be an object, got {type(value).__name__}")
    data = dict(cast("Mapping[Any, Any]", value))
    if set(data) != keys:
        raise InvalidEnvelope(f"{what} must have exactly the members {', '.join(sorted(keys))}")
    return data


def _bytes(value: object, name: str, limit: int) -> bytes:
    """Base64 of RFC 4648 section 4 with its padding; any other spelling of the same bytes is refused."""
    if not isinstance(value, str) or len(value) > 4 * (limit // 3 + 1):
        raise InvalidEnvelope(f"{name} must be base64 text of at most {limit} bytes")
    try:
        raw = b64decode(value, validate=True)
    except (Base64Error, ValueError):
        raise InvalidEnvelope(f"{name} is not base64") from None
    if b64encode(raw).decode() != value:
        raise InvalidEnvelope(f"{name} is not base64 in its one standard spelling")
    return raw


def _name(value: object, name: str) -> str:
    try:
        text = require_text(value, name)
    except InputError as problem:
        raise InvalidEnvelope(str(problem)) from None
    if not 0 < len(text) <= _MAX_NAME_CHARACTERS:
        raise InvalidEnvelope(f"{name} must have 1 to {_MAX_NAME_CHARACTERS} characters")
    return text


def _decision_id(value: object, action: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidEnvelope("decision_id must be a non-empty string")
    if action == "request" and not _UUID.fullmatch(value):
        raise InvalidEnvelope("the decision_id of a request must be a UUID in lowercase")
    return value


def _time(value: object, name: str) -> str:
    """A time in the one spelling that this project writes."""
    try:
        if isinstance(value, str) and parse_time(value).isoformat() == value:
            return value
    except MalformedEvent:
        pass
    raise InvalidEnvelope(f"{name} must be an ISO 8601 time in UTC, as 2030-01-01T00:00:00+00:00")
