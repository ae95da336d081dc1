"""Runs are kept in nexus-router's two tables, and only added to."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from router_testing import FakeAdapter, counted_ids, ticking_clock

from nexus_attest.routers import RunEngine, RunNotFound, RunRecords
from nexus_attest.routers.run_store import EventRow, RunStore, run_time
from nexus_control.errors import SchemaTooNew, StoreUnreadable
from nexus_control.flight_record import Run

PLAN = '[{"tool": "keys", "method": "list", "args": {"caf\u00e9": 1.0}}]'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database with one completed run."""
    path = tmp_path / "runs.db"
    with RunEngine([FakeAdapter()], db_path=path, clock=ticking_clock(), new_id=counted_ids()) as engine:
        engine.run(goal="caf\u00e9", adapter_id="fake", dry_run=True, plan=PLAN)
    return path


@pytest.fixture
def connection(file: Path) -> Iterator[sqlite3.Connection]:
    found = sqlite3.connect(file)
    yield found
    found.close()


def test_the_tables_are_those_that_nexus_router_reads(connection: sqlite3.Connection) -> None:
    columns = {table: [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({table})")] for table in ("runs", "events")}
    assert columns == {
        "runs": [("run_id", "TEXT"), ("mode", "TEXT"), ("goal", "TEXT"), ("status", "TEXT"), ("created_at", "TEXT")],
        "events": [
            ("event_id", "TEXT"),
            ("run_id", "TEXT"),
            ("seq", "INTEGER"),
            ("type", "TEXT"),
            ("payload_json", "TEXT"),
            ("ts", "TEXT"),
        ],
    }
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_rows_hold_the_canonical_text_of_run_records(connection: sqlite3.Connection) -> None:
    assert connection.execute("SELECT * FROM runs").fetchall() == [
        ("id-0", "dry_run", "caf\u00e9", "COMPLETED", "2026-01-01T00:00:00.000Z")
    ]
    rows = connection.execute("SELECT event_id, run_id, seq, type, payload_json, ts FROM events ORDER BY seq").fetchall()
    begun = '{"goal":"caf\\u00e9","mode":"dry_run","recorded_by":"nexus-attest"}'
    assert rows[0] == ("id-1", "id-0", 0, "RUN_STARTED", begun, "2026-01-01T00:00:00.000Z")
    assert rows[2][4] == '{"plan":[{"call":{"args":{"caf\\u00e9":1.0},"method":"list","tool":"keys"},"intent":"","step_id":"s1"}]}'
    for row in rows:
        assert row[4] == json.dumps(json.loads(row[4]), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET payload_json = '{}' WHERE seq = 0",
        "UPDATE events SET seq = seq + 100",
        "DELETE FROM events WHERE seq = 3",
        "DELETE FROM runs",
        "UPDATE runs SET status = 'FAILED'",
        "UPDATE runs SET status = 'RUNNING'",
        "UPDATE runs SET goal = 'other'",
        "INSERT OR REPLACE INTO runs VALUES ('id-0', 'apply', 'g', 'FAILED', '')",
        "INSERT OR REPLACE INTO events VALUES ('new', 'id-0', 0, 'RUN_STARTED', '{}', '')",
        "INSERT OR REPLACE INTO events VALUES ('id-1', 'id-0', 99, 'RUN_STARTED', '{}', '')",
        "INSERT INTO runs VALUES ('id-0', 'apply', 'g', 'FAILED', '') ON CONFLICT (run_id) DO UPDATE SET status = 'FAILED'",
        "INSERT INTO runs VALUES ('x', 'apply', 'g', 'DONE', '')",
        "INSERT INTO events VALUES ('x', 'id-0', -1, 'X', '{}', '')",
    ],
)
def test_the_file_itself_refuses_a_changed_history(connection: sqlite3.Connection, statement: str) -> None:
    before = connection.execute("SELECT * FROM events").fetchall(), connection.execute("SELECT * FROM runs").fetchall()
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.rollback()
    assert (connection.execute("SELECT * FROM events").fetchall(), connection.execute("SELECT * FROM runs").fetchall()) == before


def test_a_running_run_may_get_its_status_and_nothing_else(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO runs VALUES ('r', 'apply', 'g', 'RUNNING', 't')")
    for column in ("run_id", "mode", "goal", "created_at"):
        with pytest.raises(sqlite3.IntegrityError, match="only its status"):
            connection.execute(f"UPDATE runs SET {column} = 'other' WHERE run_id = 'r'")
    connection.execute("UPDATE runs SET status = 'FAILED' WHERE run_id = 'r'")


@pytest.mark.parametrize("table", ["runs", "events"])
def test_no_hidden_row_number_is_a_key_by_which_a_row_could_be_replaced(connection: sqlite3.Connection, table: str) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such column: rowid"):
        connection.execute(f"SELECT rowid FROM {table}")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A database as nexus-router makes it: columns that may be empty, and no checks."""
    path = tmp_path / "foreign.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE runs (run_id TEXT PRIMARY KEY, mode TEXT, goal TEXT, status TEXT, created_at TEXT);
        CREATE TABLE events (
            event_id TEXT PRIMARY KEY, run_id TEXT, seq INTEGER, type TEXT, payload_json TEXT, ts TEXT, UNIQUE (run_id, seq)
        );
        INSERT INTO runs VALUES ('r', 'apply', 'g', 'COMPLETED', 't');
        INSERT INTO events VALUES ('e1', 'r', 1, 'DISPATCH_SELECTED', '{"adapter_id": "a"}', 't1');
        INSERT INTO events VALUES ('e0', 'r', 0, 'RUN_STARTED', '{"mode": "apply"}', 't0');
        """
    )
    connection.close()
    return path


def test_a_file_that_nexus_router_made_is_read(foreign: Path) -> None:
    store = RunStore(foreign)
    run, events = store.finished("r")
    store.close()
    assert run == {"run_id": "r", "mode": "apply", "goal": "g", "status": "COMPLETED", "created_at": "t"}
    assert [(event["seq"], event["payload"]) for event in events] == [(0, {"mode": "apply"}), (1, {"adapter_id": "a"})]


@pytest.mark.parametrize("status", ["RUNNING", "COMPLETED"])
def test_a_run_without_an_id_hinders_no_other(foreign: Path, status: str) -> None:
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("INSERT INTO runs VALUES (NULL, 'apply', 'g', ?, 't')", (status,))
        connection.commit()
    with RunEngine([FakeAdapter()], db_path=foreign) as engine:
        assert engine.recovered == ()
    with RunRecords(foreign) as records:
        assert {run.run["run_id"]: run.error_code for run in records.runs()} == {"r": None, None: "STORE_UNREADABLE"}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events",
        "DELETE FROM runs",
        "UPDATE events SET payload_json = NULL",
        "UPDATE runs SET goal = NULL WHERE run_id = 'r2'",
        "UPDATE runs SET status = NULL WHERE run_id = 'r2'",
        "UPDATE runs SET status = 'DONE' WHERE run_id = 'r2'",
        "UPDATE runs SET status = 'FAILED' WHERE run_id = 'r3'",
        "INSERT OR REPLACE INTO runs VALUES ('r', 'apply', 'g', 'FAILED', 't')",
        "INSERT OR REPLACE INTO events VALUES ('e2', 'r', 1, 'DISPATCH_SELECTED', '{}', 't1')",
    ],
)
def test_rows_that_nexus_router_wrote_are_kept_once_the_file_was_opened(foreign: Path, statement: str) -> None:
    RunStore(foreign).close()
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("INSERT INTO runs VALUES ('r2', 'apply', 'g', 'RUNNING', 't'), ('r3', 'apply', 'g', NULL, 't')")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
        connection.execute("UPDATE runs SET status = 'COMPLETED' WHERE run_id = 'r2'")


def test_a_database_in_memory_is_private_to_its_store() -> None:
    first, second = RunStore(), RunStore()
    run = Run(run_id="r", mode="apply", goal="g", status="RUNNING", created_at="t")
    first.begin(run, [EventRow("e0", "r", 0, "RUN_STARTED", "{}", "t")])
    first.append([EventRow("e1", "r", 1, "RUN_COMPLETED", "{}", "t")], "COMPLETED")
    assert first.finished("r")[0]["status"] == "COMPLETED"
    with pytest.raises(RunNotFound):
        second.finished("r")
    first.close()
    second.close()


def test_a_file_that_is_no_database_or_too_new_is_refused(tmp_path: Path, file: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, but long enough to be looked at as one " * 20)
    with pytest.raises(StoreUnreadable):
        RunStore(tmp_path / "text.db")
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {255 << 16}")
    connection.close()
    with pytest.raises(SchemaTooNew):
        RunStore(file)


def test_times_are_written_in_utc_with_milliseconds() -> None:
    moment = datetime(2026, 3, 1, 1, 2, 3, 456_789, tzinfo=timezone(timedelta(hours=2)))
    assert run_time(moment) == "2026-02-28T23:02:03.456Z"
    assert run_time(datetime(2026, 3, 1, tzinfo=timezone.utc)) == "2026-03-01T00:00:00.000Z"  # noqa: UP017


HOSTILE = ["[" * 200_000 + "]" * 200_000, '{"a": 1', '"text"', "[]", "null", "9" * 5_000]


@pytest.mark.parametrize("payload", HOSTILE, ids=["deep", "cut", "text", "list", "null", "long"])
def test_a_run_that_nobody_can_read_hinders_no_other(file: Path, payload: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO runs VALUES ('edited', 'apply', 'g', 'RUNNING', 't')")
        connection.execute("""INSERT INTO events VALUES ('e1', 'edited', 0, 'REQUEST_RECORDED', '{"execution_id": "x"}', 't')""")
        connection.execute("INSERT INTO events VALUES ('e2', 'edited', 1, 'STEP_STARTED', ?, 't')", (payload,))
        connection.commit()
    with RunEngine([FakeAdapter()], db_path=file) as engine:
        assert engine.recovered == ()
        engine.run(goal="g", adapter_id="fake", dry_run=True, plan=PLAN)
    with RunRecords(file) as records:
        listed = {run.run["run_id"]: run.error_code for run in records.runs()}
        assert len(listed) == 3
        assert listed["edited"] == "STORE_UNREADABLE"
        for read in (records.show, records.flight_record):
            with pytest.raises(StoreUnreadable, match="event 1 of run edited"):
                read("edited")


def test_a_run_that_says_nonsense_is_listed_all_the_same(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO runs VALUES ('edited', 'apply', 'g', 'FAILED', 't')")
        for seq, (kind, payload) in enumerate((("PLAN_CREATED", '{"plan": 5}'), ("TOOL_CALL_FAILED", '{"error_code": ["x"]}'))):
            connection.execute("INSERT INTO events VALUES (?, 'edited', ?, ?, ?, 't')", (f"e{seq}", seq, kind, payload))
        connection.commit()
    with RunRecords(file) as records:
        (run,) = (run for run in records.runs() if run.run["run_id"] == "edited")
    assert (run.steps_planned, run.error_code) == (0, None)


def test_the_run_of_an_execution_is_found_through_an_index_also_beside_rows_that_nobody_can_read(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        rows = [
            ("e1", "a", 0, '{"execution_id": "x"}', "t1"),
            ("e2", "b", 0, '{"execution_id": "x"}', "t2"),
            ("e3", "c", 0, "no JSON", "t3"),
        ]
        for event_id, run_id, seq, payload, ts in rows:
            connection.execute("INSERT INTO runs VALUES (?, 'apply', 'g', 'COMPLETED', 't')", (run_id,))
            connection.execute("INSERT INTO events VALUES (?, ?, ?, 'REQUEST_RECORDED', ?, ?)", (event_id, run_id, seq, payload, ts))
        connection.commit()
        asked = "json_valid(payload_json) AND json_extract(payload_json, '$.execution_id') = 'x'"
        query = f"EXPLAIN QUERY PLAN SELECT run_id FROM events WHERE type = 'REQUEST_RECORDED' AND {asked}"
        (plan,) = (row[3] for row in connection.execute(query))
    store = RunStore(file)
    assert (store.run_of_execution("x"), store.run_of_execution("y")) == ("b", None)
    store.close()
    assert plan == "SEARCH events USING INDEX events_by_execution (<expr>=?)"
