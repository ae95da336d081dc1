"""The streamable HTTP transport of an MCP server: the SDK's, over connections to judged addresses, with bounded bodies.

The SDK follows a redirect that stays on the origin of the URL (a slash at the end, say); any other one ends the request. Imported when
a session is opened.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from ssl import SSLContext
from typing import Any, cast

import anyio
import httpx2
from mcp.client.streamable_http import streamable_http_client

from nexus_attest.routers.addresses import resolve
from nexus_attest.routers.clients.http import trusting
from nexus_attest.routers.clients.mcp_outbox import Outbox
from nexus_attest.routers.settings import McpHttpSettings
from nexus_control import __version__

__all__ = ["HttpServer"]


class HttpServer:
    """One server behind a URL. Use `connect` once."""

    def __init__(self, settings: McpHttpSettings, *, headers: Mapping[str, str], ca_file: Path | None, max_message_bytes: int) -> None:
        self.problem: str | None = None
        """Why the connection was given up: OUTPUT_TOO_LARGE or INVALID_OUTPUT; None while it was not, and when the server left."""

        self._settings = settings
        self._headers = {**headers, "Accept-Encoding": "identity", "User-Agent": f"nexus-attest/{__version__}"}
        self._trust = trusting(ca_file)
        self._limit = max_message_bytes

    def errors(self) -> str:
        """Nothing: the server is somebody else's process."""
        return ""

    def discard(self) -> None:
        """Nothing: there is no process of ours."""

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[tuple[Any, Outbox]]:
        """The streams of a client session. Raises httpx2.WriteError when the server was given up because it takes no answers."""
        transport = _Judged(self, self._trust, allow_private=self._settings.allow_private, limit=self._limit)

        def give_up() -> None:
            self.problem = "OUTPUT_TOO_LARGE"
            session.cancel()  # and what would ask the server to end the session, and wait for that

        with closing(Outbox(give_up, most_bytes=self._limit)) as outbox, anyio.CancelScope() as session:
            # No timeouts here: the caller's limit ends everything, however slowly it goes on.
            async with (
                httpx2.AsyncClient(
                    transport=transport, headers=self._headers, timeout=None, trust_env=False, follow_redirects=False
                ) as client,
                streamable_http_client(self._settings.url, http_client=client, max_sse_event_size=self._limit) as (incoming, outgoing),
                anyio.create_task_group() as tasks,
            ):

                async def send() -> None:
                    async for message, _ in outbox:
                        await outgoing.send(message)  # ends when the server has taken an answer; for a request of ours, at once

                tasks.start_soon(send)
                try:
                    yield incoming, outbox
                finally:
                    tasks.cancel_scope.cancel()
        if session.cancelled_caught:
            raise httpx2.WriteError("the server takes no answers")


class _Judged(httpx2.AsyncBaseTransport):
    """Connects to addresses that were judged, and gives up on bodies that are too large or compressed."""

    def __init__(self, server: HttpServer, trust: SSLContext, *, allow_private: bool, limit: int) -> None:
        self._server = server
        self._inner = httpx2.AsyncHTTPTransport(verify=trust, trust_env=False, retries=0)
        self._allow_private = allow_private
        self._limit = limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        problem = httpx2.ConnectError("no address")
        for address in await resolve(url.host, port, allow_private=self._allow_private):
            # The request itself keeps its URL, for relative redirects.
            sent = httpx2.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": url.host},
            )
            try:
                response = await self._inner.handle_async_request(sent)
            except httpx2.ConnectError as found:
                problem = found
                continue
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                self._server.problem = "INVALID_OUTPUT"
                raise httpx2.ReadError("compressed")
            if not response.headers.get("Content-Type", "").lower().startswith("text/event-stream"):
                body = cast("httpx2.AsyncByteStream", response.stream)  # that of an asynchronous transport
                response.stream = _Bounded(body, self._server, self._limit)
            return response
        raise problem

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx2.AsyncByteStream):
    """A body that may be only so large. Events are bounded one by one, by the SDK."""

    def __init__(self, body: httpx2.AsyncByteStream, server: HttpServer, limit: int) -> None:
        self._body = body
        self._server = server
        self._left = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            self._left -= len(chunk)
            if self._left < 0:
                self._server.problem = "OUTPUT_TOO_LARGE"
                raise httpx2.ReadError("too large")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()
