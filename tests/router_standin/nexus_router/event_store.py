"""Runs and events in SQLite."""

import json
import sqlite3
import uuid
from datetime import UTC, datetime
from typing import Any

_TABLES = """
    CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, mode TEXT NOT NULL, goal TEXT NOT NULL, status TEXT NOT NULL,
        created_at TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS events (event_id TEXT PRIMARY KEY, run_id TEXT NOT NULL REFERENCES runs (run_id), seq INTEGER NOT NULL,
        type TEXT NOT NULL, payload_json TEXT NOT NULL, ts TEXT NOT NULL, UNIQUE (run_id, seq));
"""


def new_id() -> str:
    return str(uuid.uuid4())  # noqa: TID251 - as the package does


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")  # noqa: TID251 - as the package does


def text_of(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class EventStore:
    """`create` makes the tables; without it a file that has none is opened as it is, and reading it fails in SQLite."""

    def __init__(self, db_path: str, *, create: bool = True) -> None:
        self._connection = sqlite3.connect(db_path, timeout=30.0, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        if create:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(_TABLES)

    def __enter__(self) -> "EventStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def create_run(self, mode: str, goal: str) -> str:
        run_id = new_id()
        self.insert_run({"run_id": run_id, "mode": mode, "goal": goal, "status": "RUNNING", "created_at": now()})
        return run_id

    def insert_run(self, run: dict[str, Any]) -> None:
        self._connection.execute("INSERT INTO runs VALUES (:run_id, :mode, :goal, :status, :created_at)", run)

    def insert_event(self, event: dict[str, Any]) -> None:
        row = {**event, "payload": text_of(event["payload"])}
        self._connection.execute("INSERT INTO events VALUES (:event_id, :run_id, :seq, :type, :payload, :ts)", row)

    def append(self, run_id: str, event_type: str, **payload: Any) -> None:
        (seq,) = self._connection.execute("SELECT COUNT(*) FROM events WHERE run_id = ?", (run_id,)).fetchone()
        event = {"event_id": new_id(), "run_id": run_id, "seq": seq, "type": event_type, "payload": payload, "ts": now()}
        self.insert_event(event)

    def set_status(self, run_id: str, status: str) -> None:
        self._connection.execute("UPDATE runs SET status = ? WHERE run_id = ?", (status, run_id))

    def delete_run(self, run_id: str) -> None:
        self._connection.execute("DELETE FROM events WHERE run_id = ?", (run_id,))
        self._connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

    def runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        rows = self._connection.execute("SELECT run_id, mode, goal, status, created_at FROM runs ORDER BY created_at DESC")
        return [dict(row) for row in rows]

    def run(self, run_id: str) -> dict[str, Any] | None:
        return next((run for run in self.runs() if run["run_id"] == run_id), None)

    def events(self, run_id: str) -> list[dict[str, Any]]:
        rows = self._connection.execute(
            "SELECT event_id, run_id, seq, type, payload_json, ts FROM events WHERE run_id = ? ORDER BY seq", (run_id,)
        )
        return [
            {
                "event_id": row["event_id"],
                "run_id": row["run_id"],
                "seq": row["seq"],
                "type": row["type"],
                "payload": json.loads(row["payload_json"]),
                "ts": row["ts"],
            }
            for row in rows
        ]
