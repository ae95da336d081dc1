"""Executions as tasks: begun by a call, and told of for as long as they last, by whichever server of the store is asked.

Whether one is under way is known by the lock that its process holds, how it ended by the events in the store. Cancelling one stops nothing,
as cancelling its call does not: what has begun may have had effects, and the task goes on to tell.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.abc import TaskGroup
from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.types import INTERNAL_ERROR

from nexus_attest.server.claims import on_claim
from nexus_attest.server.progress import RunProgress
from nexus_attest.server.results import ERROR_KEY
from nexus_attest.server.task_folder import Handle, TaskFolder
from nexus_attest.server.task_frame import TaskFrame, new_number
from nexus_attest.server.task_outcomes import Outcome, execution_outcome, unknown_outcome
from nexus_attest.server.tasks import Task, takes_tasks
from nexus_control.errors import NexusError

if TYPE_CHECKING:
    from nexus_attest.server.service import Service

__all__ = ["PATIENCE", "ExecutionTasks"]

PATIENCE = 1.0
"""Seconds that a call waits for its execution: one that is quicker is answered as it always was."""

_POLL_MS = 1_000

_log = logging.getLogger("nexus_attest.server")


@dataclass(kw_only=True)
class _Run:
    """An execution of this process. `settled`: it was claimed, or is over; `handle` and `text` are there once it was claimed.

    Made in the call's task, which the execution inherits its context from: that is how `RunProgress` gets to it.
    """

    number: str
    owner: str
    arguments: Mapping[str, Any]
    answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    settled: anyio.Event = field(default_factory=anyio.Event)
    over: anyio.Event = field(default_factory=anyio.Event)
    progress: RunProgress = field(default_factory=RunProgress)
    is_task: bool = False
    handle: Handle | None = None
    text: str | None = None
    result: dict[str, Any] | None = None
    bug: Exception | None = None


class ExecutionTasks:
    """The executions of one service. They are under way only inside `running`."""

    def __init__(self, service: "Service", folder: TaskFolder, frame: TaskFrame, *, patience: float = PATIENCE) -> None:
        self._service = service
        self._folder = folder
        self._frame = frame
        self._patience = patience
        self._groups: list[TaskGroup] = []
        self._runs: dict[str, _Run] = {}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Executions may go on for longer than the calls that began them; the end of the block waits for them."""
        async with anyio.create_task_group() as group:
            self._groups.append(group)
            try:
                yield
            finally:
                self._groups.remove(group)

    async def executing(
        self, context: ServerRequestContext[Any], arguments: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """The answer of an execution that is over soon or refused, a task for any other; None for a client that takes no tasks."""
        if not takes_tasks(context) or not self._groups:
            return None
        run = _Run(number=new_number(), owner=self._frame.owner(), arguments=arguments, answer=answer)
        self._runs[run.number] = run
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(run.progress.report, context, arguments["adapter_id"])
            self._groups[-1].start_soon(self._carry_out, run)
            try:
                await run.settled.wait()  # which takes as long as other executions have all the threads
            except anyio.get_cancelled_exc_class():
                run.scope.cancel()  # which reaches it before it has a thread, or not at all
                raise
            with anyio.move_on_after(self._patience):
                await run.over.wait()
            waiting.cancel_scope.cancel()
        if not run.over.is_set() and run.text is not None and run.handle is not None:
            run.is_task = True
            return self._under_way(run.text, run.handle).created()
        if run.bug is not None:
            raise run.bug
        if run.result is None:
            raise MCPError(INTERNAL_ERROR, "The server is about to end; nothing was begun")
        return run.result

    async def _carry_out(self, run: _Run) -> None:
        began = anyio.current_time()
        try:
            with run.scope:
                run.result = await anyio.to_thread.run_sync(self._perform, run, limiter=self._service.run_threads)
        except Exception as bug:  # it belongs to the call, and must not end the server; when the call is over, only the log can tell
            run.bug = bug
            _log.exception("bug in an execution", extra={"facts": {"decision_id": run.arguments["request_id"]}})
        finally:
            if run.is_task and run.result is not None:
                _log_end(run, anyio.current_time() - began)
            del self._runs[run.number]
            run.over.set()
            run.settled.set()
            self._service.changed()

    def _perform(self, run: _Run) -> dict[str, Any]:
        """Execute, in a thread. Where no lock can be had there is no task, and the call waits for the end as it always did."""
        with ExitStack() as held:
            try:
                held.enter_context(self._folder.lock(run.number))
            except NexusError as problem:
                self._frame.warn(problem)
            else:
                on_claim.set(partial(self._claimed, run))
                self._folder.tidy(self._service.tools.store.clock())
            return run.answer(run.arguments)

    def _claimed(self, run: _Run, execution_id: str) -> None:
        """From here on there is something to tell. In the thread of the execution, and before the router is called."""
        decision_id = run.arguments["request_id"]
        try:
            store = self._service.tools.store
            with store.snapshot():
                generation, events = store.origin(decision_id)[0], store.get_events(decision_id)
            begun = next((event.chain_hash for event in events if event.event_id == execution_id), None)
            if begun is not None:  # it is there, unless an import took the place of the decision in this moment
                facts = {"execution": execution_id, "generation": generation, "from": begun}
                run.handle = self._frame.handle("execute", decision_id, facts, run.number)
                run.text = self._folder.handle_text(run.handle, run.owner)
        except NexusError as problem:
            self._frame.warn(problem)
        if run.text is not None:
            anyio.from_thread.run_sync(run.settled.set)

    async def as_it_stands(self, text: str, handle: Handle) -> Task:
        """The task of an execution, over or under way. Raises MCPError for what the store cannot do at the moment."""
        outcome = await self._frame.in_thread(self._execution_outcome, handle)
        return self._under_way(text, handle) if outcome is None else self._frame.ended(text, handle, _POLL_MS, outcome)

    def _execution_outcome(self, handle: Handle) -> Outcome | None:
        found = self._recorded(handle)
        # Of its own executions this process knows without a lock, whose file may be gone.
        if found is not None or handle.number in self._runs or self._folder.is_under_way(handle.number):
            return found
        # Nobody holds the lock, so whoever did has recorded what there was to record: before, or a moment ago.
        return self._recorded(handle) or unknown_outcome(handle.created_at)

    def _recorded(self, handle: Handle) -> Outcome | None:
        events = self._service.tools.store.get_events(handle.decision_id, handle.facts["generation"])
        return execution_outcome(handle.decision_id, events, handle.facts["execution"])

    def _under_way(self, text: str, handle: Handle) -> Task:
        run = self._runs.get(handle.number)
        message = "an execution is under way"
        if run is not None:
            seconds = (self._service.tools.store.clock() - handle.created_at) // timedelta(seconds=1)
            message = run.progress.message(run.arguments["adapter_id"], seconds)
        return self._frame.task(text, handle, _POLL_MS, status="working", message=message)


def _log_end(run: _Run, seconds: float) -> None:
    """One line for an execution whose call was logged as answered long ago, with the id of that call."""
    code = (run.result or {}).get("_meta", {}).get(ERROR_KEY, {}).get("code")
    facts = {"decision_id": run.arguments["request_id"], "ms": round(seconds * 1000, 3), "outcome": "ok" if code is None else "error"}
    _log.info("task ended", extra={"facts": facts if code is None else {**facts, "code": code}})
