"""What an HTTP request passes before the SDK reads it: it says nothing twice, and no stream outlives the token that opened it.

Of two values for one name every reader picks one, and whoever checks may pick another than whoever acts. So a header that decides
something, and any member of the JSON in the body, may be there once.
"""

import re
from http import HTTPStatus

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.types import INVALID_REQUEST
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nexus_attest.server.strict_json import ambiguity
from nexus_control.events import utc_now

__all__ = ["Gate"]

_DECISIVE = ("host", "origin", "authorization", "content-type", "content-length", "last-event-id")
_DECISIVE_PREFIX = "mcp-"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@]+)(:[0-9]{1,5})?")


class Gate:
    """Around the application that handles requests whose sender is known and whose body comes in one piece."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = Headers(scope=scope)
        message = await receive()
        problem = _of_headers(headers) or ambiguity(message.get("body", b""))
        if problem is not None:
            await _refusal(problem)(scope, receive, send)
            return
        first: list[Message] = [message]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        seconds = _seconds_left(scope, headers)
        if seconds is None:
            await self._app(scope, replay, send)
        else:
            await _within(seconds, self._app, scope, replay, send)


def _of_headers(headers: Headers) -> str | None:
    names = headers.keys()
    for name in sorted(set(names)):
        if (name in _DECISIVE or name.startswith(_DECISIVE_PREFIX)) and len(headers.getlist(name)) > 1:
            return f"the header {name} is there more than once"
    return None if _HOST.fullmatch(headers.get("host", "")) else "the header host is no name with a port"


def _refusal(problem: str) -> JSONResponse:
    error = {"code": INVALID_REQUEST, "message": f"Invalid Request: {problem}"}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, HTTPStatus.BAD_REQUEST)


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
