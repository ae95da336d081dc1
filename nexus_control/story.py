"""What a file says happened: what was asked, who allowed it, what ran. Worth as much as the layers that were judged say."""

from dataclasses import dataclass
from typing import Any

from nexus_control.decision import Decision
from nexus_control.events import EventType, StoredEvent
from nexus_control.history import History

__all__ = ["Allowance", "RunTold", "Story", "story_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """An approval that stood when the run was requested; times are ISO 8601 in UTC."""

    actor: dict[str, str]
    at: str
    expires_at: str | None
    assurance: str
    comment: str | None

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return {
            "actor": self.actor,
            "at": self.at,
            "expires_at": self.expires_at,
            "assurance": self.assurance,
            "comment": self.comment,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTold:
    """The last run; `outcome` is `completed`, `failed` or `unknown`."""

    actor: dict[str, str]
    at: str
    adapter_id: str
    mode: str
    outcome: str
    run_id: str | None
    steps_executed: int | None
    error_code: str | None

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return {
            "actor": self.actor,
            "at": self.at,
            "adapter_id": self.adapter_id,
            "mode": self.mode,
            "outcome": self.outcome,
            "run_id": self.run_id,
            "steps_executed": self.steps_executed,
            "error_code": self.error_code,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A decision as a reader wants it told. `needed` is the number of approvals that its policy demands, None without a policy."""

    decision_id: str
    state: str
    goal: str | None
    plan: str | None
    mode: str | None
    labels: list[str]
    requested_by: dict[str, str] | None
    requested_at: str | None
    needed: int | None
    allowed_by: list[Allowance]
    run: RunTold | None
    runs: int
    binding_digest: str | None

    def to_dict(self) -> dict[str, Any]:
        """The story as JSON data."""
        return {
            "decision_id": self.decision_id,
            "state": self.state,
            "goal": self.goal,
            "plan": self.plan,
            "mode": self.mode,
            "labels": self.labels,
            "requested_by": self.requested_by,
            "requested_at": self.requested_at,
            "needed": self.needed,
            "allowed_by": [approval.to_dict() for approval in self.allowed_by],
            "run": None if self.run is None else self.run.to_dict(),
            "runs": self.runs,
            "binding_digest": self.binding_digest,
        }


def story_of(history: History, binding_digest: str | None) -> Story:
    """The story of a history, approvals as they stood when the last run was requested."""
    then = history.before_last_run()
    asked = _asked(history)
    return Story(
        decision_id=then.decision_id,
        state=history.decision.state.value,
        goal=then.goal,
        plan=then.plan,
        mode=then.requested_mode,
        labels=list(then.labels),
        requested_by=None if asked is None else dict(asked.actor),
        requested_at=None if asked is None else asked.ts.isoformat(),
        needed=None if then.policy is None else then.policy.min_approvals,
        allowed_by=_allowances(then),
        run=_last_run(history),
        runs=len(history.runs),
        binding_digest=binding_digest,
    )


def _asked(history: History) -> StoredEvent | None:
    return next((event for event in history.events if event.event_type is EventType.DECISION_CREATED), None)


def _allowances(decision: Decision) -> list[Allowance]:
    return [
        Allowance(
            actor=dict(approval.actor),
            at=approval.granted_at.isoformat(),
            expires_at=None if approval.expires_at is None else approval.expires_at.isoformat(),
            assurance=approval.identity.assurance,
            comment=approval.comment,
        )
        for approval in decision.current_approvals(decision.judged_at())
    ]


def _last_run(history: History) -> RunTold | None:
    if not history.runs or (record := history.decision.latest_execution) is None:
        return None
    run = history.runs[-1]
    outcome = "unknown"
    if run.ended is not None and record.error_code != "EXECUTION_ABANDONED":
        outcome = "completed" if record.error_code is None else "failed"
    return RunTold(
        actor=dict(run.requested.actor),
        at=run.requested.ts.isoformat(),
        adapter_id=record.adapter_id,
        mode=run.mode,
        outcome=outcome,
        run_id=record.run_id,
        steps_executed=record.steps_executed,
        error_code=record.error_code,
    )
