"""Cells of a type that no store writes, and single flipped bits: an answer or an error with a code, from everybody, and a finding.

A STRICT table does not take them, but whoever owns the file can make it another one for a moment, and a bit of a row's header decides what
the bytes of a cell are.
"""

import json
import random
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from checkpoint_testing import signed
from store_testing import ALICE, BOB, CAROL, foreign, new_store, quick_folder

from nexus_control.errors import NexusError
from nexus_control.events import EventType
from nexus_control.store import DecisionStore, EventItem
from nexus_control.tool import NexusControlTools, ToolResult

ROWID = {("decision_events", "position"), ("log", "position"), ("checkpoints", "number"), ("log_tiles", "number")}
"""Columns that are the number of their row, and can be nothing else where the table is not made anew."""

VALUES: dict[str, object] = {
    "blob": b"\x00\xff",
    "integer": 7,
    "real": 1.5,
    "text": "x",
    "null": None,
}

COLUMNS = {
    "decisions": (
        "decision_id, generation, created_at, tombstone, goal, creator_type, creator_id, policy_ref, template_name, template_digest, "
        "imported_at, imported_from, bundle_digest, copy_digest, prev, chain, position"
    ),
    "decision_events": "position, decision_id, generation, seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain",
    "templates": (
        "name, description, min_approvals, allowed_modes, require_adapter_capabilities, max_steps, labels, created_at, created_by_type, "
        "created_by_id, digest"
    ),
    "template_events": "template_name, seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain, position",
    "log": "position, leaf_hash, kind",
    "checkpoints": "number, size, note",
    "log_tiles": "number, hash, seal",
    "imports": "decision_id, generation, events",
}
CELLS = [(table, column) for table, names in COLUMNS.items() for column in names.split(", ") if (table, column) not in ROWID]


class Router:
    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        del adapter_id
        return None

    def run(self, **arguments: Any) -> dict[str, Any]:
        del arguments
        return {"run_id": "r", "steps_executed": 1}


def fill(path: Path) -> None:
    """Every table has rows; all in the file, none in a log beside it."""
    with new_store(path) as store:
        tools = NexusControlTools(store)
        tools.template_create("prod", ALICE, "for production", labels=["a"], allowed_modes=["apply"], max_steps=9)
        for goal in ("first", "second"):
            tools.request(goal, ALICE, mode="apply", template_name="prod")
        tools.approve("id-0", BOB)
        tools.execute("id-0", "adapter", ALICE, Router())
        tools.approve("id-1", BOB, comment="fine")
        bundle = tools.export_bundle("id-1").data["canonical_json"]
        tools.import_bundle(bundle, conflict_mode="overwrite")
        tools.approve("id-1", CAROL)
        items: list[EventItem] = [(EventType.EXECUTION_STARTED, ALICE, {})] * 256
        store.append_events("many", items, create=True)
        store.add_checkpoint(signed(*store.log_root()))
        assert store.verify_log().errors == []
    with closing(foreign(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


@pytest.fixture(scope="module")
def original() -> Iterator[Path]:
    with quick_folder() as folder:
        fill(folder / "original.db")
        yield folder / "original.db"


def force(path: Path, table: str, column: str, value: object) -> int:
    """Put the value into the column of every row that can take it, whatever the schema says; gives how many did."""
    with closing(foreign(path)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        (sql,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    loose = re.sub(
        rf"(\n\s*{column}\s)([^\n]*?)(,?)(?=\n)",
        lambda found: f"{found[1]}{'PRIMARY KEY' if 'PRIMARY KEY' in found[2] else ''}{found[3]}",
        sql,
    )
    assert loose != sql
    rewrite(path, table, loose.replace(") STRICT, WITHOUT", ") WITHOUT").replace(") STRICT", ")"))
    with closing(foreign(path)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        try:
            count = connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,)).rowcount
            stored = connection.execute(f"SELECT COUNT(*) FROM {table} WHERE typeof({column}) = typeof(?)", (value,)).fetchone()[0]
        except sqlite3.IntegrityError:
            stored = count = 0
    rewrite(path, table, sql)
    with closing(foreign(path)) as connection:
        for _, trigger in triggers:
            connection.execute(trigger)
    return min(count, stored)


def rewrite(path: Path, table: str, sql: str) -> None:
    with closing(foreign(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, table))


def questions(store: DecisionStore) -> dict[str, Callable[[], object]]:
    """Everything that can be asked of a store, and told to it."""
    tools, templates = NexusControlTools(store), store.get_template_store()
    asked: dict[str, Callable[[], object]] = {
        "verify_log": store.verify_log,
        "list_requests": tools.list_requests,
        "list_decisions": store.list_decisions,
        "log_root": store.log_root,
        "inclusion_proof": lambda: store.inclusion_proof(2),
        "consistency_proof": lambda: store.consistency_proof(2),
        "joint_inclusion_proof": lambda: store.joint_inclusion_proof([1, 2]),
        "checkpoints": store.checkpoints,
        "certain_log_root": store.certain_log_root,
        "template_list": lambda: tools.template_list(label_filter="a"),
        "template_get": lambda: tools.template_get("prod", include_events=True),
        "get_template_events": lambda: templates.get_template_events("prod"),
    }
    for name in ("id-0", "id-1"):
        asked |= {
            f"verify_log {name}": lambda name=name: store.verify_log(name),
            f"get_events {name}": lambda name=name: store.get_events(name),
            f"get_events of 1 {name}": lambda name=name: store.get_events(name, generation=1),
            f"history {name}": lambda name=name: store.history(name),
            f"chained history {name}": lambda name=name: store.history(name, chained=True),
            f"end {name}": lambda name=name: store.end(name),
            f"latest_event {name}": lambda name=name: store.latest_event(name, EventType.DECISION_CREATED),
            f"origin {name}": lambda name=name: store.origin(name),
            f"list_generations {name}": lambda name=name: store.list_generations(name),
            f"decision_exists {name}": lambda name=name: store.decision_exists(name),
            f"status {name}": lambda name=name: tools.status(name, include_events=True),
            f"inspect {name}": lambda name=name: tools.inspect(name, include_events=True),
            f"export_bundle {name}": lambda name=name: tools.export_bundle(name),
            f"export_audit_package {name}": lambda name=name: tools.export_audit_package(name),
            f"export_audit_record {name}": lambda name=name: tools.export_audit_record(name),
        }
    changes: dict[str, Callable[[], object]] = {
        "add_checkpoint": lambda: store.add_checkpoint(signed(*store.log_root())),
        "approve": lambda: tools.approve("id-1", ALICE),
        "execute": lambda: tools.execute("id-1", "adapter", ALICE, Router()),
        "recover_execution": lambda: tools.recover_execution("id-0", ALICE),
        "revoke_approval": lambda: tools.revoke_approval("id-1", BOB),
        "request": lambda: tools.request("third", ALICE, template_name="prod"),
        "template_create": lambda: tools.template_create("late", ALICE),
        "delete_decision": lambda: store.delete_decision("id-0"),
        "create_decision": lambda: store.create_decision("id-0"),
    }
    return asked | changes


def wrong_answers(path: Path) -> dict[str, str]:
    """What answered by something else than a result or an error with a code, or gave a program what is no JSON."""
    wrong: dict[str, str] = {}
    try:
        store = DecisionStore(path)
    except NexusError:
        return {}
    with store:
        for name, ask in questions(store).items():
            try:
                answer = ask()
            except NexusError:
                continue
            except Exception as error:  # what this is about
                wrong[name] = repr(error)
                continue
            if isinstance(answer, ToolResult):
                try:
                    json.dumps(answer.to_dict())
                except TypeError as error:
                    wrong[name] = f"no JSON: {error}"
    return wrong


def rows_of(path: Path, sql: str) -> list[Any]:
    with closing(foreign(path)) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize(("table", "column"), CELLS)
def test_a_cell_of_a_wrong_type_is_a_finding_and_an_error_with_a_code(original: Path, table: str, column: str) -> None:
    declared = {row[1]: row[2] for row in rows_of(original, f"PRAGMA table_info({table})")}[column]
    tried: list[str] = []
    for kind, value in VALUES.items():
        if kind == declared.lower():
            continue
        path = original.with_name(f"{table} {column} {kind}.db")
        shutil.copy(original, path)
        if not force(path, table, column, value):
            continue
        tried.append(kind)
        with DecisionStore(path) as store:
            assert not store.verify_log().ok, kind
        assert wrong_answers(path) == {}, kind
    # A key cannot be NULL, and a nullable column may be: everything else could be forced.
    assert len(tried) >= 3


def test_every_column_of_every_table_is_tried(original: Path) -> None:
    stored = {
        (table, column)
        for (table,) in rows_of(original, "SELECT name FROM sqlite_schema WHERE type = 'table'")
        for (column,) in rows_of(original, f"SELECT name FROM pragma_table_info('{table}')")
    }
    assert set(CELLS) | ROWID == stored


def test_a_flipped_bit_is_answered_by_everybody_with_a_result_or_a_code(original: Path) -> None:
    content, chance = original.read_bytes(), random.Random(7)
    path = original.with_name("flipped.db")
    wrong: Counter[str] = Counter()
    for _ in range(300):
        place = chance.randrange(100, len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        for end in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        path.write_bytes(flipped)
        wrong.update(f"byte {place}: {name}: {problem}" for name, problem in wrong_answers(path).items())
    assert not wrong


@pytest.mark.parametrize(
    ("table", "column", "status", "state", "execute"),
    [
        ("decision_events", "payload", "EVENT_UNREADABLE", "invalid", "EVENT_UNREADABLE"),
        ("decision_events", "actor_id", "EVENT_UNREADABLE", "invalid", "EVENT_UNREADABLE"),
        ("decision_events", "digest", "EVENT_UNREADABLE", "invalid", "EVENT_UNREADABLE"),
        ("decision_events", "seq", "EVENT_UNREADABLE", "invalid", "HISTORY_ALTERED"),
        ("decisions", "created_at", None, "STORE_UNREADABLE", "STORE_UNREADABLE"),
        ("decisions", "generation", "STORE_UNREADABLE", "draft", "STORE_UNREADABLE"),
        ("imports", "events", None, "approved", "STORE_UNREADABLE"),
        ("log", "leaf_hash", None, "approved", "HISTORY_ALTERED"),
    ],
)
def test_what_cannot_be_read_has_its_code(original: Path, table: str, column: str, status: str | None, state: str, execute: str) -> None:
    path = original.with_name(f"{table} {column}.db")
    shutil.copy(original, path)
    assert force(path, table, column, b"\x00\xff")
    with DecisionStore(path) as store:
        tools = NexusControlTools(store)
        assert tools.status("id-1").code == status
        listed = tools.list_requests()
        assert listed.code or {entry["request_id"]: entry["state"] for entry in listed.data["requests"]}["id-1"] == state
        assert listed.code in (None, state)
        assert tools.execute("id-1", "adapter", ALICE, Router()).code == execute
