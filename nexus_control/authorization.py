"""The authorization layer: was every run allowed when it happened, and was it the run that had been approved?

For each run the events before it are replayed, expiry is judged at the instant of its request, and the same judgement that guards an
execution in the store is asked again. This believes the times and names of the file; who said so is the matter of the signatures, and
since when it has been said that of the log.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

from nexus_control.allowed_events import event_findings
from nexus_control.bundle import DecisionBundle
from nexus_control.canonical_json import canonical_json
from nexus_control.decision import TemplateRef
from nexus_control.errors import CommandRefused, MalformedEvent, NexusError
from nexus_control.events import EventType, parse_time
from nexus_control.history import History, Run
from nexus_control.integrity import content_digest, digests_equal, prefixed
from nexus_control.judgement import judge_execution, require_policy
from nexus_control.layers import Gap, Layer, LayerName
from nexus_control.router_record import prefixed_if_any
from nexus_control.verification import Finding, judge

__all__ = ["authorization_layer"]


def authorization_layer(bundle: DecisionBundle, history: History | NexusError) -> Layer:
    """Judge every run of a bundle's history, or say why it has none. Never raises for what the bundle holds."""
    name = LayerName.AUTHORIZATION
    if not isinstance(history, History):
        finding = Finding(f"the events are no history of one decision: {history}")
        return Layer(name, [judge("history", lambda: [finding])])
    runs = history.judged_runs
    checks = [
        judge("history", lambda: ()),
        judge("allowed_events", partial(event_findings, history.events)),
        judge("told_by_events", partial(_section_findings, bundle, history)),
    ]
    if runs:
        checks += [
            judge("policy_satisfied", partial(_each, _policy_findings, history, runs)),
            judge("approved_action", lambda: chain(_each(_action_findings, history, runs), _adapter_findings(runs))),
        ]
    if bundle.router_link.adapter_id is not None or bundle.router_link.run_id is not None:
        checks.append(judge("run_of_the_link", partial(_link_findings, bundle, history)))
    return Layer(name, checks, list(_gaps(bundle, history, runs)))


def _gaps(bundle: DecisionBundle, history: History, runs: Sequence[Run]) -> Iterator[Gap]:
    if not history.runs:
        yield Gap("nothing was run, so there is no authorization to judge", "the evidence of a decision that was executed")
    elif len(runs) < len(history.runs):
        yield Gap(f"the first {len(history.runs) - len(runs)} of {len(history.runs)} runs were not judged", "a reader without this limit")
    for run in runs:
        if run.started is None:
            yield Gap(f"the run requested by event {run.requested.seq} does not say what it was asked to do", "its EXECUTION_STARTED event")
    if runs and bundle.router_link.adapter_id is None and bundle.router_link.run_id is None:
        yield Gap("the file names no run as the one that it is about", "an export with its router link")


def _each(findings: Callable[[History, Run], Iterator[Finding]], history: History, runs: Sequence[Run]) -> Iterator[Finding]:
    for run in runs:
        yield from findings(history, run)


def _policy_findings(history: History, run: Run) -> Iterator[Finding]:
    """Enough valid approvals of different actors for this very action, and a mode that the policy allows, when the run was requested."""
    decision = history.before(run)
    where = f"the run requested by event {run.requested.seq}"
    try:
        policy = judge_execution(decision, run.mode, None, retry=True)
        if run.started is not None and run.started.ts > run.requested.ts:
            judge_execution(replace(decision, as_of=run.started.ts), run.mode, None, retry=True)
    except CommandRefused as refusal:
        yield Finding(f"{where} was not allowed then: {refusal.code}: {refusal}{_late(history, run)}")
        return
    if run.mode == "apply" and decision.requested_mode != "apply":
        yield Finding(f"{where} applied what had been requested as {decision.requested_mode}; its policy allowed that", fails=False)
    if policy.require_adapter_capabilities:
        needed = ", ".join(policy.require_adapter_capabilities)
        yield Finding(f"whether the adapter of {where} had the required capabilities ({needed}) is not told by events", fails=False)


def _late(history: History, run: Run) -> str:
    """Approvals that would have come too late, for the reader who counts them."""
    late = [
        str(event.seq)
        for event in history.events
        if event.event_type is EventType.APPROVAL_GRANTED and (event.seq > run.requested.seq or event.ts > run.requested.ts)
    ]
    return f" (approvals after it: events {', '.join(late[:10])})" if late else ""


def _action_findings(history: History, run: Run) -> Iterator[Finding]:
    """What the router was asked to run is what goal, plan and policy compile to."""
    if run.started is None:
        return
    decision = history.before(run)
    adapter_id, stated = run.requested.payload.get("adapter_id") or "", run.started.payload.get("router_request_digest")
    try:
        policy = require_policy(decision)
    except CommandRefused:
        return  # told by the check before
    request = policy.compile_to_router_request(decision.goal or "", decision.plan, adapter_id, run.mode == "dry_run")
    actual = content_digest(request)
    if not digests_equal(stated, actual):
        yield Finding(f"the run requested by event {run.requested.seq} was asked for something else than was approved", actual, str(stated))


def _adapter_findings(runs: Sequence[Run]) -> Iterator[Finding]:
    """An approval is of an action, whichever adapter carries it out: whoever asked for a run chose that."""
    chosen = dict.fromkeys(str(run.requested.payload.get("adapter_id") or "") for run in runs)
    shown = ", ".join(ascii(name)[:100] for name in list(chosen)[:10]) + (f" and {len(chosen) - 10} more" if len(chosen) > 10 else "")
    yield Finding(f"the adapter ({shown}) was chosen by who asked for the run, approvals do not cover it", fails=False)


def _section_findings(bundle: DecisionBundle, history: History) -> Iterator[Finding]:
    """What the bundle tells beside its events about when it began and its template is what they tell."""
    began = history.events[0].ts if history.events else None
    if began is not None and not _is_time(bundle.decision.created_at, began):
        yield Finding("decision.created_at is not the time of the first event", began.isoformat(), bundle.decision.created_at)
    snapshot, template = bundle.template_snapshot, history.decision.template_ref
    if snapshot.present:
        given = snapshot.name, snapshot.digest, snapshot.snapshot, snapshot.overrides
        if template is None or not _same_json(list(given), _told(template)):
            yield Finding("template_snapshot is not the template of the last policy")


def _is_time(text: str, at: datetime) -> bool:
    try:
        return parse_time(text) == at
    except MalformedEvent:
        return False


def _told(template: TemplateRef) -> list[Any]:
    """What an export writes about the template."""
    return [template.name, prefixed(template.digest), template.snapshot, template.overrides_applied or None]


def _same_json(one: object, other: object) -> bool:
    return canonical_json(one) == canonical_json(other)  # `==` would take true for 1


def _link_findings(bundle: DecisionBundle, history: History) -> Iterator[Finding]:
    """The router link, which binds the package to its run, is that of the last run of the events."""
    link = bundle.router_link
    execution = history.decision.latest_execution
    if execution is None:
        yield Finding("router_link names a run, the events tell of none")
        return
    result = execution.response_digest if history.runs[-1].ended is not None and execution.error_code is None else None
    pairs = (
        ("run_id", execution.run_id, link.run_id),
        ("adapter_id", execution.adapter_id, link.adapter_id),
        ("router_request_digest", prefixed_if_any(execution.request_digest), link.router_request_digest),
        ("router_result_digest", prefixed_if_any(result), link.router_result_digest),
    )
    for name, told, linked in pairs:
        if told != linked:
            yield Finding(f"router_link.{name} is not that of the last run of the events", told, linked)
