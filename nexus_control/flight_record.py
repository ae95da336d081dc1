"""What a finished run leaves behind: the response that the decision hashes, and the flight record that proves it.

Pure functions over a run and its events. The chain: the decision's response digest covers the response, the response names the digest
of the run bundle, and that covers the run and all its events. A flight record is a valid run bundle of nexus-router at the same time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from nexus_control.integrity import content_digest, prefixed, sha256_digest
from nexus_control.router_record import router_run_digest, router_text

__all__ = [
    "BUNDLE_VERSION",
    "NAMING_THE_ADAPTER",
    "NO_ADAPTER",
    "PROVENANCE_METHOD_ID",
    "RECORDED_BY",
    "RECORD_MEMBERS",
    "REPEATED_AFTER",
    "Run",
    "RunEvent",
    "flight_record",
    "provenance",
    "provenance_digest",
    "results_of",
    "router_request",
    "run_response",
]

BUNDLE_VERSION = "0.3"
"""Format of the run bundle."""

PROVENANCE_METHOD_ID = "nexus-router.provenance.record_v0_1"

RECORDED_BY = "nexus-attest"
"""What `recorded_by` of RUN_STARTED says in the runs of our own router. nexus-router writes no such member."""

RECORD_MEMBERS = {
    "": frozenset({"bundle_version", "exported_at", "run", "events", "digests", "run_id", "response", "integrity", "provenance"}),
    "digests": frozenset({"sha256"}),
    "integrity": frozenset({"alg", "canonical_digest"}),
}
"""The members of a record of our own router, and of its parts that no digest covers. A `provenance` is of nexus-router's format, which may
add one; it is outside as every other, and we write none."""

REPEATED_AFTER = frozenset({"TIMEOUT", "CONNECTION_FAILED", "CONNECTION_LOST", "HTTP_ERROR"})
"""Failures after which a call may be made once more, on an idempotent adapter, unless it is certain that the tool refused it."""

NAMING_THE_ADAPTER = ("DISPATCH_SELECTED", "REQUEST_RECORDED")
"""The first is nexus-router's and ours; only the second is there when no adapter could be selected. nexus-router then writes neither, and
calls the adapter `none`."""

NO_ADAPTER = "none"


class Run(TypedDict):
    """A run: `mode` is `dry_run` or `apply`, `status` RUNNING, COMPLETED or FAILED, times UTC with milliseconds and `Z`."""

    run_id: str
    mode: str
    goal: str
    status: str
    created_at: str


class RunEvent(TypedDict):
    """One event of a run; `seq` counts from 0 without gaps."""

    event_id: str
    run_id: str
    seq: int
    type: str
    payload: dict[str, Any]
    ts: str


def router_request(
    *,
    goal: str,
    adapter_id: str,
    dry_run: bool,
    max_steps: int | None,
    require_capabilities: Iterable[str],
    plan: Sequence[Mapping[str, object]],
) -> dict[str, object]:
    """A run request in the form of nexus-router's v0.7, which the provenance of a run hashes; `plan` holds the steps in full form."""
    dispatch: dict[str, object] = {"adapter_id": adapter_id}
    if required := sorted(set(require_capabilities)):
        dispatch["require_capabilities"] = required
    policy: dict[str, object] = {"allow_apply": not dry_run}
    if max_steps is not None:
        policy["max_steps"] = max_steps
    return {
        "goal": goal,
        "mode": "dry_run" if dry_run else "apply",
        "dispatch": dispatch,
        "policy": policy,
        "plan_override": list(plan),
    }


def run_response(run: Run, events: Sequence[RunEvent]) -> dict[str, object]:
    """What `run` returns for this run: strings and integers only, so that every canonical form of it is the same."""
    return {
        "run_id": run["run_id"],
        "steps_executed": sum(event["type"] == "STEP_STARTED" for event in events),
        "status": run["status"].lower(),
        "mode": run["mode"],
        "adapter_id": next((event["payload"]["adapter_id"] for event in events if event["type"] in NAMING_THE_ADAPTER), NO_ADAPTER),
        "run_bundle_version": BUNDLE_VERSION,
        "run_bundle_digest": prefixed(_bundle_digest(run, events)),
    }


def flight_record(run: Run, events: Sequence[RunEvent], *, exported_at: str) -> dict[str, Any]:
    """The run bundle with the response and its digest, as an audit package embeds it."""
    response = run_response(run, events)
    return {
        "bundle_version": BUNDLE_VERSION,
        "exported_at": exported_at,
        "run": run,
        "events": list(events),
        "digests": {"sha256": _bundle_digest(run, events)},
        "run_id": run["run_id"],
        "response": response,
        "integrity": {"alg": "sha256", "canonical_digest": prefixed(content_digest(response))},
    }


def results_of(events: Iterable[Mapping[str, Any]], *, simulated: bool) -> list[dict[str, object]]:
    """nexus-router's results list: one entry per completed step, its output `{}` after a failure."""
    results: list[dict[str, object]] = []
    output: object = {}
    for event in events:
        kind, payload = event["type"], event["payload"]
        if kind in ("STEP_STARTED", "TOOL_CALL_FAILED"):
            output = {}
        elif kind == "TOOL_CALL_SUCCEEDED":
            output = payload["output"]
        elif kind == "STEP_COMPLETED":
            step_id, status = payload["step_id"], payload["status"]
            results.append({"step_id": step_id, "status": status, "simulated": simulated, "output": output, "evidence": []})
    return results


def provenance_digest(request: Mapping[str, object], results: Sequence[Mapping[str, object]]) -> str:
    """Raw SHA-256 of `{"request": ..., "results": ...}` in the text of routers."""
    return sha256_digest(router_text({"request": dict(request), "results": list(results)}).encode())


def provenance(run_id: str, prov_id: str, request: Mapping[str, object], results: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The provenance of a run, as its PROVENANCE_EMITTED event holds it: one record of one digest."""
    return {
        "artifacts": [],
        "records": [
            {
                "prov_id": prov_id,
                "method_id": PROVENANCE_METHOD_ID,
                "inputs": [],
                "outputs": [],
                "digests": [{"artifact_id": f"run:{run_id}", "alg": "sha256", "value": provenance_digest(request, results)}],
            }
        ],
    }


def _bundle_digest(run: Run, events: Sequence[RunEvent]) -> str:
    return router_run_digest({"run": run, "events": list(events)})
