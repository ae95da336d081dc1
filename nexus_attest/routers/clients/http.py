"""The one request of a call, with httpx. Imported when a session is opened."""

import ssl
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from nexus_attest.routers.adapter import CallIdentity
from nexus_attest.routers.addresses import resolve
from nexus_attest.routers.answers import read_object
from nexus_attest.routers.errors import CallFailed, CallOutcome
from nexus_attest.routers.settings import HttpSettings
from nexus_control import __version__
from nexus_control.plan import Step
from nexus_control.run_json import run_json

__all__ = ["HttpClient", "HttpRequest", "header_text", "trusting"]

_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def header_text(text: str) -> str:
    """A text as a header value: everything but visible ASCII is percent-encoded, so that no two texts become one value."""
    return quote(text, safe=_VISIBLE)


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """A TLS configuration that checks certificates, against a file or the public ones. Raises CallFailed for an unusable file."""
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError):
        raise CallFailed("CA_FILE_INVALID", f"No certificates can be read from {ca_file}", outcome=CallOutcome.NOT_SENT) from None


class HttpClient:
    """Makes the requests of one session. Has no connection of its own."""

    def __init__(self, settings: HttpSettings, ca_file: Path | None) -> None:
        self.settings = settings
        self.base_url = httpx.URL(settings.base_url.rstrip("/") + "/")
        self.trust = trusting(ca_file) if self.base_url.scheme == "https" else ssl.create_default_context()

    def request(self, step: Step, args: Mapping[str, object], identity: CallIdentity, headers: Mapping[str, str]) -> "HttpRequest":
        """What is sent for a step. Nothing is sent yet."""
        own = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Idempotency-Key": header_text(identity.idempotency_key),
            "User-Agent": f"nexus-attest/{__version__}",
        }
        if identity.execution_id is not None:
            own["Nexus-Execution-Id"] = header_text(identity.execution_id)
        # Percent-encoding changes no name that `check` lets through; the URL is safe even if that changes.
        url = f"{self.base_url}{quote(step.tool, safe='')}/{quote(step.method, safe='')}"
        return HttpRequest(self, httpx.Request("POST", url, headers={**headers, **own}, content=run_json(dict(args)).encode()))


class HttpRequest:
    """One request; `outcome` is what is certain about it if it ends now."""

    def __init__(self, client: HttpClient, request: httpx.Request) -> None:
        self._client = client
        self._request = request
        self.outcome = CallOutcome.NOT_SENT

    async def send(self, seconds: float) -> dict[str, Any]:
        """The JSON object of the answer. Raises CallFailed for every other end.

        A connection must stand within `seconds`. The rest has no limit here: a limit per read does not hold against a slow drip, and the
        caller's ends all of it.
        """
        request, host = self._request, self._request.url.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        request.extensions = {"sni_hostname": host, "trace": self._trace, "timeout": {"connect": seconds}}
        reasons: list[str] = []
        for address in await resolve(host, port, allow_private=self._client.settings.allow_private):
            request.url = request.url.copy_with(host=address)
            async with httpx.AsyncHTTPTransport(verify=self._client.trust, trust_env=False, retries=0) as transport:
                try:
                    async with aclosing(await transport.handle_async_request(request)) as response:
                        return await self._answer(response)
                except httpx.ConnectTimeout:
                    raise CallFailed("TIMEOUT", f"No connection to {host} in time", outcome=CallOutcome.NOT_SENT) from None
                except httpx.TransportError as problem:
                    if self.outcome is not CallOutcome.NOT_SENT:
                        raise CallFailed("CONNECTION_LOST", f"The connection to {host} was lost", outcome=self.outcome) from problem
                    reasons.append(str(problem) or type(problem).__name__)
        raise CallFailed("CONNECTION_FAILED", f"No connection to {host}: {reasons[-1]:.200}", outcome=CallOutcome.NOT_SENT)

    async def _trace(self, event: str, info: object) -> None:  # noqa: ARG002 - the signature of httpcore's trace extension
        if event.endswith("send_request_headers.started"):
            self.outcome = CallOutcome.UNKNOWN

    async def _answer(self, response: httpx.Response) -> dict[str, Any]:
        status = response.status_code
        if not 200 <= status <= 299:
            outcome = CallOutcome.FAILED if 400 <= status <= 499 else CallOutcome.UNKNOWN
            raise CallFailed("HTTP_ERROR", f"The service answered with status {status}", outcome=outcome)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            message = "The service sent a compressed body, which it was asked not to do"
            raise CallFailed("INVALID_JSON", message, outcome=CallOutcome.UNKNOWN)
        limit = self._client.settings.max_output_bytes
        length = response.headers.get("Content-Length", "0")
        body = bytearray()
        if not length.isdecimal() or len(length) > 18 or int(length) > limit:
            raise _too_large(limit)
        async for chunk in cast("httpx.AsyncByteStream", response.stream):  # that of an asynchronous transport
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
        return read_object(bytes(body), said="The service sent", code="INVALID_JSON")


def _too_large(limit: int) -> CallFailed:
    return CallFailed("OUTPUT_TOO_LARGE", f"The service sent more than {limit} bytes", outcome=CallOutcome.UNKNOWN)
