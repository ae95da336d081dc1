"""Execute an approved decision at most once: claim, run, record.

    claim    judge and append EXECUTION_REQUESTED and EXECUTION_STARTED in one transaction: of all callers one gets through
    run      call the router, outside any transaction; what it does cannot be rolled back
    record   append EXECUTION_COMPLETED or EXECUTION_FAILED

A process that dies after the claim leaves the decision in EXECUTING. Nothing is retried silently: `abandon_execution` records, on
somebody's word, that the outcome is unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

from nexus_control.decision import Decision, without_later_approvals
from nexus_control.errors import ExecutionSuperseded, InputError, InvalidRouter, NexusError, NoPolicy, PolicyViolation, RunFailure
from nexus_control.events import Actor, EventType, ExecutionMode, StoredEvent
from nexus_control.identity import ASSERTED, NO_TRUST, Identity, Trust
from nexus_control.integrity import content_digest
from nexus_control.judgement import EXECUTOR, execution_mode, judge_execution, judge_identity, judge_recovery
from nexus_control.past import past_of
from nexus_control.store import EventItem, EventStore

__all__ = ["Outcome", "RouterProtocol", "abandon_execution", "execute_decision", "request_under_way"]

_RUN_ID_BITS = 256
"""A number may be a run id; a larger one is none that a person could look up, and some cannot even be written."""

_MESSAGE_LIMIT = 10_000
"""Characters of a router's error message that are stored; a message is evidence, not a place for its output."""


class RouterProtocol(Protocol):
    """Who runs an approved action. Any object with these two methods will do.

    `run` is called with exactly these keywords and returns a dict with `run_id` (non-empty string) and `steps_executed` (int). It
    raises when the run failed; an exception may carry `code` (str), `run_id` (str) and `response` (dict), which are then recorded.
    A router whose attribute `accepts_execution_id` is true also gets `execution_id`, unique per execution, to use as idempotency key.
    """

    def run(
        self,
        *,
        goal: str,
        adapter_id: str,
        dry_run: bool,
        plan: str | None,
        max_steps: int | None,
        require_capabilities: list[str] | None,
    ) -> dict[str, Any]: ...

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        """The capabilities of an adapter, None when they are unknown."""
        ...


@dataclass(frozen=True)
class Outcome:
    """A completed run. Both digests are raw."""

    run_id: str
    mode: ExecutionMode
    steps_executed: int
    request_digest: str
    response_digest: str


@dataclass(frozen=True)
class _Claim:
    """The right to run once. `requested` and `started` are the two events that say so."""

    decision_id: str
    requested: StoredEvent
    started: StoredEvent
    mode: ExecutionMode
    request: Mapping[str, Any]
    request_digest: str


def execute_decision(
    store: EventStore,
    decision_id: str,
    adapter_id: str,
    actor: Actor,
    router: Any,
    dry_run: bool | None,
    *,
    retry: bool,
    identity: Identity = ASSERTED,
    trust: Trust = NO_TRUST,
) -> Outcome:
    """Run the decision's action through `router` if it may run now.

    Raises InputError inside a transaction, which could still undo the record of what ran; a CommandRefused before anything is written;
    RunFailure (with the router's code, or ROUTER_ERROR or ROUTER_RESPONSE_INVALID) after EXECUTION_FAILED was recorded; RunFailure
    OUTCOME_NOT_RECORDED when the run ended but the store could not take it; ExecutionSuperseded when the run ended after another one
    had been claimed. An interruption goes on when EXECUTION_FAILED was recorded with EXECUTION_INTERRUPTED, or EXECUTION_COMPLETED
    when it carries the response of a completed run.
    """
    claim = _claim(store, decision_id, adapter_id, actor, router, dry_run, retry=retry, identity=identity, trust=trust)
    try:
        response: object = router.run(**_arguments(claim, router))
    except Exception as error:  # whatever a router raises is an outcome, and has to be recorded as one
        raise _recorded_failure(store, claim, _failure_of(error)) from error
    except BaseException as error:
        done = _attribute(error, "response")
        try:
            if isinstance(done, dict) and cast("dict[str, object]", done).get("status") == "completed":
                _completed(store, claim, cast("dict[str, object]", done))  # it came too late to end the run
            else:
                _record(store, claim, EventType.EXECUTION_FAILED, _failure_of(error))
        except NexusError as problem:  # an interrupt stays one
            error.add_note(str(problem))
        raise
    return _completed(store, claim, response)


def abandon_execution(store: EventStore, decision_id: str, actor: Actor, reason: str, records: Any = None) -> Decision:
    """Record that an execution under way will never report (its process died): EXECUTION_FAILED with EXECUTION_ABANDONED.

    Whether its side effects happened stays unknown. Where `records` (a router, or a reader of its files) has a run of this execution that
    ended, the event names it and the digest of its response, so that the evidence is not lost. An execution that was started without a
    request, in a log that was written by hand or imported, is given up all the same: there is no run to look for.

    Raises NothingToRecover unless the decision is executing, and what `records` raises for a run that has not ended: it may be alive.
    """
    with store.transaction():
        decision = Decision.load(store, decision_id)
        judge_recovery(decision)
        payload: dict[str, Any] = {
            "error_code": "EXECUTION_ABANDONED",
            "error_message": reason or "The executing process did not report; the outcome is unknown",
            "run_id": None,
        }
        requested, find = request_under_way(decision.events), getattr(records, "run_of_execution", None)
        if requested is not None and callable(find) and (run_id := find(requested.event_id)) is not None:
            payload |= {"run_id": run_id, "response_digest": content_digest(records.flight_record(run_id)["response"])}
        decision.apply_event(store.append_event(decision_id, EventType.EXECUTION_FAILED, actor, payload))
    return decision


def request_under_way(events: Sequence[StoredEvent]) -> StoredEvent | None:
    """The request of the execution that is under way; None where a log that no command wrote tells of a start alone."""
    requested: StoredEvent | None = None
    for event in events:
        if event.event_type is EventType.EXECUTION_REQUESTED:
            requested = event
        elif event.event_type in (EventType.EXECUTION_COMPLETED, EventType.EXECUTION_FAILED):
            requested = None
    return requested


def _claim(
    store: EventStore,
    decision_id: str,
    adapter_id: str,
    actor: Actor,
    router: Any,
    dry_run: bool | None,
    *,
    retry: bool,
    identity: Identity,
    trust: Trust,
) -> _Claim:
    if store.in_transaction:
        raise InputError("nothing can be executed inside a transaction: the run would be real, its record could be undone; end it first")
    # The router is asked before the lock is taken: it may take its time. Whether the decision exists and has a policy is settled first,
    # so that a router is never bothered for nothing. What was read for that is judged, unless the decision has another end by then.
    history = store.history(decision_id, chained=True)
    if not any(event.event_type is EventType.POLICY_ATTACHED for event in history.events):
        raise NoPolicy
    if not callable(getattr(router, "run", None)) or not callable(getattr(router, "get_adapter_capabilities", None)):
        raise InvalidRouter("the router must have the methods run and get_adapter_capabilities")
    capabilities = _capabilities(router, adapter_id)
    with store.transaction():
        end, now = store.end(decision_id), store.clock()
        if history.end is None or end.chain_hash != history.end.chain_hash:
            history = store.history(decision_id, chained=True)
        events = history.events
        decision = Decision.replay(decision_id, without_later_approvals(events, now), as_of=now, trust=trust)
        decision.earlier = past_of(store, decision_id, history)
        judge_identity(decision, "execute", actor, identity, now, trust)
        mode = execution_mode(decision, dry_run)
        try:
            policy = judge_execution(decision, mode, capabilities, retry=retry)
        except PolicyViolation as refusal:
            raise PolicyViolation("; ".join([str(refusal), *_dated_later(events, now)])) from None
        request = policy.compile_to_router_request(decision.goal or "", decision.plan, adapter_id, mode == "dry_run")
        digest = content_digest(request)
        items: list[EventItem] = [
            (EventType.EXECUTION_REQUESTED, actor, {"adapter_id": adapter_id, "dry_run": mode == "dry_run", **identity.members()}),
            (EventType.EXECUTION_STARTED, EXECUTOR, {"router_request_digest": digest}),
        ]
        requested, started = store.append_events(decision_id, items, after=end)
        # A reader judges at the instant that the event carries, which is a moment after `now`.
        at = requested.ts
        if without_later_approvals(events, at) != decision.events or decision.current_approvals(at) != decision.current_approvals(now):
            raise PolicyViolation("Policy validation failed: an approval expired at this moment, or the clock was set; try again")
    return _Claim(decision_id, requested, started, mode, request, digest)


def _dated_later(events: Sequence[StoredEvent], now: datetime) -> list[str]:
    """What to tell somebody whose approvals are in the future."""
    return [
        f"the approval of {event.actor['id']} is dated {event.ts.isoformat()}, later than now ({now.isoformat()}): "
        "the clock was set back, or the clocks of two hosts differ; set them right, then wait for that time, or revoke and approve again"
        for event in events
        if event.event_type is EventType.APPROVAL_GRANTED and event.ts > now
    ]


def _capabilities(router: Any, adapter_id: str) -> set[str] | None:
    try:
        found: object = router.get_adapter_capabilities(adapter_id)
        if isinstance(found, (set, frozenset, list, tuple)):
            return {str(name) for name in cast("set[object]", found)}
    except Exception as error:  # foreign code; nothing was written yet
        raise RunFailure("ROUTER_ERROR", f"the router could not tell its capabilities: {_text_of(error)}") from error
    if found is not None:
        raise InvalidRouter(f"get_adapter_capabilities must return a set or None, got {type(found).__name__}")
    return None


def _arguments(claim: _Claim, router: Any) -> dict[str, Any]:
    request = claim.request
    arguments: dict[str, Any] = {
        "goal": request["goal"],
        "adapter_id": request["adapter_id"],
        "dry_run": request["dry_run"],
        "plan": request.get("plan"),
        "max_steps": request.get("max_steps"),
        "require_capabilities": request.get("require_capabilities"),
    }
    if getattr(router, "accepts_execution_id", False):
        arguments["execution_id"] = claim.requested.event_id
    return arguments


def _completed(store: EventStore, claim: _Claim, response: object) -> Outcome:
    run_id, problem = _run_id_of(response)
    try:
        if run_id is None or problem is not None:
            raise ValueError(problem)
        steps, digest = _content_of(cast("dict[str, Any]", response))
    except ValueError as error:
        payload = {"error_code": "ROUTER_RESPONSE_INVALID", "error_message": _storable(str(error)), "run_id": run_id}
        raise _recorded_failure(store, claim, payload) from None
    _record(store, claim, EventType.EXECUTION_COMPLETED, {"run_id": run_id, "response_digest": digest, "steps_executed": steps})
    return Outcome(run_id, claim.mode, steps, claim.request_digest, digest)


def _content_of(response: dict[str, Any]) -> tuple[int, str]:
    """How many steps were executed, and the digest of it all. Raises ValueError."""
    try:
        digest = content_digest(response)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the response is not canonical JSON: {error}") from None
    steps: object = 0 if response.get("steps_executed") is None else response["steps_executed"]
    if type(steps) is not int or steps < 0:
        raise ValueError("steps_executed must be a non-negative integer")
    return steps, digest


def _run_id_of(response: object) -> tuple[str | None, str | None]:
    """The run id, and what is wrong with the response's outer shape."""
    if not isinstance(response, dict):
        return None, f"the router must return a dict, got {type(response).__name__}"
    value = cast("dict[object, object]", response).get("run_id")
    if type(value) is int and value.bit_length() <= _RUN_ID_BITS:
        return str(value), None
    if not isinstance(value, str) or not value:
        return None, "the response has no run_id"
    stored = _storable(value)
    return stored, None if stored == value else "run_id cannot be stored as text"


def _failure_of(error: BaseException) -> dict[str, Any]:
    """The payload of EXECUTION_FAILED for an exception, with the evidence that it carries."""
    run_id, response = _attribute(error, "run_id"), _attribute(error, "response")
    code = "EXECUTION_INTERRUPTED"  # KeyboardInterrupt, SystemExit (whose `code` is an exit code), a cancelled task: no fault of the router
    if isinstance(error, Exception):
        own_code = _attribute(error, "code")
        code = _storable(own_code) if isinstance(own_code, str) and own_code else "ROUTER_ERROR"
    payload: dict[str, Any] = {
        "error_code": code,
        "error_message": _text_of(error),
        "run_id": _storable(run_id) if isinstance(run_id, str) and run_id else None,
    }
    if isinstance(response, dict):
        try:
            payload["response_digest"] = content_digest(response)
        except (TypeError, ValueError):
            payload["error_message"] += " (its response is not canonical JSON)"
    return payload


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except Exception:  # foreign code: what it cannot say is not recorded, but that the run failed is
        return None


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # as above
        text = ""
    return _storable(text or type(error).__name__)


def _storable(text: str) -> str:
    """The text, shortened when it is very long, with what UTF-8 cannot express written as an escape."""
    cut = text if len(text) <= _MESSAGE_LIMIT else f"{text[:_MESSAGE_LIMIT]} ... ({len(text)} characters)"
    return cut.encode("utf-8", "backslashreplace").decode()


def _recorded_failure(store: EventStore, claim: _Claim, payload: dict[str, Any]) -> RunFailure:
    _record(store, claim, EventType.EXECUTION_FAILED, payload)
    return RunFailure(payload["error_code"], payload["error_message"])


def _record(store: EventStore, claim: _Claim, event_type: EventType, payload: Mapping[str, Any]) -> None:
    """Append the outcome to the execution that was claimed, and to no other.

    One that was meanwhile abandoned takes it too: what is known late is still what happened.
    """
    try:
        with store.transaction():
            end = store.end(claim.decision_id)
            if end.chain_hash != claim.started.chain_hash and not _is_latest(store, claim):
                raise ExecutionSuperseded(
                    f"Run {payload['run_id']} ended, but its execution had been abandoned and another one was claimed since, or the "
                    f"decision was replaced; the decision does not get this outcome, only the router's record of the run has it: "
                    f"{dict(payload)}"
                )
            store.append_event(claim.decision_id, event_type, EXECUTOR, payload, after=end)
    except ExecutionSuperseded:
        raise
    except NexusError as error:
        raise RunFailure(
            "OUTCOME_NOT_RECORDED",
            f"Run {payload['run_id']} ended ({event_type.value}) but could not be recorded: {error}. "
            "A decision that is still there stays in EXECUTING; use recover_execution once the store works again",
        ) from error


def _is_latest(store: EventStore, claim: _Claim) -> bool:
    """Whether nobody has claimed an execution since, in whatever generation."""
    latest = store.latest_event(claim.decision_id, EventType.EXECUTION_REQUESTED)
    return latest is not None and (latest.seq, latest.position) == (claim.requested.seq, claim.requested.position)
