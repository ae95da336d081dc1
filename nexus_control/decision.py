"""A decision as its events make it: replay of a history into state.

Pure: the same events, judged at the same instant under the same trust, give the same decision; the clock is asked only when no instant
is given. Replay does not ask whether an event should have been stored, so any order of events is a history; what may be appended next
is judged elsewhere. A payload that cannot be understood ends the replay with MalformedEvent, it is never guessed:

    DECISION_CREATED      goal, plan, requested_mode: text or absent; labels: list of texts or absent
    POLICY_ATTACHED       what `Policy.from_dict` understands; template_name, template_digest: text or absent;
                          template_snapshot, overrides_applied: object or absent
    APPROVAL_GRANTED      expires_at: ISO 8601 time or absent; comment: text or absent
    APPROVAL_REVOKED      reason: text or absent
    EXECUTION_REQUESTED   adapter_id: text or absent (then ""); dry_run: boolean or absent (then false)
    EXECUTION_STARTED     router_request_digest: text or absent
    EXECUTION_COMPLETED   run_id, response_digest: text or absent; steps_executed: integer or absent
    EXECUTION_FAILED      error_code, error_message, run_id, response_digest: text or absent

Null counts as absent; an absent value is None, `[]` or `{}`, an absent error_code "UNKNOWN". Unknown keys are ignored. What creation,
approvals, revocations and EXECUTION_REQUESTED say about how their actor was established is read by `identity.identity_of`.

Without a `trust` a decision is history: an envelope must belong to its event, and an approval whose envelope is for another decision or
action, or was used before, does not count, but nobody has verified a signature. With one, only approvals that it believes count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, Self, cast

from nexus_control.errors import (
    IdentityRefused,
    ImportedApproval,
    InputError,
    InvalidPolicy,
    MalformedEvent,
    SignatureForOtherAction,
    SignatureForOtherDecision,
    SignatureReplayed,
)
from nexus_control.events import Actor, EventType, StoredEvent, expiry_instant, utc_now
from nexus_control.identity import ASSERTED, NO_TRUST, Act, Action, Envelope, Identity, Trust, identity_of
from nexus_control.integrity import content_digest, prefixed
from nexus_control.policy import Policy

__all__ = ["Approval", "Decision", "DecisionState", "EventSource", "ExecutionRecord", "Past", "TemplateRef", "without_later_approvals"]


class DecisionState(StrEnum):
    """Where a decision stands; the transitions are those of `Decision.apply_event`."""

    DRAFT = "draft"
    PENDING_APPROVAL = "pending_approval"
    APPROVED = "approved"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass
class Approval:
    """The latest approval of one actor. It counts while it is neither revoked nor expired, if it is believed (`Decision.refusal`).

    `seq` is that of the grant, so that it can be told from a change of the action before or after it; -1 when there was no event.
    `identity` says how the actor was established; `mismatch` why the signature there is none for this: see `Decision.require_new`.
    """

    actor: Actor
    granted_at: datetime
    expires_at: datetime | None = None
    comment: str | None = None
    revoked: bool = False
    revoked_at: datetime | None = None
    revoke_reason: str | None = None
    seq: int = field(default=-1, compare=False, repr=False)
    identity: Identity = field(default=ASSERTED, repr=False)
    mismatch: IdentityRefused | None = field(default=None, compare=False, repr=False)

    def stands(self, at: datetime) -> bool:
        """Whether it is neither revoked nor expired at the instant `at`, whatever it is worth; at `expires_at` itself it is expired."""
        return not self.revoked and (self.expires_at is None or self.expires_at > at)


@dataclass
class ExecutionRecord:
    """One execution: requested, perhaps started, perhaps ended; one that ended failed exactly when it has an `error_code`.

    Digests are raw.
    """

    adapter_id: str
    dry_run: bool
    requested_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    run_id: str | None = None
    request_digest: str | None = None
    response_digest: str | None = None
    steps_executed: int | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass
class TemplateRef:
    """The template that a policy came from, with its values as they were then; `digest` is raw."""

    name: str
    digest: str
    snapshot: dict[str, Any]
    overrides_applied: dict[str, Any]


# Factories of the classes below are lambdas, because calling `list[str]` takes five times as long, and every command makes a decision.


@dataclass
class Past:
    """What counts against approvals: `used` holds the payloads of signed statements that are used up, `revocations` says when each actor
    revoked last (by the signer's clock, where it was signed). The first `imported` events came in with an import.
    """

    imported: int = 0
    used: set[bytes] = field(default_factory=lambda: set())
    revocations: dict[str, datetime] = field(default_factory=lambda: {})

    def revoked(self, event: StoredEvent, identity: Identity) -> None:
        """Take note of a revocation."""
        at = event.ts if identity.envelope is None else identity.envelope.statement.signed_instant
        self.revocations[event.actor["id"]] = max(at, self.revocations.get(event.actor["id"], at))

    def judge(self, envelope: Envelope) -> None:
        """Raise SignatureReplayed for a statement that was used, and for an approval that its signer did not sign after revoking."""
        said = envelope.statement
        if envelope.payload in self.used:
            raise SignatureReplayed("this signed statement was used already")
        at = self.revocations.get(said.actor.id)
        if said.action == "approve" and at is not None and said.signed_instant <= at:
            raise SignatureReplayed(f"it was signed at {said.signed_at}, before {said.actor.id} revoked at {at.isoformat()}")


class EventSource(Protocol):
    """Whatever can tell the events of a decision; every store does."""

    def get_events(self, decision_id: str) -> Sequence[StoredEvent]:
        """The events of the decision in ascending `seq`. Raises DecisionNotFound for an unknown one."""
        ...


@dataclass
class Decision:
    """The projection of a decision's events.

    `approvals` has one entry per actor id, revoked ones included. `as_of` is the instant against which expiry is judged; None means
    the time of the question, so that an approval stops counting while the object lives. It must be timezone-aware (InputError).
    `trust` says which approvals are believed; `requester` is the actor of the last creation, `said` holds the signed statements and the
    revocations of the events themselves. `earlier`, where somebody who acts on the decision has set it, is what else counts.
    """

    decision_id: str
    state: DecisionState = DecisionState.DRAFT
    goal: str | None = None
    plan: str | None = None
    requested_mode: str | None = None
    labels: list[str] = field(default_factory=lambda: [])
    policy: Policy | None = None
    template_ref: TemplateRef | None = None
    approvals: dict[str, Approval] = field(default_factory=lambda: {})
    executions: list[ExecutionRecord] = field(default_factory=lambda: [])
    events: list[StoredEvent] = field(default_factory=lambda: [])
    as_of: datetime | None = field(default=None, compare=False, repr=False)
    trust: Trust | None = field(default=None, compare=False, repr=False)
    requester: Actor | None = field(default=None, compare=False, repr=False)
    said: Past = field(default_factory=Past, compare=False, repr=False)
    earlier: Past | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.as_of is not None and self.as_of.utcoffset() is None:
            raise InputError("as_of must be a timezone-aware time")

    @classmethod
    def load(cls, store: EventSource, decision_id: str, *, as_of: datetime | None = None, trust: Trust | None = None) -> Self:
        """Replay what the store holds. Raises DecisionNotFound for an unknown id, MalformedEvent for an unreadable history."""
        return cls.replay(decision_id, store.get_events(decision_id), as_of=as_of, trust=trust)

    @classmethod
    def replay(cls, decision_id: str, events: Iterable[StoredEvent], *, as_of: datetime | None = None, trust: Trust | None = None) -> Self:
        """The decision after these events, in the given order, with expiry judged at one instant: `as_of`, or now.

        Equal to applying them one by one at that instant, at a cost linear in their number. Raises MalformedEvent when an event
        cannot be understood.
        """
        decision = cls(decision_id, as_of=as_of, trust=trust)
        decision.events = history = list(events)
        _project(decision, history)
        # No event reads whether the approvals suffice, so one judgement at the end stands for those after each of them. It is due
        # unless the policy came last: attaching one leaves the decision pending, whatever was approved before.
        if decision.state is DecisionState.PENDING_APPROVAL:
            last = _last_of(history, _JUDGED_EVENTS)
            if last is not None and last.event_type in _APPROVAL_EVENTS:
                decision._judge_approval()
        return decision

    def apply_event(self, event: StoredEvent) -> None:
        """Append one event and update the projection.

        Creation makes a draft, a policy makes it pending; the start and the end of an execution give executing, completed and
        failed. A grant or a revocation moves it between pending and approved, and not out of any other state. An execution event
        without a request before it changes the state alone. Raises MalformedEvent, and then changes nothing.
        """
        _project(self, (event,))
        self.events.append(event)
        if event.event_type in _APPROVAL_EVENTS and self.state in (DecisionState.PENDING_APPROVAL, DecisionState.APPROVED):
            self._judge_approval()

    def _judge_approval(self) -> None:
        self.state = DecisionState.APPROVED if self.is_approved else DecisionState.PENDING_APPROVAL

    def judged_at(self) -> datetime:
        """The instant of judgement: `as_of`, or now."""
        return utc_now() if self.as_of is None else self.as_of

    def current_approvals(self, at: datetime) -> list[Approval]:
        """The approvals that count at the instant `at`, by time of each actor's first grant."""
        return [approval for approval in self.approvals.values() if approval.stands(at) and self.refusal(approval) is None]

    def refusal(self, approval: Approval) -> IdentityRefused | None:
        """Why an approval is not believed, by its signed statement or by `trust`; None when it is. Expiry and revocation are not asked."""
        if approval.mismatch is not None or self.trust is None:
            return approval.mismatch
        if self.earlier is not None and (forgotten := _counts_against(self.earlier, approval)) is not None:
            return forgotten
        if self.trust is NO_TRUST and approval.identity.envelope is None:
            return None  # what it would say, without the act, which takes longer to put together than all else here
        try:
            self.trust.judge(self.act("approve", approval.actor, approval.identity, approval.granted_at))
        except IdentityRefused as refusal:
            return refusal
        return None

    def act(self, action: Action, actor: Actor, identity: Identity, at: datetime) -> Act:
        """What `trust` judges when `actor` does this to the decision as it is."""
        return Act(
            action=action,
            actor=actor,
            identity=identity,
            at=at,
            labels=frozenset(self.labels if self.policy is None else (*self.labels, *self.policy.labels)),
            template=None if self.template_ref is None else self.template_ref.name,
            requester=self.requester,
            imported=self.earlier is not None and self.earlier.imported > 0,
        )

    def require_new(self, envelope: Envelope) -> None:
        """Raise unless the statement is about this decision as it is now (`require_own`), and new to it.

        SignatureReplayed for a statement that an earlier event carries, and for an approval that was not signed after its signer's last
        revocation: an envelope that was held back must not outlive it.
        """
        self.require_own(envelope)
        self.said.judge(envelope)
        if self.earlier is not None:
            self.earlier.judge(envelope)

    def require_own(self, envelope: Envelope) -> None:
        """Raise SignatureForOtherDecision or SignatureForOtherAction unless the statement is about this decision as it is now."""
        said = envelope.statement
        if said.decision_id != self.decision_id:
            raise SignatureForOtherDecision(f"the signature is for decision {said.decision_id}")
        if said.action_digest != prefixed(self.action_digest):
            raise SignatureForOtherAction(f"the signature is for the action {said.action_digest}, this is {prefixed(self.action_digest)}")

    @property
    def active_approval_count(self) -> int:
        """How many approvals count at the instant of judgement."""
        return len(self.current_approvals(self.judged_at()))

    @property
    def approved_action_count(self) -> int:
        """How many of them were granted for the action as it is, that is after `action_seq`."""
        since = self.action_seq
        return sum(approval.seq > since for approval in self.current_approvals(self.judged_at()))

    @property
    def is_approved(self) -> bool:
        """Whether the active approvals suffice; never without a policy."""
        return self._suffices(self.active_approval_count)

    def _suffices(self, approvals: int) -> bool:
        return self.policy is not None and approvals >= self.policy.min_approvals

    @property
    def latest_execution(self) -> ExecutionRecord | None:
        """The execution that was requested last."""
        return self.executions[-1] if self.executions else None

    @property
    def latest_run_id(self) -> str | None:
        """The router's id of the latest execution, None when there is none (yet)."""
        return self.executions[-1].run_id if self.executions else None

    @property
    def action_seq(self) -> int:
        """`seq` of the last event that defined the action (creation or policy); -1 without one."""
        event = _last_of(self.events, _ACTION_EVENTS)
        return -1 if event is None else event.seq

    @property
    def action_digest(self) -> str:
        """Raw digest of what approvers see and sign; its composition is frozen.

        Raises MalformedEvent when goal, plan, labels or policy hold text that UTF-8 cannot express.
        """
        template = self.template_ref
        action = {
            "goal": self.goal,
            "plan": self.plan,
            "requested_mode": self.requested_mode,
            "labels": self.labels,
            "policy": None if self.policy is None else self.policy.to_dict(),
            "template": None if template is None else {"name": template.name, "digest": template.digest},
        }
        try:
            return content_digest(action)
        except ValueError as problem:
            raise MalformedEvent(f"the action of {self.decision_id} has no digest: {problem}") from problem

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON data, for display and export; `template` only when one was used.

        `total_approvals` counts the actors that ever approved, `active_approvals` those that count at the instant of judgement.
        """
        active = self.active_approval_count
        data: dict[str, Any] = {
            "decision_id": self.decision_id,
            "state": self.state.value,
            "goal": self.goal,
            "plan": self.plan,
            "requested_mode": self.requested_mode,
            "labels": list(self.labels),
            "policy": None if self.policy is None else self.policy.to_dict(),
            "active_approvals": active,
            "total_approvals": len(self.approvals),
            "is_approved": self._suffices(active),
            "executions": [_execution_dict(record) for record in self.executions],
            "event_count": len(self.events),
        }
        if (template := self.template_ref) is not None:
            data["template"] = {
                "name": template.name,
                "digest": template.digest,
                "overrides_applied": _copied(template.overrides_applied),
            }
        return data


def without_later_approvals(events: Iterable[StoredEvent], at: datetime) -> list[StoredEvent]:
    """The events without approvals that are dated later than `at`, which is when something is, or was, to be run on them.

    Whoever wrote such an approval down before that did not tell the time, so it counts neither for the run nor for a later reader.
    """
    return [event for event in events if event.event_type is not EventType.APPROVAL_GRANTED or event.ts <= at]


def _counts_against(past: Past, approval: Approval) -> IdentityRefused | None:
    """Why an approval that its events make a good one does not count after all."""
    if approval.identity.envelope is None:
        return ImportedApproval("it was imported, and nobody signed it") if approval.seq < past.imported else None
    try:
        past.judge(approval.identity.envelope)
    except SignatureReplayed as refusal:
        return refusal
    return None


def _execution_dict(record: ExecutionRecord) -> dict[str, Any]:
    return {
        "adapter_id": record.adapter_id,
        "dry_run": record.dry_run,
        "requested_at": record.requested_at.isoformat(),
        "started_at": None if record.started_at is None else record.started_at.isoformat(),
        "completed_at": None if record.completed_at is None else record.completed_at.isoformat(),
        "run_id": record.run_id,
        "steps_executed": record.steps_executed,
        "error_code": record.error_code,
        "error_message": record.error_message,
    }


def _copied(overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy to give away: one level deep, since an override is a number, null or a list of texts."""
    return {name: list(cast("list[Any]", value)) if isinstance(value, list) else value for name, value in overrides.items()}


def _last_of(events: Sequence[StoredEvent], kinds: frozenset[EventType]) -> StoredEvent | None:
    return next((event for event in reversed(events) if event.event_type in kinds), None)


def _project(decision: Decision, events: Iterable[StoredEvent]) -> None:
    """Apply the events, except for the judgement whether the approvals suffice."""
    for event in events:
        try:
            _EFFECTS[event.event_type](decision, event)
        except (MalformedEvent, InvalidPolicy) as problem:
            raise MalformedEvent(f"event {event.seq} ({event.event_type}): {problem}") from problem


# One function per kind of event. Each reads all it needs before it changes anything.


def _decision_created(decision: Decision, event: StoredEvent) -> None:
    payload = event.payload
    goal, plan, mode = _text(payload, "goal"), _text(payload, "plan"), _text(payload, "requested_mode")
    labels, identity = _texts(payload, "labels"), identity_of(event)
    decision.goal, decision.plan, decision.requested_mode, decision.labels = goal, plan, mode, labels
    decision.state, decision.requester = DecisionState.DRAFT, event.actor
    _remember(decision, identity)


def _policy_attached(decision: Decision, event: StoredEvent) -> None:
    payload = event.payload
    policy, template = Policy.from_dict(payload), None
    if name := _text(payload, "template_name"):
        template = TemplateRef(
            name, _text(payload, "template_digest") or "", _object(payload, "template_snapshot"), _object(payload, "overrides_applied")
        )
    # A policy without template is from no template, whatever the one before it came from.
    decision.policy, decision.template_ref = policy, template
    decision.state = DecisionState.PENDING_APPROVAL


def _approval_granted(decision: Decision, event: StoredEvent) -> None:
    payload = event.payload
    expires_at, comment, identity = expiry_instant(payload), _text(payload, "comment"), identity_of(event)
    mismatch: IdentityRefused | None = None
    if identity.envelope is not None:
        try:
            decision.require_new(identity.envelope)
        except IdentityRefused as refusal:
            mismatch = refusal
    decision.approvals[event.actor["id"]] = Approval(
        event.actor, event.ts, expires_at, comment, seq=event.seq, identity=identity, mismatch=mismatch
    )
    _remember(decision, identity)


def _approval_revoked(decision: Decision, event: StoredEvent) -> None:
    reason, identity, name = _text(event.payload, "reason"), identity_of(event), event.actor["id"]
    # Taken back is taken back, whoever it was: a doubtful revocation may only make an execution impossible.
    approval = decision.approvals.get(name)
    if approval is not None:
        approval.revoked, approval.revoked_at, approval.revoke_reason = True, event.ts, reason
    decision.said.revoked(event, identity)
    _remember(decision, identity)


def _execution_requested(decision: Decision, event: StoredEvent) -> None:
    adapter_id, dry_run = _text(event.payload, "adapter_id"), event.payload.get("dry_run")
    if dry_run is not None and not isinstance(dry_run, bool):
        raise MalformedEvent("dry_run must be a boolean")
    identity = identity_of(event)
    # A request that does not say that it is a rehearsal is the real thing.
    decision.executions.append(ExecutionRecord(adapter_id or "", bool(dry_run), event.ts))
    _remember(decision, identity)


def _execution_started(decision: Decision, event: StoredEvent) -> None:
    digest = _text(event.payload, "router_request_digest")
    if record := decision.latest_execution:
        record.started_at, record.request_digest = event.ts, digest
    decision.state = DecisionState.EXECUTING


def _execution_completed(decision: Decision, event: StoredEvent) -> None:
    payload = event.payload
    run_id, digest, steps = _text(payload, "run_id"), _text(payload, "response_digest"), payload.get("steps_executed")
    if steps is not None and type(steps) is not int:
        raise MalformedEvent("steps_executed must be an integer")
    if record := decision.latest_execution:
        record.completed_at, record.run_id, record.response_digest, record.steps_executed = event.ts, run_id, digest, steps
        # A run that had been given up and reports after all is no failed one any more.
        record.error_code = record.error_message = None
    decision.state = DecisionState.COMPLETED


def _execution_failed(decision: Decision, event: StoredEvent) -> None:
    payload = event.payload
    code, message = _text(payload, "error_code") or "UNKNOWN", _text(payload, "error_message")
    run_id, digest = _text(payload, "run_id"), _text(payload, "response_digest")
    if record := decision.latest_execution:
        record.completed_at, record.error_code, record.error_message = event.ts, code, message
        record.run_id, record.response_digest = run_id, digest
    decision.state = DecisionState.FAILED


def _remember(decision: Decision, identity: Identity) -> None:
    if identity.envelope is not None:
        decision.said.used.add(identity.envelope.payload)


def _nothing(decision: Decision, event: StoredEvent) -> None:
    """Events of template logs do not concern a decision."""


_EFFECTS: Mapping[EventType, Callable[[Decision, StoredEvent], None]] = {
    EventType.DECISION_CREATED: _decision_created,
    EventType.POLICY_ATTACHED: _policy_attached,
    EventType.APPROVAL_GRANTED: _approval_granted,
    EventType.APPROVAL_REVOKED: _approval_revoked,
    EventType.EXECUTION_REQUESTED: _execution_requested,
    EventType.EXECUTION_STARTED: _execution_started,
    EventType.EXECUTION_COMPLETED: _execution_completed,
    EventType.EXECUTION_FAILED: _execution_failed,
    EventType.TEMPLATE_CREATED: _nothing,
}
_ACTION_EVENTS = frozenset({EventType.DECISION_CREATED, EventType.POLICY_ATTACHED})
_APPROVAL_EVENTS = frozenset({EventType.APPROVAL_GRANTED, EventType.APPROVAL_REVOKED})
_JUDGED_EVENTS = _APPROVAL_EVENTS | {EventType.POLICY_ATTACHED}


def _text(payload: Mapping[str, Any], key: str) -> str | None:
    value = payload.get(key)
    if value is None or isinstance(value, str):
        return value
    raise MalformedEvent(f"{key} must be a string")


def _texts(payload: Mapping[str, Any], key: str) -> list[str]:
    value: object = payload.get(key)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in cast("Sequence[object]", value)):
        raise MalformedEvent(f"{key} must be a list of strings")
    return list(cast("Sequence[str]", value))


def _object(payload: Mapping[str, Any], key: str) -> dict[str, Any]:
    value: object = payload.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedEvent(f"{key} must be an object")
    return cast("dict[str, Any]", value)
