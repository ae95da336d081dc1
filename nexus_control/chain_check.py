"""The chain of one decision's newest generation, proven with one query, so that it can be asked before every execution.

What this proves: each event that is read follows from the header through those before it, each is the leaf that the log has at its
position, and the log does not end with an event that is gone. It stops at the first thing that is wrong; `log_check` tells all.
"""

from hashlib import sha256
from typing import Any, NamedTuple

from nexus_control import merkle
from nexus_control.backend import Connection, require_cells
from nexus_control.errors import DecisionNotFound, HistoryAltered, MalformedEvent
from nexus_control.events import are_event_cells, decode_payload, event_record, generation_record

__all__ = ["IMPORTED", "ChainedRows", "chained_events"]

IMPORTED = """COALESCE(i.events, CASE WHEN d.imported_at IS NULL THEN 0 ELSE
           (SELECT COUNT(*) FROM decision_events AS e WHERE e.decision_id = d.decision_id AND e.generation = d.generation) END)"""
"""How many events of the header `d`, with the import `i` if there is one, an import brought."""

_CHAIN_OF_NEWEST = f"""
    SELECT d.created_at, d.tombstone, d.prev AS header_prev, d.chain AS header_chain, h.leaf_hash AS header_leaf, d.generation,
           e.seq, e.event_type, e.ts, e.actor_type, e.actor_id, e.payload, e.digest, e.prev, e.chain, e.position, d.decision_id,
           l.leaf_hash, {IMPORTED}, (SELECT COALESCE(MAX(position), 0) FROM log), (SELECT kind FROM log ORDER BY position DESC LIMIT 1),
           (SELECT decision_id FROM decision_events WHERE position = (SELECT MAX(position) FROM log))
    FROM (SELECT * FROM decisions WHERE decision_id = ? ORDER BY generation DESC LIMIT 1) AS d
    LEFT JOIN log AS h ON h.position = d.position
    LEFT JOIN decision_events AS e ON e.decision_id = d.decision_id AND e.generation = d.generation
    LEFT JOIN log AS l ON l.position = e.position
    LEFT JOIN imports AS i ON i.decision_id = d.decision_id AND i.generation = d.generation
    ORDER BY e.seq"""


class ChainedRows(NamedTuple):
    """Event rows, and what else one look at a decision tells: its generation, how many events an import brought, the end of the log."""

    events: list[tuple[Any, ...]]
    generation: int
    imported: int
    position: int


def chained_events(connection: Connection, decision_id: str) -> ChainedRows:
    """The rows of the newest generation's events (`seq` to `decision_id` of the store's columns), each proven to follow from the header
    through the rows before it and to be in the log, and the end of the log to be stored, and among them where it is theirs. Raises
    DecisionNotFound, HistoryAltered, MalformedEvent.

    What one query and two hashes a row can tell, so that it can be asked before every execution; `check_decision` says all that is wrong.
    """
    rows = connection.execute(_CHAIN_OF_NEWEST, (decision_id,)).fetchall()
    if not rows:
        raise DecisionNotFound(decision_id)
    require_cells(rows[0][:4], (str, int, bytes, bytes), f"the header of {decision_id}")
    require_cells((rows[0][5], *rows[0][18:20]), (int, int, int), f"the header of {decision_id}, or the record of its import,")
    if rows[0][1]:
        raise DecisionNotFound(decision_id)
    created_at, _, prev, chain, leaf, generation = rows[0][:6]
    record = generation_record(decision_id=decision_id, generation=generation, created_at=created_at, tombstone=False, prev_hash=prev.hex())
    if not _is_recorded(record, chain, leaf):
        raise HistoryAltered(f"{decision_id}: the header of generation {generation} is not what was recorded; `log verify` tells more")
    events: list[tuple[Any, ...]] = [tuple(row[6:17]) for row in rows if row[6] is not None]
    for expected, (row, event) in enumerate(zip(rows, events, strict=False)):
        seq, event_type, ts, actor_type, actor_id, payload, digest, prev = event[:8]
        if not are_event_cells(seq, event_type, ts, actor_type, actor_id, payload, digest, prev, event[8], event[10]):
            raise MalformedEvent(f"event {seq!r:.100} of {decision_id} has a value of a type that no event has; `log verify` tells more")
        if seq != expected or prev != chain:
            raise HistoryAltered(f"{decision_id}: event {seq} does not follow the one before it; `log verify` tells more")
        record = event_record(
            decision_id=decision_id,
            generation=generation,
            seq=seq,
            event_type=event_type,
            ts=ts,
            actor_type=actor_type,
            actor_id=actor_id,
            payload_json=payload,
            prev_hash=prev.hex(),
        )
        chain = event[8]
        if not _is_recorded(record, chain, row[17]):
            decode_payload(payload)  # one that says nothing is its own error
            raise HistoryAltered(f"{decision_id}: event {seq} is not what was recorded; `log verify` tells more")
    imported, position, last_kind, last_owner = rows[0][18:]
    # Of a decision's newest events nothing tells whether they are all there, unless the store ends with them.
    if last_kind == "event" and last_owner is None:
        raise HistoryAltered(f"the end of the log, position {position}, is an event that is not stored; `log verify` tells more")
    if last_owner == decision_id and (not events or events[-1][9] != position):
        raise HistoryAltered(f"{decision_id}: position {position}, its last event, is not among its events; `log verify` tells more")
    return ChainedRows(events, generation, imported, position)


def _is_recorded(record: bytes, chain: bytes, leaf: bytes | None) -> bool:
    return sha256(record).digest() == chain and merkle.leaf_hash(record) == leaf
