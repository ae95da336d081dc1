"""May this command be appended next? The strict side of a decision: replay tells what happened, this tells what is allowed.

Pure: takes the decision as it stands and the instant of the judgement, raises a `CommandRefused` or returns. The caller appends in the
transaction in which it read the decision, so that nobody can act between the judgement and the event.
"""

from datetime import datetime

from nexus_control.decision import Decision, DecisionState
from nexus_control.errors import (
    ActionChanged,
    AlreadyApproved,
    AlreadyExecuted,
    AlreadyRevoked,
    CannotApprove,
    CannotRevoke,
    ExecutionFailed,
    ExecutionInProgress,
    LookAlikeActor,
    NoPolicy,
    NotApproved,
    NothingToRecover,
    PolicyViolation,
)
from nexus_control.events import Actor, EventType, ExecutionMode
from nexus_control.identity import NO_TRUST, Action, Identity, Trust
from nexus_control.likeness import alike, likeness
from nexus_control.policy import Policy, validate_execution_request

__all__ = [
    "EXECUTOR",
    "execution_mode",
    "judge_approval",
    "judge_execution",
    "judge_identity",
    "judge_recovery",
    "judge_revocation",
    "look_alikes",
    "require_policy",
]

EXECUTOR = Actor(type="system", id="nexus-control")
"""Who starts executions and records how they ended."""

_OPEN = (DecisionState.PENDING_APPROVAL, DecisionState.APPROVED)


def judge_approval(decision: Decision, actor_id: str, at: datetime) -> None:
    """Approvals are taken before an execution, one per actor at a time; a revoked or expired one may be given again.

    One that counts beside another, or beside a requester, whose id only looks the same would make two of what people read as one.
    """
    if decision.state not in _OPEN:
        raise CannotApprove(f"Cannot approve in state {decision.state.value}")
    approval = decision.approvals.get(actor_id)
    if approval is not None and approval.stands(at) and decision.refusal(approval) is None:
        raise AlreadyApproved(f"{actor_id} has already approved this decision")
    looks = likeness(actor_id)
    if twins := [name for name in _involved(decision, at) if name != actor_id and likeness(name) == looks]:
        raise LookAlikeActor(f"{actor_id!a:.200} looks like {twins[0]!a:.200}, who requested or approved this, and is another id")


def look_alikes(decision: Decision) -> list[list[str]]:
    """Groups of different ids that look the same, of the requester and of those whose approvals count."""
    return alike(_involved(decision, decision.judged_at()))


def _involved(decision: Decision, at: datetime) -> list[str]:
    approvers = [approval.actor["id"] for approval in decision.current_approvals(at)]
    return approvers if decision.requester is None else [decision.requester["id"], *approvers]


def judge_revocation(decision: Decision, actor_id: str) -> None:
    """An approval can be taken back until it has been used."""
    if decision.state in (DecisionState.EXECUTING, DecisionState.COMPLETED):
        raise CannotRevoke(f"Cannot revoke in state {decision.state.value}")
    approval = decision.approvals.get(actor_id)
    if approval is None:
        raise NotApproved(f"{actor_id} has not approved this decision")
    if approval.revoked:
        raise AlreadyRevoked(f"The approval of {actor_id} is already revoked")


def judge_identity(decision: Decision, action: Action, actor: Actor, identity: Identity, at: datetime, trust: Trust) -> None:
    """Is it established that `actor` says this about the decision as it stands?

    A signed statement must be as `Decision.require_new` wants it. Everything else is the trust's judgement.
    """
    if identity.envelope is not None:
        decision.require_new(identity.envelope)
    elif trust is NO_TRUST:
        return  # what it would say, without the act
    trust.judge(decision.act(action, actor, identity, at))


def judge_recovery(decision: Decision) -> None:
    """Only an execution that is under way, or whose process died, can be declared abandoned."""
    if decision.state is not DecisionState.EXECUTING:
        raise NothingToRecover(f"Nothing to recover: no execution is in progress (state {decision.state.value})")


def execution_mode(decision: Decision, dry_run: bool | None) -> ExecutionMode:
    """The mode of a run: the caller's choice, else what was requested, else a dry run."""
    if dry_run is not None:
        return "dry_run" if dry_run else "apply"
    return "apply" if decision.requested_mode == "apply" else "dry_run"


def require_policy(decision: Decision) -> Policy:
    """The policy. Raises NoPolicy when there is none."""
    if decision.policy is None:
        raise NoPolicy
    return decision.policy


def judge_execution(decision: Decision, mode: ExecutionMode, capabilities: set[str] | None, *, retry: bool) -> Policy:
    """One authorization, one run. Gives the policy that allows it.

    Refused: without a policy; after the run that was approved (a rehearsal as dry run before an approved apply does not use it up);
    while another run is under way; after a failed one without `retry`; when the policy is not satisfied; when the action was changed
    after it was approved. `capabilities` are the adapter's, None when unknown.
    """
    policy = require_policy(decision)
    _judge_earlier_runs(decision, retry=retry)
    outcome = validate_execution_request(policy, mode, decision.active_approval_count, capabilities)
    if not outcome:
        raise PolicyViolation(f"Policy validation failed: {'; '.join([*outcome.errors, *_disbelieved(decision)])}")
    if decision.approved_action_count < policy.min_approvals:
        raise ActionChanged("The action was changed after it had been approved; it needs new approvals")
    return policy


def _disbelieved(decision: Decision) -> list[str]:
    """Why approvals that stand are not counted, so that nobody has to guess."""
    at = decision.judged_at()
    found = [(approval, decision.refusal(approval)) for approval in decision.approvals.values() if approval.stands(at)]
    return [f"the approval of {approval.actor['id']} does not count: {why.describe()}" for approval, why in found if why is not None]


def _judge_earlier_runs(decision: Decision, *, retry: bool) -> None:
    if decision.state is DecisionState.EXECUTING:
        raise ExecutionInProgress(
            "An execution is in progress; wait for it, or use recover_execution when its process is known to have died"
        )
    completed = _completed_runs(decision)
    if False in completed:
        raise AlreadyExecuted(f"The approved action has been applied by run {completed[False]}; an authorization is good for one run")
    if completed and decision.requested_mode != "apply":
        raise AlreadyExecuted(f"The approved dry run has been executed by run {completed[True]}; an authorization is good for one run")
    if decision.state is DecisionState.FAILED and not retry:
        raise ExecutionFailed("The last execution failed; look at its error, then call again with retry=True")


def _completed_runs(decision: Decision) -> dict[bool, str]:
    """`dry_run` and id of runs that ever completed, the latest of each kind, whatever was recorded before or after that.

    A completion that no request explains counts as the apply. A run without outcome is not among them: the state tells about it.
    """
    dry_run, completed = False, dict[bool, str]()
    for event in decision.events:
        if event.event_type is EventType.EXECUTION_REQUESTED:
            dry_run = event.payload.get("dry_run") is True
        elif event.event_type is EventType.EXECUTION_COMPLETED:
            run_id: object = event.payload.get("run_id")
            completed[dry_run] = run_id[:200] if isinstance(run_id, str) else "unknown"
    return completed
