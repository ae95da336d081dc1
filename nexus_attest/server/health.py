"""Whether the server lives and can work, for those who start, stop and route to it. Asked without a token, so the answers say no more.

    GET /healthz    the process answers: 200
    GET /readyz     it can read its store: 200, otherwise 503

A store is looked at once a second at most, whoever asks how often, in a thread of its own: eight calls that are busy with the store delay
no answer, and a disk that hangs is told as 503 instead of holding one up.
"""

import time
from collections.abc import Callable

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nexus_control.errors import NexusError

__all__ = ["LIVE_PATH", "READY_PATH", "health_routes"]

LIVE_PATH = "/healthz"
READY_PATH = "/readyz"

_FRESH_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0
_HEADERS = {"Cache-Control": "no-store"}


def health_routes(read: Callable[[], object], *, clock: Callable[[], float] = time.monotonic) -> list[Route]:
    """The two routes. `read` reads something of the store and raises a NexusError when that cannot be done."""
    readiness = _Readiness(read, clock)

    async def live(_: Request) -> Response:
        return _answer(ok=True)

    async def ready(_: Request) -> Response:
        return _answer(ok=await readiness.ask())

    return [Route(LIVE_PATH, live), Route(READY_PATH, ready)]


def _answer(*, ok: bool) -> Response:
    return JSONResponse({"status": "ok" if ok else "unavailable"}, 200 if ok else 503, _HEADERS)


class _Readiness:
    def __init__(self, read: Callable[[], object], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._limiter = anyio.CapacityLimiter(1)
        self._asked = float("-inf")
        self._ok = False
        self._looking = False

    async def ask(self) -> bool:
        if self._clock() - self._asked < _FRESH_SECONDS:
            return self._ok
        ok = False
        with anyio.move_on_after(_PATIENCE_SECONDS):
            async with self._limiter:  # one looks, the others wait for what it finds
                if self._clock() - self._asked < _FRESH_SECONDS:
                    return self._ok
                if self._looking:  # still, since somebody's patience ended: no further thread for a disk that hangs
                    return False
                ok = await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True)
                self._asked, self._ok = self._clock(), ok
        return ok

    def _look(self) -> bool:
        self._looking = True  # not sooner: a look whose patience ends before a thread has begun it never happens
        try:
            self._read()
        except NexusError:
            return False
        finally:
            self._looking = False
        return True
