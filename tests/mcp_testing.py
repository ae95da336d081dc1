"""MCP clients of the server: both protocol eras, in process, over standard streams and over HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from cli_testing import ADAPTER, ROOT, program
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from nexus_attest.postgres import PostgresStore
from nexus_attest.routers import RunEngine, load_adapters
from nexus_attest.server.app import build_server
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.progress import follow_run
from nexus_attest.server.results import ERROR_KEY
from nexus_attest.server.service import Service, ServiceOptions
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

__all__ = [
    "ADAPTER",
    "ALICE",
    "ALWAYS",
    "BOB",
    "CONNECTIONS",
    "HANDSHAKE",
    "HELLO",
    "PLAN",
    "STATELESS",
    "Lines",
    "answer",
    "confirming",
    "connected",
    "declaring",
    "error_of",
    "events_of",
    "http_server",
    "in_process",
    "lines",
    "replacement",
    "requested",
    "server_command",
    "server_environment",
]

ALICE = {"type": "human", "id": "alice"}
BOB = {"type": "human", "id": "bob"}

CONNECTIONS = [f"{transport}-{era}" for transport in ("memory", "stdio", "http") for era in ("stateless", "handshake")]
"""Every way to reach the server."""

STATELESS = [connection for connection in CONNECTIONS if connection.endswith("stateless")]
HANDSHAKE = [connection for connection in CONNECTIONS if connection.endswith("handshake")]

ALWAYS = ("--human-approval", "always")
"""Options of a server that has every approval confirmed by a person."""

PLAN = '[{"tool": "t", "method": "m", "args": {"key": "k1"}}]'
"""One call of the program of `in_process`."""

_MODES = {"stateless": "auto", "handshake": "legacy"}

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
"""The parameters of `initialize`."""


def declaring(**capabilities: Any) -> dict[str, Any]:
    """`_meta` of a request of the stateless era, by a client with these capabilities."""
    return {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": capabilities}


def server_command(*options: str) -> list[str]:
    """Starts a server; warnings are errors in it too."""
    return [sys.executable, "-W", "error", "-m", "nexus_attest", "serve", *options]


def server_environment(folder: Path, db: str | None = None) -> dict[str, str]:
    """A home and a store that belong to one test; `db` is the address of a store that is not a file in `folder`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
        "NEXUS_ATTEST_DB": db or str(folder / "decisions.db"),
    }


@contextmanager
def in_process(folder: Path, db: str | None = None, **options: Any) -> Generator[Service]:
    """A service on a store in `folder`, or at `db`, with one program to execute."""
    adapters = load_adapters(program(folder))
    opened = DecisionStore(folder / "decisions.db") if db is None else PostgresStore(db)
    with opened as store, RunEngine(adapters, db_path=folder / "runs.db", watch=follow_run) as router:
        yield Service(
            tools=NexusControlTools(store, flight_records=router),
            router=router,
            adapters=(ADAPTER,),
            stop_runs=router.cancel_all,
            options=ServiceOptions(**options),
            task_folder=folder / "decisions.db.tasks",
        )


def confirming(service: Service) -> None:
    """What `ALWAYS` makes of a server process."""
    service.asker = HumanAsker(tools=service.tools, limiter=service.store_threads, systems=True)


@contextmanager
def http_server(folder: Path, *options: str, db: str | None = None) -> Generator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL of a server process and the process; it is ended with the block."""
    adapters = program(folder)
    with subprocess.Popen(
        server_command("--http", "127.0.0.1:0", "--adapters", str(adapters), "--log-level", "info", *options),
        env=server_environment(folder, db),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            assert first.startswith("{"), first + process.stderr.read()
            yield json.loads(first)["url"], process
        finally:
            process.terminate()
            process.communicate(timeout=60)


@asynccontextmanager
async def connected(
    connection: str,
    folder: Path,
    *options: str,
    db: str | None = None,
    prepare: Callable[[Service], AbstractAsyncContextManager[None] | None] = lambda _: None,
    quiet: bool = True,
    **callbacks: Any,
) -> AsyncGenerator[Client]:
    """A client on a server of its own with the extra tools, connected in one of `CONNECTIONS`.

    `options` are for a server process; `prepare` does the same to a service in this process, for as long as the block that it may give.
    A `quiet` server on standard streams has nothing to log.
    """
    transport, _, era = connection.partition("-")
    mode = _MODES[era]
    if transport == "memory":
        with in_process(folder, db, extra_tools=True) as service:
            async with prepare(service) or nullcontext(), Client(build_server(service), mode=mode, **callbacks) as client:
                yield client
    elif transport == "stdio":
        common = ("--extra-tools", "--adapters", str(program(folder)), "--log-level", "warning")
        command, *arguments = server_command(*common, *options)
        parameters = StdioServerParameters(command=command, args=arguments, env=server_environment(folder, db), cwd=folder)
        with (folder / "stderr").open("w") as log:
            async with Client(stdio_client(parameters, errlog=log), mode=mode, **callbacks) as client:
                yield client
        assert not quiet or (folder / "stderr").read_text() == ""
    else:
        with http_server(folder, "--extra-tools", *options, db=db) as (url, _):
            async with Client(url, mode=mode, **callbacks) as client:
                yield client


class Lines:
    """A server on standard streams, spoken to line by line."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            server_command(*options),
            env={**server_environment(folder), **(environment or {})},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def send(self, line: bytes | dict[str, Any]) -> None:
        self.stdin.write((line if isinstance(line, bytes) else json.dumps({"jsonrpc": "2.0", **line}).encode()) + b"\n")
        self.stdin.flush()

    def receive(self) -> dict[str, Any]:
        return json.loads(self.stdout.readline())

    def begin(self) -> None:
        """The handshake."""
        self.send({"id": 0, "method": "initialize", "params": HELLO})
        assert self.receive()["id"] == 0
        self.send({"method": "notifications/initialized"})

    def call(self, number: int, tool: str, **arguments: Any) -> None:
        self.send({"id": number, "method": "tools/call", "params": {"name": f"nexus-attest.{tool}", "arguments": arguments}})

    def ask(self, method: str, meta: dict[str, Any], **params: Any) -> dict[str, Any]:
        """What is answered in the stateless era."""
        self.send({"id": 1, "method": method, "params": {**params, "_meta": meta}})
        return self.receive()["result"]

    def end(self) -> tuple[int, list[dict[str, Any]], str]:
        """Close our end; exit code, what was still said, and standard error."""
        self.stdin.close()
        rest = self.stdout.read().decode()
        errors = self.stderr.read().decode()
        return self.process.wait(60), [json.loads(line) for line in rest.splitlines()], errors


@contextmanager
def lines(folder: Path, *options: str, environment: dict[str, str] | None = None) -> Generator[Lines]:
    server = Lines(folder, *options, environment=environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(60)
        for stream in (server.stdin, server.stdout, server.stderr):
            with suppress(BrokenPipeError):
                stream.close()


def events_of(folder: Path) -> dict[str, list[str]]:
    """The event types of every decision in the store, which must verify."""
    with DecisionStore(folder / "decisions.db") as store:
        assert store.verify_log().ok
        return {name: [event.event_type.value for event in store.get_events(name)] for name, _ in store.list_decisions(10_000)}


async def answer(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a successful call returns; its text is the same as JSON."""
    result = await client.call_tool(f"nexus-attest.{tool}", arguments)
    (block, *_) = result.content
    assert block.type == "text"
    assert not result.is_error, block.text
    assert json.loads(block.text) == result.structured_content
    data: dict[str, Any] = result.structured_content
    return data


async def requested(client: Client, **more: Any) -> str:
    """A request that waits for approvals."""
    given = {"goal": "Rotate the key", "actor": ALICE, "mode": "apply", "plan": PLAN, **more}
    return (await answer(client, "request", **given))["request_id"]


async def error_of(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The machine-readable part of an error result, and its `text`."""
    result = await client.call_tool(f"nexus-attest.{tool}", arguments)
    assert result.is_error
    assert result.structured_content is None
    assert result.meta is not None
    (block,) = result.content
    assert block.type == "text"
    error: dict[str, Any] = result.meta[ERROR_KEY]
    assert block.text.startswith(f"{error['code']}: ")
    return {**error, "text": block.text}


def replacement(folder: Path, request_id: str) -> str:
    """A bundle of another action under the id of a decision."""
    with DecisionStore(folder / "replacement.db", new_id=lambda: request_id) as store:
        tools = NexusControlTools(store)
        assert tools.request(goal="Something else", actor=ALICE, mode="apply", plan="[]").success
        return tools.export_bundle(request_id).data["canonical_json"]
