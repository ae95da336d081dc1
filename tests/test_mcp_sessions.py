"""Several clients at once over HTTP, and clients that leave: one execution, whole records, no session of somebody else."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from cli_testing import program
from mcp import Client
from mcp_testing import ADAPTER, ALICE, BOB, HELLO, answer, events_of, http_server

pytestmark = pytest.mark.anyio

PLAN = '[{"tool": "t", "method": "m"}]'
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Served(NamedTuple):
    url: str
    folder: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose program takes half a second."""
    folder = tmp_path_factory.mktemp("sessions")
    with http_server(folder) as (url, _):
        yield Served(url, folder)


async def approved(client: Client) -> str:
    request_id = (await answer(client, "request", goal="g", actor=ALICE, mode="apply", plan=PLAN))["request_id"]
    await answer(client, "approve", request_id=request_id, actor=BOB)
    return request_id


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_of_many_sessions_that_execute_one_decision_one_does(served: Served, mode: str) -> None:
    codes: list[str] = []

    async def execute(request_id: str) -> None:
        async with Client(served.url, mode=mode) as client:
            arguments = {"request_id": request_id, "adapter_id": ADAPTER, "actor": ALICE}
            result = await client.call_tool("nexus-attest.execute", arguments)
            codes.append(result.meta["io.github.nexus-attest/error"]["code"] if result.is_error and result.meta else "done")

    async with Client(served.url, mode=mode) as client:
        request_id = await approved(client)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(execute, request_id)
    assert codes.count("done") == 1
    assert set(codes) <= {"done", "EXECUTION_IN_PROGRESS", "ALREADY_EXECUTED"}
    assert events_of(served.folder)[request_id].count("EXECUTION_STARTED") == 1


@pytest.mark.parametrize("modern", [True, False])
async def test_a_run_goes_on_to_its_end_when_its_client_is_gone(tmp_path: Path, modern: bool) -> None:
    program(tmp_path)
    with http_server(tmp_path) as (url, _):
        program(tmp_path, "time.sleep(1)")  # the file of the server's adapter, which it starts anew for each run
        async with Client(url) as client:
            request_id = await approved(client)
            body, headers = call_of("execute", {"request_id": request_id, "adapter_id": ADAPTER, "actor": ALICE}, modern=modern)
            if not modern:
                headers["mcp-session-id"] = session_of(url)
            address = urlsplit(url)
            head = "".join(f"{key}: {value}\r\n" for key, value in {"host": address.netloc, **headers}.items())
            with socket.create_connection((address.hostname or "", address.port or 0)) as gone:
                gone.sendall(f"POST /mcp HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                deadline = time.monotonic() + 60
                while "EXECUTION_STARTED" not in events_of(tmp_path)[request_id]:
                    assert time.monotonic() < deadline
            with anyio.fail_after(60):
                while (await answer(client, "status", request_id=request_id))["state"] == "executing":
                    await anyio.sleep(0.05)
            assert (await answer(client, "status", request_id=request_id))["state"] == "completed"


def call_of(tool: str, arguments: dict[str, Any], *, modern: bool) -> tuple[bytes, dict[str, str]]:
    params: dict[str, Any] = {"name": f"nexus-attest.{tool}", "arguments": arguments}
    headers = dict(HEADERS)
    if modern:
        params["_meta"] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": params["name"]}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode(), headers


def session_of(url: str) -> str:
    """A session of the handshake era."""
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}
    session: str = httpx2.post(url, json=body, headers=HEADERS).headers["mcp-session-id"]
    assert httpx2.post(
        url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers={**HEADERS, "mcp-session-id": session}
    ).is_success
    return session


@pytest.mark.parametrize("session", ["", "x", "0" * 32, "0" * 4_000, "../..", "\u00e9"])
def test_a_session_that_nobody_opened_is_refused(served: Served, session: str) -> None:
    body, headers = call_of("template.list", {}, modern=False)
    encoded = [(key.encode(), value.encode()) for key, value in headers.items()]
    found = httpx2.post(served.url, content=body, headers=[*encoded, (b"mcp-session-id", session.encode("latin-1"))])
    assert 400 <= found.status_code < 500
    assert len(found.text) < 500


def test_a_session_that_was_ended_is_gone(served: Served) -> None:
    session = session_of(served.url)
    body, headers = call_of("template.list", {}, modern=False)
    mine = {**headers, "mcp-session-id": session}
    assert httpx2.post(served.url, content=body, headers=mine).is_success
    assert httpx2.request("DELETE", served.url, headers=mine).status_code in (200, 204)
    assert httpx2.post(served.url, content=body, headers=mine).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("modern", [True, False])
def test_other_methods_of_http_do_nothing(served: Served, method: str, modern: bool) -> None:
    body, headers = call_of("request", {"goal": "g", "actor": ALICE}, modern=modern)
    before = events_of(served.folder)
    assert 400 <= httpx2.request(method, served.url, content=body, headers=headers).status_code < 500
    assert events_of(served.folder) == before


async def test_a_second_request_with_an_id_that_is_being_answered_is_refused_and_not_left_waiting(served: Served) -> None:
    session = session_of(served.url)
    body, headers = call_of("request", {"goal": "twin", "actor": ALICE}, modern=False)
    codes: list[int] = []
    async with httpx2.AsyncClient(headers={**headers, "mcp-session-id": session}, timeout=30) as client:

        async def post() -> None:
            codes.append((await client.post(served.url, content=body)).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(post)
        assert set(codes) <= {200, 400}
        assert 200 in codes
        with anyio.fail_after(60):  # answered before, so free again: as soon as the server has put the last answer away
            while (await client.post(served.url, content=body)).status_code != 200:
                await anyio.sleep(0.01)
