"""Every stored value can be changed by somebody who has the file. Each change is found, and the finding names the row.

The table below says for each column which finding must appear. There is no exception: the one thing that a file alone cannot show is
that facts were cut off its end together with their leaves, and the last tests show who notices that.
"""

import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from store_testing import ALICE, BOB, CAROL, foreign, new_store

from nexus_control.log_check import check_store
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

CHAIN = "the chain hash does not match the row"
DIGEST = "the digest does not match type and payload"
LEAF = "does not match its"
PREVIOUS = "prev_hash is not the chain hash of the row before it"
COPY = "the header's listing copy was changed"
TEMPLATE = "the digest does not match the row"
MISSING_TEMPLATE = "its row is missing"
MISSING_LEAF = "but no leaf"

FINDING = {
    "decisions": {
        "decision_id": CHAIN,
        "generation": CHAIN,
        "created_at": CHAIN,
        "tombstone": CHAIN,
        "goal": COPY,
        "creator_type": COPY,
        "creator_id": COPY,
        "policy_ref": COPY,
        "template_name": COPY,
        "template_digest": COPY,
        "imported_at": COPY,
        "imported_from": COPY,
        "bundle_digest": COPY,
        "copy_digest": COPY,
        "prev_hash": PREVIOUS,
        "chain_hash": CHAIN,
        "position": "log: position",
    },
    "decision_events": {
        "position": "log: position",
        "decision_id": CHAIN,
        "generation": CHAIN,
        "seq": CHAIN,
        "event_id": "its event_id is",
        "event_type": DIGEST,
        "ts": CHAIN,
        "actor_type": CHAIN,
        "actor_id": CHAIN,
        "payload": DIGEST,
        "digest": DIGEST,
        "prev_hash": PREVIOUS,
        "chain_hash": CHAIN,
    },
    "templates": {
        "name": MISSING_TEMPLATE,
        "description": TEMPLATE,
        "min_approvals": TEMPLATE,
        "allowed_modes": "template",
        "require_adapter_capabilities": "template",
        "max_steps": TEMPLATE,
        "labels": "template",
        "created_at": "template",
        "created_by_type": "template",
        "created_by_id": TEMPLATE,
        "digest": TEMPLATE,
    },
    "template_events": {
        "template_name": CHAIN,
        "seq": CHAIN,
        "event_type": DIGEST,
        "ts": CHAIN,
        "actor_type": CHAIN,
        "actor_id": CHAIN,
        "payload": DIGEST,
        "digest": DIGEST,
        "prev_hash": PREVIOUS,
        "chain_hash": CHAIN,
        "position": "log: position",
    },
    "log": {"position": "log: position", "leaf_hash": LEAF, "kind": "is marked"},
}


class Router:
    """Runs nothing."""

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return None if adapter_id else set()

    def run(self, **_: Any) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}


class FailingRouter(Router):
    """Fails."""

    def run(self, **_: Any) -> dict[str, Any]:
        raise OSError("down")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with every kind of row: all event types, two generations, a tombstone, an import, a template, an empty decision."""
    path = tmp_path_factory.mktemp("original") / "s.db"
    with new_store(path) as store:
        tools = NexusControlTools(store)
        assert tools.template_create("prod", ALICE, "for production", 2, ["dry_run", "apply"], ["timeout"], 3, ["a"]).success
        first = tools.request("rotate", ALICE, mode="apply", template_name="prod").data["request_id"]
        for who in (BOB, CAROL):
            assert tools.approve(first, who, comment="fine").success
        assert tools.revoke_approval(first, BOB, "not yet").success
        assert tools.approve(first, BOB, expires_at="2030-01-01T00:00:00+00:00").success
        assert tools.execute(first, "ad", ALICE, Router()).success
        failed = tools.request("fail", ALICE).data["request_id"]
        assert tools.approve(failed, BOB).success
        assert not tools.execute(failed, "ad", ALICE, FailingRouter()).success
        bundle = tools.export_bundle(first).data["bundle"]
        assert tools.import_bundle(bundle, conflict_mode="new_decision_id").success
        assert tools.import_bundle(bundle, conflict_mode="overwrite").success
        assert store.delete_decision(failed)
        store.create_decision("empty")
        assert store.verify_log().ok
    return path


KEYS = {
    "decisions": ("decision_id", "generation"),
    "decision_events": ("position",),
    "templates": ("name",),
    "template_events": ("template_name", "seq"),
    "log": ("position",),
}


def rows(connection: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY {', '.join(KEYS[table])}")]


def where(table: str, row: dict[str, Any]) -> tuple[str, list[Any]]:
    """The condition that finds this row, and its values."""
    return " AND ".join(f"{key} = ?" for key in KEYS[table]), [row[key] for key in KEYS[table]]


@pytest.fixture
def attacker(original: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the store on which nothing is refused any more."""
    source, connection = foreign(original), sqlite3.connect(":memory:", isolation_level=None)
    source.backup(connection)
    source.close()
    unlock(connection)
    connection.row_factory = sqlite3.Row
    yield connection
    connection.close()


def unlock(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")


def errors_after(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> list[str] | None:
    """What verification finds after one statement, which is then undone; None when the database itself refuses it."""
    connection.execute("BEGIN")
    try:
        connection.execute(statement, values)
        return check_store(connection).errors
    except sqlite3.IntegrityError:
        return None
    finally:
        connection.execute("ROLLBACK")


def changes(value: Any, column: str) -> Iterator[Any]:
    """Other values for a field: nearly the same one, and null for text or text for null."""
    if value is None:
        yield "x"
    elif column == "tombstone":
        yield 1 - value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, bytes):
        yield bytes([value[0] ^ 1]) + value[1:]
    elif column == "kind":
        yield from ({"generation", "event", "template_event"} - {value})
    else:
        last = value[-1:]
        yield value + "x"
        yield value[:-1] + ("b" if last == "a" else "a")
        yield None


def test_the_store_to_be_tampered_with_has_every_kind_of_row(attacker: sqlite3.Connection) -> None:
    assert {row["event_type"] for row in rows(attacker, "decision_events")} == {
        "DECISION_CREATED",
        "POLICY_ATTACHED",
        "APPROVAL_GRANTED",
        "APPROVAL_REVOKED",
        "EXECUTION_REQUESTED",
        "EXECUTION_STARTED",
        "EXECUTION_COMPLETED",
        "EXECUTION_FAILED",
    }
    headers = rows(attacker, "decisions")
    assert max(row["generation"] for row in headers) == 2
    assert sum(row["tombstone"] for row in headers) == 1
    assert any(row["imported_from"] for row in headers)
    assert check_store(attacker).ok


@pytest.mark.parametrize(("table", "column"), [(table, column) for table, columns in FINDING.items() for column in columns])
def test_a_changed_value_is_found_and_named(attacker: sqlite3.Connection, table: str, column: str) -> None:
    tried = 0
    for row in rows(attacker, table):
        condition, key = where(table, row)
        for value in changes(row[column], column):
            errors = errors_after(attacker, f"UPDATE {table} SET {column} = ? WHERE {condition}", [value, *key])
            if errors is None:
                continue
            tried += 1
            assert any(FINDING[table][column] in error for error in errors), (key, row[column], value, errors)
    assert tried, "the database took no other value"


def test_the_table_above_names_every_column_of_every_table(attacker: sqlite3.Connection) -> None:
    tables = [name for (name,) in attacker.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
    columns = {table: {row[1] for row in attacker.execute(f"PRAGMA table_xinfo({table})")} for table in tables}
    assert columns == {table: set(named) for table, named in FINDING.items()}


@pytest.mark.parametrize("table", FINDING)
def test_a_row_that_was_taken_out_is_missed(attacker: sqlite3.Connection, table: str) -> None:
    for row in rows(attacker, table):
        condition, key = where(table, row)
        assert errors_after(attacker, f"DELETE FROM {table} WHERE {condition}", key), f"{key} of {table} was taken out unnoticed"


def test_an_event_taken_out_of_the_middle_with_its_leaf_is_missed(attacker: sqlite3.Connection) -> None:
    for row in rows(attacker, "decision_events")[:-1]:
        attacker.execute("BEGIN")
        attacker.execute("DELETE FROM decision_events WHERE position = ?", (row["position"],))
        attacker.execute("DELETE FROM log WHERE position = ?", (row["position"],))
        errors = check_store(attacker).errors
        attacker.execute("ROLLBACK")
        assert any(re.search("position .* is missing", error) for error in errors)


def test_payloads_that_changed_places_are_found(attacker: sqlite3.Connection) -> None:
    one, other = [row for row in rows(attacker, "decision_events") if row["event_type"] == "APPROVAL_GRANTED"][:2]
    for row, content in ((one, other), (other, one)):
        values = (content["actor_id"], content["payload"], content["digest"], row["position"])
        attacker.execute("UPDATE decision_events SET actor_id = ?, payload = ?, digest = ? WHERE position = ?", values)
    assert any(CHAIN in error for error in check_store(attacker).errors)


def test_an_inserted_approval_is_found_with_the_triggers_in_place(original: Path, tmp_path: Path) -> None:
    """The attacker writes a well-formed event at the end of a decision, without the hashes that it cannot know to need."""
    copy = tmp_path / "s.db"
    shutil.copyfile(original, copy)
    connection = foreign(copy)
    connection.row_factory = sqlite3.Row
    last = rows(connection, "decision_events")[-1]
    forged = {**last, "position": last["position"] + 100, "seq": last["seq"] + 1, "actor_id": "mallory"}
    forged["event_id"] = f"evt_{forged['decision_id']}_{forged['seq']}"
    connection.execute(f"INSERT INTO decision_events ({', '.join(forged)}) VALUES ({', '.join('?' * len(forged))})", tuple(forged.values()))
    connection.close()
    with DecisionStore(copy) as store:
        errors = store.verify_log().errors
    assert any(PREVIOUS in error for error in errors)
    assert any(MISSING_LEAF in error for error in errors)


def test_a_single_decision_is_verified_by_its_own_chain(original: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s.db"
    shutil.copyfile(original, copy)
    connection = foreign(copy)
    unlock(connection)
    connection.row_factory = sqlite3.Row
    row = rows(connection, "decision_events")[2]
    connection.execute("UPDATE decision_events SET actor_id = 'mallory' WHERE position = ?", (row["position"],))
    connection.close()
    with DecisionStore(copy) as store:
        assert store.verify_log(row["decision_id"]).errors == [f"decision {row['decision_id']} generation 1 event 2: {CHAIN}"]
        assert store.verify_log("empty").ok


@pytest.mark.parametrize("facts", [1, 3])
def test_facts_cut_off_the_end_are_missed_by_whoever_kept_a_root_and_by_nobody_else(original: Path, tmp_path: Path, facts: int) -> None:
    copy = tmp_path / "s.db"
    shutil.copyfile(original, copy)
    connection = foreign(copy)
    unlock(connection)
    (kept_size,) = connection.execute("SELECT MAX(position) FROM log").fetchone()
    for table in ("decision_events", "decisions", "template_events", "log"):
        connection.execute(f"DELETE FROM {table} WHERE position > ?", (kept_size - facts,))
    connection.close()
    with DecisionStore(copy) as store:
        assert store.verify_log().ok
        assert store.log_root()[0] == kept_size - facts
        with pytest.raises(ValueError, match="size must be between"):
            store.log_root(kept_size)
