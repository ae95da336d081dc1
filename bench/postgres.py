"""What the store on PostgreSQL costs, against a server that is started for it. Skipped where none is installed."""

import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import Any

import psycopg
import pytest

from bench.harness import Result, Settings, ratio
from bench.load import CAN_BIND, measure
from bench.workload import ALICE, request
from nexus_attest.postgres import PostgresStore
from nexus_control.events import EventType
from nexus_control.tool import NexusControlTools
from tests.postgres_testing import PostgresServer

_PAYLOAD = {"expires_at": None, "comment": "Checked against the change calendar"}
_DURABLE = "fsync = on\nfull_page_writes = on\nautovacuum = on"
_CLIENTS = 32


class ChainedFloor:
    """One connection that does the least a chained log needs: per event the lock that keeps others out, the end of the log, a hash, the
    row, its leaf, and a commit. Each statement is prepared by the driver, and sent when the one before it was answered.

    `knows_end` leaves out lock and end: what an only writer, who remembers what it wrote last, could do without.
    """

    def __init__(self, address: str, *, knows_end: bool = False) -> None:
        self._connection = psycopg.connect(address, autocommit=True)
        self._connection.execute(
            "CREATE TABLE facts (position bigint PRIMARY KEY, decision_id text, seq bigint, body text, prev bytea, chain bytea, "
            "UNIQUE (decision_id, seq))"
        )
        self._connection.execute("CREATE TABLE leaves (position bigint PRIMARY KEY, leaf bytea)")
        self._knows_end = knows_end
        self._position, self._chain = 0, bytes(32)
        self._body = "x" * 400

    def append(self) -> None:
        """One event."""
        with self._connection.transaction():
            if not self._knows_end:
                self._connection.execute("SELECT pg_advisory_xact_lock(1)")
                end = self._connection.execute("SELECT position, chain FROM facts ORDER BY position DESC LIMIT 1").fetchone()
                self._position, self._chain = end or (0, bytes(32))
            self._position += 1
            chain = hashlib.sha256(self._chain + self._body.encode()).digest()
            row = (self._position, "decision", self._position, self._body, self._chain, chain)
            self._connection.execute("INSERT INTO facts VALUES (%s, %s, %s, %s, %s, %s)", row)
            self._connection.execute("INSERT INTO leaves VALUES (%s, %s)", (self._position, hashlib.sha256(b"\0" + chain).digest()))
        self._chain = chain

    def rate(self, seconds: float) -> float:
        """Events per second."""
        began, before = perf_counter(), self._position
        while perf_counter() < began + seconds:
            self.append()
        return (self._position - before) / (perf_counter() - began)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def appends(settings: Settings) -> Iterator[Result]:
    """One client, one commit per event: at least 0.7 of the rate of the floor. Told as well: against a floor that knows the log's end."""
    with started_server() as server:
        if server is None:
            yield Result(name="postgres, 1 client", unit="x floor", goal=1 / 0.7, detail="no PostgreSQL server is installed")
            return
        with PostgresStore(server.new_database()) as store, closing(ChainedFloor(server.new_database())) as floor:
            with store.transaction():
                turn = cycle([request(NexusControlTools(store)) for _ in range(100)])

            def append() -> None:
                store.append_event(next(turn), EventType.APPROVAL_GRANTED, ALICE, _PAYLOAD)

            yield ratio("postgres, 1 client", settings, append, floor.append, goal=1 / 0.7, clock=perf_counter)
            with closing(ChainedFloor(server.new_database(), knows_end=True)) as least:
                yield ratio("postgres, 1 client, floor without end", settings, append, least.append, goal=None, clock=perf_counter)


def group_commit(settings: Settings) -> Iterator[Result]:
    """32 clients of one process: the time per event, against the floor of one connection, by turns; medians.

    The threads of a process run one at a time. On one processor each of them follows the one before it at once; on several they wake on all
    of them, wait for each other there, and take the server's. So the goal is for a process that is bound to one, as docs/postgres.md
    advises. The floor is measured both ways, and the faster one counts.
    """
    seconds = settings.size(2.0, 0.2)
    names = {False: f"postgres, {_CLIENTS} clients, any processor", True: f"postgres, {_CLIENTS} clients, one processor"}
    goals = {False: None, True: 0.1}
    with started_server() as server:
        if server is None or not CAN_BIND:
            why = "no PostgreSQL server is installed" if server is None else "this system binds no process to a processor"
            yield from (Result(name=names[bound], unit="x floor", goal=goals[bound], detail=why) for bound in names)
            return
        address = server.new_database()
        found: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        floors: dict[bool, list[float]] = {False: [], True: []}
        with closing(ChainedFloor(server.new_database())) as floor:
            for _ in range(settings.size(5, 1)):
                for bound, rows in found.items():
                    with _bound() if bound else nullcontext():
                        floors[bound].append(floor.rate(seconds / 2))
                    rows.append(measure(address, "append", processes=1, clients=_CLIENTS, seconds=seconds, bound=bound))
        least = max(median(rates) for rates in floors.values())
        for bound, rows in found.items():
            rate, p99 = (median([row[key] for row in rows]) for key in ("per_second", "p99_ms"))
            detail = f"{rate:,.0f} events/s, floor {least:,.0f}/s; p99 {p99:.1f} ms"
            yield Result(name=names[bound], unit="x floor", value=least / rate, goal=goals[bound], detail=detail)


@contextmanager
def _bound() -> Generator[None]:
    """This thread on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def started_server() -> Generator[PostgresServer | None, None, None]:
    """A server that syncs as one in use does; None where none is installed."""
    try:
        server = PostgresServer(_DURABLE)
    except pytest.skip.Exception:
        yield None
        return
    with server:
        yield server
