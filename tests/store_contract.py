"""What every backend of the store must do: one abstract test class, run on memory, on files and on PostgreSQL."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from store_testing import ALICE, BOB, ROBOT, T0, SetClock, quick_folder, raw_event, ticking_clock

from nexus_control.decision import Decision
from nexus_control.errors import ConcurrencyError, DecisionExists, DecisionNotFound, InputError, MalformedEvent, StoreClosed, StoreConflict
from nexus_control.events import Actor, EventType, StoredEvent, event_digest
from nexus_control.store import EventStore

CREATED: dict[str, Any] = {"goal": "g", "plan": None, "requested_mode": "dry_run", "labels": []}
POLICY: dict[str, Any] = {
    "min_approvals": 1,
    "allowed_modes": ["dry_run"],
    "require_adapter_capabilities": [],
    "max_steps": None,
    "labels": [],
}
CREATION = EventType.DECISION_CREATED
ZEROS = "0" * 64
ODD_IDS = [
    "a b",
    "it's",
    '"quoted"',
    "%",
    "_",
    "a\x00b",
    "a\x00",
    "\x00",
    "é",
    "e\u0301",
    "\U0001f511",
    "\ufffd",
    "\u2028",
    "-- ; DROP TABLE decisions",
    "1",
    "01",
    "1.0",
    "null",
    " ",
    "",
    "x" * 100_000,
]


def created(goal: str = "g") -> tuple[EventType, Actor, dict[str, Any]]:
    return EventType.DECISION_CREATED, ALICE, {**CREATED, "goal": goal}


def seqs(events: list[StoredEvent]) -> list[int]:
    return [event.seq for event in events]


def append(store: EventStore, decision_id: str, comment: str = "") -> StoredEvent:
    return store.append_event(decision_id, EventType.EXECUTION_STARTED, ALICE, {"comment": comment})


class StoreContract(ABC):
    """What every backend must do. A subclass opens stores; `reopen` gives another one on the same data, where there can be one."""

    @abstractmethod
    def open(self, folder: Path, clock: Callable[[], datetime] | None = None) -> EventStore: ...

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        with quick_folder() as folder:
            yield folder

    @pytest.fixture
    def store(self, folder: Path) -> Iterator[EventStore]:
        store = self.open(folder)
        yield store
        assert store.verify_log().errors == []
        store.close()

    @pytest.fixture
    def lenient_store(self, folder: Path) -> Iterator[EventStore]:
        """For tests that store what does not verify."""
        store = self.open(folder)
        yield store
        store.close()

    # -- creating

    def test_a_decision_without_a_given_id_gets_a_new_one(self, store: EventStore) -> None:
        first, second = store.create_decision(), store.create_decision()
        assert first != second
        assert store.get_events(first) == []
        assert store.decision_exists(first)

    def test_a_given_id_is_given_back(self, store: EventStore) -> None:
        assert store.create_decision("dec-1") == "dec-1"
        assert store.create_decision(decision_id="dec-2") == "dec-2"

    def test_an_existing_id_is_refused(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        with pytest.raises(DecisionExists, match="already exists: dec-1"):
            store.create_decision("dec-1")
        with pytest.raises(DecisionExists):
            store.append_events("dec-1", [created()], create=True)
        assert store.log_root()[0] == 1

    @pytest.mark.parametrize("name", ODD_IDS)
    def test_every_text_that_utf8_can_express_is_an_id(self, store: EventStore, name: str) -> None:
        store.append_events("a", [created("other")], create=True)
        store.append_events(name, [created(name)], create=True)
        assert store.decision_exists(name)
        assert [event.payload["goal"] for event in store.get_events(name)] == [name]
        assert store.get_events(name)[0].event_id == f"evt_{name}_0"
        assert cast("list[StoredEvent]", store.get_events_of([name])[name])[0].payload["goal"] == name
        assert [entry[0] for entry in store.list_decisions()] == [name, "a"]
        assert store.verify_log(name).ok
        assert store.delete_decision(name)
        assert store.list_generations(name)[-1]["tombstone"]
        assert store.decision_exists("a")

    @pytest.mark.parametrize("value", [5, 1.5, True, b"x", ["x"], {"x": 1}, "\ud800", "x\udfff"])
    def test_what_is_no_text_is_no_id(self, store: EventStore, value: Any) -> None:
        store.create_decision("5")
        calls: list[Callable[[], object]] = [
            lambda: store.create_decision(value),
            lambda: store.append_events(value, [created()]),
            lambda: store.append_events(value, [created()], create=True),
            lambda: append(store, value),
            lambda: store.get_events(value),
            lambda: store.decision_exists(value),
            lambda: store.delete_decision(value),
            lambda: store.list_generations(value),
            lambda: store.verify_log(value),
            lambda: store.import_decision_atomic(value, "2025-01-01", []),
        ]
        for call in calls:
            with pytest.raises(InputError):
                call()
        assert store.log_root()[0] == 1

    # -- appending and reading

    def test_events_are_numbered_from_zero_and_returned_as_they_are_read(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        first = store.append_event(decision_id="dec-1", event_type=EventType.DECISION_CREATED, actor=ALICE, payload=CREATED)
        second = store.append_event("dec-1", EventType.APPROVAL_GRANTED, BOB, {"expires_at": None})
        assert (first.seq, second.seq) == (0, 1)
        assert store.get_events("dec-1") == [first, second]
        assert (first.decision_id, first.event_type, first.actor, first.payload) == ("dec-1", "DECISION_CREATED", ALICE, CREATED)
        assert first.digest == "ea08c8db72786a95e11ea83e80e8c4a6bbcdd2219ffd7278e74f80dc8e1b8efa"
        assert first.ts.utcoffset() == timedelta(0)
        assert first.ts <= second.ts

    def test_chain_and_position_come_with_each_event(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        store.create_decision("dec-2")
        first, second = append(store, "dec-1"), append(store, "dec-1")
        assert (first.position, second.position) == (3, 4)
        assert second.prev_hash == first.chain_hash
        assert store.verify_log("dec-1").head == second.chain_hash
        assert len({first.prev_hash, first.chain_hash, second.chain_hash, ZEROS}) == 4

    @pytest.mark.parametrize("kind", EventType)
    def test_any_event_may_be_first_with_any_payload(self, store: EventStore, kind: EventType) -> None:
        store.create_decision("dec-1")
        event = store.append_event("dec-1", kind, ROBOT, {"response_digest": "abc123", "x": [{"y": None}]})
        assert event.event_type is kind
        assert event.payload == {"response_digest": "abc123", "x": [{"y": None}]}

    def test_a_plain_dict_is_an_actor_and_the_text_of_a_type_is_a_type(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        event = store.append_event("dec-1", cast("EventType", "EXECUTION_FAILED"), {"type": "human", "id": "alice"}, {})
        assert (event.event_type, event.actor) == (EventType.EXECUTION_FAILED, ALICE)
        assert type(event.actor) is Actor

    def test_the_payload_of_the_event_is_what_readers_get_and_shares_nothing(self, store: EventStore) -> None:
        class Mode(StrEnum):
            DRY = "dry_run"

        payload: dict[str, Any] = {"list": ["a"], "tuple": (1, 2), "enum": Mode.DRY, "number": 1.0, "text": "é\x00\U0001f511"}
        store.create_decision("dec-1")
        event = store.append_event("dec-1", EventType.DECISION_CREATED, ALICE, payload)
        payload["list"].append("b")
        assert event.payload == {"list": ["a"], "tuple": [1, 2], "enum": "dry_run", "number": 1, "text": "é\x00\U0001f511"}
        assert store.get_events("dec-1") == [event]
        assert type(event.payload["enum"]) is str

    def test_any_mapping_is_a_payload(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        assert store.append_event("dec-1", EventType.DECISION_CREATED, ALICE, MappingProxyType({"a": 1})).payload == {"a": 1}

    @pytest.mark.parametrize(
        ("kind", "actor", "payload"),
        [
            ("NO_SUCH_TYPE", ALICE, {}),
            ("", ALICE, {}),
            (None, ALICE, {}),
            (["DECISION_CREATED"], ALICE, {}),
            (5, ALICE, {}),
            pytest.param(10**5000, ALICE, {}, id="huge"),
            ("DECISION_CREATED", None, {}),
            ("DECISION_CREATED", "alice", {}),
            ("DECISION_CREATED", {}, {}),
            ("DECISION_CREATED", {"type": "human"}, {}),
            ("DECISION_CREATED", {"type": "human", "id": 5}, {}),
            ("DECISION_CREATED", {"type": None, "id": "alice"}, {}),
            ("DECISION_CREATED", {"type": "human", "id": "\ud800"}, {}),
            ("DECISION_CREATED", ALICE, None),
            ("DECISION_CREATED", ALICE, []),
            ("DECISION_CREATED", ALICE, "{}"),
            ("DECISION_CREATED", ALICE, 5),
            ("DECISION_CREATED", ALICE, {"x": float("nan")}),
            ("DECISION_CREATED", ALICE, {"x": float("inf")}),
            ("DECISION_CREATED", ALICE, {"x": b"bytes"}),
            ("DECISION_CREATED", ALICE, {"x": {1, 2}}),
            ("DECISION_CREATED", ALICE, {1: "x"}),
            ("DECISION_CREATED", ALICE, {"x": "\ud800"}),
            ("DECISION_CREATED", ALICE, {"\ud800": "x"}),
            ("DECISION_CREATED", ALICE, {"x": 10**5000}),
        ],
    )
    def test_an_event_that_cannot_be_stored_is_named_and_nothing_is_written(
        self, store: EventStore, kind: Any, actor: Any, payload: Any
    ) -> None:
        store.create_decision("dec-1")
        before = store.log_root()
        with pytest.raises(InputError):
            store.append_event("dec-1", kind, actor, payload)
        with pytest.raises(InputError):
            store.append_events("dec-2", [created(), (kind, actor, payload)], create=True)
        assert store.log_root() == before
        assert not store.decision_exists("dec-2")

    @pytest.mark.parametrize("events", [None, 5, True, "events", b"e", {"a": 1}, ["event"], [None], [5], [()], [{"a": 1}]])
    def test_what_is_no_list_of_events_is_refused_and_nothing_is_written(self, store: EventStore, events: Any) -> None:
        store.create_decision("dec-1")
        before = store.log_root()
        with pytest.raises(InputError):
            store.append_events("dec-1", events)
        with pytest.raises(InputError):
            store.append_events("dec-1", [created(), *cast("list[Any]", events)] if isinstance(events, list) else events)
        with pytest.raises(InputError):
            store.import_decision_atomic("dec-2", "2024-06-01T00:00:00+00:00", cast("Any", events))
        assert store.log_root() == before

    @pytest.mark.parametrize("generation", [True, 1.0, "1", 0, -1, 2, 2**70])
    def test_what_is_no_generation_is_not_found(self, store: EventStore, generation: Any) -> None:
        store.append_events("dec-1", [created()], create=True)
        assert len(store.get_events("dec-1", generation=1)) == 1
        with pytest.raises(DecisionNotFound, match="has only the generations 1 to 1"):
            store.get_events("dec-1", generation=generation)

    def test_a_payload_that_is_nested_without_end_is_refused(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        endless: dict[str, Any] = {}
        endless["x"] = endless
        deep: dict[str, Any] = {}
        for _ in range(100_000):
            deep = {"x": deep}
        for payload in (endless, deep):
            with pytest.raises(InputError):
                store.append_event("dec-1", EventType.DECISION_CREATED, ALICE, payload)
        while deep:  # or the interpreter takes it apart recursively
            deep = deep["x"]
        assert store.log_root()[0] == 1

    def test_the_deepest_payload_that_is_taken_can_be_read(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        deep: Any = "bottom"
        for _ in range(255):
            deep = [deep]
        event = store.append_event("dec-1", EventType.DECISION_CREATED, ALICE, {"x": deep})
        assert store.get_events("dec-1") == [event]

    def test_an_unknown_decision_is_named(self, store: EventStore) -> None:
        for call in (lambda: append(store, "nope"), lambda: store.get_events("nope"), lambda: store.verify_log("nope")):
            with pytest.raises(DecisionNotFound) as caught:
                call()
            assert "Decision not found: nope" in str(caught.value)
            assert isinstance(caught.value, ValueError)
        assert not store.decision_exists("nope")
        assert not store.delete_decision("nope")
        assert store.list_generations("nope") == []
        assert store.log_root()[0] == 0

    def test_a_large_payload_is_kept_whole(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        payload = {"x": "é" * 1_000_000}
        store.append_event("dec-1", EventType.DECISION_CREATED, ALICE, payload)
        assert store.get_events("dec-1")[0].payload == payload

    # -- batches

    def test_a_batch_is_appended_in_order_in_one_step(self, store: EventStore) -> None:
        stored = store.append_events("dec-1", [created(str(number)) for number in range(5)], create=True)
        assert seqs(stored) == [0, 1, 2, 3, 4]
        assert store.get_events("dec-1") == stored
        assert [event.position for event in stored] == [2, 3, 4, 5, 6]
        more = store.append_events("dec-1", [created("a"), created("b")])
        assert seqs(more) == [5, 6]

    def test_an_empty_batch_appends_nothing(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        assert store.append_events("dec-1", []) == []
        assert store.append_events("dec-2", [], create=True) == []
        assert store.decision_exists("dec-2")
        with pytest.raises(DecisionNotFound):
            store.append_events("nope", [])

    @pytest.mark.parametrize(("stored", "expected"), [(0, 0), (1, 1), (3, 3)])
    def test_an_event_is_appended_where_it_was_expected(self, store: EventStore, stored: int, expected: int) -> None:
        store.append_events("dec-1", [created()] * stored, create=True)
        event = store.append_event("dec-1", EventType.APPROVAL_REVOKED, ALICE, {}, expected_seq=expected)
        assert event.seq == expected

    @pytest.mark.parametrize("expected", [0, 1, 3, -1, 2**70])
    def test_an_event_is_refused_where_it_was_not_expected(self, store: EventStore, expected: int) -> None:
        store.append_events("dec-1", [created()] * 2, create=True)
        before = store.log_root()
        with pytest.raises(ConcurrencyError) as caught:
            store.append_event("dec-1", EventType.APPROVAL_REVOKED, ALICE, {}, expected_seq=expected)
        assert caught.value.code == "CONCURRENT_MODIFICATION"
        assert isinstance(caught.value, ValueError)
        with pytest.raises(ConcurrencyError):
            store.append_events("dec-1", [created()], expected_seq=expected)
        assert store.log_root() == before

    @pytest.mark.parametrize("chained", [False, True])
    def test_a_history_is_the_newest_generation_and_where_the_store_ends(self, lenient_store: EventStore, chained: bool) -> None:
        store = lenient_store
        store.append_events("dec-1", [created(), created("h")], create=True)
        store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", [raw_event(0), raw_event(1)], overwrite=True)
        append(store, "dec-1")
        store.create_decision("dec-2")
        told = store.history("dec-1", chained=chained)
        assert (told.events, told.generation, told.imported, told.position) == (store.get_events("dec-1"), 2, 2, store.log_root()[0])
        assert store.history("dec-2", chained=chained) == ([], 1, 0, 8)

    @pytest.mark.parametrize("chained", [False, True])
    def test_what_is_not_there_has_no_history(self, store: EventStore, chained: bool) -> None:
        store.append_events("dec-1", [created()], create=True)
        store.delete_decision("dec-1")
        for name in ("dec-1", "dec-2"):
            with pytest.raises(DecisionNotFound):
                store.history(name, chained=chained)

    @pytest.mark.parametrize("chained", [False, True])
    def test_what_is_appended_after_a_history_follows_it(self, store: EventStore, chained: bool) -> None:
        store.append_events("dec-1", [created()], create=True)
        for expected in ([1, 2], [3, 4]):
            with store.transaction():
                told = store.history("dec-1", chained=chained)
                assert seqs(store.append_events("dec-1", [created(), created()], after=told.end)) == expected
        assert store.append_event("dec-1", CREATION, ALICE, {}, after=store.history("dec-1").end).seq == 5
        store.create_decision("dec-2")
        assert store.append_event("dec-2", CREATION, ALICE, {}, after=store.history("dec-2").end).seq == 0
        assert store.verify_log().errors == []

    def test_the_end_of_a_decision_is_that_of_its_history(self, store: EventStore) -> None:
        store.append_events("dec-1", [created(), created()], create=True)
        store.create_decision("dec-2")
        told = store.end("dec-1")
        assert told == store.history("dec-1").end
        assert (told.generation, told.next_seq, told.position) == (1, 2, 4)
        assert store.history("dec-2").end is None  # its events do not tell
        assert store.append_event("dec-2", CREATION, ALICE, {}, after=store.end("dec-2")).seq == 0
        assert store.verify_log().errors == []

    def test_what_is_not_there_has_no_end(self, store: EventStore) -> None:
        store.append_events("dec-1", [created()], create=True)
        store.delete_decision("dec-1")
        for name in ("dec-1", "dec-2"):
            with pytest.raises(DecisionNotFound):
                store.end(name)

    @pytest.mark.parametrize("meanwhile", ["dec-1", "dec-2"])
    @pytest.mark.parametrize("together", [False, True])
    def test_a_history_is_refused_when_anything_was_stored_since(self, store: EventStore, meanwhile: str, together: bool) -> None:
        for name in ("dec-1", "dec-2"):
            store.append_events(name, [created()], create=True)
        told = store.history("dec-1")
        if not together:
            append(store, meanwhile)
        before = store.log_root()
        with pytest.raises(StoreConflict), store.transaction():  # noqa: PT012
            if together:
                append(store, meanwhile)
            store.append_event("dec-1", CREATION, ALICE, {}, after=told.end)
        assert store.log_root() == before
        assert store.verify_log().errors == []

    def test_a_history_that_was_never_committed_is_refused(self, store: EventStore) -> None:
        store.append_events("dec-1", [created()], create=True)
        with pytest.raises(InputError), store.transaction():  # noqa: PT012
            append(store, "dec-1")
            told = store.history("dec-1")
            raise InputError("undone")
        with pytest.raises(StoreConflict):
            store.append_event("dec-1", CREATION, ALICE, {}, after=told.end)  # pyright: ignore[reportPossiblyUnboundVariable]
        assert seqs(store.get_events("dec-1")) == [0]

    def test_the_history_of_another_decision_is_refused(self, store: EventStore) -> None:
        for name in ("dec-1", "dec-2"):
            store.append_events(name, [created()], create=True)
        with pytest.raises(InputError, match="no end of dec-2"):
            store.append_event("dec-2", CREATION, ALICE, {}, after=store.history("dec-1").end)

    def test_a_batch_that_creates_expects_to_begin_at_zero(self, store: EventStore) -> None:
        with pytest.raises(ConcurrencyError):
            store.append_events("dec-1", [created()], create=True, expected_seq=1)
        assert not store.decision_exists("dec-1")
        assert seqs(store.append_events("dec-1", [created()], create=True, expected_seq=0)) == [0]

    # -- the clock

    def test_a_clock_without_an_offset_is_refused_with_an_example_and_nothing_is_written(self, folder: Path) -> None:
        clock = SetClock()
        store = self.open(folder, clock)
        store.append_events("dec-1", [created()], create=True)
        root = store.log_root()
        clock.now = datetime(2025, 1, 2)
        naive = r"clock must give times with an offset, as datetime.now\(UTC\) does, got 2025-01-02T00:00:00$"
        with pytest.raises(InputError, match=naive):
            append(store, "dec-1")
        with pytest.raises(InputError, match=naive):
            store.create_decision("dec-2")
        with pytest.raises(InputError, match=naive):
            store.delete_decision("dec-1")
        with pytest.raises(InputError, match=naive):
            store.clock()
        clock.now = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
        with pytest.raises(InputError, match=r"clock must give times of the years 1 to 9999 in UTC, got 0001-01-01T00:00:00\+01:00$"):
            append(store, "dec-1")
        assert store.log_root() == root
        assert not store.decision_exists("dec-2")
        clock.now = datetime(2025, 1, 2, tzinfo=UTC)
        assert append(store, "dec-1").seq == 1
        store.close()

    def test_times_of_a_clock_with_another_offset_are_told_and_stored_in_utc(self, folder: Path) -> None:
        clock = SetClock()
        store = self.open(folder, clock)
        clock.now = datetime(2025, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
        event, *_ = store.append_events("dec-1", [created()], create=True)
        assert event.ts.isoformat() == "2024-12-31T23:00:00+00:00"
        assert store.get_events("dec-1") == [event]
        assert store.list_generations("dec-1")[0]["created_at"] == "2024-12-31T23:00:00+00:00"
        assert store.clock().isoformat() == "2024-12-31T23:00:00+00:00"
        assert store.verify_log().ok
        store.close()

    # -- generations

    def test_a_deleted_decision_is_gone_for_readers_and_stays_in_its_generations(self, store: EventStore) -> None:
        events = store.append_events("dec-1", [created()], create=True)
        assert store.delete_decision("dec-1") is True
        assert not store.decision_exists("dec-1")
        assert store.list_decisions() == []
        with pytest.raises(DecisionNotFound, match="Decision not found"):
            store.get_events("dec-1")
        with pytest.raises(DecisionNotFound, match="Decision not found"):
            append(store, "dec-1")
        with pytest.raises(DecisionNotFound, match="Decision not found"):
            Decision.load(store, "dec-1")
        assert store.delete_decision("dec-1") is False
        assert store.get_events("dec-1", generation=1) == events
        assert store.get_events("dec-1", generation=2) == []
        assert [(entry["generation"], entry["tombstone"], entry["event_count"]) for entry in store.list_generations("dec-1")] == [
            (1, False, 1),
            (2, True, 0),
        ]
        assert store.verify_log("dec-1").ok

    @pytest.mark.parametrize("generation", [0, 2, -1, 2**70, pytest.param(10**5000, id="huge"), "1", 1.5, [1], b"1"])
    def test_an_unknown_generation_is_an_unknown_decision(self, store: EventStore, generation: Any) -> None:
        store.create_decision("dec-1")
        with pytest.raises(DecisionNotFound, match="Decision not found"):
            store.get_events("dec-1", generation=generation)
        with pytest.raises(DecisionNotFound, match="Decision not found"):
            store.get_events("nope", generation=generation)

    def test_creating_a_deleted_decision_starts_its_next_generation(self, store: EventStore) -> None:
        store.append_events("dec-1", [created("old")], create=True)
        store.delete_decision("dec-1")
        store.create_decision("dec-1")
        assert store.get_events("dec-1") == []
        assert append(store, "dec-1").seq == 0
        assert [entry["generation"] for entry in store.list_generations("dec-1")] == [1, 2, 3]
        assert [event.payload["goal"] for event in store.get_events("dec-1", 1)] == ["old"]
        assert [entry[0] for entry in store.list_decisions()] == ["dec-1"]
        with pytest.raises(DecisionExists):
            store.create_decision("dec-1")
        assert store.verify_log("dec-1").ok

    def test_a_batch_may_create_a_deleted_decision_again(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        store.delete_decision("dec-1")
        assert seqs(store.append_events("dec-1", [created()], create=True)) == [0]
        assert seqs(store.get_events("dec-1", generation=3)) == [0]

    def test_generations_are_told_with_their_times_and_counts(self, folder: Path) -> None:
        store = self.open(folder, ticking_clock())
        store.append_events("dec-1", [created(), created()], create=True)
        store.delete_decision("dec-1")
        assert store.list_generations("dec-1") == [
            {"generation": 1, "created_at": "2025-01-01T00:00:00+00:00", "tombstone": False, "event_count": 2},
            {"generation": 2, "created_at": "2025-01-01T00:00:01+00:00", "tombstone": True, "event_count": 0},
        ]
        assert type(store.list_generations("dec-1")[0]["tombstone"]) is bool
        store.close()

    # -- imports

    def test_an_import_is_stored_as_it_says(self, lenient_store: EventStore) -> None:
        store = lenient_store
        digest = event_digest("DECISION_CREATED", '{"goal":"g"}')
        events = [raw_event(0, digest=digest), raw_event(1, ts="2025-01-01T05:00:00+05:00", actor_type="system", actor_id="ci")]
        assert store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", cast("Any", events)) == (True, None)
        first, second = store.get_events("dec-1")
        assert (first.payload, first.digest, first.ts) == ({"goal": "g"}, digest, T0)
        assert (second.ts, second.actor, second.digest) == (T0, {"type": "system", "id": "ci"}, "d")
        assert store.list_decisions() == [("dec-1", datetime(2024, 6, 1, tzinfo=UTC))]
        assert (first.position, second.position, second.prev_hash) == (2, 3, first.chain_hash)
        assert store.verify_log("dec-1").errors == [
            "decision dec-1 generation 1 event 1: the digest does not match type and payload",
        ]

    def test_an_import_without_events_is_a_header(self, store: EventStore) -> None:
        assert store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", []) == (True, None)
        assert store.get_events("dec-1") == []

    def test_an_import_does_not_replace_unless_it_may(self, store: EventStore) -> None:
        events = store.append_events("dec-1", [created()], create=True)
        before = store.log_root()
        done, text = store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", [raw_event(0)])
        assert done is False
        assert text is not None
        assert "already exists" in text
        assert store.log_root() == before
        assert store.get_events("dec-1") == events

    def test_an_overwriting_import_is_a_new_generation(self, store: EventStore) -> None:
        old = store.append_events("dec-1", [created("old"), created("older")], create=True)
        event = raw_event(0, digest=event_digest("DECISION_CREATED", '{"goal":"g"}'))
        assert store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", [event], overwrite=True) == (True, None)
        assert [found.payload for found in store.get_events("dec-1")] == [{"goal": "g"}]
        assert store.get_events("dec-1", generation=1) == old
        assert append(store, "dec-1").seq == 1
        assert store.get_events("dec-1", generation=1) == old
        assert store.verify_log("dec-1").ok

    def test_an_import_under_a_deleted_id_is_its_next_generation(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        store.delete_decision("dec-1")
        assert store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", []) == (True, None)
        assert [entry["generation"] for entry in store.list_generations("dec-1")] == [1, 2, 3]

    def test_overwriting_what_does_not_exist_is_an_import(self, store: EventStore) -> None:
        assert store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", [], overwrite=True) == (True, None)
        assert [entry["generation"] for entry in store.list_generations("dec-1")] == [1]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_an_import_that_fails_leaves_everything_as_it_was(self, store: EventStore, overwrite: bool) -> None:
        name = "dec-1" if overwrite else "dec-2"
        old = store.append_events("dec-1", [created()], create=True)
        before = store.log_root()
        with pytest.raises(Exception):  # noqa: B017, PT011  each backend has its own error for a key that is taken
            store.import_decision_atomic(name, "2024-06-01T00:00:00+00:00", [raw_event(0), raw_event(1), raw_event(1)], overwrite)
        assert store.log_root() == before
        assert store.get_events("dec-1") == old
        assert store.list_generations("dec-2") == []
        assert append(store, "dec-1").position == 3

    @pytest.mark.parametrize(
        "changes",
        [
            {"seq": "0"},
            {"seq": None},
            {"seq": True},
            {"seq": 0.0},
            {"seq": -1},
            {"seq": 2**53},
            {"event_type": 5},
            {"event_type": None},
            {"ts": 5},
            {"ts": datetime(2025, 1, 1)},
            {"actor_type": None},
            {"actor_id": 5},
            {"actor_id": "\ud800"},
            {"payload": {"goal": "g"}},
            {"payload": None},
            {"payload": b"{}"},
            {"digest": None},
            {"digest": 5},
        ],
    )
    def test_imported_values_of_a_wrong_type_are_named_and_nothing_is_written(self, store: EventStore, changes: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", [raw_event(7), raw_event(0, **changes)])
        without = {key: value for key, value in raw_event(0).items() if key not in changes}
        with pytest.raises(InputError):
            store.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", [without])
        assert store.log_root()[0] == 0

    @pytest.mark.parametrize("created_at", ["", "yesterday", None, 5, "0001-01-01T00:00:00+14:00"])
    def test_an_import_needs_a_creation_time(self, store: EventStore, created_at: Any) -> None:
        with pytest.raises(InputError, match="created_at"):
            store.import_decision_atomic("dec-1", created_at, [])
        assert store.log_root()[0] == 0

    def test_an_imported_creation_time_is_listed_in_utc(self, store: EventStore) -> None:
        store.import_decision_atomic("late", "2024-06-01T00:30:00+00:00", [])
        store.import_decision_atomic("early", "2024-06-01T02:00:00+02:00", [])
        assert store.list_decisions() == [
            ("late", datetime(2024, 6, 1, 0, 30, tzinfo=UTC)),
            ("early", datetime(2024, 6, 1, tzinfo=UTC)),
        ]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"event_type": "FUTURE"}, "unknown type 'FUTURE'"),
            ({"ts": "soon"}, "not an ISO 8601 time"),
            ({"payload": "[]"}, "payload"),
            ({"payload": "{"}, "payload"),
            ({"payload": '{"min_approvals": NaN}', "event_type": "POLICY_ATTACHED"}, "payload"),
            ({"payload": '{"goal": "\\ud800"}'}, "payload"),
        ],
    )
    def test_an_import_may_say_what_cannot_be_read_and_then_it_is_named(
        self, lenient_store: EventStore, changes: dict[str, Any], problem: str
    ) -> None:
        store = lenient_store
        store.import_decision_atomic("bad", "2024-06-01T00:00:00+00:00", [raw_event(0, **changes), raw_event(1)])
        good = store.append_events("good", [created()], create=True)
        with pytest.raises(MalformedEvent, match=problem):
            store.get_events("bad")
        found = store.get_events_of(["bad", "good"])
        assert isinstance(found["bad"], MalformedEvent)
        assert found["good"] == good
        assert not store.verify_log("bad").ok
        assert store.verify_log("good").ok

    # -- lists

    def test_decisions_are_listed_newest_first(self, store: EventStore) -> None:
        for name in "abc":
            store.create_decision(name)
        listed = store.list_decisions()
        assert [entry[0] for entry in listed] == ["c", "b", "a"]
        assert all(entry[1].utcoffset() == timedelta(0) for entry in listed)

    @pytest.mark.parametrize(("limit", "offset"), [("5", 0), (5, None), (2**70, 0), (1, -(2**70)), (-1, 0), (1, -1), (True, 0), (1.0, 0)])
    def test_a_page_that_cannot_be_counted_is_refused(self, store: EventStore, limit: object, offset: object) -> None:
        with pytest.raises(InputError, match="limit and offset must be integers from 0 to"):
            store.list_decisions(limit, offset)  # pyright: ignore[reportArgumentType]

    def test_decisions_of_one_instant_are_listed_latest_insertion_first(self, folder: Path) -> None:
        store = self.open(folder, SetClock())
        for name in ["m", "z", "a", "k"]:
            store.create_decision(name)
        assert [entry[0] for entry in store.list_decisions()] == ["k", "a", "z", "m"]
        assert [entry[0] for entry in store.list_decisions(2, 1)] == ["a", "z"]
        store.close()

    def test_times_with_and_without_fractions_of_a_second_are_listed_in_order(self, folder: Path) -> None:
        clock = SetClock()
        store = self.open(folder, clock)
        for name, micros in [("whole", 0), ("little", 1), ("half", 500_000), ("next", 1_000_000)]:
            clock.now = T0 + timedelta(microseconds=micros)
            store.create_decision(name)
        assert [entry[0] for entry in store.list_decisions()] == ["next", "half", "little", "whole"]
        store.close()

    @pytest.mark.parametrize(
        ("limit", "offset", "names"),
        [(100, 0, "edcba"), (2, 0, "ed"), (2, 2, "cb"), (2, 4, "a"), (2, 9, ""), (0, 0, ""), (2**63 - 1, 1, "dcba")],
    )
    def test_a_page_has_a_limit_and_an_offset(self, store: EventStore, limit: int, offset: int, names: str) -> None:
        for name in "abcde":
            store.create_decision(name)
        assert "".join(entry[0] for entry in store.list_decisions(limit=limit, offset=offset)) == names
        assert "".join(entry[0] for entry in store.decision_page(limit, offset)) == names

    def test_only_the_newest_generation_is_listed_with_its_own_time(self, folder: Path) -> None:
        store = self.open(folder, ticking_clock())
        store.create_decision("again")
        store.create_decision("deleted")
        store.create_decision("steady")
        store.delete_decision("again")
        store.delete_decision("deleted")
        store.create_decision("again")
        assert store.list_decisions() == [("again", T0 + timedelta(seconds=5)), ("steady", T0 + timedelta(seconds=2))]
        assert store.decision_page(9, 0) == [("again", "2025-01-01T00:00:05+00:00"), ("steady", "2025-01-01T00:00:02+00:00")]
        store.close()

    def test_the_events_of_several_decisions_are_those_of_each(self, store: EventStore) -> None:
        names = [str(number) for number in range(5)]
        for name in names:
            store.append_events(name, [created(name)] * (int(name) + 1), create=True)
        store.import_decision_atomic("3", "2024-06-01", [], overwrite=True)
        append(store, "3")
        store.create_decision("empty")
        wanted = [*reversed(names), "empty"]
        assert store.get_events_of(wanted) == {name: store.get_events(name) for name in wanted}
        assert store.get_events_of([]) == {}
        assert store.get_events_of(["1", "1"]) == {"1": store.get_events("1")}

    def test_the_events_of_thousands_of_decisions_come_at_once(self, store: EventStore) -> None:
        names = [f"d{number}" for number in range(1200)]
        with store.transaction():
            for name in names:
                store.append_events(name, [created(name)], create=True)
        found = store.get_events_of(names)
        assert all([event.payload["goal"] for event in cast("list[StoredEvent]", found[name])] == [name] for name in names)

    # -- blocks

    def test_what_happens_in_a_transaction_happens_together_or_not_at_all(self, store: EventStore) -> None:
        before = store.log_root()
        with pytest.raises(LookupError), store.transaction():  # noqa: PT012
            store.append_events("dec-1", [created()], create=True)
            append(store, "dec-1")
            assert len(store.get_events("dec-1")) == 2
            assert store.log_root()[0] == 3
            store.get_template_store().create_template("t", ALICE)
            raise LookupError
        assert store.log_root() == before
        assert not store.decision_exists("dec-1")
        assert store.get_template_store().get_template("t") is None
        with store.transaction():
            store.append_events("dec-1", [created()], create=True)
            store.delete_decision("dec-1")
        assert len(store.list_generations("dec-1")) == 2

    def test_an_error_that_was_caught_inside_a_transaction_still_undoes_it(self, store: EventStore) -> None:
        with pytest.raises(RuntimeError), store.transaction():  # noqa: PT012
            store.create_decision("dec-1")
            with pytest.raises(DecisionExists):
                store.create_decision("dec-1")
        assert not store.decision_exists("dec-1")

    def test_a_look_that_fails_inside_a_transaction_does_not_undo_it(self, store: EventStore) -> None:
        with store.transaction():
            store.create_decision("dec-1")
            for call in (lambda: store.get_events("nope"), lambda: store.verify_log("nope"), lambda: store.log_root(99)):
                with pytest.raises(InputError):
                    call()
        assert store.decision_exists("dec-1")

    def test_reads_in_a_snapshot_agree(self, store: EventStore) -> None:
        store.append_events("dec-1", [created()], create=True)
        with store.snapshot():
            assert store.list_decisions()[0][0] == "dec-1"
            assert store.log_root()[0] == 2
            with store.snapshot():
                assert len(store.get_events("dec-1")) == 1

    def test_threads_append_without_losing_an_event(self, store: EventStore) -> None:
        store.create_decision("dec-1")
        problems: list[BaseException] = []

        def work(name: str) -> None:
            try:
                for number in range(20):
                    append(store, "dec-1", f"{name}{number}")
            except BaseException as error:  # shown by the assertion below
                problems.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        events = store.get_events("dec-1")
        assert seqs(events) == list(range(80))
        assert {event.payload["comment"] for event in events} == {f"{name}{number}" for name in "abcd" for number in range(20)}

    def test_a_closed_store_says_so(self, folder: Path) -> None:
        store = self.open(folder)
        templates = store.get_template_store()
        store.create_decision("dec-1")
        store.close()
        store.close()
        calls: list[Callable[[], object]] = [
            store.create_decision,
            lambda: store.get_events("dec-1"),
            lambda: store.list_decisions(),
            lambda: store.log_root(),
            lambda: store.verify_log(),
            lambda: templates.list_templates(),
        ]
        for call in calls:
            with pytest.raises(StoreClosed):
                call()

    def test_clock_and_ids_are_those_given(self, store: EventStore) -> None:
        assert store.new_id() == "id-0"
        assert store.create_decision() == "id-1"
        assert store.clock() > T0

    def test_a_store_is_always_true(self, store: EventStore) -> None:
        assert store
        assert not hasattr(store, "__len__")
