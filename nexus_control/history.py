"""A decision's events as evidence: one decision's own, in order, and the runs that they tell of.

Reads nothing but a bundle. Whether a run was allowed, and what it is worth, is judged by the layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nexus_control.bundle_checks import Content
from nexus_control.decision import Decision, without_later_approvals
from nexus_control.errors import MalformedEvent
from nexus_control.events import EventType, ExecutionMode, StoredEvent

__all__ = ["History", "Run", "read_history"]

_MOST_STEPS = 2_000_000
"""So many events are replayed in all. Every run replays those before it, and a forged file can have many of both."""

_MOST_KEPT = 20_000
"""As long as these are no more, what they made is kept for the next who asks."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution: who asked for it, when it started, how it ended; None for what is not there.

    A run that was abandoned and reported after all has two ends; the last one is what is known.
    """

    requested: StoredEvent
    started: StoredEvent | None = None
    ended: StoredEvent | None = None

    @property
    def mode(self) -> ExecutionMode:
        """What the request said; one that does not say that it is a rehearsal is the real run."""
        return "dry_run" if self.requested.payload.get("dry_run") is True else "apply"


@dataclass(frozen=True, slots=True)
class History:
    """The events of a decision, where `events[n].seq == n`, with their runs in order.

    `decision` is what all events make, expiry judged at the last one.
    """

    decision: Decision
    runs: Sequence[Run]
    _replayed: dict[int, Decision] = field(default_factory=dict[int, Decision], init=False, compare=False, repr=False)

    @property
    def events(self) -> Sequence[StoredEvent]:
        """All events, in order."""
        return self.decision.events

    @property
    def judged_runs(self) -> Sequence[Run]:
        """As many runs as can be judged in bounded time, the latest ones: the package is about the last."""
        return self.runs[-max(1, _MOST_STEPS // max(1, len(self.events))) :]

    def before(self, run: Run) -> Decision:
        """The decision as it stood when this run was requested, expiry judged at that instant.

        An approval that is dated later than the run is none. Not to be changed.
        """
        seq, at = run.requested.seq, run.requested.ts
        if seq in self._replayed:
            return self._replayed[seq]
        known = without_later_approvals(self.events[:seq], at)
        decision = Decision.replay(self.decision.decision_id, known, as_of=at)
        if run is self.runs[-1] or len(self.runs) * len(self.events) <= _MOST_KEPT:  # every layer asks again
            self._replayed[seq] = decision
        return decision

    def before_last_run(self) -> Decision:
        """The decision as it stood when its last run was requested; as it is, when nothing was run."""
        return self.before(self.runs[-1]) if self.runs else self.decision


def read_history(content: Content) -> History:
    """The history that a bundle tells.

    Raises MalformedEvent or InvalidActor for an event that cannot be understood, is another decision's, is not where its seq says, or
    starts or ends a run that nobody requested.
    """
    decision_id = content.bundle.decision.decision_id
    for place, given in enumerate(content.bundle.events):
        if given.seq != place:
            raise MalformedEvent(f"event {given.seq} stands where {place} belongs")
        if given.decision_id != decision_id or given.event_id != f"evt_{decision_id}_{place}":
            raise MalformedEvent(f"event {place} says that it is {given.event_id!r:.100} of decision {given.decision_id!r:.100}")
    return History(content.decision, _runs(content.decision.events))


def _runs(events: Sequence[StoredEvent]) -> list[Run]:
    runs: list[Run] = []
    for event in events:
        kind = event.event_type
        if kind is EventType.EXECUTION_REQUESTED:
            if runs and runs[-1].ended is None:
                raise MalformedEvent(f"event {event.seq} requests a run while another one is under way")
            runs.append(Run(event))
        elif kind is EventType.EXECUTION_STARTED:
            if not runs or runs[-1].started is not None or runs[-1].ended is not None:
                raise MalformedEvent(f"event {event.seq} starts a run that nobody requested")
            runs[-1] = Run(runs[-1].requested, event)
        elif kind in (EventType.EXECUTION_COMPLETED, EventType.EXECUTION_FAILED):
            if not runs or not _may_end(runs[-1]):
                raise MalformedEvent(f"event {event.seq} ends a run that nobody requested")
            runs[-1] = Run(runs[-1].requested, runs[-1].started, event)
    return runs


def _may_end(run: Run) -> bool:
    """Not ended yet, or only given up."""
    return run.ended is None or run.ended.payload.get("error_code") == "EXECUTION_ABANDONED"
