"""The stdio transport of an MCP server that we start: one JSON-RPC message per line, under limits that the SDK's transport does not have.

The server gets exactly the environment it is given and the mark of its session, leads a process group of its own, and is killed with all
that it started when the session ends. A line may be only so long. A line that begins like a message and is none ends the connection; one
that does not even begin like one is what servers print by mistake, and is left out. Standard error is read to its end and never passed on
to ours; the last of it is kept for the message of a failure. Imported when a session is opened.
"""

import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import IO, TypeAlias, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from nexus_attest.routers.children import Child
from nexus_attest.routers.clients.mcp_outbox import Outbox

__all__ = ["StdioServer"]

_LOG = logging.getLogger(__name__)

_CHUNK_BYTES = 65_536
_KEPT_ERROR_BYTES = 16_384

_GRACE_SECONDS = 1.0
"""How long a server may take to end after its input was closed; then its group is killed. One that was given up gets no time."""

_POLL_SECONDS = 0.005
_WATCH_SECONDS = 0.05


Received: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]


class StdioServer:
    """One server, which was started just now. Use `connect` once, then `discard`."""

    def __init__(self, process: Child, *, max_line_bytes: int) -> None:
        self.problem: str | None = None
        """Why the connection was given up: OUTPUT_TOO_LARGE or INVALID_OUTPUT; None while it was not, and when the server left."""

        self._process = process
        self._ended = False
        self._limit = max_line_bytes
        self._errors = bytearray()
        self._cut = False

    def errors(self) -> str:
        """The end of the server's standard error, without a line that may have lost its beginning."""
        kept = bytes(self._errors)
        return (kept.partition(b"\n")[2] if self._cut else kept).decode(errors="replace")

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[tuple[MemoryObjectReceiveStream[SessionMessage | Exception], Outbox]]:
        """The streams of a client session. The server ends with it."""
        process = self._process
        stdin, stdout, stderr = (cast("IO[bytes]", pipe) for pipe in (process.stdin, process.stdout, process.stderr))  # all three are pipes
        received, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outbox = Outbox(lambda: self._give_up("OUTPUT_TOO_LARGE", received), most_bytes=self._limit)
        try:
            for pipe in (stdin, stdout, stderr):
                os.set_blocking(pipe.fileno(), False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, stdout.fileno(), received)
                tasks.start_soon(self._keep_errors, stderr.fileno())
                tasks.start_soon(self._send, stdin.fileno(), outbox, received)
                tasks.start_soon(_watch, process, received)
                try:
                    yield incoming, outbox
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            received.close()
            incoming.close()
            outbox.close()
            with anyio.CancelScope(shield=True):
                await self._end(process, stdin, 0 if self.problem else _GRACE_SECONDS)

    async def _receive(self, pipe: int, received: Received) -> None:
        """Pass on one message per line until the server closes its output or the connection is given up."""
        line = bytearray()
        with received:
            while chunk := await _read(pipe):
                *ended, rest = chunk.split(b"\n")
                for part in ended:
                    line += part
                    if not await self._pass_on(bytes(line), received):
                        return
                    line.clear()
                line += rest
                if len(line) > self._limit:
                    self._give_up("OUTPUT_TOO_LARGE", received)
                    return

    def _give_up(self, problem: str, received: Received) -> None:
        """End the connection; whoever waits for an answer is told at once."""
        self.problem = problem
        received.close()

    async def _pass_on(self, line: bytes, received: Received) -> bool:
        """Whether the connection goes on after this line."""
        if len(line) > self._limit:
            self._give_up("OUTPUT_TOO_LARGE", received)
            return False
        if not line.lstrip().startswith(b"{"):
            if line.strip():
                _LOG.info("an MCP server wrote %d bytes to its standard output that are no message", len(line))
            return True
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            self._give_up("INVALID_OUTPUT", received)
            return False
        try:
            await received.send(SessionMessage(message))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True

    async def _keep_errors(self, pipe: int) -> None:
        """Read standard error to its end, so that a server never waits for it, and keep the last bytes."""
        while chunk := await _read(pipe):
            self._errors += chunk
            if len(self._errors) > _KEPT_ERROR_BYTES:
                del self._errors[:-_KEPT_ERROR_BYTES]
                self._cut = True

    async def _send(self, pipe: int, outbox: Outbox, received: Received) -> None:
        """Write one message per line until the session ends or the server closes its input."""
        async for _, text in outbox:
            left = memoryview(text + b"\n")
            while left:
                try:
                    left = left[os.write(pipe, left) :]
                except BlockingIOError:
                    await anyio.wait_writable(pipe)
                except OSError:
                    received.close()  # nothing more can be asked; whoever waits for an answer is told at once
                    outbox.close()
                    return

    async def _end(self, process: Child, stdin: IO[bytes], grace: float) -> None:
        """Close the server's input, which asks it to end, and kill what is left when it has, or has not in time."""
        stdin.close()
        until = time.monotonic() + grace
        try:
            while not process.has_ended() and time.monotonic() < until:
                await anyio.sleep(_POLL_SECONDS)
        finally:
            self.discard()

    def discard(self) -> None:
        """Kill the server and what it started, whether it was ever connected to or not."""
        if not self._ended:
            self._ended = True
            self._process.end()


async def _watch(process: Child, received: Received) -> None:
    """End the connection when the server has ended, also while a child of it holds its output open."""
    while not process.has_ended():
        await anyio.sleep(_WATCH_SECONDS)
    await anyio.sleep(_WATCH_SECONDS)  # for what it wrote last
    received.close()


async def _read(pipe: int) -> bytes:
    while True:
        try:
            return os.read(pipe, _CHUNK_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(pipe)
        except OSError:
            return b""
