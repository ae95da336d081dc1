"""Appends that go into the log together: chained in memory, inserted by one statement, committed once, in one or two round trips.

What judges an append is where its decision ends (its tip) and where the log ends. Two round trips ask for both under the write lock, and
then insert and commit. One is enough where this process remembers both from what it wrote last: the statement that inserts runs under the
lock and inserts nothing unless the log still ends with the leaf that is remembered. Every fact is a leaf of the log, positions have no
gaps and no leaf is ever changed, so a log with the same end is the same log, and the tips are what they were.

Every insertion counts what the database really took, in the statement itself: a row that a trigger dropped makes it fail, and the COMMIT
behind it is not run.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nexus_attest.postgres.driver import Inserted, PgConnection, faults, is_lost, roll_back, stored_text
from nexus_attest.postgres.exchange import Parameters, Statement, bigint, bigints, byteas, exchange, texts
from nexus_control.errors import NexusError, StoreUnreachable
from nexus_control.event_rows import HEADER_COLUMNS, INSERT_EVENT, INSERT_HEADER, ChainWriter, Tip
from nexus_control.events import ZERO_HASH, StoredEvent
from nexus_control.log import INSERT_LEAF
from nexus_control.sql_store import Append
from nexus_control.tiles import TILE_LEAVES

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from nexus_attest.postgres.database import PostgresDatabase

__all__ = ["Batch", "Wanted"]

Chain = Callable[[ChainWriter, Append], list[StoredEvent]]
"""Turns what is wanted into stored events by a writer, or refuses it."""

_BEGIN = Statement(b"nexus_begin", b"BEGIN ISOLATION LEVEL READ COMMITTED")
_COMMIT = Statement(b"nexus_commit", b"COMMIT")
_LAST = Statement(b"nexus_last", b"SELECT position, leaf_hash FROM log ORDER BY position DESC LIMIT 1")
_TIPS = Statement(
    b"nexus_tips",
    b"""
    SELECT w.number, d.generation, d.tombstone::bigint, COALESCE(e.seq, -1), COALESCE(e.chain, d.chain)
    FROM unnest($1::text[]) WITH ORDINALITY AS w (id, number)
    CROSS JOIN LATERAL (
        SELECT generation, tombstone, chain FROM decisions WHERE decision_id = w.id ORDER BY generation DESC LIMIT 1
    ) AS d
    LEFT JOIN LATERAL (
        SELECT seq, chain FROM decision_events WHERE decision_id = w.id AND generation = d.generation ORDER BY seq DESC LIMIT 1
    ) AS e ON true""",
)

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

_EVENT_TYPES = (bigints, texts, bigints, bigints, texts, texts, texts, texts, texts, texts, byteas, byteas)
_LEAF_TYPES = (bigints, byteas, texts)

_HEADER = Statement(
    b"nexus_header",
    f"""
    WITH added AS (
        INSERT INTO decisions ({", ".join(HEADER_COLUMNS)})
        VALUES ({", ".join(f"${number}{'::bigint' * (name == 'tombstone')}" for number, name in enumerate(HEADER_COLUMNS, 1))}) RETURNING 1
    )
    SELECT 1 / count(*)::integer FROM added""".encode(),
)

_MOST_TIPS = 4096


@dataclass(eq=False)
class Wanted:
    """One append, and how it was answered."""

    append: Append
    stored: list[StoredEvent] | None = None
    error: BaseException | None = None


@dataclass
class _Memory:
    """The end of the log as this process knows it, and the tips of decisions at that state of the log.

    `commits` is what the blocks of this process had written then. `is_alone`: no other process seemed to be writing, so that it is worth
    relying on what is remembered.
    """

    position: int = -1
    leaf: bytes = b""
    tips: dict[str, Tip] = field(default_factory=dict[str, Tip])
    commits: int = 0
    is_alone: bool = True

    def learn(self, position: int, leaf: bytes, commits: int) -> None:
        """Compare with what the log ends with now, and the blocks of this process have written."""
        is_same = (position, leaf) == (self.position, self.leaf)
        self.is_alone = is_same or self.position < 0 or (self.is_alone and self.commits != commits)
        if not is_same or len(self.tips) > _MOST_TIPS:
            self.tips.clear()
        self.position, self.leaf, self.commits = position, leaf, commits


class Batch:
    """Appends batches of what threads want, one batch after the other: `append` is for one thread at a time."""

    def __init__(self, database: "PostgresDatabase", lock_statement: str, chain: Chain) -> None:
        self._database = database
        self._chain = chain
        self._lock = Statement(b"nexus_lock", lock_statement.encode())
        self._memory = _Memory()

    def append(self, batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> None:
        """Append what is wanted, in one transaction, and answer each. What is refused is not written, and keeps no other from being so.

        `before_waiting` is called each time something has been sent, and before a connection is waited for. Raises what kept all of them
        from being committed: errors of the driver, StoreError.
        """
        if not self._append_as_remembered(batch, before_waiting):
            self._append_as_found(batch, before_waiting)

    # -- one round trip -------------------------------------------------------------------------------------------------------

    def _append_as_remembered(self, batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> bool:
        """Append if everything that judges is remembered, and is still so. False when nothing was written."""
        memory = self._memory
        if not memory.is_alone or memory.commits != self._database.commits:
            return False
        if any(each.append.create or each.append.decision_id not in memory.tips for each in batch):
            return False
        end = memory.position + sum(len(each.append.prepared) for each in batch)
        if end // TILE_LEAVES != memory.position // TILE_LEAVES:  # a tile is computed from leaves that have been inserted
            return False
        with self._lent(before_waiting) as connection:
            rows = _Rows(connection)
            writers = self._judge(rows, batch, memory.tips, memory.position)
            if rows.last is None:  # a refusal is believed when it was judged under the lock
                return False
            expected = (bigint(memory.position), memory.leaf)
            sent = [(_BEGIN, ()), (self._lock, ()), (_APPEND_AFTER, (*rows.parameters(), *expected)), (_COMMIT, ())]
            try:
                held = _number(exchange(connection.raw, sent, before_waiting)[2], 0, 0)
            except faults() as error:
                memory.is_alone = False
                if not is_lost(error, connection.raw):
                    raise
                held = self._database.was_committed(rows.last, connection.server_process)
            if held:
                self._remember(rows, writers)
            else:
                memory.is_alone = False
            return bool(held)

    # -- two round trips ------------------------------------------------------------------------------------------------------

    def _append_as_found(self, batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> None:
        names = list({each.append.decision_id: None for each in batch})
        begin = [(_BEGIN, ()), (self._lock, ()), (_LAST, ()), (_TIPS, (texts(names),))]
        for is_last in (False, True):
            with self._lent(before_waiting) as connection:
                commits = self._database.commits
                try:
                    *_, last, tips = exchange(connection.raw, begin, before_waiting)
                except faults() as error:
                    if is_last or not is_lost(error, connection.raw):
                        raise
                    continue  # the server had ended an idle connection, and nothing had begun
                position, leaf = (_number(last, 0, 0), _bytes(last, 0, 1)) if last.ntuples else (0, b"")
                self._memory.learn(position, leaf, commits)
                found = {names[number]: tip for number, tip in _tips(tips, position)}
                rows = _Rows(connection)
                writers = self._judge(rows, batch, found, position)
                if rows.last is not None:
                    self._commit(rows)
                    self._remember(rows, writers)
                return

    def _commit(self, rows: "_Rows") -> None:
        connection = rows.connection
        try:
            rows.flush(_COMMIT)
        except faults() as error:
            self._memory.is_alone = False
            if not is_lost(error, connection.raw):
                raise
            if not self._database.was_committed(rows.last, connection.server_process):
                raise StoreUnreachable(
                    f"{self._database.path}: the connection was lost before the commit; nothing was written, try again"
                ) from error

    # -- both -----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _lent(self, before_waiting: Callable[[], None]) -> Generator[PgConnection]:
        connection = self._database.lend(before_waiting)
        try:
            yield connection
        finally:
            try:
                if not connection.raw.closed and connection.raw.pgconn.transaction_status:  # anything but IDLE
                    roll_back(connection)
            finally:
                self._database.take_back(connection)

    def _judge(self, rows: "_Rows", batch: Sequence[Wanted], tips: dict[str, Tip], position: int) -> dict[str, ChainWriter]:
        """Chain everything that is not refused; gives the writers, by decision."""
        log = ChainWriter(rows, "", Tip(0, live=False, next_seq=0, chain_hash=ZERO_HASH, position=position))
        writers: dict[str, ChainWriter] = {}
        for each in batch:
            name = each.append.decision_id
            if name not in writers:
                writers[name] = ChainWriter(rows, name, tips.get(name), beside=log)
            each.stored = each.error = None
            try:
                each.stored = self._chain(writers[name], each.append)
            except NexusError as refusal:
                each.error = refusal
        log.flush()
        return writers

    def _remember(self, rows: "_Rows", writers: dict[str, ChainWriter]) -> None:
        """The end of the log last: an interruption in between leaves an old end, with which nothing is believed."""
        if rows.last is None:
            return
        memory = self._memory
        for name, writer in writers.items():
            memory.tips[name] = Tip(writer.generation, writer.live, writer.seq, writer.prev_hash, rows.last[0])
        memory.position, memory.leaf = rows.last


class _Rows:
    """A connection that keeps what is inserted until it is sent together; first it sends it when something is read.

    `last` is the last leaf: position and hash. `headers`, `events` and `leaves` are what was not sent yet.
    """

    def __init__(self, connection: PgConnection) -> None:
        self.connection = connection
        self.last: tuple[int, bytes] | None = None
        self.headers: list[Sequence[Any]] = []
        self.events: list[Sequence[Any]] = []
        self.leaves: list[Sequence[Any]] = []
        self._kept = {INSERT_HEADER: self.headers, INSERT_EVENT: self.events, INSERT_LEAF: self.leaves}

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """Run a statement on what was inserted so far."""
        self.flush()
        return self.connection.execute(sql, parameters)

    def executemany(self, sql: str, rows: Sequence[Any], /) -> Any:
        """Keep rows of facts, insert others."""
        kept = self._kept.get(sql)
        if kept is None:
            self.flush()
            return self.connection.executemany(sql, rows)
        kept.extend(rows)
        if kept is self.leaves and rows:
            self.last = rows[-1][:2]
        return Inserted(len(rows))  # the statement that inserts them makes the database confirm it

    def flush(self, *then: Statement) -> None:
        """Send what was kept, and these statements behind it."""
        sent: list[tuple[Statement, Parameters]] = [(_HEADER, [_value(value) for value in row]) for row in self.headers]
        if self.events or self.leaves:
            sent.append((_APPEND, self.parameters()))
        sent += [(statement, ()) for statement in then]
        for kept in self._kept.values():
            kept.clear()
        if sent:
            exchange(self.connection.raw, sent)

    def parameters(self) -> list[bytes]:
        """Of the statements that insert events and leaves: an array for each column."""
        return [*_columns(self.events, _EVENT_TYPES), *_columns(self.leaves, _LEAF_TYPES)]


_Write = Callable[[Sequence[Any]], bytes]


def _columns(rows: Sequence[Sequence[Any]], types: Sequence[_Write]) -> Iterator[bytes]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(types)
    return (write(column) for write, column in zip(types, columns, strict=True))


def _value(value: str | int | bytes | None) -> bytes | None:
    if isinstance(value, str):
        return stored_text(value)
    return bigint(value) if isinstance(value, int) else value


def _tips(result: "PGresult", position: int) -> Iterator[tuple[int, Tip]]:
    """What `_TIPS` gave: the number of a decision among those that were asked for, from 0, and its tip."""
    for row in range(result.ntuples):
        number, generation, tombstone, seq = (_number(result, row, column) for column in range(4))
        yield number - 1, Tip(generation, not tombstone, seq + 1, _bytes(result, row, 4).hex(), position)


def _bytes(result: "PGresult", row: int, column: int) -> bytes:
    return result.get_value(row, column) or b""


def _number(result: "PGresult", row: int, column: int) -> int:
    return int.from_bytes(_bytes(result, row, column), "big", signed=True)
