"""The router: runs the plan of an approved decision through an adapter, one call after the other, and records it as it goes.

* Everything is resolved before the first side effect: plan, adapter, capabilities, step limit, allow list, environment. A refusal is
  a failed run on the record.
* Each call is on the disk before it is made, its result before the next one. After a crash, a call without a result is one whose
  outcome nobody knows.
* The run stops at its first failed step. Nothing is tried twice, except a call that timed out on an adapter declared idempotent.
* A dry run starts no process and contacts nothing: each step is answered with a simulated output.

Every end other than a completed run is an exception, and once there is a record, RunFailed carries the run id.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from nexus_attest.routers.adapter import Adapter
from nexus_attest.routers.errors import CallRefused, RunFailed
from nexus_attest.routers.execution import AdapterBroken, execute_steps
from nexus_attest.routers.flight_record import flight_record, provenance, results_of, run_response
from nexus_attest.routers.run_request import RunRequest
from nexus_attest.routers.run_store import RunRecorder, RunStore, run_time
from nexus_control.errors import InputError, InvalidPlan, StoreError
from nexus_control.events import Clock, utc_now
from nexus_control.plan import Step, parse_plan

__all__ = ["RunEngine"]


def _uuid4() -> str:
    return str(uuid.uuid4())  # noqa: TID251 - the routers' one source of ids


class RunEngine:
    """A router in the sense of `nexus_control.tool.RouterProtocol`, over a fixed set of adapters.

    `db_path` keeps the runs (`:memory:`: until `close`). Synchronous; usable from several threads and inside a running event loop.
    Raises InputError for two adapters of one id, StoreError when the database cannot be opened.
    """

    accepts_execution_id: ClassVar[bool] = True
    """`run` takes the keyword `execution_id`."""

    def __init__(
        self,
        adapters: Iterable[Adapter],
        *,
        db_path: str | Path = ":memory:",
        clock: Clock = utc_now,
        new_id: Callable[[], str] = _uuid4,
    ) -> None:
        self._adapters: dict[str, Adapter] = {}
        for adapter in adapters:
            if adapter.adapter_id in self._adapters:
                raise InputError(f"two adapters have the id {adapter.adapter_id!r}")
            self._adapters[adapter.adapter_id] = adapter
        self._store = RunStore(db_path)
        self._clock = clock
        self._new_id = new_id

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        """What an adapter declares; None when there is no such adapter."""
        adapter = self._adapters.get(adapter_id)
        return None if adapter is None else set(adapter.capabilities)

    def run(
        self,
        *,
        goal: str,
        adapter_id: str,
        dry_run: bool,
        plan: str | None = None,
        max_steps: int | None = None,
        require_capabilities: list[str] | None = None,
        execution_id: str | None = None,
    ) -> dict[str, Any]:
        """Run a plan to its end and return the response dict of `nexus_attest.routers.flight_record.run_response`.

        `execution_id` is recorded, and given to the tool beside the idempotency key `<run id>/<step id>`.

        Raises RunFailed for a run that was refused or failed, with the code of the reason: UNKNOWN_ADAPTER, CAPABILITY_MISSING,
        PLAN_INVALID, PLAN_NOT_EXECUTABLE, MAX_STEPS_EXCEEDED, a code of CallRefused or CallFailed, UNKNOWN_ERROR for a bug in an
        adapter, or a StoreError's when the record could not be continued. Raises InputError for arguments of the wrong type and
        StoreError when the run cannot be recorded at all; then nothing has happened.
        """
        request = RunRequest.parse(
            goal=goal,
            adapter_id=adapter_id,
            dry_run=dry_run,
            plan=plan,
            max_steps=max_steps,
            require_capabilities=require_capabilities,
            execution_id=execution_id,
        )
        resolution = self._resolve(request)
        record = RunRecorder(self._store, self._new_id(), clock=self._clock, new_id=self._new_id)
        record.begin(request.mode, request.goal)
        try:
            return self._run(record, request, resolution)
        except StoreError as problem:
            raise RunFailed(problem.code, f"the run could not be recorded: {problem}", run_id=record.run_id, response=None) from problem

    def flight_record(self, run_id: str) -> dict[str, Any]:
        """The flight record of a run that ended, completed or failed: what an audit package embeds as its router bundle.

        Raises RunNotFound and RunNotFinished.
        """
        run, events = self._store.finished(run_id)
        return flight_record(run, events, exported_at=run_time(self._clock()))

    def close(self) -> None:
        """Close the run database. Closing again does nothing."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _resolve(self, request: RunRequest) -> "_Resolution":
        """What will be run, or why not. Touches nothing outside."""
        adapter = self._adapters.get(request.adapter_id)
        steps: tuple[Step, ...] = ()
        problem: InvalidPlan | CallRefused | None = None
        try:
            steps = parse_plan(request.plan, goal=request.goal, default_call=adapter.default_call if adapter else None)
        except InvalidPlan as found:
            problem = found
        if adapter is None:
            return _Resolution(None, steps, _not_selected("UNKNOWN_ADAPTER", f"no adapter has the id {request.adapter_id!r}"))
        needed = {*request.require_capabilities} if request.dry_run else {*request.require_capabilities, "apply"}
        if missing := sorted(needed - adapter.capabilities):
            return _Resolution(None, steps, _not_selected("CAPABILITY_MISSING", f"the adapter lacks {', '.join(missing)}"))
        if request.max_steps is not None and len(steps) > request.max_steps:
            return _Resolution(adapter, steps, _too_many(len(steps), request.max_steps))
        try:
            for step in steps:
                adapter.check(step)
            if not request.dry_run and problem is None:
                adapter.preflight(steps)
        except CallRefused as found:
            problem = problem or found
        return _Resolution(adapter, steps, None if problem is None else _refused(problem.code, str(problem)))

    def _run(self, record: RunRecorder, request: RunRequest, resolution: "_Resolution") -> dict[str, Any]:
        """The response of a completed run. The run is begun; here it gets its end."""
        adapter, steps, refusal = resolution.adapter, resolution.steps, resolution.refusal
        _record_resolution(record, request, adapter, steps)
        if refusal is not None:
            record.end("RUN_FAILED", **refusal.payload)
            raise self._failure(record, refusal.code, refusal.message)
        assert adapter is not None
        try:
            failed = execute_steps(record, request, adapter, steps, clock=self._clock)
        except AdapterBroken as problem:
            raise self._failure(record, "UNKNOWN_ERROR", str(problem)) from problem.__cause__
        results = results_of(record.events, simulated=request.dry_run)
        record.add("PROVENANCE_EMITTED", provenance=provenance(record.run_id, self._new_id(), request.router_request(steps), results))
        if failed is not None:
            record.end("RUN_FAILED", outcome="error")
            raise self._failure(record, failed[1].code, f"step {failed[0].step_id}: {failed[1]}")
        record.end("RUN_COMPLETED", outcome="ok")
        return self._response(record)

    def _failure(self, record: RunRecorder, code: str, message: str) -> RunFailed:
        return RunFailed(code, message, run_id=record.run_id, response=self._response(record))

    def _response(self, record: RunRecorder) -> dict[str, Any]:
        return run_response(*self._store.finished(record.run_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    """Why a run is refused; `payload` is that of its RUN_FAILED event."""

    code: str
    message: str
    payload: dict[str, object]


@dataclass(frozen=True, slots=True)
class _Resolution:
    """`adapter` is None when none was selected, `steps` empty when the plan could not be read."""

    adapter: Adapter | None
    steps: tuple[Step, ...]
    refusal: _Refusal | None


def _not_selected(code: str, message: str) -> _Refusal:
    payload: dict[str, object] = {"reason": "dispatch_selection_failed", "error_code": code, "message": message, "details": {}}
    return _Refusal(code=code, message=message, payload=payload)


def _too_many(steps: int, limit: int) -> _Refusal:
    payload: dict[str, object] = {"reason": "max_steps_exceeded", "max_steps": limit, "plan_steps": steps}
    return _Refusal(code="MAX_STEPS_EXCEEDED", message=f"the plan has {steps} steps, the policy allows {limit}", payload=payload)


def _refused(code: str, message: str) -> _Refusal:
    return _Refusal(code=code, message=message, payload={"reason": "refused", "error_code": code, "message": message})


def _record_resolution(record: RunRecorder, request: RunRequest, adapter: Adapter | None, steps: tuple[Step, ...]) -> None:
    if adapter is not None:
        record.add(
            "DISPATCH_SELECTED",
            adapter_id=adapter.adapter_id,
            adapter_kind=adapter.adapter_kind,
            capabilities=sorted(adapter.capabilities),
            selection_source="request",
        )
    record.add("PLAN_CREATED", plan=[step.to_dict() for step in steps])
    # nexus-router records neither the policy nor the request; its tools pass over event types that they do not know.
    record.add(
        "REQUEST_RECORDED",
        adapter_id=request.adapter_id,
        adapter_digest=None if adapter is None else adapter.definition_digest,
        execution_id=request.execution_id,
        max_steps=request.max_steps,
        require_capabilities=list(request.require_capabilities),
        request_digest=request.governance_digest(),
    )
