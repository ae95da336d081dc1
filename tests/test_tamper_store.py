"""A stored fact cannot be changed, dropped, added or moved without verify_log saying so; and what it cannot know.

The tamperer owns the file: no triggers, no foreign keys, no checks. One connection makes a change, the whole store is verified on it,
and the change is rolled back. Some changes are made in a copy of the file as well, through the front door.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from checkpoint_testing import KEY, WITNESS, check, cosignature, signed
from store_testing import ALICE, BOB, NEXUS, foreign, new_store, quick_folder, raw_event, ticking_clock

from nexus_control import merkle
from nexus_control.checkpoint import check_note, parse_note
from nexus_control.errors import InputError, MalformedEvent, StoreUnreadable
from nexus_control.events import EventType, event_digest
from nexus_control.header import HeaderCopy
from nexus_control.log_check import check_decision, check_store
from nexus_control.store import DecisionStore, EventItem, ImportOrigin
from nexus_control.template import Template
from nexus_control.tool import NexusControlTools

TABLES = {
    "decisions": ("decision_id", "generation"),
    "decision_events": ("position",),
    "templates": ("name",),
    "template_events": ("template_name", "seq"),
    "log": ("position",),
}
"""The tables of facts, with their keys."""

BESIDE = {"checkpoints": ("number",), "log_tiles": ("number",), "imports": ("decision_id", "generation")}
"""The other tables: what the log has signed, what it has cached, and how much each import brought."""

KEYS = {**TABLES, **BESIDE}

CHAIN = "the chain hash does not match the row"
LINK = "prev_hash is not the chain hash of the row before it"
DIGEST = "the digest does not match type and payload"
COPY = "the header's listing copy was changed"
ROW = "the digest does not match the row|unreadable template row|spelled in another way than it was stored"

EXPECTED = {
    ("decisions", "decision_id"): CHAIN,
    ("decisions", "generation"): CHAIN,
    ("decisions", "created_at"): CHAIN,
    ("decisions", "tombstone"): f"{CHAIN}|its tombstone mark is",
    ("decisions", "goal"): COPY,
    ("decisions", "creator_type"): COPY,
    ("decisions", "creator_id"): COPY,
    ("decisions", "policy_ref"): COPY,
    ("decisions", "template_name"): COPY,
    ("decisions", "template_digest"): COPY,
    ("decisions", "imported_at"): COPY,
    ("decisions", "imported_from"): COPY,
    ("decisions", "bundle_digest"): COPY,
    ("decisions", "copy_digest"): COPY,
    ("decisions", "prev"): LINK,
    ("decisions", "chain"): CHAIN,
    ("decisions", "position"): "has no stored generation",
    ("decision_events", "position"): "has no stored event",
    ("decision_events", "decision_id"): CHAIN,
    ("decision_events", "generation"): CHAIN,
    ("decision_events", "seq"): CHAIN,
    ("decision_events", "event_type"): DIGEST,
    ("decision_events", "ts"): CHAIN,
    ("decision_events", "actor_type"): CHAIN,
    ("decision_events", "actor_id"): CHAIN,
    ("decision_events", "payload"): f"{DIGEST}|the payload is not in canonical form",
    ("decision_events", "digest"): DIGEST,
    ("decision_events", "prev"): LINK,
    ("decision_events", "chain"): CHAIN,
    ("templates", "name"): "its events are there, its row is missing",
    ("templates", "description"): ROW,
    ("templates", "min_approvals"): ROW,
    ("templates", "allowed_modes"): ROW,
    ("templates", "require_adapter_capabilities"): ROW,
    ("templates", "max_steps"): ROW,
    ("templates", "labels"): ROW,
    ("templates", "created_at"): ROW,
    ("templates", "created_by_type"): ROW,
    ("templates", "created_by_id"): ROW,
    ("templates", "digest"): "the digest does not match the row",
    ("template_events", "template_name"): CHAIN,
    ("template_events", "seq"): CHAIN,
    ("template_events", "event_type"): DIGEST,
    ("template_events", "ts"): CHAIN,
    ("template_events", "actor_type"): CHAIN,
    ("template_events", "actor_id"): CHAIN,
    ("template_events", "payload"): f"{DIGEST}|the payload is not in canonical form",
    ("template_events", "digest"): DIGEST,
    ("template_events", "prev"): LINK,
    ("template_events", "chain"): CHAIN,
    ("template_events", "position"): "has no stored template_event",
    ("log", "position"): "but no leaf",
    ("log", "leaf_hash"): "does not match its",
    ("log", "kind"): "is marked",
}
"""Column by column, what a finding about the changed row says."""

UNNOTICED_IN_A_DECISION = {("decisions", "position"), ("decision_events", "position")}
"""Verifying one decision alone does not look at positions: the log of the whole store does."""


def fill(store: DecisionStore) -> None:
    """Every kind of row: a template with an odd text, all event types, an import with its origin, generations and a tombstone."""
    templates = store.get_template_store()
    odd = "é\u2028\x00\U0001f511\ufffd"
    template = templates.create_template("prod", ALICE, odd, 2, ["dry_run", "apply"], ["timeout"], 5, ["a", odd])
    templates.create_template("bare", BOB)
    created = {"goal": "rotate \ufffd", "plan": None, "requested_mode": "apply", "labels": ["x"]}
    attached = {
        **template.policy().to_dict(),
        "template_name": "prod",
        "template_digest": template.digest(),
        "template_snapshot": template.to_snapshot(),
        "overrides_applied": {},
    }
    store.append_events("full", [(EventType.DECISION_CREATED, ALICE, created), (EventType.POLICY_ATTACHED, ALICE, attached)], create=True)
    later: list[tuple[EventType, dict[str, Any]]] = [
        (EventType.APPROVAL_GRANTED, {"expires_at": None, "comment": odd}),
        (EventType.APPROVAL_REVOKED, {"reason": ""}),
        (EventType.EXECUTION_REQUESTED, {"adapter_id": "ad", "dry_run": False}),
        (EventType.EXECUTION_STARTED, {"router_request_digest": "ab" * 32}),
        (EventType.EXECUTION_COMPLETED, {"run_id": "r", "response_digest": "cd" * 32, "steps_executed": 3}),
        (EventType.EXECUTION_FAILED, {"error_code": "E", "error_message": "m", "run_id": None, "ratio": 0.5}),
        (EventType.TEMPLATE_CREATED, {}),
    ]
    for kind, payload in later:
        store.append_event("full", kind, NEXUS, payload)
    store.create_decision("twice")
    store.append_event("twice", EventType.DECISION_CREATED, BOB, {"goal": "old"})
    event = raw_event(0, digest=event_digest("DECISION_CREATED", '{"goal":"g"}'))
    origin = ImportOrigin("2025-02-01T00:00:00+00:00", "elsewhere", "sha256:" + "e" * 64)
    store.import_decision_atomic("twice", "2024-01-01T00:00:00+00:00", [event], overwrite=True, origin=origin)
    store.delete_decision("twice")
    store.import_decision_atomic("other", "2024-01-01T00:00:00+00:00", [event], origin=origin)


@pytest.fixture(scope="module")
def original() -> Iterator[Path]:
    with quick_folder() as folder:
        with new_store(folder / "store.db") as store:
            fill(store)
            assert store.verify_log().errors == []
        yield folder / "store.db"


@pytest.fixture(scope="module")
def tampering(original: Path) -> Iterator[sqlite3.Connection]:
    """The tamperer's connection to a copy."""
    copy = original.with_name("tampered.db")
    shutil.copy(original, copy)
    with closing(unlocked(copy)) as connection:
        yield connection


def unlocked(path: Path) -> sqlite3.Connection:
    connection = foreign(path)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {row['name']}")
    return connection


@pytest.fixture
def tamper(tampering: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    tampering.execute("BEGIN")
    yield tampering
    tampering.execute("ROLLBACK")


def findings(connection: sqlite3.Connection) -> list[str]:
    """What the whole store's verification finds, but for the missing triggers."""
    return [text for text in check_store(connection).errors if not text.startswith("schema: the trigger ")]


def run(connection: sqlite3.Connection, *statements: str) -> list[str]:
    for statement in statements:
        connection.execute(statement)
    return findings(connection)


def label(table: str, row: dict[str, Any]) -> str:
    """How findings name this row."""
    return {
        "decisions": "decision {decision_id} generation {generation}:",
        "decision_events": "decision {decision_id} generation {generation} event {seq}:",
        "templates": "template {name}:",
        "template_events": "template {template_name} event {seq}:",
        "log": "position {position} ",
    }[table].format(**row)


def changes(declared: str, value: Any) -> list[Any]:
    """Other values for a cell, of the type that its column takes."""
    if declared == "BLOB":
        return [bytes([value[0] ^ 1]) + value[1:], value[:-1] + bytes([value[-1] ^ 0x80]), b"\x01" * len(value), value[:-1], None]
    if declared == "INTEGER":
        return [7] if value is None else [value + 1, value - 1, value + 100, None]
    if value is None:
        return ["", "x"]
    respelled = [f" {value}", f"{value} ", value.replace(",", ", ", 1), value.swapcase()]
    shifted = [value[:-1] + chr(ord(value[-1]) ^ 1), chr(ord(value[0]) ^ 1) + value[1:], value[:-1]] if value else []
    return [change for change in [f"{value}x", "", None, f"{value}\x00", *shifted, *respelled] if change != value]


def cells(connection: sqlite3.Connection, table: str) -> list[tuple[dict[str, Any], str, str]]:
    """Each row with each of its columns and the declared type."""
    columns = [(row["name"], row["type"]) for row in connection.execute(f"PRAGMA table_info({table})")]
    rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
    return [(row, name, declared) for row in rows for name, declared in columns]


def put(connection: sqlite3.Connection, table: str, row: dict[str, Any], column: str, value: Any) -> bool:
    """Change one cell. False when the file's format does not allow it (a key that is taken, NULL where there can be none)."""
    where = " AND ".join(f"{key} = :{key}" for key in KEYS[table])
    try:
        connection.execute(f"UPDATE {table} SET {column} = :new WHERE {where}", {**row, "new": value})
    except sqlite3.IntegrityError:
        return False
    return True


# -- single cells


def test_the_store_that_is_tampered_with_has_every_kind_of_row(tampering: sqlite3.Connection) -> None:
    counts = {table: tampering.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in TABLES}
    assert counts == {"decisions": 5, "decision_events": 12, "templates": 2, "template_events": 2, "log": 19}
    kinds = {row[0] for row in tampering.execute("SELECT event_type FROM decision_events")}
    assert kinds == {member.value for member in EventType}
    assert findings(tampering) == []


def test_every_column_has_its_expected_finding(tampering: sqlite3.Connection) -> None:
    columns = {(table, row["name"]) for table in TABLES for row in tampering.execute(f"PRAGMA table_info({table})")}
    assert columns == set(EXPECTED)


@pytest.mark.parametrize("table", TABLES)
def test_no_cell_can_be_changed_without_a_finding_that_names_its_row(tampering: sqlite3.Connection, table: str) -> None:
    unnoticed: list[object] = []
    for row, column, declared in cells(tampering, table):
        tried = 0
        for value in changes(declared, row[column]):
            tampering.execute("BEGIN")
            if put(tampering, table, row, column, value):
                tried += 1
                names = {label(table, row), label(table, {**row, column: value}), label("log", row) if "position" in row else ""}
                wanted = EXPECTED[table, column].split("|")
                found = findings(tampering)
                if not any(name and name in text and phrase in text for text in found for name in names for phrase in wanted):
                    unnoticed.append((label(table, row), column, value, found))
            tampering.execute("ROLLBACK")
        assert tried, f"no change of {table}.{column} was possible"
    assert unnoticed == []


def test_a_decision_verified_alone_notices_every_change_to_its_rows_but_their_positions(tampering: sqlite3.Connection) -> None:
    unnoticed: list[object] = []
    for table in ("decisions", "decision_events"):
        for row, column, declared in cells(tampering, table):
            if (table, column) in UNNOTICED_IN_A_DECISION:
                continue
            for value in changes(declared, row[column]):
                tampering.execute("BEGIN")
                if put(tampering, table, row, column, value):
                    found = check_decision(tampering, row["decision_id"]) if still_known(tampering, row["decision_id"]) else None
                    is_last = column in ("decision_id", "generation") and is_last_of_chain(tampering, row)
                    if found is not None and found.ok and not is_last:
                        unnoticed.append((label(table, row), column, value))
                tampering.execute("ROLLBACK")
    assert unnoticed == []


def still_known(connection: sqlite3.Connection, decision_id: str) -> bool:
    return connection.execute("SELECT COUNT(*) FROM decisions WHERE decision_id = ?", (decision_id,)).fetchone()[0] > 0


def is_last_of_chain(connection: sqlite3.Connection, row: dict[str, Any]) -> bool:
    """Whether nothing follows this row in its decision; to lose such a row is a truncation, which only the store's log shows."""
    query = "SELECT COUNT(*) FROM {0} WHERE decision_id = ? AND position > ?"
    return not any(
        connection.execute(query.format(table), (row["decision_id"], row["position"])).fetchone()[0] for table in TABLES_OF_DECISIONS
    )


TABLES_OF_DECISIONS = ("decisions", "decision_events")


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("decision_events", "payload", '{"expires_at":null,"comment":"I agree"}'),
        ("decision_events", "actor_id", "mallory"),
        ("decisions", "created_at", "1999-01-01T00:00:00+00:00"),
        ("templates", "min_approvals", 1),
        ("log", "leaf_hash", b"\x00" * 32),
    ],
)
def test_a_change_in_the_file_is_found_through_the_front_door(original: Path, table: str, column: str, value: object) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        triggers = [row[0] for row in connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'")]
    with closing(unlocked(copy)) as connection:
        row = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")][-1]
        assert put(connection, table, row, column, value)
        for trigger in triggers:
            connection.execute(trigger)
    with DecisionStore(copy) as store:
        verification = store.verify_log()
        assert not verification.ok
        assert any(EXPECTED[table, column].split("|")[0] in text for text in verification.errors)
        assert not any(text.startswith("schema") for text in verification.errors)


def test_a_well_formed_approval_that_another_program_adds_is_found_with_the_triggers_in_place(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        source = connection.execute("SELECT position FROM decision_events WHERE event_type = 'APPROVAL_GRANTED'").fetchone()[0]
        connection.execute(COPY_EVENT.format(position=20, generation=1, seq=9, source=source))
        connection.execute("INSERT INTO log SELECT 20, leaf_hash, kind FROM log WHERE position = ?", (source,))
    with DecisionStore(copy) as store:
        assert len(store.get_events("full")) == 10
        assert set(store.verify_log().errors) == {
            f"decision full generation 1 event 9: {LINK}",
            f"decision full generation 1 event 9: {CHAIN}",
            "log: the leaf at position 20 does not match its event",
        }


# -- rows


@pytest.mark.parametrize("table", TABLES)
def test_no_row_can_be_dropped_without_a_finding(tampering: sqlite3.Connection, table: str) -> None:
    phrase = {"templates": "its row is missing", "log": "but no leaf"}.get(table, "has no stored")
    for row in [dict(row) for row in tampering.execute(f"SELECT * FROM {table}")]:
        tampering.execute("BEGIN")
        tampering.execute(f"DELETE FROM {table} WHERE " + " AND ".join(f"{key} = :{key}" for key in TABLES[table]), row)
        found = findings(tampering)
        tampering.execute("ROLLBACK")
        assert any(phrase in text for text in found), row


def test_dropping_a_row_and_its_leaf_leaves_a_gap_and_a_broken_chain(tamper: sqlite3.Connection) -> None:
    assert run(tamper, "DELETE FROM decision_events WHERE position = 7", "DELETE FROM log WHERE position = 7") == [
        "decision full generation 1 event 4: the event before it is missing",
        "decision full generation 1 event 4: prev_hash is not the chain hash of the row before it",
        "log: position 7 is missing, found 8",
    ]


def test_dropping_a_generation_with_its_leaf_is_a_gap(tamper: sqlite3.Connection) -> None:
    found = run(
        tamper,
        "DELETE FROM log WHERE position IN (SELECT position FROM decisions WHERE decision_id = 'twice' AND generation = 2)",
        "DELETE FROM decisions WHERE decision_id = 'twice' AND generation = 2",
    )
    assert "decision twice generation 2 event 0: it belongs to no generation" in found
    assert not check_decision(tamper, "twice").ok


def test_dropping_a_generation_and_its_events_shows_in_the_generation_after_it(tamper: sqlite3.Connection) -> None:
    for table in TABLES_OF_DECISIONS:
        tamper.execute(f"DELETE FROM {table} WHERE decision_id = 'twice' AND generation = 2")
    assert check_decision(tamper, "twice").errors == [
        "decision twice generation 3: the generation before it is missing",
        "decision twice generation 3: prev_hash is not the chain hash of the row before it",
    ]


def test_swapping_the_payloads_of_any_two_events_is_found(tampering: sqlite3.Connection) -> None:
    events = [dict(row) for row in tampering.execute("SELECT position, payload FROM decision_events")]
    for first in events:
        for second in events:
            if first["payload"] == second["payload"]:
                continue
            tampering.execute("BEGIN")
            put(tampering, "decision_events", first, "payload", second["payload"])
            put(tampering, "decision_events", second, "payload", first["payload"])
            found = findings(tampering)
            tampering.execute("ROLLBACK")
            assert sum(DIGEST in text for text in found) == 2


def test_swapping_two_events_with_their_digests_is_found(tamper: sqlite3.Connection) -> None:
    columns = ("event_type", "ts", "actor_type", "actor_id", "payload", "digest")
    values = {
        position: tamper.execute(f"SELECT {', '.join(columns)} FROM decision_events WHERE position = {position}").fetchone()
        for position in (6, 7)
    }
    for position, other in ((6, 7), (7, 6)):
        for column in columns:
            put(tamper, "decision_events", {"position": position}, column, values[other][column])
    found = findings(tamper)
    assert [text for text in found if CHAIN in text] == [f"decision full generation 1 event {seq}: {CHAIN}" for seq in (2, 3)]


def test_renumbering_the_events_of_a_decision_is_found(tamper: sqlite3.Connection) -> None:
    found = run(
        tamper,
        "UPDATE decision_events SET seq = seq + 101 WHERE decision_id = 'full'",
        "UPDATE decision_events SET seq = seq - 100 WHERE decision_id = 'full'",
    )
    assert sum(CHAIN in text for text in found) == 9
    assert "decision full generation 1 event 1: the event before it is missing" in found


def test_moving_the_whole_log_is_found(tamper: sqlite3.Connection) -> None:
    found = run(tamper, *(f"UPDATE {table} SET position = position + 1000" for table in TABLES if table != "templates"))
    assert found == ["log: position 1 is missing, found 1001"]


def test_a_leaf_that_stands_for_nothing_is_found(tamper: sqlite3.Connection) -> None:
    assert run(tamper, "INSERT INTO log SELECT 20, leaf_hash, kind FROM log WHERE position = 19") == [
        "log: position 20 has no stored event"
    ]


def test_a_position_that_two_rows_claim_is_found(tamper: sqlite3.Connection) -> None:
    found = run(tamper, "UPDATE template_events SET position = 3 WHERE template_name = 'bare'")
    assert "log: position 2 has no stored template_event" in found
    assert any(text.startswith("log: position 3 ") for text in found)


COPY_EVENT = """
    INSERT INTO decision_events
        (position, decision_id, generation, seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain)
    SELECT {position}, decision_id, {generation}, {seq}, event_type, ts, actor_type, actor_id, payload, digest, prev, chain
    FROM decision_events WHERE position = {source}"""


def test_an_event_that_was_added_past_the_log_is_found(tamper: sqlite3.Connection) -> None:
    found = run(tamper, COPY_EVENT.format(position=20, generation=1, seq=9, source=6))
    assert "log: position 20 has a stored event but no leaf" in found
    assert f"decision full generation 1 event 9: {CHAIN}" in found


def test_an_event_in_no_generation_is_found(tamper: sqlite3.Connection) -> None:
    found = run(tamper, COPY_EVENT.format(position=20, generation=7, seq=0, source=6))
    assert "decision full generation 7 event 0: it belongs to no generation" in found


def test_an_event_under_a_tombstone_is_found(tamper: sqlite3.Connection) -> None:
    source = tamper.execute("SELECT position FROM decision_events WHERE decision_id = 'twice' AND generation = 1").fetchone()[0]
    found = run(tamper, COPY_EVENT.format(position=20, generation=3, seq=0, source=source))
    assert "decision twice generation 3 event 0: it belongs to a tombstone" in found


def test_a_generation_that_was_added_past_the_log_is_found(tamper: sqlite3.Connection) -> None:
    columns: list[str] = [row["name"] for row in tamper.execute("PRAGMA table_info(decisions)")]
    values = [{"generation": "4", "position": "20", "tombstone": "0"}.get(name, name) for name in columns]
    source = "FROM decisions WHERE decision_id = 'twice' AND generation = 3"
    found = run(tamper, f"INSERT INTO decisions ({', '.join(columns)}) SELECT {', '.join(values)} {source}")
    assert "log: position 20 has a stored generation but no leaf" in found
    assert f"decision twice generation 4: {LINK}" in found


def test_a_template_that_was_added_past_the_log_is_found(tamper: sqlite3.Connection) -> None:
    columns: list[str] = [row["name"] for row in tamper.execute("PRAGMA table_info(templates)")]
    values = ", ".join("'forged'" if name == "name" else name for name in columns)
    found = run(tamper, f"INSERT INTO templates SELECT {values} FROM templates WHERE name = 'bare'")
    assert found == ["template forged: the digest does not match the row", "template forged: it has no event"]


def test_a_template_whose_row_and_digest_were_rewritten_contradicts_its_event(tamper: sqlite3.Connection) -> None:
    row = dict(tamper.execute("SELECT * FROM templates WHERE name = 'bare'").fetchone())
    forged = Template("bare", min_approvals=9, created_at=datetime.fromisoformat(row["created_at"]), created_by=BOB)
    tamper.execute("UPDATE templates SET min_approvals = 9, digest = ? WHERE name = 'bare'", (forged.digest(),))
    assert findings(tamper) == ["template bare: it says something else than its event"]


# -- texts that are no texts


TEXTS = [
    ("decisions", "created_at"),
    ("decisions", "decision_id"),
    ("decisions", "goal"),
    ("decision_events", "payload"),
    ("decision_events", "ts"),
    ("decision_events", "actor_id"),
    ("decision_events", "event_type"),
    ("templates", "labels"),
    ("templates", "name"),
    ("template_events", "payload"),
    ("log", "kind"),
]


@pytest.mark.parametrize(("table", "column"), TEXTS)
@pytest.mark.parametrize("raw", [b"\xff", b"\xed\xa0\x80", b"{\x80}"])
def test_bytes_that_are_no_text_are_a_finding_and_no_exception(original: Path, table: str, column: str, raw: bytes) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(unlocked(copy)) as connection:
        key = TABLES[table][-1]
        connection.execute(f"UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE {key} = (SELECT MAX({key}) FROM {table})", (raw,))
    with DecisionStore(copy) as store:
        verification = store.verify_log()
        assert any("UTF-8" in text for text in verification.errors)
        assert not [text for text in verification.errors if not text.isascii() and "\udc80" <= max(text) <= "\udfff"]


def test_a_replacement_character_cannot_stand_for_bytes_that_are_no_text(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(unlocked(copy)) as connection:
        changed = connection.execute(
            "UPDATE decision_events SET payload = CAST(replace(CAST(payload AS BLOB), x'efbfbd', x'ff') AS TEXT)"
            " WHERE instr(CAST(payload AS BLOB), x'efbfbd') AND decision_id = 'full'"
        ).rowcount
        assert changed == 3
    with DecisionStore(copy) as store:
        assert sum("UTF-8" in text for text in store.verify_log().errors) == 3
        assert sum("UTF-8" in text for text in store.verify_log("full").errors) == 3


def test_a_decision_with_bytes_that_are_no_text_is_unreadable_and_hides_no_other(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(unlocked(copy)) as connection:
        connection.execute("UPDATE decision_events SET payload = CAST(x'7b22676f616c223a22ff227d' AS TEXT) WHERE position = 4")
    with DecisionStore(copy) as store:
        with pytest.raises(StoreUnreadable, match="UTF-8"):
            store.get_events("full")
        found = store.get_events_of(["full", "other"])
        assert isinstance(found["full"], MalformedEvent)
        assert found["other"] == store.get_events("other")
        listed = NexusControlTools(store).list_requests().data["requests"]
        assert [(entry["request_id"], entry["state"]) for entry in listed] == [("full", "invalid"), ("other", "draft")]


def test_a_template_of_endless_nesting_is_a_finding_and_no_exception(tamper: sqlite3.Connection) -> None:
    tamper.execute("UPDATE templates SET labels = ? WHERE name = 'bare'", ("[" * 100_000,))
    assert any(text.startswith("template bare: unreadable template row") for text in findings(tamper))


def test_a_payload_of_endless_nesting_is_a_finding_and_no_exception(tamper: sqlite3.Connection) -> None:
    for text in ("[" * 100_000, '{"a":' * 400 + "1" + "}" * 400):
        tamper.execute("UPDATE decision_events SET payload = ? WHERE position = 6", (text,))
        assert any("decision full generation 1 event 2: payload is not readable JSON" in found for found in findings(tamper))


def test_a_payload_with_two_equal_keys_is_a_finding(tamper: sqlite3.Connection) -> None:
    tamper.execute("""UPDATE decision_events SET payload = '{"reason":"x","reason":""}' WHERE event_type = 'APPROVAL_REVOKED'""")
    assert any("the same key twice" in text for text in findings(tamper))


# -- what surrounds the rows


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DROP TRIGGER decisions_refuse_update", "the trigger decisions_refuse_update is missing or was changed"),
        ("DROP TRIGGER log_refuse_insert", "the trigger log_refuse_insert is missing or was changed"),
        ("DROP INDEX decisions_by_age", "the index decisions_by_age is missing or was changed"),
        ("ALTER TABLE templates ADD COLUMN note TEXT", "the table templates is missing or was changed"),
        (
            "DROP TRIGGER log_refuse_delete; CREATE TRIGGER log_refuse_delete BEFORE DELETE ON log BEGIN SELECT 1; END",
            "the trigger log_refuse_delete is missing or was changed",
        ),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, ' STRICT', '') WHERE name = 'log'",
            "the table log is missing or was changed",
        ),
    ],
)
def test_a_weaker_schema_is_a_finding(original: Path, statement: str, problem: str) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        connection.executescript(statement)
    with DecisionStore(copy) as store:
        assert store.verify_log().errors == [f"schema: {problem}"]


@pytest.mark.parametrize("table", ["decisions", "decision_events", "templates", "template_events", "log", "checkpoints", "imports"])
@pytest.mark.parametrize("spelled", [str.lower, str.upper])
def test_a_trigger_of_others_on_our_tables_is_a_finding(original: Path, table: str, spelled: Callable[[str], str]) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        connection.execute(f"CREATE TRIGGER quiet AFTER INSERT ON {spelled(table)} BEGIN SELECT 1; END")
    with DecisionStore(copy) as store:
        assert store.verify_log().errors == [f"schema: the trigger 'quiet' on {spelled(table)} is not of this schema"]


SWALLOW = "CREATE TRIGGER quiet BEFORE INSERT ON {} BEGIN SELECT RAISE(IGNORE); END"


@pytest.mark.parametrize("table", ["decisions", "decision_events", "log"])
def test_what_the_file_swallows_is_not_acknowledged(original: Path, table: str) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        connection.executescript(SWALLOW.format(table))
    with DecisionStore(copy) as store:
        size, events = store.log_root(), len(store.get_events("full"))
        with pytest.raises(StoreUnreadable, match=r"the database dropped (1 of 1|2 of 2) new rows \(.*`nexus-attest log verify`"):
            store.append_events("new", [(EventType.DECISION_CREATED, ALICE, {})], create=True)
        assert (store.log_root(), len(store.get_events("full")), store.decision_exists("new")) == (size, events, False)


KEPT = ", ".join(f"kept AS k{i}" for i in range(24))
ENDLESS = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n)"
VIEWS = {"copy": "SELECT * FROM kept", "endless": f"{ENDLESS} SELECT kept.* FROM n, kept", "many": f"SELECT k0.* FROM {KEPT}"}


@pytest.mark.parametrize("spelled", [str.lower, str.upper], ids=["lower", "upper"])
@pytest.mark.parametrize("table", ["decisions", "decision_events", "log"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_in_the_place_of_a_table_is_named_and_never_read(
    original: Path, table: str, view: str, spelled: Callable[[str], str]
) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        connection.executescript(f"ALTER TABLE {table} RENAME TO kept; CREATE VIEW {spelled(table)} AS {view}")
    with DecisionStore(copy) as store:
        tools = NexusControlTools(store=store)
        assert tools.approve("full", BOB).code == "STORE_UNREADABLE"
        for result in (tools.status("full"), tools.export_bundle("full")):
            assert result.code == ("STORE_UNREADABLE" if table != "log" else None)
        listed = tools.list_requests()
        assert listed.code == ("STORE_UNREADABLE" if table == "decisions" else None)
        if table == "decision_events":
            assert {entry["state"] for entry in listed.data["requests"]} == {"invalid"}
        assert f"schema: the table {table} is missing or was changed" in store.verify_log().errors


def test_a_trigger_that_never_ends_is_refused_and_nothing_is_written(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        connection.execute(
            f"CREATE TRIGGER quiet BEFORE INSERT ON decision_events WHEN ({ENDLESS} SELECT COUNT(*) FROM n) BEGIN SELECT 1; END"
        )
    with DecisionStore(copy) as store:
        size = store.log_root()
        with pytest.raises(StoreUnreadable, match="`nexus-attest log verify` tells more"):
            store.append_events("new", [(EventType.DECISION_CREATED, ALICE, {})], create=True)
        assert store.log_root() == size


@pytest.mark.parametrize("table", ["templates", "template_events"])
def test_a_template_that_the_file_swallows_is_not_acknowledged(original: Path, table: str) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        connection.executescript(SWALLOW.format(table))
    with DecisionStore(copy) as store:
        with pytest.raises(StoreUnreadable, match="the database dropped 1 of 1 new rows"):
            store.get_template_store().create_template("late", ALICE)
        assert store.get_template_store().get_template("late") is None


def test_a_revocation_that_the_file_swallows_fails_aloud(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    quiet = "CREATE TRIGGER quiet BEFORE INSERT ON decision_events WHEN NEW.event_type = 'APPROVAL_REVOKED' BEGIN SELECT RAISE(IGNORE); END"
    with DecisionStore(copy) as store:
        tools = NexusControlTools(store=store)
        decision_id = tools.request("rotate", ALICE, mode="apply").data["request_id"]
        tools.approve(decision_id, BOB)
        with closing(foreign(copy)) as connection:
            connection.execute(quiet)
        revoked = tools.revoke_approval(decision_id, BOB)
        assert (revoked.success, revoked.code) == (False, "STORE_UNREADABLE")
        assert not store.verify_log().ok


@pytest.mark.parametrize("position", [2**63 - 1, 2**53, 99, 1, -1])
def test_the_log_takes_no_leaf_out_of_turn_from_anybody(original: Path, position: int) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection, pytest.raises(sqlite3.IntegrityError, match="log is append-only"):
        connection.execute("INSERT INTO log VALUES (?, ?, 'event')", (position, bytes(32)))
    with DecisionStore(copy) as store:
        store.create_decision("one more")
        assert store.verify_log().ok


def test_a_position_that_no_store_could_reach_is_reported_and_nothing_is_written(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(unlocked(copy)) as connection:
        connection.execute("INSERT INTO log VALUES (?, ?, 'event')", (2**63 - 1, bytes(32)))
    with DecisionStore(copy) as store:
        with pytest.raises(StoreUnreadable, match="larger than any that a store writes"):
            store.create_decision("one more")
        assert not store.decision_exists("one more")


@pytest.mark.parametrize("table", TABLES)
def test_a_store_that_lost_a_table_cannot_pass(original: Path, table: str) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        connection.execute(f"DROP TABLE {table}")
    with DecisionStore(copy) as store:
        report = store.verify_log()
    assert f"schema: the table {table} is missing or was changed" in report.errors
    assert (report.ok, report.head) == (False, None)


def test_tables_of_others_are_no_finding(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(foreign(copy)) as connection:
        connection.execute("CREATE TABLE notes (decision_id TEXT)")
        connection.execute("CREATE INDEX by_note ON notes (decision_id)")
    with DecisionStore(copy) as store:
        assert store.verify_log().ok


def test_more_than_a_thousand_findings_are_counted(original: Path) -> None:
    path = original.with_name("many.db")
    with new_store(path) as store:
        items: list[EventItem] = [(EventType.EXECUTION_STARTED, ALICE, {})] * 1200
        store.append_events("d", items, create=True)
    with closing(unlocked(path)) as connection:
        connection.execute("UPDATE decision_events SET digest = 'x'")
        result = check_store(connection)
    assert len(result.errors) == 1001
    assert result.errors[-1] == "and 221 more"


# -- how much an import brought


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("DELETE FROM imports", "it was imported, but how many of its events is not recorded"),
        ("UPDATE imports SET generation = 1 WHERE decision_id = 'twice'", "it was imported, but how many of its events is not recorded"),
        ("UPDATE imports SET events = 2", "it says that 2 events were imported, 1 can have been"),
        ("UPDATE imports SET events = 9000000000000000000", "1 can have been"),
    ],
)
def test_a_record_of_an_import_that_cannot_be_true_is_found(tamper: sqlite3.Connection, change: str, finding: str) -> None:
    assert any(finding in text for text in run(tamper, change))


def test_an_event_that_was_appended_after_others_cannot_be_called_imported(tamper: sqlite3.Connection) -> None:
    tamper.execute("INSERT INTO imports VALUES ('twice', 1, 1)")
    assert findings(tamper) == [], "the one event of that generation follows its header"
    tamper.execute("UPDATE imports SET events = 9 WHERE generation = 1 AND decision_id = 'twice'")
    assert findings(tamper) == ["decision twice generation 1: it says that 9 events were imported, 1 can have been"]


# -- the tables beside the facts


BESIDE_EXPECTED = {
    ("checkpoints", "number"): "it is missing",
    ("checkpoints", "size"): "its row says size",
    ("checkpoints", "note"): "a note |a signature line |it is of the log ",
    ("log_tiles", "number"): "there are no such positions",
    ("log_tiles", "hash"): "the cached hash of positions",
    ("log_tiles", "seal"): "",
    ("imports", "decision_id"): "how many of its events is not recorded",
    ("imports", "generation"): "how many of its events is not recorded",
    ("imports", "events"): "events were imported, 1 can have been",
}
"""Column by column, what a finding says. Nothing, where the column guards a cache against accidents: a tile whose seal does not hold is
computed again (test_log_checkpoints.py)."""


@pytest.fixture(scope="module")
def signed_store() -> Iterator[sqlite3.Connection]:
    """The tamperer's connection to a store with imports, two tiles and three checkpoints, of which the last is cosigned."""
    with quick_folder() as folder:
        with new_store(folder / "store.db") as store:
            fill(store)
            for decision_id in ("long", "longer"):
                items: list[EventItem] = [(EventType.EXECUTION_STARTED, ALICE, {})] * 250
                store.append_events(decision_id, items, create=True)
                note = signed(*store.certain_log_root())
                store.add_checkpoint(note)
            store.add_checkpoint(note.with_signatures([cosignature(note, WITNESS, 1)]))
            assert store.verify_log().ok
        with closing(unlocked(folder / "store.db")) as connection:
            yield connection


def test_every_table_of_a_store_is_in_the_matrix(signed_store: sqlite3.Connection) -> None:
    named = {row[0] for row in signed_store.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")}
    assert named == {*TABLES, *BESIDE}
    columns = {(table, row["name"]) for table in BESIDE for row in signed_store.execute(f"PRAGMA table_info({table})")}
    assert columns == set(BESIDE_EXPECTED)
    counts = {table: signed_store.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in BESIDE}
    assert counts == {"checkpoints": 3, "log_tiles": 2, "imports": 2}


@pytest.mark.parametrize("table", BESIDE)
def test_what_passes_beside_the_facts_is_the_seal_of_a_tile_and_a_smaller_import(signed_store: sqlite3.Connection, table: str) -> None:
    passed: set[tuple[str, object]] = set()
    otherwise: list[object] = []
    for row, column, declared in cells(signed_store, table):
        wanted = BESIDE_EXPECTED[table, column]
        tried = 0
        for value in changes(declared, row[column]):
            signed_store.execute("BEGIN")
            if put(signed_store, table, row, column, value):
                tried += 1
                found = findings(signed_store)
                if not found:
                    passed.add((column, "any" if column == "seal" else value))
                elif not any(phrase in text for text in found for phrase in wanted.split("|")):
                    otherwise.append((row, column, value, found))
            signed_store.execute("ROLLBACK")
        assert tried, f"no change of {table}.{column} was possible"
    assert otherwise == []
    assert passed == {"checkpoints": set[object](), "log_tiles": {("seal", "any")}, "imports": {("events", 0)}}[table]


def test_every_character_of_a_checkpoint_is_of_its_form_its_text_or_its_signatures(tmp_path: Path) -> None:
    """Form and text are compared with the log; signatures take public-key cryptography, and a trust that names their keys."""
    with new_store(tmp_path / "store.db") as store:
        store.create_decision("d")
        note = signed(*store.certain_log_root())
        store.add_checkpoint(note)
        store.add_checkpoint(note.with_signatures([cosignature(note, WITNESS, 1)]))

    def valid(note: str) -> int:
        return sum(outcome.valid for outcome in check_note(parse_note(note), [KEY, WITNESS], check))

    of_signatures = 0
    with closing(unlocked(tmp_path / "store.db")) as connection:
        for number, text in connection.execute("SELECT number, note FROM checkpoints").fetchall():
            for place, character in enumerate(text):
                changed = f"{text[:place]}{'B' if character != 'B' else 'A'}{text[place + 1 :]}"
                connection.execute("BEGIN")
                connection.execute("UPDATE checkpoints SET note = ? WHERE number = ?", (changed, number))
                found = findings(connection)
                connection.execute("ROLLBACK")
                if not found:
                    of_signatures += 1
                    assert valid(changed) < valid(text), (number, place)
                    assert place > text.index("\n\n"), "it is behind the text"
    assert of_signatures > 200


def test_an_origin_that_is_changed_in_every_checkpoint_leaves_no_signature_valid(signed_store: sqlite3.Connection) -> None:
    signed_store.execute("BEGIN")
    signed_store.execute("UPDATE checkpoints SET note = replace(note, 'example.org/log' || char(10), 'example.net/log' || char(10))")
    found = findings(signed_store)
    notes = [row[0] for row in signed_store.execute("SELECT note FROM checkpoints ORDER BY number")]
    signed_store.execute("ROLLBACK")
    assert found == []
    outcomes = [[outcome.valid for outcome in check_note(parse_note(note), [KEY, WITNESS], check)] for note in notes]
    assert outcomes == [[False], [False], [False, False]]


@pytest.mark.parametrize(
    ("table", "row", "found"),
    [
        ("checkpoints", "number = 1", ["checkpoint 1: it is missing", "checkpoint 2: it is missing"]),
        ("checkpoints", "number = 2", ["checkpoint 2: it is missing"]),
        ("checkpoints", "number = 3", []),
        ("checkpoints", "TRUE", []),
        ("log_tiles", "number = 0", []),
        ("log_tiles", "number = 1", []),
        ("imports", "decision_id = 'other'", ["decision other generation 1: it was imported, but how many of its events is not recorded"]),
    ],
)
def test_the_last_checkpoints_and_cached_hashes_can_be_dropped_and_no_import(
    signed_store: sqlite3.Connection, table: str, row: str, found: list[str]
) -> None:
    signed_store.execute("BEGIN")
    signed_store.execute(f"DELETE FROM {table} WHERE {row}")
    told = findings(signed_store)
    signed_store.execute("ROLLBACK")
    assert told == found


# -- what verify_log cannot know


def test_a_smaller_number_of_imported_events_passes(tamper: sqlite3.Connection) -> None:
    """The chained record does not hold it: who edits the file can make an imported approval look like a local one."""
    assert run(tamper, "UPDATE imports SET events = 0") == []


def test_a_listing_copy_that_was_rewritten_with_its_digest_contradicts_the_events(tamper: sqlite3.Connection) -> None:
    forged = HeaderCopy(goal="something nice", creator_type="human", creator_id="mallory")
    tamper.execute(
        "UPDATE decisions SET goal = ?, creator_type = ?, creator_id = ?, policy_ref = ?, template_name = ?, template_digest = ?,"
        " imported_at = ?, imported_from = ?, bundle_digest = ?, copy_digest = ? WHERE decision_id = 'full'",
        (*forged.values(), forged.digest()),
    )
    assert findings(tamper) == [
        "decision full generation 1: the header says another goal than the events",
        "decision full generation 1: the header says another creator_id than the events",
    ]


@pytest.mark.parametrize(("decision_id", "forged"), [("full", HeaderCopy()), ("twice", HeaderCopy(imported_from="nowhere"))])
def test_an_emptied_copy_and_another_origin_pass_when_their_digest_is_rewritten_too(
    tamper: sqlite3.Connection, decision_id: str, forged: HeaderCopy
) -> None:
    """The copy is for listing and decides nothing; it is not part of the chained record."""
    tamper.execute(
        "UPDATE decisions SET goal = ?, creator_type = ?, creator_id = ?, policy_ref = ?, template_name = ?, template_digest = ?,"
        " imported_at = ?, imported_from = ?, bundle_digest = ?, copy_digest = ? WHERE decision_id = ?",
        (*forged.values(), forged.digest(), decision_id),
    )
    assert findings(tamper) == []


def cut(path: Path, size: int) -> None:
    """Drop everything after the first `size` facts, leaves and all."""
    with closing(unlocked(path)) as connection:
        for table in ("decision_events", "template_events", "decisions", "log"):
            connection.execute(f"DELETE FROM {table} WHERE position > ?", (size,))


@pytest.mark.parametrize("size", [17, 16, 13, 2])
def test_a_log_whose_end_was_cut_off_verifies_but_not_against_an_older_root(original: Path, size: int) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with DecisionStore(copy) as store:
        old_size, old_root = store.log_root()
    with closing(foreign(copy)) as connection:
        triggers = [row[0] for row in connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'")]
    cut(copy, size)
    with closing(foreign(copy)) as connection:
        for trigger in triggers:
            connection.execute(trigger)
    with DecisionStore(copy) as store:
        assert store.verify_log().errors == []
        with pytest.raises(InputError, match="old_size must be between"):
            store.consistency_proof(old_size)
        store.append_events("forged", [(EventType.DECISION_CREATED, ALICE, {"n": number}) for number in range(20)], create=True)
        assert store.verify_log().ok
        new_size, new_root = store.log_root()
        proof = [bytes.fromhex(value) for value in store.consistency_proof(old_size)]
        assert not merkle.verify_consistency(old_size, bytes.fromhex(old_root), new_size, bytes.fromhex(new_root), proof)


def test_a_store_that_was_rewritten_whole_verifies_but_has_another_root(original: Path) -> None:
    with DecisionStore(original) as store:
        size, root = store.log_root()
    with quick_folder() as folder, DecisionStore(folder / "forged.db", clock=ticking_clock()) as forged:
        fill(forged)
        assert forged.log_root() == (size, root)
    with quick_folder() as folder, DecisionStore(folder / "forged.db", clock=ticking_clock()) as forged:
        append = forged.append_event

        def other(decision_id: str, kind: EventType, actor: Any, payload: Any) -> object:
            return append(decision_id, kind, BOB if kind is EventType.APPROVAL_GRANTED else actor, payload)

        forged.append_event = other  # pyright: ignore[reportAttributeAccessIssue]
        fill(forged)
        assert forged.verify_log().ok
        assert forged.log_root()[0] == size
        assert forged.log_root()[1] != root


def test_reading_does_not_fail_because_verification_would(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(unlocked(copy)) as connection:
        connection.execute("UPDATE decision_events SET digest = 'stale', prev = x'00' WHERE decision_id = 'full'")
    with DecisionStore(copy) as store:
        assert len(store.get_events("full")) == 9
        assert not store.verify_log("full").ok
        assert store.verify_log("twice").ok


def test_a_row_that_cannot_be_read_is_named(original: Path) -> None:
    copy = original.with_name("copy.db")
    shutil.copy(original, copy)
    with closing(unlocked(copy)) as connection:
        connection.execute("UPDATE decision_events SET ts = 'soon' WHERE decision_id = 'full'")
        connection.execute("UPDATE template_events SET event_type = 'FUTURE'")
    with DecisionStore(copy) as store:
        with pytest.raises(MalformedEvent, match="soon"):
            store.get_events("full")
        with pytest.raises(MalformedEvent, match="unknown type 'FUTURE'"):
            store.get_template_store().get_template_events("bare")
        assert "decision full generation 1 event 0: not an ISO 8601 time: 'soon'" in store.verify_log("full").errors
