"""A client that asks hears of its own requests through the protocol, and of nothing else."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import EmptyResult, SetLevelRequest, SetLevelRequestParams
from mcp_testing import CONNECTIONS, connected, lines

pytestmark = pytest.mark.anyio

LEVEL = "io.modelcontextprotocol/logLevel"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def called(client: Client, connection: str, tool: str, level: str, **arguments: Any) -> None:
    """One call by a client that wants messages of this level, asked for as its era does."""
    asked: Any = {}
    if connection.endswith("handshake"):
        await client.session.send_request(SetLevelRequest(params=SetLevelRequestParams.model_validate({"level": level})), EmptyResult)
    else:
        asked = {LEVEL: level}
    await client.call_tool(f"nexus-attest.{tool}", arguments, meta=asked or None)


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_who_asks_hears_of_each_request_and_its_outcome(connection: str, tmp_path: Path) -> None:
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message)

    async with connected(connection, tmp_path, logging_callback=hear) as client:
        await client.call_tool("nexus-attest.template.list", {})
        assert heard == [], "nobody asked"
        await called(client, connection, "template.list", "info")
        await called(client, connection, "status", "warning", request_id="nobody")
        await called(client, connection, "template.list", "warning")
        await called(client, connection, "status", "error", request_id="nobody")
        with anyio.move_on_after(60):
            while sum(message.data["method"] == "tools/call" for message in heard) < 2:
                await anyio.sleep(0.01)
        await anyio.wait_all_tasks_blocked()
    calls = [(message.level, message.data) for message in heard if message.data["method"] == "tools/call"]
    assert [(level, data["tool"], data["outcome"], data.get("code")) for level, data in calls] == [
        ("info", "nexus-attest.template.list", "ok", None),
        ("warning", "nexus-attest.status", "error", "DECISION_NOT_FOUND"),
    ]
    assert all(set(data) <= {"method", "request_id", "tool", "ms", "outcome", "code"} for _, data in calls)


async def test_a_level_that_does_not_exist_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        for number, level in enumerate(["loud", "", None, 7, "INFO"], 1):
            server.send({"id": number, "method": "logging/setLevel", "params": {"level": level}})
            assert server.receive()["error"]["code"] == -32602
        server.send({"id": 9, "method": "ping"})
        assert server.receive()["id"] == 9
