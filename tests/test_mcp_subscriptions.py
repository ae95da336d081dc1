"""Subscriptions under attack and misfortune: what one subscriber does, or what happens to the store, ends nothing for the others."""

import itertools
import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import anyio
import anyio.to_thread
import pytest
from mcp import Client, MCPError
from mcp.server import ServerRequestContext
from mcp.types import SubscribeRequestParams
from mcp_testing import ALICE, HELLO, answer, http_server, in_process, lines

from nexus_attest.server.app import build_server
from nexus_attest.server.subscriptions import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")]

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


IDS = itertools.count(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def posted(url: str, body: dict[str, Any], **headers: str) -> tuple[str, str]:
    """Session id and first line of data of an answer."""
    data = json.dumps({"jsonrpc": "2.0", "id": next(IDS), **body}).encode()
    given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
    with urlopen(Request(url, data, given), timeout=60) as found:
        while not (line := found.readline().decode()).startswith(("data: {", "{")):
            assert line
        return found.headers.get("mcp-session-id", ""), line.removeprefix("data: ")


def test_a_uri_that_no_store_can_look_up_does_not_end_the_server(tmp_path: Path) -> None:
    uri = "nexus://decisions/\ud800"
    with http_server(tmp_path) as (url, _):
        stateless = {"Mcp-Method": "subscriptions/listen", "MCP-Protocol-Version": "2026-07-28"}
        body = {"method": "subscriptions/listen", "params": {"_meta": META, "notifications": {"resourceSubscriptions": [uri]}}}
        assert "notifications/subscriptions/acknowledged" in posted(url, body, **stateless)[1]
        session, _ = posted(url, {"method": "initialize", "params": HELLO})
        handshake = {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
        with pytest.raises(HTTPError, match="400"):
            posted(url, {"method": "resources/subscribe", "params": {"uri": uri}}, **handshake)
        call = {"method": "tools/call", "params": {"name": "nexus-attest.request", "arguments": {"goal": "g", "actor": ALICE}}}
        for _ in range(3):
            assert "pending_approval" in posted(url, call, **handshake)[1]


@pytest.mark.parametrize("era", ["stateless", "handshake"])
def test_a_store_that_cannot_be_read_for_a_while_ends_neither_the_server_nor_a_subscription(tmp_path: Path, era: str) -> None:
    meta = {"_meta": META} if era == "stateless" else {}
    with lines(tmp_path, "--log-level", "warning") as server:
        if era == "handshake":
            server.begin()

        def request() -> str:
            arguments = {"goal": "g", "actor": ALICE}
            server.send({"id": 1, "method": "tools/call", "params": {**meta, "name": "nexus-attest.request", "arguments": arguments}})
            return server.receive()["result"]["structuredContent"]["request_id"]

        request_id = request()
        uri = f"nexus://decisions/{request_id}"
        if era == "stateless":
            wanted = {"resourceSubscriptions": [uri]}
            server.send({"id": 2, "method": "subscriptions/listen", "params": {**meta, "notifications": wanted}})
            assert server.receive()["method"] == "notifications/subscriptions/acknowledged"
        else:
            server.send({"id": 2, "method": "resources/subscribe", "params": {"uri": uri}})
            assert server.receive()["id"] == 2
        with closing(sqlite3.connect(tmp_path / "decisions.db")) as store:
            store.execute("ALTER TABLE decisions RENAME TO elsewhere")
            warning = json.loads(server.stderr.readline())
            assert (warning["message"], warning["code"]) == ("subscribers cannot be told of changes", "STORE_UNREADABLE")
            store.execute("ALTER TABLE elsewhere RENAME TO decisions")
        arguments = {"request_id": request_id, "actor": ALICE}
        server.send({"id": 3, "method": "tools/call", "params": {**meta, "name": "nexus-attest.approve", "arguments": arguments}})
        heard = [server.receive(), server.receive()]
        assert {message.get("id", message.get("method")) for message in heard} == {3, "notifications/resources/updated"}
        assert server.end()[0] == 0


async def test_a_moment_without_threads_ends_neither_the_server_nor_a_subscription(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard, asked = anyio.Event(), anyio.Event()

    async def takes(_: str) -> None:
        heard.set()

    async def no_thread(*_: object, **__: object) -> None:
        asked.set()
        raise RuntimeError("can't start new thread")

    with in_process(tmp_path) as service:
        request_id = service.tools.request(goal="g", actor=ALICE).data["request_id"]
        watch = Watch(service)
        async with AsyncExitStack() as stack, watch.running():
            await watch.subscribe(subscriber(stack, takes), SubscribeRequestParams(uri=f"nexus://decisions/{request_id}"))
            with monkeypatch.context() as patch, anyio.fail_after(60):
                patch.setattr(anyio.to_thread, "run_sync", no_thread)
                watch.look_now()
                await asked.wait()
            assert service.tools.approve(request_id, {"type": "human", "id": "bob"}).success
            with anyio.fail_after(60):
                await heard.wait()
    (warning,) = [record for record in caplog.records if record.message == "subscribers cannot be told of changes"]
    assert warning.__dict__["facts"] == {"code": "RuntimeError", "problem": "can't start new thread"}


async def test_nobody_can_watch_more_than_the_store_can_be_asked_for(tmp_path: Path) -> None:
    with in_process(tmp_path) as service:
        async with Client(build_server(service)) as client:
            uris = [f"nexus://decisions/{number}" for number in range(1_025)]
            with pytest.raises(MCPError, match="Too many subscriptions") as refused:
                async with client.listen(resource_subscriptions=uris):
                    pytest.fail("too many were taken")
            assert refused.value.error.code == -32602
            async with client.listen(resource_subscriptions=uris[1:]):
                assert (await answer(client, "request", goal="g", actor=ALICE))["state"] == "pending_approval"


def subscriber(stack: AsyncExitStack, told: Callable[[str], Any]) -> ServerRequestContext[Any]:
    """The context of a call by a client of the handshake era to which `told` delivers."""
    connection = SimpleNamespace(exit_stack=stack)
    return cast("ServerRequestContext[Any]", SimpleNamespace(session=SimpleNamespace(_connection=connection, send_resource_updated=told)))


async def test_a_subscriber_that_takes_nothing_or_is_gone_delays_the_others_once(tmp_path: Path) -> None:
    heard: list[str] = []
    attempts: list[str] = []

    async def takes(uri: str) -> None:
        heard.append(uri)

    async def hangs(_: str) -> None:
        attempts.append("hangs")
        await anyio.sleep_forever()

    async def gone(_: str) -> None:
        attempts.append("gone")
        raise anyio.BrokenResourceError

    with in_process(tmp_path) as service:
        request_id = service.tools.request(goal="g", actor=ALICE).data["request_id"]
        params = SubscribeRequestParams(uri=f"nexus://decisions/{request_id}")
        watch = Watch(service)
        async with AsyncExitStack() as stack, watch.running():
            for told in (hangs, gone, takes):
                await watch.subscribe(subscriber(stack, told), params)
            for number in range(1, 4):
                assert service.tools.approve(request_id, {"type": "human", "id": f"approver-{number}"}).success
                watch.look_now()
                with anyio.fail_after(60):
                    while len(heard) < number:
                        await anyio.sleep(0.01)
    assert attempts == ["hangs", "gone"]


async def test_nothing_is_kept_of_a_subscriber_that_left_while_the_store_was_asked_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process(tmp_path) as service:
        watch, store = Watch(service), service.tools.store
        asked, look = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
        turns = itertools.count()

        def slow(*_: Any) -> list[Any]:
            turn = next(turns)
            asked[turn].set()
            assert look[turn].wait(20)
            return []

        async def subscribe(stack: AsyncExitStack, decision_id: str) -> None:
            params = SubscribeRequestParams(uri=f"nexus://decisions/{decision_id}")
            await watch.subscribe(subscriber(stack, lambda _: None), params)

        monkeypatch.setattr(store, "decision_page", slow)
        async with anyio.create_task_group() as tasks, AsyncExitStack() as leaves, AsyncExitStack() as stays:
            tasks.start_soon(subscribe, leaves, "one")
            await anyio.to_thread.run_sync(asked[0].wait, 20)
            tasks.start_soon(subscribe, stays, "two")
            await anyio.to_thread.run_sync(asked[1].wait, 20)
            look[0].set()
            while "one" not in watch._tips:  # pyright: ignore[reportPrivateUsage]
                await anyio.sleep(0.01)
            await leaves.aclose()
            look[1].set()
            while "two" not in watch._tips:  # pyright: ignore[reportPrivateUsage]
                await anyio.sleep(0.01)
            assert watch._tips.keys() == {"two"}  # pyright: ignore[reportPrivateUsage]
        assert watch._tips == {}  # pyright: ignore[reportPrivateUsage]
