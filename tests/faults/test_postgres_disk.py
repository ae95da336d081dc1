"""PostgreSQL on a disk that is really full: the one with its tables, and the one with its write-ahead log.

The server keeps the one or the other on a small file system of its own, which a file of the test's fills up. Room is made by removing it.
"""

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from append_testing import PATIENCE_SECONDS, Load, check
from command_testing import ACTS, Router, requested
from fault_testing import Ended, in_process, state_in
from mount_testing import fill, on_a_disk_of_its_own
from postgres_testing import PostgresServer, hand_over, require_server
from store_testing import ALICE, BOB

from nexus_attest.cli.app import run
from nexus_attest.postgres import PostgresStore, database, driver
from nexus_control.errors import StoreFull
from nexus_control.events import EventType
from nexus_control.tool import NexusControlTools

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file systems are mounted as Linux does it")

ADVICE = "No space left on device", "free some space on the server, then repeat the call; nothing was written"

CAUTIOUS = "checkpoint_timeout = 1h"
"""A checkpoint needs room as well, and without it may end every connection: no test is to meet one by chance."""

Work = Callable[[PostgresServer], object]


def on_a_server(place: Path, work: Work, *, disk_of: str) -> None:
    """Do `work` in a process that has a server, with its tables or its log on a small disk at `place` and the rest beside it."""
    require_server()  # here, where a test can be skipped
    hand_over(place.parent)

    def started(disk: Path) -> None:
        hand_over(disk)
        if disk_of == "tables":
            server = PostgresServer(CAUTIOUS, data=disk / "data", initdb=("-X", str(disk.parent / "wal")))
        else:
            # One that starts again may find room in what its recovery leaves behind.
            settings = f"{CAUTIOUS}\nrestart_after_crash = off"
            server = PostgresServer(settings, data=disk.parent / "data", initdb=("-X", str(disk / "wal"), "--wal-segsize=1"))
        with server:
            work(server)

    on_a_disk_of_its_own(place, "96m" if disk_of == "tables" else "16m", started)


def person(place: Path, server: PostgresServer, *arguments: str) -> Ended:
    """A command of a person, in a process of its own, whose own files are not on the full disk."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place.parent),
        "NEXUS_ATTEST_DB": server.address(),
        "NEXUS_ATTEST_ACTOR": "alice",
    }
    return in_process(place.parent, partial(run, list(arguments)), environment)


def use_up(store: PostgresStore) -> None:
    """Take the room that is left inside of the tables: append the smallest of events, and templates, until nothing more goes in.

    What is refused leaves dead rows behind, of which a page holds some hundred at most.
    """
    name = store.create_decision("d")
    for act in (
        lambda: store.append_event(name, EventType.EXECUTION_STARTED, ALICE, {}),
        lambda: store.get_template_store().create_template(os.urandom(8).hex(), ALICE),
    ):
        refusals = 0
        while refusals < 120:
            try:
                act()
            except StoreFull:
                refusals += 1
            else:
                refusals = 0


def test_on_a_server_whose_disk_is_full_what_writes_says_so_writes_nothing_and_can_be_repeated(place: Path) -> None:
    def work(server: PostgresServer) -> None:
        with PostgresStore(server.address()) as store:
            tools = NexusControlTools(store)
            names = {which: requested(store) for which in ACTS}
            filler = fill(place)
            use_up(store)
            before = state_in(store)
            for which, (act, _) in ACTS.items():
                router = Router()
                refused = act(tools, names[which], router)
                expected = "IMPORT_ATOMICITY_FAILED" if which == "bundle import" else "STORE_FULL"
                assert refused.code == expected, (which, refused)
                assert [advice in str(refused.error) for advice in ADVICE] == [True, True], (which, refused)
                assert router.runs == 0, which
                assert state_in(store) == before, which
            with PostgresStore(server.address()) as other, pytest.raises(StoreFull):  # no StoreBusy: the write lock is free
                other.append_event("d", EventType.EXECUTION_STARTED, ALICE, {})
            written = person(place, server, "request", "Another")
            assert (written.code, written.out) == (1, ""), written
            assert written.err.startswith("nexus-attest: STORE_FULL: "), written
            assert [advice in written.err for advice in ADVICE] == [True, True], written
            assert "Traceback" not in written.err, written
            for reading in (("log", "verify"), ("bundle", "export", names["execute"], "-o", "-")):
                assert person(place, server, *reading).code == 0, reading
            assert state_in(store) == before
            filler.unlink()
            for which, (act, _) in ACTS.items():
                assert act(tools, names[which], Router()).success, which
            assert person(place, server, "request", "Another").code == 0
            with PostgresStore(server.address()) as other:
                other.append_event("d", EventType.EXECUTION_STARTED, ALICE, {})
                assert state_in(other) == state_in(store)

    on_a_server(place, work, disk_of="tables")


def test_threads_that_fill_the_disk_of_a_server_lose_nothing_and_go_on_when_there_is_room(place: Path) -> None:
    def work(server: PostgresServer) -> None:
        with PostgresStore(server.address()) as store:
            load = Load(store)
            with load.running(), requests(store, load) as requested_ones:
                load.wait_for_more()
                filler = fill(place)
                # Of both kinds, more than there are threads: each of them comes back from a refusal, and is told the next one.
                load.wait_for(lambda: len(load.appends.refused) > 100 and requested_ones.refused.count("STORE_FULL") > 20)
                filler.unlink()
                load.wait_for_more()
                requested_ones.wait_for_more(load)
            check(store, load.names, load.appends)
            assert not load.appends.unknown
            assert all(ADVICE[1] in message for message in load.appends.refused.values())
            assert set(requested_ones.refused) == {"STORE_FULL"}
            requested_ones.check(store)

    on_a_server(place, work, disk_of="tables")


class Requests:
    """What threads were told whose requests share commits with each other."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[str | None] = []

    def wait_for_more(self, load: Load) -> None:
        target = len(self.acknowledged) + 20
        load.wait_for(lambda: len(self.acknowledged) >= target)

    def check(self, store: PostgresStore) -> None:
        """Asserts that all are stored that were acknowledged, that all are whole, and no more than those of whom nobody knows."""
        stored = {name: types for name, types in state_in(store).decisions.items() if EventType.DECISION_CREATED in types}
        assert set(self.acknowledged) <= set(stored)
        assert set(stored.values()) == {(EventType.DECISION_CREATED, EventType.POLICY_ATTACHED)}
        assert len(stored) - len(self.acknowledged) <= self.refused.count("COMMIT_UNKNOWN")


@contextmanager
def requests(store: PostgresStore, load: Load) -> Generator[Requests]:
    """Threads that request without a pause, beside a load, each time something long, so that little remains of any room soon."""
    told, ended = Requests(), threading.Event()

    def write() -> None:
        tools = NexusControlTools(store)
        while not ended.is_set():
            result = tools.request(os.urandom(8192).hex(), BOB)
            if result.success:
                told.acknowledged.append(result.data["request_id"])
            else:
                told.refused.append(result.code)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
    load.wait_for(lambda: not any(thread.is_alive() for thread in threads))


class RouterThatFillsTheDisk(Router):
    """While it runs, somebody else takes all the space of the server's disk."""

    def __init__(self, server: PostgresServer, place: Path) -> None:
        super().__init__()
        self._server = server
        self._place = place

    def run(self, **request: Any) -> dict[str, Any]:
        fill(self._place)
        with PostgresStore(self._server.address()) as other:
            use_up(other)
        return super().run(**request)


def test_an_outcome_for_which_the_server_has_no_room_is_said_to_be_unrecorded(place: Path) -> None:
    def work(server: PostgresServer) -> None:
        with PostgresStore(server.address()) as store:
            tools, name, router = NexusControlTools(store), requested(store), RouterThatFillsTheDisk(server, place)
            result = tools.execute(name, "ad", ALICE, router)
            assert result.code == "OUTCOME_NOT_RECORDED", result
            assert "Run run-1 ended (EXECUTION_COMPLETED) but could not be recorded" in str(result.error)
            assert "stays in EXECUTING; use recover_execution once the store works again" in str(result.error)
            assert [advice in str(result.error) for advice in ADVICE] == [True, True], result
            assert tools.execute(name, "ad", ALICE, router).code == "EXECUTION_IN_PROGRESS"
            assert tools.recover_execution(name, ALICE, "no room").code == "STORE_FULL"
            (place / "filler").unlink()
            assert tools.recover_execution(name, ALICE, "no room").success
            assert state_in(store).decisions[name][-3:] == (
                EventType.EXECUTION_REQUESTED,
                EventType.EXECUTION_STARTED,
                EventType.EXECUTION_FAILED,
            )
            assert router.runs == 1

    on_a_server(place, work, disk_of="tables")


def test_a_server_that_ends_because_its_log_finds_no_room_has_all_that_it_acknowledged_when_it_is_back(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_POOL_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 1)

    def work(server: PostgresServer) -> None:
        with PostgresStore(server.address()) as store:
            load = Load(store)
            with load.running(), requests(store, load) as requested_ones:
                load.wait_for_more()
                filler = fill(place)
                load.wait_for(server.has_ended)
                load.wait_for(lambda: len(load.appends.refused) > 0 and "STORE_UNREACHABLE" in requested_ones.refused)
                ended = person(place, server, "request", "Another")
                filler.unlink()
                server.start()
                load.wait_for_more()
                requested_ones.wait_for_more(load)
            assert (ended.code, ended.out) == (1, ""), ended
            assert ended.err.startswith("nexus-attest: STORE_UNREACHABLE: "), ended
            assert "nothing was written; check address, password and server, then try again" in ended.err, ended
            assert "Traceback" not in ended.err, ended
            check(store, load.names, load.appends)
            requested_ones.check(store)
            assert set(requested_ones.refused) <= {"STORE_UNREACHABLE", "COMMIT_UNKNOWN"}
            assert_panic(server)

    on_a_server(place, work, disk_of="log")


def test_a_server_that_finds_no_room_for_a_checkpoint_has_all_that_it_acknowledged_when_it_is_back(place: Path) -> None:
    def work(server: PostgresServer) -> None:
        with PostgresStore(server.address()) as store:
            name = requested(store)
            filler = fill(place)
            use_up(store)
            before = state_in(store)
            with pytest.raises(AssertionError, match="connection"):  # psql's ends, as all others do
                server.psql("CHECKPOINT")
            assert_panic(server)
            # It comes back, and may take no connection before there is room.
            told = person(place, server, "list")
            assert told.code == 0 or told.err.startswith("nexus-attest: STORE_UNREACHABLE: "), told
            filler.unlink()
            server.restart()
            assert state_in(store) == before
            assert NexusControlTools(store).approve(name, BOB).success

    on_a_server(place, work, disk_of="tables")


def test_a_store_for_whose_tables_a_server_has_no_room_is_made_whole_when_there_is_some(place: Path) -> None:
    def work(server: PostgresServer) -> None:
        address = server.new_database()
        server.psql("SELECT 1", address)  # the first connection to a database needs room of its own
        filler = fill(place)
        with pytest.raises(StoreFull, match=ADVICE[1]):
            PostgresStore(address)
        refused = person(place, server, "db", "init")
        assert (refused.code, refused.out) == (1, ""), refused
        assert refused.err.startswith("nexus-attest: STORE_FULL: "), refused
        for database_address in (address, server.address()):
            assert server.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'nexus_attest'", database_address) == "0"
        filler.unlink()
        assert person(place, server, "db", "init").code == 0
        for database_address in (address, server.address()):
            with PostgresStore(database_address) as store:
                assert state_in(store).decisions == {}
                assert NexusControlTools(store).request("g", ALICE).success

    on_a_server(place, work, disk_of="tables")


def assert_panic(server: PostgresServer) -> None:
    """Asserts that the server ended, all of it or all connections, because it found no room."""
    panic = [line for line in (server.folder / "server.log").read_text().splitlines() if "PANIC" in line]
    assert "No space left on device" in panic[0]
