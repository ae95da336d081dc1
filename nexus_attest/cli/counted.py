"""What `execute` will not count of what a decision tells: for people, who read `approved` and are refused."""

from typing import TYPE_CHECKING

from nexus_control.decision import Decision, DecisionState
from nexus_control.errors import NexusError
from nexus_control.identity import NO_TRUST
from nexus_control.markdown import escape
from nexus_control.past import past_of

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["uncounted"]

_RUNNABLE = (DecisionState.PENDING_APPROVAL, DecisionState.APPROVED, DecisionState.FAILED)


def uncounted(session: "Session", decision_id: str) -> str | None:
    """Which approvals make nothing run here, why, and what to do about it, as one escaped line; None when there are none.

    They are those that an import brought unsigned, and those whose signature was used or revoked before an import brought it again.
    """
    store, trust = session.store, session.trust or NO_TRUST
    try:
        with store.snapshot():
            history = store.history(decision_id)
            decision = Decision.replay(decision_id, history.events, as_of=store.clock(), trust=trust)
            told = decision.current_approvals(decision.judged_at())
            decision.earlier = past_of(store, decision_id, history)
    except NexusError:  # the command has done its work; whoever executes is told what cannot be read
        return None
    reasons = {approval.actor["id"]: refusal.code for approval in told if (refusal := decision.refusal(approval)) is not None}
    if not reasons or decision.policy is None or decision.state not in _RUNNABLE:
        return None
    names, codes = ", ".join(map(escape, reasons)), ", ".join(sorted(set(reasons.values())))
    counted, required = decision.active_approval_count, decision.policy.min_approvals
    verdict = f"to execute it here, {counted} of {required} approvals count; not those of {names} ({codes})"
    if counted >= required:
        return verdict
    return (
        f"{verdict}: nexus-attest approve {escape(decision_id)} --actor NAME{escape(session.same_store)}, or signed approvals with --trust"
    )
