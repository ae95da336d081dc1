"""Threads whose work is committed together, when one of them is interrupted: at each place where CPython looks at signals."""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest
from interruption_testing import interrupting
from postgres_testing import PostgresServer
from store_contract import append
from store_testing import in_child

from nexus_attest.postgres import PostgresStore, appends, batch, database, driver, exchange, sleeping, writer
from nexus_attest.postgres.appends import AppendQueue
from nexus_attest.postgres.batch import Wanted
from nexus_attest.postgres.database import PostgresDatabase
from nexus_attest.postgres.driver import PgConnection
from nexus_control.errors import CommitUnknown, InputError, StoreBusy, StoreUnreachable

_numbers = itertools.count()

_ERRORS = {"fails": StoreBusy, "fails for all": StoreBusy, "refuses": InputError}


class _Scene:
    """`asleep` is answered and not woken yet when `interrupted` begins to lead, `behind` is appended with it.

    So many of them as `prepared` says are prepared while others are on their way, and sent when these are answered; then `late`, behind
    them, is as well.
    """

    def __init__(self, ending: str, prepared: int = 0) -> None:
        self.ending = ending
        self.prepared = prepared
        self.sent: list[list[str]] = []
        self.committed: set[str] = set()
        self.told: dict[str, object] = {}
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over = threading.Event()
        self.threads: list[threading.Thread] = []
        self.queue = AppendQueue("here", self.together, self.alone, self.prepare, self.send)

    def together(self, batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> None:
        names = [str(each.append) for each in batch]
        for each in batch:
            each.stored = [cast("Any", each.append)]
        if names[0] in ("first", "second"):
            self.begun.release()
            self.go_on.acquire(timeout=60)
        before_waiting()
        if "interrupted" in names and self.prepared and threading.current_thread() is threading.main_thread():
            self.queue._enough = len(self.queue._waiting) + 1  # pyright: ignore[reportPrivateUsage]
            self.start("late")
            self.until(lambda: bool(self.queue._prepared))  # pyright: ignore[reportPrivateUsage]
        if "interrupted" in names and self.ending in _ERRORS:
            raise _ERRORS[self.ending]("nothing was written")
        self.committed.update(names)

    def prepare(self, batch: Sequence[Wanted]) -> bool:
        return self.prepared > 0 and str(batch[0].append) in ("interrupted", "behind", "late")

    def send(self, batch: Sequence[Wanted]) -> None:
        self.sent.append([str(each.append) for each in batch])

    def alone(self, wanted: Any) -> list[Any]:
        self.committed.add(wanted)
        return [wanted]

    def append(self, name: str) -> None:
        try:
            self.told[name] = self.queue.append(cast("Any", name))
        except BaseException as error:
            self.told[name] = type(error)

    def start(self, name: str) -> None:
        self.threads.append(threading.Thread(target=self.append, args=(name,), daemon=True))
        self.threads[-1].start()

    def wait_for(self, number: int) -> None:
        self.until(lambda: len(self.queue._waiting) >= number)  # pyright: ignore[reportPrivateUsage]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition() and not self.is_over.is_set() and time.monotonic() < deadline:
            time.sleep(0.0002)

    def play(self, number: int) -> bool:
        """Whether the interruption came."""
        trace, was_reached = interrupting(number, appends, sleeping)
        self.start("first")
        assert self.begun.acquire(timeout=60)
        for count, name in enumerate(("second", "asleep"), 1):
            self.start(name)
            self.wait_for(count)
        self.go_on.release()
        assert self.begun.acquire(timeout=60)
        if self.prepared:
            self.queue._enough = self.prepared  # pyright: ignore[reportPrivateUsage]

        def help_on() -> None:
            self.wait_for(1)
            self.start("behind")
            self.wait_for(2)
            if self.prepared:
                self.until(lambda: bool(self.queue._prepared))  # pyright: ignore[reportPrivateUsage]
            self.go_on.release()

        helper = threading.Thread(target=help_on)
        helper.start()
        traced = sys.gettrace()
        sys.settrace(trace)
        try:
            self.append("interrupted")
        finally:
            sys.settrace(traced)
        self.is_over.set()
        helper.join()
        self.start("afterwards")
        for thread in self.threads:
            thread.join(60)
        return was_reached()


@pytest.mark.parametrize("prepared", [0, 1, 2])
@pytest.mark.parametrize("ending", ["succeeds", "fails", "fails for all", "refuses"])
def test_an_interruption_at_any_place_leaves_nobody_asleep_and_tells_nobody_what_is_not_so(
    ending: str, prepared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleeping, "LOOK_SECONDS", 0.01)
    if ending == "fails for all":
        monkeypatch.setattr(appends, "LOCK_TIMEOUT_SECONDS", 0)  # everybody has waited as long
    sent: list[list[str]] = []
    number, came = 0, True
    while came:
        number += 1
        scene = _Scene(ending, prepared)
        came = scene.play(number)
        assert not [thread for thread in scene.threads if thread.is_alive()], number
        assert not came or scene.told["interrupted"] is KeyboardInterrupt
        sent += scene.sent
        for name, told in scene.told.items():
            if name == "interrupted":
                continue
            refusals = (CommitUnknown, StoreBusy) if ending.startswith("fails") else (CommitUnknown,)
            assert told in refusals or (told == [name] and name in scene.committed), (number, name, told)
        assert {"first", "second", "asleep", "behind", "afterwards"} <= {*scene.told}
    names = ["interrupted", "behind", "late"]
    assert not prepared or names[:prepared] in sent
    assert not prepared or (names[prepared:] in sent) is (ending != "fails for all")
    assert number > 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_begins_anew_before_any_of_its_threads_appends() -> None:
    scene = _Scene("succeeds")
    scene.start("first")
    assert scene.begun.acquire(timeout=60)
    before = scene.queue._guard  # pyright: ignore[reportPrivateUsage]
    told = in_child(lambda: [scene.queue._guard is not before, scene.queue.append(cast("Any", "child"))])  # pyright: ignore[reportPrivateUsage]
    scene.go_on.release()
    scene.threads[0].join(60)
    assert told == [True, ["child"]]
    assert scene.told == {"first": ["first"]}


def _answers_when_the_block_vanishes(step: int) -> list[bool]:
    """What is told from this step on of somebody's `is_gone` whose block vanishes then; nothing when there are fewer steps."""
    standing = [type("Block", (), {})()]
    turn = writer.Turn(standing[0])
    answers: list[bool] = []
    steps = 0

    def look(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        if steps >= step:
            standing.clear()
            answers.append(turn.is_gone())
        return look

    assert not turn.is_gone()
    traced = sys.gettrace()
    sys.settrace(look)
    try:
        turn.is_gone()
    finally:
        sys.settrace(traced)
    return answers


def test_a_thread_that_looks_whether_a_block_is_gone_never_keeps_it() -> None:
    told = [_answers_when_the_block_vanishes(step) for step in range(1, 60)]
    assert len(told[0]) > 5
    assert told[-1] == []
    assert all(all(answers) for answers in told)


class _Server:
    """Connections to what remembers what was committed. One that is forgotten in a transaction ends, as the driver's do."""

    def __init__(self) -> None:
        self.committed: list[str] = []
        self.lock = threading.Lock()

    def connection(self) -> PgConnection:
        return PgConnection(cast("Any", _Raw(self)))


class _Raw:
    closed = False

    def __init__(self, server: _Server) -> None:
        self.server = server
        self.pgconn = SimpleNamespace(transaction_status=0)
        self.written: list[str] | None = None
        self.kept = 0

    def execute(self, sql: str, _: object = ()) -> Any:
        if sql.startswith("BEGIN"):
            assert self.server.lock.acquire(timeout=60), "the lock was never released"
            self.written = []
        elif sql == "COMMIT":
            self.server.committed += self.written or []
            self.rollback()
        elif sql == "ROLLBACK TO nexus":
            del cast("list[str]", self.written)[self.kept :]
        elif sql.endswith("SAVEPOINT nexus"):
            self.kept = len(cast("list[str]", self.written))
        else:
            cast("list[str]", self.written).append(sql)
        return SimpleNamespace(statusmessage=sql)

    def rollback(self) -> None:
        if self.written is not None:
            self.written = None
            self.server.lock.release()

    __del__ = rollback


class _Database(PostgresDatabase):
    """`again`, where it is not 0: the place, in what an interruption leads to, of a second one."""

    path = "here"

    def __init__(self, again: int) -> None:
        self._schema = "nexus"
        self.again = again
        self.server = _Server()
        self._start()

    def lend(self, before_waiting: Callable[[], None] | None = None) -> PgConnection:
        del before_waiting
        return self.server.connection()

    def take_back(self, connection: PgConnection) -> None:
        connection.raw.rollback()

    def abandon(self, turn: writer.Turn) -> None:
        if self.again and threading.current_thread() is threading.main_thread():
            trace, _ = interrupting(self.again, writer, sleeping, database)
            sys.settrace(trace)  # which the first interruption has ended
        super().abandon(turn)


class _Blocks:
    """Blocks that write, of several threads. `place` says where the one that is interrupted stands among them."""

    def __init__(self, place: str, again: int) -> None:
        self.place = place
        self.database = _Database(again)
        self.told: dict[str, object] = {}
        self.is_over = threading.Event()
        self.threads: list[threading.Thread] = []

    def block(self, name: str, then: Callable[[], object] = lambda: None, *, fails: bool = False) -> None:
        try:
            with self.database.transaction() as connection:
                connection.execute(name)
                then()
                if fails:
                    raise LookupError
        except BaseException as error:
            self.told[name] = type(error)
        else:
            self.told[name] = "committed"

    def start(self, name: str, then: Callable[[], object] = lambda: None, *, fails: bool = False) -> None:
        self.threads.append(threading.Thread(target=self.block, args=(name, then), kwargs={"fails": fails}, daemon=True))
        self.threads[-1].start()

    def wait_for(self, number: int) -> None:
        queue = self.database._writer  # pyright: ignore[reportPrivateUsage]
        deadline = time.monotonic() + 60
        while len(queue._queue) < number and not self.is_over.is_set() and time.monotonic() < deadline:  # pyright: ignore[reportPrivateUsage]
            time.sleep(0.0002)

    def others(self) -> None:
        """Come while the block that has the turn is at work: one that is done, and one that fails."""
        number = len(self.database._writer._queue)  # pyright: ignore[reportPrivateUsage]
        for count, name in enumerate(("behind", "failing"), number + 1):
            self.start(name, fails=name == "failing")
            self.wait_for(count)

    def play(self, number: int) -> bool:
        """Whether the interruption came."""
        trace, was_reached = interrupting(number, writer, sleeping, database)
        then: Callable[[], object] = lambda: None  # noqa: E731
        if self.place.startswith("first"):
            then = self.others
        else:
            entered = threading.Event()
            self.start("first", lambda: (entered.set(), self.wait_for(1), self.others()))
            assert entered.wait(60)
        traced = sys.gettrace()
        sys.settrace(trace)
        try:
            self.block("interrupted", then, fails=self.place.endswith("fails"))
        finally:
            sys.settrace(traced)
        self.is_over.set()
        self.block("again")
        self.start("afterwards")
        for thread in self.threads:
            thread.join(60)
        return was_reached()


@pytest.mark.parametrize("again", [0, 2, 5, 9, 14])
@pytest.mark.parametrize("place", ["first", "first, fails", "in between", "in between, fails"])
def test_an_interruption_at_any_place_of_a_block_takes_no_turn_along_and_tells_nobody_what_is_not_so(
    place: str, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleeping, "LOOK_SECONDS", 0.005)
    number, undone, came = 0, 0, True
    while came:
        number += 1
        blocks = _Blocks(place, again)
        came = blocks.play(number)
        told, committed = blocks.told, blocks.database.server.committed
        assert not [thread for thread in blocks.threads if thread.is_alive()], number
        assert not came or told["interrupted"] is KeyboardInterrupt
        assert (told["again"], told["afterwards"]) == ("committed", "committed"), number
        assert len(committed) == len(set(committed))
        assert "interrupted" not in committed or not place.endswith("fails"), number
        for name, answer in told.items():
            if answer in ("committed", StoreUnreachable, LookupError):
                assert (answer == "committed") is (name in committed), (number, name, answer)
            else:
                assert answer is CommitUnknown or name == "interrupted", (number, name, answer)
        assert not blocks.database.server.lock.locked()
        undone += told.get("first") is StoreUnreachable
    assert number > 60
    assert undone < 0.4 * number  # who is interrupted while it waits takes nothing of others along


# -- on a real server -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def schema(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a store with a decision `d`, and another one that has an event."""
    monkeypatch.setattr(driver, "_POOL_TIMEOUT_SECONDS", 2)
    monkeypatch.setattr(sleeping, "LOOK_SECONDS", 0.01)
    name = f"interruptions_{next(_numbers)}"
    with PostgresStore(postgres_server.address(), schema=name) as store:
        store.create_decision("d")
        store.create_decision("other")
        append(store, "other")
    return name


_COME: dict[str, Callable[[PostgresStore], object]] = {
    "to append": lambda store: append(store, "d"),
    "to read": lambda store: store.get_events("d"),
    "to read from a snapshot": lambda store: store.verify_log(),
}


@pytest.mark.parametrize("come", _COME)
def test_a_block_that_could_not_end_holds_up_nobody_after_the_next_use_of_its_store(
    postgres_server: PostgresServer, schema: str, come: str
) -> None:
    address = postgres_server.address()
    with PostgresStore(address, schema=schema) as store, PostgresStore(address, schema=schema) as other:
        block = store.backend.transaction()
        block.__enter__()
        append(store, "d")
        del block  # as an interruption leaves it that comes before the first step of its `__exit__`
        _COME[come](store)
        append(other, "d")
        assert [event.seq for event in other.get_events("d")] == ([0, 1] if come == "to append" else [0])


def test_connections_that_interruptions_took_are_replaced(postgres_server: PostgresServer, schema: str) -> None:
    with PostgresStore(postgres_server.address(), schema=schema, pool_size=2) as store:
        database = cast("PostgresDatabase", store.backend)
        held, lost = [database.lend()], [database.lend()]
        with pytest.raises(StoreBusy, match="all 2 connections of this process are in use"):
            database.lend()
        lost.clear()
        assert store.get_events("d") == []
        assert append(store, "d").seq == 0
        database.take_back(held.pop())
        again = [database.lend(), database.lend()]
        with pytest.raises(StoreBusy, match="all 2 connections of this process are in use"):
            database.lend()
        for connection in again:
            database.take_back(connection)


_DOES: dict[str, Callable[[PostgresStore], object]] = {
    "appends": lambda store: append(store, "d"),
    "reads": lambda store: store.get_events("other"),
    "commits a block": lambda store: _in_a_block(store),
}


def _in_a_block(store: PostgresStore) -> None:
    with store.transaction():
        append(store, "d")


@pytest.mark.parametrize("does", _DOES)
def test_an_interruption_at_any_place_leaves_the_store_to_those_who_come_after(
    postgres_server: PostgresServer, schema: str, does: str
) -> None:
    address = postgres_server.address()
    with PostgresStore(address, schema=schema, pool_size=2) as store, PostgresStore(address, schema=schema) as other:
        known = append(store, "d").seq
        number, came = 0, True
        while came:
            number += 1
            trace, was_reached = interrupting(number, appends, batch, database, driver, exchange, sleeping, writer)
            traced = sys.gettrace()
            sys.settrace(trace)
            try:
                _DOES[does](store)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(traced)
            came = was_reached()
            known = append(store, "d").seq
            assert append(other, "d").seq == known + 1
        assert number > 30
        assert [event.seq for event in other.get_events("d")] == list(range(known + 2))
        assert other.verify_log().errors == []
