"""The calls of one run of nexus-router, each judged before the adapter sees it and after.

nexus-router gets an adapter of ours in place of the one that was approved, with the same id, kind and capabilities. It lets a call
through only as the next step of the plan, and none after a failed one unless the plan says `on_error: continue`: nexus-router alone would
go on. What an adapter returns is recorded only when every reader of the record would understand it alike.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, cast

from nexus_attest.routers.adapter import Adapter, AdapterSession, Call, CallIdentity, CallLimit
from nexus_attest.routers.errors import CallFailed, CallOutcome, CallRefused
from nexus_control.plan import Plan, Step
from nexus_control.run_json import read_json, run_json

__all__ = ["BridgeErrors", "CallMaker", "ForeignAdapter", "GuardedAdapter", "OurCalls", "calls_of_foreign"]


class ForeignAdapter(Protocol):
    """An adapter as nexus-router knows them."""

    @property
    def adapter_id(self) -> str: ...

    @property
    def adapter_kind(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[str]: ...

    def call(self, tool: str, method: str, args: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class BridgeErrors:
    """nexus-router's two kinds of errors: an expected failure of a call, and a bug. Both take a message and `error_code`."""

    operational: Callable[..., Exception]
    bug: Callable[..., Exception]
    kinds: tuple[type[BaseException], ...]
    """What passes through as it is: errors that the adapter raised for nexus-router to record."""


CallMaker = Callable[[Step], Mapping[str, Any]]
"""Makes the call of a step and gives its output."""


class GuardedAdapter:
    """What nexus-router calls, for one run of one plan. Not safe to use for a second run."""

    def __init__(
        self, adapter: ForeignAdapter | Adapter, plan: Plan, make: CallMaker, errors: BridgeErrors, cancelled: threading.Event
    ) -> None:
        self.adapter_id = adapter.adapter_id
        self.adapter_kind = adapter.adapter_kind
        self.capabilities = frozenset(adapter.capabilities)
        self._steps = iter(plan.steps)
        self._stops = plan.on_error == "stop"
        self._make = make
        self._errors = errors
        self._cancelled = cancelled
        self._failed = False

    def call(self, tool: str, method: str, args: dict[str, Any]) -> dict[str, Any]:
        """The output of the next step. Raises nexus-router's errors, and PermissionError, which it records as an expected failure."""
        step = next(self._steps, None)
        if step is None or (step.tool, step.method, step.args) != (tool, method, args):
            self._failed = True
            raise self._errors.bug("nexus-router made a call that is not the next step of the plan", error_code="UNEXPECTED_CALL")
        if self._failed and self._stops:
            raise self._errors.operational("Not called: an earlier step failed", error_code="NOT_CALLED")
        if self._cancelled.is_set():
            self._failed = True
            raise self._errors.operational("Not called: the run was cancelled", error_code="CANCELLED")
        try:
            return self._output(step)
        except BaseException:
            self._failed = True
            raise

    def _output(self, step: Step) -> dict[str, Any]:
        try:
            output = read_json(run_json(self._make(step)))
        except CallFailed as problem:
            unknown = "; nobody knows whether it was done" if problem.outcome is CallOutcome.UNKNOWN else ""
            raise self._errors.operational(f"{problem}{unknown}", error_code=problem.code) from None
        except CallRefused as problem:
            raise self._errors.operational(str(problem), error_code=problem.code) from None
        except (*self._errors.kinds, PermissionError):
            raise
        except Exception as bug:  # the class alone: the text of an unexpected exception may hold anything, secrets included
            self._give_up(f"the adapter raised {type(bug).__name__}", bug)
        if not isinstance(output, dict):
            self._give_up("an adapter's output must be an object", None)
        return cast("dict[str, Any]", output)

    def _give_up(self, message: str, bug: Exception | None) -> NoReturn:
        raise self._errors.bug(message, error_code="UNKNOWN_ERROR") from bug


def calls_of_foreign(adapter: ForeignAdapter) -> CallMaker:
    """Calls of an adapter of nexus-router; it gets a copy of the args."""

    def make(step: Step) -> Mapping[str, Any]:
        return adapter.call(step.tool, step.method, cast("dict[str, Any]", read_json(run_json(step.args))))

    return make


class OurCalls:
    """Calls of one of our own adapters, in one session that is opened with the first of them. `close` ends it.

    `run_id` is asked once, at the first call: nexus-router makes it when the run begins.
    """

    def __init__(
        self, adapter: Adapter, plan: Plan, *, run_id: Callable[[], str], execution_id: str | None, cancelled: threading.Event
    ) -> None:
        self._adapter = adapter
        self._plan = plan
        self._ask_run_id = run_id
        self._execution_id = execution_id
        self._cancelled = cancelled
        self._session: AdapterSession | None = None
        self._run_id = ""

    def __call__(self, step: Step) -> Mapping[str, Any]:
        """Raises CallRefused and CallFailed."""
        limit = CallLimit(time.monotonic() + self._adapter.timeout_s, self._cancelled)
        if self._session is None:
            self._run_id = self._ask_run_id()
            self._session = self._adapter.open(self._plan.steps, limit)
        identity = CallIdentity(run_id=self._run_id, step_id=step.step_id, execution_id=self._execution_id)
        return self._session.call(Call(step=step, identity=identity, limit=limit)).output

    def close(self) -> None:
        """End the session, if one was opened."""
        if self._session is not None:
            with suppress(Exception):  # it promises to raise nothing; the run has ended all the same
                self._session.close()
