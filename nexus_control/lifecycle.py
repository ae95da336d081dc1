"""How far a decision has come: what blocks it, how many approvals it has, what happened when.

Pure views of a decision, for people and programs; each judges expiry at one instant. They inform: what may be appended is judged where
it is appended. Texts of users come through as they are; whoever prints them escapes them (`nexus_control.markdown`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal

from nexus_control.decision import Decision, DecisionState
from nexus_control.errors import InputError
from nexus_control.events import EventType, StoredEvent, expiry_instant
from nexus_control.policy import Policy

__all__ = [
    "DEFAULT_TIMELINE_LIMIT",
    "BlockingCode",
    "BlockingReason",
    "ExecutionOutcome",
    "Lifecycle",
    "LifecycleEntry",
    "LifecycleProgress",
    "TimelineCategory",
    "compute_blocking_reasons",
    "compute_lifecycle",
    "compute_progress",
    "compute_timeline",
]

DEFAULT_TIMELINE_LIMIT = 20
"""Entries of a timeline that `compute_lifecycle` keeps, counted from the end."""

BlockingCode = Literal[
    "NO_POLICY",
    "ALREADY_EXECUTED",
    "EXECUTION_FAILED",
    "EXECUTION_IN_PROGRESS",
    "MODE_NOT_ALLOWED",
    "MISSING_CAPABILITIES",
    "APPROVAL_EXPIRED",
    "MISSING_APPROVALS",
]
"""Why a decision cannot be executed, in the order in which the reasons are looked for."""

TimelineCategory = Literal["decision", "policy", "approval", "execution"]
"""What an entry of a timeline is about."""

ExecutionOutcome = Literal["pending", "success", "failed"]
"""What became of an execution; pending while it runs."""

_MESSAGE_LIMIT = 50


@dataclass(frozen=True)
class BlockingReason:
    """One reason why a decision cannot be executed; `details` is JSON data whose keys depend on the code."""

    code: BlockingCode
    message: str
    details: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The reason as JSON data."""
        return {"code": self.code, "message": self.message, "details": dict(self.details)}


@dataclass(frozen=True)
class LifecycleEntry:
    """One line of a timeline: an event, or the moment when the approvals first sufficed (`THRESHOLD_MET`, without actor).

    `ts` is the event's ISO time; `actor` is the actor's id, after `system:` for a system.
    """

    ts: str
    category: TimelineCategory
    label: str
    summary: str
    actor: str | None
    event_type: str
    seq: int

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON data."""
        return {
            "ts": self.ts,
            "category": self.category,
            "label": self.label,
            "summary": self.summary,
            "actor": self.actor,
            "event_type": self.event_type,
            "seq": self.seq,
        }


@dataclass(frozen=True)
class LifecycleProgress:
    """Approvals that count against approvals needed (1 without a policy), and what became of the execution."""

    approvals_current: int
    approvals_required: int
    ready_to_execute: bool
    has_executed: bool
    execution_outcome: ExecutionOutcome | None

    def to_dict(self) -> dict[str, Any]:
        """The progress as JSON data, with `approvals` as `current/required`."""
        return {
            "approvals_current": self.approvals_current,
            "approvals_required": self.approvals_required,
            "approvals": f"{self.approvals_current}/{self.approvals_required}",
            "ready_to_execute": self.ready_to_execute,
            "has_executed": self.has_executed,
            "execution_outcome": self.execution_outcome,
        }


@dataclass(frozen=True)
class Lifecycle:
    """The three views together. `timeline` holds the latest of `timeline_total` entries."""

    state: str
    blocking_reasons: list[BlockingReason]
    progress: LifecycleProgress
    timeline: list[LifecycleEntry]
    timeline_total: int
    timeline_truncated: bool

    @property
    def is_blocked(self) -> bool:
        """Whether anything prevents an execution."""
        return bool(self.blocking_reasons)

    def to_dict(self) -> dict[str, Any]:
        """The lifecycle as JSON data, with `is_blocked`."""
        return {
            "state": self.state,
            "is_blocked": self.is_blocked,
            "blocking_reasons": [reason.to_dict() for reason in self.blocking_reasons],
            "progress": self.progress.to_dict(),
            "timeline": [entry.to_dict() for entry in self.timeline],
            "timeline_total": self.timeline_total,
            "timeline_truncated": self.timeline_truncated,
        }


def compute_blocking_reasons(
    decision: Decision, *, adapter_capabilities: Collection[str] | None = None, at: datetime | None = None
) -> list[BlockingReason]:
    """Why the decision cannot be executed at the instant `at` (None: its own); empty when it can.

    Looked for in this order:

    1. NO_POLICY: there is nothing to judge it by.
    2. ALREADY_EXECUTED: it completed; `details` has `run_id`.
    3. EXECUTION_FAILED: its last execution failed; `error_code`, `error_message`.
    4. APPROVAL_EXPIRED: there were enough approvals, until some of them expired; `expired_count`, `current_valid`, `required`.
    5. MISSING_APPROVALS: there are not enough; `required`, `current`, `missing`, and `not_believed` (actor id to the code of the reason)
       when there are some of actors who are not established well enough.

    Each of the first three is the only reason then, and of the last two at most one is given. Between them, in this order and besides
    the others: EXECUTION_IN_PROGRESS while it runs; MODE_NOT_ALLOWED when the requested mode is not among the policy's
    (`mode`, `allowed_modes`); MISSING_CAPABILITIES when `adapter_capabilities` are given and lack some that the policy requires
    (`missing`, sorted).
    """
    policy = decision.policy
    if policy is None:
        return [BlockingReason("NO_POLICY", "Decision has no policy attached", {})]
    if decision.state is DecisionState.COMPLETED:
        return [BlockingReason("ALREADY_EXECUTED", "Decision has already been executed", {"run_id": decision.latest_run_id})]
    if decision.state is DecisionState.FAILED:
        return [_failure(decision)]
    reasons: list[BlockingReason] = []
    if decision.state is DecisionState.EXECUTING:
        reasons.append(BlockingReason("EXECUTION_IN_PROGRESS", "An execution is in progress", {}))
    reasons += _violations(policy, decision.requested_mode, adapter_capabilities)
    return reasons + _lacking_approvals(decision, policy.min_approvals, decision.judged_at() if at is None else at)


def _failure(decision: Decision) -> BlockingReason:
    record = decision.latest_execution
    code, message = (None, None) if record is None else (record.error_code, record.error_message)
    text = f"Execution failed: {message}" if message else "Execution failed"
    return BlockingReason("EXECUTION_FAILED", text, {"error_code": code, "error_message": message})


def _violations(policy: Policy, mode: str | None, capabilities: Collection[str] | None) -> list[BlockingReason]:
    reasons: list[BlockingReason] = []
    if mode is not None and not policy.allows_mode(mode):
        details = {"mode": mode, "allowed_modes": list(policy.allowed_modes)}
        reasons.append(BlockingReason("MODE_NOT_ALLOWED", f"The policy does not allow mode {mode}", details))
    if capabilities is not None and (missing := sorted(set(policy.require_adapter_capabilities).difference(capabilities))):
        text = f"The adapter lacks required capabilities: {', '.join(missing)}"
        reasons.append(BlockingReason("MISSING_CAPABILITIES", text, {"missing": missing}))
    return reasons


def _lacking_approvals(decision: Decision, required: int, at: datetime) -> list[BlockingReason]:
    current = len(decision.current_approvals(at))
    if current >= required:
        return []
    expired = sum(not approval.revoked and not approval.stands(at) for approval in decision.approvals.values())
    missing = required - current
    if expired and current + expired >= required:
        text = f"{expired} {_approvals(expired)} expired; {current} of {required} still valid"
        return [BlockingReason("APPROVAL_EXPIRED", text, {"expired_count": expired, "current_valid": current, "required": required})]
    details: dict[str, Any] = {"required": required, "current": current, "missing": missing}
    if refused := {approval.actor["id"]: why.code for approval in decision.approvals.values() if (why := decision.refusal(approval))}:
        details["not_believed"] = refused
    return [BlockingReason("MISSING_APPROVALS", f"Missing {missing} {_approvals(missing)}", details)]


def _approvals(count: int) -> str:
    return "approval" if count == 1 else "approvals"


_OUTCOMES: Mapping[DecisionState, ExecutionOutcome] = {
    DecisionState.EXECUTING: "pending",
    DecisionState.COMPLETED: "success",
    DecisionState.FAILED: "failed",
}


def compute_progress(decision: Decision, *, at: datetime | None = None) -> LifecycleProgress:
    """How far the decision is at the instant `at` (None: its own)."""
    policy, state = decision.policy, decision.state
    current = len(decision.current_approvals(decision.judged_at() if at is None else at))
    outcome = _OUTCOMES.get(state)
    return LifecycleProgress(
        approvals_current=current,
        approvals_required=1 if policy is None else policy.min_approvals,
        ready_to_execute=policy is not None and current >= policy.min_approvals and outcome is None,
        has_executed=outcome is not None,
        execution_outcome=outcome,
    )


def compute_timeline(decision: Decision) -> list[LifecycleEntry]:
    """One entry per event in ascending `seq`, at a cost linear in their number; events of template logs have none.

    After the grant with which as many actors as the policy needs had approved for the first time, one further entry says so. An
    approval counts there from its grant to its revocation; one that was given with an expiry in the past never does, and an actor's
    last one not when it is not believed.
    """
    needed = None if decision.policy is None else decision.policy.min_approvals
    disbelieved = {approval.seq for approval in decision.approvals.values() if decision.refusal(approval) is not None}
    entries: list[LifecycleEntry] = []
    approvers: set[str] = set()
    for event in decision.events:
        if (line := _LINES.get(event.event_type)) is None:
            continue
        category, label, summary = line
        ts = event.ts.isoformat()
        entries.append(LifecycleEntry(ts, category, label, summary(event), _shown_actor(event), event.event_type.value, event.seq))
        if category == "approval" and event.seq not in disbelieved:
            _count_approver(approvers, event)
            if len(approvers) == needed:
                text = f"Approval threshold met ({needed}/{needed})"
                entries.append(LifecycleEntry(ts, "decision", "approved", text, None, "THRESHOLD_MET", event.seq))
                needed = None
    entries.sort(key=attrgetter("seq"))
    return entries


def _count_approver(approvers: set[str], event: StoredEvent) -> None:
    actor = event.actor["id"]
    approvers.discard(actor)
    if event.event_type is EventType.APPROVAL_GRANTED:
        expires_at = expiry_instant(event.payload)
        if expires_at is None or expires_at > event.ts:
            approvers.add(actor)


def _shown_actor(event: StoredEvent) -> str:
    return f"system:{event.actor['id']}" if event.actor["type"] == "system" else event.actor["id"]


def _policy_summary(event: StoredEvent) -> str:
    name = event.payload.get("template_name")
    return f'Policy attached from template "{name}"' if name else "Policy attached"


def _approval_summary(event: StoredEvent) -> str:
    comment = event.payload.get("comment")
    return f"Approved by {_shown_actor(event)}" + (f': "{comment}"' if comment else "")


def _revocation_summary(event: StoredEvent) -> str:
    reason = event.payload.get("reason")
    return f"Approval of {_shown_actor(event)} revoked" + (f': "{reason}"' if reason else "")


def _request_summary(event: StoredEvent) -> str:
    mode = "dry-run" if event.payload.get("dry_run") else "apply"
    return f"Execution requested: {mode} with {event.payload.get('adapter_id')}"


def _completion_summary(event: StoredEvent) -> str:
    steps = event.payload.get("steps_executed")
    return f"Execution completed ({steps} steps)" if steps else "Execution completed"


def _failure_summary(event: StoredEvent) -> str:
    message = event.payload.get("error_message")
    if not message:
        return "Execution failed"
    return f"Execution failed: {message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 3] + '...'}"


_LINES: Mapping[EventType, tuple[TimelineCategory, str, Callable[[StoredEvent], str]]] = {
    EventType.DECISION_CREATED: ("decision", "created", lambda _: "Decision created"),
    EventType.POLICY_ATTACHED: ("policy", "policy", _policy_summary),
    EventType.APPROVAL_GRANTED: ("approval", "approved", _approval_summary),
    EventType.APPROVAL_REVOKED: ("approval", "revoked", _revocation_summary),
    EventType.EXECUTION_REQUESTED: ("execution", "requested", _request_summary),
    EventType.EXECUTION_STARTED: ("execution", "started", lambda _: "Execution started"),
    EventType.EXECUTION_COMPLETED: ("execution", "completed", _completion_summary),
    EventType.EXECUTION_FAILED: ("execution", "failed", _failure_summary),
}


def compute_lifecycle(
    decision: Decision,
    events: Sequence[StoredEvent] | int | None = None,
    policy: Policy | None = None,
    timeline_limit: int | None = DEFAULT_TIMELINE_LIMIT,
    *,
    adapter_capabilities: Collection[str] | None = None,
    at: datetime | None = None,
) -> Lifecycle:
    """All views of a decision at the instant `at` (None: its own), with the last `timeline_limit` entries (None: all of them).

    With `events` the decision is replayed from them, under its own id; `policy` stands in when no policy was attached. An int in the
    place of `events` is the limit. Raises InputError for a limit that is no integer or negative, MalformedEvent for unreadable events.
    """
    if isinstance(events, int):
        events, timeline_limit = None, events
    limit = _checked_limit(timeline_limit)
    at = decision.judged_at() if at is None else at
    if events is not None:
        decision = Decision.replay(decision.decision_id, events, as_of=at, trust=decision.trust)
    if decision.policy is None and policy is not None:
        decision = _under(policy, decision, at)
    timeline = compute_timeline(decision)
    total = len(timeline)
    kept = timeline if limit is None or total <= limit else timeline[total - limit :]
    return Lifecycle(
        state=decision.state.value,
        blocking_reasons=compute_blocking_reasons(decision, adapter_capabilities=adapter_capabilities, at=at),
        progress=compute_progress(decision, at=at),
        timeline=kept,
        timeline_total=total,
        timeline_truncated=len(kept) < total,
    )


def _checked_limit(limit: object) -> int | None:
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise InputError("timeline_limit must be a non-negative integer or None")
    return limit


def _under(policy: Policy, decision: Decision, at: datetime) -> Decision:
    """The decision as if it had this policy from the beginning."""
    judged = replace(decision, policy=policy, as_of=at)
    if judged.state is DecisionState.DRAFT:
        judged.state = DecisionState.APPROVED if judged.is_approved else DecisionState.PENDING_APPROVAL
    return judged
