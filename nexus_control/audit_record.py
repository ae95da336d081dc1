"""The audit record: one decision, flat, with everything that was stored about it. No proof of its own; bundles and packages are that."""

from datetime import datetime
from typing import Any

from nexus_control.decision import Approval, Decision, ExecutionRecord

__all__ = ["AUDIT_RECORD_VERSION", "audit_record"]

AUDIT_RECORD_VERSION = "0.1.0"


def audit_record(decision: Decision, exported_at: datetime) -> dict[str, Any]:
    """The record as JSON data. Keys: `schema_version`, `exported_at`, `decision`, `events`, `approvals` by actor id, `executions`."""
    return {
        "schema_version": AUDIT_RECORD_VERSION,
        "exported_at": exported_at.isoformat(),
        "decision": decision.to_dict(),
        "events": [event.to_dict() for event in decision.events],
        "approvals": {actor_id: _approval(approval) for actor_id, approval in decision.approvals.items()},
        "executions": [_execution(run) for run in decision.executions],
    }


def _approval(approval: Approval) -> dict[str, Any]:
    return {
        "actor": dict(approval.actor),
        "granted_at": approval.granted_at.isoformat(),
        "expires_at": _iso(approval.expires_at),
        "comment": approval.comment,
        "revoked": approval.revoked,
        "revoked_at": _iso(approval.revoked_at),
        "revoke_reason": approval.revoke_reason,
    }


def _execution(run: ExecutionRecord) -> dict[str, Any]:
    return {
        "adapter_id": run.adapter_id,
        "dry_run": run.dry_run,
        "requested_at": run.requested_at.isoformat(),
        "started_at": _iso(run.started_at),
        "completed_at": _iso(run.completed_at),
        "run_id": run.run_id,
        "request_digest": run.request_digest,
        "response_digest": run.response_digest,
        "steps_executed": run.steps_executed,
        "error_code": run.error_code,
        "error_message": run.error_message,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
