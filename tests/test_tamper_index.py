"""An index that says something else than its table hides rows from every reader: what notices that, and what cannot."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from store_testing import ALICE, BOB, foreign, new_store

from nexus_control.database import Database
from nexus_control.errors import DecisionNotFound, StoreUnreadable
from nexus_control.log_check import check_facts
from nexus_control.schema import SCHEMA
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools


class Router:
    """Counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        del adapter_id
        return None

    def run(self, **arguments: Any) -> dict[str, Any]:
        del arguments
        self.runs += 1
        return {"run_id": f"run {self.runs}", "steps_executed": 1}


def revoked(path: Path) -> str:
    """A store with a decision whose newest event, seq 3 at position 5, takes the one approval back; another fact follows."""
    with new_store(path) as store:
        tools = NexusControlTools(store)
        decision_id: str = tools.request("rotate", ALICE, mode="apply").data["request_id"]
        assert tools.approve(decision_id, BOB).success
        assert tools.revoke_approval(decision_id, BOB, "stop").success
        store.create_decision("another")
    with closing(foreign(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return decision_id


def hide(path: Path, decision_id: str, seq: int, position: int) -> None:
    """Change one byte of the index entry of an event, which is the decision, generation 1 (no byte), the seq and the position."""
    content = path.read_bytes()
    entry = decision_id.encode() + bytes([seq, position])
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, decision_id[:-1].encode() + b"z" + bytes([seq, position])))


def test_an_event_that_an_index_hides_is_a_finding_of_the_whole_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    decision_id = revoked(path)
    hide(path, decision_id, 3, 5)
    with DecisionStore(path) as store:
        verification = store.verify_log()
        assert (verification.ok, len(verification.errors)) == (False, 1)
        assert verification.errors[0].startswith("structure: row ")
        assert verification.errors[0].endswith(" missing from index sqlite_autoindex_decision_events_1")
        assert verification.head == store.log_root()[1]


def test_a_decision_looked_at_alone_and_an_execution_cannot_see_what_an_index_hides(tmp_path: Path) -> None:
    """They read through the index; that it agrees with its table is only known to who reads all of both."""
    path, router = tmp_path / "store.db", Router()
    decision_id = revoked(path)
    hide(path, decision_id, 3, 5)
    with DecisionStore(path) as store:
        tools = NexusControlTools(store)
        assert [event.seq for event in store.get_events(decision_id)] == [0, 1, 2]
        assert store.verify_log(decision_id).ok
        assert tools.execute(decision_id, "adapter", ALICE, router).success
        assert router.runs == 1
        assert not store.verify_log().ok


def test_a_chain_that_was_continued_past_a_hidden_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    decision_id = revoked(path)
    hide(path, decision_id, 3, 5)
    with DecisionStore(path) as store:
        assert NexusControlTools(store).execute(decision_id, "adapter", ALICE, Router()).success
        found = store.verify_log().errors
    assert f"decision {decision_id} generation 1: it has 2 events with the seq 3" in found
    assert "log: positions 5 and 7 follow the same row" in found


def test_a_generation_that_was_begun_past_a_hidden_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    decision_id = revoked(path)
    hide(path, decision_id, 3, 5)
    with DecisionStore(path) as store:
        assert store.delete_decision(decision_id)
        assert "log: positions 5 and 7 follow the same row" in store.verify_log().errors


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE theirs (a CHECK (theirs(a)))",
        "CREATE TABLE theirs (a TEXT COLLATE theirs)",
        "CREATE TABLE theirs (a, b AS (theirs(a)))",
    ],
)
def test_a_table_of_somebody_else_that_cannot_be_looked_at_hides_nothing_of_ours(tmp_path: Path, table: str) -> None:
    path = tmp_path / "store.db"
    decision_id = revoked(path)
    with closing(foreign(path)) as connection:
        connection.create_function("theirs", 1, str, deterministic=True)
        connection.create_collation("theirs", lambda one, other: (one > other) - (one < other))
        connection.execute(table)
        connection.execute("CREATE INDEX theirs_by_a ON theirs (a)")
        connection.execute("INSERT INTO theirs (a) VALUES (1)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with DecisionStore(path) as store:
        assert store.verify_log().errors == []
    hide(path, decision_id, 3, 5)
    with DecisionStore(path) as store:
        (error,) = store.verify_log().errors
        assert error.startswith("structure: row ")


@pytest.mark.parametrize(("position", "kind"), [("position || ''", "str"), ("NULL", "NoneType"), ("position + 0.5", "float")])
def test_a_log_whose_positions_are_no_numbers_is_named(tmp_path: Path, position: str, kind: str) -> None:
    path = tmp_path / "store.db"
    revoked(path)
    with closing(foreign(path)) as connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("CREATE TABLE other (position, leaf_hash, kind)")
        connection.execute(f"INSERT INTO other SELECT {position}, leaf_hash, kind FROM log")
        connection.execute("DROP TABLE log")
        connection.execute("ALTER TABLE other RENAME TO log")
    with DecisionStore(path) as store:
        errors = store.verify_log().errors
        assert f"log: a position is {kind}, not int" in errors
        assert "log: position 1 has a stored generation but no leaf" in errors
        if kind != "NoneType":
            with pytest.raises(StoreUnreadable, match=f"the end of the log has a {kind} where a int belongs"):
                store.log_root()


def test_a_page_that_cannot_be_read_is_an_error_where_nothing_said_before_that_there_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    decision_id = revoked(path)
    content = bytearray(path.read_bytes())
    page = content.index(b'{"goal":"rotate"') // 4096 * 4096
    content[page : page + 4096] = b"\xff" * 4096
    path.write_bytes(content)
    database = Database(path, SCHEMA, read_only=True)
    with pytest.raises(StoreUnreadable, match="malformed"), database.lenient_snapshot() as (connection, damaged):
        check_facts(connection, damaged)
    database.close()
    with DecisionStore(path, read_only=True) as store:
        verification = store.verify_log()
        assert (verification.ok, verification.head) == (False, None)
        assert verification.errors[0].startswith("structure: ")
        with pytest.raises(StoreUnreadable, match="malformed"):
            store.history(decision_id, chained=True)


def test_a_decision_that_was_deleted_has_no_history_to_be_proven(tmp_path: Path) -> None:
    with new_store(tmp_path / "store.db") as store:
        store.create_decision("d")
        assert store.history("d", chained=True).events == []
        store.delete_decision("d")
        for chained in (False, True):
            with pytest.raises(DecisionNotFound):
                store.history("d", chained=chained)
