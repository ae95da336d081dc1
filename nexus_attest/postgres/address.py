"""Addresses of PostgreSQL stores: `postgresql://user@host:5432/database?sslmode=verify-full`, as libpq takes them.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS. A password in an address is used and never shown; better
places for it are PGPASSFILE, PGPASSWORD or a service file. `postgresql:///database?host=/run/postgresql` is a socket on this machine.
"""

import os
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from nexus_control.errors import InputError

__all__ = ["is_address", "parsed", "shown"]

_SCHEMES = ("postgresql://", "postgres://")
_SECRET_PARAMETERS = frozenset({"password", "sslpassword"})


def is_address(text: str | Path) -> bool:
    """Whether this names a PostgreSQL store, and no file. A path made of an address, which has lost a slash, still does."""
    return os.fspath(text).startswith(("postgresql:/", "postgres:/"))


def parsed(text: str) -> SplitResult:
    """The parts of an address. Raises InputError, whose text repeats nothing of it."""
    if isinstance(text, str) and text.startswith(_SCHEMES) and "\0" not in text:  # pyright: ignore[reportUnnecessaryIsInstance]
        try:
            parts = urlsplit(text)
            _ = unquote(parts.netloc, errors="strict")
        except ValueError:
            pass
        else:
            # `#`, `?` or `/` in a password have to be written %XX: what follows them would be shown.
            if not parts.fragment and "@" not in parts.path + parts.query:
                return parts
    raise InputError("the address of a PostgreSQL store is postgresql://USER@HOST:PORT/DATABASE, with special characters as %XX")


def shown(text: str) -> str:
    """The address without anything secret. Raises InputError."""
    parts = parsed(text)
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(pair for pair in parts.query.split("&") if unquote(pair.partition("=")[0]).lower() not in _SECRET_PARAMETERS)
    # Put together by hand: for an address without a host, `geturl` leaves out the slashes that make it one.
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}{'?' if query else ''}{query}"
