"""What a finished run leaves behind: the response that the decision hashes, and the flight record that proves it.

Pure functions over a run and its events. The chain: the decision's response digest covers the response, the response names the digest
of the run bundle, and that covers the run and all its events. A flight record is a valid run bundle of nexus-router at the same time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from nexus_control.audit_package import router_run_digest
from nexus_control.integrity import content_digest, prefixed, sha256_digest
from nexus_control.run_json import run_json

__all__ = ["BUNDLE_VERSION", "Run", "RunEvent", "flight_record", "provenance", "results_of", "run_response"]

BUNDLE_VERSION = "0.3"
"""Format of the run bundle."""

_NAMING_THE_ADAPTER = ("DISPATCH_SELECTED", "REQUEST_RECORDED")
"""The first is nexus-router's and ours; only the second is there when no adapter could be selected."""


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


def run_response(run: Run, events: Sequence[RunEvent]) -> dict[str, object]:
    """What `run` returns for this run: strings and integers only, so that every canonical form of it is the same."""
    return {
        "run_id": run["run_id"],
        "steps_executed": sum(event["type"] == "STEP_STARTED" for event in events),
        "status": run["status"].lower(),
        "mode": run["mode"],
        "adapter_id": next(event["payload"]["adapter_id"] for event in events if event["type"] in _NAMING_THE_ADAPTER),
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


def results_of(events: Sequence[RunEvent], *, simulated: bool) -> list[dict[str, object]]:
    """nexus-router's results list: one entry per completed step, its output `{}` after a failure."""
    outputs = {event["payload"]["step_id"]: event["payload"]["output"] for event in events if event["type"] == "TOOL_CALL_SUCCEEDED"}
    ends = [event["payload"] for event in events if event["type"] == "STEP_COMPLETED"]
    return [
        {
            "step_id": end["step_id"],
            "status": end["status"],
            "simulated": simulated,
            "output": outputs.get(end["step_id"], {}),
            "evidence": [],
        }
        for end in ends
    ]


def provenance(run_id: str, prov_id: str, request: Mapping[str, object], results: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The provenance of a run: one record, whose value is the SHA-256 of `{"request": ..., "results": ...}` in the text of run_json."""
    value = sha256_digest(run_json({"request": dict(request), "results": list(results)}).encode())
    return {
        "artifacts": [],
        "records": [
            {
                "prov_id": prov_id,
                "method_id": "nexus-router.provenance.record_v0_1",
                "inputs": [],
                "outputs": [],
                "digests": [{"artifact_id": f"run:{run_id}", "alg": "sha256", "value": value}],
            }
        ],
    }


def _bundle_digest(run: Run, events: Sequence[RunEvent]) -> str:
    return router_run_digest({"run": run, "events": list(events)})
