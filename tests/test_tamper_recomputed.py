"""A tamperer who recomputes everything that follows is caught by anybody who kept an older root; and what is outside of it.

After each single change, every digest, listing copy, link of a chain and leaf is made anew by rules written down here, not by the store.
Whoever holds a checkpoint from before then finds another root, or the rows contradict each other.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from store_testing import new_store, quick_folder
from test_tamper_store import TABLES, cells, changes, fill, findings, label, put, unlocked

from nexus_control import merkle
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.store import DecisionStore

FACTS = {"decisions": "generation", "decision_events": "event", "template_events": "template_event"}
EVENT_KEYS = ("seq", "event_type", "ts")
LISTING = ("goal", "creator_type", "creator_id", "policy_ref", "template_name", "template_digest")
ORIGIN = ("imported_at", "imported_from", "bundle_digest")

OUTSIDE = {
    *(("decisions", column) for column in (*LISTING, *ORIGIN)),
    ("imports", "events"),
}
"""What no chained record holds: the copy that is for listing and decides nothing, and how many events an import brought."""

RECOMPUTED = {
    ("decisions", "copy_digest"),
    *((table, column) for table in FACTS for column in ("prev", "chain")),
    *((table, "digest") for table in ("decision_events", "template_events", "templates")),
    ("log", "leaf_hash"),
    ("log", "kind"),
}
"""What follows from the rest: a change of it alone is undone when everything is recomputed, and found when it is not."""


@pytest.fixture(scope="module")
def victim() -> Iterator[tuple[sqlite3.Connection, int, str]]:
    """A tampered copy of a store, and the size and root that somebody else kept."""
    with quick_folder() as folder:
        with new_store(folder / "store.db") as store:
            fill(store)
            size, root = store.log_root()
        shutil.copy(folder / "store.db", folder / "tampered.db")
        with closing(unlocked(folder / "tampered.db")) as connection:
            yield connection, size, root


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def recompute(connection: sqlite3.Connection) -> None:
    """Make everything that follows from the rows' own values follow from them again."""
    for table in ("decision_events", "template_events"):
        for row in connection.execute(f"SELECT position, event_type, payload FROM {table}").fetchall():
            said = {"event_type": row["event_type"], "payload": json.loads(row["payload"])}
            digest = sha256(canonical_json_bytes(said)).hex()
            connection.execute(f"UPDATE {table} SET digest = ? WHERE position = ?", (digest, row["position"]))
    for row in connection.execute(f"SELECT position, {', '.join((*LISTING, *ORIGIN))} FROM decisions").fetchall():
        digest = sha256(canonical_json_bytes(list(row)[1:]))
        connection.execute("UPDATE decisions SET copy_digest = ? WHERE position = ?", (digest, row["position"]))
    for row in connection.execute("SELECT * FROM templates").fetchall():
        template = {key: row[key] for key in ("name", "description", "min_approvals", "max_steps", "created_at")}
        template |= {key: json.loads(row[key]) for key in ("allowed_modes", "require_adapter_capabilities", "labels")}
        template["created_by"] = {"type": row["created_by_type"], "id": row["created_by_id"]}
        digest = sha256(canonical_json_bytes(template)).hex()
        connection.execute("UPDATE templates SET digest = ? WHERE name = ?", (digest, row["name"]))
    rechain(connection)


def rechain(connection: sqlite3.Connection) -> None:
    """Chains and leaves, in the order of positions."""
    rows = [(kind, table, dict(row)) for table, kind in FACTS.items() for row in connection.execute(f"SELECT * FROM {table}")]
    rows.sort(key=lambda fact: fact[2]["position"])
    last: dict[tuple[str, str], bytes] = {}
    for kind, table, row in rows:
        subject = "template_name" if table == "template_events" else "decision_id"
        chain = subject, row[subject]
        before = last.get(chain, bytes(32))
        record: dict[str, Any] = {"kind": kind, subject: row[subject], "prev_hash": before.hex()}
        if table == "decisions":
            record |= {"generation": row["generation"], "created_at": row["created_at"], "tombstone": bool(row["tombstone"])}
        else:
            record |= {key: row[key] for key in EVENT_KEYS} | {"actor": {"type": row["actor_type"], "id": row["actor_id"]}}
            record |= {"payload": json.loads(row["payload"])} | ({"generation": row["generation"]} if table == "decision_events" else {})
        text = canonical_json_bytes(record)
        last[chain] = sha256(text)
        where = (before, last[chain], row["position"])
        connection.execute(f"UPDATE {table} SET prev = ?, chain = ? WHERE position = ?", where)
        connection.execute("UPDATE log SET leaf_hash = ?, kind = ? WHERE position = ?", (sha256(b"\0" + text), kind, row["position"]))


def root_of(connection: sqlite3.Connection, size: int) -> str:
    """The root of the first `size` leaves, recursively by RFC 6962 section 2.1."""
    leaves = [bytes(row[0]) for row in connection.execute("SELECT leaf_hash FROM log ORDER BY position LIMIT ?", (size,))]

    def root(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return part[0]
        half = 1 << (len(part) - 1).bit_length() - 1
        return sha256(b"\1" + root(part[:half]) + root(part[half:]))

    return root(leaves).hex()


def test_recomputing_an_untouched_store_changes_nothing(victim: tuple[sqlite3.Connection, int, str]) -> None:
    connection, size, root = victim
    connection.execute("BEGIN")
    before = list(connection.iterdump())
    recompute(connection)
    assert list(connection.iterdump()) == before
    assert (findings(connection), root_of(connection, size)) == ([], root)
    connection.execute("ROLLBACK")


def caught(connection: sqlite3.Connection, size: int, root: str) -> str:
    """What a verifier with an older checkpoint says: the other root, what contradicts itself, or nothing."""
    with suppress(ValueError, TypeError, AttributeError):  # a value that no record can be made of: the rest stays as it is
        recompute(connection)
    if root_of(connection, size) != root:
        return "checkpoint"
    return "contradiction" if findings(connection) else ""


@pytest.mark.parametrize("table", [*TABLES, "imports"])
def test_no_cell_can_be_changed_past_an_older_checkpoint_but_those_outside(victim: tuple[sqlite3.Connection, int, str], table: str) -> None:
    connection, size, root = victim
    passed: dict[tuple[str, str], list[object]] = {}
    tried = 0
    for row, column, declared in cells(connection, table):
        for value in changes(declared, row[column]):
            connection.execute("BEGIN")
            if put(connection, table, row, column, value):
                tried += 1
                if not caught(connection, size, root):
                    passed.setdefault((table, column), []).append((label(table, row) if table != "imports" else row, value))
            connection.execute("ROLLBACK")
    assert tried
    outside = {cell for cell in OUTSIDE | RECOMPUTED if cell[0] == table}
    assert {cell: passed.get(cell) for cell in outside ^ set(passed)} == {}


@pytest.mark.parametrize("payload", ['{"expires_at":null,"comment":"I agree"}', "{}"])
def test_an_approval_that_was_rewritten_with_all_that_follows_passes_alone_and_not_against_an_older_checkpoint(
    victim: tuple[sqlite3.Connection, int, str], payload: str
) -> None:
    connection, size, root = victim
    connection.execute("BEGIN")
    changed = "UPDATE decision_events SET payload = json(?) WHERE event_type = 'APPROVAL_GRANTED'"
    connection.execute(changed, (json.dumps(json.loads(payload), sort_keys=True),))
    recompute(connection)
    assert findings(connection) == []
    assert root_of(connection, size) != root
    connection.execute("ROLLBACK")


def test_an_older_checkpoint_is_refused_by_a_log_that_was_rewritten_and_went_on(tmp_path: Path) -> None:
    with new_store(tmp_path / "store.db") as store:
        fill(store)
        size, root = store.log_root()
    with closing(unlocked(tmp_path / "store.db")) as connection:
        connection.execute("UPDATE decision_events SET actor_id = 'mallory' WHERE event_type = 'APPROVAL_GRANTED'")
        rechain(connection)
    with DecisionStore(tmp_path / "store.db") as store:
        store.create_decision("later")
        new_size, new_root = store.log_root()
        proof = [bytes.fromhex(value) for value in store.consistency_proof(size)]
        assert not merkle.verify_consistency(size, bytes.fromhex(root), new_size, bytes.fromhex(new_root), proof)
