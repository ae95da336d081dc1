"""The calls of one run, one after the other, each on the record before it is made and after it has ended."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import cast

from nexus_attest.routers.adapter import Adapter, AdapterSession, Call, CallIdentity, CallLimit
from nexus_attest.routers.errors import CallFailed
from nexus_attest.routers.run_request import RunRequest
from nexus_attest.routers.run_store import RunRecorder
from nexus_control.events import Clock
from nexus_control.plan import Step
from nexus_control.run_json import read_json, run_json

__all__ = ["AdapterBroken", "execute_steps"]

_RETRIED = frozenset({"TIMEOUT"})
"""Failures that leave the outcome unknown. After all others the same call would fail again, or must not be made again."""


class AdapterBroken(Exception):
    """An adapter raised what it should not; the run is recorded as failed. The cause is the adapter's exception."""


def execute_steps(
    record: RunRecorder, request: RunRequest, adapter: Adapter, steps: Sequence[Step], *, clock: Clock
) -> tuple[Step, CallFailed] | None:
    """Make the calls of a plan until one fails; the failed step and why, None when all succeeded.

    Leaves the last event of the run to the caller, except when something other than a failed call ends it: then RUN_FAILED is recorded
    here, and AdapterBroken, or the interruption itself (KeyboardInterrupt and the like), is raised.
    """
    session = None if request.dry_run else adapter.open(steps, CallLimit(time.monotonic() + adapter.timeout_s))
    try:
        for step in steps:
            record.add("STEP_STARTED", step_id=step.step_id)
            failure = _attempt(record, request, adapter, session, step, clock)
            if failure is not None and adapter.idempotent and failure.code in _RETRIED:
                failure = _attempt(record, request, adapter, session, step, clock)
            record.add("STEP_COMPLETED", step_id=step.step_id, status="ok" if failure is None else "error")
            if failure is not None:
                return step, failure
        return None
    finally:
        if session is not None:
            session.close()


def _attempt(
    record: RunRecorder, request: RunRequest, adapter: Adapter, session: AdapterSession | None, step: Step, clock: Clock
) -> CallFailed | None:
    record.add(
        "TOOL_CALL_REQUESTED",
        step_id=step.step_id,
        call={"tool": step.tool, "method": step.method, "args": dict(step.args)},
        adapter_id=adapter.adapter_id,
        adapter_capabilities=sorted(adapter.capabilities),
    )
    began = clock()
    try:
        if session is None:
            output: Mapping[str, object] = {"simulated": True, "tool": step.tool, "method": step.method}
        else:
            identity = CallIdentity(run_id=record.run_id, step_id=step.step_id, execution_id=request.execution_id)
            output = _call(session, Call(step=step, identity=identity, limit=CallLimit(time.monotonic() + adapter.timeout_s)))
    except CallFailed as failure:
        _record_failure(record, adapter, step, kind="operational", code=failure.code, message=str(failure))
        return failure
    except BaseException as problem:
        # Nothing that an adapter does, and no interruption either, may leave a run without an end.
        interrupted = not isinstance(problem, Exception)
        kind, code = ("operational", "INTERRUPTED") if interrupted else ("bug", "UNKNOWN_ERROR")
        # The class alone: the text of an unexpected exception may hold anything, secrets included.
        _record_failure(record, adapter, step, kind=kind, code=code, message=type(problem).__name__)
        record.add("STEP_COMPLETED", step_id=step.step_id, status="error")
        record.end("RUN_FAILED", reason="interrupted" if interrupted else "unexpected_exception", step_id=step.step_id)
        if interrupted:
            raise
        raise AdapterBroken(f"step {step.step_id}: the adapter raised {type(problem).__name__}") from problem
    record.add(
        "TOOL_CALL_SUCCEEDED",
        step_id=step.step_id,
        simulated=request.dry_run,
        output={**output, "adapter_id": adapter.adapter_id},
        adapter_id=adapter.adapter_id,
        duration_ms=0 if request.dry_run else max(0, (clock() - began) // timedelta(milliseconds=1)),
    )
    return None


def _call(session: AdapterSession, call: Call) -> Mapping[str, object]:
    """The adapter's output, known to be an object that can be recorded and hashed; ValueError or TypeError when it is none."""
    output = read_json(run_json(session.call(call).output))
    if not isinstance(output, dict):
        raise TypeError("an adapter's output must be an object")
    return cast("Mapping[str, object]", output)


def _record_failure(record: RunRecorder, adapter: Adapter, step: Step, *, kind: str, code: str, message: str) -> None:
    record.add(
        "TOOL_CALL_FAILED",
        step_id=step.step_id,
        error_kind=kind,
        error_code=code,
        message=message,
        adapter_id=adapter.adapter_id,
    )
