"""The append-only event log of decisions, on SQLite.

Facts are inserted, never changed: an overwriting import is a new generation of the decision, a deletion a tombstone, and earlier
generations stay readable. Each fact is chained to the one before it and is a leaf of the store's log, written in the same transaction.
The store accepts any event; whether a command may happen is judged above it, inside the same `transaction`.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, cast

from nexus_control.canonical_json import canonical_json
from nexus_control.database import Connection, Database, SqliteDecisionExists
from nexus_control.errors import ConcurrencyError, DecisionNotFound, InputError, MalformedEvent
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
from nexus_control.log import Log, append_leaf
from nexus_control.log_check import LogVerification, check_decision, check_store
from nexus_control.schema import SCHEMA
from nexus_control.template import TemplateStore

__all__ = ["ConcurrencyError", "DecisionStore", "EventItem", "EventStore", "ImportOrigin", "LogVerification", "StoredEvent"]

EventItem: TypeAlias = tuple[EventType, Mapping[str, str], Mapping[str, Any]]
"""What is appended: type, actor, payload."""

_EVENT_COLUMNS = "seq, event_type, ts, actor_type, actor_id, payload, digest, prev_hash, chain_hash, position, decision_id"

_NEWEST = "SELECT generation, tombstone, chain_hash FROM decisions WHERE decision_id = ? ORDER BY generation DESC LIMIT 1"
_LAST_EVENT = "SELECT seq, chain_hash FROM decision_events WHERE decision_id = ? AND generation = ? ORDER BY seq DESC LIMIT 1"
_EVENTS = f"SELECT {_EVENT_COLUMNS} FROM decision_events WHERE decision_id = ? AND generation = ? ORDER BY seq"
_EVENTS_OF_MANY = f"""
    SELECT {_EVENT_COLUMNS} FROM json_each(?) AS wanted
    JOIN decision_events ON decision_id = wanted.value
     AND generation = (SELECT MAX(generation) FROM decisions WHERE decisions.decision_id = wanted.value)
    ORDER BY wanted.key, seq"""
_PAGE = """
    SELECT decision_id, created_at FROM decisions AS d
    WHERE tombstone = 0
      AND NOT EXISTS (SELECT 1 FROM decisions WHERE decision_id = d.decision_id AND generation > d.generation)
    ORDER BY created_at DESC, position DESC LIMIT ? OFFSET ?"""
_GENERATIONS = """
    SELECT generation, created_at, tombstone,
           (SELECT COUNT(*) FROM decision_events AS e WHERE e.decision_id = d.decision_id AND e.generation = d.generation) AS event_count
    FROM decisions AS d WHERE decision_id = ? ORDER BY generation"""
_INSERT_HEADER = (
    f"INSERT INTO decisions (decision_id, generation, created_at, tombstone, {', '.join(COPY_COLUMNS)}, copy_digest, prev_hash, chain_hash, "
    f"position) VALUES ({', '.join('?' * (8 + len(COPY_COLUMNS)))})"
)
_INSERT_EVENT = """
    INSERT INTO decision_events
        (position, decision_id, generation, seq, event_id, event_type, ts, actor_type, actor_id, payload, digest, prev_hash, chain_hash)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_TYPES = {member.value: member for member in EventType}
_NO_COPY = HeaderCopy()


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
    def transaction(self) -> Iterator[None]:
        """All or nothing for everything called on this store in this thread inside the block, under the write lock from its start.

        What is read inside cannot have changed before the commit. Blocks nest: inner ones join. Any exception that leaves the block,
        or an inner one, rolls back everything.
        """
        with self._database.transaction():
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """One consistent view for all reads of this thread inside the block. Takes no write lock."""
        with self._database.snapshot():
            yield

    # -- writing --------------------------------------------------------------------------------------------------------------

    def create_decision(self, decision_id: str | None = None) -> str:
        """Insert a header without events; gives the id (a new UUID4 when None). The id of a deleted decision starts its next generation.

        Raises DecisionExists, which is a `sqlite3.IntegrityError` here, when the decision exists.
        """
        with self._database.transaction() as connection:
            name = self._unused_id(connection, decision_id)
            self._insert_header(connection, name, _now_text(self.clock), _NO_COPY)
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
        InputError for a wrong type or actor, and ValueError or TypeError for a payload that canonical JSON cannot express.
        """
        prepared = [_prepare(item) for item in items]
        with self._database.transaction() as connection:
            now = self.clock()
            ts = now.isoformat()
            if create:
                name = self._unused_id(connection, decision_id)
                copy = first_events_copy((event_type, actor["type"], actor["id"], payload) for event_type, actor, payload, _, _ in prepared)
                generation, prev_hash = self._insert_header(connection, name, ts, copy)
                seq = 0
            else:
                name = decision_id
                generation, seq, prev_hash = self._end(connection, decision_id)
            if expected_seq is not None and expected_seq != seq:
                raise ConcurrencyError(f"expected the next event of {decision_id} to be {expected_seq}, but it is {seq}; read it again")
            stored: list[StoredEvent] = []
            for event_type, actor, payload, payload_json, digest in prepared:
                row = (name, generation, seq, event_type.value, ts, actor["type"], actor["id"], payload_json)
                position, chain_hash = _insert_event(connection, row, payload_json, digest, prev_hash)
                stored.append(StoredEvent(name, seq, event_type, now, actor, payload, digest, prev_hash, chain_hash, position))
                prev_hash, seq = chain_hash, seq + 1
            return stored

    def delete_decision(self, decision_id: str) -> bool:
        """Insert a tombstone: for readers the decision is gone, its generations stay stored. False when there was nothing to delete."""
        with self._database.transaction() as connection:
            if _live_generation(connection, decision_id) is None:
                return False
            self._insert_header(connection, decision_id, _now_text(self.clock), _NO_COPY, tombstone=True)
            return True

    def insert_event_raw(
        self, decision_id: str, seq: int, event_type: str, ts: str, actor_type: str, actor_id: str, payload: str, digest: str
    ) -> None:
        """Insert the values unchecked into the newest generation; position and chain values are added. For import tooling.

        Events must come in ascending seq for the chain to verify. Raises DecisionNotFound, or `sqlite3.IntegrityError` for a seq that
        is taken.
        """
        with self._database.transaction() as connection:
            generation, _, prev_hash = self._end(connection, decision_id)
            row = (decision_id, generation, seq, event_type, ts, actor_type, actor_id, payload)
            _insert_event(connection, row, _canonical_payload(payload), digest, prev_hash)

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
        (False, text) when the decision exists and `overwrite` is off. Raises InputError for a `created_at` that is no time.
        """
        name = require_text(decision_id, "decision_id")
        created = _utc_text(created_at)
        with self._database.transaction() as connection:
            if not overwrite and _live_generation(connection, name) is not None:
                return False, f"Decision already exists: {name}"
            facts = [(str(e["event_type"]), str(e["actor_type"]), str(e["actor_id"]), _payload_or_nothing(e["payload"])) for e in events]
            generation, prev_hash = self._insert_header(connection, name, created, first_events_copy(facts, origin))
            for e in events:
                row = (name, generation, e["seq"], e["event_type"], e["ts"], e["actor_type"], e["actor_id"], e["payload"])
                _, prev_hash = _insert_event(connection, row, _canonical_payload(e["payload"]), e["digest"], prev_hash)
            return True, None

    # -- reading --------------------------------------------------------------------------------------------------------------

    def get_events(self, decision_id: str, generation: int | None = None) -> list[StoredEvent]:
        """The events in ascending seq, of the newest generation or of the one given (a tombstone has none).

        Raises DecisionNotFound for an unknown id or generation, MalformedEvent for a row that cannot be read.
        """
        with self._database.reading() as connection:
            if generation is None:
                generation = _live_generation(connection, decision_id)
                if generation is None:
                    raise DecisionNotFound(decision_id)
            elif not _has_generation(connection, decision_id, generation):
                raise DecisionNotFound(f"{decision_id}, generation {generation}")
            # A generation only grows, so the second statement needs no common snapshot with the first.
            rows = connection.execute(_EVENTS, (decision_id, generation)).fetchall()
        return [_stored_event(row) for row in rows]

    def get_events_of(self, decision_ids: Sequence[str]) -> dict[str, list[StoredEvent] | MalformedEvent]:
        """The events of several existing decisions with one query; for one that cannot be read, the error instead."""
        found: dict[str, list[StoredEvent] | MalformedEvent] = {decision_id: [] for decision_id in decision_ids}
        with self._database.reading() as connection:
            rows = connection.execute(_EVENTS_OF_MANY, (canonical_json(list(decision_ids)),)).fetchall()
        for row in rows:
            events = found[row["decision_id"]]
            if isinstance(events, list):
                try:
                    events.append(_stored_event(row))
                except MalformedEvent as error:
                    found[row["decision_id"]] = error
        return found

    def list_decisions(self, limit: int = 100, offset: int = 0) -> list[tuple[str, datetime]]:
        """Ids and creation times, newest first; equal times by insertion, newest first."""
        return [(decision_id, parse_time(created_at)) for decision_id, created_at in self.decision_page(limit, offset)]

    def decision_page(self, limit: int, offset: int) -> list[tuple[str, str]]:
        """As `list_decisions`, with the creation times as they are stored."""
        with self._database.reading() as connection:
            return [(row[0], row[1]) for row in connection.execute(_PAGE, (limit, offset))]

    def decision_exists(self, decision_id: str) -> bool:
        """Whether the newest generation of this id is a decision and no tombstone."""
        with self._database.reading() as connection:
            return _live_generation(connection, decision_id) is not None

    def list_generations(self, decision_id: str) -> list[dict[str, Any]]:
        """All generations, ascending: `generation`, `created_at` (ISO), `tombstone`, `event_count`. Empty for an id never stored."""
        with self._database.reading() as connection:
            return [{**dict(row), "tombstone": bool(row["tombstone"])} for row in connection.execute(_GENERATIONS, (decision_id,))]

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

    def verify_log(self, decision_id: str | None = None) -> LogVerification:
        """Recompute digests and chains: of one decision over all its generations, or of the whole store with every leaf and position.

        Raises DecisionNotFound for an id that was never stored.
        """
        with self._database.snapshot() as connection:
            return check_store(connection) if decision_id is None else check_decision(connection, decision_id)

    # -- inside a transaction -------------------------------------------------------------------------------------------------

    def _unused_id(self, connection: Connection, decision_id: str | None) -> str:
        name = self.new_id() if decision_id is None else require_text(decision_id, "decision_id")
        if _live_generation(connection, name) is not None:
            raise SqliteDecisionExists(f"Decision already exists: {name}")
        return name

    def _insert_header(
        self, connection: Connection, decision_id: str, created_at: str, copy: HeaderCopy, *, tombstone: bool = False
    ) -> tuple[int, str]:
        """Insert the next generation's header; gives its number and its chain hash."""
        newest = connection.execute(_NEWEST, (decision_id,)).fetchone()
        generation, prev_hash = 1, ZERO_HASH
        if newest is not None:
            generation = newest["generation"] + 1
            last = connection.execute(_LAST_EVENT, (decision_id, newest["generation"])).fetchone()
            prev_hash = newest["chain_hash"] if last is None else last["chain_hash"]
        record = generation_record(
            decision_id=decision_id, generation=generation, created_at=created_at, tombstone=tombstone, prev_hash=prev_hash
        )
        position, chain_hash = append_leaf(connection, "generation", record)
        row = (decision_id, generation, created_at, int(tombstone), *copy.values(), copy.digest(), prev_hash, chain_hash, position)
        connection.execute(_INSERT_HEADER, row)
        return generation, chain_hash

    @staticmethod
    def _end(connection: Connection, decision_id: str) -> tuple[int, int, str]:
        """Where the next event goes: generation, seq, prev_hash."""
        newest = connection.execute(_NEWEST, (decision_id,)).fetchone()
        if newest is None or newest["tombstone"]:
            raise DecisionNotFound(decision_id)
        generation: int = newest["generation"]
        last = connection.execute(_LAST_EVENT, (decision_id, generation)).fetchone()
        return (generation, 0, newest["chain_hash"]) if last is None else (generation, last["seq"] + 1, last["chain_hash"])


def _uuid4() -> str:
    return str(uuid.uuid4())


def _now_text(clock: Clock) -> str:
    return clock().isoformat()


def _utc_text(created_at: str) -> str:
    """A creation time from outside in the one form that the index of the list can sort."""
    try:
        return parse_time(created_at).isoformat()
    except MalformedEvent as error:
        raise InputError(f"created_at: {error}") from None


def _live_generation(connection: Connection, decision_id: str) -> int | None:
    newest = connection.execute(_NEWEST, (decision_id,)).fetchone()
    return None if newest is None or newest["tombstone"] else newest["generation"]


def _has_generation(connection: Connection, decision_id: str, generation: int) -> bool:
    query = "SELECT 1 FROM decisions WHERE decision_id = ? AND generation = ?"
    return connection.execute(query, (decision_id, generation)).fetchone() is not None


def _prepare(item: EventItem) -> tuple[EventType, Actor, dict[str, Any], str, str]:
    """Everything of an event that needs no lock: type, actor, payload, its canonical text, its digest."""
    given_type, actor, given_payload = item
    event_type = _TYPES.get(given_type)
    if event_type is None:
        raise InputError(f"unknown event type: {given_type!r}")
    if not isinstance(cast("object", given_payload), dict):
        raise InputError(f"payload must be a dict, got {type(given_payload).__name__}")
    payload = dict(given_payload)
    payload_json = canonical_json(payload)
    who = Actor(type=require_text(actor["type"], "actor.type"), id=require_text(actor["id"], "actor.id"))
    return event_type, who, payload, payload_json, event_digest(event_type.value, payload_json)


def _insert_event(
    connection: Connection, row: tuple[str, int, int, str, str, str, str, str], payload_json: str, digest: str, prev_hash: str
) -> tuple[int, str]:
    """Insert (decision id, generation, seq, type, ts, actor type, actor id, payload text); gives position and chain hash."""
    decision_id, generation, seq, event_type, ts, actor_type, actor_id, payload = row
    record = event_record(
        decision_id=decision_id,
        generation=generation,
        seq=seq,
        event_type=event_type,
        ts=ts,
        actor_type=actor_type,
        actor_id=actor_id,
        payload_json=payload_json,
        prev_hash=prev_hash,
    )
    position, chain_hash = append_leaf(connection, "event", record)
    connection.execute(
        _INSERT_EVENT,
        (
            position,
            decision_id,
            generation,
            seq,
            f"evt_{decision_id}_{seq}",
            event_type,
            ts,
            actor_type,
            actor_id,
            payload,
            digest,
            prev_hash,
            chain_hash,
        ),
    )
    return position, chain_hash


def _canonical_payload(text: str) -> str:
    """The canonical text of a raw payload column. One that is no canonicalisable object is chained as the string it is."""
    try:
        return canonical_json(decode_payload(text))
    except ValueError:
        return canonical_json(text)


def _payload_or_nothing(text: str) -> dict[str, Any]:
    try:
        return decode_payload(text)
    except MalformedEvent:
        return {}


def _stored_event(row: Any) -> StoredEvent:
    seq, kind, ts, actor_type, actor_id, payload, digest, prev_hash, chain_hash, position, decision_id = row
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
        prev_hash,
        chain_hash,
        position,
    )
