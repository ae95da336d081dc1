"""The calls of one run, one after the other, each on the record before it is made and after it has ended.

Between two calls there is one commit: the result of the last and the request of the next. So after a crash there is at most one call of
which nobody knows how it ended, and it is the last one on the record.
"""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

from nexus_attest.routers.adapter import Adapter, AdapterSession, Call, CallIdentity, CallLimit, CallResult
from nexus_attest.routers.ending import call_failed
from nexus_attest.routers.errors import CallFailed, CallOutcome, CallRefused
from nexus_attest.routers.run_request import RunRequest
from nexus_attest.routers.run_store import RunRecorder
from nexus_control.events import Clock
from nexus_control.flight_record import REPEATED_AFTER
from nexus_control.plan import Plan, Step
from nexus_control.run_json import read_json, run_json

__all__ = ["AdapterBroken", "Problem", "RunSteps", "line"]

_MESSAGE_CHARACTERS = 500


class AdapterBroken(Exception):
    """An adapter raised, or returned, what it should not. The cause is its exception."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a run failed: what its RUN_FAILED event says, and the code and text of the RunFailed that is raised."""

    code: str
    message: str
    payload: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSteps:
    """Everything that the steps of one run need. `limit` is that of the whole run."""

    record: RunRecorder
    request: RunRequest
    adapter: Adapter
    plan: Plan
    limit: CallLimit
    clock: Clock
    noted: list[str] = field(default_factory=lambda: ["{}"])
    """The text of what was recorded last about the other side of the session; that of an empty one is not recorded."""

    def execute(self) -> Problem | None:
        """Make the calls of the plan until one fails, or all of them; why the run failed, None when every call succeeded.

        The last event of the run is the caller's. Raises AdapterBroken for a bug in the adapter, StoreError when the record cannot be
        continued; interruptions pass through. The call during which it happened then has no result yet.
        """
        if stop := self._stop():
            return stop
        try:
            with self._session() as session:
                problem = self._steps(session)
                self.record.flush()  # before the session is closed, which may take its time
                return problem
        except CallRefused as refusal:
            message = line(str(refusal))
            return Problem(refusal.code, message, {"reason": "refused", "error_code": refusal.code, "message": message})
        except CallFailed as failure:
            message = line(str(failure))
            return Problem(failure.code, message, {"reason": "adapter_not_opened", "error_code": failure.code, "message": message})

    @contextmanager
    def _session(self) -> Generator[AdapterSession | None]:
        """The adapter's session for this run; None for a dry run, which contacts nothing."""
        if self.request.dry_run:
            yield None
            return
        try:
            session = self.adapter.open(self.plan.steps, self.limit)
        except (CallRefused, CallFailed):
            raise
        except Exception as bug:
            raise AdapterBroken(f"the adapter raised {type(bug).__name__} when it was opened") from bug
        try:
            self._note(session)
            yield session
        finally:
            with suppress(Exception):  # foreign code; what the calls did is known by now
                session.close()

    def _steps(self, session: AdapterSession | None) -> Problem | None:
        first: Problem | None = None
        for step in self.plan.steps:
            if stop := self._stop():
                return stop if first is None else Problem(first.code, first.message, {**first.payload, **stop.payload})
            failure = self._step(session, step)
            if session is not None:
                self._note(session)
            self.record.later("STEP_COMPLETED", step_id=step.step_id, status="ok" if failure is None else "error")
            if failure is not None:
                first = first or Problem(failure.code, f"step {step.step_id}: {failure}", {"outcome": "error"})
                if self.plan.on_error == "stop":
                    break
        return first

    def _note(self, session: AdapterSession) -> None:
        """Record what the other side of a session says about itself, unless that was recorded last. Stored with the next request."""
        try:
            text = run_json(dict(session.details))
            if text == self.noted[0]:
                return
            details = read_json(text)
        except Exception as bug:
            raise AdapterBroken(f"the adapter raised {type(bug).__name__} when its session was described") from bug
        self.noted[0] = text
        self.record.later("SESSION_OPENED", adapter_id=self.adapter.adapter_id, session=details)

    def _stop(self) -> Problem | None:
        """Why no further step may begin."""
        if self.limit.cancelled.is_set():
            return Problem("CANCELLED", "the run was cancelled", {"reason": "cancelled"})
        if not self.limit.remaining():
            return Problem("RUN_TIMEOUT", "the time for the run is over", {"reason": "run_timeout"})
        return None

    def _step(self, session: AdapterSession | None, step: Step) -> CallFailed | None:
        self.record.later("STEP_STARTED", step_id=step.step_id)
        failure = self._attempt(session, step)
        if failure is not None and self._may_repeat(failure):
            failure = self._attempt(session, step)
        return failure

    def _may_repeat(self, failure: CallFailed) -> bool:
        certain = failure.outcome is CallOutcome.FAILED
        return self.adapter.idempotent and failure.code in REPEATED_AFTER and not certain and self._stop() is None

    def _attempt(self, session: AdapterSession | None, step: Step) -> CallFailed | None:
        adapter = self.adapter
        self.record.reached = False
        self.record.add(
            "TOOL_CALL_REQUESTED",
            step_id=step.step_id,
            call={"tool": step.tool, "method": step.method, "args": dict(step.args)},
            adapter_id=adapter.adapter_id,
            adapter_capabilities=sorted(adapter.capabilities),
        )
        began = self.clock()
        try:
            result = self._result(session, step)
        except CallFailed as problem:
            failure = CallFailed(problem.code, line(str(problem)), outcome=problem.outcome)
            event_type, noted = call_failed(step.step_id, adapter.adapter_id, failure)
            self.record.later(event_type, **noted)
            return failure
        payload: dict[str, object] = {
            "step_id": step.step_id,
            "simulated": session is None,
            "output": {**result.output, "adapter_id": adapter.adapter_id},
            "adapter_id": adapter.adapter_id,
            "duration_ms": 0 if session is None else max(0, (self.clock() - began) // timedelta(milliseconds=1)),
        }
        if result.redacted:
            payload["redacted"] = list(result.redacted)
        self.record.later("TOOL_CALL_SUCCEEDED", **payload)
        return None

    def _result(self, session: AdapterSession | None, step: Step) -> CallResult:
        """The result of the call, known to be one that can be recorded and hashed."""
        if session is None:
            return CallResult(output={"simulated": True, "tool": step.tool, "method": step.method})
        identity = CallIdentity(run_id=self.record.run_id, step_id=step.step_id, execution_id=self.request.execution_id)
        limit = CallLimit(min(self.limit.deadline, time.monotonic() + self.adapter.timeout_s), self.limit.cancelled)
        self.record.reached = True
        try:
            result = session.call(Call(step=step, identity=identity, limit=limit))
            output = read_json(run_json(result.output))
            if not isinstance(output, dict):
                raise TypeError("an adapter's output must be an object")
            return CallResult(output=cast("dict[str, Any]", output), redacted=tuple(map(str, result.redacted)))
        except CallFailed:
            raise
        except CallRefused as refusal:
            raise CallFailed(refusal.code, str(refusal), outcome=CallOutcome.NOT_SENT) from None
        except Exception as bug:
            raise AdapterBroken(f"step {step.step_id}: the adapter raised {type(bug).__name__}") from bug


def line(text: str) -> str:
    """A message as it is recorded and shown: one printable line of bounded length, whatever an adapter made it of."""
    return " ".join("".join(character if character.isprintable() else " " for character in text[: 4 * _MESSAGE_CHARACTERS]).split())[
        :_MESSAGE_CHARACTERS
    ]
