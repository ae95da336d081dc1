"""What an HTTP request passes before the SDK reads it: it says nothing twice, comes from here, and no stream outlives its token.

Of two values for one name every reader picks one, and whoever checks may pick another than whoever acts. So a header that decides
something, and any member of the JSON in the body, may be there once. A server that asks nobody for a token is for this machine alone, so it
takes nothing that a proxy passed on.
"""

import re
from http import HTTPStatus
from typing import cast

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.types import INVALID_REQUEST
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nexus_attest.server.strict_json import Ambiguous, read_json
from nexus_control.events import utc_now

__all__ = ["Gate"]

_DECISIVE = ("host", "origin", "authorization", "content-type", "content-length", "last-event-id")
_DECISIVE_PREFIX = "mcp-"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@]+)(:[0-9]{1,5})?")


class Gate:
    """Around the application that handles requests whose sender is known and whose body comes in one piece."""

    def __init__(self, app: ASGIApp, *, takes_forwarded: bool = True) -> None:
        self._app = app
        self._takes_forwarded = takes_forwarded
        self._answering: set[tuple[str, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = Headers(scope=scope)
        message = await receive()
        if not self._takes_forwarded and (proxy := next((name for name in sorted(set(headers.keys())) if _of_proxy(name)), None)):
            await _refusal(HTTPStatus.FORBIDDEN, f"it came through a proxy ({proxy}), and without tokens only this machine is served")(
                scope, receive, send
            )
            return
        try:
            _check_headers(headers)
            request = _request_in_session(headers, read_json(message.get("body", b"")))
            if request in self._answering:
                raise Ambiguous("a request with this id is still being answered")
        except Ambiguous as problem:
            await _refusal(HTTPStatus.BAD_REQUEST, str(problem))(scope, receive, send)
            return
        if request is None:
            await self._answer(scope, headers, message, receive, send)
            return
        self._answering.add(request)
        try:
            await self._answer(scope, headers, message, receive, send)
        finally:
            self._answering.discard(request)

    async def _answer(self, scope: Scope, headers: Headers, message: Message, receive: Receive, send: Send) -> None:
        first = [message]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        seconds = _seconds_left(scope, headers)
        if seconds is None:
            await self._app(scope, replay, send)
        else:
            await _within(seconds, self._app, scope, replay, send)


def _check_headers(headers: Headers) -> None:
    for name in sorted(set(headers.keys())):
        if (name in _DECISIVE or name.startswith(_DECISIVE_PREFIX)) and len(headers.getlist(name)) > 1:
            raise Ambiguous(f"the header {name} is there more than once")
    if not _HOST.fullmatch(headers.get("host", "")):
        raise Ambiguous("the header host is no name with a port")


def _request_in_session(headers: Headers, data: object) -> tuple[str, str] | None:
    """Session and id of a request of the handshake era, where an id is good for one answer at a time; the SDK forgets the first."""
    session = headers.get("mcp-session-id")
    if session is None or not isinstance(data, dict):
        return None
    members = cast("dict[str, object]", data)
    return (session, str(members["id"])) if "method" in members and isinstance(members.get("id"), str | int) else None


def _of_proxy(name: str) -> bool:
    """Whether a header is one by which proxies tell for whom they ask (RFC 7239, RFC 9110 section 7.6.3, and what was there before)."""
    return name in ("forwarded", "via", "x-real-ip") or name.startswith("x-forwarded-")


def _refusal(status: HTTPStatus, problem: str) -> JSONResponse:
    error = {"code": INVALID_REQUEST, "message": f"Invalid Request: {problem}"}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, status)


def _seconds_left(scope: Scope, headers: Headers) -> float | None:
    """How long a stream that stays open may do so; None for requests that end by themselves, and without a token."""
    user = scope.get("user")
    if not isinstance(user, AuthenticatedUser) or user.access_token.expires_at is None:
        return None
    # The SDK refuses a header that names another method than the body.
    if scope["method"] != "GET" and headers.get("mcp-method") != "subscriptions/listen":
        return None
    return user.access_token.expires_at - utc_now().timestamp()


async def _within(seconds: float, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, and end the answer in good order when the time is over."""
    begun = ended = False

    async def follow(message: Message) -> None:
        nonlocal begun, ended
        begun = True
        ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send(message)

    with anyio.move_on_after(seconds):
        await app(scope, receive, follow)
    if not begun:
        await Response(status_code=HTTPStatus.UNAUTHORIZED)(scope, receive, send)
    elif not ended:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
