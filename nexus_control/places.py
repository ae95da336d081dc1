"""Where a store is: the path of a SQLite file, or an address that begins with the scheme of another backend.

The engine knows no other backend. A package that has one registers an opener for its scheme, so that whatever takes a path takes an
address as well.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_control.errors import InputError

if TYPE_CHECKING:
    from nexus_control.event_store import EventStore

__all__ = ["opener_of", "register"]

_RESERVED = ("postgresql", "postgres")
"""Schemes that are no file names here, whether or not their backend was loaded."""

_openers: "dict[str, Callable[[str], EventStore]]" = {}


def register(scheme: str, opener: "Callable[[str], EventStore]") -> None:
    """From now on places that begin with `scheme://` are opened by `opener`, which gets the whole address."""
    _openers[scheme] = opener


def opener_of(place: str | Path) -> "Callable[[str], EventStore] | None":
    """What opens this address; None for the path of a file. Raises InputError for an address whose backend is not there."""
    scheme, separator, _ = place.partition("://") if isinstance(place, str) else ("", "", "")
    if not separator:
        return None
    if scheme in _RESERVED and scheme not in _openers:
        raise InputError(f"{scheme}:// needs the package nexus-attest: import nexus_attest first")
    return _openers.get(scheme)
