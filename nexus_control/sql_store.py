"""The append-only event log of decisions, on any backend.

Facts are inserted, never changed: an overwriting import is a new generation of the decision, a deletion a tombstone, and earlier
generations stay readable. Each fact is chained to the one before it and is a leaf of the store's log, written in the same transaction.
The store accepts any event; whether a command may happen is judged above it, inside the same `transaction`.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from nexus_control.backend import Backend, Connection, Dialect, insert, require_cells
from nexus_control.chain_check import IMPORTED, chained_events
from nexus_control.checkpoint import Checkpoint, SignedNote
from nexus_control.errors import ConcurrencyError, DecisionNotFound, InputError, MalformedEvent, StoreUnreadable, brief
from nexus_control.event_rows import (
    EVENT_COLUMNS,
    ChainWriter,
    Prepared,
    Tip,
    payload_or_nothing,
    prepare_all,
    raw_row,
    raw_rows,
    stored_event,
    tip_of,
)
from nexus_control.event_store import End, EventItem, History
from nexus_control.events import (
    Clock,
    EventType,
    StoredEvent,
    in_utc,
    parse_time,
    require_page,
    require_text,
    utc_now,
)
from nexus_control.header import HeaderCopy, ImportOrigin, first_events_copy
from nexus_control.log import Log
from nexus_control.log_check import LogVerification, check_decision, check_store
from nexus_control.template import TemplateStore

__all__ = ["Append", "SqlStore"]

_NEWEST = "SELECT generation, tombstone FROM decisions WHERE decision_id = ? ORDER BY generation DESC LIMIT 1"
_EVENTS_OF_NEWEST = f"""
    SELECT {EVENT_COLUMNS} FROM decision_events
    WHERE decision_id = ? AND generation = (SELECT MAX(generation) FROM decisions WHERE decision_id = ?) ORDER BY seq"""
_EVENTS = f"SELECT {EVENT_COLUMNS} FROM decision_events WHERE decision_id = ? AND generation = ? ORDER BY seq"
_LATEST = f"""
    SELECT tombstone, {", ".join(f"e.{column}" for column in EVENT_COLUMNS.split(", "))}
    FROM decisions AS d
    LEFT JOIN decision_events AS e ON e.decision_id = d.decision_id AND e.generation = d.generation AND e.event_type = ?
    WHERE d.decision_id = ? ORDER BY d.generation DESC, e.seq DESC LIMIT 1"""
_EVENTS_OF_MANY = f"""
    WITH wanted (id) AS (VALUES {{}})
    SELECT {EVENT_COLUMNS} FROM wanted
    JOIN decision_events ON decision_id = id AND generation = (SELECT MAX(generation) FROM decisions WHERE decision_id = id)
    ORDER BY seq"""
_IDS_PER_QUERY = 1000
_WIDTH = len(EVENT_COLUMNS.split(", "))
_PAGE = """
    SELECT decision_id, created_at FROM decisions AS d
    WHERE tombstone = 0
      AND NOT EXISTS (SELECT 1 FROM decisions WHERE decision_id = d.decision_id AND generation > d.generation)
    ORDER BY created_at DESC, position DESC LIMIT ? OFFSET ?"""
_GENERATIONS = """
    SELECT generation, created_at, tombstone,
           (SELECT COUNT(*) FROM decision_events AS e WHERE e.decision_id = d.decision_id AND e.generation = d.generation) AS event_count
    FROM decisions AS d WHERE decision_id = ? ORDER BY generation"""
_HISTORY = f"""
    SELECT {", ".join(f"e.{column}" for column in EVENT_COLUMNS.split(", "))}, d.generation, {IMPORTED},
           (SELECT COALESCE(MAX(position), 0) FROM log)
    FROM decisions AS d
    JOIN decision_events AS e ON e.decision_id = d.decision_id AND e.generation = d.generation
    LEFT JOIN imports AS i ON i.decision_id = d.decision_id AND i.generation = d.generation
    WHERE d.decision_id = ? AND d.generation = (SELECT MAX(generation) FROM decisions WHERE decision_id = ?) ORDER BY e.seq"""
_ORIGIN = f"""
    SELECT d.generation, d.tombstone, {IMPORTED} AS imported, (SELECT COALESCE(MAX(position), 0) FROM log) AS position
    FROM decisions AS d LEFT JOIN imports AS i ON i.decision_id = d.decision_id AND i.generation = d.generation
    WHERE d.decision_id = ? ORDER BY d.generation DESC LIMIT 1"""
_INSERT_IMPORT = "INSERT INTO imports (decision_id, generation, events) VALUES (?, ?, ?)"


@dataclass(frozen=True)
class Append:
    """What `append_events` was asked for, with everything done that needs no lock."""

    decision_id: str
    prepared: list[Prepared]
    expected_seq: int | None
    create: bool
    tip: Tip | None = None
    """Where the decision and the log end, when that is known."""


class SqlStore:
    """Decisions and their events in one database; a subclass opens it.

    `clock` gives timezone-aware times, `new_id` new decision ids; both are for tests to own. Usable from several threads, as a
    context manager, and until `close`. Besides what each method names, all of them raise `StoreError` when the database cannot do its work.
    """

    def __init__(self, backend: Backend, dialect: Dialect, *, clock: Clock = utc_now, new_id: Callable[[], str] | None = None) -> None:
        self.clock = in_utc(clock)
        self.new_id: Callable[[], str] = new_id if new_id is not None else _uuid4
        self._database = backend
        self._dialect = dialect
        self._log = Log(backend)

    # -- life -----------------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Where the store is: the absolute path of a file, `:memory:`, or the URL of a database without its password."""
        return self._database.path

    @property
    def backend(self) -> Backend:
        """The database, for what works on the rows of whole stores."""
        return self._database

    @property
    def dialect(self) -> Dialect:
        """What the database does in its own way."""
        return self._dialect

    def close(self) -> None:
        """Close all connections; the store is unusable from then on (StoreClosed). Closing again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def transaction(self) -> AbstractContextManager[object]:
        """All or nothing for everything called on this store in this thread inside the block, under the write lock from its start.

        What is read inside cannot have changed before the commit. Blocks nest: inner ones join. Any exception that leaves the block,
        or an inner one, rolls back everything.
        """
        return self._database.transaction()

    @property
    def in_transaction(self) -> bool:
        """Whether this thread stands in a `transaction` block, so that nothing it writes is stored yet."""
        return self._database.is_writing

    def snapshot(self) -> AbstractContextManager[object]:
        """One consistent view for all reads of this thread inside the block. Takes no write lock."""
        return self._database.snapshot()

    def at_once(self) -> AbstractContextManager[object] | None:
        """A block in which reads of this thread raise StoreBusy where they would have to wait for somebody; for event loops.

        None where that cannot be had: of a database across a network, of one in memory that threads share, and in a thread that has not
        used the store yet.
        """
        return self._database.at_once()

    # -- writing --------------------------------------------------------------------------------------------------------------

    def create_decision(self, decision_id: str | None = None) -> str:
        """Insert a header without events; gives the id (a new UUID4 when None). The id of a deleted decision starts its next generation.

        Raises DecisionExists (on SQLite a `sqlite3.IntegrityError` too) when the decision exists.
        """
        name = self.new_id() if decision_id is None else decision_id
        self.append_events(name, (), create=True)
        return name

    def append_event(
        self,
        decision_id: str,
        event_type: EventType,
        actor: Mapping[str, str],
        payload: Mapping[str, Any],
        *,
        expected_seq: int | None = None,
        after: End | None = None,
    ) -> StoredEvent:
        """Append one event; see `append_events`."""
        return self.append_events(decision_id, [(event_type, actor, payload)], expected_seq=expected_seq, after=after)[0]

    def append_events(
        self,
        decision_id: str,
        items: Sequence[EventItem],
        *,
        expected_seq: int | None = None,
        create: bool = False,
        after: End | None = None,
    ) -> list[StoredEvent]:
        """Append events, all or none, in one transaction. Any event may follow any other.

        `expected_seq` is the seq that the first of them must get. With `create` the header is inserted with them. `after` is the `end` of
        the decision, as it was read in the transaction that is open: it need not be asked again. One that is older than the last fact of
        the store is refused (StoreConflict; a log has no two entries of one position).
        Raises DecisionNotFound (or DecisionExists with `create`), ConcurrencyError when `expected_seq` is taken or not reached yet,
        InputError for a wrong type, actor or payload (one that canonical JSON cannot express).
        """
        name = require_text(decision_id, "decision_id")
        return self._append_alone(Append(name, prepare_all(items), expected_seq, create, _tip_at(after, name)))

    def _append_alone(self, wanted: Append) -> list[StoredEvent]:
        with self._database.transaction() as connection:
            writer = ChainWriter(connection, wanted.decision_id, wanted.tip or tip_of(connection, wanted.decision_id))
            stored = self._chained(writer, wanted)
            writer.flush()
            return stored

    def _chained(self, writer: ChainWriter, wanted: Append) -> list[StoredEvent]:
        """The events as they will be stored, collected by the writer; raises before anything is written or collected."""
        name, now = wanted.decision_id, self.clock()
        ts = now.isoformat()
        if wanted.create and writer.live:
            raise self._dialect.decision_exists(f"Decision already exists: {name}")
        if not wanted.create and not writer.live:
            raise DecisionNotFound(name)
        next_seq = 0 if wanted.create else writer.seq
        if wanted.expected_seq is not None and wanted.expected_seq != next_seq:
            raise ConcurrencyError(f"expected the next event of {name} to be {wanted.expected_seq}, but it is {next_seq}; read it again")
        if wanted.create:
            facts = ((event_type, actor["type"], actor["id"], payload) for event_type, _, actor, payload, _, _ in wanted.prepared)
            writer.header(ts, first_events_copy(facts))
        stored: list[StoredEvent] = []
        for event_type, name_of_type, actor, payload, payload_json, digest in wanted.prepared:
            seq, prev_hash = writer.seq, writer.prev_hash
            writer.event((seq, name_of_type, ts, actor["type"], actor["id"], payload_json, digest), payload_json)
            chained = (prev_hash, writer.prev_hash, writer.log.position)
            stored.append(StoredEvent(name, seq, event_type, now, actor, payload, digest, *chained))
        return stored

    def delete_decision(self, decision_id: str) -> bool:
        """Insert a tombstone: for readers the decision is gone, its generations stay stored. False when there was nothing to delete."""
        name = require_text(decision_id, "decision_id")
        with self._database.transaction() as connection:
            tip = tip_of(connection, name)
            if tip is None or not tip.live:
                return False
            writer = ChainWriter(connection, name, tip)
            writer.header(self.clock().isoformat(), HeaderCopy(), tombstone=True)
            writer.flush()
            return True

    def insert_event_raw(
        self, decision_id: str, seq: int, event_type: str, ts: str, actor_type: str, actor_id: str, payload: str, digest: str
    ) -> None:
        """Insert the values, whatever they say, into the newest generation; position and chain values are added. For import tooling.

        A payload that has a canonical form is stored in it. Events must come in ascending seq for the chain to verify. Raises
        DecisionNotFound, InputError for a value of the wrong type, StoreConflict (on SQLite a `sqlite3.IntegrityError` too) for a seq
        that is taken.
        """
        name = require_text(decision_id, "decision_id")
        row = raw_row((seq, event_type, ts, actor_type, actor_id, payload, digest))
        with self._database.transaction() as connection:
            tip = tip_of(connection, name)
            if tip is None or not tip.live:
                raise DecisionNotFound(name)
            writer = ChainWriter(connection, name, tip)
            writer.event(*row)
            writer.flush()

    def import_decision_atomic(
        self,
        decision_id: str,
        created_at: str,
        events: Sequence[Mapping[str, Any]],
        overwrite: bool = False,
        *,
        origin: ImportOrigin | None = None,
    ) -> tuple[bool, str | None]:
        """Insert a decision with all its events in one transaction; with `overwrite` an existing one gets a new generation.

        Event keys: `seq`, `event_type`, `ts`, `actor_type`, `actor_id`, `payload` (JSON text), `digest`. Gives (True, None), or
        (False, text) when the decision exists and `overwrite` is off. Raises InputError for a `created_at` that is no time and for an
        event without one of these keys or with a value of the wrong type; StoreConflict (on SQLite a `sqlite3.IntegrityError` too) for a
        seq that comes twice.
        """
        name = require_text(decision_id, "decision_id")
        created = _utc_text(created_at)
        rows = raw_rows(events)
        with self._database.transaction() as connection:
            tip = tip_of(connection, name)
            if not overwrite and tip is not None and tip.live:
                return False, f"Decision already exists: {name}"
            writer = ChainWriter(connection, name, tip)
            facts = ((kind, who_type, who, payload_or_nothing(payload)) for (_, kind, _, who_type, who, payload, _), _ in rows)
            writer.header(created, first_events_copy(facts, origin))
            for row in rows:
                writer.event(*row)
            writer.flush()
            insert(connection, _INSERT_IMPORT, [(name, writer.generation, len(rows))])
            return True, None

    # -- reading --------------------------------------------------------------------------------------------------------------

    def get_events(self, decision_id: str, generation: int | None = None) -> list[StoredEvent]:
        """The events in ascending seq, of the newest generation or of the one given (a tombstone has none).

        Raises DecisionNotFound for an unknown id or generation, MalformedEvent for a row that cannot be read.
        """
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            if generation is None and (rows := connection.execute(_EVENTS_OF_NEWEST, (name, name)).fetchall()):  # a tombstone has none
                return [stored_event(row) for row in rows]
            newest = _newest(connection, name)
            if newest is None or (generation is None and newest["tombstone"]):
                raise DecisionNotFound(name)
            if generation is None:
                generation = newest["generation"]
            elif type(generation) is not int or not 1 <= generation <= newest["generation"]:
                raise DecisionNotFound(f"{name} has only the generations 1 to {newest['generation']}")
            # A generation only grows, so the second statement needs no common snapshot with the first.
            rows = connection.execute(_EVENTS, (name, generation)).fetchall()
        return [stored_event(row) for row in rows]

    def history(self, decision_id: str, *, chained: bool = False) -> History:
        """The newest generation, for a command that is judged by it and appended `after` it. Raises DecisionNotFound, MalformedEvent.

        With `chained` each row is proven to follow from the header through the rows before it and to be in the log. Raises HistoryAltered
        where one does not: a row was changed, added or removed by somebody who did not recompute what follows. Newest events that were
        removed, or are hidden by a damaged index, show only while nothing follows them in the whole store.
        """
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            if chained:
                rows, *rest = chained_events(connection, name)
                return History([stored_event(row) for row in rows], *rest)
            if rows := connection.execute(_HISTORY, (name, name)).fetchall():
                require_cells(rows[0][_WIDTH:], (int, int, int), f"the header of {name}, or the record of its import,")
                return History([stored_event(row[:_WIDTH]) for row in rows], *rows[0][_WIDTH:])
            row = self._origin(connection, name)
        return History([], row["generation"], row["imported"], row["position"])

    def end(self, decision_id: str) -> End:
        """Where the newest generation ends, and the log. Raises DecisionNotFound."""
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            tip = tip_of(connection, name)
        if tip is None or not tip.live:
            raise DecisionNotFound(name)
        return End(name, tip.generation, tip.next_seq, tip.chain_hash, tip.position)

    def latest_event(self, decision_id: str, event_type: EventType) -> StoredEvent | None:
        """The last event of this type, None when there is none. Raises DecisionNotFound, and MalformedEvent when it cannot be read."""
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            found = connection.execute(_LATEST, (event_type.value, name)).fetchone()
        if found is not None:
            require_cells(found[:1], (int,), f"the header of {name}")
        if found is None or found["tombstone"]:
            raise DecisionNotFound(name)
        return None if found["seq"] is None else stored_event(tuple(found)[1:])

    def get_events_of(self, decision_ids: Sequence[str]) -> dict[str, list[StoredEvent] | MalformedEvent]:
        """The events of several existing decisions with few queries; for one that cannot be read, the error instead."""
        found: dict[str, list[StoredEvent] | MalformedEvent] = {decision_id: [] for decision_id in decision_ids}
        try:
            rows = self._event_rows(list(found))
        except StoreUnreadable:  # a text that is not UTF-8: the decision that has it cannot be read, the others must
            rows: list[Any] = []
            for decision_id in found:
                try:
                    rows += self._event_rows([decision_id])
                except StoreUnreadable as error:
                    found[decision_id] = MalformedEvent(f"the events of {decision_id} cannot be read: {error}")
        for row in rows:
            events = found.get(row["decision_id"])
            if events is None:
                return self._one_by_one(decision_ids)
            if isinstance(events, list):
                try:
                    events.append(stored_event(row))
                except MalformedEvent as error:
                    found[row["decision_id"]] = error
        return found

    def _one_by_one(self, decision_ids: Sequence[str]) -> dict[str, list[StoredEvent] | MalformedEvent]:
        """As `get_events_of`, where an event that was found by the id of one of them has another one in its row."""
        found: dict[str, list[StoredEvent] | MalformedEvent] = {}
        for decision_id in decision_ids:
            try:
                events = [stored_event(row) for row in self._event_rows([decision_id])]
                if other := next((event for event in events if event.decision_id != decision_id), None):
                    raise MalformedEvent(f"event {other.seq} of {decision_id} says that it is of {brief(other.decision_id)}")
                found[decision_id] = events
            except (MalformedEvent, StoreUnreadable) as error:
                found[decision_id] = MalformedEvent(f"the events of {decision_id} cannot be read: {error}")
        return found

    def _event_rows(self, decision_ids: Sequence[str]) -> list[Any]:
        """The event rows of these decisions, ascending per decision."""
        rows: list[Any] = []
        with self._database.reading() as connection:
            for start in range(0, len(decision_ids), _IDS_PER_QUERY):
                some = decision_ids[start : start + _IDS_PER_QUERY]
                rows += connection.execute(_EVENTS_OF_MANY.format(", ".join(["(?)"] * len(some))), some).fetchall()
        return rows

    def list_decisions(self, limit: int = 100, offset: int = 0) -> list[tuple[str, datetime]]:
        """Ids and creation times, newest first; equal times by insertion, newest first. Raises InputError for numbers that make no page."""
        return [(decision_id, parse_time(created_at)) for decision_id, created_at in self.decision_page(limit, offset)]

    def decision_page(self, limit: int, offset: int) -> list[tuple[str, str]]:
        """As `list_decisions`, with the creation times as they are stored."""
        require_page(limit, offset)
        with self._database.reading() as connection:
            page = [(row[0], row[1]) for row in connection.execute(_PAGE, (limit, offset))]
        for row in page:
            if not (str is type(row[0]) is type(row[1])):
                require_cells(row, (str, str), f"the header of {row[0]!r:.100}")
        return page

    def decision_exists(self, decision_id: str) -> bool:
        """Whether the newest generation of this id is a decision and no tombstone."""
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            newest = _newest(connection, name)
        return newest is not None and not newest["tombstone"]

    def list_generations(self, decision_id: str) -> list[dict[str, Any]]:
        """All generations, ascending: `generation`, `created_at` (ISO), `tombstone`, `event_count`. Empty for an id never stored."""
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            rows = connection.execute(_GENERATIONS, (name,)).fetchall()
        for row in rows:
            require_cells(row, (int, str, int, int), f"a header of {name}")
        return [{**dict(row), "tombstone": bool(row["tombstone"])} for row in rows]

    def origin(self, decision_id: str) -> tuple[int, int]:
        """The newest generation of a decision, and how many of its events, the first ones, an import brought.

        Raises DecisionNotFound. Where an import is known without its number of events, it brought all of them.
        """
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            row = self._origin(connection, name)
        return row["generation"], row["imported"]

    @staticmethod
    def _origin(connection: Connection, name: str) -> Any:
        row = connection.execute(_ORIGIN, (name,)).fetchone()
        if row is None:
            raise DecisionNotFound(name)
        require_cells(row, (int, int, int, int), f"the header of {name}, or the record of its import,")
        if row["tombstone"]:
            raise DecisionNotFound(name)
        return row

    def get_template_store(self) -> TemplateStore:
        """The templates of the same database, usable from any thread for as long as this store is open."""
        return TemplateStore(self._database, clock=self.clock, dialect=self._dialect)

    # -- log ------------------------------------------------------------------------------------------------------------------

    def log_root(self, size: int | None = None) -> tuple[int, str]:
        """Tree size and raw RFC 6962 root over the first `size` facts (None: all). Raises InputError for a size not reached."""
        return self._log.root(size)

    def inclusion_proof(self, position: int, size: int | None = None) -> list[str]:
        """RFC 6962 audit path of the fact at `position` (from 1), raw hashes. Raises InputError for a position or size not reached."""
        return self._log.inclusion_proof(position, size)

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[str]:
        """RFC 6962 consistency proof between two sizes, raw hashes. Raises InputError for sizes not reached."""
        return self._log.consistency_proof(old_size, new_size)

    def joint_inclusion_proof(self, positions: Collection[int], size: int | None = None) -> list[str]:
        """One proof for the facts at all `positions`, raw hashes in the order of `merkle.joint_inclusion_proof`. Raises InputError."""
        return self._log.joint_inclusion_proof(positions, size)

    def checkpoints(self) -> list[SignedNote]:
        """The stored checkpoints of the log, oldest first. Raises MalformedNote for a row that holds none."""
        return self._log.checkpoints()

    def certain_log_root(self) -> tuple[int, str]:
        """As `log_root`, trusting no cached hash that is not under the last checkpoint: what a new checkpoint may say.

        Raises LogRewritten when the log does not begin with the entries of its last checkpoint.
        """
        return self._log.certain_root()

    def add_checkpoint(self, note: SignedNote) -> Checkpoint:
        """Store a checkpoint of this log: of its present root, or one stored before with more signatures. No signature is checked.

        Raises MalformedNote, InputError when it is not of this log as it is, LogRewritten as above.
        """
        return self._log.add_checkpoint(note)

    def verify_log(self, decision_id: str | None = None) -> LogVerification:
        """Recompute digests and chains: of one decision over all its generations, or of the whole store with every leaf and position.

        Of the whole store, SQLite's indexes are compared with their tables as well. One decision is read through an index, in time that
        does not grow with the store: a row that the index hides does not show there. Raises DecisionNotFound for an id never stored.
        """
        name = None if decision_id is None else require_text(decision_id, "decision_id")
        with self._database.lenient_snapshot() as (connection, damaged):
            return check_store(connection, damaged, self._dialect) if name is None else check_decision(connection, name, damaged)


def _newest(connection: Connection, name: str) -> Any:
    row = connection.execute(_NEWEST, (name,)).fetchone()
    if row is not None:
        require_cells(row, (int, int), f"the header of {name}")
    return row


def _tip_at(end: End | None, decision_id: str) -> Tip | None:
    if end is None:
        return None
    if end.decision_id != decision_id:
        raise InputError(f"this is no end of {decision_id}")
    return Tip(end.generation, True, end.next_seq, end.chain_hash, end.position)


def _uuid4() -> str:
    return str(uuid.uuid4())


def _utc_text(created_at: str) -> str:
    """A creation time from outside in the one form that the index of the list can sort."""
    try:
        return parse_time(created_at).isoformat()
    except MalformedEvent as error:
        raise InputError(f"created_at: {error}") from None
