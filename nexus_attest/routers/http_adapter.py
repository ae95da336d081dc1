"""Tools that are a service: one POST per call, a JSON object there and a JSON object back.

    POST <base_url>/<tool>/<method>
    body      the arguments, as JSON
    headers   Content-Type: application/json   Accept: application/json   Accept-Encoding: identity
              Idempotency-Key: <run id>/<step id>   Nexus-Execution-Id: <execution id> (when there is one); characters other than
              visible ASCII are percent-encoded in both; and the headers of `headers_env`
    success   a status from 200 to 299, and a body that is one JSON object, within the limit

Redirects are answers like any other: they are not followed. A status from 400 to 499 says that it failed, after any other failure that
comes after the first byte was sent nobody knows what the service did. Proxy variables of the environment are ignored. Each call is a
connection of its own, to an address that was judged (`nexus_attest.routers.addresses`).

`httpx` is imported when the first session is opened.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from nexus_attest.routers.adapter import Call, CallLimit, CallResult
from nexus_attest.routers.background import Background
from nexus_attest.routers.configured import ConfiguredAdapter
from nexus_attest.routers.credentials import Credentials
from nexus_attest.routers.errors import CallFailed, CallOutcome
from nexus_attest.routers.settings import HttpSettings, McpHttpSettings
from nexus_control.plan import Step

__all__ = ["HttpAdapter", "require_certificates"]


def require_certificates(settings: HttpSettings | McpHttpSettings) -> Path | None:
    """The file of certificates to trust, None for the public ones. Raises CallFailed when it is not there; nothing was sent."""
    if settings.ca_file is None:
        return None
    path = settings.base_dir / settings.ca_file
    if not path.is_file():
        raise CallFailed("CA_FILE_INVALID", f"The file of certificates is not there: {path}", outcome=CallOutcome.NOT_SENT)
    return path


_CONNECT_SHARE = 0.9
"""Of the time of a call, for its connection. Below 1, because httpx closes what does not stand in time, but not what is cancelled."""


class HttpAdapter(ConfiguredAdapter[HttpSettings]):
    """Posts to the service of its settings, once per call."""

    def prepare(self, credentials: Credentials) -> None:
        """Raises CallFailed when a variable of `headers_env` is not set, or the file of certificates is not there."""
        credentials.headers(self.settings.headers_env)
        require_certificates(self.settings)

    def open(self, steps: Sequence[Step], limit: CallLimit) -> "HttpSession":  # noqa: ARG002 - a connection per call, nothing to open
        """A session without a connection."""
        return HttpSession(self)


class HttpSession:
    """The calls of one run."""

    details: Mapping[str, object] = MappingProxyType({})

    def __init__(self, adapter: HttpAdapter) -> None:
        from nexus_attest.routers.clients.http import HttpClient  # httpx

        self._adapter = adapter
        self._credentials = Credentials(adapter.settings)
        self._client = HttpClient(adapter.settings, require_certificates(adapter.settings))
        self._background = Background("nexus-attest http")

    def close(self) -> None:
        """End the thread; a request under way is broken off."""
        self._background.close()

    def call(self, call: Call) -> CallResult:
        """The object that the service answered with. Raises CallFailed for every other end."""
        self._adapter.check(call.step)
        headers = self._credentials.headers(self._adapter.settings.headers_env)
        args = self._credentials.resolve(call.step.args)
        request = self._client.request(call.step, args, call.identity, headers)
        answer = self._background.run(request.send(_CONNECT_SHARE * call.limit.remaining()), call.limit, lambda: request.outcome)
        output, redacted = self._credentials.redactor.output(answer)
        return CallResult(output=output, redacted=redacted)
