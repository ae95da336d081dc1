"""Whether a decision bundle agrees with itself: with its digests, its own events, and the sections derived from them.

Pure, and shared by import and verification, which give the findings different names. Agreement is all that is judged: a bundle that
was rebuilt whole, digests included, agrees with itself as well.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from nexus_control.bundle import BUNDLE_VERSION, BundleDecision, BundleEvent, DecisionBundle, digest_of_event_texts, event_text
from nexus_control.canonical_json import canonical_json
from nexus_control.decision import Decision, DecisionState
from nexus_control.errors import MalformedBundle, MalformedEvent, NexusError
from nexus_control.events import EventType, StoredEvent, event_digest, parse_actor, parse_time
from nexus_control.integrity import digests_equal, prefixed
from nexus_control.verification import Finding

__all__ = [
    "Content",
    "Recomputed",
    "bundle_digest_findings",
    "event_digest_findings",
    "form_findings",
    "header_findings",
    "recompute",
    "replay_bundle",
    "replay_findings",
    "section_findings",
    "sequence_findings",
    "stored_event",
    "stray_findings",
    "version_findings",
]

_TYPES = {member.value: member for member in EventType}
_EITHER_SIDE_OF_EXPIRY = {DecisionState.APPROVED.value.upper(), DecisionState.PENDING_APPROVAL.value.upper()}


_MEMBERS = frozenset(
    {
        *("bundle_version", "decision", "events", "template_snapshot", "router_link", "integrity", "provenance", "policy", "approvals"),
        "meta",
    }
)
_EVENT_MEMBERS = frozenset({"event_id", "decision_id", "seq", "type", "payload", "ts", "actor", "digest"})
_SECTION_MEMBERS = {
    "decision": frozenset({"decision_id", "goal", "mode", "created_at", "status", "creator"}),
    "router_link": frozenset({"run_id", "adapter_id", "router_request_digest", "router_result_digest", "control_router_link_digest"}),
    "integrity": frozenset({"alg", "canonical_digest"}),
}
_SNAPSHOT_MEMBERS = {True: frozenset({"present", "name", "digest", "snapshot", "overrides"}), False: frozenset({"present"})}


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What a bundle's content gives: events in ascending seq; per event canonical payload text and raw digest; the raw bundle digest."""

    events: list[BundleEvent]
    payload_texts: list[str]
    event_digests: list[str]
    bundle_digest: str


class Content:
    """A bundle with what its content gives, each computed when it is first asked for, once for everybody who judges this bundle.

    Not for a bundle that is edited meanwhile.
    """

    def __init__(self, bundle: DecisionBundle) -> None:
        self.bundle = bundle

    @cached_property
    def recomputed(self) -> Recomputed:
        """Every digest. Raises MalformedBundle."""
        return recompute(self.bundle)

    @property
    def payload_texts(self) -> list[str]:
        """The canonical text of each payload, in the order in which the events are given. Raises ValueError or TypeError."""
        with suppress(MalformedBundle):  # what has no canonical form may be something else in the bundle
            if self.recomputed.events == self.bundle.events:
                return self.recomputed.payload_texts
        return [canonical_json(event.payload) for event in self.bundle.events]

    @cached_property
    def decision(self) -> Decision:
        """What the events make in ascending seq, expiry judged at the last. Raises MalformedEvent or InvalidActor."""
        return replay_bundle(self.bundle.decision.decision_id, sorted(self.bundle.events, key=lambda event: event.seq))


def recompute(bundle: DecisionBundle) -> Recomputed:
    """Every digest of the bundle from its content alone, serialising each payload once.

    Raises MalformedBundle when canonical JSON cannot express the content.
    """
    events = sorted(bundle.events, key=lambda event: event.seq)
    try:
        payload_texts = [canonical_json(event.payload) for event in events]
        return Recomputed(
            events,
            payload_texts,
            [event_digest(event.type, text) for event, text in zip(events, payload_texts, strict=True)],
            digest_of_event_texts(
                bundle.bundle_version,
                bundle.decision,
                (event_text(event, text) for event, text in zip(events, payload_texts, strict=True)),
                bundle.template_snapshot,
                bundle.router_link,
            ),
        )
    except (ValueError, TypeError) as error:
        raise MalformedBundle(f"the content is not JSON: {error}") from None


def replay_bundle(decision_id: str, events: list[BundleEvent]) -> Decision:
    """The decision that these events make, expiry judged at the time of the last one.

    Raises MalformedEvent or InvalidActor for an event that replay cannot understand.
    """
    history = [stored_event(decision_id, event) for event in events]
    return Decision.replay(decision_id, history, as_of=history[-1].ts if history else None)


def stored_event(decision_id: str, event: BundleEvent) -> StoredEvent:
    """The event as a store would hold it, sharing its payload.

    Raises MalformedEvent for an unknown type or a time that is none, InvalidActor for an actor that is none.
    """
    kind = _TYPES.get(event.type)
    if kind is None:
        raise MalformedEvent(f"event {event.seq} has the unknown type {event.type!r}")
    return StoredEvent(decision_id, event.seq, kind, parse_time(event.ts), parse_actor(event.actor), event.payload, event.digest)


def version_findings(bundle: DecisionBundle) -> Iterator[Finding]:
    """The format is one that this release reads: any minor version of the known major one."""
    if bundle.bundle_version.partition(".")[0] != BUNDLE_VERSION.partition(".")[0]:
        yield Finding("unknown bundle_version", BUNDLE_VERSION, bundle.bundle_version)


def bundle_digest_findings(bundle: DecisionBundle, recomputed: Recomputed) -> Iterator[Finding]:
    """The stored bundle digest is the recomputed one."""
    stored = bundle.integrity.canonical_digest
    if not digests_equal(stored, recomputed.bundle_digest):
        yield Finding("integrity.canonical_digest is not the digest of the content", stored, prefixed(recomputed.bundle_digest))
    if bundle.integrity.alg != "sha256":
        yield Finding("unknown integrity.alg", "sha256", bundle.integrity.alg)


def event_digest_findings(recomputed: Recomputed, *, absent_allowed: bool = False) -> Iterator[Finding]:
    """Each event's digest is that of its type and payload; names the first that is not. With `absent_allowed`, an empty one is fine."""
    for event, actual in zip(recomputed.events, recomputed.event_digests, strict=True):
        if not digests_equal(event.digest, actual) and not (absent_allowed and event.digest == ""):
            yield Finding(f"the digest of event {event.seq} is not that of its type and payload", event.digest, actual)
            return


def sequence_findings(events: list[BundleEvent]) -> Iterator[Finding]:
    """The seq values are 0, 1, 2 ... in the given order; names the first place where they are not."""
    for expected, event in enumerate(events):
        if event.seq != expected:
            yield Finding(
                f"seq is not 0..{len(events) - 1} without gap: {event.seq} where {expected} belongs", str(expected), str(event.seq)
            )
            return


def header_findings(header: BundleDecision, decision: Decision) -> Iterator[Finding]:
    """Goal, mode, status and creator of the header are those of the replayed decision.

    While an approval carries an expiry, APPROVED and PENDING_APPROVAL are the same status: the exporter may have judged the expiry at
    another instant.
    """
    if header.goal != decision.goal:
        yield Finding("decision.goal disagrees with the events", decision.goal, header.goal)
    mode = decision.requested_mode or "dry_run"
    if header.mode != mode:
        yield Finding("decision.mode disagrees with the events", mode, header.mode)
    status = decision.state.value.upper()
    if header.status != status:
        may_expire = any(approval.expires_at is not None for approval in decision.approvals.values())
        if not (may_expire and {header.status, status} == _EITHER_SIDE_OF_EXPIRY):
            yield Finding("decision.status disagrees with the events", status, header.status)
    if header.creator is not None:
        creator = next((event.actor for event in decision.events if event.event_type is EventType.DECISION_CREATED), None)
        if header.creator != creator:
            yield Finding("decision.creator disagrees with the events")


def replay_findings(content: Content) -> Iterator[Finding]:
    """The events replay, and the header agrees with the decision that they make."""
    try:
        decision = content.decision
    except NexusError as error:
        yield Finding(f"the events cannot be replayed: {error}")
    else:
        yield from header_findings(content.bundle.decision, decision)


def form_findings(document: Mapping[str, Any]) -> Iterator[Finding]:
    """The bundle as it was given, one that can be read, holds nothing that reading drops: no digest would cover it, and yet it would be
    there for whoever reads the file without us.
    """
    yield from stray_findings("the bundle", document, _MEMBERS)
    for name, known in _SECTION_MEMBERS.items():
        if document.get(name) is not None:
            yield from stray_findings(name, document[name], known)
    snapshot: object = document.get("template_snapshot", {})
    if not isinstance(snapshot, dict) or not isinstance(present := cast("dict[str, object]", snapshot).get("present", False), bool):
        yield Finding("template_snapshot is none, and so it was read as absent")
    else:
        yield from stray_findings("template_snapshot", cast("dict[str, object]", snapshot), _SNAPSHOT_MEMBERS[present])
    for place, event in enumerate(document.get("events", ())):
        if not event.keys() <= _EVENT_MEMBERS:
            yield from stray_findings(f"event {place}", event, _EVENT_MEMBERS)


def stray_findings(where: str, given: Mapping[str, Any], known: Collection[str]) -> Iterator[Finding]:
    """Names the first member that the format does not have."""
    stray = next((name for name in given if name not in known), None)
    if stray is not None:
        yield Finding(f"{where} has a member {stray!r:.100}, which the format does not have and no digest covers")


def section_findings(bundle: DecisionBundle, document: Mapping[str, Any]) -> Iterator[Finding]:
    """The derived sections that `document`, the bundle as it was given, carries are those of its events. Absent ones are fine."""
    for name, derived in (("policy", bundle.policy), ("approvals", bundle.approvals)):
        if name in document and not _same_json(document[name], derived):
            yield Finding(f"section {name} disagrees with the events")


def _same_json(given: object, derived: object) -> bool:
    """Equality of JSON values; `==` would take true for 1."""
    try:
        return canonical_json(given) == canonical_json(derived)
    except (ValueError, TypeError):
        return False
