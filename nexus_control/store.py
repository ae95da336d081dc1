"""The store of decisions on SQLite, for one process or several on one machine, and what every backend offers."""

from collections.abc import Callable
from pathlib import Path

from nexus_control.database import Database
from nexus_control.errors import ConcurrencyError
from nexus_control.event_store import EventItem, EventStore
from nexus_control.events import Clock, StoredEvent, utc_now
from nexus_control.header import ImportOrigin
from nexus_control.log_check import LogVerification
from nexus_control.places import opener_of
from nexus_control.schema import SCHEMA, SQLITE
from nexus_control.sql_store import SqlStore

__all__ = ["ConcurrencyError", "DecisionStore", "EventItem", "EventStore", "ImportOrigin", "LogVerification", "StoredEvent", "open_store"]


class DecisionStore(SqlStore):
    """Decisions and their events in one SQLite database: `:memory:` (private to this object) or a file (shared with other processes).

    `clock` gives timezone-aware UTC times, `new_id` new decision ids; both are for tests to own. Usable from several threads, as a
    context manager, and until `close`. Besides what each method names, all of them raise `StoreError` when SQLite cannot do its work.
    """

    def __init__(self, db_path: str | Path = ":memory:", *, clock: Clock = utc_now, new_id: Callable[[], str] | None = None) -> None:
        super().__init__(Database(db_path, SCHEMA), SQLITE, clock=clock, new_id=new_id)


def open_store(place: str | Path) -> EventStore:
    """The store at a path, `:memory:` or an address of a registered backend. Raises what the backend's constructor raises."""
    opener = opener_of(place)
    return DecisionStore(place) if opener is None else opener(str(place))
