"""What a durable write costs.

Floor: INSERT and COMMIT of as many rows by `sqlite3` alone, on the same disk. The goals are for the same rows in the engine's own tables,
with their keys and indexes; for comparison, rows of the same text size in two tables that have a position for a key, and nothing else.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from time import perf_counter
from typing import Self

from bench.floors import SameRowsFloor, WriteFloor, fact_texts
from bench.harness import Operation, Result, Settings, by_turns, ratio, ratio_of
from bench.workload import ALICE, approve, flow, package_with, request, verified
from nexus_control import event_rows
from nexus_control.audit_package import verify_audit_package
from nexus_control.events import EventType
from nexus_control.integrity import sha256_digest
from nexus_control.log import LogWriter
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

_REQUEST, _APPROVAL = slice(0, 3), slice(3, 4)
_FLOW = (_REQUEST, _APPROVAL, slice(4, 5), slice(5, 7), slice(7, 8))
"""Which facts (header and seven events) each commit of a flow writes: request, two approvals, claim and outcome of the execution."""

_TURNS = 100
"""So many decisions are appended to in turn."""

_PAYLOAD = {"expires_at": None, "comment": "Checked against the change calendar"}


def append_event(settings: Settings) -> Iterator[Result]:
    """One event, to a hundred decisions in turn."""
    with _Files(settings, "append_event") as files:
        with files.store.transaction():
            turn = cycle([request(files.tools) for _ in range(_TURNS)])
        same = cycle(files.rows.prepare(_REQUEST, _TURNS))
        yield from files.ratios(
            lambda: files.store.append_event(next(turn), EventType.APPROVAL_GRANTED, ALICE, _PAYLOAD),
            lambda: files.rows.append(next(same), _APPROVAL),
            [_APPROVAL],
            goal=2,
        )


def append_logged(settings: Settings) -> Iterator[Result]:
    """The same event by the same engine, with its leaf and without: what the log costs."""
    with DecisionStore(settings.directory / "logged.db") as logged, DecisionStore(settings.directory / "unlogged.db") as plain:
        turns: list[Iterator[str]] = []
        for store in (logged, plain):
            with store.transaction():
                turns.append(cycle([request(NexusControlTools(store)) for _ in range(_TURNS)]))

        def with_log() -> None:
            logged.append_event(next(turns[0]), EventType.APPROVAL_GRANTED, ALICE, _PAYLOAD)

        def without() -> None:
            with _no_leaves():
                plain.append_event(next(turns[1]), EventType.APPROVAL_GRANTED, ALICE, _PAYLOAD)

        yield ratio("append_event with the log over without", settings, with_log, without, goal=1.3, clock=perf_counter)


class _NoLeaves(LogWriter):
    """Gives positions, keeps no leaves."""

    def add(self, kind: str, record: bytes) -> str:
        del kind
        self.position += 1
        return sha256_digest(record)


@contextmanager
def _no_leaves() -> Generator[None]:
    """The engine's writers without the log: positions follow from the events, no leaf is hashed or stored."""
    kept: dict[str, object] = {name: getattr(event_rows, name) for name in ("LogWriter", "_TIP")}
    event_rows.LogWriter = _NoLeaves
    setattr(event_rows, "_TIP", str(kept["_TIP"]).replace("FROM log", "FROM decision_events"))  # noqa: B010
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(event_rows, name, value)


def request_decision(settings: Settings) -> Iterator[Result]:
    """A new decision: its header and two events."""
    with _Files(settings, "request") as files:
        yield from files.ratios(lambda: request(files.tools), lambda: files.rows.again([_REQUEST]), [_REQUEST], goal=2)


def approve_decision(settings: Settings) -> Iterator[Result]:
    """The first approval of a decision: it is read, judged and appended to."""
    with _Files(settings, "approve") as files:
        rounds = settings.most_rounds + 1
        with files.store.transaction():
            turn = iter([request(files.tools) for _ in range(rounds)])
        same = iter(files.rows.prepare(_REQUEST, rounds))
        yield from files.ratios(
            lambda: approve(files.tools, next(turn)), lambda: files.rows.append(next(same), _APPROVAL), [_APPROVAL], goal=2
        )


def full_flow(settings: Settings) -> Iterator[Result]:
    """Request, two approvals, execution by a router that does nothing, audit package with the run's record, its verification."""
    with _Files(settings, "full_flow") as files:

        def everything() -> None:
            package = package_with(files.tools, flow(files.tools))
            verified(verify_audit_package(package, strict=True, expected_binding_digest=package["integrity"]["binding_digest"]))

        yield from files.ratios(everything, lambda: files.rows.again(_FLOW), _FLOW, goal=3)


class _Files:
    """A file of the engine and one of each floor, side by side: commits to one do not empty the caches of another."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        path, rows = settings.directory / f"{name}.db", settings.directory / f"{name}-rows.db"
        with DecisionStore(rows) as typical:
            decision_id = flow(NexusControlTools(typical))
        self._facts = fact_texts(rows, decision_id)
        self.rows = SameRowsFloor(rows, decision_id)
        self._bare = WriteFloor(settings.directory / f"{name}-floor.db")
        self.store = DecisionStore(path)
        self.tools = NexusControlTools(self.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self._bare.close()
        self.rows.close()

    def ratios(self, operation: Operation, same_rows: Operation, commits: Sequence[slice], goal: float) -> Iterator[Result]:
        """The operation against the same rows in the same tables, which the goal is for, and against as many in bare tables: these facts
        of a typical decision, each slice in one commit.
        """
        texts = [self._facts[commit] for commit in commits]

        def bare() -> None:
            for group in texts:
                self._bare.commit(group)

        ours, same, least = by_turns(self._settings, operation, same_rows, bare, clock=perf_counter)
        yield ratio_of(self._name, ours, same, goal)
        yield ratio_of(f"{self._name}, over two bare tables", ours, least, None)
