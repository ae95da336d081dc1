"""Export: a stored decision as a decision bundle.

The digest is a function of the event log alone: expiry is judged at the time of the last event, and the time of the export stands in
`meta`, outside the digest. So every export of an unchanged decision has the same digest, whenever it is made. Reads only.
"""

from dataclasses import dataclass
from typing import Any

from nexus_control.bundle import (
    BUNDLE_VERSION,
    BundleDecision,
    BundleEvent,
    BundleIntegrity,
    BundleProvenance,
    BundleRouterLink,
    BundleTemplateSnapshot,
    DecisionBundle,
    ProvenanceRecord,
    compute_bundle_digest,
    compute_router_link_digest,
    provenance_id,
)
from nexus_control.decision import Decision
from nexus_control.errors import NexusError
from nexus_control.events import EventType, StoredEvent
from nexus_control.integrity import prefixed
from nexus_control.json_data import copy_json
from nexus_control.markdown import escape
from nexus_control.router_record import prefixed_if_any
from nexus_control.store import EventStore

__all__ = ["EXPORT_METHOD_ID", "ExportResult", "export_decision", "render_export"]

EXPORT_METHOD_ID = "nexus-control.export_v0_5"


@dataclass(slots=True)
class ExportResult:
    """The bundle and its prefixed digest, or a stable error code and a text."""

    success: bool
    bundle: DecisionBundle | None = None
    digest: str | None = None
    error_code: str | None = None
    error_message: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`{"ok": True, "bundle", "digest"}` or `{"ok": False, "error_code", "error"}`."""
        if not self.success or self.bundle is None:
            return {"ok": False, "error_code": self.error_code, "error": self.error_message}
        return {"ok": True, "bundle": self.bundle.to_dict(), "digest": self.digest}


def export_decision(
    store: EventStore, decision_id: str, include_template_snapshot: bool = True, include_router_link: bool = True
) -> ExportResult:
    """Export the newest generation of a decision.

    Error codes: `DECISION_NOT_FOUND`; `EVENT_UNREADABLE` for a history that cannot be read or replayed; those of a failing
    store. The bundle shares nothing with the store.
    """
    try:
        bundle = _bundle(store, decision_id, include_template_snapshot, include_router_link)
    except NexusError as error:
        return ExportResult(success=False, error_code=error.code, error_message=str(error))
    return ExportResult(success=True, bundle=bundle, digest=bundle.integrity.canonical_digest)


def _bundle(store: EventStore, decision_id: str, include_template_snapshot: bool, include_router_link: bool) -> DecisionBundle:
    history = store.get_events(decision_id)
    decision = Decision.replay(decision_id, history, as_of=history[-1].ts if history else None)
    header = BundleDecision(
        decision_id=decision_id,
        goal=decision.goal,
        mode=decision.requested_mode or "dry_run",
        created_at=history[0].ts.isoformat() if history else "",
        status=decision.state.value.upper(),
    )
    events = [_bundle_event(event) for event in history]
    template = _template_snapshot(decision) if include_template_snapshot else BundleTemplateSnapshot(present=False)
    link = _router_link(decision) if include_router_link else BundleRouterLink.empty()
    raw = compute_bundle_digest(BUNDLE_VERSION, header, events, template, link)
    record = ProvenanceRecord(provenance_id(decision_id, raw), EXPORT_METHOD_ID, [f"decision:{decision_id}"], [f"bundle:{prefixed(raw)}"])
    return DecisionBundle(
        BUNDLE_VERSION,
        header,
        events,
        template,
        link,
        BundleIntegrity("sha256", prefixed(raw)),
        BundleProvenance([record]),
        {"exported_at": store.clock().isoformat()},
    )


def _bundle_event(event: StoredEvent) -> BundleEvent:
    return BundleEvent(
        event.event_id,
        event.decision_id,
        event.seq,
        event.event_type.value,
        event.payload,
        event.ts.isoformat(),
        dict(event.actor),
        event.digest,
    )


def _template_snapshot(decision: Decision) -> BundleTemplateSnapshot:
    template = decision.template_ref
    if template is None:
        return BundleTemplateSnapshot(present=False)
    overrides = copy_json(template.overrides_applied) or None
    return BundleTemplateSnapshot(True, template.name, prefixed(template.digest), copy_json(template.snapshot), overrides)


def _router_link(decision: Decision) -> BundleRouterLink:
    execution = decision.latest_execution
    if execution is None:
        return BundleRouterLink.empty()
    # The link names the result of a completed run only. What a failed run returned is in its EXECUTION_FAILED event.
    result = None if _failed(decision) else execution.response_digest
    link = compute_router_link_digest(decision.decision_id, execution.run_id, execution.request_digest, result)
    return BundleRouterLink(
        execution.run_id, execution.adapter_id, prefixed_if_any(execution.request_digest), prefixed_if_any(result), prefixed_if_any(link)
    )


def _failed(decision: Decision) -> bool:
    ends = (EventType.EXECUTION_COMPLETED, EventType.EXECUTION_FAILED)
    last = next((event.event_type for event in reversed(decision.events) if event.event_type in ends), None)
    return last is EventType.EXECUTION_FAILED


def render_export(bundle: DecisionBundle) -> str:
    """The bundle as Markdown for people. Text of users is escaped; nothing is verified."""
    header, events = bundle.decision, bundle.events
    lines = [
        "# Decision Bundle Export",
        "",
        f"- Bundle version: {escape(bundle.bundle_version)}",
        f"- Digest: {escape(bundle.integrity.canonical_digest)}",
        "",
        "## Decision",
        "",
        f"- ID: {escape(header.decision_id)}",
        f"- Status: {escape(header.status)}",
        f"- Mode: {escape(header.mode)}",
        f"- Goal: {'(none)' if header.goal is None else escape(header.goal)}",
        f"- Created: {escape(header.created_at) or '(no events)'}",
        "",
        "## Events",
        "",
        f"- Count: {len(events)}",
    ]
    if events:
        lines += [f"- First: {_event_line(events[0])}", f"- Last: {_event_line(events[-1])}"]
    lines += ["", "## Template", "", *_template_lines(bundle.template_snapshot)]
    lines += ["", "## Router Link", "", *_link_lines(bundle.router_link)]
    lines += [
        "",
        "## Integrity",
        "",
        f"- Algorithm: {escape(bundle.integrity.alg)}",
        f"- Canonical digest: {escape(bundle.integrity.canonical_digest)}",
    ]
    return "\n".join(lines) + "\n"


def _event_line(event: BundleEvent) -> str:
    return f"{escape(event.type)} (seq {event.seq}) at {escape(event.ts)} by {escape(event.actor.get('id'))}"


def _template_lines(template: BundleTemplateSnapshot) -> list[str]:
    if not template.present:
        return ["- No template was used, or it was left out of this export."]
    overrides = ", ".join(escape(name) for name in template.overrides or {}) or "(none)"
    return [f"- Name: {escape(template.name)}", f"- Digest: {escape(template.digest)}", f"- Overrides: {overrides}"]


def _link_lines(link: BundleRouterLink) -> list[str]:
    if link.adapter_id is None:
        return ["- Not executed, or the link was left out of this export."]
    return [
        f"- Run ID: {'(no run)' if link.run_id is None else escape(link.run_id)}",
        f"- Adapter: {escape(link.adapter_id)}",
        f"- Request digest: {escape(link.router_request_digest or '(none)')}",
        f"- Result digest: {escape(link.router_result_digest or '(none)')}",
        f"- Link digest: {escape(link.control_router_link_digest or '(none)')}",
    ]
