"""Appends that go into the log together: chained in memory, inserted by one statement, committed once, in one or two round trips.

What judges an append is where its decision ends (its tip) and where the log ends. Two round trips ask for both under the write lock, and
then insert and commit. One is enough where this process remembers both from what it wrote last: the statement that inserts runs under the
lock and inserts nothing unless the log still ends with the leaf that is remembered. Every fact is a leaf of the log, positions have no
gaps and no leaf is ever changed, so a log with the same end is the same log, and the tips are what they were.

What the process supposes to be the end of the log may be the end of a batch that is on its way: the next one is chained and encoded while
the server works. It is sent when the answer has come, and only if that batch was committed; else it is judged anew.
"""

from collections import ChainMap
from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from nexus_attest.postgres.driver import PgConnection, faults, is_lost, roll_back
from nexus_attest.postgres.exchange import Names, Statement, exchange, receive, send, texts
from nexus_attest.postgres.rows import ConnectedRows, Rows, Sent
from nexus_control import fork
from nexus_control.errors import NexusError, StoreClosed, StoreUnreachable
from nexus_control.event_rows import ChainWriter, Tip
from nexus_control.events import ZERO_HASH, StoredEvent
from nexus_control.sql_store import Append
from nexus_control.tiles import TILE_LEAVES

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from nexus_attest.postgres.database import PostgresDatabase

__all__ = ["Batch", "Wanted", "size"]

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

_MOST_TIPS = 4096


@dataclass(eq=False)
class Wanted:
    """One append, and how it was answered."""

    append: Append
    stored: list[StoredEvent] | None = None
    error: BaseException | None = None


_EVENT_CHARACTERS = 300
"""What is sent of an event besides its texts, about: digest, hashes, numbers, time."""


def size(append: Append) -> int:
    """About how many characters are sent for an append."""
    each = _EVENT_CHARACTERS + len(append.decision_id)
    return sum([each + len(payload_json) + len(actor["id"]) for _, _, actor, _, payload_json, _ in append.prepared])


@dataclass(frozen=True)
class _State:
    """The log as this process knows it: where it ends, its last leaves as far as they fill no tile yet, and tips of decisions there."""

    position: int = -1
    leaf: bytes = b""
    leaves: Sequence[bytes] = ()
    tips: MutableMapping[str, Tip] = field(default_factory=dict[str, Tip])

    def is_at(self, position: int, leaf: bytes) -> bool:
        return (self.position, self.leaf) == (position, leaf)

    def knows_leaves(self, more: int) -> bool:
        """Whether all leaves are known of each tile that so many more would fill."""
        return (self.position + more) // TILE_LEAVES == self.position // TILE_LEAVES or len(self.leaves) >= self.position % TILE_LEAVES


@dataclass
class _Memory:
    """`state` is that of the log when this process wrote last, and `commits` what its blocks had written then. `is_alone`: no other
    process seemed to be writing, so that it is worth relying on what is remembered.
    """

    state: _State = field(default_factory=_State)
    commits: int = 0
    is_alone: bool = True

    def learn(self, position: int, leaf: bytes, commits: int) -> None:
        """Compare with what the log ends with now, and the blocks of this process have written."""
        is_same = self.state.is_at(position, leaf)
        self.is_alone = is_same or self.state.position < 0 or (self.is_alone and self.commits != commits)
        if not is_same or len(self.state.tips) > _MOST_TIPS:
            self.state = _State(position, leaf, self.state.leaves if is_same else ())
        self.commits = commits


@dataclass(frozen=True)
class _Judged:
    """A batch chained behind a state of the log. `answers` are for when it is committed there, `tips` those of its decisions then."""

    batch: Sequence[Wanted]
    before: _State
    rows: Rows
    answers: Sequence[list[StoredEvent] | NexusError]
    tips: dict[str, Tip]

    def answer(self) -> None:
        for each, answer in zip(self.batch, self.answers, strict=True):
            each.stored, each.error = (None, answer) if isinstance(answer, NexusError) else (answer, None)

    def end(self, tips: MutableMapping[str, Tip]) -> _State:
        """What it leaves behind it, where something is written, with these tips."""
        if self.rows.last is None:
            return self.before
        unfilled = self.rows.position % TILE_LEAVES
        return _State(*self.rows.last, self.rows.leaves[-unfilled:] if unfilled else (), tips)


@dataclass(frozen=True)
class _Ready:
    """A batch with what the server is sent for it."""

    judged: _Judged
    sent: list[Sent]


@dataclass
class _Line:
    """A connection on which a batch was sent, or began to be; `names` are for who receives the answer."""

    connection: PgConnection
    judged: _Judged
    names: Names | None = None


class Batch:
    """Appends batches of what threads want, one batch after the other: `append` is for one thread at a time, and so is `prepare`, which
    may be called meanwhile.
    """

    def __init__(self, database: "PostgresDatabase", lock_statement: str, chain: Chain) -> None:
        self._database = database
        self._chain = chain
        self._lock = Statement(b"nexus_lock", lock_statement.encode())
        self._memory = _Memory()
        self._on_its_way: _Judged | None = None
        self._ready: _Ready | None = None
        self._line: _Line | None = None
        fork.register(self)

    def before_fork(self) -> None:
        """Nothing has to be put away."""

    def after_fork(self, *, in_child: bool) -> None:
        """What is on its way is the parent's, and so is its connection, which must not be closed here."""
        if in_child:
            _inherited.append(self._line)
            self._on_its_way = self._ready = self._line = None

    def append(self, batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> None:
        """Append what is wanted, in one transaction, and answer each. What is refused is not written, and keeps no other from being so.

        `before_waiting` is called each time something has been sent, and before a connection is waited for. Raises what kept all of them
        from being committed: errors of the driver, StoreError.
        """
        if not self._append_as_remembered(batch, before_waiting):
            self._append_as_found(batch, before_waiting)

    def prepare(self, batch: Sequence[Wanted]) -> bool:
        """Chain and encode what will be appended next, while the server works, as if the batch that is on its way were committed.

        Nothing is answered or sent by this: `append` does that, and only if the log then ends as was supposed here. False when nothing was
        prepared.
        """
        before = self._on_its_way
        self._ready = None if before is None else self._made_ready(batch, before.end(ChainMap(before.tips, self._memory.state.tips)))
        return self._ready is not None

    # -- one round trip -------------------------------------------------------------------------------------------------------

    def _append_as_remembered(self, batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> bool:
        """Append if everything that judges is remembered, and is still so. False when nothing was written."""
        memory = self._memory
        line = self._line
        if line is not None and line.judged.batch != batch:  # whoever was to receive the answer was interrupted
            line.connection.raw.close()
            self._line = None
            self._database.take_back(line.connection)
            line = None
        if line is not None:
            judged, connection = line.judged, line.connection
            run = partial(_received, line, before_waiting)
        else:
            ready = self._ready_for(batch)
            if ready is None:
                return False
            judged, connection = ready.judged, self._database.lend(before_waiting)
            run = partial(exchange, connection.raw, ready.sent, before_waiting)
        with self._lent(connection):
            self._line = None
            try:
                self._on_its_way = judged
                held = _number(run()[2], 0, 0)
            except faults() as error:
                memory.is_alone = False
                if not is_lost(error, connection.raw):
                    raise
                held = self._database.was_committed(judged.rows.last, connection.server_process)
            finally:
                self._on_its_way = None
            if held:
                self._remember(judged)
                judged.answer()
            else:
                memory.is_alone = False
            return bool(held)

    def send(self, batch: Sequence[Wanted]) -> None:
        """Send what was prepared for this batch, with which `append` is to be called next, for the answer. Does nothing where that is not
        so any more, or there is no connection at once.
        """
        ready = self._ready
        if ready is None or not self._holds(ready, batch):
            return
        try:
            connection = self._database.lend_at_once()
        except StoreClosed:
            return
        if connection is not None:
            self._line = line = _Line(connection, ready.judged)
            self._ready, self._on_its_way = None, ready.judged
            with suppress(*faults()):  # whoever receives the answer finds out
                line.names = send(connection.raw, ready.sent)

    def _ready_for(self, batch: Sequence[Wanted]) -> _Ready | None:
        """What was prepared for the batch, or is now. None where more has to be known for that."""
        ready, self._ready = self._ready, None
        if ready is not None and self._holds(ready, batch):
            return ready
        return self._made_ready(batch, self._memory.state) if self._is_up_to_date() else None

    def _holds(self, ready: _Ready, batch: Sequence[Wanted]) -> bool:
        before = ready.judged.before
        return self._is_up_to_date() and ready.judged.batch == batch and self._memory.state.is_at(before.position, before.leaf)

    def _is_up_to_date(self) -> bool:
        """Whether what is remembered is likely to be so still."""
        return self._memory.is_alone and self._memory.commits == self._database.commits

    def _made_ready(self, batch: Sequence[Wanted], state: _State) -> _Ready | None:
        """The batch as it is inserted behind this state of the log. None where that has to be asked for more."""
        if any(each.append.create for each in batch) or not state.knows_leaves(sum(len(each.append.prepared) for each in batch)):
            return None
        try:
            tips = {each.append.decision_id: state.tips[each.append.decision_id] for each in batch}
        except KeyError:
            return None
        rows = Rows(state.position, state.leaves)
        judged = self._judge(rows, batch, state, tips)
        if rows.last is None:  # a refusal is believed when it was judged under the lock
            return None
        return _Ready(judged, [(_BEGIN, ()), (self._lock, ()), *rows.after(state.position, state.leaf), (_COMMIT, ())])

    # -- two round trips ------------------------------------------------------------------------------------------------------

    def _append_as_found(self, batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> None:
        names = list({each.append.decision_id: None for each in batch})
        begin = [(_BEGIN, ()), (self._lock, ()), (_LAST, ()), (_TIPS, (texts(names),))]
        for is_last in (False, True):
            connection = self._database.lend(before_waiting)
            with self._lent(connection):
                commits = self._database.commits
                try:
                    *_, last, tips = exchange(connection.raw, begin, before_waiting)
                except faults() as error:
                    if is_last or not is_lost(error, connection.raw):
                        raise
                    continue  # the server had ended an idle connection, and nothing had begun
                position, leaf = (_number(last, 0, 0), _bytes(last, 0, 1)) if last.ntuples else (0, b"")
                self._memory.learn(position, leaf, commits)
                state = self._memory.state
                found = {names[number]: tip for number, tip in _tips(tips, position)}
                judged = self._judge(ConnectedRows(position, state.leaves, connection), batch, state, found)
                if judged.rows.last is not None:
                    self._commit(connection, judged.rows)
                    self._remember(judged)
                judged.answer()
                return

    def _commit(self, connection: PgConnection, rows: Rows) -> None:
        try:
            exchange(connection.raw, [*rows.taken(), (_COMMIT, ())])
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
    def _lent(self, connection: PgConnection) -> Generator[None]:
        try:
            yield
        finally:
            try:
                if not connection.raw.closed and connection.raw.pgconn.pipeline_status:  # interrupted before it waited for the answer
                    connection.raw.close()
                elif not connection.raw.closed and connection.raw.pgconn.transaction_status:  # anything but IDLE
                    roll_back(connection)
            finally:
                self._database.take_back(connection)

    def _judge(self, rows: Rows, batch: Sequence[Wanted], state: _State, tips: Mapping[str, Tip]) -> _Judged:
        """Chain everything that is not refused."""
        log = ChainWriter(rows, "", Tip(0, live=False, next_seq=0, chain_hash=ZERO_HASH, position=state.position))
        writers: dict[str, ChainWriter] = {}
        answers: list[list[StoredEvent] | NexusError] = []
        for each in batch:
            name = each.append.decision_id
            if name not in writers:
                writers[name] = ChainWriter(rows, name, tips.get(name), beside=log)
            try:
                answers.append(self._chain(writers[name], each.append))
            except NexusError as refusal:
                answers.append(refusal)
        log.flush()
        behind = {
            name: Tip(writer.generation, writer.live, writer.seq, writer.prev_hash, rows.position) for name, writer in writers.items()
        }
        return _Judged(batch, state, rows, answers, behind)

    def _remember(self, judged: _Judged) -> None:
        """The state last: an interruption in between leaves an old end of the log, with which nothing is believed."""
        tips = self._memory.state.tips
        tips.update(judged.tips)
        self._memory.state = judged.end(tips)


def _received(line: _Line, before_waiting: Callable[[], None]) -> "list[PGresult]":
    """Raises an error of the driver where the connection was lost, or the sending was interrupted."""
    raw = line.connection.raw
    if line.names is None:
        raw.close()
    return receive(raw, line.names or (), before_waiting)


_inherited: list[object] = []
"""In a forked child: what belongs to the parent, and must not be closed."""


def _tips(result: "PGresult", position: int) -> Iterator[tuple[int, Tip]]:
    """What `_TIPS` gave: the number of a decision among those that were asked for, from 0, and its tip."""
    for row in range(result.ntuples):
        number, generation, tombstone, seq = (_number(result, row, column) for column in range(4))
        yield number - 1, Tip(generation, not tombstone, seq + 1, _bytes(result, row, 4).hex(), position)


def _bytes(result: "PGresult", row: int, column: int) -> bytes:
    return result.get_value(row, column) or b""


def _number(result: "PGresult", row: int, column: int) -> int:
    return int.from_bytes(_bytes(result, row, column), "big", signed=True)
