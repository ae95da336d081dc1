"""Which addresses a connection may go to: the name is resolved once, each address is judged, and the connection goes to a judged one.

So a public name cannot lead into the operator's own network, also when it resolves differently a moment later (DNS rebinding).
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from nexus_attest.routers.errors import CallFailed, CallOutcome
from nexus_attest.urls import is_loopback_name

__all__ = ["is_public", "resolve"]

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are the IPv4 address that is reached."""

_NEVER_PUBLIC = (
    IPv4Network("192.0.0.0/24"),  # RFC 6890: assigned to protocols
    IPv6Network("::/96"),  # RFC 4291, section 2.5.5.1: stands for an IPv4 address
    IPv6Network("64:ff9b:1::/48"),  # RFC 8215: the translator of one's own network
    IPv6Network("fec0::/10"),  # RFC 3879: site-local
)
"""What `ipaddress` takes for global, in some versions of Python or in all."""


def is_public(address: str) -> bool:
    """Whether an address, and each IPv4 address that it stands for, is globally reachable unicast."""
    return all(
        part.is_global and not part.is_multicast and not any(part in network for network in _NEVER_PUBLIC)
        for part in _parts(ip_address(address))
    )


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host that a connection may go to, at least one.

    All of them with `allow_private`, loopback ones for a host that is written as loopback, else public ones. Raises CallFailed with
    CONNECTION_FAILED when the host has no address, ADDRESS_NOT_ALLOWED when it has none of those, OS_ERROR when it cannot be looked up
    for want of a thread; nothing was sent.
    """
    addresses = await _lookup(host, port)
    if not addresses:
        raise CallFailed("CONNECTION_FAILED", f"The host {host:.200} has no address", outcome=CallOutcome.NOT_SENT)
    if allow_private:
        return addresses
    own = is_loopback_name(host)
    if allowed := [address for address in addresses if (ip_address(address).is_loopback if own else is_public(address))]:
        return allowed
    message = f"The host {host:.200} has no public address; allow_private = true in the adapter file lets it have another one"
    raise CallFailed("ADDRESS_NOT_ALLOWED", message, outcome=CallOutcome.NOT_SENT)


async def _lookup(host: str, port: int) -> list[str]:
    """The addresses of a host, none when it cannot be resolved.

    In a daemon thread: a resolver can neither be cancelled nor told how long to try, and nobody may have to wait for it at the end.
    """
    try:
        return [str(ip_address(host))]
    except ValueError:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()
        resolver = threading.Thread(target=_ask_resolver, args=(host, port, loop, found), name="nexus-attest resolver", daemon=True)
        try:
            resolver.start()
        except RuntimeError as problem:
            message = f"The host {host:.200} cannot be looked up: {problem}"
            raise CallFailed("OS_ERROR", message, outcome=CallOutcome.NOT_SENT) from None
        return await found


def _ask_resolver(host: str, port: int, loop: asyncio.AbstractEventLoop, found: "asyncio.Future[list[str]]") -> None:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        entries = []
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(lambda: None if found.done() else found.set_result(addresses))


def _parts(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped  # an IPv4 connection; what the IPv6 form is classified as differs between Python versions
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
