"""The stdio transport: one JSON-RPC message per line, on standard input and output, and nothing else there.

While it serves, file descriptor 0 is the null device and 1 is standard error: what anything else prints cannot reach the wire. Two
threads read and write, so that a slow client blocks nobody and the process can end at any time. A line that is no message is answered
with an error, with the id that it has, so that no client waits for ever.
"""

import asyncio
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeGuard, cast

import anyio
from mcp.server import Server
from mcp.shared.message import SessionMessage
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from nexus_attest.server.strict_json import Ambiguous, read_json

__all__ = ["MAX_MESSAGE_BYTES", "serve_stdio"]

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""The largest message that is read, on both transports: room for a bundle of 16 MiB as escaped text."""

_CHUNK = 1 << 16
_READ_AHEAD = 64
_MOST_UNWRITTEN = 8 * 1024 * 1024
_LAST_WORDS_SECONDS = 2.0

_log = logging.getLogger("nexus_attest.server")


async def serve_stdio(server: Server[Any]) -> None:
    """Serve one client until it closes its end."""
    with _wire() as (incoming, outgoing):
        writer = _Writer(outgoing)
        reader = _Reader(incoming, writer.refuse)
        writer.on_broken = reader.end
        try:
            await server.run(reader, writer, server.create_initialization_options())
        finally:
            await writer.drain()


@contextmanager
def _wire() -> Generator[tuple[int, int]]:
    """Private duplicates of standard input and output, which are diverted meanwhile."""
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    try:
        yield incoming, outgoing
    finally:
        # The duplicates stay open: a thread may still be reading, and a descriptor that is closed under it can become another file.
        os.dup2(incoming, 0)
        os.dup2(outgoing, 1)


class _Reader:
    """The SDK's read stream over a descriptor."""

    def __init__(self, descriptor: int, refuse: Callable[[RequestId | None, int, str], None]) -> None:
        self._descriptor = descriptor
        self._refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(_READ_AHEAD)
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def end(self) -> None:
        """As if the client had closed its end."""
        self._items.put_nowait(None)

    async def receive(self) -> SessionMessage | Exception:
        """The next message. Raises anyio.EndOfStream."""
        while True:
            line = await self._items.get()
            if line is None:
                self._items.put_nowait(None)
                raise anyio.EndOfStream
            self._room.release()
            if (message := self._parsed(line)) is not None:
                return message

    def _parsed(self, line: bytes) -> SessionMessage | None:
        if len(line) > MAX_MESSAGE_BYTES:
            self._refuse(None, INVALID_REQUEST, f"Message larger than {MAX_MESSAGE_BYTES} bytes")
            return None
        problem = "not a JSON-RPC message that this server can read"
        try:
            data = read_json(line)
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            # The SDK's models take a request whose id is no id for a notification, and its sender would wait for ever.
            if not (isinstance(message, JSONRPCNotification) and isinstance(data, dict) and "id" in data):
                return SessionMessage(message)
        except Ambiguous as reason:
            problem = str(reason)
        except ValidationError:
            pass
        if line.strip():
            self._refuse(*_refusal(line, problem))
        return None

    def _read(self) -> None:
        buffer = bytearray()
        searched = 0
        while True:
            try:
                chunk = os.read(self._descriptor, _CHUNK)
            except OSError:
                chunk = b""
            buffer += chunk
            while (end := buffer.find(b"\n", searched)) >= 0:
                self._hand_over(bytes(buffer[:end]))
                del buffer[: end + 1]
                searched = 0
            searched = len(buffer)
            if len(buffer) > MAX_MESSAGE_BYTES + _CHUNK:
                del buffer[MAX_MESSAGE_BYTES + 1 :]  # enough to know, when its end comes, that it was too long
                searched = len(buffer)
            if not chunk:
                self._hand_over(bytes(buffer) if buffer.strip() else None)
                if buffer.strip():
                    self._hand_over(None)
                return

    def _hand_over(self, line: bytes | None) -> None:
        self._room.acquire()
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._items.put_nowait, line)

    async def aclose(self) -> None: ...

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None) -> None:
        await self.aclose()


class _Writer:
    """The SDK's write stream over a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.on_broken: Callable[[], None] = lambda: None
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._unwritten = 0
        self._broken = False
        self._written = asyncio.Event()
        threading.Thread(target=self._write, name="stdout", daemon=True).start()

    async def send(self, item: SessionMessage, /) -> None:
        """Queue a message; waits only while the client is far behind. Raises anyio.BrokenResourceError when it is gone."""
        if self._broken:
            raise anyio.BrokenResourceError
        self._put(_line(item))
        while self._unwritten > _MOST_UNWRITTEN and not self._broken:
            self._written.clear()
            await self._written.wait()

    def refuse(self, request_id: RequestId | None, code: int, message: str) -> None:
        """Answer what could not become a request."""
        error = JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))
        self._put(error.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")

    async def drain(self) -> None:
        """Wait until everything is written, but not for a client that has closed its end and does not read either."""
        with anyio.move_on_after(_LAST_WORDS_SECONDS):
            while self._unwritten and not self._broken:
                self._written.clear()
                await self._written.wait()

    def _put(self, line: bytes) -> None:
        self._unwritten += len(line)
        self._lines.put(line)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            rest, broken = memoryview(line), False
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                broken = True
            try:
                self._loop.call_soon_threadsafe(self._wrote, len(line), broken)
            except RuntimeError:
                return  # the loop has ended
            if broken:
                return

    def _wrote(self, size: int, broken: bool) -> None:
        self._unwritten -= size
        self._written.set()
        if broken and not self._broken:
            self._broken = True
            _log.warning("the client closed its end of standard output")
            self.on_broken()

    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None) -> None:
        await self.aclose()


def _line(item: SessionMessage) -> bytes:
    message = item.message
    try:
        text = message.model_dump_json(by_alias=True, exclude_unset=True)
    except PydanticSerializationError:  # a text that UTF-8 cannot express; without an answer the client would wait for ever
        _log.exception("a message cannot be written")
        known = message.id if isinstance(message, JSONRPCResponse) else None
        error = JSONRPCError(jsonrpc="2.0", id=known, error=ErrorData(code=INTERNAL_ERROR, message="The answer cannot be written as JSON"))
        text = error.model_dump_json(by_alias=True, exclude_unset=True)
    return text.encode() + b"\n"


def _refusal(line: bytes, problem: str) -> tuple[RequestId | None, int, str]:
    """Id, code and text of the answer to a line that is no message."""
    try:
        data: object = json.loads(line)
    except (ValueError, RecursionError):
        return None, PARSE_ERROR, "Parse error"
    found = cast("dict[str, object]", data).get("id") if isinstance(data, dict) else None
    return found if _can_be_repeated(found) else None, INVALID_REQUEST, f"Invalid Request: {problem}"


def _can_be_repeated(found: object) -> TypeGuard[RequestId]:
    """Whether a value is an id that an answer can carry: UTF-8 has no lone surrogates."""
    if isinstance(found, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in found)
    return isinstance(found, int) and not isinstance(found, bool)
