"""Runs and their events, in the two tables that nexus-router uses, so that its tools can read our files.

An event is committed before what it announces happens. Events are only ever inserted; a run's status changes once, from RUNNING to
COMPLETED or FAILED, together with its last event.

As long as they are in place, triggers refuse any other change, removal or replacement of a row, to every program that goes through
SQLite. Whoever may write the file may also drop them. They do not judge what is added: a further event of an ended run is let through.
Tables that nexus-router made stay as they are: their hidden row numbers are keys that the triggers cannot look at, ours have none.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from nexus_attest.routers.errors import RunNotFinished, RunNotFound
from nexus_attest.routers.flight_record import Run, RunEvent
from nexus_control.database import Connection, Database, Schema
from nexus_control.events import Clock
from nexus_control.run_json import run_json

__all__ = ["RunRecorder", "RunStore", "run_time"]

_SCHEMA = Schema(
    "runs",
    slot=2,
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
            WHEN EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id OR (run_id = NEW.run_id AND seq = NEW.seq))
            BEGIN SELECT RAISE(ABORT, 'events is append-only'); END
            """,
        ),
    ),
)

_INSERT_RUN = "INSERT INTO runs (run_id, mode, goal, status, created_at) VALUES (:run_id, :mode, :goal, :status, :created_at)"
_END_RUN = "UPDATE runs SET status = :status WHERE run_id = :run_id"
_INSERT_EVENT = """
    INSERT INTO events (event_id, run_id, seq, type, payload_json, ts) VALUES (:event_id, :run_id, :seq, :type, :payload_json, :ts)"""
_SELECT_RUN = "SELECT run_id, mode, goal, status, created_at FROM runs WHERE run_id = :run_id"
_SELECT_EVENTS = "SELECT event_id, run_id, seq, type, payload_json, ts FROM events WHERE run_id = :run_id ORDER BY seq"


def run_time(moment: datetime) -> str:
    """A time as run records write it: UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RunStore:
    """A file, or `:memory:`, that keeps runs. Usable from several threads; a file from several processes.

    Every method raises StoreError when the database cannot do its work.
    """

    def __init__(self, db_path: str | Path = ":memory:") -> None:
        self._database = Database(db_path, _SCHEMA)

    def begin(self, run: Run, event: RunEvent) -> None:
        """Store a new run together with its first event."""
        with self._database.transaction() as connection:
            connection.execute(_INSERT_RUN, run)
            _insert(connection, event)

    def append(self, event: RunEvent) -> None:
        """Store one more event of a running run."""
        with self._database.transaction() as connection:
            _insert(connection, event)

    def end(self, event: RunEvent, status: str) -> None:
        """Store the last event of a run together with its status, COMPLETED or FAILED."""
        with self._database.transaction() as connection:
            _insert(connection, event)
            connection.execute(_END_RUN, {"run_id": event["run_id"], "status": status})

    def finished(self, run_id: str) -> tuple[Run, list[RunEvent]]:
        """A run that has ended, with its events in order. Raises RunNotFound or RunNotFinished."""
        with self._database.snapshot() as connection:
            row = connection.execute(_SELECT_RUN, {"run_id": run_id}).fetchone()
            rows = connection.execute(_SELECT_EVENTS, {"run_id": run_id}).fetchall()
        if row is None:
            raise RunNotFound(f"Run not found: {run_id}")
        if row["status"] == "RUNNING":
            raise RunNotFinished(f"Run has not ended: {run_id}")
        run = Run(run_id=row["run_id"], mode=row["mode"], goal=row["goal"], status=row["status"], created_at=row["created_at"])
        return run, [
            RunEvent(
                event_id=event["event_id"],
                run_id=event["run_id"],
                seq=event["seq"],
                type=event["type"],
                payload=json.loads(event["payload_json"]),
                ts=event["ts"],
            )
            for event in rows
        ]

    def close(self) -> None:
        """Close the database. Closing again does nothing."""
        self._database.close()


class RunRecorder:
    """Writes the events of one run, in order. `events` holds what was stored, read back from the stored text."""

    def __init__(self, store: RunStore, run_id: str, *, clock: Clock, new_id: Callable[[], str]) -> None:
        self.run_id = run_id
        self.events: list[RunEvent] = []
        self._store = store
        self._clock = clock
        self._new_id = new_id

    def begin(self, mode: str, goal: str) -> None:
        """Store the run and RUN_STARTED."""
        event = self._event("RUN_STARTED", {"mode": mode, "goal": goal})
        self._store.begin(Run(run_id=self.run_id, mode=mode, goal=goal, status="RUNNING", created_at=event["ts"]), event)
        self.events.append(event)

    def add(self, event_type: str, **payload: object) -> None:
        """Store one event; it is committed when this returns."""
        event = self._event(event_type, payload)
        self._store.append(event)
        self.events.append(event)

    def end(self, event_type: str, **payload: object) -> None:
        """Store RUN_COMPLETED or RUN_FAILED and the status that goes with it."""
        event = self._event(event_type, payload)
        self._store.end(event, event_type.removeprefix("RUN_"))
        self.events.append(event)

    def _event(self, event_type: str, payload: dict[str, object]) -> RunEvent:
        return RunEvent(
            event_id=self._new_id(),
            run_id=self.run_id,
            seq=len(self.events),
            type=event_type,
            payload=json.loads(run_json(payload)),
            ts=run_time(self._clock()),
        )


def _insert(connection: Connection, event: RunEvent) -> None:
    row: dict[str, object] = {key: value for key, value in event.items() if key != "payload"}
    connection.execute(_INSERT_EVENT, {**row, "payload_json": run_json(event["payload"])})
