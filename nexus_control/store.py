"""The store of decisions on SQLite, for one process or several on one machine, and what every backend offers."""

from collections.abc import Callable
from pathlib import Path

from nexus_control.backends import BACKENDS
from nexus_control.database import Database
from nexus_control.errors import ConcurrencyError, InputError
from nexus_control.event_store import EventItem, EventStore
from nexus_control.events import Clock, StoredEvent, utc_now
from nexus_control.header import ImportOrigin
from nexus_control.log_check import LogVerification
from nexus_control.schema import SCHEMA, SQLITE
from nexus_control.sql_store import SqlStore

__all__ = ["ConcurrencyError", "DecisionStore", "EventItem", "EventStore", "ImportOrigin", "LogVerification", "StoredEvent", "open_store"]


class DecisionStore(SqlStore):
    """Decisions and their events in one SQLite database: `:memory:` (private to this object) or a file (shared with other processes).

    `clock` gives timezone-aware times, `new_id` new decision ids; both are for tests to own. Usable from several threads, as a
    context manager, and until `close`. With `read_only` nothing is written to a file, neither now nor later: one without a store of this
    release is refused (SchemaMissing). Without, opening a file commits once, which changes nothing of what is stored, so that no call has
    to sync more than its own commit; `first_commit=False` leaves that out, for who opens a store for a call or two. Besides what each
    method names, all of them raise `StoreError` when SQLite cannot do its work.
    """

    def __init__(
        self,
        db_path: str | Path = ":memory:",
        *,
        read_only: bool = False,
        first_commit: bool = True,
        clock: Clock = utc_now,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        super().__init__(Database(db_path, SCHEMA, read_only=read_only, first_commit=first_commit), SQLITE, clock=clock, new_id=new_id)


def open_store(place: str | Path) -> EventStore:
    """The store at a path, at `:memory:`, or at an address `scheme://...` that one of `backends` opens.

    Raises InputError for a PostgreSQL address where nexus_attest was not imported, and what the backend's constructor raises.
    """
    scheme, separator, _ = place.partition("://") if isinstance(place, str) else ("", "", "")
    if separator and scheme in BACKENDS:
        return BACKENDS[scheme](str(place))
    if separator and scheme in ("postgresql", "postgres"):
        raise InputError(f"{scheme}:// needs the package nexus-attest: import nexus_attest first")
    return DecisionStore(place)
