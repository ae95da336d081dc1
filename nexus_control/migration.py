"""The versions of a file's schema, and how it gets from one to the next."""

import re
from collections.abc import Sequence
from contextlib import closing

from nexus_control import backend
from nexus_control.errors import SchemaTooNew, brief
from nexus_control.sqlite import Connection, begin, end, mark_ours, number, open_memory

__all__ = ["Schema"]

_OBJECTS = "SELECT type, name, sql, tbl_name FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name"


_TABLE = re.compile(r"\s*CREATE TABLE (?:IF NOT EXISTS )?(\w+)")


class Schema:
    """The migrations of one component, applied in order, each together with its version number.

    Several components may share a file: each owns eight bits of `PRAGMA user_version`, chosen by `slot` (0 to 3). A migration is
    a sequence of single SQL statements; a released one never changes. `foreign_tables` are those of another program that the component
    can work with: a file that has no others may become ours.
    """

    def __init__(self, name: str, slot: int, migrations: Sequence[Sequence[str]], *, foreign_tables: frozenset[str] = frozenset()) -> None:
        self.name = name
        self.foreign_tables = foreign_tables
        self._shift = 8 * slot
        self._migrations = migrations
        self.tables = frozenset(found[1] for steps in migrations for step in steps if (found := _TABLE.match(step)))

    def apply(self, connection: Connection, path: str) -> None:
        """Bring the file, `path` in errors, to this schema. Raises SchemaTooNew when a newer release wrote it; then nothing changed."""
        if self.is_in(connection):
            return
        commit, undo = begin(connection, "BEGIN IMMEDIATE", joins=connection.in_transaction)
        try:
            start = self.version(connection)  # again: another process may have migrated while we waited for the lock
            mark_ours(connection, self.foreign_tables)
            for version, statements in enumerate(self._migrations[start:], start + 1):
                for statement in statements:
                    connection.execute(statement)
                self._set_version(connection, version)
            end(connection, commit, path)
        except BaseException:
            if connection.in_transaction:
                connection.execute(undo)
            raise

    def is_in(self, connection: Connection) -> bool:
        """Whether the file has this schema. Raises SchemaTooNew."""
        return self.version(connection) == len(self._migrations)

    def version(self, connection: Connection) -> int:
        """How many of the migrations the file has. Raises SchemaTooNew when it has more than there are."""
        version = (number(connection, "user_version") >> self._shift) & 0xFF
        if version > len(self._migrations):
            raise SchemaTooNew(
                f"the {self.name} schema of this file has version {version}, this release knows {len(self._migrations)}; "
                "install the release that wrote it, or a newer one"
            )
        return version

    def problems(self, connection: backend.Connection) -> list[str]:
        """What of this schema the file lacks or has in another form, and triggers on its tables that are not of it.

        Rows are only as sound as these.
        """
        with closing(open_memory()) as pristine:
            self.apply(pristine, ":memory:")
            wanted = {(kind, name): sql for kind, name, sql, _ in pristine.execute(_OBJECTS)}
        tables = {name for kind, name in wanted if kind == "table"}
        stored: dict[tuple[str, str], str] = {}
        strange: list[str] = []
        for kind, name, sql, table in connection.execute(_OBJECTS):
            stored[kind, name] = sql
            if kind == "trigger" and table.lower() in tables and (kind, name) not in wanted:
                strange.append(f"schema: the trigger {brief(name)} on {table} is not of this schema")
        return [
            f"schema: the {kind} {name} is missing or was changed"
            for (kind, name), sql in wanted.items()
            if stored.get((kind, name)) != sql
        ] + strange

    def _set_version(self, connection: Connection, version: int) -> None:
        others = number(connection, "user_version") & ~(0xFF << self._shift)
        connection.execute(f"PRAGMA user_version = {others | version << self._shift}")
