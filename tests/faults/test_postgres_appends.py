"""Appends of many threads that share commits, on a server that dies, breaks off, or serves others: each is stored as its caller was told.

What is disturbed is the sending of a batch that was prepared while the one before it was on its way, and whose answer is left to a thread
that leads it only later. What comes after that, on connections that are broken by then, goes the other ways that an append can go.
"""

import math
import multiprocessing
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, LiteralString

import psycopg
import pytest
from append_testing import PATIENCE_SECONDS, SHARED, Appends, Load, check
from postgres_testing import PostgresServer

from nexus_attest.postgres import PostgresStore
from nexus_attest.postgres import batch as batches

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else fewer rounds; `make faults` takes more."""

ROUNDS = 24 if EVERY_STEP else 3
BURST = 4
"""So many appends of somebody else."""


MOMENTS = ("before it is sent", "behind it", "when it is answered, and the answer is lost")


class Strikes:
    """Something that is done once when it is armed, by the next thread that sends a batch early, at one of the moments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.struck = threading.Event()
        self._armed: list[tuple[Callable[[], object], str]] = []
        send = batches.send

        def sent(raw: Any, statements: Any) -> Any:
            if not self._armed:
                return send(raw, statements)
            strike, moment = self._armed.pop()
            if moment == MOMENTS[0]:
                strike()
                self.struck.set()
                return send(raw, statements)
            try:
                names = send(raw, statements)
            except BaseException:  # what was not sent has no answer
                self.arm(strike, moment)
                raise
            if moment == MOMENTS[1]:
                strike()
            else:
                lose_answer(raw, meanwhile=strike)
            self.struck.set()
            return names

        monkeypatch.setattr(batches, "send", sent)

    def arm(self, strike: Callable[[], object], moment: str) -> None:
        self.struck.clear()
        self._armed.append((strike, moment))


def lose_answer(raw: Any, meanwhile: Callable[[], object]) -> None:
    """Wait for the answer to what was sent on a connection, which comes after the commit, and cut the connection before it is read."""
    with socket.socket(fileno=os.dup(raw.fileno())) as line:
        line.settimeout(PATIENCE_SECONDS)
        assert line.recv(1 << 20)
        meanwhile()
        with suppress(OSError):  # by the server already
            line.shutdown(socket.SHUT_RDWR)


def nothing() -> None:
    pass


def strike_again_and_again(
    load: Load,
    strikes: Strikes,
    strike: Callable[[], object],
    mend: Callable[[], object] = nothing,
    *,
    until: Callable[[], bool] = lambda: True,
) -> None:
    """In rounds, at least ROUNDS and until a fact is so; between them many appends are acknowledged."""
    deadline, rounds = math.inf, 0
    with load.running():
        while rounds < ROUNDS or not until():
            if rounds == ROUNDS:
                deadline = time.monotonic() + PATIENCE_SECONDS
            assert time.monotonic() < deadline, f"{rounds} rounds had no effect"
            load.wait_for_more()
            strikes.arm(strike, MOMENTS[rounds % 3])
            load.wait_for(strikes.struck.is_set)
            mend()
            rounds += 1
        load.wait_for_more()


@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_what_threads_append_together_is_stored_as_they_were_told_when_the_server_is(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    strikes = Strikes(monkeypatch)
    with PostgresServer() as server, PostgresStore(server.address()) as store:
        load = Load(store)
        strike_again_and_again(load, strikes, server.kill if how == "killed" else server.stop, server.start)
        check(store, load.names, load.appends)


@pytest.mark.parametrize("what", ["pg_terminate_backend", "pg_cancel_backend"])
def test_what_threads_append_together_is_stored_as_they_were_told_when_the_server_breaks_off(
    postgres_server: PostgresServer, what: LiteralString, monkeypatch: pytest.MonkeyPatch
) -> None:
    strikes = Strikes(monkeypatch)
    address = postgres_server.new_database()
    with PostgresStore(address) as store, psycopg.connect(address, autocommit=True) as beside:
        load = Load(store)

        def strike() -> None:
            beside.execute(f"SELECT {what}(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")

        # What is cancelled when it has just ended goes on.
        is_felt = (lambda: len(load.appends.refused) > 0) if what == "pg_cancel_backend" else lambda: True
        strike_again_and_again(load, strikes, strike, until=is_felt)
        check(store, load.names, load.appends)


def test_what_threads_append_together_is_stored_as_they_were_told_when_another_store_writes(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    strikes = Strikes(monkeypatch)
    address = postgres_server.new_database()
    with PostgresStore(address) as store, PostgresStore(address) as other:
        load, others = Load(store), Appends()

        def write() -> None:
            for number in range(BURST):
                others.append(other, SHARED[number % 2])

        strike_again_and_again(load, strikes, write)
        assert len(others.acknowledged) >= BURST * ROUNDS
        check(store, load.names, load.appends, others)


class Host:
    """A process with a store of its own, that appends to what is shared when it is asked to."""

    def __init__(self, address: str) -> None:
        context: Any = multiprocessing.get_context("spawn" if EVERY_STEP else "fork")
        self.asked, self.told = context.Queue(), context.Queue()
        self._process = context.Process(target=_host, args=(address, self.asked, self.told), daemon=True)
        self._process.start()
        assert self.told.get(timeout=250) is None  # its store is open

    def ask(self) -> None:
        self.asked.put(True)

    def finish(self) -> Appends:
        """What it was told of all that it was asked for."""
        self.asked.put(False)
        error, appends = self.told.get(timeout=250)
        assert error is None, error
        self._process.join(60)
        found: Appends = appends
        return found


def _host(address: str, asked: Any, told: Any) -> None:
    appends, error = Appends(), None
    try:
        with PostgresStore(address) as store:
            told.put(None)
            while asked.get(timeout=250):
                for number in range(BURST):
                    appends.append(store, SHARED[number % 2])
    except BaseException:
        error = traceback.format_exc()
    told.put((error, appends))


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_threads_append_together_is_stored_as_they_were_told_when_another_process_writes(
    is_killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresServer() as server:
        PostgresStore(server.address()).close()
        host = Host(server.address())  # before there are threads, of which a forked process would have none
        strikes = Strikes(monkeypatch)

        def strike() -> None:
            host.ask()
            if is_killed:
                server.kill()

        with PostgresStore(server.address()) as store:
            load = Load(store)
            strike_again_and_again(load, strikes, strike, server.start if is_killed else nothing)
            others = host.finish()
            assert others.told() >= BURST * ROUNDS
            check(store, load.names, load.appends, others)
