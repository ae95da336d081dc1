"""PostgreSQL that is killed, and connections that are cut: what was told is so, and what is not known is not called done.

A proxy stands between the store and the server. It counts the store's messages, and at one of them cuts the connection: before the server
gets it, or after the server has answered and before the answer comes back, or with other words in its place. Or it holds the message back
while somebody else does all of their work, so that one command falls into another one at every message.
"""

import multiprocessing
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from command_testing import ACTS, Router, requested
from postgres_testing import PostgresServer
from store_testing import ALICE, CAROL

from nexus_attest.postgres import PostgresStore, driver
from nexus_control.errors import NexusError, StoreUnreachable
from nexus_control.events import EventType
from nexus_control.tool import NexusControlTools, ToolResult

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else only every third message, and fewer rounds; `make faults` takes all."""

Cut = Literal["before", "after", "panic"]

PANIC = b"SPANIC\0VPANIC\0C53100\0Mcould not write to file: No space left on device\0\0"
"""What a server says whose write-ahead log finds no room: the commit that it was asked for may be there none the less."""


class Proxy:
    """A server for one store: passes everything on to PostgreSQL, until the message of number `at`, or one with `on` in it, comes."""

    def __init__(self, server: PostgresServer) -> None:
        # As short as the server's, because the path of a socket is at most some 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="nexus-px-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
        self.at: int | None = None
        self.on: bytes | None = None
        self.cut: Cut = "before"
        self.meanwhile: Callable[[], object] | None = None
        self.count = 0
        self._to = str(server.folder / ".s.PGSQL.5432")
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(self.folder / ".s.PGSQL.5432"))
            self._listener.listen()
        except BaseException:
            self.close()
            raise
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def address(self, server_address: str) -> str:
        database = server_address.partition("@/")[2].partition("?")[0]
        return f"postgresql://nexus@/{database}?host={self.folder}"

    def arm(self, at: int | None, cut: Cut = "before", meanwhile: Callable[[], object] | None = None) -> None:
        """Count from here on."""
        self.count, self.at, self.cut, self.meanwhile = 0, at, cut, meanwhile

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                store, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._to)
                lost = threading.Event()
                for source, target, watched in ((store, server, True), (server, store, False)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=(source, target, watched, lost), daemon=True))
                    self._threads[-1].start()

    def _pass_on(self, source: socket.socket, target: socket.socket, watched: bool, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                number = self.count
                self.count += watched
                if watched and (number == self.at or (self.on is not None and self.on in data)):
                    if self.meanwhile is not None:
                        self.meanwhile()
                    elif self.cut == "before":
                        break
                    else:
                        lost.set()
                elif not watched and lost.is_set():
                    if self.cut == "panic":
                        target.sendall(b"E" + (4 + len(PANIC)).to_bytes(4, "big") + PANIC)
                    break  # the server has answered, and nobody hears it
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    with closing(Proxy(postgres_server)) as found:
        yield found


def facts(store: PostgresStore) -> int:
    """How many facts there are, after all of them were verified."""
    verification = store.verify_log()
    assert verification.ok, verification.errors
    return store.log_root()[0]


@pytest.mark.parametrize("cut", ["before", "after", "panic"])
@pytest.mark.parametrize("which", ACTS)
def test_a_connection_that_is_cut_at_any_message_leaves_what_was_told(
    proxy: Proxy, postgres_server: PostgresServer, which: str, cut: Cut
) -> None:
    act, allowed = ACTS[which]
    address = postgres_server.new_database()
    told: set[str | None] = set()
    at = 0
    with PostgresStore(address) as direct, PostgresStore(proxy.address(address)) as store:
        tools = NexusControlTools(store)
        while True:
            name, router, before = requested(direct), Router(), facts(direct)
            assert tools.status(name).success  # connected, after the last cut
            proxy.arm(at, cut)
            try:
                result = act(tools, name, router)
            finally:
                reached = proxy.count > at
                proxy.arm(None)
            new = facts(direct) - before
            where = f"{which}, cut {cut} message {at}: {result.code}, {result.error}, {new} new facts"
            assert new in allowed, where
            assert router.runs <= 1, where
            told.add(result.code)
            if result.success:
                assert new == allowed[-1], where
            elif result.code == "STORE_UNREACHABLE" or (
                result.code == "IMPORT_ATOMICITY_FAILED" and "nothing was written" in str(result.error)
            ):
                assert new == 0, where
                assert "nothing was written" in str(result.error), where
            elif result.code == "OUTCOME_NOT_RECORDED":
                assert (new, router.runs) == (2, 1), where
                assert "use recover_execution once the store works again" in str(result.error), where
                assert tools.recover_execution(name, ALICE).success
            else:
                raise AssertionError(where)
            if not reached:
                break
            at += 1 if EVERY_STEP else 3
    assert None in told
    assert len(told) > 1, "no cut was noticed"


@pytest.mark.parametrize("which", ["execute", "approve"])
def test_another_host_that_acts_at_any_message_of_a_command_changes_nothing_that_was_told(
    proxy: Proxy, postgres_server: PostgresServer, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LOCK_TIMEOUT_SECONDS", 0.1)
    address = postgres_server.new_database()
    act, _ = ACTS[which]
    seen: set[tuple[str | None, str | None]] = set()
    at = 0
    with PostgresStore(address) as other, PostgresStore(proxy.address(address)) as store:
        while True:
            name, router = requested(other), Router()
            others: list[ToolResult] = []
            assert NexusControlTools(store).status(name).success
            proxy.arm(
                at, meanwhile=lambda name=name, router=router, others=others: others.append(act(NexusControlTools(other), name, router))
            )
            mine = act(NexusControlTools(store), name, router)
            proxy.arm(None)
            if not others:
                break
            told = (mine.code, others[0].code)
            seen.add(told)
            events = [event.event_type for event in other.get_events(name)]
            assert [mine.success, others[0].success].count(True) == 1, told
            if which == "execute":
                assert router.runs == 1, told
                assert events.count(EventType.EXECUTION_COMPLETED) == 1, told
            else:
                assert events.count(EventType.APPROVAL_GRANTED) == 2, told
            at += 1
        facts(other)
    refusals = {"execute": {"EXECUTION_IN_PROGRESS", "ALREADY_EXECUTED"}, "approve": {"ALREADY_APPROVED"}}[which]
    assert {code for pair in seen for code in pair} == {None, "STORE_BUSY", *refusals}


def test_a_server_that_is_killed_in_the_middle_of_a_transaction_has_nothing_of_it() -> None:
    with PostgresServer() as server, PostgresStore(server.address()) as store:
        name = requested(store)
        before = facts(store)

        def write() -> None:
            with store.transaction():
                store.append_event(name, EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad", "dry_run": False})
                server.kill()
                server.start()

        with pytest.raises(StoreUnreachable, match="nothing was written"):
            write()
        assert facts(store) == before
        assert NexusControlTools(store).execute(name, "ad", ALICE, Router()).success


@pytest.mark.parametrize("word", [b"BEGIN", b"INSERT", b"COMMIT"])
def test_a_server_that_ends_the_connection_with_a_word_is_named_too(proxy: Proxy, postgres_server: PostgresServer, word: bytes) -> None:
    address = postgres_server.new_database()
    name = address.partition("@/")[2].partition("?")[0]
    with PostgresStore(address) as direct, PostgresStore(proxy.address(address)) as store:
        request_id, before = requested(direct), facts(direct)
        assert NexusControlTools(store).status(request_id).success

        def end() -> None:
            postgres_server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

        proxy.on, proxy.meanwhile = word, end
        result = NexusControlTools(store).approve(request_id, CAROL)
        proxy.on = None
        assert result.code in ("STORE_UNREACHABLE", "COMMIT_UNKNOWN"), result
        assert facts(direct) == before
        assert NexusControlTools(store).approve(request_id, CAROL).success


@pytest.mark.parametrize("how", ["kill", "restart"])
def test_a_server_that_dies_under_load_keeps_what_it_acknowledged(how: str) -> None:
    rounds = 10 if EVERY_STEP else 2
    with PostgresServer() as server, PostgresStore(server.address()) as store:
        acknowledged: list[str] = []
        refused: list[str | None] = []
        strange: list[str] = []
        ended = threading.Event()

        def write() -> None:
            tools = NexusControlTools(store)
            while not ended.is_set():
                try:
                    result = tools.request("g", ALICE)
                except Exception:
                    strange.append(traceback.format_exc())
                    return
                if result.success:
                    acknowledged.append(result.data["request_id"])
                else:
                    refused.append(result.code)

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        target = 0
        for _ in range(rounds):
            target = len(acknowledged) + 50
            deadline = time.monotonic() + 60
            while len(acknowledged) < target and not strange and time.monotonic() < deadline:
                ended.wait(0.01)
            if len(acknowledged) < target:
                break
            if how == "kill":
                server.kill()
                server.start()
            else:
                server.restart()
        ended.set()
        for writer in writers:
            writer.join(60)
        assert not strange, strange[0]
        assert len(acknowledged) >= target, f"after a minute {len(acknowledged)} were acknowledged; refused: {Counter(refused)}"
        facts(store)
        stored = {name: len(store.get_events(name)) for name, _ in store.list_decisions(1_000_000)}
        assert set(acknowledged) <= set(stored)
        assert set(stored.values()) == {2}
        assert set(refused) <= {"STORE_UNREACHABLE", "COMMIT_UNKNOWN"}
        unknown = refused.count("COMMIT_UNKNOWN")
        assert len(stored) - len(acknowledged) <= unknown


def _race(address: str, name: str, gate: Any, results: Any) -> None:
    with PostgresStore(address) as store:
        router = Router()
        gate.wait(200)
        code = NexusControlTools(store).execute(name, "ad", ALICE, router).code
        results.put((code, router.runs))


def test_of_two_hosts_that_execute_at_once_one_runs(postgres_server: PostgresServer) -> None:
    address = postgres_server.new_database()
    context: Any = multiprocessing.get_context("spawn" if EVERY_STEP else "fork")
    with PostgresStore(address) as store:
        for _ in range(20 if EVERY_STEP else 3):
            name = requested(store)
            gate, results = context.Barrier(4), context.Queue()
            hosts = [context.Process(target=_race, args=(address, name, gate, results)) for _ in range(4)]
            for host in hosts:
                host.start()
            told = [results.get(timeout=250) for _ in hosts]
            for host in hosts:
                host.join(60)
            assert sum(runs for _, runs in told) == 1
            assert [code for code, _ in told].count(None) == 1
            assert {code for code, _ in told} <= {None, "EXECUTION_IN_PROGRESS", "ALREADY_EXECUTED"}
        facts(store)


def test_a_store_whose_server_is_gone_says_so_and_works_again_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_POOL_TIMEOUT_SECONDS", 2)
    with PostgresServer() as server, PostgresStore(server.address()) as store:
        name = requested(store)
        server.stop()
        result = NexusControlTools(store).approve(name, CAROL)
        assert (result.code, "check" in str(result.error)) == ("STORE_UNREACHABLE", True)
        with pytest.raises(NexusError):
            PostgresStore(server.address())
        server.start()
        assert NexusControlTools(store).approve(name, CAROL).success
        facts(store)
