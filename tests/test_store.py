"""The store of decisions: one description for every backend, then what is SQLite's own."""

import gc
import json
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import settings, stateful
from hypothesis import strategies as st
from store_contract import CREATION, POLICY, StoreContract, append, created, seqs
from store_testing import ALICE, BOB, environment, foreign, new_store, quick_folder, raw_event

from nexus_control import store as store_module
from nexus_control.canonical_json import canonical_json
from nexus_control.decision import Decision
from nexus_control.errors import ConcurrencyError, DecisionExists, DecisionNotFound, InputError
from nexus_control.events import EventType, event_digest
from nexus_control.integrity import content_digest
from nexus_control.store import DecisionStore, EventStore, ImportOrigin


class TestInMemory(StoreContract):
    """`:memory:`."""

    def open(self, folder: Path, clock: Callable[[], datetime] | None = None) -> EventStore:  # noqa: ARG002
        return new_store(clock=clock)

    def test_two_stores_share_nothing(self) -> None:
        with DecisionStore() as first, DecisionStore() as second:
            first.create_decision("dec-1")
            assert not second.decision_exists("dec-1")

    def test_the_path_is_told(self) -> None:
        with DecisionStore() as store:
            assert store.path == ":memory:"


class TestInAFile(StoreContract):
    """A file that other stores open at the same time."""

    def open(self, folder: Path, clock: Callable[[], datetime] | None = None) -> EventStore:
        return new_store(folder / "store.db", clock)

    def test_two_stores_on_one_file_see_what_the_other_wrote(self, folder: Path) -> None:
        path = folder / "store.db"
        with DecisionStore(path) as first, DecisionStore(str(path)) as second:
            first.append_events("dec-1", [created()], create=True)
            assert append(second, "dec-1").seq == 1
            assert append(first, "dec-1").seq == 2
            assert first.log_root() == second.log_root()
            assert first.path == second.path == str(path)

    def test_what_was_stored_is_there_after_reopening(self, folder: Path) -> None:
        path = folder / "store.db"
        with DecisionStore(path) as store:
            events = store.append_events("dec-1", [created()], create=True)
            root = store.log_root()
        with DecisionStore(path) as store:
            assert store.get_events("dec-1") == events
            assert store.log_root() == root
            assert store.verify_log().ok

    def test_a_snapshot_does_not_see_what_others_commit_meanwhile(self, folder: Path) -> None:
        with DecisionStore(folder / "store.db") as store, DecisionStore(folder / "store.db") as other:
            store.create_decision("dec-1")
            with store.snapshot():
                assert store.get_events("dec-1") == []
                append(other, "dec-1")
                assert store.get_events("dec-1") == []
                assert store.log_root()[0] == 1
            assert len(store.get_events("dec-1")) == 1


# -- tables


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder / "store.db"


def rows(path: Path, query: str) -> list[dict[str, Any]]:
    with closing(foreign(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


COPIES = "goal, creator_type, creator_id, policy_ref, template_name, template_digest, imported_at, imported_from, bundle_digest"


def test_a_header_repeats_the_first_events_of_its_batch(path: Path) -> None:
    attached: dict[str, Any] = {
        **POLICY,
        "template_name": "prod",
        "template_digest": "ab" * 32,
        "template_snapshot": {},
        "overrides_applied": {},
    }
    items = [created("first"), created("second"), (EventType.POLICY_ATTACHED, BOB, attached), (EventType.POLICY_ATTACHED, BOB, POLICY)]
    with DecisionStore(path) as store:
        store.append_events("dec-1", items, create=True)
        assert store.verify_log().ok
    assert rows(path, f"SELECT {COPIES} FROM decisions") == [
        {
            "goal": "first",
            "creator_type": "human",
            "creator_id": "alice",
            "policy_ref": content_digest(POLICY),
            "template_name": "prod",
            "template_digest": "ab" * 32,
            "imported_at": None,
            "imported_from": None,
            "bundle_digest": None,
        }
    ]


def test_the_first_of_two_policies_is_the_one_in_the_header(path: Path) -> None:
    other = {**POLICY, "min_approvals": 2}
    with DecisionStore(path) as store:
        items = [(EventType.POLICY_ATTACHED, ALICE, POLICY), (EventType.POLICY_ATTACHED, ALICE, other), created()]
        store.append_events("dec-1", items, create=True)
        assert store.verify_log().ok
    assert [row["policy_ref"] for row in rows(path, "SELECT policy_ref FROM decisions")] == [content_digest(POLICY)]


def test_the_header_of_a_bare_decision_and_of_a_tombstone_repeats_nothing(path: Path) -> None:
    with DecisionStore(path) as store:
        store.create_decision("dec-1")
        store.append_event("dec-1", *created())
        store.delete_decision("dec-1")
        assert store.verify_log().ok
    assert [set(row.values()) for row in rows(path, f"SELECT {COPIES} FROM decisions")] == [{None}, {None}]


@pytest.mark.parametrize(
    ("payload", "goal"), [({}, None), ({"goal": None}, None), ({"goal": 5}, None), ({"goal": ["g"]}, None), ({"goal": ""}, "")]
)
def test_a_goal_that_is_no_text_is_left_out_of_the_header(path: Path, payload: dict[str, Any], goal: str | None) -> None:
    with DecisionStore(path) as store:
        store.append_events("dec-1", [(EventType.DECISION_CREATED, ALICE, payload)], create=True)
        assert store.verify_log().ok
    assert [row["goal"] for row in rows(path, "SELECT goal FROM decisions")] == [goal]


def test_a_policy_of_few_keys_has_a_reference_too(path: Path) -> None:
    with DecisionStore(path) as store:
        store.append_events("dec-1", [(EventType.POLICY_ATTACHED, ALICE, {"min_approvals": 2, "comment": "c"})], create=True)
        store.append_event("dec-1", *created("late"))
        assert store.verify_log().ok
    header = rows(path, "SELECT goal, creator_id, policy_ref FROM decisions")
    assert header == [{"goal": None, "creator_id": None, "policy_ref": content_digest({"min_approvals": 2})}]


def test_the_header_of_an_import_says_where_it_came_from(path: Path) -> None:
    origin = ImportOrigin("2026-01-01T00:00:00+00:00", "dec-0", "sha256:" + "a" * 64)
    event = raw_event(0, digest=event_digest("DECISION_CREATED", '{"goal":"g"}'))
    with DecisionStore(path) as store:
        store.import_decision_atomic("dec-1", "2025-01-01T00:00:00+00:00", [event], origin=origin)
        assert store.verify_log().ok
    header = rows(path, f"SELECT created_at, {COPIES} FROM decisions")[0]
    assert (header["imported_at"], header["imported_from"], header["bundle_digest"]) == (
        "2026-01-01T00:00:00+00:00",
        "dec-0",
        "sha256:" + "a" * 64,
    )
    assert (header["created_at"], header["goal"], header["creator_id"]) == ("2025-01-01T00:00:00+00:00", "g", "alice")


def test_an_event_row_has_its_derived_columns(path: Path) -> None:
    with DecisionStore(path) as store:
        event = store.append_events("dec-1", [created()], create=True)[0]
    row = rows(path, "SELECT * FROM decision_events")[0]
    assert row == {
        "position": 2,
        "decision_id": "dec-1",
        "generation": 1,
        "seq": 0,
        "event_id": "evt_dec-1_0",
        "event_type": "DECISION_CREATED",
        "ts": event.ts.isoformat(),
        "actor_type": "human",
        "actor_id": "alice",
        "payload": '{"goal":"g","labels":[],"plan":null,"requested_mode":"dry_run"}',
        "digest": event.digest,
        "prev": bytes.fromhex(event.prev_hash or ""),
        "chain": bytes.fromhex(event.chain_hash or ""),
        "prev_hash": event.prev_hash,
        "chain_hash": event.chain_hash,
    }
    assert [row["kind"] for row in rows(path, "SELECT kind FROM log ORDER BY position")] == ["generation", "event"]


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("decisions", "decision_id generation created_at tombstone goal creator_type creator_id policy_ref template_name template_digest"),
        ("decision_events", "decision_id generation seq event_id event_type ts actor_type actor_id payload digest position"),
        (
            "templates",
            "name description min_approvals allowed_modes require_adapter_capabilities max_steps labels created_at created_by_type digest",
        ),
        ("template_events", "template_name seq event_type ts actor_type actor_id payload digest prev_hash chain_hash position"),
        ("log", "position leaf_hash"),
    ],
)
def test_the_published_tables_have_their_columns(path: Path, table: str, columns: str) -> None:
    DecisionStore(path).close()
    found = {row["name"] for row in rows(path, f"PRAGMA table_xinfo({table})")}
    assert set(columns.split()) <= found


def test_events_can_be_found_by_decision_and_by_type(path: Path) -> None:
    DecisionStore(path).close()
    indexes = rows(path, "PRAGMA index_list(decision_events)")
    first = {rows(path, f"PRAGMA index_info({index['name']})")[0]["name"] for index in indexes}
    assert {"decision_id", "event_type"} <= first


def test_the_end_of_a_decision_is_found_without_sorting_its_events(path: Path) -> None:
    with DecisionStore(path) as store:
        statements: list[str] = []
        store.append_events("dec-1", [created()], create=True)
        with store._database.reading() as opened:  # pyright: ignore[reportPrivateUsage]
            connection = cast("sqlite3.Connection", opened)
            connection.set_trace_callback(statements.append)
        store.append_event("dec-1", *created())
        store.latest_event("dec-1", EventType.DECISION_CREATED)
        store.get_events("dec-1")
    reads = [statement for statement in statements if statement.lstrip().startswith("SELECT") and "decision_events AS e" in statement]
    assert len(reads) == 2
    plans = [row["detail"] for statement in reads for row in rows(path, f"EXPLAIN QUERY PLAN {statement}")]
    assert plans
    assert not [detail for detail in plans if "TEMP B-TREE" in detail or detail.startswith("SCAN")]


def test_raw_events_are_inserted_as_they_are(path: Path) -> None:
    with DecisionStore(path) as store:
        store.create_decision("dec-1")
        store.insert_event_raw("dec-1", **raw_event(0, event_type="FUTURE", payload='{ "a": 1.0 }', digest=""))
        store.insert_event_raw(decision_id="dec-1", **raw_event(5))
        assert store.append_event("dec-1", *created()).seq == 6
        with pytest.raises(sqlite3.IntegrityError):
            store.insert_event_raw("dec-1", **raw_event(5))
        with pytest.raises(DecisionNotFound):
            store.insert_event_raw("nope", **raw_event(0))
        with pytest.raises(InputError):
            store.insert_event_raw("dec-1", **raw_event(7, payload=cast("str", {})))
        store.delete_decision("dec-1")
        with pytest.raises(DecisionNotFound):
            store.insert_event_raw("dec-1", **raw_event(7))
    stored = rows(path, "SELECT seq, event_type, payload, digest, position FROM decision_events")
    assert stored[0] == {"seq": 0, "event_type": "FUTURE", "payload": '{"a":1}', "digest": "", "position": 2}
    assert [row["seq"] for row in stored] == [0, 5, 6]


def test_raw_events_in_ascending_order_verify(path: Path) -> None:
    with DecisionStore(path) as store:
        store.create_decision("dec-1")
        for seq in range(3):
            payload = json.dumps({"goal": "é", "n": [seq, 1.50]})
            digest = event_digest("DECISION_CREATED", canonical_json(json.loads(payload)))
            store.insert_event_raw("dec-1", **raw_event(seq, payload=payload, digest=digest))
        assert store.verify_log().ok
        assert [event.payload for event in store.get_events("dec-1")] == [{"goal": "é", "n": [seq, 1.5]} for seq in range(3)]


def test_a_sequence_that_comes_twice_in_an_import_is_an_integrity_error_of_sqlite(path: Path) -> None:
    with DecisionStore(path) as store:
        with pytest.raises(sqlite3.IntegrityError):
            store.import_decision_atomic("dec-1", "2025-01-01", [raw_event(0), raw_event(0)])
        assert store.log_root()[0] == 0


def test_an_existing_decision_is_an_integrity_error_of_sqlite_as_well(path: Path) -> None:
    with DecisionStore(path) as store:
        store.create_decision("dec-1")
        with pytest.raises(sqlite3.IntegrityError) as caught:
            store.create_decision("dec-1")
        assert isinstance(caught.value, DecisionExists)


def test_a_missing_folder_is_an_operational_error_of_sqlite(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        DecisionStore(tmp_path / "missing" / "store.db")


def test_ids_are_uuids_unless_a_test_owns_them() -> None:
    with DecisionStore() as store:
        name = store.create_decision()
        assert [len(part) for part in name.split("-")] == [8, 4, 4, 4, 12]
        assert name[14] == "4"


# -- append-only


def filled(path: Path) -> None:
    with DecisionStore(path) as store:
        store.append_events("dec-1", [created(), (EventType.POLICY_ATTACHED, ALICE, POLICY)], create=True)
        store.get_template_store().create_template("t", ALICE)


def content(path: Path) -> list[object]:
    tables = ("decisions", "decision_events", "templates", "template_events", "log")
    return [rows(path, f"SELECT * FROM {table}") for table in tables]


TABLES = ["decisions", "decision_events", "templates", "template_events", "log"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM {0}",
        "UPDATE {0} SET {1} = {1}",
        "UPDATE OR IGNORE {0} SET {1} = {1}",
        "UPDATE OR REPLACE {0} SET {1} = {1}",
        "REPLACE INTO {0} ({2}) SELECT {2} FROM {0}",
        "INSERT OR REPLACE INTO {0} ({2}) SELECT {2} FROM {0}",
        "INSERT OR IGNORE INTO {0} ({2}) SELECT {2} FROM {0}",
        "INSERT INTO {0} ({2}) SELECT {2} FROM {0} WHERE true ON CONFLICT DO UPDATE SET {1} = {1}",
    ],
)
def test_another_program_can_neither_change_nor_delete_nor_replace_a_row(path: Path, table: str, statement: str) -> None:
    filled(path)
    before = content(path)
    column = {"templates": "description", "log": "kind"}.get(table, "prev")
    stored = ", ".join(row["name"] for row in rows(path, f"PRAGMA table_info({table})"))
    with closing(foreign(path)) as connection, pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        connection.execute(statement.format(table, column, stored))
    assert content(path) == before


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("hidden", ["rowid", "oid", "_rowid_"])
def test_no_row_can_be_replaced_through_a_hidden_key(path: Path, table: str, hidden: str) -> None:
    filled(path)
    before = content(path)
    with closing(foreign(path)) as connection:
        columns: list[str] = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        own = {"decision_id": "'other'", "name": "'other'", "template_name": "'other'"}
        values = [own.get(column, column) for column in columns]
        kept = [(column, value) for column, value in zip(columns, values, strict=True) if column != "position" or table != "log"]
        names, selected = ", ".join(column for column, _ in kept), ", ".join(value for _, value in kept)
        with pytest.raises(sqlite3.DatabaseError):
            connection.execute(f"INSERT OR REPLACE INTO {table} ({hidden}, {names}) SELECT 1, {selected} FROM {table} LIMIT 1")
    assert content(path) == before


def test_the_engine_itself_can_neither_update_nor_delete(path: Path) -> None:
    filled(path)
    with closing(foreign(path)) as connection:
        connection.execute("PRAGMA recursive_triggers = ON")
        for table in TABLES:
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(f"DELETE FROM {table}")


# -- endings


CHILD = textwrap.dedent(
    """
    import sys
    from nexus_control.store import DecisionStore
    store = DecisionStore(sys.argv[1])
    alice = {"type": "human", "id": "alice"}
    for number in range(100000):
        name = f"d{number}"
        store.append_events(name, [("DECISION_CREATED", alice, {"goal": name}), ("EXECUTION_STARTED", alice, {})], create=True)
        event = store.append_event(name, "EXECUTION_FAILED", alice, {"error_message": name * 50})
        sys.stdout.write(f"{name}\\n")
        sys.stdout.flush()
    """
)


@pytest.mark.parametrize("after", [1, 40, 300])
def test_a_process_that_is_killed_while_it_writes_loses_nothing_that_it_had_acknowledged(path: Path, after: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True, env=environment())
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(after)]
    time.sleep(0.003)
    child.kill()
    acknowledged += child.stdout.read().split()
    child.wait()
    child.stdout.close()
    with DecisionStore(path) as store:
        assert store.verify_log().errors == []
        counts = {name: len(store.get_events(name)) for name, _ in store.list_decisions(limit=10**6)}
        assert [counts[name] for name in acknowledged] == [3] * len(acknowledged)
        assert set(counts.values()) <= {2, 3}
        assert len(counts) - len(acknowledged) <= 2
        append(store, acknowledged[0])
        assert store.verify_log().ok


def test_a_store_that_nobody_closed_is_whole(path: Path) -> None:
    store = DecisionStore(path)
    store.create_decision("dec-1")
    del store
    gc.collect()
    with DecisionStore(path) as again:
        assert again.decision_exists("dec-1")


# -- against a model


class Model(stateful.RuleBasedStateMachine):
    """The store against a dict of lists: id -> generations, a generation is None (tombstone) or the goals of its events."""

    def __init__(self) -> None:
        super().__init__()
        self.store: DecisionStore = new_store()
        self.generations: dict[str, list[list[str] | None]] = {}
        self.order: list[str] = []
        self.facts = 0
        self.roots: list[tuple[int, str]] = []

    names = st.sampled_from(["a", "b", "a\x00b", "é"])
    goals = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=3)

    @stateful.initialize()
    def remember_the_empty_root(self) -> None:
        self.roots.append(self.store.log_root())

    def live(self, name: str) -> list[str] | None:
        return self.generations.get(name, [None])[-1]

    def begin(self, name: str, goals: list[str] | None) -> None:
        self.generations.setdefault(name, []).append(goals)
        if name in self.order:
            self.order.remove(name)
        if goals is not None:
            self.order.append(name)
        self.facts += 1 + len(goals or [])

    @stateful.rule(name=names)
    def create(self, name: str) -> None:
        if self.live(name) is None:
            self.store.create_decision(name)
            self.begin(name, [])
        else:
            with pytest.raises(DecisionExists):
                self.store.create_decision(name)

    @stateful.rule(name=names, goals=goals)
    def create_with_events(self, name: str, goals: list[str]) -> None:
        items = [created(goal) for goal in goals]
        if self.live(name) is None:
            self.store.append_events(name, items, create=True)
            self.begin(name, list(goals))
        else:
            with pytest.raises(DecisionExists):
                self.store.append_events(name, items, create=True)

    @stateful.rule(name=names, goals=goals, expected=st.none() | st.integers(0, 5))
    def append(self, name: str, goals: list[str], expected: int | None) -> None:
        items = [created(goal) for goal in goals]
        live = self.live(name)
        if live is None:
            with pytest.raises(DecisionNotFound):
                self.store.append_events(name, items, expected_seq=expected)
        elif expected not in (None, len(live)):
            with pytest.raises(ConcurrencyError):
                self.store.append_events(name, items, expected_seq=expected)
        else:
            self.store.append_events(name, items, expected_seq=expected)
            live.extend(goals)
            self.facts += len(goals)

    @stateful.rule(name=names)
    def delete(self, name: str) -> None:
        existed = self.live(name) is not None
        assert self.store.delete_decision(name) is existed
        if existed:
            self.begin(name, None)

    @stateful.rule(name=names, goals=goals, overwrite=st.booleans())
    def import_(self, name: str, goals: list[str], overwrite: bool) -> None:
        texts = [canonical_json({"goal": goal}) for goal in goals]
        events = [raw_event(seq, payload=text, digest=event_digest("DECISION_CREATED", text)) for seq, text in enumerate(texts)]
        done, _ = self.store.import_decision_atomic(name, self.store.clock().isoformat(), events, overwrite)
        assert done is (overwrite or self.live(name) is None)
        if done:
            self.begin(name, list(goals))

    @stateful.rule(name=names, goals=goals)
    def roll_back(self, name: str, goals: list[str]) -> None:
        with pytest.raises(LookupError), self.store.transaction():  # noqa: PT012
            self.store.import_decision_atomic(name, "2025-01-01", [], overwrite=True)
            self.store.append_events(name, [created(goal) for goal in goals])
            self.store.delete_decision(name)
            assert self.store.log_root()[0] == self.facts + 2 + len(goals)
            raise LookupError

    @stateful.invariant()
    def readers_see_the_newest_generation(self) -> None:
        assert [name for name, _ in self.store.list_decisions()] == self.order[::-1]
        for name in ["a", "b", "a\x00b", "é"]:
            live = self.live(name)
            assert self.store.decision_exists(name) is (live is not None)
            if live is None:
                for read in (lambda name=name: self.store.get_events(name), lambda name=name: self.store.latest_event(name, CREATION)):
                    with pytest.raises(DecisionNotFound):
                        read()
            else:
                events = self.store.get_events(name)
                assert self.store.latest_event(name, CREATION) == (events[-1] if events else None)
                assert self.store.latest_event(name, EventType.APPROVAL_GRANTED) is None
                assert [event.payload["goal"] for event in events] == live
                assert seqs(events) == list(range(len(live)))
                assert self.store.get_events_of([name]) == {name: events}
                for size in range(len(events) + 1):
                    assert Decision.replay(name, events[:size]).goal == (live[size - 1] if size else None)
            stored = self.generations.get(name, [])
            listed = self.store.list_generations(name)
            assert [(entry["tombstone"], entry["event_count"]) for entry in listed] == [
                (goals is None, len(goals or [])) for goals in stored
            ]
            for number, goals in enumerate(stored, 1):
                assert [event.payload["goal"] for event in self.store.get_events(name, number)] == (goals or [])

    @stateful.invariant()
    def the_log_verifies_and_only_grows(self) -> None:
        whole = self.store.verify_log()
        size, root = self.store.log_root()
        assert (whole.errors, size, whole.head) == ([], self.facts, root)
        for old_size, old_root in self.roots:
            assert self.store.log_root(old_size) == (old_size, old_root)
        if self.roots[-1:] != [(size, root)]:
            self.roots.append((size, root))
        for name in self.generations:
            assert self.store.verify_log(name).ok

    def teardown(self) -> None:
        self.store.close()


def test_the_store_does_what_a_dict_of_lists_would_do() -> None:
    cast("Any", stateful).run_state_machine_as_test(Model, settings=settings(max_examples=15, stateful_step_count=20, deadline=None))


def test_the_names_of_the_module_are_these() -> None:
    assert store_module.__all__ == [
        "ConcurrencyError",
        "DecisionStore",
        "EventItem",
        "EventStore",
        "ImportOrigin",
        "LogVerification",
        "StoredEvent",
        "open_store",
    ]
