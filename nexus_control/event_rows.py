"""Rows of decisions and their events: what goes into them, how each is chained to the one before it, and how they are read back."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from nexus_control.backend import Connection, insert, require_cells
from nexus_control.canonical_json import canonical_json
from nexus_control.errors import InputError, MalformedEvent
from nexus_control.event_store import EventItem
from nexus_control.events import (
    ZERO_HASH,
    Actor,
    EventType,
    StoredEvent,
    are_event_cells,
    decode_payload,
    event_digest,
    event_record,
    generation_record,
    parse_time,
    require_text,
)
from nexus_control.header import COPY_COLUMNS, HeaderCopy
from nexus_control.json_data import decode_json
from nexus_control.log import LogWriter

__all__ = [
    "EVENT_COLUMNS",
    "HEADER_COLUMNS",
    "INSERT_EVENT",
    "INSERT_HEADER",
    "RAW_KEYS",
    "ChainWriter",
    "Prepared",
    "Tip",
    "payload_or_nothing",
    "prepare_all",
    "raw_row",
    "raw_rows",
    "stored_event",
    "tip_of",
]

EVENT_COLUMNS = "seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain, position, decision_id"
"""What `stored_event` reads, in its order."""

_TIP = """
    SELECT d.generation, d.tombstone, d.chain, e.seq, e.chain, (SELECT COALESCE(MAX(position), 0) FROM log)
    FROM decisions AS d LEFT JOIN decision_events AS e ON e.decision_id = d.decision_id AND e.generation = d.generation
    WHERE d.decision_id = ? ORDER BY d.generation DESC, e.seq DESC LIMIT 1"""
HEADER_COLUMNS = (
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
INSERT_HEADER = f"INSERT INTO decisions ({', '.join(HEADER_COLUMNS)}) VALUES ({', '.join('?' * len(HEADER_COLUMNS))})"
INSERT_EVENT = """
    INSERT INTO decision_events
        (position, decision_id, generation, seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_TYPES = {member.value: member for member in EventType}
_NAMES = {member: name for name, member in _TYPES.items()}  # `member.value` takes five times as long

_EventRow: TypeAlias = tuple[int, str, str, str, str, str, str]
"""What is given of an event row, in `RAW_KEYS` order; the rest is derived."""
RAW_KEYS = ("seq", "event_type", "ts", "actor_type", "actor_id", "payload", "digest")
_SEQ_LIMIT = 2**53

_T = TypeVar("_T")


class Tip(NamedTuple):
    """The end of a decision's chain, and of the store's log."""

    generation: int
    live: bool
    next_seq: int
    chain_hash: str
    position: int


def tip_of(connection: Connection, decision_id: str) -> Tip | None:
    """Where the next row of this decision goes; None for an id that was never stored."""
    row = connection.execute(_TIP, (decision_id,)).fetchone()
    if row is None:
        return None
    generation, tombstone, header_hash, seq, event_hash, position = row
    require_cells((generation, tombstone, header_hash, position), (int, int, bytes, int), f"the header of {decision_id}")
    if seq is not None:
        require_cells((seq, event_hash), (int, bytes), f"the last event of {decision_id}")
    next_seq, chain = (0, header_hash) if seq is None else (seq + 1, event_hash)
    return Tip(generation, not tombstone, next_seq, chain.hex(), position)


class ChainWriter:
    """Chains new rows of one decision to its tip and to the log, inside a transaction; `flush` inserts what was collected.

    With the writer of another decision, `beside`, both collect into the same log and the same rows, and flushing one flushes both.
    """

    def __init__(self, connection: Connection, decision_id: str, tip: Tip | None, *, beside: "ChainWriter | None" = None) -> None:
        self._connection = connection
        self._decision_id = decision_id
        self.generation, self.seq, self.prev_hash = (0, 0, ZERO_HASH) if tip is None else (tip.generation, tip.next_seq, tip.chain_hash)
        self.live = tip is not None and tip.live
        self._events: list[tuple[object, ...]] = [] if beside is None else beside._events
        self.log = LogWriter(connection, None if tip is None else tip.position) if beside is None else beside.log

    def header(self, created_at: str, copy: HeaderCopy, *, tombstone: bool = False) -> None:
        """Insert the header of the next generation."""
        self.live = not tombstone
        self.generation, self.seq, prev_hash = self.generation + 1, 0, self.prev_hash
        name, generation = self._decision_id, self.generation
        record = generation_record(decision_id=name, generation=generation, created_at=created_at, tombstone=tombstone, prev_hash=prev_hash)
        self.prev_hash = self.log.add("generation", record)
        links = (bytes.fromhex(prev_hash), bytes.fromhex(self.prev_hash))
        row = (name, generation, created_at, int(tombstone), *copy.values(), copy.digest(), *links, self.log.position)
        insert(self._connection, INSERT_HEADER, [row])

    def event(self, row: _EventRow, payload_json: str) -> None:
        """Collect an event; `payload_json` is what is chained as its payload."""
        seq, event_type, ts, actor_type, actor_id, payload, digest = row
        name, generation, prev_hash = self._decision_id, self.generation, self.prev_hash
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
        insert(self._connection, INSERT_EVENT, self._events)
        self._events.clear()
        self.log.flush()


Prepared: TypeAlias = tuple[EventType, str, Actor, dict[str, Any], str, str]
"""Type and its name, actor, payload, its canonical text, and the digest of an event that will be stored."""


def prepare_all(items: Sequence[EventItem]) -> list[Prepared]:
    """Everything of events that needs no lock: type, actor, payload, its canonical text, its digest. Raises InputError."""
    return [_prepare(item) for item in _each(items)]


def _each(values: Iterable[_T]) -> Iterable[_T]:
    """Events to go through: a text or a mapping can be gone through as well, and holds none."""
    given = cast("object", values)
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InputError(f"events must be a list, got {type(values).__name__}")
    return values


def _prepare(item: EventItem) -> Prepared:
    if not isinstance(cast("object", item), (tuple, list)) or len(item) != 3:
        raise InputError(f"an event to append must be type, actor and payload, got {item!r:.100}")
    given_type, actor, given_payload = item
    event_type = _TYPES.get(require_text(given_type, "event_type"))
    if event_type is None:
        raise InputError(f"unknown event type: {given_type!r:.100}")
    if not isinstance(cast("object", given_payload), (dict, Mapping)):  # the former is asked for much sooner
        raise InputError(f"payload must be an object, got {type(given_payload).__name__}")
    try:
        payload_json = canonical_json(dict(given_payload))
        kind, who_id = actor["type"], actor["id"]
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(f"the {event_type} event cannot be stored: {problem!r}") from None
    who = Actor(type=require_text(kind, "actor.type"), id=require_text(who_id, "actor.id"))
    # The payload as every later reader gets it, and nobody's but the event's.
    name = _NAMES[event_type]
    return event_type, name, who, decode_json(payload_json), payload_json, event_digest(name, payload_json)


def raw_row(values: Sequence[object]) -> tuple[_EventRow, str]:
    """An event from outside, and what is chained as its payload: the canonical text, or the string that has none."""
    seq, *texts = values
    if type(seq) is not int or not 0 <= seq < _SEQ_LIMIT:
        raise InputError(f"seq must be an integer from 0 to {_SEQ_LIMIT - 1}")
    # A value of another type would be chained as it is, but stored as a text: the row would never verify.
    event_type, ts, actor_type, actor_id, payload, digest = map(require_text, texts, RAW_KEYS[1:])
    try:
        payload = chained = canonical_json(decode_payload(payload))
    except MalformedEvent:
        chained = canonical_json(payload)
    return (seq, event_type, ts, actor_type, actor_id, payload, digest), chained


def raw_rows(events: Iterable[Mapping[str, object]]) -> list[tuple[_EventRow, str]]:
    """As `raw_row`, of objects with `RAW_KEYS`. Raises InputError."""
    rows: list[tuple[_EventRow, str]] = []
    for event in _each(events):
        if not isinstance(cast("object", event), Mapping):
            raise InputError(f"an event must be an object, got {type(event).__name__}")
        rows.append(raw_row([event.get(key) for key in RAW_KEYS]))
    return rows


def payload_or_nothing(text: str) -> dict[str, Any]:
    try:
        return decode_payload(text)
    except MalformedEvent:
        return {}


def stored_event(row: Any) -> StoredEvent:
    seq, kind, ts, actor_type, actor_id, payload, digest, prev, chain, position, decision_id = row
    if not are_event_cells(seq, kind, ts, actor_type, actor_id, payload, digest, prev, chain, decision_id):
        raise MalformedEvent(f"event {seq!r:.100} of {decision_id!r:.100} has a value of a type that no event has")
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
