"""What became of a task, read from the events of its decision: pure, so that every server says the same, before and after a restart.

A result is what the call itself would have answered, word for word. Where the store does not know what happened, that is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nexus_attest.server.results import compact, failure, success
from nexus_control.decision import Decision
from nexus_control.errors import ActionChanged, CannotApprove, NexusError, RunFailure
from nexus_control.events import EventType, StoredEvent
from nexus_control.identity import Trust

__all__ = ["Outcome", "approval_outcome", "execution_outcome", "unknown_outcome"]

_ACTION_EVENTS = (EventType.DECISION_CREATED, EventType.POLICY_ATTACHED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of the call, and since when it is one."""

    at: datetime
    result: Mapping[str, Any]


def approval_outcome(decision_id: str, events: Sequence[StoredEvent], seen: int, actor_id: str, trust: Trust) -> Outcome | None:
    """What came of waiting for an actor's approval since there were `seen` events; None while it is waited for.

    It ends with that actor's approval, with approvals of others that suffice, or with what makes it impossible: the action was changed, or
    executed. Raises MalformedEvent for a history that cannot be understood.
    """
    before = events[:seen]
    decision = Decision.replay(decision_id, before, as_of=before[-1].ts, trust=trust)
    for event in events[seen:]:
        decision.as_of = event.ts
        was_approved = decision.is_approved
        decision.apply_event(event)
        if event.event_type in _ACTION_EVENTS:
            return Outcome(event.ts, _refused(ActionChanged("the action was changed while its approval was waited for")))
        if event.event_type is EventType.APPROVAL_GRANTED and (
            event.actor["id"] == actor_id or (decision.is_approved and not was_approved)
        ):
            return Outcome(event.ts, _approved(decision))
        if event.event_type is EventType.EXECUTION_REQUESTED:
            return Outcome(event.ts, _refused(CannotApprove("it was executed while this approval was waited for")))
    return None


def execution_outcome(decision_id: str, events: Sequence[StoredEvent], execution_id: str) -> Outcome | None:
    """How the execution ended, None when no event says so. One that was given up and ended after all is one that ended.

    Raises MalformedEvent for a history that cannot be understood.
    """
    place = next((number for number, event in enumerate(events) if event.event_id == execution_id), None)
    if place is None:
        return None
    later = range(place + 1, len(events))
    end = next((number for number in later if events[number].event_type is EventType.EXECUTION_REQUESTED), len(events))
    record = Decision.replay(decision_id, events[:end]).latest_execution
    if record is None or record.completed_at is None:
        return None
    if record.error_code is not None:
        return Outcome(record.completed_at, _refused(RunFailure(record.error_code, record.error_message or "")))
    data = {
        "request_id": decision_id,
        "run_id": record.run_id,
        "mode": "dry_run" if record.dry_run else "apply",
        "steps_executed": record.steps_executed,
        "request_digest": record.request_digest,
        "response_digest": record.response_digest,
    }
    return Outcome(record.completed_at, success(data, compact(data)))


def unknown_outcome(at: datetime) -> Outcome:
    """That of an execution whose process is gone, and of which the store holds no end."""
    text = "the process that ran it ended without recording an outcome; whether it took effect is unknown"
    return Outcome(at, _refused(RunFailure("EXECUTION_ABANDONED", text)))


def _approved(decision: Decision) -> dict[str, Any]:
    data = {
        "request_id": decision.decision_id,
        "state": decision.state.value,
        "current_approvals": decision.active_approval_count,
        "is_approved": decision.is_approved,
        "required_approvals": 0 if decision.policy is None else decision.policy.min_approvals,
    }
    return success(data, compact(data))


def _refused(error: NexusError) -> dict[str, Any]:
    return failure(error.code, error.describe())
