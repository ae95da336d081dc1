"""The ends of a run, from what is on its record.

A run that did not come to its own end (an interruption, a bug in an adapter, a dead process) is ended as failed: a call that was
requested and has no result gets one that says that its outcome is unknown, and an open step is ended. A dry run calls nothing, so there
every outcome is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_attest.routers.errors import CallFailed, CallOutcome
from nexus_attest.routers.run_store import NewEvent
from nexus_control.flight_record import Run, RunEvent, provenance, results_of, router_request

__all__ = ["DEAD", "INTERRUPTED", "UNRECORDED", "Ending", "broken", "call_failed", "ending_events", "provenance_event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a run is ended: the `reason` of its RUN_FAILED event, and what is written for a call that has no result."""

    reason: str
    error_kind: str
    error_code: str
    message: str


INTERRUPTED = Ending(
    reason="interrupted",
    error_kind="operational",
    error_code="INTERRUPTED",
    message="The executing process was told to end before the call had",
)
DEAD = Ending(
    reason="interrupted",
    error_kind="operational",
    error_code="INTERRUPTED",
    message="The executing process died before it had recorded a result",
)

UNRECORDED = Ending(
    reason="record_interrupted",
    error_kind="operational",
    error_code="INTERRUPTED",
    message="The result of the call could not be recorded",
)


_NOT_MADE = "The run was ended before the call was made"


def broken(problem: BaseException) -> Ending:
    """The end that a bug makes. The class alone is written: the text of an unexpected exception may hold anything, secrets included."""
    return Ending(reason="unexpected_exception", error_kind="bug", error_code="UNKNOWN_ERROR", message=type(problem).__name__)


def ending_events(run: Run, events: Sequence[RunEvent], why: Ending, *, prov_id: str | None, reached: bool = True) -> list[NewEvent]:
    """The events that end this run as failed. It must be one of ours, except for `prov_id` None: then its end has no provenance.

    `reached` false: it is certain that the call that has no result was not made.
    """
    step_id, request = _left_open(events)
    ends: list[NewEvent] = []
    if request is not None:
        outcome = CallOutcome.UNKNOWN if reached and run["mode"] == "apply" else CallOutcome.NOT_SENT
        problem = CallFailed(why.error_code, why.message if reached else _NOT_MADE, outcome=outcome)
        ends.append(call_failed(request["step_id"], request["adapter_id"], problem, kind=why.error_kind))
    if step_id is not None:
        ends.append(("STEP_COMPLETED", {"step_id": step_id, "status": "error"}))
    if prov_id is not None:
        shown = [{"type": kind, "payload": payload} for kind, payload in ends]
        ends.append(provenance_event(run, [*events, *shown], prov_id=prov_id))
    ends.append(("RUN_FAILED", {"reason": why.reason} if step_id is None else {"reason": why.reason, "step_id": step_id}))
    return ends


def call_failed(step_id: str, adapter_id: str, failure: CallFailed, *, kind: str = "operational") -> NewEvent:
    """The event of a call that did not succeed: nexus-router's keys, and `outcome`."""
    return (
        "TOOL_CALL_FAILED",
        {
            "step_id": step_id,
            "error_kind": kind,
            "error_code": failure.code,
            "message": str(failure),
            "outcome": failure.outcome.value,
            "adapter_id": adapter_id,
        },
    )


def provenance_event(run: Run, events: Sequence[Mapping[str, Any]], *, prov_id: str) -> NewEvent:
    """PROVENANCE_EMITTED over the request that was recorded and the results so far."""
    recorded = {event["type"]: event["payload"] for event in events if event["type"] in ("PLAN_CREATED", "REQUEST_RECORDED")}
    noted = recorded["REQUEST_RECORDED"]
    request = router_request(
        goal=run["goal"],
        adapter_id=noted["adapter_id"],
        dry_run=run["mode"] == "dry_run",
        max_steps=noted["max_steps"],
        require_capabilities=noted["require_capabilities"],
        plan=recorded["PLAN_CREATED"]["plan"],
    )
    results = results_of(events, simulated=run["mode"] == "dry_run")
    return "PROVENANCE_EMITTED", {"provenance": provenance(run["run_id"], prov_id, request, results)}


def _left_open(events: Sequence[RunEvent]) -> tuple[str | None, Mapping[str, Any] | None]:
    """The step that was started and not ended, and the call that was requested and has no result."""
    step_id: str | None = None
    request: Mapping[str, Any] | None = None
    for event in events:
        match event["type"]:
            case "STEP_STARTED":
                step_id = event["payload"]["step_id"]
            case "STEP_COMPLETED":
                step_id = None
            case "TOOL_CALL_REQUESTED":
                request = event["payload"]
            case "TOOL_CALL_SUCCEEDED" | "TOOL_CALL_FAILED":
                request = None
            case _:
                pass
    return step_id, request
