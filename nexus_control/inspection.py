"""Everything about one decision at a glance: as data for programs, as Markdown for people.

Read-only and pure; both views judge expiry at the decision's own instant. In the text, whatever a user wrote is escaped
(`nexus_control.markdown`) and never begins a line, so that it can forge neither a heading nor an entry.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, assert_never

from nexus_control.decision import Approval, Decision, DecisionState, ExecutionRecord
from nexus_control.errors import MalformedEvent
from nexus_control.integrity import content_digest, prefixed
from nexus_control.lifecycle import Lifecycle, LifecycleEntry, LifecycleProgress, compute_lifecycle, compute_progress
from nexus_control.markdown import escape
from nexus_control.policy import Policy

__all__ = ["inspect_decision", "render_inspection"]

_LISTED_APPROVERS = 5
_NAMED_APPROVERS = 3
"""Approvers are listed one by one up to the first number; if there are more, only the second number of them is named."""

_SHORT_DIGEST = 12
"""Hex digits of a shortened digest."""

_UNEXECUTED = dict.fromkeys(["run_id", "adapter_id", "router_request_digest", "router_result_digest", "outcome", "last_error"])


def inspect_decision(decision: Decision, *, include_events: bool = False, include_compiled_router_request: bool = True) -> dict[str, Any]:
    """The decision as JSON data: `ok` (True), `decision`, `lifecycle`, `approval`, `policy`, `template`, `execution`, `timeline`.

    `policy` and `template` are None when there is none. `compiled_router_request` only when asked for and a policy exists, `events`
    only when asked for. Digests are raw, except for the shortened one of the compiled request. Raises MalformedEvent when the router
    request cannot be digested.
    """
    decision = _pinned(decision)
    lifecycle = compute_lifecycle(decision)
    data: dict[str, Any] = {
        "ok": True,
        "decision": _decision_data(decision),
        "lifecycle": lifecycle.to_dict(),
        "approval": _approval_data(decision),
        "policy": _policy_data(decision),
        "template": decision.to_dict().get("template"),
        "execution": _execution_data(decision.latest_execution),
        "timeline": [entry.to_dict() for entry in lifecycle.timeline],
    }
    if include_compiled_router_request and decision.policy is not None:
        data["compiled_router_request"] = _compiled_request_data(decision, decision.policy)
    if include_events:
        data["events"] = [event.to_dict() for event in decision.events]
    return data


def _pinned(decision: Decision) -> Decision:
    """The decision with one instant of judgement for all that is said about it."""
    return replace(decision, as_of=decision.judged_at())


def _decision_data(decision: Decision) -> dict[str, Any]:
    events = decision.events
    return {
        "decision_id": decision.decision_id,
        "status": _status(decision.state),
        "mode": decision.requested_mode or "dry_run",
        "goal": decision.goal,
        "created_at": events[0].ts.isoformat() if events else None,
        "last_event_at": events[-1].ts.isoformat() if events else None,
    }


def _approval_data(decision: Decision) -> dict[str, Any]:
    progress = compute_progress(decision)
    return {
        "min_approvals": progress.approvals_required,
        "approved_count": progress.approvals_current,
        "approvers": [_approver_data(decision, approval) for approval in _approvers(decision)],
        "missing": _missing(progress),
        "is_approved": decision.is_approved,
    }


def _approver_data(decision: Decision, approval: Approval) -> dict[str, Any]:
    """`assurance` and `channel` as far as they were recorded; `not_believed` with the code of why the approval does not count."""
    data: dict[str, Any] = {
        "actor": approval.actor["id"],
        "actor_type": approval.actor["type"],
        "expires_at": None if approval.expires_at is None else approval.expires_at.isoformat(),
        "comment": approval.comment,
        "ts": approval.granted_at.isoformat(),
    }
    how, refusal = approval.identity, decision.refusal(approval)
    data |= {name: value for name, value in (("assurance", how.stated), ("channel", how.channel)) if value is not None}
    return data if refusal is None else {**data, "not_believed": refusal.code}


def _policy_data(decision: Decision) -> dict[str, Any] | None:
    if (policy := decision.policy) is None:
        return None
    return {
        "allowed_modes": list(policy.allowed_modes),
        "require_capabilities": list(policy.require_adapter_capabilities),
        "max_steps": policy.max_steps,
        "labels": list(policy.labels),
    }


def _execution_data(record: ExecutionRecord | None) -> dict[str, Any]:
    if record is None:
        return {"requested": False, **_UNEXECUTED}
    return {
        "requested": True,
        "requested_at": record.requested_at.isoformat(),
        "started_at": None if record.started_at is None else record.started_at.isoformat(),
        "completed_at": None if record.completed_at is None else record.completed_at.isoformat(),
        "run_id": record.run_id,
        "adapter_id": record.adapter_id,
        "dry_run": record.dry_run,
        "steps_executed": record.steps_executed,
        "router_request_digest": record.request_digest,
        "router_result_digest": record.response_digest,
        "outcome": _outcome(record),
        "last_error": record.error_message,
    }


def _compiled_request_data(decision: Decision, policy: Policy) -> dict[str, Any]:
    """What `execute` would ask of the router, in the requested mode and with the latest execution's adapter."""
    record = decision.latest_execution
    adapter_id = "<not specified>" if record is None else record.adapter_id
    request = policy.compile_to_router_request(decision.goal or "", decision.plan, adapter_id, decision.requested_mode == "dry_run")
    return {
        "digest": _short(_digest(request, "router request")),
        "adapter_id": adapter_id,
        "require_capabilities": list(policy.require_adapter_capabilities) or None,
        "allow_apply": policy.allows_mode("apply"),
        "max_steps": policy.max_steps,
    }


def _status(state: DecisionState) -> str:
    return "EXECUTED" if state is DecisionState.COMPLETED else state.value.upper()


def _approvers(decision: Decision) -> list[Approval]:
    """The unrevoked approvals by actor id, expired ones included."""
    return [approval for _, approval in sorted(decision.approvals.items()) if not approval.revoked]


def _missing(progress: LifecycleProgress) -> int:
    return max(0, progress.approvals_required - progress.approvals_current)


def _outcome(record: ExecutionRecord) -> str | None:
    if record.completed_at is None:
        return None if record.started_at is None else "in_progress"
    return "ok" if record.error_code is None else "failed"


def _digest(value: object, name: str) -> str:
    try:
        return content_digest(value)
    except ValueError as problem:
        raise MalformedEvent(f"the {name} has no digest: {problem}") from problem


def _short(raw: str) -> str:
    return f"{prefixed(raw[:_SHORT_DIGEST])}..."


def render_inspection(decision: Decision) -> str:
    """The same for people: one line of verdict, then a section per subject. Raises MalformedEvent when the decision has no digest."""
    decision = _pinned(decision)
    lifecycle = compute_lifecycle(decision)
    sections = [
        [_verdict(decision, lifecycle)],
        _decision_lines(decision),
        _lifecycle_lines(lifecycle),
        _approval_lines(decision, lifecycle.progress),
        _policy_lines(decision),
        _template_lines(decision),
        _execution_lines(decision.latest_execution),
        _router_lines(decision.latest_execution),
        _timeline_lines(lifecycle),
        _integrity_lines(decision),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _verdict(decision: Decision, lifecycle: Lifecycle) -> str:
    match decision.state:
        case DecisionState.DRAFT:
            return "✗ Decision is a draft (no policy attached)"
        case DecisionState.PENDING_APPROVAL:
            missing = _missing(lifecycle.progress)
            return f"✗ Decision not executable (missing {missing} approval{'' if missing == 1 else 's'})"
        case DecisionState.APPROVED if lifecycle.is_blocked:
            return f"✗ Decision not executable ({', '.join(reason.code for reason in lifecycle.blocking_reasons)})"
        case DecisionState.APPROVED:
            return "✓ Decision approved (ready to execute)"
        case DecisionState.EXECUTING:
            return "✓ Decision executing (in progress)"
        case DecisionState.COMPLETED:
            return "✓ Decision executed"
        case DecisionState.FAILED:
            record = decision.latest_execution
            return f"✗ Decision failed: {escape(record.error_message)}" if record and record.error_message else "✗ Decision failed"
        case _:
            assert_never(decision.state)


def _decision_lines(decision: Decision) -> list[str]:
    events = decision.events
    return [
        "## Decision",
        f"- ID: {escape(decision.decision_id)}",
        f"- Status: {_status(decision.state)}",
        f"- Mode: {escape(decision.requested_mode or 'dry_run')}",
        f"- Goal: {_or_none(decision.goal)}",
        f"- Created: {_time(events[0].ts if events else None)}",
        f"- Last update: {_time(events[-1].ts if events else None)}",
    ]


def _lifecycle_lines(lifecycle: Lifecycle) -> list[str]:
    progress = lifecycle.progress
    return [
        "## Lifecycle",
        f"- Progress: {progress.approvals_current}/{progress.approvals_required} approvals",
        f"- Ready to execute: {_yes(progress.ready_to_execute)}",
        f"- Blocked: {_yes(lifecycle.is_blocked)}",
        *(f"  - [{reason.code}] {escape(reason.message)}" for reason in lifecycle.blocking_reasons),
    ]


def _approval_lines(decision: Decision, progress: LifecycleProgress) -> list[str]:
    lines = ["## Approval", f"- Required: {progress.approvals_required}", f"- Approved: {progress.approvals_current}"]
    approvers = _approvers(decision)
    if len(approvers) <= _LISTED_APPROVERS:
        return lines + [_approver_line(decision, approval) for approval in approvers]
    names = ", ".join(escape(approval.actor["id"]) for approval in approvers[:_NAMED_APPROVERS])
    return [*lines, f"- Approvers: {names} and {len(approvers) - _NAMED_APPROVERS} more"]


def _approver_line(decision: Decision, approval: Approval) -> str:
    if approval.expires_at is None:
        expiry = "does not expire"
    else:
        expiry = f"{'expires' if approval.stands(decision.judged_at()) else 'expired'} {_time(approval.expires_at)}"
    comment = f', "{escape(approval.comment)}"' if approval.comment else ""
    kind = " (system)" if approval.actor["type"] == "system" else ""
    how = f", {approval.identity.stated}" if approval.identity.stated else ""
    refusal = decision.refusal(approval)
    doubt = f", does not count: {escape(refusal.describe())}" if refusal is not None else ""
    return f"  - by {escape(approval.actor['id'])}{kind}{how}, {expiry}{comment}{doubt}"


def _policy_lines(decision: Decision) -> list[str]:
    if (policy := decision.policy) is None:
        return ["## Policy", "- No policy attached"]
    return [
        "## Policy",
        f"- Modes: {', '.join(policy.allowed_modes)}",
        f"- Capabilities: {_listed(policy.require_adapter_capabilities)}",
        f"- Max steps: {'unlimited' if policy.max_steps is None else policy.max_steps}",
        f"- Labels: {_listed(policy.labels)}",
    ]


def _template_lines(decision: Decision) -> list[str]:
    if (template := decision.template_ref) is None:
        return []
    return [
        "## Template",
        f"- Name: {escape(template.name)}",
        f"- Digest: {_shown_digest(template.digest)}",
        f"- Overridden: {_listed(sorted(template.overrides_applied))}",
    ]


def _execution_lines(record: ExecutionRecord | None) -> list[str]:
    if record is None:
        return ["## Execution", "- Not executed"]
    lines = [
        "## Execution",
        f"- Requested: {_time(record.requested_at)}",
        f"- Mode: {'dry_run' if record.dry_run else 'apply'}",
        f"- Run ID: {_or_none(record.run_id)}",
        f"- Adapter: {escape(record.adapter_id)}",
        f"- Outcome: {_or_none(_outcome(record))}",
    ]
    if record.error_code is not None:
        lines.append(f"- Error: {escape(record.error_code)}: {_or_none(record.error_message)}")
    return lines


def _router_lines(record: ExecutionRecord | None) -> list[str]:
    if record is None or record.run_id is None:
        return []
    run_id = escape(json.dumps(record.run_id, ensure_ascii=False))
    return [
        "## Router (linked)",
        f"- Request digest: {_shown_digest(record.request_digest)}",
        f"- Result digest: {_shown_digest(record.response_digest)}",
        f'- Inspect: `nexus-router.inspect {{ "run_id": {run_id} }}`',
    ]


def _timeline_lines(lifecycle: Lifecycle) -> list[str]:
    lines = [_timeline_line(entry) for entry in lifecycle.timeline]
    if lifecycle.timeline_truncated:
        lines.insert(0, f"- ({lifecycle.timeline_total - len(lifecycle.timeline)} earlier entries)")
    return ["## Timeline", *(lines or ["- No events"])]


def _timeline_line(entry: LifecycleEntry) -> str:
    actor = "" if entry.actor is None else f"{escape(entry.actor)}, "
    return f"- {entry.label}: {escape(entry.summary)} ({actor}{entry.ts})"


def _integrity_lines(decision: Decision) -> list[str]:
    latest = prefixed(escape(decision.events[-1].digest)) if decision.events else "none"
    return [
        "## Integrity",
        f"- Decision digest: {_short(_digest(decision.to_dict(), 'decision'))}",
        f"- Latest event digest: {latest}",
    ]


def _time(moment: datetime | None) -> str:
    return "none" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _or_none(text: str | None) -> str:
    return "none" if text is None else escape(text)


def _listed(items: tuple[str, ...] | list[str]) -> str:
    return ", ".join(map(escape, items)) or "none"


def _shown_digest(raw: str | None) -> str:
    """A digest as it stands in a payload, which may be any text."""
    if raw is None or len(raw) <= _SHORT_DIGEST:
        return _or_none(raw and prefixed(raw))
    return escape(_short(raw))
