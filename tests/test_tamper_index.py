"""An index that says something else than its table hides rows from every reader: what notices that, and what cannot."""

from contextlib import closing
from pathlib import Path
from typing import Any

from store_testing import ALICE, BOB, foreign, new_store

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
