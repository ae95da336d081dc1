"""What configuration files may name as an address of a server."""

from ipaddress import ip_address
from urllib.parse import urlsplit

__all__ = ["is_bare_url", "is_loopback_name", "is_private_way", "same_server"]

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def is_loopback_name(host: str) -> bool:
    """Whether a host is written as this host itself: `localhost` or a loopback address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_bare_url(url: str) -> bool:
    """Whether it names a host, and has no credentials, query or fragment: an address is printed when its server fails."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a port that is no number
    except ValueError:
        return False
    return bool(parts.hostname) and parts.username is None and parts.password is None and "?" not in url and "#" not in url


def is_private_way(url: str) -> bool:
    """Whether nobody between here and there can read or change what is said: TLS, or this host itself."""
    parts = urlsplit(url)
    return parts.scheme in ("https", "wss") or is_loopback_name(parts.hostname or "")


def same_server(url: str) -> tuple[str, str, int | None, str]:
    """What is equal for bare URLs that name the same in other words: case of the host, its last dot, default port, slashes at the end."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme), parts.path.rstrip("/")
