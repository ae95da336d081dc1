"""The streamable HTTP transport, on loopback unless callers prove who they are."""

import ipaddress
import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server import Server
from starlette.applications import Starlette

from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.stdio import MAX_MESSAGE_BYTES

__all__ = ["PATH", "HttpAddress", "http_app", "listen", "parse_address", "serve_http"]

PATH = "/mcp"
_BACKLOG = 2048

_log = logging.getLogger("nexus_attest.server")


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where to listen; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def url(self, port: int) -> str:
        """The address of the server when it listens on `port`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}{PATH}"


def parse_address(text: str) -> HttpAddress:
    """`127.0.0.1:8731`, `localhost:0`, `[::1]:8731`. Raises ServerConfigError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ServerConfigError(f"{text!r:.100} is no address; write HOST:PORT, such as 127.0.0.1:8731 or [::1]:8731")
    return HttpAddress(host, int(port))


def http_app(server: Server[Any], address: HttpAddress) -> Starlette:
    """The ASGI application. Raises ServerConfigError for an address that others can reach."""
    if not address.is_loopback:
        raise ServerConfigError(f"{address.host} can be reached from outside, and nobody would have to say who they are; use 127.0.0.1")
    return server.streamable_http_app(host=address.host, streamable_http_path=PATH, max_request_body_size=MAX_MESSAGE_BYTES)


def listen(address: HttpAddress) -> socket.socket:
    """A socket on which clients may connect from now on. Raises ServerConfigError when the address cannot be used."""
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as problem:
        raise ServerConfigError(f"cannot listen on {address.host}:{address.port}: {problem.strerror or problem}") from None


async def serve_http(app: Starlette, listener: socket.socket, address: HttpAddress) -> None:
    """Serve clients until cancelled."""
    url = address.url(listener.getsockname()[1])
    _log.info("listening on %s", url, extra={"facts": {"url": url}})
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="on")
    await _Uvicorn(config).serve(sockets=[listener])


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: it would wait for open connections, which never end by themselves."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
