"""The MCP server against a server of the same SDK that does nothing: per call, from start to the first list, and in tokens.

The tool that does nothing returns a constant with the shape of `status`, under the same output schema: what the SDK and its client
spend on such a result is on both sides.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from bench.harness import Clock, Result, Settings, milliseconds
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

_ROOT = Path(__file__).resolve().parent.parent
_CALLS = 1_500
_STARTS = 11
_ENDS = 11
_CHARACTERS_PER_TOKEN = 4.25
_ALICE = {"type": "human", "id": "alice"}
_STATUS = "nexus-attest.status"
_NOTHING = "nothing"

_MODES = {"stateless": "auto", "handshake": "legacy"}

_NOTHING_SERVER = """\
import json, sys, anyio
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool
data, output = json.loads(sys.argv[1]), json.loads(sys.argv[2])
async def list_tools(context, params):
    return ListToolsResult(tools=[Tool(name="nothing", input_schema={"type": "object"}, output_schema=output)])
async def call_tool(context, params):
    return CallToolResult(content=[TextContent(type="text", text=sys.argv[1])], structured_content=data)
async def main():
    server = Server("nothing", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())
anyio.run(main)
"""


def calls(settings: Settings) -> Iterator[Result]:
    """`status` in units of a tool that does nothing, in process and over standard streams, in both eras."""
    import anyio  # installed with the SDK, which other benchmarks do without

    for transport, goal in (("in process", 1.5), ("stdio", 1.3)):
        for era in _MODES:
            with _decision(settings) as (folder, tools, request_id):
                ours, floor = anyio.run(_alternating, settings, transport, _MODES[era], folder, tools, request_id)
            detail = f"{milliseconds(ours)}, a tool that does nothing {milliseconds(floor)}, {len(ours)} calls each"
            yield Result(
                name=f"mcp status, {transport}, {era}", unit="x nothing", value=median(ours) / median(floor), goal=goal, detail=detail
            )


def starts(settings: Settings) -> Iterator[Result]:
    """From starting the process to the first answer to tools/list, in units of a server that does nothing."""
    import anyio  # as above

    with _decision(settings) as (folder, tools, request_id):
        ours, floor = anyio.run(_started, settings, folder, tools, request_id)
    detail = f"{milliseconds(ours)}, a server that does nothing {milliseconds(floor)}, {len(ours)} starts each"
    yield Result(name="mcp start to tools/list", unit="x nothing", value=median(ours) / median(floor), goal=1.3, detail=detail)


def signals(settings: Settings) -> Iterator[Result]:
    """From a signal to the end of the process, whose client is connected and has written; afterwards the store is closed."""
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        folder = _folder(settings)
        times = [_ended(folder, number, code) for _ in range(settings.size(_ENDS, 1))]
        yield Result(
            name=f"mcp end on {number.name}",
            unit="ms",
            value=max(times) * 1000,
            goal=100,
            detail=f"the longest of {len(times)}; median {milliseconds(times)}",
        )


def tokens(settings: Settings) -> Iterator[Result]:
    """What a model sees of the eleven tools at most, with a trust policy: names, descriptions, input schemas."""
    from nexus_attest.server.app import listed_tools  # the SDK
    from nexus_attest.server.service import Service

    with DecisionStore(settings.directory / "tokens.db") as store:
        seen = [
            {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
            for tool in listed_tools(Service(tools=NexusControlTools(store), takes_signatures=True))
        ]
    size = len(json.dumps(seen, separators=(",", ":"), ensure_ascii=False))
    detail = f"{size:,} characters, {_CHARACTERS_PER_TOKEN} characters per token"
    yield Result(name="mcp tool list for a model", unit="tokens", value=size / _CHARACTERS_PER_TOKEN, goal=1_600, detail=detail)


def _folder(settings: Settings) -> Path:
    folder = settings.directory / f"mcp-{len(list(settings.directory.iterdir()))}"
    folder.mkdir()
    return folder


@contextmanager
def _decision(settings: Settings) -> Generator[tuple[Path, NexusControlTools, str]]:
    """A folder with a store, its tools and a decision with two approvals."""
    folder = _folder(settings)
    with DecisionStore(folder / "decisions.db") as store:
        tools = NexusControlTools(store)
        request_id: str = tools.request("Rotate the signing key", _ALICE, min_approvals=2).data["request_id"]
        for name in ("alice", "bob"):
            tools.approve(request_id, {"type": "human", "id": name})
        yield folder, tools, request_id


async def _alternating(
    settings: Settings, transport: str, mode: str, folder: Path, tools: NexusControlTools, request_id: str
) -> tuple[list[float], list[float]]:
    from mcp import Client  # the SDK

    if transport == "stdio":
        ours, floor = _our_process(folder), _process_that_does_nothing(folder, tools, request_id)
    else:
        ours, floor = _our_server(tools), _server_that_does_nothing(tools, request_id)
    async with Client(ours, mode=mode) as one, Client(floor, mode=mode) as other:
        await one.list_tools()
        await other.list_tools()
        return await _times(
            settings.size(_CALLS, 5),
            process_time if transport == "in process" else perf_counter,
            lambda: one.call_tool(_STATUS, {"request_id": request_id}),
            lambda: other.call_tool(_NOTHING, {"request_id": request_id}),
        )


async def _started(settings: Settings, folder: Path, tools: NexusControlTools, request_id: str) -> tuple[list[float], list[float]]:
    from mcp import Client  # the SDK

    async def start(server: Any) -> None:
        async with Client(server) as client:
            await client.list_tools()
            times.append(perf_counter() - began)

    found: list[list[float]] = []
    for _ in range(1 + settings.size(_STARTS, 1)):
        for server in (_our_process(folder), _process_that_does_nothing(folder, tools, request_id)):
            times: list[float] = []
            began = perf_counter()
            await start(server)
            found.append(times)
    return [times[0] for times in found[2::2]], [times[0] for times in found[3::2]]


async def _times(number: int, clock: Clock, *operations: Callable[[], Awaitable[Any]]) -> Any:
    samples: list[list[float]] = [[] for _ in operations]
    for _ in range(number):
        for sample, operation in zip(samples, operations, strict=True):
            began = clock()
            result = await operation()
            sample.append(clock() - began)
            assert not result.is_error
    return samples


def _our_server(tools: NexusControlTools) -> Any:
    from nexus_attest.server.app import build_server  # the SDK
    from nexus_attest.server.service import Service

    return build_server(Service(tools=tools))


def _server_that_does_nothing(tools: NexusControlTools, request_id: str) -> Any:
    from mcp.server import Server  # the SDK
    from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool

    data, output = _constant(tools, request_id)
    text = json.dumps(data, separators=(",", ":"))

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=_NOTHING, input_schema={"type": "object"}, output_schema=output)])

    async def call_tool(_context: Any, _params: Any) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=data)

    return Server[Any]("nothing", on_list_tools=list_tools, on_call_tool=call_tool)


def _our_process(folder: Path) -> Any:
    return _process(_serve(folder), folder)


def _serve(folder: Path) -> list[str]:
    return ["-m", "nexus_attest", "serve", "--db", str(folder / "decisions.db"), "--log-level", "warning"]


def _ended(folder: Path, number: signal.Signals, code: int) -> float:
    begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    call = {"name": "nexus-attest.request", "arguments": {"goal": "Rotate the signing key", "actor": _ALICE}}
    with subprocess.Popen(
        [sys.executable, *_serve(folder)], env=_environment(folder), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for request_id, (method, params) in enumerate((("initialize", begin), ("tools/call", call))):
            message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            assert b"error" not in process.stdout.readline()
        began = perf_counter()
        process.send_signal(number)
        assert process.wait() == code
        time = perf_counter() - began
    assert not (folder / "decisions.db-wal").exists()  # the store was closed
    return time


def _process_that_does_nothing(folder: Path, tools: NexusControlTools, request_id: str) -> Any:
    data, output = _constant(tools, request_id)
    return _process(["-c", _NOTHING_SERVER, json.dumps(data, separators=(",", ":")), json.dumps(output)], folder)


def _process(arguments: list[str], folder: Path) -> Any:
    from mcp.client.stdio import StdioServerParameters  # the SDK

    return StdioServerParameters(command=sys.executable, args=arguments, env=_environment(folder), cwd=folder)


def _environment(folder: Path) -> dict[str, str]:
    """Ours and the other server are compiled by their first start, as what is installed is, whatever the variables here say."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _constant(tools: NexusControlTools, request_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from nexus_attest.server.outputs import OUTPUTS

    return tools.status(request_id).data, OUTPUTS["status"]
