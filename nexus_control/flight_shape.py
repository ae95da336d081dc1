"""Do the events of a run stand in an order that a run can leave behind?

    RUN_STARTED  DISPATCH_SELECTED?  PLAN_CREATED?  REQUEST_RECORDED?
    ( STEP_STARTED  ( TOOL_CALL_REQUESTED  TOOL_CALL_SUCCEEDED | TOOL_CALL_FAILED )*  STEP_COMPLETED )*
    PROVENANCE_EMITTED?  RUN_COMPLETED | RUN_FAILED

Events of other types may stand anywhere in it. A step has one call; a second one only after a failure that may be tried again. A run that
our own router began, which its first event says, has REQUEST_RECORDED.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from nexus_control.flight_record import RECORDED_BY, REPEATED_AFTER
from nexus_control.verification import Finding

__all__ = ["misplaced_events", "unfounded_results"]

_Event: TypeAlias = Mapping[str, Any]

_OPENING = ("RUN_STARTED", "DISPATCH_SELECTED", "PLAN_CREATED", "REQUEST_RECORDED")
_ENDS = ("RUN_COMPLETED", "RUN_FAILED")
_INTERRUPTED = ("interrupted", "record_interrupted")
_AGAIN = "a call is requested again after a result that is certain, on an adapter that is not idempotent, or for the third time"
_RESULTS = {"TOOL_CALL_SUCCEEDED": "ok", "TOOL_CALL_FAILED": "error"}


def misplaced_events(events: Sequence[_Event]) -> Iterator[Finding]:
    """What stands where it cannot, and what is missing after what stands there."""
    if not events or events[0]["type"] != "RUN_STARTED":
        yield Finding("the first event must be RUN_STARTED", "RUN_STARTED", events[0]["type"] if events else "no event")
    if not events or events[-1]["type"] not in _ENDS:
        yield Finding("the last event must be RUN_COMPLETED or RUN_FAILED", None, events[-1]["type"] if events else "no event")
        return
    order = _Order()
    for event in events[:-1]:
        if told := order.next(event):
            yield told._replace(detail=f"event {event['seq']}: {told.detail}")
    yield from order.end(events[-1])


class _Order:
    """What came so far."""

    def __init__(self) -> None:
        self.opening = -1
        self.ours = False
        self.repeats = True  # whether the adapter may be called again; unknown where REQUEST_RECORDED does not say it
        self.begun = False
        self.proven = False
        self.step: object = None
        self.latest: object = None  # the step that was started last
        self.calls = 0  # of the open step
        self.last: _Event = {}  # payload of its last result
        self.result: str | None = None
        self.calling = False
        self.failed = False

    def next(self, event: _Event) -> Finding | None:
        """What is wrong with it as the next event."""
        kind, payload = event["type"], event["payload"]
        if kind in _OPENING:
            return self._opens(kind, payload)
        if kind in _ENDS:
            return self._ends_too_early(kind, payload)
        if kind == "PROVENANCE_EMITTED":
            self.proven = True
            return Finding("provenance is given inside a step") if self.step is not None and not self.calling else None
        judged = _WITHIN.get(kind)
        if judged is None:
            return None
        self.begun = True
        late = Finding(f"{kind} after the provenance of the run") if self.proven else None
        return judged(self, kind, payload) or late

    def end(self, last: _Event) -> Iterator[Finding]:
        """What is wrong with the end of the run."""
        payload = last["payload"]
        if self.ours and self.opening < _OPENING.index("REQUEST_RECORDED"):
            yield Finding("our own router recorded the run, but REQUEST_RECORDED, which it always writes, is missing")
        if payload.get("step_id", self.latest) != self.latest:
            yield Finding("the run ended in another step than the one that was started last", str(self.latest), str(payload["step_id"]))
        if self.failed and last["type"] == "RUN_COMPLETED":
            yield Finding("the run is completed, but a step of it failed")
        if not self.failed and last["type"] == "RUN_FAILED" and "reason" not in payload:
            yield Finding("the run failed, but no step of it did, and no reason is given")
        if self.calling and payload.get("reason") == "interrupted":
            yield Finding("the last call has no result, because the run was interrupted: its outcome is unknown", fails=False)
        elif self.calling:
            yield Finding("the last call has no result")
        elif self.step is not None and "reason" not in payload:
            yield Finding("the last step has no end")

    def _opens(self, kind: str, payload: _Event) -> Finding | None:
        if kind == "RUN_STARTED":
            self.ours = payload.get("recorded_by") == RECORDED_BY
        elif kind == "REQUEST_RECORDED":
            self.repeats = payload.get("idempotent", True) is True
        place, before = _OPENING.index(kind), self.opening
        self.opening = max(before, place)
        if place <= before or self.begun or self.proven:
            return Finding(f"{kind} in the middle of the run")
        return None

    def _ends_too_early(self, kind: str, payload: _Event) -> Finding | None:
        # nexus-router writes this one before the steps that it executes all the same.
        if kind == "RUN_FAILED" and payload.get("reason") == "max_steps_exceeded" and not self.begun:
            self.failed = True
            return None
        return Finding(f"{kind} in the middle of the run")

    def starts(self, _kind: str, payload: _Event) -> Finding | None:
        inside = self.step is not None
        self.step = self.latest = payload.get("step_id")
        self.calls, self.last, self.result = 0, {}, None
        return Finding("a step begins inside another one") if inside else None

    def completes(self, _kind: str, payload: _Event) -> Finding | None:
        status, due = payload.get("status"), self.result
        fits = not self.calling and self.step is not None and payload.get("step_id") == self.step
        self.step, self.calling = None, False
        self.failed = self.failed or status != "ok"
        if not fits:
            return Finding("a step ends that is not open, or with a call that has no result")
        if status != due if due is not None else status not in ("ok", "error"):
            return Finding("the status of the step is not that of its last call", due, str(status))
        return None

    def requests(self, _kind: str, payload: _Event) -> Finding | None:
        fits = not self.calling and self.step is not None and payload.get("step_id") == self.step
        again = self.calls == 0 or (self.calls == 1 and self.repeats and self.result == "error" and _may_repeat(self.last))
        self.calling = True
        self.calls += 1
        if not fits:
            return Finding("a call is requested outside of its step, or before the last one has a result")
        return None if again else Finding(_AGAIN)

    def results(self, kind: str, payload: _Event) -> Finding | None:
        fits = self.calling and payload.get("step_id") == self.step
        self.calling, self.result, self.last = False, _RESULTS[kind], payload
        return None if fits else Finding("a result without its request")


_WITHIN: dict[str, Callable[[_Order, str, _Event], Finding | None]] = {
    "STEP_STARTED": _Order.starts,
    "STEP_COMPLETED": _Order.completes,
    "TOOL_CALL_REQUESTED": _Order.requests,
    "TOOL_CALL_SUCCEEDED": _Order.results,
    "TOOL_CALL_FAILED": _Order.results,
}


def _may_repeat(failure: _Event) -> bool:
    """nexus-router tries nothing again, and does not say what is certain about a failure."""
    return failure.get("error_code") in REPEATED_AFTER and failure.get("outcome") in ("not_sent", "unknown")


def unfounded_results(events: Sequence[_Event]) -> Iterator[Finding]:
    """Steps that are completed without any call on the record: what they gave cannot be rebuilt.

    Only in the last step of a run that was interrupted may the call not have been requested yet.
    """
    called = False
    failed_without: object = None
    for event in events:
        kind = event["type"]
        if kind == "STEP_STARTED":
            called = False
            if failed_without is not None:
                yield _unfounded(failed_without)
                failed_without = None
        elif kind in _RESULTS:
            called = True
        elif kind == "STEP_COMPLETED" and not called:
            if event["payload"].get("status") == "ok":
                yield _unfounded(event["payload"].get("step_id"))
            else:
                failed_without = event["payload"].get("step_id")
    if failed_without is not None and events[-1]["payload"].get("reason") not in _INTERRUPTED:
        yield _unfounded(failed_without)


def _unfounded(step_id: object) -> Finding:
    return Finding(f"step {step_id!s:.100} is completed, but no call of it is on the record")
