"""The router: runs the plan of an approved decision through an adapter, one call after the other, and records it as it goes.

* Everything is resolved before the first side effect: plan, adapter, capabilities, step limit, allow list, environment, session. A
  refusal is a failed run on the record.
* Each call is on the disk before it is made, its result before the next one. After a crash, a call without a result is one whose
  outcome nobody knows; the next engine that opens the file says so on the record.
* The run stops at its first failed step, unless its plan says `on_error: continue`. Nothing is tried twice, except, once, a call on an
  adapter declared idempotent whose outcome is not certain.
* A dry run starts no process and contacts nothing: each step is answered with a simulated output.

Every end other than a completed run is an exception, and once there is a record, RunFailed carries the run id.
"""

import math
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, cast

from nexus_attest.redaction import literal_secrets
from nexus_attest.routers.adapter import Adapter, CallLimit
from nexus_attest.routers.ending import DEAD, INTERRUPTED, UNRECORDED, Ending, broken, ending_events, provenance_event
from nexus_attest.routers.errors import RunFailed, RunNotFound
from nexus_attest.routers.event_ids import EventIds, event_ids
from nexus_attest.routers.resolution import Resolution, adapters_by_id, objection, resolve
from nexus_attest.routers.run_request import RunRequest
from nexus_attest.routers.run_store import EventRow, NewEvent, RunRecorder, RunStore, new_rows
from nexus_attest.routers.steps import AdapterBroken, RunSteps
from nexus_attest.routers.stop_signals import ctrl_c_deferred
from nexus_control.errors import InputError, StoreError
from nexus_control.events import Clock, in_utc, utc_now
from nexus_control.flight_record import Run, RunEvent, run_response

__all__ = ["RunEngine", "Watch"]

Watch = Callable[[RunEvent], None]
"""Is shown each event of a run after it was committed. What it raises is dropped: whoever watches a run must not be able to end it."""

_RESULTS = ("TOOL_CALL_SUCCEEDED", "TOOL_CALL_FAILED")


def _uuid4() -> str:
    return str(uuid.uuid4())  # noqa: TID251 - the routers' one source of ids


def _ignoring_time(new_id: Callable[[], str]) -> EventIds:
    return lambda _: new_id()


class RunEngine:
    """A router in the sense of `nexus_control.tool.RouterProtocol`, over a fixed set of adapters.

    `db_path` keeps the runs (`:memory:`: until `close`). Runs in it whose process died are closed at once, as failed; `recovered` names
    them. `run_timeout_s` limits each run as a whole; None: only its calls are limited. `new_id` gives all ids; None: runs have random ones
    (UUID version 4), events have ones in their order (version 7). Synchronous; usable from several threads and inside a running event
    loop. Raises InputError for two adapters of one id or a limit that is none, StoreError when the database cannot be opened.
    """

    accepts_execution_id: ClassVar[bool] = True
    """`run` takes the keyword `execution_id`."""

    def __init__(
        self,
        adapters: Iterable[Adapter],
        *,
        db_path: str | Path = ":memory:",
        run_timeout_s: float | None = None,
        watch: Watch | None = None,
        clock: Clock = utc_now,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._adapters = adapters_by_id(adapters)
        if run_timeout_s is not None and not (run_timeout_s > 0 and math.isfinite(run_timeout_s)):
            raise InputError("run_timeout_s must be a positive number of seconds, or None")
        self._run_timeout_s = run_timeout_s
        self._watch = watch
        self._clock = in_utc(clock)
        self._new_id = new_id or _uuid4
        self._event_ids = event_ids if new_id is None else partial(_ignoring_time, new_id)
        self._under_way: dict[str, threading.Event] = {}
        self._stopped = threading.Event()
        self._store = RunStore(db_path)
        try:
            self.recovered: tuple[str, ...] = tuple(self._store.close_dead(self._dead_end))
        except BaseException:
            self._store.close()
            raise

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
        """Run a plan to its end and return the response dict of `nexus_control.flight_record.run_response`.

        `execution_id` is recorded, and given to the tool beside the idempotency key `<run id>/<step id>`.

        Raises RunFailed for a run that was refused or failed, with the code of the reason: UNKNOWN_ADAPTER, CAPABILITY_MISSING,
        PLAN_INVALID, PLAN_NOT_EXECUTABLE, MAX_STEPS_EXCEEDED, RUN_TIMEOUT, CANCELLED, a code of CallRefused or CallFailed, UNKNOWN_ERROR
        for a bug in an adapter, or a StoreError's when the record could not be continued. Raises InputError for arguments of the wrong
        type and StoreError when the run cannot be recorded at all; then nothing has happened. Ctrl-C cancels the run, and raises
        KeyboardInterrupt when it has ended on the record. That, and any other interruption that an adapter lets through, carries `run_id`
        and `response` as attributes. See StopSignals for other signals, and for what comes after the run.
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
        record = RunRecorder(self._store, self._new_id(), clock=self._clock, new_id=self._event_ids(), watch=self._watch)
        cancelled = threading.Event()  # before anything that it ends has begun
        with (
            self._interruptible(record, cancelled),
            self._store.lock(record.run_id),
            self._cancellable(record.run_id, cancelled),
            self._ended(record),
        ):
            record.begin(request.mode, request.goal, *_resolution_events(request, resolution))
            problem = resolution.refusal
            if problem is None:
                deadline = math.inf if self._run_timeout_s is None else time.monotonic() + self._run_timeout_s
                problem = RunSteps(
                    record=record,
                    request=request,
                    adapter=cast("Adapter", resolution.adapter),  # where there is none, there is a refusal
                    plan=resolution.plan,
                    limit=CallLimit(deadline, cancelled),
                    clock=self._clock,
                ).execute()
            last: NewEvent = ("RUN_COMPLETED", {"outcome": "ok"}) if problem is None else ("RUN_FAILED", dict(problem.payload))
            record.end(provenance_event(record.run, record.events, prov_id=self._new_id()), last)
        response = run_response(record.run, record.events)
        if problem is not None:
            raise RunFailed(problem.code, problem.message, run_id=record.run_id, response=response)
        return response

    def cancel(self, run_id: str) -> bool:
        """Ask a run of this engine to end: its call under way is stopped, no further one is made, and `run` raises RunFailed CANCELLED.

        Returns whether the run is under way. Callable from any thread.
        """
        cancelled = self._under_way.get(run_id)
        if cancelled is not None:
            cancelled.set()
        return cancelled is not None

    def cancel_all(self) -> None:
        """As `cancel`, every run under way."""
        for cancelled in list(self._under_way.values()):
            cancelled.set()

    def stop(self) -> None:
        """As `cancel_all`, and for every run that begins later, which ends before its first call. For a process that is about to end."""
        self._stopped.set()
        self.cancel_all()

    def flight_record(self, run_id: str) -> dict[str, Any]:
        """The flight record of a run that ended, completed or failed: what an audit package embeds as its router bundle.

        Raises RunNotFound and RunNotFinished.
        """
        return self._store.flight_record(run_id, exported_at=self._clock())

    def run_of_execution(self, execution_id: str) -> str | None:
        """The latest run that was made for an execution of a decision, None when there is none."""
        return self._store.run_of_execution(execution_id)

    def close(self) -> None:
        """Close the run database. Closing again does nothing."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _resolve(self, request: RunRequest) -> Resolution[Adapter]:
        adapter = self._adapters.get(request.adapter_id)
        return resolve(request, adapter, adapter.default_call if adapter else None, partial(objection, dry_run=request.dry_run))

    @contextmanager
    def _cancellable(self, run_id: str, cancelled: threading.Event) -> Generator[None]:
        self._under_way[run_id] = cancelled
        if self._stopped.is_set():  # asked after it was registered: `stop` either finds it there, or has been called by now
            cancelled.set()
        try:
            yield
        finally:
            del self._under_way[run_id]

    @contextmanager
    def _interruptible(self, record: RunRecorder, cancelled: threading.Event) -> Generator[None]:
        """Inside, Ctrl-C ends the run and nothing else; the exception comes afterwards, and tells of it."""
        try:
            with ctrl_c_deferred(cancelled.set):
                yield
        except KeyboardInterrupt as interruption:
            if record.ended:
                interruption.__dict__.update(run_id=record.run_id, response=run_response(record.run, record.events))
            elif isinstance(interruption.__context__, RunFailed):
                interruption.add_note(str(interruption.__context__))
                interruption.__dict__.update(run_id=record.run_id)
            raise

    @contextmanager
    def _ended(self, record: RunRecorder) -> Generator[None]:
        """Whatever leaves this block: the run has an end on the record, if that can be written at all."""
        try:
            yield
        except StoreError as problem:
            if not record.events:  # nothing was recorded, so nothing was done
                raise
            raise self._unrecorded(record, problem) from problem
        except AdapterBroken as bug:
            response = None
            with suppress(StoreError):
                response = self._close(record, broken(bug.__cause__ or bug))
            raise RunFailed("UNKNOWN_ERROR", str(bug), run_id=record.run_id, response=response) from bug.__cause__
        except BaseException as interruption:
            try:
                response = self._close(record, INTERRUPTED)
            except (StoreError, RunNotFound) as problem:  # an interruption stays one
                interruption.add_note(f"run {record.run_id} could not be ended on the record: {problem}")
            else:
                interruption.__dict__.update(run_id=record.run_id, response=response)
            raise

    def _unrecorded(self, record: RunRecorder, problem: StoreError) -> RunFailed:
        """What to raise when the record could not be continued. It is tried once more: the store may have been busy for a moment."""
        known = [f"{event['type']} of {event['payload']['step_id']}" for event in record.waiting if event["type"] in _RESULTS]
        response = None
        with suppress(StoreError):
            response = self._close(record, UNRECORDED)
        lost = f"; known, but not recorded: {', '.join(known)}" if known and response is None else ""
        return RunFailed(problem.code, f"the run could not be recorded: {problem}{lost}", run_id=record.run_id, response=response)

    def _close(self, record: RunRecorder, why: Ending) -> dict[str, Any]:
        """End a run that did not come to its own end; its response."""
        record.close(lambda run, events: ending_events(run, events, why, prov_id=self._new_id(), reached=record.reached))
        return run_response(record.run, record.events)

    def _dead_end(self, run: Run, events: list[RunEvent]) -> list[EventRow]:
        ends = ending_events(run, events, DEAD, prov_id=self._new_id())
        return new_rows(run["run_id"], ends, len(events), clock=self._clock, new_id=self._event_ids())


def _resolution_events(request: RunRequest, resolution: Resolution[Adapter]) -> list[NewEvent]:
    """What follows RUN_STARTED, before anything is done."""
    adapter = resolution.adapter
    events: list[NewEvent] = []
    if adapter is not None:
        selected: dict[str, object] = {
            "adapter_id": adapter.adapter_id,
            "adapter_kind": adapter.adapter_kind,
            "capabilities": sorted(adapter.capabilities),
            "selection_source": "request",
        }
        events.append(("DISPATCH_SELECTED", selected))
    steps = resolution.plan.steps
    if resolution.refusal is not None and any(literal_secrets(step.args) for step in steps):
        steps = ()  # nothing of it is run, and the record of a refusal must not repeat what may be a secret
    events.append(("PLAN_CREATED", {"plan": [step.to_dict() for step in steps]}))
    # nexus-router records neither the policy nor the request; its tools pass over event types that they do not know.
    recorded: dict[str, object] = {
        "adapter_id": request.adapter_id,
        "adapter_digest": None if adapter is None else adapter.definition_digest,
        "idempotent": None if adapter is None else bool(adapter.idempotent),
        "execution_id": request.execution_id,
        "max_steps": request.max_steps,
        "require_capabilities": list(request.require_capabilities),
        "request_digest": request.governance_digest(),
    }
    events.append(("REQUEST_RECORDED", recorded))
    return events
