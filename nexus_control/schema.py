"""The engine's tables: decisions, their events, templates, the log that every stored fact is a leaf of, its checkpoints, and imports.

Append-only is enforced here, for every program that opens the file: triggers refuse UPDATE, DELETE and an INSERT that would replace a
row (`INSERT OR REPLACE` deletes without firing delete triggers unless the connection asks for that). There is no exception path.
Each table has no other key than the ones that the triggers look at: a hidden rowid would be one.
"""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from nexus_control.backend import Connection, Dialect
from nexus_control.migration import Schema
from nexus_control.sqlite import FAULTS, SqliteDecisionExists, SqliteTemplateExists

__all__ = ["LARGEST_INT", "SCHEMA", "SQLITE"]

LARGEST_INT = 2**63 - 1
"""What an INTEGER column holds."""

_CHAIN = """prev       BLOB NOT NULL CHECK (length(prev) = 32),
        chain      BLOB NOT NULL CHECK (length(chain) = 32),
        prev_hash  TEXT NOT NULL GENERATED ALWAYS AS (lower(hex(prev))) VIRTUAL,
        chain_hash TEXT NOT NULL GENERATED ALWAYS AS (lower(hex(chain))) VIRTUAL"""
"""The two links of a chained row: stored as bytes, which is half the size, and readable as raw hex."""

_TABLES = (
    f"""
    CREATE TABLE IF NOT EXISTS decisions (
        decision_id     TEXT    NOT NULL,
        generation      INTEGER NOT NULL CHECK (generation >= 1),
        created_at      TEXT    NOT NULL,
        tombstone       INTEGER NOT NULL DEFAULT 0 CHECK (tombstone IN (0, 1)),
        -- A copy of the first events and of an import's origin, for listing; the log stays the source.
        goal            TEXT,
        creator_type    TEXT,
        creator_id      TEXT,
        policy_ref      TEXT,
        template_name   TEXT,
        template_digest TEXT,
        imported_at     TEXT,
        imported_from   TEXT,
        bundle_digest   TEXT,
        copy_digest     BLOB    NOT NULL,
        {_CHAIN},
        position        INTEGER NOT NULL,
        PRIMARY KEY (decision_id, generation)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX IF NOT EXISTS decisions_by_age ON decisions (created_at, position)",
    f"""
    CREATE TABLE IF NOT EXISTS decision_events (
        position    INTEGER PRIMARY KEY,
        decision_id TEXT    NOT NULL,
        generation  INTEGER NOT NULL,
        seq         INTEGER NOT NULL CHECK (seq >= 0),
        event_id    TEXT    NOT NULL GENERATED ALWAYS AS ('evt_' || decision_id || '_' || seq) VIRTUAL,
        event_type  TEXT    NOT NULL,
        ts          TEXT    NOT NULL,
        actor_type  TEXT    NOT NULL,
        actor_id    TEXT    NOT NULL,
        payload     TEXT    NOT NULL,
        digest      TEXT    NOT NULL,
        {_CHAIN},
        UNIQUE (decision_id, generation, seq),
        FOREIGN KEY (decision_id, generation) REFERENCES decisions (decision_id, generation)
    ) STRICT
    """,
    "CREATE INDEX IF NOT EXISTS decision_events_by_type ON decision_events (event_type)",
    """
    CREATE TABLE IF NOT EXISTS templates (
        name                         TEXT    NOT NULL PRIMARY KEY,
        description                  TEXT    NOT NULL,
        min_approvals                INTEGER NOT NULL,
        allowed_modes                TEXT    NOT NULL,
        require_adapter_capabilities TEXT    NOT NULL,
        max_steps                    INTEGER,
        labels                       TEXT    NOT NULL,
        created_at                   TEXT    NOT NULL,
        created_by_type              TEXT    NOT NULL,
        created_by_id                TEXT    NOT NULL,
        digest                       TEXT    NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    f"""
    CREATE TABLE IF NOT EXISTS template_events (
        template_name TEXT    NOT NULL REFERENCES templates (name),
        seq           INTEGER NOT NULL CHECK (seq >= 0),
        event_type    TEXT    NOT NULL,
        ts            TEXT    NOT NULL,
        actor_type    TEXT    NOT NULL,
        actor_id      TEXT    NOT NULL,
        payload       TEXT    NOT NULL,
        digest        TEXT    NOT NULL,
        {_CHAIN},
        position      INTEGER NOT NULL,
        PRIMARY KEY (template_name, seq)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS log (
        position  INTEGER PRIMARY KEY CHECK (position >= 1),
        leaf_hash BLOB    NOT NULL CHECK (length(leaf_hash) = 32),
        kind      TEXT    NOT NULL CHECK (kind IN ('generation', 'event', 'template_event'))
    ) STRICT
    """,
)

_KEYS = {
    "decisions": "decision_id = NEW.decision_id AND generation = NEW.generation",
    "decision_events": "(decision_id = NEW.decision_id AND generation = NEW.generation AND seq = NEW.seq) OR position = NEW.position",
    "templates": "name = NEW.name",
    "template_events": "template_name = NEW.template_name AND seq = NEW.seq",
}
"""Per table: what makes an inserted row the replacement of a stored one."""


def _replaced(table: str, same_row: str) -> str:
    return f"EXISTS (SELECT 1 FROM {table} WHERE {same_row})"


def _append_only(table: str, refused_insert: str) -> list[str]:
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    return [
        f"CREATE TRIGGER IF NOT EXISTS {table}_refuse_update BEFORE UPDATE ON {table} {refuse}",
        f"CREATE TRIGGER IF NOT EXISTS {table}_refuse_delete BEFORE DELETE ON {table} {refuse}",
        f"CREATE TRIGGER IF NOT EXISTS {table}_refuse_insert BEFORE INSERT ON {table} WHEN {refused_insert} {refuse}",
    ]


_TRIGGERS = (
    *(statement for table, same_row in _KEYS.items() for statement in _append_only(table, _replaced(table, same_row))),
    # The log has no gaps: neither the place of another leaf nor one beyond the next.
    *_append_only("log", "NEW.position <> (SELECT COALESCE(MAX(position), 0) + 1 FROM log)"),
)

_CHECKPOINTS = (
    """
    CREATE TABLE IF NOT EXISTS checkpoints (
        number INTEGER PRIMARY KEY,
        size   INTEGER NOT NULL CHECK (size >= 0),
        note   TEXT    NOT NULL
    ) STRICT
    """,
    # Without gaps, so that one that is missing shows, and never of a smaller log than the one before.
    *_append_only(
        "checkpoints",
        "NEW.number <> (SELECT COALESCE(MAX(number), 0) + 1 FROM checkpoints) "
        "OR NEW.size < (SELECT COALESCE(MAX(size), 0) FROM checkpoints)",
    ),
    # Derived from the log, and not append-only: a wrong row is replaced.
    """
    CREATE TABLE IF NOT EXISTS log_tiles (
        number INTEGER PRIMARY KEY CHECK (number >= 0),
        hash   BLOB    NOT NULL,
        seal   BLOB    NOT NULL
    ) STRICT
    """,
)

_IMPORTS = (
    # How many events of a generation an import brought: what they say about approvals are claims of another system.
    """
    CREATE TABLE IF NOT EXISTS imports (
        decision_id TEXT    NOT NULL,
        generation  INTEGER NOT NULL,
        events      INTEGER NOT NULL CHECK (events >= 0),
        PRIMARY KEY (decision_id, generation),
        FOREIGN KEY (decision_id, generation) REFERENCES decisions (decision_id, generation)
    ) STRICT, WITHOUT ROWID
    """,
    # Of an import that was made before this was recorded, everything counts as brought by it.
    """
    INSERT INTO imports SELECT decision_id, generation, (SELECT COUNT(*) FROM decision_events AS e
        WHERE e.decision_id = d.decision_id AND e.generation = d.generation) FROM decisions AS d WHERE imported_at IS NOT NULL
    """,
    *_append_only("imports", _replaced("imports", "decision_id = NEW.decision_id AND generation = NEW.generation")),
)

_MOST_DAMAGE = 100
"""Lines of damage that SQLite is asked for."""

SCHEMA = Schema("engine", slot=0, migrations=((*_TABLES, *_TRIGGERS), _CHECKPOINTS, _IMPORTS))


class _Sqlite:
    """SQLite's ways."""

    faults = FAULTS
    decision_exists = SqliteDecisionExists
    template_exists = SqliteTemplateExists

    def problems(self, connection: Connection) -> list[str]:
        return SCHEMA.problems(connection)

    def damage(self, connection: Connection) -> list[str]:
        # Table by table: one of somebody else may need functions that are not here, and says nothing of ours.
        names = [str(name) for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        return [line for name in names if name in SCHEMA.tables for line in _damage(connection, name)][:_MOST_DAMAGE]

    def identity(self, connection: Connection) -> object:
        # As bytes: the name of a file need not be text.
        (file,) = connection.execute("SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main'").fetchone()
        if not file:  # in memory, each for itself
            return object()
        found = Path(os.fsdecode(file)).stat()
        return found.st_dev, found.st_ino

    def stream(self, connection: Connection, sql: str) -> Generator[Any]:
        # SQLite computes each row when it is asked for. `yield from` would close the cursor of a reader that gave up, whose connection may
        # be gone by then.
        for row in connection.execute(sql):  # noqa: UP028
            yield row


def _damage(connection: Connection, table: str) -> list[str]:
    """What SQLite finds wrong with a table and its indexes; why it cannot look, where it cannot."""
    try:
        lines = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({table})")]
    except FAULTS as error:
        return [f"{table}: {error!s:.300}"]
    return [] if lines == ["ok"] else lines


SQLITE: Dialect = _Sqlite()
