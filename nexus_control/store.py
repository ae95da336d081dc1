"""The append-only event log of decisions, on SQLite.

Facts are inserted, never changed: an overwriting import is a new generation of the decision, a deletion a tombstone, and earlier
generations stay readable. Each fact is chained to the one before it and is a leaf of the store's log, written in the same transaction.
The store accepts any event; whether a command may happen is judged above it, inside the same `transaction`.
"""

import json
import uuid
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, cast

from nexus_control.canonical_json import canonical_json
from nexus_control.checkpoint import Checkpoint, SignedNote
from nexus_control.database import Database
from nexus_control.errors import ConcurrencyError, DecisionNotFound, InputError, MalformedEvent, StoreUnreadable
from nexus_control.events import (
    ZERO_HASH,
    Actor,
    Clock,
    EventType,
    StoredEvent,
    decode_payload,
    event_digest,
    event_record,
    generation_record,
    parse_time,
    require_text,
    utc_now,
)
from nexus_control.header import COPY_COLUMNS, HeaderCopy, ImportOrigin, first_events_copy
from nexus_control.log import Log, LogWriter
from nexus_control.log_check import LogVerification, chained_events, check_decision, check_store
from nexus_control.schema import SCHEMA
from nexus_control.sqlite import Connection, SqliteDecisionExists
from nexus_control.template import TemplateStore

__all__ = ["ConcurrencyError", "DecisionStore", "EventItem", "EventStore", "ImportOrigin", "LogVerification", "StoredEvent"]

EventItem: TypeAlias = tuple[EventType, Mapping[str, str], Mapping[str, Any]]
"""What is appended: type, actor, payload."""

_EVENT_COLUMNS = "seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain, position, decision_id"

_NEWEST = "SELECT generation, tombstone FROM decisions WHERE decision_id = ? ORDER BY generation DESC LIMIT 1"
_TIP = """
    SELECT d.generation, d.tombstone, d.chain, e.seq, e.chain, (SELECT COALESCE(MAX(position), 0) FROM log)
    FROM (SELECT generation, tombstone, chain FROM decisions WHERE decision_id = :id ORDER BY generation DESC LIMIT 1) AS d
    LEFT JOIN decision_events AS e ON e.decision_id = :id AND e.generation = d.generation
    ORDER BY e.seq DESC LIMIT 1"""
_EVENTS = f"SELECT {_EVENT_COLUMNS} FROM decision_events WHERE decision_id = ? AND generation = ? ORDER BY seq"
_LATEST = f"""
    SELECT {_EVENT_COLUMNS} FROM decision_events
    WHERE decision_id = ? AND generation = ? AND event_type = ? ORDER BY seq DESC LIMIT 1"""
_EVENTS_OF_MANY = f"""
    WITH wanted (id) AS (VALUES {{}})
    SELECT {_EVENT_COLUMNS} FROM wanted
    JOIN decision_events ON decision_id = id AND generation = (SELECT MAX(generation) FROM decisions WHERE decision_id = id)
    ORDER BY seq"""
_IDS_PER_QUERY = 1000
_PAGE = """
    SELECT decision_id, created_at FROM decisions AS d
    WHERE tombstone = 0
      AND NOT EXISTS (SELECT 1 FROM decisions WHERE decision_id = d.decision_id AND generation > d.generation)
    ORDER BY created_at DESC, position DESC LIMIT ? OFFSET ?"""
_GENERATIONS = """
    SELECT generation, created_at, tombstone,
           (SELECT COUNT(*) FROM decision_events AS e WHERE e.decision_id = d.decision_id AND e.generation = d.generation) AS event_count
    FROM decisions AS d WHERE decision_id = ? ORDER BY generation"""
_HEADER_COLUMNS = (
    "decision_id",
    "generation",
    "created_at",
    "tombstone",
    *COPY_COLUMNS,
    "copy_digest",
    "prev",
    "chain",
    "position",
)
_INSERT_HEADER = f"INSERT INTO decisions ({', '.join(_HEADER_COLUMNS)}) VALUES ({', '.join('?' * len(_HEADER_COLUMNS))})"
_INSERT_EVENT = """
    INSERT INTO decision_events
        (position, decision_id, generation, seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_TYPES = {member.value: member for member in EventType}

_EventRow: TypeAlias = tuple[int, str, str, str, str, str, str]
"""What is given of an event row, in `_RAW_KEYS` order; the rest is derived."""
_RAW_KEYS = ("seq", "event_type", "ts", "actor_type", "actor_id", "payload", "digest")
_SEQ_LIMIT = 2**53


class EventStore(Protocol):
    """What the rest of the engine needs of a store of decisions; `DecisionStore` describes each method.

    Other backends raise `ConcurrencyError` and `DecisionExists` where SQLite's own exceptions are named there.
    """

    clock: Clock
    new_id: Callable[[], str]

    def transaction(self) -> AbstractContextManager[None]: ...
    def snapshot(self) -> AbstractContextManager[None]: ...
    def create_decision(self, decision_id: str | None = None) -> str: ...
    def append_event(
        self,
        decision_id: str,
        event_type: EventType,
        actor: Mapping[str, str],
        payload: Mapping[str, Any],
        *,
        expected_seq: int | None = None,
    ) -> StoredEvent: ...
    def append_events(
        self, decision_id: str, items: Sequence[EventItem], *, expected_seq: int | None = None, create: bool = False
    ) -> list[StoredEvent]: ...
    def get_events(self, decision_id: str, generation: int | None = None) -> list[StoredEvent]: ...
    def get_chained_events(self, decision_id: str) -> list[StoredEvent]: ...
    def latest_event(self, decision_id: str, event_type: EventType) -> StoredEvent | None: ...
    def get_events_of(self, decision_ids: Sequence[str]) -> dict[str, list[StoredEvent] | MalformedEvent]: ...
    def list_generations(self, decision_id: str) -> list[dict[str, Any]]: ...
    def list_decisions(self, limit: int = 100, offset: int = 0) -> list[tuple[str, datetime]]: ...
    def decision_page(self, limit: int, offset: int) -> list[tuple[str, str]]: ...
    def decision_exists(self, decision_id: str) -> bool: ...
    def delete_decision(self, decision_id: str) -> bool: ...
    def import_decision_atomic(
        self,
        decision_id: str,
        created_at: str,
        events: Sequence[Mapping[str, Any]],
        overwrite: bool = False,
        *,
        origin: ImportOrigin | None = None,
    ) -> tuple[bool, str | None]: ...
    def get_template_store(self) -> TemplateStore: ...
    def log_root(self, size: int | None = None) -> tuple[int, str]: ...
    def inclusion_proof(self, position: int, size: int | None = None) -> list[str]: ...
    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[str]: ...
    def joint_inclusion_proof(self, positions: Collection[int], size: int | None = None) -> list[str]: ...
    def checkpoints(self) -> list[SignedNote]: ...
    def certain_log_root(self) -> tuple[int, str]: ...
    def add_checkpoint(self, note: SignedNote) -> Checkpoint: ...
    def verify_log(self, decision_id: str | None = None) -> LogVerification: ...
    def close(self) -> None: ...


class DecisionStore:
    """Decisions and their events in one SQLite database: `:memory:` (private to this object) or a file (shared with other processes).

    `clock` gives timezone-aware UTC times, `new_id` new decision ids; both are for tests to own. Usable from several threads, as a
    context manager, and until `close`. Besides what each method names, all of them raise `StoreError` when SQLite cannot do its work.
    """

    def __init__(self, db_path: str | Path = ":memory:", *, clock: Clock = utc_now, new_id: Callable[[], str] | None = None) -> None:
        self.clock = clock
        self.new_id: Callable[[], str] = new_id if new_id is not None else _uuid4
        self._database = Database(db_path, SCHEMA)
        self._log = Log(self._database)

    # -- life -----------------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The absolute path of the file, or `:memory:`."""
        return self._database.path

    def close(self) -> None:
        """Close all connections; the store is unusable from then on (StoreClosed). Closing again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """All or nothing for everything called on this store in this thread inside the block, under the write lock from its start.

        What is read inside cannot have changed before the commit. Blocks nest: inner ones join. Any exception that leaves the block,
        or an inner one, rolls back everything.
        """
        with self._database.transaction():
            yield

    @contextmanager
    def snapshot(self) -> Generator[None, None, None]:
        """One consistent view for all reads of this thread inside the block. Takes no write lock."""
        with self._database.snapshot():
            yield

    # -- writing --------------------------------------------------------------------------------------------------------------

    def create_decision(self, decision_id: str | None = None) -> str:
        """Insert a header without events; gives the id (a new UUID4 when None). The id of a deleted decision starts its next generation.

        Raises DecisionExists, which is a `sqlite3.IntegrityError` here, when the decision exists.
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
    ) -> StoredEvent:
        """Append one event; see `append_events`."""
        return self.append_events(decision_id, [(event_type, actor, payload)], expected_seq=expected_seq)[0]

    def append_events(
        self, decision_id: str, items: Sequence[EventItem], *, expected_seq: int | None = None, create: bool = False
    ) -> list[StoredEvent]:
        """Append events, all or none, in one transaction. Any event may follow any other.

        `expected_seq` is the seq that the first of them must get. With `create` the header is inserted with them.
        Raises DecisionNotFound (or DecisionExists with `create`), ConcurrencyError when `expected_seq` is taken or not reached yet,
        InputError for a wrong type, actor or payload (one that canonical JSON cannot express).
        """
        decision_id = require_text(decision_id, "decision_id")
        prepared = [_prepare(item) for item in items]
        with self._database.transaction() as connection:
            now = self.clock()
            ts = now.isoformat()
            tip = _tip(connection, decision_id)
            writer = _Writer(connection, decision_id, tip)
            if create:
                if tip is not None and tip.live:
                    raise SqliteDecisionExists(f"Decision already exists: {decision_id}")
                facts = ((event_type, actor["type"], actor["id"], payload) for event_type, actor, payload, _, _ in prepared)
                writer.header(ts, first_events_copy(facts))
            elif tip is None or not tip.live:
                raise DecisionNotFound(decision_id)
            if expected_seq is not None and expected_seq != writer.seq:
                raise ConcurrencyError(
                    f"expected the next event of {decision_id} to be {expected_seq}, but it is {writer.seq}; read it again"
                )
            stored: list[StoredEvent] = []
            for event_type, actor, payload, payload_json, digest in prepared:
                seq, prev_hash = writer.seq, writer.prev_hash
                writer.event((seq, event_type.value, ts, actor["type"], actor["id"], payload_json, digest), payload_json)
                chained = (prev_hash, writer.prev_hash, writer.log.position)
                stored.append(StoredEvent(decision_id, seq, event_type, now, actor, payload, digest, *chained))
            writer.flush()
            return stored

    def delete_decision(self, decision_id: str) -> bool:
        """Insert a tombstone: for readers the decision is gone, its generations stay stored. False when there was nothing to delete."""
        name = require_text(decision_id, "decision_id")
        with self._database.transaction() as connection:
            tip = _tip(connection, name)
            if tip is None or not tip.live:
                return False
            writer = _Writer(connection, name, tip)
            writer.header(self.clock().isoformat(), HeaderCopy(), tombstone=True)
            writer.flush()
            return True

    def insert_event_raw(
        self, decision_id: str, seq: int, event_type: str, ts: str, actor_type: str, actor_id: str, payload: str, digest: str
    ) -> None:
        """Insert the values, whatever they say, into the newest generation; position and chain values are added. For import tooling.

        A payload that has a canonical form is stored in it. Events must come in ascending seq for the chain to verify. Raises
        DecisionNotFound, InputError for a value of the wrong type, `sqlite3.IntegrityError` for a seq that is taken.
        """
        name = require_text(decision_id, "decision_id")
        row = _raw_row((seq, event_type, ts, actor_type, actor_id, payload, digest))
        with self._database.transaction() as connection:
            tip = _tip(connection, name)
            if tip is None or not tip.live:
                raise DecisionNotFound(name)
            writer = _Writer(connection, name, tip)
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
        event without one of these keys or with a value of the wrong type; `sqlite3.IntegrityError` for a seq that comes twice.
        """
        name = require_text(decision_id, "decision_id")
        created = _utc_text(created_at)
        rows = [_raw_row([event.get(key) for key in _RAW_KEYS]) for event in events]
        with self._database.transaction() as connection:
            tip = _tip(connection, name)
            if not overwrite and tip is not None and tip.live:
                return False, f"Decision already exists: {name}"
            writer = _Writer(connection, name, tip)
            facts = ((kind, who_type, who, _payload_or_nothing(payload)) for (_, kind, _, who_type, who, payload, _), _ in rows)
            writer.header(created, first_events_copy(facts, origin))
            for row in rows:
                writer.event(*row)
            writer.flush()
            return True, None

    # -- reading --------------------------------------------------------------------------------------------------------------

    def get_events(self, decision_id: str, generation: int | None = None) -> list[StoredEvent]:
        """The events in ascending seq, of the newest generation or of the one given (a tombstone has none).

        Raises DecisionNotFound for an unknown id or generation, MalformedEvent for a row that cannot be read.
        """
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            newest = connection.execute(_NEWEST, (name,)).fetchone()
            if newest is None or (generation is None and newest["tombstone"]):
                raise DecisionNotFound(name)
            if generation is None:
                generation = newest["generation"]
            elif generation not in range(1, newest["generation"] + 1):
                raise DecisionNotFound(f"{name} has only the generations 1 to {newest['generation']}")
            # A generation only grows, so the second statement needs no common snapshot with the first.
            rows = connection.execute(_EVENTS, (name, generation)).fetchall()
        return [_stored_event(row) for row in rows]

    def get_chained_events(self, decision_id: str) -> list[StoredEvent]:
        """As `get_events`, after proving that each row follows from the header through the rows before it and is in the log.

        Raises HistoryAltered where one does not: a row was changed, added or removed by somebody who did not recompute what follows.
        """
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            rows = chained_events(connection, name)
        return [_stored_event(row) for row in rows]

    def latest_event(self, decision_id: str, event_type: EventType) -> StoredEvent | None:
        """The last event of this type, None when there is none. Raises DecisionNotFound, and MalformedEvent when it cannot be read."""
        name = require_text(decision_id, "decision_id")
        with self._database.snapshot() as connection:
            newest = connection.execute(_NEWEST, (name,)).fetchone()
            if newest is None or newest["tombstone"]:
                raise DecisionNotFound(name)
            row = connection.execute(_LATEST, (name, newest["generation"], event_type.value)).fetchone()
        return None if row is None else _stored_event(row)

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
            events = found[row["decision_id"]]
            if isinstance(events, list):
                try:
                    events.append(_stored_event(row))
                except MalformedEvent as error:
                    found[row["decision_id"]] = error
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
        """Ids and creation times, newest first; equal times by insertion, newest first."""
        return [(decision_id, parse_time(created_at)) for decision_id, created_at in self.decision_page(limit, offset)]

    def decision_page(self, limit: int, offset: int) -> list[tuple[str, str]]:
        """As `list_decisions`, with the creation times as they are stored."""
        if not all(type(cast("object", number)) is int and number.bit_length() < 64 for number in (limit, offset)):
            raise InputError("limit and offset must be integers of at most 64 bits")
        with self._database.reading() as connection:
            return [(row[0], row[1]) for row in connection.execute(_PAGE, (limit, offset))]

    def decision_exists(self, decision_id: str) -> bool:
        """Whether the newest generation of this id is a decision and no tombstone."""
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            newest = connection.execute(_NEWEST, (name,)).fetchone()
        return newest is not None and not newest["tombstone"]

    def list_generations(self, decision_id: str) -> list[dict[str, Any]]:
        """All generations, ascending: `generation`, `created_at` (ISO), `tombstone`, `event_count`. Empty for an id never stored."""
        name = require_text(decision_id, "decision_id")
        with self._database.reading() as connection:
            return [{**dict(row), "tombstone": bool(row["tombstone"])} for row in connection.execute(_GENERATIONS, (name,))]

    def get_template_store(self) -> TemplateStore:
        """The templates of the same database, usable from any thread for as long as this store is open."""
        return TemplateStore(self._database, clock=self.clock)

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

        Raises DecisionNotFound for an id that was never stored.
        """
        name = None if decision_id is None else require_text(decision_id, "decision_id")
        with self._database.lenient_snapshot() as (connection, damaged):
            return check_store(connection, damaged) if name is None else check_decision(connection, name, damaged)


@dataclass(frozen=True)
class _Tip:
    """The end of a decision's chain, and of the store's log."""

    generation: int
    live: bool
    next_seq: int
    chain_hash: str
    position: int


def _tip(connection: Connection, decision_id: str) -> _Tip | None:
    """Where the next row of this decision goes; None for an id that was never stored."""
    row = connection.execute(_TIP, {"id": decision_id}).fetchone()
    if row is None:
        return None
    generation, tombstone, header_hash, seq, event_hash, position = row
    next_seq, chain = (0, header_hash) if seq is None else (seq + 1, event_hash)
    return _Tip(generation, not tombstone, next_seq, chain.hex(), position)


class _Writer:
    """Chains new rows of one decision to its tip and to the log, inside a transaction; `flush` inserts what was collected."""

    def __init__(self, connection: Connection, decision_id: str, tip: _Tip | None) -> None:
        self._connection = connection
        self._decision_id = decision_id
        self._generation, self.seq, self.prev_hash = (0, 0, ZERO_HASH) if tip is None else (tip.generation, tip.next_seq, tip.chain_hash)
        self._events: list[tuple[object, ...]] = []
        self.log = LogWriter(connection, None if tip is None else tip.position)

    def header(self, created_at: str, copy: HeaderCopy, *, tombstone: bool = False) -> None:
        """Insert the header of the next generation."""
        self._generation, self.seq, prev_hash = self._generation + 1, 0, self.prev_hash
        name, generation = self._decision_id, self._generation
        record = generation_record(decision_id=name, generation=generation, created_at=created_at, tombstone=tombstone, prev_hash=prev_hash)
        self.prev_hash = self.log.add("generation", record)
        links = (bytes.fromhex(prev_hash), bytes.fromhex(self.prev_hash))
        row = (name, generation, created_at, int(tombstone), *copy.values(), copy.digest(), *links, self.log.position)
        self._connection.execute(_INSERT_HEADER, row)

    def event(self, row: _EventRow, payload_json: str) -> None:
        """Collect an event; `payload_json` is what is chained as its payload."""
        seq, event_type, ts, actor_type, actor_id, payload, digest = row
        name, generation, prev_hash = self._decision_id, self._generation, self.prev_hash
        record = event_record(
            decision_id=name,
            generation=generation,
            seq=seq,
            event_type=event_type,
            ts=ts,
            actor_type=actor_type,
            actor_id=actor_id,
            payload_json=payload_json,
            prev_hash=prev_hash,
        )
        self.prev_hash = self.log.add("event", record)
        self.seq = seq + 1
        stored = (seq, event_type, ts, actor_type, actor_id, payload, digest)
        self._events.append((self.log.position, name, generation, *stored, bytes.fromhex(prev_hash), bytes.fromhex(self.prev_hash)))

    def flush(self) -> None:
        """Insert the collected events and all leaves."""
        self._connection.executemany(_INSERT_EVENT, self._events)
        self.log.flush()


def _uuid4() -> str:
    return str(uuid.uuid4())


def _utc_text(created_at: str) -> str:
    """A creation time from outside in the one form that the index of the list can sort."""
    try:
        return parse_time(created_at).isoformat()
    except MalformedEvent as error:
        raise InputError(f"created_at: {error}") from None


def _prepare(item: EventItem) -> tuple[EventType, Actor, dict[str, Any], str, str]:
    """Everything of an event that needs no lock: type, actor, payload, its canonical text, its digest."""
    given_type, actor, given_payload = item
    event_type = _TYPES.get(require_text(given_type, "event_type"))
    if event_type is None:
        raise InputError(f"unknown event type: {given_type!r:.100}")
    if not isinstance(cast("object", given_payload), Mapping):
        raise InputError(f"payload must be an object, got {type(given_payload).__name__}")
    try:
        payload_json = canonical_json(dict(given_payload))
        kind, name = actor["type"], actor["id"]
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(f"the {event_type} event cannot be stored: {problem!r}") from None
    who = Actor(type=require_text(kind, "actor.type"), id=require_text(name, "actor.id"))
    # The payload as every later reader gets it, and nobody's but the event's.
    return event_type, who, json.loads(payload_json), payload_json, event_digest(event_type.value, payload_json)


def _raw_row(values: Sequence[object]) -> tuple[_EventRow, str]:
    """An event from outside, and what is chained as its payload: the canonical text, or the string that has none."""
    seq, *texts = values
    if type(seq) is not int or not 0 <= seq < _SEQ_LIMIT:
        raise InputError(f"seq must be an integer from 0 to {_SEQ_LIMIT - 1}")
    # A value of another type would be chained as it is, but stored as a text: the row would never verify.
    event_type, ts, actor_type, actor_id, payload, digest = map(require_text, texts, _RAW_KEYS[1:])
    try:
        payload = chained = canonical_json(decode_payload(payload))
    except MalformedEvent:
        chained = canonical_json(payload)
    return (seq, event_type, ts, actor_type, actor_id, payload, digest), chained


def _payload_or_nothing(text: str) -> dict[str, Any]:
    try:
        return decode_payload(text)
    except MalformedEvent:
        return {}


def _stored_event(row: Any) -> StoredEvent:
    seq, kind, ts, actor_type, actor_id, payload, digest, prev, chain, position, decision_id = row
    event_type = _TYPES.get(kind)
    if event_type is None:
        raise MalformedEvent(f"event {seq} of {decision_id} has the unknown type {kind!r}")
    return StoredEvent(
        decision_id,
        seq,
        event_type,
        parse_time(ts),
        Actor(type=actor_type, id=actor_id),
        decode_payload(payload),
        digest,
        prev.hex(),
        chain.hex(),
        position,
    )
