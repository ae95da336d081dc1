"""What a client session has sent and its server has not taken yet: a stream of the SDK, with a bound that those of the SDK do not have.

Whoever sends never waits, so that a server which takes nothing cannot hold up the caller. Nearly all that can pile up are answers to
questions of the server: one that goes on asking without taking them is given up. Imported when a session is opened.
"""

import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import checkpoint
from mcp.shared.message import SessionMessage

__all__ = ["Outbox"]

_MOST_MESSAGES = 1000


class Outbox:
    """The sending end for the session, and an iterator over what it sent for the transport: each message, and its text in UTF-8.

    `give_up` is called, once, for a message that is sent while more than `most_bytes`, or too many, wait. It is the last one taken in.
    """

    def __init__(self, give_up: Callable[[], None], *, most_bytes: int) -> None:
        self._give_up = give_up
        self._most_bytes = most_bytes
        self._bytes = 0
        self._sent, self._to_take = anyio.create_memory_object_stream[tuple[SessionMessage, bytes]](math.inf)

    async def send(self, message: SessionMessage, /) -> None:
        """Add a message. Raises anyio.ClosedResourceError or BrokenResourceError when nothing more can be sent."""
        await checkpoint()
        text = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        self._sent.send_nowait((message, text))
        waited, self._bytes = self._bytes, self._bytes + len(text)
        if waited > self._most_bytes or self._sent.statistics().current_buffer_used > _MOST_MESSAGES:
            self._sent.close()
            self._give_up()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[SessionMessage, bytes]:
        message, text = await self._to_take.__anext__()
        self._bytes -= len(text)
        return message, text

    def close(self) -> None:
        """Take in nothing more, and drop what was not taken. Not while somebody takes from it."""
        self._sent.close()
        self._to_take.close()

    async def aclose(self) -> None:
        """The end of the session: take in nothing more. What was sent can still be taken."""
        self._sent.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()
