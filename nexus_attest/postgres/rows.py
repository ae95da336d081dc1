"""The rows of a batch: kept while they are chained, and sent as arrays, one for each column.

Every insertion counts what the database really took, in the statement itself: a row that a trigger dropped makes it fail, and the COMMIT
behind it is not run. Tiles are not counted: they are derived, and one that is not there is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nexus_attest.postgres.driver import Inserted, PgConnection, stored_text
from nexus_attest.postgres.exchange import Parameters, Statement, bigint, bigints, byteas, exchange, texts
from nexus_control.event_rows import HEADER_COLUMNS, INSERT_EVENT, INSERT_HEADER
from nexus_control.log import INSERT_LEAF
from nexus_control.tiles import INSERT_TILE

__all__ = ["ConnectedRows", "Rows", "Sent"]

# The columns of `INSERT_EVENT` and `INSERT_LEAF`. Division by zero is how a SELECT makes a transaction fail.
_INSERT = """
    WITH expected AS ({expected}),
    events AS (
        INSERT INTO decision_events
            (position, decision_id, generation, seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain)
        SELECT u.* FROM expected, unnest(
            $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
            $11::bytea[], $12::bytea[]
        ) AS u RETURNING 1
    ),
    leaves AS (
        INSERT INTO log (position, leaf_hash, kind)
        SELECT u.* FROM expected, unnest($13::bigint[], $14::bytea[], $15::text[]) AS u RETURNING 1
    )
    SELECT n, 1 / ((SELECT count(*) FROM events) = n * cardinality($1::bigint[])
                   AND (SELECT count(*) FROM leaves) = n * cardinality($13::bigint[]))::integer
    FROM (SELECT count(*) AS n FROM expected) AS held"""
_APPEND = Statement(b"nexus_append", _INSERT.format(expected="SELECT").encode())
_APPEND_AFTER = Statement(
    b"nexus_append_after",
    _INSERT.format(
        expected="SELECT FROM log WHERE position = $16::bigint AND leaf_hash = $17::bytea "
        "AND NOT EXISTS (SELECT FROM log WHERE position > $16::bigint)"
    ).encode(),
)
_TILES_WITH = Statement(
    b"nexus_tiles_with",
    b"""
    INSERT INTO log_tiles (number, hash, seal)
    SELECT u.* FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS u
    WHERE EXISTS (SELECT FROM log WHERE position = $4::bigint AND leaf_hash = $5::bytea) ON CONFLICT DO NOTHING""",
)
_HEADER = Statement(
    b"nexus_header",
    f"""
    WITH added AS (
        INSERT INTO decisions ({", ".join(HEADER_COLUMNS)})
        VALUES ({", ".join(f"${number}{'::bigint' * (name == 'tombstone')}" for number, name in enumerate(HEADER_COLUMNS, 1))}) RETURNING 1
    )
    SELECT 1 / count(*)::integer FROM added""".encode(),
)

_EVENT_TYPES = (bigints, texts, bigints, bigints, texts, texts, texts, texts, texts, texts, byteas, byteas)
_LEAF_TYPES = (bigints, byteas, texts)
_TILE_TYPES = (bigints, byteas, byteas)

Sent = tuple[Statement, Parameters]
_Write = Callable[[Sequence[Any]], bytes]


class Rows:
    """Keeps what is inserted until it is sent together.

    It begins at a state of the log of which `position`, that of the last leaf, and `leaves`, the hashes of the last ones, are known, and
    goes on with what is inserted. `last` is the last leaf that was: position and hash.
    """

    def __init__(self, position: int, leaves: Sequence[bytes]) -> None:
        self.position = position
        self.leaves = [*leaves]
        self.last: tuple[int, bytes] | None = None
        self._headers: list[Sequence[Any]] = []
        self._events: list[Sequence[Any]] = []
        self._log: list[Sequence[Any]] = []
        self._tiles: list[Sequence[Any]] = []
        self._kept = {INSERT_HEADER: self._headers, INSERT_EVENT: self._events, INSERT_LEAF: self._log, INSERT_TILE: self._tiles}

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """The leaves of a tile, which are known: nothing else is asked when facts are chained."""
        del sql
        before = self.position - len(self.leaves)
        return [(leaf,) for leaf in self.leaves[parameters[0] - before : parameters[1] - before]]

    def executemany(self, sql: str, rows: Sequence[Any], /) -> Any:
        """Keep rows, which are all of facts and tiles."""
        self._kept[sql] += rows
        if sql == INSERT_LEAF and rows:
            self.position, leaf, _ = rows[-1]
            self.last = self.position, leaf
            self.leaves += [row[1] for row in rows]
        return Inserted(len(rows))  # the statement that inserts them makes the database confirm it

    def after(self, position: int, leaf: bytes) -> list[Sent]:
        """What inserts all that was kept, without headers, where the log still ends with this leaf. The first answer is 1 if it does."""
        return [(_APPEND_AFTER, [*self._columns(), bigint(position), leaf]), *self._filled()]

    def taken(self) -> list[Sent]:
        """What inserts all that was kept, which is forgotten."""
        sent: list[Sent] = [(_HEADER, [_value(value) for value in row]) for row in self._headers]
        if self._events or self._log:
            sent.append((_APPEND, self._columns()))
        sent += self._filled()
        for kept in self._kept.values():
            kept.clear()
        return sent

    def _columns(self) -> list[bytes]:
        return [*_columns(self._events, _EVENT_TYPES), *_columns(self._log, _LEAF_TYPES)]

    def _filled(self) -> list[Sent]:
        """Tiles, where the leaves that fill them went in."""
        if not self._tiles or self.last is None:
            return []
        position, leaf = self.last
        return [(_TILES_WITH, [*_columns(self._tiles, _TILE_TYPES), bigint(position), leaf])]


class ConnectedRows(Rows):
    """As `Rows`, on a connection: what is read and not known is asked of the database, after what was inserted so far has been sent."""

    def __init__(self, position: int, leaves: Sequence[bytes], connection: PgConnection) -> None:
        super().__init__(position, leaves)
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """Leaves of a tile."""
        if parameters[0] >= self.position - len(self.leaves):
            return super().execute(sql, parameters)
        exchange(self._connection.raw, self.taken())
        return self._connection.execute(sql, parameters)


def _columns(rows: Sequence[Sequence[Any]], types: Sequence[_Write]) -> Iterator[bytes]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(types)
    return (write(column) for write, column in zip(types, columns, strict=True))


def _value(value: str | int | bytes | None) -> bytes | None:
    if isinstance(value, str):
        return stored_text(value)
    return bigint(value) if isinstance(value, int) else value
