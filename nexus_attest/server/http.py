"""The streamable HTTP transport, on loopback unless callers prove who they are."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import uvicorn
from mcp.server import Server
from mcp.server.auth.routes import create_protected_resource_routes
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

from nexus_attest.server.callers import SCOPES
from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.gate import Gate
from nexus_attest.server.stdio import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from nexus_attest.server.tokens import TokenAccess

__all__ = ["PATH", "HttpAddress", "http_app", "listen", "parse_address", "serve_app", "serve_http"]

PATH = "/mcp"
_BACKLOG = 2048
_LOOPBACK = ("127.0.0.1:*", "localhost:*", "[::1]:*")

_log = logging.getLogger("nexus_attest.server")


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where to listen; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it; a proxy among them may bring requests from elsewhere."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" and all(map(_is_loopback, _resolved(self.host)))

    def url(self, port: int) -> str:
        """The address of the server when it listens on `port`."""
        return f"http://{_in_url(self.host)}:{port}{PATH}"


def _resolved(host: str) -> list[str]:
    """What a name stands for on this machine; nothing that is loopback when that is not known."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError:
        return ["0.0.0.0"]


def _is_loopback(number: str) -> bool:
    return ipaddress.ip_address(number).is_loopback


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def parse_address(text: str) -> HttpAddress:
    """`127.0.0.1:8731`, `localhost:0`, `[::1]:8731`. Raises ServerConfigError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65_535:
        raise ServerConfigError(f"{text!r:.100} is no address; write HOST:PORT, such as 127.0.0.1:8731 or [::1]:8731")
    return HttpAddress(host, int(port))


def http_app(server: Server[Any], address: HttpAddress, access: "TokenAccess | None" = None) -> Starlette:
    """The ASGI application; with `access` every request needs a token. Raises ServerConfigError for open access from elsewhere.

    Pages of other sites cannot use it: the headers Host and Origin must name this machine, the address, or the resource of `access`.
    Without `access` a request that a proxy passed on is refused: nobody knows from where, or for whom.
    """
    if access is None and not address.is_loopback:
        raise ServerConfigError(
            f"{address.host} can be reached from outside, and nobody would have to say who they are; "
            "use 127.0.0.1, or give --issuer, --audience and --jwks"
        )
    names = [*_LOOPBACK, f"{_in_url(address.host)}:*"]
    settings = None if access is None else _settings(access)
    app = server.streamable_http_app(
        host=address.host,
        streamable_http_path=PATH,
        max_request_body_size=MAX_MESSAGE_BYTES,
        transport_security=TransportSecuritySettings(
            allowed_hosts=[*names, *([] if access is None else [access.host])],
            allowed_origins=[*(f"http://{name}" for name in names), *([] if access is None else [access.origin])],
        ),
        auth=settings,
        token_verifier=access,
    )
    limited = server.session_manager.asgi_app
    limited.app = Gate(
        limited.app, takes_forwarded=access is not None
    )  # within the SDK's limit for bodies, which hands them over in one piece
    if settings is not None and settings.resource_server_url is not None:
        # The SDK's own document would tell only of the scope that every request needs.
        app.router.routes[:0] = create_protected_resource_routes(
            settings.resource_server_url, [settings.issuer_url], scopes_supported=list(SCOPES), resource_name="nexus-attest"
        )
    return app


def _settings(access: "TokenAccess") -> AuthSettings:
    """From plain texts, because a URL object would get a slash that is not in the issuer's name."""
    return AuthSettings.model_validate(
        {
            "issuer_url": access.issuer,
            "resource_server_url": access.resource,
            "required_scopes": ["read"],
            "validate_token_resource": True,
        }
    )


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
    await serve_app(app, listener, lifespan="on")


async def serve_app(app: Starlette, listener: socket.socket, *, lifespan: Literal["on", "off"] = "off") -> None:
    """Serve an application until cancelled; with its `lifespan` if it has one."""
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan=lifespan)
    server = _Uvicorn(config)
    try:
        await server.serve(sockets=[listener])
    finally:
        for listening in server.servers:  # which a server that is cancelled leaves open, as it does connections
            listening.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()  # what is being answered is answered


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: it would wait for open connections, which never end by themselves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.servers: list[asyncio.Server] = []

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
