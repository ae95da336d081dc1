"""Runs and their events, in the two tables that nexus-router uses, so that its tools can read our files.

An event is committed before what it announces happens. Events are only ever inserted; a run's status changes once, from RUNNING to
COMPLETED or FAILED, together with its last event.

As long as they are in place, triggers refuse any other change, removal or replacement of a row, to every program that goes through
SQLite. Whoever may write the file may also drop them. They do not judge what is added: a further event of an ended run is let through.
Tables that nexus-router made stay as they are: their hidden row numbers are keys that the triggers cannot look at, ours have none.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

from nexus_attest.routers.errors import RunNotFinished, RunNotFound
from nexus_attest.routers.event_ids import EventIds
from nexus_attest.routers.run_lock import RunLock
from nexus_control.backend import insert
from nexus_control.database import Database
from nexus_control.errors import StoreUnreadable
from nexus_control.events import Clock
from nexus_control.flight_record import RECORDED_BY, Run, RunEvent, flight_record
from nexus_control.migration import Schema
from nexus_control.run_json import run_json
from nexus_control.sqlite import Connection

__all__ = ["FOREIGN_TABLES", "EventRow", "NewEvent", "RunRecorder", "RunStore", "event_of", "event_row", "new_rows", "run_time"]

FOREIGN_TABLES = frozenset({"runs", "events"})
"""Those of nexus-router, in whose files runs may be kept."""

_SCHEMA = Schema(
    "runs",
    slot=2,
    foreign_tables=FOREIGN_TABLES,
    migrations=(
        (
            """
            CREATE TABLE IF NOT EXISTS runs (
                run_id     TEXT NOT NULL PRIMARY KEY,
                mode       TEXT NOT NULL,
                goal       TEXT NOT NULL,
                status     TEXT NOT NULL CHECK (status IN ('RUNNING', 'COMPLETED', 'FAILED')),
                created_at TEXT NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE IF NOT EXISTS events (
                event_id     TEXT    NOT NULL UNIQUE,
                run_id       TEXT    NOT NULL REFERENCES runs (run_id),
                seq          INTEGER NOT NULL CHECK (seq >= 0),
                type         TEXT    NOT NULL,
                payload_json TEXT    NOT NULL,
                ts           TEXT    NOT NULL,
                PRIMARY KEY (run_id, seq)
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TRIGGER runs_end_once BEFORE UPDATE ON runs
            WHEN OLD.status IS NOT 'RUNNING' OR (NEW.status IN ('COMPLETED', 'FAILED')) IS NOT TRUE OR NEW.run_id IS NOT OLD.run_id
                OR NEW.mode IS NOT OLD.mode OR NEW.goal IS NOT OLD.goal OR NEW.created_at IS NOT OLD.created_at
            BEGIN SELECT RAISE(ABORT, 'a run changes only its status, and only once'); END
            """,
            "CREATE TRIGGER runs_refuse_delete BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'runs are kept'); END",
            "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events is append-only'); END",
            "CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events is append-only'); END",
            # INSERT OR REPLACE deletes the row in its way without firing delete triggers.
            """
            CREATE TRIGGER runs_refuse_replace BEFORE INSERT ON runs
            WHEN EXISTS (SELECT 1 FROM runs WHERE run_id = NEW.run_id)
            BEGIN SELECT RAISE(ABORT, 'runs are kept'); END
            """,
            """
            CREATE TRIGGER events_refuse_replace BEFORE INSERT ON events
            WHEN EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)
                OR EXISTS (SELECT 1 FROM events WHERE run_id = NEW.run_id AND seq = NEW.seq)
            BEGIN SELECT RAISE(ABORT, 'events is append-only'); END
            """,
        ),
        (
            "CREATE INDEX runs_under_way ON runs (run_id) WHERE status = 'RUNNING'",
            # A payload that somebody edited into no JSON must not keep the others from being found.
            """
            CREATE INDEX events_by_execution ON events (json_extract(payload_json, '$.execution_id'))
            WHERE type = 'REQUEST_RECORDED' AND json_valid(payload_json)
            """,
        ),
        (
            # For the runs of nexus-router, whose events have no place for it.
            """
            CREATE TABLE run_executions (
                run_id       TEXT NOT NULL PRIMARY KEY REFERENCES runs (run_id),
                execution_id TEXT NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
            "CREATE INDEX run_executions_by_execution ON run_executions (execution_id)",
            """
            CREATE TRIGGER run_executions_refuse_update BEFORE UPDATE ON run_executions
            BEGIN SELECT RAISE(ABORT, 'run_executions is append-only'); END
            """,
            """
            CREATE TRIGGER run_executions_refuse_delete BEFORE DELETE ON run_executions
            BEGIN SELECT RAISE(ABORT, 'run_executions is append-only'); END
            """,
            """
            CREATE TRIGGER run_executions_refuse_replace BEFORE INSERT ON run_executions
            WHEN EXISTS (SELECT 1 FROM run_executions WHERE run_id = NEW.run_id)
            BEGIN SELECT RAISE(ABORT, 'run_executions is append-only'); END
            """,
        ),
    ),
)

_INSERT_RUN = "INSERT INTO runs (run_id, mode, goal, status, created_at) VALUES (:run_id, :mode, :goal, :status, :created_at)"
_END_RUN = "UPDATE runs SET status = :status WHERE run_id = :run_id"
_INSERT_EVENT = "INSERT INTO events (event_id, run_id, seq, type, payload_json, ts) VALUES (?, ?, ?, ?, ?, ?)"
_SELECT_RUN = "SELECT run_id, mode, goal, status, created_at FROM runs WHERE run_id = :run_id"
_SELECT_RUNS = """
    SELECT run_id, mode, goal, status, created_at FROM runs WHERE :status IS NULL OR status = :status
    ORDER BY created_at DESC, run_id LIMIT :limit OFFSET :offset"""
_SELECT_OURS_RUNNING = """
    SELECT run_id FROM runs WHERE status = 'RUNNING'
    AND EXISTS (SELECT 1 FROM events WHERE events.run_id = runs.run_id AND type = 'REQUEST_RECORDED')"""
_INSERT_EXECUTION = "INSERT INTO run_executions (run_id, execution_id) VALUES (:run_id, :execution_id)"
_SELECT_RUN_OF_EXECUTION = """
    SELECT run_id, ts FROM events
    WHERE type = 'REQUEST_RECORDED' AND json_valid(payload_json) AND json_extract(payload_json, '$.execution_id') = :execution_id
    UNION ALL
    SELECT run_id, created_at FROM run_executions JOIN runs USING (run_id) WHERE execution_id = :execution_id
    ORDER BY ts DESC, run_id LIMIT 1"""
_SELECT_EXECUTIONS = """
    SELECT run_id, json_extract(payload_json, '$.execution_id') AS execution_id, ts FROM events
    WHERE type = 'REQUEST_RECORDED' AND json_valid(payload_json) AND typeof(json_extract(payload_json, '$.execution_id')) = 'text'
    UNION ALL
    SELECT run_id, execution_id, created_at FROM run_executions JOIN runs USING (run_id)
    ORDER BY ts, run_id"""
_SELECT_EVENTS = "SELECT event_id, run_id, seq, type, payload_json, ts FROM events WHERE run_id = :run_id ORDER BY seq"

NewEvent: TypeAlias = tuple[str, dict[str, object]]
"""Type and payload of an event that is to be recorded."""


class EventRow(NamedTuple):
    """An event as it is stored: the columns of its row."""

    event_id: str
    run_id: str
    seq: int
    type: str
    payload_json: str
    ts: str


def run_time(moment: datetime) -> str:
    """A time as run records write it: UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RunStore:
    """A file, or `:memory:`, that keeps runs. Usable from several threads; a file from several processes.

    Every method raises StoreError when the database cannot do its work.
    """

    def __init__(self, db_path: str | Path = ":memory:") -> None:
        self._database = Database(db_path, _SCHEMA)
        self._file = None if str(db_path) == ":memory:" else Path(db_path).resolve()  # two names of one file have one lock

    def lock(self, run_id: str) -> AbstractContextManager[object]:
        """What a process holds from before a run begins until after it has ended."""
        return nullcontext() if self._file is None else RunLock(self._file, run_id)

    def begin(self, run: Run, events: Sequence[EventRow], *, execution_id: str | None = None) -> None:
        """Store a new run together with its first events; `execution_id` is that of a run whose events do not name it."""
        with self._database.transaction() as connection:
            insert(connection, _INSERT_RUN, [run])
            insert(connection, _INSERT_EVENT, events)
            if execution_id is not None:
                insert(connection, _INSERT_EXECUTION, [{"run_id": run["run_id"], "execution_id": execution_id}])

    def append(self, events: Sequence[EventRow], status: str | None = None) -> None:
        """Store more events of a running run; with the last one its status, COMPLETED or FAILED."""
        with self._database.transaction() as connection:
            insert(connection, _INSERT_EVENT, events)
            if status is not None:
                connection.execute(_END_RUN, {"run_id": events[-1].run_id, "status": status})

    def close_run(self, run_id: str, ending: Callable[[Run, list[RunEvent]], Sequence[EventRow]]) -> tuple[Run, list[RunEvent]]:
        """End a run as FAILED with the events that `ending` makes of what is stored; nothing when it has ended already.

        Gives the run and all its events as they are stored then.
        """
        with self._database.transaction() as connection:
            run, events = _read(connection, run_id)
            if run["status"] == "RUNNING":
                last = ending(run, events)
                insert(connection, _INSERT_EVENT, last)
                connection.execute(_END_RUN, {"run_id": run_id, "status": "FAILED"})
                events.extend(map(event_of, last))
                run["status"] = "FAILED"
        return run, events

    def close_dead(self, ending: Callable[[Run, list[RunEvent]], Sequence[EventRow]]) -> list[str]:
        """`close_run` for every run of ours whose process is dead; their ids. Runs of other programs are left alone."""
        if self._file is None:
            return []
        with self._database.snapshot() as connection:
            running = [row["run_id"] for row in connection.execute(_SELECT_OURS_RUNNING)]
        closed: list[str] = []
        for run_id in running:
            lock = RunLock(self._file, run_id)
            if not lock.take_over():
                continue
            try:
                self.close_run(run_id, ending)
                closed.append(run_id)
            except (LookupError, TypeError, ValueError, StoreUnreadable):
                continue  # somebody edited it, and what it says cannot be understood: no reason to run nothing else
            finally:
                lock.release()
        return closed

    def interrupted(self) -> list[str]:
        """The runs of ours that `close_dead` would close, which are left as they are."""
        if self._file is None:
            return []
        with self._database.snapshot() as connection:
            running = [row["run_id"] for row in connection.execute(_SELECT_OURS_RUNNING)]
        dead: list[str] = []
        for run_id in running:
            lock = RunLock(self._file, run_id)
            if lock.take_over():
                lock.release()
                dead.append(run_id)
        return dead

    def executions(self) -> list[tuple[str, str]]:
        """Each run that was made for an execution of a decision, and the id of that."""
        with self._database.snapshot() as connection:
            return [(row["run_id"], row["execution_id"]) for row in connection.execute(_SELECT_EXECUTIONS)]

    def runs(self, *, limit: int, offset: int = 0, status: str | None = None) -> list[Run]:
        """Runs, newest first; with `status` only those that have it."""
        with self._database.snapshot() as connection:
            rows = connection.execute(_SELECT_RUNS, {"limit": limit, "offset": offset, "status": status}).fetchall()
        return [_run(row) for row in rows]

    def run_of_execution(self, execution_id: str) -> str | None:
        """The latest run that was made for an execution of a decision, None when there is none."""
        with self._database.snapshot() as connection:
            row = connection.execute(_SELECT_RUN_OF_EXECUTION, {"execution_id": execution_id}).fetchone()
        return None if row is None else row["run_id"]

    def read(self, run_id: str) -> tuple[Run, list[RunEvent]]:
        """A run as it stands, with its events in order. Raises RunNotFound."""
        with self._database.snapshot() as connection:
            return _read(connection, run_id)

    def finished(self, run_id: str) -> tuple[Run, list[RunEvent]]:
        """A run that has ended, with its events in order. Raises RunNotFound or RunNotFinished."""
        run, events = self.read(run_id)
        if run["status"] == "RUNNING":
            raise RunNotFinished(f"Run has not ended: {run_id}")
        return run, events

    def flight_record(self, run_id: str, *, exported_at: datetime) -> dict[str, Any]:
        """The flight record of a run that ended: what an audit package embeds. Raises RunNotFound or RunNotFinished."""
        run, events = self.finished(run_id)
        return flight_record(run, events, exported_at=run_time(exported_at))

    def close(self) -> None:
        """Close the database. Closing again does nothing."""
        self._database.close()


class RunRecorder:
    """Writes the events of one run, in order. `run` and `events` hold what was stored.

    `watch` is shown each event after it was committed.
    """

    run: Run

    def __init__(
        self,
        store: RunStore,
        run_id: str,
        *,
        clock: Clock,
        new_id: EventIds,
        watch: Callable[[RunEvent], None] | None = None,
    ) -> None:
        self.run_id = run_id
        self.reached = False
        """Whether the call that was requested last may have been made: what is written when it never gets a result."""

        self._rows: list[EventRow] = []
        self._read: list[RunEvent] = []
        self._waiting: list[EventRow] = []
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._watch = watch

    def begin(self, mode: str, goal: str, *events: NewEvent) -> None:
        """Store the run, RUN_STARTED and the events that follow it, in one transaction."""
        made = self._made([("RUN_STARTED", {"mode": mode, "goal": goal, "recorded_by": RECORDED_BY}), *events], 0)
        self.run = Run(run_id=self.run_id, mode=mode, goal=goal, status="RUNNING", created_at=made[0].ts)
        self._store.begin(self.run, made)
        self._stored(made)

    def later(self, event_type: str, **payload: object) -> None:
        """Store an event together with the next one that is added; `flush` when none comes soon."""
        self._waiting += self._made([(event_type, payload)])

    def add(self, event_type: str, **payload: object) -> None:
        """Store an event; it, and what waited, is committed when this returns."""
        self.later(event_type, **payload)
        self.flush()

    def flush(self) -> None:
        """Store what waits."""
        if self._waiting:
            self._store.append(self._waiting)
            self._stored(self._waiting)

    def end(self, *events: NewEvent) -> None:
        """Store the last events, of which the last is RUN_COMPLETED or RUN_FAILED, and the status that goes with it."""
        last = [*self._waiting, *self._made(events)]  # not waiting themselves: should this fail, the run has another end
        status = events[-1][0].removeprefix("RUN_")
        self._store.append(last, status)
        self.run["status"] = status
        self._stored(last)

    @property
    def events(self) -> list[RunEvent]:
        """What is stored, as it will be read."""
        self._read.extend(map(event_of, self._rows[len(self._read) :]))
        return self._read

    @property
    def ended(self) -> bool:
        """Whether the run is stored, with its end."""
        return bool(self._rows) and self.run["status"] != "RUNNING"

    @property
    def waiting(self) -> tuple[RunEvent, ...]:
        """What is known and not stored yet."""
        return tuple(map(event_of, self._waiting))

    def close(self, ending: Callable[[Run, list[RunEvent]], Sequence[NewEvent]]) -> None:
        """End the run as FAILED, whatever was stored of it last, unless it has its end already.

        `ending` gets the run and all its events, those that wait among them.
        """

        def last(run: Run, stored: list[RunEvent]) -> list[EventRow]:
            waiting = [row for row in self._waiting if row.seq >= len(stored)]  # a commit may be interrupted after it was done
            if waiting and waiting[-1].type == "TOOL_CALL_REQUESTED":
                waiting.pop()  # it was not stored, so the call was not made
            known = [*stored, *map(event_of, waiting)]
            return waiting + self._made(ending(run, known), len(known))

        self.run, events = self._store.close_run(self.run_id, last)
        self._stored([event_row(event) for event in events[len(self._rows) :]])

    def _made(self, events: Iterable[NewEvent], first_seq: int | None = None) -> list[EventRow]:
        return new_rows(
            self.run_id,
            events,
            len(self._rows) + len(self._waiting) if first_seq is None else first_seq,
            clock=self._clock,
            new_id=self._new_id,
        )

    def _stored(self, rows: Sequence[EventRow]) -> None:
        self._rows.extend(rows)
        self._waiting = []
        if self._watch is not None:
            for row in rows:
                with suppress(Exception):  # whoever watches a run must not be able to end it
                    self._watch(event_of(row))


def new_rows(run_id: str, events: Iterable[NewEvent], first_seq: int, *, clock: Clock, new_id: EventIds) -> list[EventRow]:
    """Events with ids, times and numbers, as they will be stored."""
    return [
        EventRow(new_id(moment := clock()), run_id, seq, event_type, run_json(payload), run_time(moment))
        for seq, (event_type, payload) in enumerate(events, first_seq)
    ]


def event_row(event: RunEvent) -> EventRow:
    """An event of another record, as it will be stored."""
    return EventRow(event["event_id"], event["run_id"], event["seq"], event["type"], run_json(event["payload"]), event["ts"])


def _read(connection: Connection, run_id: str) -> tuple[Run, list[RunEvent]]:
    row = connection.execute(_SELECT_RUN, {"run_id": run_id}).fetchone()
    if row is None:
        raise RunNotFound(f"Run not found: {run_id!s:.200}")
    return _run(row), [event_of(EventRow(*event)) for event in connection.execute(_SELECT_EVENTS, {"run_id": run_id})]


def event_of(row: EventRow) -> RunEvent:
    """The event of a row, which anybody may have edited. Raises StoreUnreadable unless its payload is an object."""
    try:
        payload: object = json.loads(row.payload_json)
    except (TypeError, ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        raise StoreUnreadable(f"event {row.seq} of run {row.run_id!s:.200} cannot be read")
    return RunEvent(
        event_id=row.event_id, run_id=row.run_id, seq=row.seq, type=row.type, payload=cast("dict[str, Any]", payload), ts=row.ts
    )


def _run(row: Any) -> Run:
    return Run(run_id=row["run_id"], mode=row["mode"], goal=row["goal"], status=row["status"], created_at=row["created_at"])
