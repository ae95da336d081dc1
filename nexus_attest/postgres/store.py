"""The store of decisions on PostgreSQL."""

from collections.abc import Callable, Sequence

from nexus_attest.postgres import schema as tables
from nexus_attest.postgres.appends import AppendQueue
from nexus_attest.postgres.batch import Batch, size
from nexus_attest.postgres.database import PostgresDatabase
from nexus_control.event_rows import prepare_all
from nexus_control.event_store import End, EventItem
from nexus_control.events import Clock, StoredEvent, require_text, utc_now
from nexus_control.sql_store import Append, SqlStore

__all__ = ["PostgresStore"]

# https://www.postgresql.org/docs/current/runtime-config-wal.html
_RISKY = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"
_READY_ROLES = f"""
    SELECT rolname FROM pg_roles
    WHERE rolname IN ('{tables.WRITER}', '{tables.READER}') AND has_schema_privilege(oid, current_schema(), 'USAGE') ORDER BY rolname"""


class PostgresStore(SqlStore):
    """Decisions and their events in a PostgreSQL database, for any number of processes and hosts.

    The same events give the same seqs, chains, positions and roots as in `DecisionStore`. `address` is `postgresql://...`
    (`nexus_attest.postgres.address`), `schema` the name of the PostgreSQL schema that holds the tables, `pool_size` the most connections
    that this process opens. The tables are made, or brought to this release, when that is allowed; with `create` off a database without
    them is refused (SchemaMissing).

    Raises PostgresDriverMissing without the extra `postgres`; InputError for what is no address; StoreUnreachable when the server cannot be
    reached. Besides what each method names, all of them raise `StoreError`: StoreUnreachable when the connection was lost and nothing
    was written, CommitUnknown when it was lost in a commit whose outcome could not be learned.
    """

    def __init__(
        self,
        address: str,
        *,
        schema: str = tables.DEFAULT_SCHEMA,
        pool_size: int = 10,
        create: bool = True,
        clock: Clock = utc_now,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        database = PostgresDatabase(address, tables.require_name(schema), create=create, pool_size=pool_size)
        super().__init__(database, tables.POSTGRES, clock=clock, new_id=new_id)
        self._is_inside_block = database.is_inside_block
        batch = Batch(database, tables.take_lock(schema), self._chained)
        self._queue = AppendQueue(database.path, batch.append, self._append_alone, batch.prepare, batch.send, size)

    def append_events(
        self,
        decision_id: str,
        items: Sequence[EventItem],
        *,
        expected_seq: int | None = None,
        create: bool = False,
        after: End | None = None,
    ) -> list[StoredEvent]:
        """As `SqlStore.append_events`. Outside of blocks, what several threads append at the same time is committed together."""
        if after is not None or self._is_inside_block():
            return super().append_events(decision_id, items, expected_seq=expected_seq, create=create, after=after)
        name = require_text(decision_id, "decision_id")
        return self._queue.append(Append(name, prepare_all(items), expected_seq, create))

    def roles(self) -> list[str]:
        """The roles of programs that have their rights in this store: both, or none before `nexus-attest db init`."""
        with self.backend.reading() as connection:
            return [row[0] for row in connection.execute(_READY_ROLES)]

    def risky_settings(self) -> list[str]:
        """What the server has off of the settings without which a failure of its machine may take what was acknowledged."""
        with self.backend.reading() as connection:
            return [row[0] for row in connection.execute(_RISKY)]
