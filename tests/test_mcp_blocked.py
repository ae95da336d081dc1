"""A database that makes everybody wait: the calls that need it wait, and nothing else does."""

import sqlite3
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import psycopg
import pytest
from mcp import Client
from mcp_testing import ALICE, CONNECTIONS, answer, connected, in_process
from postgres_testing import PostgresServer

from nexus_attest.server.app import build_server
from nexus_control.events import Actor, EventType
from nexus_control.policy import Policy
from nexus_control.tool import ToolResult

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")]

THREADS = 8
"""So many calls of a server may wait for its database at once."""

AT_ONCE = 20.0
"""Seconds, on a busy machine; what waits for the database does so for thirty."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Served(NamedTuple):
    client: Client
    address: str


@pytest.fixture(scope="module", params=CONNECTIONS)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncGenerator[Served]:
    """A client of a server whose store is a database on a server."""
    address = postgres_server.new_database()
    async with connected(request.param, tmp_path_factory.mktemp("served"), db=address) as client:
        yield Served(client, address)


async def known(client: Client) -> str:
    """A decision whose status was asked for before, more than once."""
    request_id: str = (await answer(client, "request", goal="g", actor=ALICE))["request_id"]
    for _ in range(3):
        await answer(client, "status", request_id=request_id)
    return request_id


async def look(client: Client, request_id: str, seen: list[str]) -> None:
    seen.append((await answer(client, "status", request_id=request_id))["state"])


async def test_a_database_server_that_is_blocked_stops_nothing_that_does_not_need_it(served: Served) -> None:
    request_id, seen = await known(served.client), list[str]()
    with psycopg.connect(served.address) as other:
        other.execute("LOCK TABLE nexus_attest.decision_events IN ACCESS EXCLUSIVE MODE")
        async with anyio.create_task_group() as waiting:
            for _ in range(THREADS - 2):
                waiting.start_soon(look, served.client, request_id, seen)
            await anyio.sleep(0.2)
            with anyio.fail_after(AT_ONCE):
                assert len((await served.client.list_tools()).tools) == 14
                assert (await answer(served.client, "template.list"))["templates"] == []
            assert seen == []
            other.rollback()
    assert seen == ["pending_approval"] * (THREADS - 2)


async def test_calls_that_wait_for_a_blocked_database_can_be_cancelled(served: Served, request: pytest.FixtureRequest) -> None:
    if "memory-stateless" in request.node.name:
        pytest.skip("there a call is a function call, which ends when the thread does that works for it")
    request_id, seen = await known(served.client), list[str]()
    with psycopg.connect(served.address) as other:
        other.execute("LOCK TABLE nexus_attest.decision_events IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        async with anyio.create_task_group() as waiting:
            for _ in range(THREADS + 4):
                waiting.start_soon(look, served.client, request_id, seen)
            await anyio.sleep(0.2)
            waiting.cancel_scope.cancel()
        assert len((await served.client.list_tools()).tools) == 14
        assert time.monotonic() - began < AT_ONCE
        assert seen == []
        other.rollback()
    with anyio.fail_after(AT_ONCE):
        await look(served.client, request_id, seen)


async def test_a_file_that_another_program_locked_stops_nothing_that_does_not_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In WAL mode nobody can keep readers out; this file is in another one, and cannot be brought into it."""
    monkeypatch.setattr("nexus_control.database.switch_to_wal", id)
    with in_process(tmp_path) as service:
        async with Client(build_server(service)) as client:
            request_id, seen = await known(client), list[str]()
            with closing(sqlite3.connect(tmp_path / "decisions.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(look, client, request_id, seen)
                    await anyio.sleep(0.05)
                    with anyio.fail_after(AT_ONCE):
                        assert len((await client.list_tools()).tools) == 11
                    assert seen == []
                    other.execute("ROLLBACK")
            assert seen == ["pending_approval"]


POLICY = (EventType.POLICY_ATTACHED, Actor(type="human", id="alice"), Policy(min_approvals=1).to_dict())


class Clock:
    """Time, or processor time, of which a read takes as much as `costs` says."""

    def __init__(self) -> None:
        self.now, self.costs = 0.0, 0.0

    def __call__(self) -> float:
        return self.now


async def test_what_is_not_known_to_be_short_is_not_read_in_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[bool] = []
    loop = threading.get_ident()
    with in_process(tmp_path) as service:
        store, replayed, clock = service.tools.store, service.tools.status, Clock()

        def status(**arguments: Any) -> ToolResult:
            where.append(threading.get_ident() == loop)
            clock.now += clock.costs
            return replayed(**arguments)

        request_id = store.create_decision()
        monkeypatch.setattr(service.tools, "status", status)
        for name in ("perf_counter", "thread_time"):
            monkeypatch.setattr(f"nexus_attest.server.service.{name}", clock)
        store.append_events(request_id, [POLICY])
        async with Client(build_server(service)) as client:
            for milliseconds, expected in ((1, [False, True, True]), (6, [True, False, False]), (1, [False, True, True])):
                clock.costs = milliseconds / 1000
                where.clear()
                for _ in range(3):
                    await answer(client, "status", request_id=request_id)
                assert where == expected, milliseconds


async def test_a_read_that_was_interrupted_in_the_event_loop_is_measured_by_processor_time_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[bool] = []
    loop = threading.get_ident()
    with in_process(tmp_path) as service:
        replayed, wall = service.tools.status, Clock()

        def status(**arguments: Any) -> ToolResult:
            where.append(threading.get_ident() == loop)
            wall.now += wall.costs
            return replayed(**arguments)

        monkeypatch.setattr(service.tools, "status", status)
        monkeypatch.setattr("nexus_attest.server.service.perf_counter", wall)
        monkeypatch.setattr("nexus_attest.server.service.thread_time", Clock())
        async with Client(build_server(service)) as client:
            request_id = (await answer(client, "request", goal="g", actor=ALICE))["request_id"]
            for wall.costs in (0, 0, 1, 0, 0):
                await answer(client, "status", request_id=request_id)
    assert where == [False, True, True, False, True]


async def test_a_result_that_is_too_large_for_the_event_loop_is_tried_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[bool] = []
    loop = threading.get_ident()
    with in_process(tmp_path) as service:
        replayed = service.tools.status
        for name in ("perf_counter", "thread_time"):
            monkeypatch.setattr(f"nexus_attest.server.service.{name}", Clock())

        def status(**arguments: Any) -> ToolResult:
            where.append(threading.get_ident() == loop)
            return replayed(**arguments)

        monkeypatch.setattr(service.tools, "status", status)
        async with Client(build_server(service)) as client:
            request_id = (await answer(client, "request", goal="g", actor=ALICE))["request_id"]
            service.tools.store.append_events(request_id, [POLICY] * 100)
            everything = [(False, [False]), (False, [True]), (True, [True, False]), (True, [False]), (False, [False]), (False, [True])]
            for include_events, expected in everything:
                where.clear()
                await answer(client, "status", request_id=request_id, include_events=include_events)
                assert where == expected, include_events
