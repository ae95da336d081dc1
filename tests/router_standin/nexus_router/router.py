"""How a run goes."""

import hashlib
import time
from typing import Any

from .dispatch import AdapterRegistry, DispatchAdapter
from .event_store import EventStore, new_id, text_of
from .exceptions import NexusBugError, NexusError, NexusOperationalError


class Router:
    def __init__(self, store: EventStore, registry: AdapterRegistry) -> None:
        self._store = store
        self._registry = registry

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        store, mode = self._store, request.get("mode", "dry_run")
        dispatch, policy, plan = request.get("dispatch", {}), request.get("policy", {}), request.get("plan_override", [])
        default = self._registry.get_default()  # also when the request names another one
        run_id = store.create_run(mode, request["goal"])
        store.append(run_id, "RUN_STARTED", mode=mode, goal=request["goal"])
        try:
            adapter = self._selected(dispatch, default)
        except NexusOperationalError as problem:
            return self._not_selected(run_id, mode, plan, problem)
        chosen = {
            "adapter_id": adapter.adapter_id,
            "adapter_kind": adapter.adapter_kind,
            "selection_source": "request" if "adapter_id" in dispatch else "default",
        }
        store.append(run_id, "DISPATCH_SELECTED", **chosen, capabilities=sorted(adapter.capabilities))
        store.append(run_id, "PLAN_CREATED", plan=plan)
        failed, steps = False, plan
        if "max_steps" in policy and len(plan) > policy["max_steps"]:
            failed, steps = True, plan[: policy["max_steps"]]
            store.append(run_id, "RUN_FAILED", reason="max_steps_exceeded", max_steps=policy["max_steps"], plan_steps=len(plan))
        results: list[dict[str, Any]] = []
        for step in steps:
            result = self._step(run_id, step, adapter, mode, allow_apply=policy.get("allow_apply", False))
            failed = failed or result["status"] == "error"
            results.append(result)
        provenance = _provenance(run_id, request, results)
        store.append(run_id, "PROVENANCE_EMITTED", provenance=provenance)
        store.append(run_id, "RUN_FAILED" if failed else "RUN_COMPLETED", outcome="error" if failed else "ok")
        store.set_status(run_id, "FAILED" if failed else "COMPLETED")
        return self._answer(run_id, mode, plan, results, chosen, provenance)

    def _selected(self, dispatch: dict[str, Any], default: DispatchAdapter) -> DispatchAdapter:
        adapter = default
        if "adapter_id" in dispatch:
            if dispatch["adapter_id"] not in self._registry:
                raise NexusOperationalError(f"Unknown adapter: {dispatch['adapter_id']}", error_code="UNKNOWN_ADAPTER")
            adapter = self._registry.get(dispatch["adapter_id"])
        for capability in dispatch.get("require_capabilities", []):
            self._registry.require_capability(adapter.adapter_id, capability)
        return adapter

    def _not_selected(self, run_id: str, mode: str, plan: list[Any], problem: NexusError) -> dict[str, Any]:
        told = {"error_code": problem.error_code, "message": str(problem), "details": problem.details}
        self._store.append(run_id, "RUN_FAILED", reason="dispatch_selection_failed", **told)
        self._store.set_status(run_id, "FAILED")
        nobody = {"adapter_id": "none", "adapter_kind": "none", "selection_source": "failed"}
        answer = self._answer(run_id, mode, plan, [], nobody, {"artifacts": [], "records": []})
        return {**answer, "error": {"code": problem.error_code, "message": str(problem)}}

    def _step(self, run_id: str, step: dict[str, Any], adapter: DispatchAdapter, mode: str, *, allow_apply: bool) -> dict[str, Any]:
        store, step_id, call = self._store, step["step_id"], step["call"]
        store.append(run_id, "STEP_STARTED", step_id=step_id)
        store.append(
            run_id,
            "TOOL_CALL_REQUESTED",
            step_id=step_id,
            call=call,
            adapter_id=adapter.adapter_id,
            adapter_capabilities=sorted(adapter.capabilities),
        )
        began, simulated = time.monotonic(), mode == "dry_run"
        status, output = "ok", dict[str, Any]()
        try:
            if simulated:
                output = {"simulated": True, "adapter_id": adapter.adapter_id, "tool": call["tool"], "method": call["method"]}
            else:
                output = _called(adapter, call, allow_apply=allow_apply)
        except (NexusOperationalError, PermissionError) as problem:
            status, code = "error", getattr(problem, "error_code", "PERMISSION_DENIED")
            self._failed(run_id, step_id, adapter, "operational", code, str(problem))
        except Exception as bug:
            known = isinstance(bug, NexusBugError)
            self._failed(run_id, step_id, adapter, "bug", bug.error_code if known else "UNKNOWN_ERROR", str(bug))
            store.append(run_id, "STEP_COMPLETED", step_id=step_id, status="error")
            store.append(run_id, "RUN_FAILED", reason="bug_error" if known else "unexpected_exception", step_id=step_id)
            store.set_status(run_id, "FAILED")
            raise
        else:
            output["adapter_id"] = adapter.adapter_id  # into the adapter's own dict
            took = 0 if simulated else int((time.monotonic() - began) * 1000)
            told = {"simulated": simulated, "output": output, "adapter_id": adapter.adapter_id, "duration_ms": took}
            store.append(run_id, "TOOL_CALL_SUCCEEDED", step_id=step_id, **told)
        store.append(run_id, "STEP_COMPLETED", step_id=step_id, status=status)
        return {"step_id": step_id, "status": status, "simulated": simulated, "output": output, "evidence": []}

    def _failed(self, run_id: str, step_id: str, adapter: DispatchAdapter, kind: str, code: str, message: str) -> None:
        told = {"error_kind": kind, "error_code": code, "message": message, "adapter_id": adapter.adapter_id}
        self._store.append(run_id, "TOOL_CALL_FAILED", step_id=step_id, **told)

    def _answer(
        self, run_id: str, mode: str, plan: list[Any], results: list[dict[str, Any]], chosen: dict[str, str], provenance: dict[str, Any]
    ) -> dict[str, Any]:
        methods = [step["call"]["method"] for step in plan[: len(results)]]
        applied = sum(result["status"] == "ok" and not result["simulated"] for result in results)
        return {
            "summary": {
                "mode": mode,
                "steps": len(results),
                "tools_used": list(dict.fromkeys(methods)),
                "outputs_total": len(results),
                "outputs_applied": applied,
                "outputs_skipped": len(results) - applied,
                "adapter_id": chosen["adapter_id"],
            },
            "dispatch": chosen,
            "run": {"run_id": run_id, "events_committed": len(self._store.events(run_id))},
            "plan": plan,
            "results": results,
            "provenance": provenance,
        }


def _called(adapter: DispatchAdapter, call: dict[str, Any], *, allow_apply: bool) -> dict[str, Any]:
    if "apply" not in adapter.capabilities:
        raise NexusOperationalError(f"Adapter {adapter.adapter_id} lacks capability apply", error_code="CAPABILITY_MISSING")
    if not allow_apply:
        raise NexusOperationalError("Policy does not allow apply", error_code="PERMISSION_DENIED")
    output: Any = adapter.call(call["tool"], call["method"], call["args"])
    if not isinstance(output, dict):
        raise NexusBugError(f"Adapter returned {type(output).__name__}, not a dict")
    return output  # pyright: ignore[reportUnknownVariableType]


def _provenance(run_id: str, request: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    value = hashlib.sha256(text_of({"request": request, "results": results}).encode()).hexdigest()
    record = {
        "prov_id": new_id(),
        "method_id": "nexus-router.provenance.record_v0_1",
        "inputs": [],
        "outputs": [],
        "digests": [{"artifact_id": f"run:{run_id}", "alg": "sha256", "value": value}],
    }
    return {"artifacts": [], "records": [record]}
