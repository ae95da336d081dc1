"""Could the commands of a store have written these events? What every command refuses, or never writes, is no history that happened.

The rules are those of `tool` and `execution`, for what the events alone can tell: the state in which each event stands, what it takes back,
ends or follows, and the values that it can hold. They are asked of the events as they are told, so digests and chains do not matter.

A store writes what its clock says, and clocks are set back: times that go back are remarks. So is an action that is defined anew, which no
command does and which approvals do not survive, and ids that look the same, which stores have not always refused. Whether the approvals
sufficed is not asked here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

from nexus_control.events import EventType, StoredEvent
from nexus_control.integrity import DIGEST_PATTERN, prefixed
from nexus_control.judgement import EXECUTOR
from nexus_control.likeness import alike
from nexus_control.policy import POLICY_FIELDS, Policy
from nexus_control.verification import Finding

__all__ = ["event_findings"]

_MOST_TOLD = 10
"""So many findings name their events; whoever forges thousands is not listened to for longer."""

_AS_WRITTEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.(?!000000)[0-9]{6})?\+00:00")
"""What `datetime.isoformat` gives for a time in UTC; asked of texts that are times."""

_TEMPLATE_MEMBERS = ("template_name", "template_digest", "template_snapshot", "overrides_applied")


def event_findings(events: Sequence[StoredEvent]) -> Iterator[Finding]:
    """What no command would have written, at most ten of them, and what is to be remarked. `events` can be replayed."""
    history = _Past()
    failures = (Finding(f"event {event.seq} ({event.event_type}) {problem}") for event in events for problem in history.problems(event))
    yield from islice(failures, _MOST_TOLD)
    yield from _remarks(events)


def _remarks(events: Sequence[StoredEvent]) -> Iterator[Finding]:
    back = [str(later.seq) for earlier, later in pairwise(events) if later.ts < earlier.ts]
    if back:
        what = "are dated before the ones before them: a clock was set back, or the clocks of several hosts differ"
        yield Finding(f"events {_listed(back)} {what}", fails=False)
    anew = [str(event.seq) for event in events[2:] if event.event_type in (EventType.DECISION_CREATED, EventType.POLICY_ATTACHED)]
    if anew:
        yield Finding(f"events {_listed(anew)} define the action anew, which no command does", fails=False)
    named = (event.actor["id"] for event in events if event.event_type in (EventType.DECISION_CREATED, EventType.APPROVAL_GRANTED))
    for twins in islice(alike(named), _MOST_TOLD):
        names = _listed([ascii(name)[:100] for name in twins])
        yield Finding(f"different ids that look the same requested or approved it: {names}", fails=False)


def _listed(numbers: Sequence[str]) -> str:
    more = len(numbers) - _MOST_TOLD
    return ", ".join(numbers[:_MOST_TOLD]) + (f" and {more} more" if more > 0 else "")


class _Past:
    """What came before an event, as far as it decides what may come next."""

    def __init__(self) -> None:
        self.state = "new"
        """`new`, `draft`, `open` for approvals, `executing`, `completed` or `failed`."""
        self.standing: dict[str, bool] = {}
        """Actor ids that approved: whether they have not revoked since."""
        self.requested: StoredEvent | None = None
        """The run that is under way."""
        self.last: EventType | None = None
        self.mode = "dry_run"
        self.ended = False
        """Whether an end of the last run was told already."""

    def problems(self, event: StoredEvent) -> Iterator[str]:
        """Why the event could not be written next; takes note of it."""
        kind = event.event_type
        if self.last is EventType.EXECUTION_REQUESTED and kind is not EventType.EXECUTION_STARTED:
            yield "stands where the run starts that the event before it requests"
        if self.state == "new" and kind is not EventType.DECISION_CREATED:
            yield "comes before the decision was created"
        yield from _RULES[kind](self, event)
        self.last = kind

    def end(self, state: str) -> None:
        """Take note of the end of the run."""
        self.state, self.requested, self.ended = state, None, True


def _created(past: _Past, event: StoredEvent) -> Iterator[str]:
    yield from _not_under_way(past)
    if not event.payload.get("goal"):
        yield "has no goal"
    past.state, past.mode = "draft", event.payload.get("requested_mode") or "dry_run"


def _attached(past: _Past, event: StoredEvent) -> Iterator[str]:
    yield from _not_under_way(past)
    payload = event.payload
    policy = Policy.from_dict(payload)
    values = policy.to_dict()
    for name in POLICY_FIELDS:
        if name in payload and not _same(payload[name], values[name]):
            yield f"has a {name} that is none"
    if not policy.allows_mode(past.mode):
        yield f"does not allow the mode {past.mode:.20}, which was requested"
    yield from _template_problems(payload, values)
    past.state = "open"


def _template_problems(payload: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    """A policy is that of its template as it was, but for what was overridden."""
    name = payload.get("template_name")
    if not name:
        if any(payload.get(member) for member in _TEMPLATE_MEMBERS):
            yield "is from a template without a name"
        return
    snapshot: Mapping[str, Any] = payload.get("template_snapshot") or {}
    applied: Mapping[str, Any] = payload.get("overrides_applied") or {}
    if not DIGEST_PATTERN.fullmatch(prefixed(payload.get("template_digest") or "")):
        yield "does not name its template by a digest"
    if snapshot.get("template_name") != name:
        yield "is not from the template whose snapshot it has"
    if not applied.keys() <= set(POLICY_FIELDS):
        yield "overrides what no template has"
    for field in POLICY_FIELDS:
        if not _same(applied.get(field, snapshot.get(field)), values[field]):
            yield f"has another {field} than its template and what was overridden"


def _granted(past: _Past, event: StoredEvent) -> Iterator[str]:
    if past.state != "open":
        yield f"approves a decision that is {past.state}"
    payload = event.payload
    if "comment" in payload and not payload["comment"]:
        yield "has an empty comment"
    if payload.get("expires_at") is not None and not _AS_WRITTEN.fullmatch(payload["expires_at"]):
        yield "has an expires_at that is not in UTC as it is written"
    past.standing[event.actor["id"]] = True


def _revoked(past: _Past, event: StoredEvent) -> Iterator[str]:
    if past.state in ("executing", "completed"):
        yield f"revokes in a decision that is {past.state}"
    if not past.standing.get(event.actor["id"], False):
        yield "revokes what was not approved, or was revoked already"
    past.standing[event.actor["id"]] = False


def _requested(past: _Past, event: StoredEvent) -> Iterator[str]:
    if not event.payload.get("adapter_id"):
        yield "names no adapter"
    past.requested, past.ended = event, False


def _started(past: _Past, event: StoredEvent) -> Iterator[str]:
    if past.last is not EventType.EXECUTION_REQUESTED:
        yield "starts a run that the event before it does not request"
    if past.requested is not None and event.ts < past.requested.ts:
        yield "starts a run before it was requested"
    yield from _by_executor(event)
    past.state = "executing"


def _completed(past: _Past, event: StoredEvent) -> Iterator[str]:
    steps = event.payload.get("steps_executed")
    if not event.payload.get("run_id"):
        yield "has no run_id"
    if steps is not None and steps < 0:
        yield "has less than no steps"
    yield from _by_executor(event)
    past.end("completed")


def _failed(past: _Past, event: StoredEvent) -> Iterator[str]:
    if not event.payload.get("error_code"):
        yield "has no error_code"
    if event.payload.get("error_code") != "EXECUTION_ABANDONED" or past.ended:
        yield from _by_executor(event)
    past.end("failed")


def _of_a_template(past: _Past, event: StoredEvent) -> Iterator[str]:
    del past, event
    yield "belongs into the log of a template"


_RULES: Mapping[EventType, Callable[[_Past, StoredEvent], Iterator[str]]] = {
    EventType.DECISION_CREATED: _created,
    EventType.POLICY_ATTACHED: _attached,
    EventType.APPROVAL_GRANTED: _granted,
    EventType.APPROVAL_REVOKED: _revoked,
    EventType.EXECUTION_REQUESTED: _requested,
    EventType.EXECUTION_STARTED: _started,
    EventType.EXECUTION_COMPLETED: _completed,
    EventType.EXECUTION_FAILED: _failed,
    EventType.TEMPLATE_CREATED: _of_a_template,
}


def _not_under_way(past: _Past) -> Iterator[str]:
    if past.requested is not None:
        yield "defines the action anew while a run is under way"


def _by_executor(event: StoredEvent) -> Iterator[str]:
    if event.actor != EXECUTOR:
        yield f"is told by {event.actor['type']} {event.actor['id']:.100}, not by what runs executions"


def _same(given: object, value: object) -> bool:
    """Equality of a JSON value with one of a policy; `==` would take true for 1."""
    return type(given) is type(value) and given == value
