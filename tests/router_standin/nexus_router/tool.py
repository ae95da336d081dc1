"""The functions that callers use."""

import hashlib
from itertools import pairwise
from typing import Any

import jsonschema

from .dispatch import AdapterRegistry, DispatchAdapter, NullAdapter
from .event_store import EventStore, new_id, now, text_of
from .router import Router

_CALL = {
    "type": "object",
    "required": ["tool", "method", "args"],
    "additionalProperties": False,
    "properties": {"tool": {"type": "string"}, "method": {"type": "string"}, "args": {"type": "object"}},
}
_STEP = {
    "type": "object",
    "required": ["step_id", "intent", "call"],
    "additionalProperties": False,
    "properties": {
        "step_id": {"type": "string", "minLength": 1},
        "intent": {"type": "string"},
        "call": _CALL,
        "expected_output_pointer": {"type": "string"},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["goal"],
    "additionalProperties": False,
    "properties": {
        "goal": {"type": "string", "minLength": 1},
        "mode": {"enum": ["dry_run", "apply"]},
        "dispatch": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "adapter_id": {"type": "string"},
                "require_capabilities": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            },
        },
        "context": {"type": "object"},
        "policy": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"allow_apply": {"type": "boolean"}, "max_steps": {"type": "integer", "minimum": 1}},
        },
        "plan_override": {"type": "array", "items": _STEP},
    },
}
_TEXT = {"type": "string"}
_INSPECT = {
    "type": "object",
    "required": ["db_path"],
    "additionalProperties": False,
    "properties": {
        "db_path": _TEXT,
        "run_id": _TEXT,
        "status": {"enum": ["RUNNING", "COMPLETED", "FAILED"]},
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
        "offset": {"type": "integer", "minimum": 0},
        "since": _TEXT,
    },
}
_REPLAY = {
    "type": "object",
    "required": ["db_path", "run_id"],
    "additionalProperties": False,
    "properties": {"db_path": _TEXT, "run_id": _TEXT, "strict": {"type": "boolean"}},
}
_EXPORT = {
    "type": "object",
    "required": ["db_path", "run_id"],
    "additionalProperties": False,
    "properties": {"db_path": _TEXT, "run_id": _TEXT, "include_provenance": {"type": "boolean"}, "format": {"const": "bundle_v0_3"}},
}
_IMPORT = {
    "type": "object",
    "required": ["db_path", "bundle"],
    "additionalProperties": False,
    "properties": {
        "db_path": _TEXT,
        "bundle": {"type": "object"},
        "mode": {"enum": ["reject_on_conflict", "new_run_id", "overwrite"]},
        "new_run_id": _TEXT,
        "verify_digest": {"type": "boolean"},
        "replay_after_import": {"type": "boolean"},
    },
}


def _check(request: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(request)  # pyright: ignore[reportUnknownMemberType]


def run(
    request: dict[str, Any],
    *,
    db_path: str = ":memory:",
    adapter: DispatchAdapter | None = None,
    adapters: AdapterRegistry | None = None,
) -> dict[str, Any]:
    if adapter is not None and adapters is not None:
        raise ValueError("Give adapter or adapters, not both")
    _check(request, _REQUEST)
    registry = adapters
    if registry is None:
        single = adapter or NullAdapter()
        registry = AdapterRegistry(default_adapter_id=single.adapter_id)
        registry.register(single)
    with EventStore(db_path) as store:
        return Router(store, registry).run(request)


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    _check(request, _INSPECT)
    with EventStore(request["db_path"], create=False) as store:
        found = [
            (run, store.events(run["run_id"]))
            for run in store.runs()
            if request.get("run_id", run["run_id"]) == run["run_id"]
            and request.get("status", run["status"]) == run["status"]
            and run["created_at"] >= request.get("since", "")
        ]
    offset = request.get("offset", 0)
    count = [run["status"] for run, _ in found].count
    summary = {"runs_total": len(found), "completed": count("COMPLETED"), "failed": count("FAILED"), "running": count("RUNNING")}
    return {"summary": summary, "runs": [_line(*each) for each in found[offset : offset + request.get("limit", 50)]]}


def _line(run: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    payloads = {event["type"]: event["payload"] for event in events}
    started = [event for event in events if event["type"] == "STEP_STARTED"]
    failed = payloads.get("TOOL_CALL_FAILED")
    return {
        **run,
        "steps_planned": len(payloads.get("PLAN_CREATED", {}).get("plan", [])),
        "steps_executed": len(started),
        "tools_used": [event["payload"]["call"]["method"] for event in events if event["type"] == "TOOL_CALL_REQUESTED"],
        "outcome": {"COMPLETED": "ok", "FAILED": "error"}.get(run["status"]),
        "last_failure_reason": failed["message"] if failed else payloads.get("RUN_FAILED", {}).get("reason"),
    }


def replay(request: dict[str, Any]) -> dict[str, Any]:
    _check(request, _REPLAY)
    with EventStore(request["db_path"], create=False) as store:
        run, events = store.run(request["run_id"]), store.events(request["run_id"])
    if run is None:
        return {"ok": False, "run_view": None, "violations": [{"code": "RUN_NOT_FOUND", "message": "Run not found"}]}
    violations = [{"code": code, "message": code.replace("_", " ").lower()} for code in _violations(events)]
    ended = [event["type"] for event in events if event["type"] in ("RUN_COMPLETED", "RUN_FAILED")]
    view = {**{key: run[key] for key in ("run_id", "status", "mode", "goal")}, "terminal_event_type": ended[-1] if ended else None}
    return {"ok": not violations or not request.get("strict", True), "run_view": view, "violations": violations}


def _violations(events: list[dict[str, Any]]) -> list[str]:
    if not events:
        return ["NO_EVENTS"]
    found: list[str] = []
    kinds = [event["type"] for event in events]
    numbers = [event["seq"] for event in events]
    if numbers[0] != 0:
        found.append("SEQ_NOT_ZERO")
    if any(after != before + 1 for before, after in pairwise(numbers)):
        found.append("SEQ_GAP")
    if "RUN_STARTED" not in kinds:
        found.append("NO_RUN_STARTED")
    elif kinds[0] != "RUN_STARTED":
        found.append("RUN_STARTED_NOT_FIRST")
    if "PLAN_CREATED" not in kinds:
        found.append("NO_PLAN_CREATED")
    open_steps: set[str] = set()
    for event in events:
        step_id = event["payload"].get("step_id")
        match event["type"]:
            case "STEP_STARTED":
                open_steps.add(step_id)
            case "TOOL_CALL_REQUESTED" if step_id not in open_steps:
                found.append("TOOL_CALL_WITHOUT_STEP")
            case "TOOL_CALL_SUCCEEDED" | "TOOL_CALL_FAILED" if step_id not in open_steps:
                found.append("TOOL_RESULT_WITHOUT_STEP")
            case "STEP_COMPLETED":
                if step_id not in open_steps:
                    found.append("STEP_COMPLETED_WITHOUT_START")
                open_steps.discard(step_id)
            case _:
                pass
    if not {"RUN_COMPLETED", "RUN_FAILED"} & set(kinds):
        found.append("NO_TERMINAL_EVENT")
    return found


def _digest(run: dict[str, Any], events: list[dict[str, Any]]) -> str:
    return hashlib.sha256(text_of({"run": run, "events": events}).encode()).hexdigest()


def export(request: dict[str, Any]) -> dict[str, Any]:
    _check(request, _EXPORT)
    run_id = request["run_id"]
    with EventStore(request["db_path"], create=False) as store:
        run, events = store.run(run_id), store.events(run_id)
    if run is None:
        return {"ok": False, "error": {"code": "RUN_NOT_FOUND", "message": f"Run not found: {run_id}"}}
    bundle = {"bundle_version": "0.3", "exported_at": now(), "run": run, "events": events, "digests": {"sha256": _digest(run, events)}}
    if request.get("include_provenance", True):
        origin = {
            "export_method": "nexus-router.export",
            "source_db_path": request["db_path"],
            "source_run_id": run_id,
            "export_version": "0.3",
        }
        bundle["provenance"] = origin
    return {"ok": True, "artifact": bundle}


def import_bundle(request: dict[str, Any]) -> dict[str, Any]:
    _check(request, _IMPORT)
    bundle, mode = request["bundle"], request.get("mode", "reject_on_conflict")
    try:
        run, events, stated = dict(bundle["run"]), list(bundle["events"]), bundle["digests"]["sha256"]
    except (KeyError, TypeError):
        return _refused("INVALID_BUNDLE")
    if request.get("verify_digest", True) and _digest(run, events) != stated:
        return _refused("DIGEST_MISMATCH")
    if len({event["seq"] for event in events}) != len(events):
        return _refused("SEQ_DUPLICATE")
    with EventStore(request["db_path"]) as store:
        if store.run(run["run_id"]) is not None:
            if mode == "reject_on_conflict":
                conflict = {"reason": "run_id_exists", "existing_run_id": run["run_id"]}
                return {"status": "skipped", "imported_run_id": None, "events_inserted": 0, "conflict": conflict}
            if mode == "overwrite":
                store.delete_run(run["run_id"])
        if mode == "new_run_id":
            run["run_id"] = request.get("new_run_id", new_id())
            events = [_renamed(event, run["run_id"]) for event in events]
        store.insert_run(run)
        for event in events:
            store.insert_event(event)
    answer: dict[str, Any] = {"status": "ok", "imported_run_id": run["run_id"], "events_inserted": len(events)}
    if request.get("replay_after_import", True):
        seen = replay({"db_path": request["db_path"], "run_id": run["run_id"]})
        answer |= {"replay_ok": seen["ok"], "violations": seen["violations"]}
    return answer


def _refused(code: str) -> dict[str, Any]:
    return {"status": "error", "imported_run_id": None, "events_inserted": 0, "error": {"code": code, "message": code}}


def _renamed(event: dict[str, Any], run_id: str) -> dict[str, Any]:
    payload = {key: run_id if key == "run_id" else value for key, value in event["payload"].items()}
    return {**event, "event_id": new_id(), "run_id": run_id, "payload": payload}


def list_adapters(registry: AdapterRegistry, *, capability: str | None = None) -> dict[str, Any]:
    found = registry.list_adapters() if capability is None else registry.find_by_capability(capability)
    lines = [{"adapter_id": a.adapter_id, "adapter_kind": a.adapter_kind, "capabilities": sorted(a.capabilities)} for a in found]
    return {"adapters": lines, "default_adapter_id": registry.default_adapter_id, "total": len(lines)}
