"""Batches of appends on a real server: the one that is prepared while another is on its way, and tiles that go with what fills them."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import psycopg
import pytest
from postgres_testing import PostgresServer, round_trips
from store_contract import append, created
from store_testing import ALICE, in_child, ticking_clock

from nexus_attest.postgres import PostgresStore, appends, driver
from nexus_attest.postgres import batch as batches
from nexus_attest.postgres.batch import Wanted
from nexus_attest.postgres.database import PostgresDatabase
from nexus_attest.postgres.schema import take_lock
from nexus_control.errors import CommitUnknown, ConcurrencyError, InputError, NexusError, StoreBusy, StoreClosed, StoreError
from nexus_control.events import EventType

_numbers = itertools.count()


@pytest.fixture
def schema() -> str:
    return f"batches_{next(_numbers)}"


@pytest.fixture
def store(postgres_server: PostgresServer, schema: str) -> Iterator[PostgresStore]:
    with PostgresStore(postgres_server.address(), schema=schema, clock=ticking_clock()) as store:
        yield store


def test_an_append_that_fills_a_tile_is_one_round_trip_as_well(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = round_trips(monkeypatch)
    store.create_decision("dec-1")
    store.append_events("dec-1", [created() for _ in range(250)])
    trips.clear()
    store.append_events("dec-1", [created() for _ in range(300)])  # positions 252 to 551
    assert trips == [[b"begin", b"lock", b"append_after", b"tiles_with", b"commit"]]
    with PostgresStore(postgres_server.address(), schema=schema) as other:
        append(other, "dec-1")
        trips.clear()
        other.append_events("dec-1", [created() for _ in range(300)])  # it does not know the first leaves of the third tile
        assert len(trips) == 2
    found = int(postgres_server.psql(f"SELECT count(*) FROM {schema}.log_tiles"))
    assert found == 3
    assert store.verify_log().errors == []  # every tile is what its leaves make


def test_a_tile_is_not_stored_without_the_leaves_that_fill_it(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process fills it just before."""
    store.create_decision("dec-1")
    store.append_events("dec-1", [created() for _ in range(254)])
    whole = batches.exchange
    with PostgresStore(postgres_server.address(), schema=schema) as other:

        def overtaken(*sent: Any) -> Any:
            monkeypatch.setattr(batches, "exchange", whole)
            append(other, "dec-1", "first")
            return whole(*sent)

        monkeypatch.setattr(batches, "exchange", overtaken)
        assert append(store, "dec-1", "second").seq == 255
    assert int(postgres_server.psql(f"SELECT count(*) FROM {schema}.log_tiles")) == 1
    assert store.verify_log().errors == []


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Behind:
    """Three appends, one after the other, of which the last is prepared while the second is on its way.

    What becomes of the second is up to `happens`, which is given its connection, and what sends it. `told` is how each ended: by its seq,
    or with an error.
    """

    def __init__(self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
        store.append_events("d", [created()], create=True)
        append(store, "d")
        self.store, self.monkeypatch = store, monkeypatch
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.told: dict[str, object] = {}
        self.judged = 0

    def play(self, happens: Callable[[Any, Callable[[], Any]], Any]) -> None:
        queue, clock, whole = cast("Any", self.store)._queue, self.store.clock, batches.exchange
        ends: list[Callable[[Any, Callable[[], Any]], Any]] = [lambda _, send: send(), happens]

        def exchanged(raw: Any, sent: Any, *rest: Any) -> Any:
            if not ends:
                return whole(raw, sent, *rest)
            self.begun.release()
            assert self.go_on.acquire(timeout=60)
            return ends.pop(0)(raw, lambda: whole(raw, sent, *rest))

        def counted() -> datetime:
            self.judged += 1
            return clock()

        with self.monkeypatch.context() as patched:
            patched.setattr(batches, "exchange", exchanged)
            patched.setattr(self.store, "clock", counted)
            threads = [threading.Thread(target=self.append, args=of, name=of[0]) for of in (("first", 2), ("second", None), ("behind", 4))]
            threads[0].start()
            assert self.begun.acquire(timeout=60)
            threads[1].start()
            until(lambda: len(queue._waiting) == 1)
            self.go_on.release()
            assert self.begun.acquire(timeout=60)
            threads[2].start()
            until(lambda: len(queue._prepared) == 1)
            assert self.judged == 3
            self.go_on.release()
            for thread in threads:
                thread.join(100)

    def append(self, name: str, expected_seq: int | None) -> None:
        try:
            event = self.store.append_event("d", EventType.DECISION_CREATED, ALICE, {"goal": name}, expected_seq=expected_seq)
            self.told[name] = event.seq
        except BaseException as error:
            self.told[name] = type(error)


def cut_off(raw: Any) -> None:
    raw.close()
    raise psycopg.OperationalError("cut")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def cancelled(*_: object) -> None:
    raise psycopg.errors.lookup("57014")("canceling statement")


ENDS: dict[str, tuple[Callable[[Any, Callable[[], Any]], Any], object, object, int]] = {
    "is committed": (lambda _, send: send(), 3, 4, 3),  # each of them once
    "is committed, and the answer lost": (lambda raw, send: (send(), cut_off(raw)), 3, 4, 4),
    "is lost before that, and repeated": (lambda raw, _: cut_off(raw), 3, 4, 5),
    "fails": (cancelled, StoreBusy, ConcurrencyError, 4),
    "is interrupted": (interrupted, KeyboardInterrupt, ConcurrencyError, 5),
    "is interrupted after the commit": (lambda _, send: (send(), interrupted()), KeyboardInterrupt, 4, 5),
}
"""What happens to the second one; how it and the one behind it end, and how often any of the three had to be judged."""


@pytest.mark.parametrize("end", ENDS)
def test_what_was_prepared_is_believed_only_where_the_one_before_it_was_committed(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    happens, second, behind, judged = ENDS[end]
    scene = Behind(store, monkeypatch)
    scene.play(happens)
    assert scene.told == {"first": 2, "second": second, "behind": behind}
    assert scene.judged == judged
    last = append(store, "d").seq
    assert [event.seq for event in store.get_events("d")] == list(range(last + 1))
    assert store.verify_log().errors == []


@pytest.mark.parametrize(("is_before", "second", "behind"), [(True, 4, ConcurrencyError), (False, 3, ConcurrencyError)])
def test_what_was_prepared_is_judged_anew_where_another_process_wrote(
    postgres_server: PostgresServer,
    store: PostgresStore,
    schema: str,
    monkeypatch: pytest.MonkeyPatch,
    is_before: bool,
    second: object,
    behind: object,
) -> None:
    scene = Behind(store, monkeypatch)
    with PostgresStore(postgres_server.address(), schema=schema) as other:

        def overtaken(_: object, send: Callable[[], Any]) -> Any:
            if is_before:
                with other.transaction():  # which needs no exchange
                    append(other, "d")
            found = send()
            if not is_before:
                with other.transaction():
                    append(other, "d")
            return found

        scene.play(overtaken)
    assert scene.told == {"first": 2, "second": second, "behind": behind}
    assert [event.seq for event in store.get_events("d")] == list(range(5))
    assert store.verify_log().errors == []


def refuse(server: PostgresServer, schema: str, goal: str) -> None:
    server.psql(
        f"CREATE FUNCTION {schema}.strict() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not this one'; END$$;"
        f"CREATE TRIGGER strict BEFORE INSERT ON {schema}.decision_events FOR EACH ROW WHEN (NEW.payload LIKE '%{goal}%') "
        f"EXECUTE FUNCTION {schema}.strict()"
    )


def test_what_was_prepared_behind_rows_that_the_server_refuses_is_judged_anew(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(postgres_server, schema, "second")
    scene = Behind(store, monkeypatch)
    scene.play(lambda _, send: send())
    assert scene.told == {"first": 2, "second": StoreError, "behind": ConcurrencyError}
    assert [event.seq for event in store.get_events("d")] == [0, 1, 2]


def test_what_was_prepared_behind_a_commit_that_nobody_can_look_up_is_judged_anew(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> bool:
        raise CommitUnknown("nobody can say")

    scene = Behind(store, monkeypatch)
    monkeypatch.setattr(PostgresDatabase, "was_committed", unknown)
    scene.play(lambda raw, send: (send(), cut_off(raw)))
    assert scene.told == {"first": 2, "second": CommitUnknown, "behind": 4}
    assert store.verify_log().errors == []


def test_what_was_prepared_is_sent_with_the_answer_to_the_one_before_it(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, senders = batches.send, list[str]()

    def sent(raw: Any, statements: Any) -> Any:
        senders.append(threading.current_thread().name)
        return whole(raw, statements)

    monkeypatch.setattr(batches, "send", sent)
    scene = Behind(store, monkeypatch)
    scene.play(lambda _, send: send())
    assert senders == ["second"]
    assert scene.told == {"first": 2, "second": 3, "behind": 4}


SENDINGS: dict[str, tuple[Callable[[Any, Callable[[], Any]], Any], object]] = {
    "is cut off before it": (lambda raw, _: cut_off(raw), 3),
    "is cut off behind it": (lambda raw, send: (send(), cut_off(raw)), 3),
    "is interrupted before it": (interrupted, KeyboardInterrupt),
    "is interrupted behind it": (lambda _, send: (send(), interrupted()), KeyboardInterrupt),
}
"""What happens to whoever sends what was prepared, and how it ends, whose own append is committed."""


@pytest.mark.parametrize("happens", SENDINGS)
def test_what_was_prepared_is_stored_once_however_its_sending_ends(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, happens: str
) -> None:
    whole, (end, second) = batches.send, SENDINGS[happens]

    def sent(raw: Any, statements: Any) -> Any:
        return end(raw, lambda: whole(raw, statements))

    monkeypatch.setattr(batches, "send", sent)
    scene = Behind(store, monkeypatch)
    scene.play(lambda _, send: send())
    assert scene.told == {"first": 2, "second": second, "behind": 4}
    monkeypatch.undo()
    assert append(store, "d").seq == 5
    assert [event.seq for event in store.get_events("d")] == list(range(6))
    assert store.verify_log().errors == []


@pytest.mark.parametrize("is_late", [False, True])
def test_who_is_interrupted_before_the_answer_to_what_was_sent_for_it_holds_up_nobody(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """Before it begins to receive, or inside of that."""
    monkeypatch.setattr(batches, *(("receive", interrupted) if is_late else ("_received", interrupted)))
    scene = Behind(store, monkeypatch)
    scene.play(lambda _, send: send())
    assert scene.told == {"first": 2, "second": 3, "behind": KeyboardInterrupt}
    monkeypatch.undo()
    last = append(store, "d").seq
    assert last in (4, 5)  # nobody waited for what became of it
    assert [event.seq for event in store.get_events("d")] == list(range(last + 1))
    assert store.verify_log().errors == []


def test_what_was_sent_for_who_is_gone_is_given_up(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next append closes its connection, and finds out where the log ends."""
    scene = Behind(store, monkeypatch)
    together = cast("Any", store)._queue._together

    def gone(batch: Any, before_waiting: Callable[[], None]) -> None:
        if threading.current_thread().name == "behind":
            raise KeyboardInterrupt
        together(batch, before_waiting)

    monkeypatch.setattr(cast("Any", store)._queue, "_together", gone)
    scene.play(lambda _, send: send())
    assert scene.told == {"first": 2, "second": 3, "behind": KeyboardInterrupt}
    assert append(store, "d").seq in (4, 5)
    assert store.verify_log().errors == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_is_on_its_way_is_left_alone_by_a_forked_child(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, told = batches.receive, list[object]()

    def forked(*of: Any) -> Any:
        told.append(in_child(lambda: [append(store, "d").seq]))
        return whole(*of)

    monkeypatch.setattr(batches, "receive", forked)
    scene = Behind(store, monkeypatch)
    scene.play(lambda _, send: send())
    assert scene.told == {"first": 2, "second": 3, "behind": 4}
    assert told == [[5]]
    assert store.verify_log().errors == []


def test_what_the_server_refuses_of_what_was_sent_early_is_told_and_not_stored(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(postgres_server, schema, "behind")
    scene = Behind(store, monkeypatch)
    scene.play(lambda _, send: send())
    assert scene.told == {"first": 2, "second": 3, "behind": StoreError}
    assert append(store, "d").seq == 4
    assert store.verify_log().ok is False  # of the trigger


def test_what_was_prepared_waits_for_no_connection_while_others_are_to_be_answered(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_there(_: PostgresDatabase) -> None:
        pass

    monkeypatch.setattr(PostgresDatabase, "lend_at_once", none_there)
    scene = Behind(store, monkeypatch)
    scene.play(lambda _, send: send())
    assert scene.told == {"first": 2, "second": 3, "behind": 4}
    assert scene.judged == 3


def test_a_connection_is_lent_at_once_or_not_at_all(postgres_server: PostgresServer, schema: str) -> None:
    with PostgresStore(postgres_server.address(), schema=schema, pool_size=1) as store:
        store.create_decision("d")
        database = cast("PostgresDatabase", store.backend)
        only = database.lend_at_once()
        assert only is not None
        assert database.lend_at_once() is None
        database.take_back(only)
    with pytest.raises(StoreClosed):
        database.lend_at_once()


class Crowd:
    """Appends to `d` of more threads than one batch takes, of which the first batch is sent when all the others wait behind it.

    `begins` is told who waits when a batch is to be sent, and `fails` is called when it was not stored. `batches` are what each of them
    appends; `told` how each thread's append ended: by its seq, or with the code of an error.
    """

    def __init__(self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        store.create_decision("d")
        self.store, self.number = store, number
        self.batches: list[list[Wanted]] = []
        self.told: dict[str, object] = {}
        self.begins: Callable[[Sequence[Any]], object] = lambda _: None
        self.fails: Callable[[], object] = lambda: None
        self._queue = cast("Any", store)._queue
        self._together = self._queue._together
        monkeypatch.setattr(self._queue, "_together", self._appended)

    def _appended(self, batch: list[Wanted], before_waiting: Callable[[], None]) -> None:
        self.batches.append([*batch])
        if len(self.batches) == 1:
            until(lambda: len(batch) + len(self._queue._waiting) == self.number)
        self.begins(self._queue._waiting)
        try:
            self._together(batch, before_waiting)
        except BaseException:
            self.fails()
            raise

    def _append(self, name: str, payload: dict[str, Any]) -> None:
        try:
            self.told[name] = self.store.append_event("d", EventType.DECISION_CREATED, ALICE, {"goal": name, **payload}).seq
        except NexusError as error:
            self.told[name] = error.code

    def play(self, **payload: Any) -> None:
        names = [f"append-{number}" for number in range(self.number)]
        threads = [threading.Thread(target=self._append, args=(name, payload), daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert {*self.told} == {*names}
        stored = {event.payload["goal"]: event.seq for event in self.store.get_events("d")}
        assert stored == {name: seq for name, seq in self.told.items() if isinstance(seq, int)}
        assert self.store.verify_log().errors == []


def test_who_waited_for_a_lock_behind_others_waits_no_second_time_for_it(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (driver, appends):
        monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 1)
    crowd = Crowd(store, monkeypatch, 150)
    with psycopg.connect(postgres_server.address()) as other:
        other.execute(take_lock(schema))  # pyright: ignore
        crowd.play()
    assert len(crowd.batches) == 1
    assert Counter(crowd.told.values()) == {"STORE_BUSY": 150}
    assert append(store, "d").seq == 0


def test_who_came_behind_others_that_could_not_wait_longer_is_stored_when_the_lock_is_free(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second one of those behind came long before."""
    monkeypatch.setattr(driver, "LOCK_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(appends, "LOCK_TIMEOUT_SECONDS", 3600)
    crowd = Crowd(store, monkeypatch, 150)
    early: list[str] = []

    def begin(waiting: Sequence[Any]) -> None:
        if len(crowd.batches) > 1:
            return
        for each in waiting[::2]:
            each.arrived -= 1800
            early.append(each.append.prepared[0][3]["goal"])

    with psycopg.connect(postgres_server.address()) as other:
        other.execute(take_lock(schema))  # pyright: ignore
        crowd.begins, crowd.fails = begin, other.rollback
        crowd.play()
    refused = {*early, *(cast("Any", each.append).prepared[0][3]["goal"] for each in crowd.batches[0])}
    assert {name for name, told in crowd.told.items() if told == "STORE_BUSY"} == refused
    assert sorted(seq for seq in crowd.told.values() if isinstance(seq, int)) == list(range(150 - len(refused)))
    assert 0 < len(early) < len(refused) < 150


def test_who_is_appended_alone_after_one_that_waited_for_a_lock_in_vain_does_not_wait_as_well(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a batch that was refused because of one of those in it."""
    for module in (driver, appends):
        monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 1)
    crowd, queue, tried = Crowd(store, monkeypatch, 150), cast("Any", store)._queue, list[object]()
    alone = queue._alone

    def counted(wanted: object) -> Any:
        tried.append(wanted)
        return alone(wanted)

    monkeypatch.setattr(queue, "_alone", counted)
    with psycopg.connect(postgres_server.address()) as other:

        def begin(_: object) -> None:
            if len(crowd.batches) == 2:
                other.execute(take_lock(schema))  # pyright: ignore
                raise InputError("one of them cannot be stored")

        crowd.begins = begin
        crowd.play()
    first = len(crowd.batches[0])
    assert len(crowd.batches) == 2
    assert len(tried) == 1
    assert Counter(map(str, crowd.told.values())) == {"STORE_BUSY": 150 - first, **{str(seq): 1 for seq in range(first)}}


def test_a_batch_takes_no_more_than_the_server_reads_in_one_message_and_one_append_is_always_taken(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appends, "_MOST_CHARACTERS", 10_000)
    crowd = Crowd(store, monkeypatch, 60)
    crowd.play(comment="x" * 2800)
    assert max(len(batch) for batch in crowd.batches) == 3
    assert {type(told) for told in crowd.told.values()} == {int}
    monkeypatch.setattr(appends, "_MOST_CHARACTERS", 10)
    assert append(store, "d").seq == 60
