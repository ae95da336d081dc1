"""JSON over HTTP to a ledger node, with or without a record of what was asked and answered.

httpx is imported inside the methods, and its class looked up at each call.
"""

import asyncio
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from nexus_attest.attestation.members import compact_utc
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.integrity import content_digest, prefixed, sha256_digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    import httpx

    from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore

__all__ = ["DclTransport", "ExchangeRecord", "HttpxTransport", "JsonRpcTransport", "fetch"]

_LATEST: ContextVar["tuple[object, ExchangeRecord | None] | None"] = ContextVar("nexus_attest_latest_exchange", default=None)
"""In each task: the transport that it used last, and the exchange."""

_HEADERS = {"content-type": "application/json"}
_MAX_ANSWER_BYTES = 32 * 1024 * 1024


@runtime_checkable
class JsonRpcTransport(Protocol):
    """Posts a payload and gives the decoded answer; raises what its HTTP library raises."""

    async def post_json(self, url: str, payload: dict[str, Any]) -> dict[str, Any]: ...


class HttpxTransport:
    """Posts with httpx. `timeout` is in seconds, for a whole request. An answer may have 32 MiB, far more than any has."""

    def __init__(self, timeout: float = 30.0) -> None:
        self._timeout = timeout

    async def post_json(self, url: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Raises httpx.HTTPError for no answer, one that is too large and an error status, ValueError for an answer that is no JSON."""
        response = await _post(url, payload, self._timeout)
        response.raise_for_status()
        return response.json()


@dataclass(frozen=True)
class ExchangeRecord:
    """One question and its answer by their digests; any strings."""

    request_digest: str
    response_digest: str
    timestamp: str

    def to_dict(self) -> dict[str, str]:
        """All three fields."""
        return {**self.content_dict(), "timestamp": self.timestamp}

    def content_dict(self) -> dict[str, str]:
        """Both digests."""
        return {"request_digest": self.request_digest, "response_digest": self.response_digest}

    def content_digest(self) -> str:
        """Prefixed digest of both digests; the time has no influence."""
        return prefixed(content_digest(self.content_dict()))

    def exchange_digest(self) -> str:
        """The same as `content_digest`."""
        return self.content_digest()


class DclTransport:
    """Posts with httpx and records each exchange, in `store` when one is given; with `store_bodies` its bytes too.

    An answer with an error status is recorded before the error is raised. Concurrent calls keep their records apart: a task sees the
    exchange of its own latest call, one that made none the latest of all.
    """

    def __init__(
        self,
        timeout: float = 30.0,
        now_fn: "Callable[[], str] | None" = None,
        store: "ExchangeStore | None" = None,
        store_bodies: bool = False,
    ) -> None:
        self._timeout = timeout
        self._now = compact_utc if now_fn is None else now_fn
        self._store = store
        self._store_bodies = store_bodies
        self._latest: ExchangeRecord | None = None

    @property
    def last_exchange(self) -> ExchangeRecord | None:
        """The latest exchange, None before the first one and after a call that got no answer."""
        mine = _LATEST.get()
        return self._latest if mine is None or mine[0] is not self else mine[1]

    @property
    def last_exchange_digest(self) -> str | None:
        """Its content digest."""
        record = self.last_exchange
        return None if record is None else record.content_digest()

    async def post_json(self, url: str, payload: dict[str, Any]) -> dict[str, Any]:
        """As HttpxTransport. Raises StoreError or OSError when the exchange cannot be recorded."""
        self._note(None)
        envelope = {"url": url, "payload": payload}
        response = await _post(url, payload, self._timeout)
        body = cast("bytes", response.content)
        record = ExchangeRecord(prefixed(content_digest(envelope)), prefixed(sha256_digest(body)), self._now())
        self._note(record)
        if self._store is not None:
            if self._store_bodies:
                self._store.put(record, request_body=canonical_json_bytes(envelope), response_body=body)
            else:
                self._store.put(record)
        response.raise_for_status()
        return response.json()

    def _note(self, record: ExchangeRecord | None) -> None:
        self._latest = record
        _LATEST.set((self, record))


async def _post(url: str, payload: dict[str, Any], timeout: float) -> Any:
    import httpx  # the HTTP library, loaded where it is used

    async with _within(timeout), httpx.AsyncClient(timeout=timeout) as client:
        client.event_hooks = {"request": [_ask_for_plain], "response": [_limit]}
        return await client.post(url, json=payload, headers=_HEADERS)


async def _ask_for_plain(request: "httpx.Request") -> None:
    """So that what is counted are the bytes that come: a small compressed answer can be a very large one."""
    request.headers["accept-encoding"] = "identity"


async def _limit(response: "httpx.Response") -> None:
    """End an answer that is compressed unasked, and one with more than so many bytes when they come."""
    import httpx  # as above

    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx.DecodingError("an answer that is compressed, which was not asked for")
    whole = cast("httpx.AsyncByteStream", response.stream)

    class Limited(httpx.AsyncByteStream):
        async def __aiter__(self) -> "AsyncIterator[bytes]":
            size = 0
            async for part in whole:
                size += len(part)
                if size > _MAX_ANSWER_BYTES:
                    raise httpx.ReadError(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
                yield part

        async def aclose(self) -> None:
            await whole.aclose()

    response.stream = Limited()


@asynccontextmanager
async def _within(seconds: float) -> "AsyncGenerator[None]":
    """A limit for all phases of a request together. Raises httpx.ReadTimeout."""
    import httpx  # as above

    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise httpx.ReadTimeout(f"no whole answer within {seconds:g} seconds") from None


async def fetch(url: str, limit: int, timeout: float = 30.0) -> bytes:
    """What is at a URL, at most `limit` bytes, within `timeout` seconds.

    Raises httpx.HTTPError, for more bytes, an error status and a redirect too.
    """
    import httpx  # as above

    content = bytearray()
    async with _within(timeout), httpx.AsyncClient(timeout=timeout) as client, client.stream("GET", url) as response:
        response.raise_for_status()
        async for part in response.aiter_bytes():
            content += part
            if len(content) > limit:
                raise httpx.ReadError(f"more than {limit} bytes")
    return bytes(content)
