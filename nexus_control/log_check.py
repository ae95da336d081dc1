"""Verification of what is stored: digests, chains, gaps, listing copies, and the leaf of every fact.

Rows are streamed, so memory does not grow with the store. What this proves: no row was edited, dropped, added or reordered without
the hashes that follow being recomputed too. A store whose owner recomputed all of them verifies; only somebody who kept an earlier
root can tell (see SECURITY.md).
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from operator import itemgetter
from typing import Any

from nexus_control import merkle
from nexus_control.backend import Connection, Dialect
from nexus_control.canonical_json import canonical_json
from nexus_control.errors import DecisionNotFound, MalformedEvent
from nexus_control.events import (
    ZERO_HASH,
    decode_payload,
    event_digest,
    event_record,
    generation_record,
    parse_time,
    template_event_record,
)
from nexus_control.header import COPY_COLUMNS, HeaderCopy, first_events_copy
from nexus_control.schema import SQLITE
from nexus_control.template import template_problems
from nexus_control.tree_check import CheckedTree

__all__ = ["LogVerification", "check_decision", "check_facts", "check_store"]

_ZEROS = bytes.fromhex(ZERO_HASH)
_MOST_ERRORS = 1000
"""More than this many are counted, not listed."""


@dataclass(frozen=True)
class LogVerification:
    """`ok` when nothing was found. `head`: the last chain hash of the decision, or the recomputed root of the whole store (raw)."""

    ok: bool
    errors: list[str]
    head: str | None


@dataclass
class _Findings:
    errors: list[str] = field(default_factory=list[str])
    unlisted: int = 0

    def add(self, text: str) -> None:
        if len(self.errors) < _MOST_ERRORS:
            self.errors.append(text)
        else:
            self.unlisted += 1

    def result(self, head: str | None, damaged: Iterable[str]) -> LogVerification:
        """`damaged`: texts that were not UTF-8; what they were read as may be what was hashed, so each is a finding of its own."""
        for text in sorted(damaged):
            self.add(f"a stored text is not UTF-8: {text!r}")
        more = [f"and {self.unlisted} more"] if self.unlisted else []
        return LogVerification(ok=not self.errors, errors=self.errors + more, head=head)


_GENERATION_CELLS = {
    "decision_id": str,
    "generation": int,
    "created_at": str,
    "tombstone": int,
    **dict.fromkeys(COPY_COLUMNS, str),
    "copy_digest": bytes,
    "prev": bytes,
    "chain": bytes,
    "position": int,
}
_CHAINED_CELLS = {
    "position": int,
    "seq": int,
    "event_type": str,
    "ts": str,
    "actor_type": str,
    "actor_id": str,
    "payload": str,
    "digest": str,
    "prev": bytes,
    "chain": bytes,
}
_EVENT_CELLS = {"decision_id": str, "generation": int, **_CHAINED_CELLS}
_TEMPLATE_EVENT_CELLS = {"template_name": str, **_CHAINED_CELLS}
"""What is read of a row, and of which type each is. By name: a column that is not there is an error of the database then, as others are."""


def _columns(table: str, cells: Mapping[str, type]) -> str:
    return ", ".join(f"{table}.{name}" for name in cells)


# What each row must follow is fetched with it: `before` is the chain hash that its `prev_hash` must repeat.
_GENERATIONS = f"""
    SELECT {_columns("d", _GENERATION_CELLS)}, COALESCE(
        (SELECT e.chain FROM decision_events AS e
         WHERE e.decision_id = d.decision_id AND e.generation = d.generation - 1 ORDER BY e.seq DESC LIMIT 1),
        (SELECT p.chain FROM decisions AS p WHERE p.decision_id = d.decision_id AND p.generation = d.generation - 1)) AS before,
        (SELECT i.events FROM imports AS i WHERE i.decision_id = d.decision_id AND i.generation = d.generation) AS imported,
        (SELECT COUNT(*) FROM decision_events AS e WHERE e.decision_id = d.decision_id AND e.generation = d.generation
         AND e.seq < (SELECT i.events FROM imports AS i WHERE i.decision_id = d.decision_id AND i.generation = d.generation)
         AND e.position <= d.position + 1 + e.seq) AS together
    FROM decisions AS d"""
_EVENTS = f"""
    SELECT {_columns("e", _EVENT_CELLS)}, COALESCE(p.chain, h.chain) AS before, p.seq AS before_seq, h.generation AS header, h.tombstone
    FROM decision_events AS e
    LEFT JOIN decision_events AS p ON p.decision_id = e.decision_id AND p.generation = e.generation AND p.seq = e.seq - 1
    LEFT JOIN decisions AS h ON h.decision_id = e.decision_id AND h.generation = e.generation"""
_TEMPLATE_EVENTS = f"""
    SELECT {_columns("t", _TEMPLATE_EVENT_CELLS)}, p.chain AS before, p.seq AS before_seq
    FROM template_events AS t LEFT JOIN template_events AS p ON p.template_name = t.template_name AND p.seq = t.seq - 1"""
# For a database that cannot say whether its indexes agree with its tables, or one where they do not. No index has these expressions, or
# `prev`, so that the rows are read where they are: an index may hide one of two.
_SAME_SEQ = """
    SELECT decision_id, generation, seq, COUNT(prev)
    FROM (SELECT decision_id || '' AS decision_id, generation + 0 AS generation, seq + 0 AS seq, prev FROM decision_events) AS e
    GROUP BY decision_id, generation, seq HAVING COUNT(prev) > 1 ORDER BY decision_id, generation, seq"""
_SAME_PREV = """
    SELECT MIN(position), MAX(position)
    FROM (SELECT prev, position FROM decision_events UNION ALL SELECT prev, position FROM decisions WHERE generation > 1) AS r
    GROUP BY prev HAVING COUNT(*) > 1 ORDER BY 1"""
_OF_DECISION = " WHERE {0}.decision_id = ? ORDER BY {0}.position"
_LEAVES = "SELECT position, leaf_hash, kind FROM log ORDER BY position"
_FIRST_EVENTS = """
    SELECT event_type, actor_type, actor_id, payload FROM decision_events
    WHERE decision_id = ? AND generation = ? AND event_type IN ('DECISION_CREATED', 'POLICY_ATTACHED') ORDER BY seq"""


def check_decision(connection: Connection, decision_id: str, damaged: Iterable[str] = ()) -> LogVerification:
    """All generations of one decision, as an index finds them: only `check_store` knows whether it hides a row. Raises DecisionNotFound for
    an id that was never stored.
    """
    found = _Findings()
    generations = connection.execute(_GENERATIONS + _OF_DECISION.format("d"), (decision_id,)).fetchall()
    if not generations:
        raise DecisionNotFound(decision_id)
    links = [(row["position"], _check_generation(connection, row, found)[1]) for row in _typed(generations, _GENERATION_CELLS, found)]
    events = connection.execute(_EVENTS + _OF_DECISION.format("e"), (decision_id,))
    links.extend((row["position"], _check_event(row, found)[1]) for row in _typed(events, _EVENT_CELLS, found))
    return found.result(max(links)[1], damaged)


def _hex(link: object) -> str:
    """A stored link as it is chained; what is no bytes is no link of any row."""
    return link.hex() if isinstance(link, bytes) else repr(link)


def check_store(connection: Connection, damaged: Iterable[str] = (), dialect: Dialect = SQLITE) -> LogVerification:
    """All that `check_facts` checks, and before it the structure under the facts: that no index hides a row from who reads through it."""
    return _checked(connection, damaged, dialect, dialect.damage(connection))


def check_facts(connection: Connection, damaged: Iterable[str] = (), dialect: Dialect = SQLITE) -> LogVerification:
    """Every decision and template, the gap-freeness of positions, every leaf against its row, and what keeps the rows as they are.

    The tree is compared with every stored checkpoint and tile; whether the checkpoints are signed takes public-key cryptography.
    """
    return _checked(connection, damaged, dialect, None)


def _checked(connection: Connection, damaged: Iterable[str], dialect: Dialect, damage: list[str] | None) -> LogVerification:
    found = _Findings()
    weaknesses = [*(f"structure: {line}" for line in damage or ()), *dialect.problems(connection)]
    for problem in weaknesses:
        found.add(problem)
    try:
        root = _check_rows(connection, dialect, found)
        if damage is None or weaknesses:  # else the indexes are known to have every row, and no two of one key
            _check_forks(connection, found)
        for problem in template_problems(connection):
            found.add(problem)
    except dialect.faults:
        if not weaknesses:
            raise
        root = None  # a table or a column is not there, or a page cannot be read, which was said
    return found.result(root, damaged)


def _check_rows(connection: Connection, dialect: Dialect, found: _Findings) -> str:
    """Every fact against its leaf; gives the recomputed root."""
    tree = CheckedTree(connection, dialect, found.add)
    facts = _merged(connection, dialect, found)
    fact = next(facts, None)
    expected = 1
    for position, leaf_hash, kind in dialect.stream(connection, _LEAVES):
        if type(position) is not int:
            found.add(f"log: a position is {type(position).__name__}, not int")
            continue
        if type(leaf_hash) is not bytes:
            found.add(f"log: the leaf at position {position} is no hash")
            leaf_hash = _ZEROS
        if position != expected:
            found.add(f"log: position {expected} is missing, found {position}")
        expected = position + 1
        while fact is not None and fact[0] < position:
            found.add(f"log: position {fact[0]} has a stored {fact[1]} but no leaf")
            fact = next(facts, None)
        if fact is None or fact[0] != position:
            found.add(f"log: position {position} has no stored {kind}")
            tree.append(leaf_hash)
            continue
        _, actual_kind, record = fact
        leaf = merkle.leaf_hash(record)
        if leaf != leaf_hash:
            found.add(f"log: the leaf at position {position} does not match its {actual_kind}")
        if kind != actual_kind:
            found.add(f"log: position {position} is marked {kind} but is a {actual_kind}")
        tree.append(leaf)
        fact = next(facts, None)
    while fact is not None:
        found.add(f"log: position {fact[0]} has a stored {fact[1]} but no leaf")
        fact = next(facts, None)
    tree.finish()
    return tree.root().hex()


def _check_forks(connection: Connection, found: _Findings) -> None:
    """A chain that goes on twice: rows were appended while another was hidden from who appended them."""
    for decision_id, generation, seq, number in connection.execute(_SAME_SEQ):
        found.add(f"decision {decision_id} generation {generation}: it has {number} events with the seq {seq}")
    for first, last in connection.execute(_SAME_PREV):
        found.add(f"log: positions {first} and {last} follow the same row")


_Fact = tuple[int, str, bytes]
"""Position, kind, recomputed record."""


def _merged(connection: Connection, dialect: Dialect, found: _Findings) -> Iterator[_Fact]:
    """All stored facts in order of position, each checked on the way."""
    generations = _typed(dialect.stream(connection, _GENERATIONS + " ORDER BY d.position"), _GENERATION_CELLS, found)
    events = _typed(dialect.stream(connection, _EVENTS + " ORDER BY e.position"), _EVENT_CELLS, found)
    template_events = _typed(dialect.stream(connection, _TEMPLATE_EVENTS + " ORDER BY t.position"), _TEMPLATE_EVENT_CELLS, found)
    return heapq.merge(
        ((row["position"], "generation", _check_generation(connection, row, found)[0]) for row in generations),
        ((row["position"], "event", _check_event(row, found)[0]) for row in events),
        ((row["position"], "template_event", _check_template_event(row, found)) for row in template_events),
        key=itemgetter(0),
    )


def _typed(rows: Iterable[Any], cells: Mapping[str, type], found: _Findings) -> Iterator[Mapping[str, Any]]:
    """The rows. A value of a type that its column does not have is a finding, and replaced by one that can be computed with."""
    kinds = list(cells.values())
    for row in rows:
        if [*map(type, row[: len(kinds)])] == kinds:
            yield row
            continue
        read = dict(row)
        for name, kind in cells.items():
            value = read[name]
            if type(value) is kind or (value is None and name in COPY_COLUMNS):
                continue
            found.add(f"{_named(read)}: {name} is {type(value).__name__}, not {kind.__name__}")
            read[name] = repr(value) if kind is str else -1 if kind is int else value
        yield read


def _named(row: Mapping[str, Any]) -> str:
    if "template_name" in row and "decision_id" not in row:
        return f"template {row['template_name']} event {row['seq']}"
    event = f" event {row['seq']}" if "seq" in row else ""
    return f"decision {row['decision_id']} generation {row['generation']}{event}"


def _check_generation(connection: Connection, row: Mapping[str, Any], found: _Findings) -> tuple[bytes, str]:
    """Check a header row; gives its recomputed record and chain hash."""
    name = f"decision {row['decision_id']} generation {row['generation']}"
    before = row["before"]
    if before is None:
        if row["generation"] != 1:
            found.add(f"{name}: the generation before it is missing")
        before = _ZEROS
    copy = HeaderCopy(*(row[column] for column in COPY_COLUMNS))
    if row["tombstone"] not in (0, 1):
        found.add(f"{name}: its tombstone mark is {row['tombstone']}")
    if copy.digest() != row["copy_digest"]:
        found.add(f"{name}: the header's listing copy was changed")
    else:
        _check_copy(connection, row, copy, name, found)
    if row["imported"] is None and row["imported_at"] is not None:
        found.add(f"{name}: it was imported, but how many of its events is not recorded")
    elif row["imported"] is not None and row["together"] != row["imported"]:
        found.add(f"{name}: it says that {row['imported']} events were imported, {row['together']} can have been")
    record = generation_record(
        decision_id=row["decision_id"],
        generation=row["generation"],
        created_at=row["created_at"],
        tombstone=bool(row["tombstone"]),
        prev_hash=_hex(row["prev"]),
    )
    return record, _check_chain(row, record, before, name, found)


def _check_copy(connection: Connection, row: Mapping[str, Any], copy: HeaderCopy, name: str, found: _Findings) -> None:
    """A listing copy may be empty where the decision was created without events, but never contradict them."""
    if copy == HeaderCopy():
        return
    facts: list[tuple[str, str, str, Mapping[str, Any]]] = []
    for event_type, actor_type, actor_id, payload in connection.execute(_FIRST_EVENTS, (row["decision_id"], row["generation"])):
        try:
            facts.append((event_type, actor_type, actor_id, decode_payload(payload)))
        except MalformedEvent:
            return  # reported with the event itself
    derived = first_events_copy(facts)
    for column in COPY_COLUMNS[:6]:
        if getattr(copy, column) is not None and getattr(copy, column) != getattr(derived, column):
            found.add(f"{name}: the header says another {column} than the events")


def _check_event(row: Mapping[str, Any], found: _Findings) -> tuple[bytes, str]:
    """Check an event row; gives its recomputed record and chain hash."""
    name = f"decision {row['decision_id']} generation {row['generation']} event {row['seq']}"
    if row["header"] is None:
        found.add(f"{name}: it belongs to no generation")
    elif row["tombstone"]:
        found.add(f"{name}: it belongs to a tombstone")
    if row["seq"] and row["before_seq"] is None:
        found.add(f"{name}: the event before it is missing")
    payload_json = _checked_payload(row, name, found)
    record = event_record(
        decision_id=row["decision_id"],
        generation=row["generation"],
        seq=row["seq"],
        event_type=row["event_type"],
        ts=row["ts"],
        actor_type=row["actor_type"],
        actor_id=row["actor_id"],
        payload_json=payload_json,
        prev_hash=_hex(row["prev"]),
    )
    return record, _check_chain(row, record, row["before"] or _ZEROS, name, found)


def _check_template_event(row: Mapping[str, Any], found: _Findings) -> bytes:
    """Check a row of a template's log; gives its recomputed record."""
    name = f"template {row['template_name']} event {row['seq']}"
    if row["seq"] and row["before_seq"] is None:
        found.add(f"{name}: the event before it is missing")
    record = template_event_record(
        template_name=row["template_name"],
        seq=row["seq"],
        event_type=row["event_type"],
        ts=row["ts"],
        actor_type=row["actor_type"],
        actor_id=row["actor_id"],
        payload_json=_checked_payload(row, name, found),
        prev_hash=_hex(row["prev"]),
    )
    _check_chain(row, record, row["before"] or _ZEROS, name, found)
    return record


def _checked_payload(row: Mapping[str, Any], name: str, found: _Findings) -> str:
    """Canonical text of the payload column, after its digest and time were checked."""
    try:
        payload_json = canonical_json(decode_payload(row["payload"]))
        if payload_json != row["payload"]:
            found.add(f"{name}: the payload is not in canonical form")
    except MalformedEvent as problem:
        found.add(f"{name}: {problem}")
        payload_json = canonical_json(row["payload"])
    if event_digest(row["event_type"], payload_json) != row["digest"]:
        found.add(f"{name}: the digest does not match type and payload")
    try:
        parse_time(row["ts"])
    except MalformedEvent as problem:
        found.add(f"{name}: {problem}")
    return payload_json


def _check_chain(row: Mapping[str, Any], record: bytes, before: bytes, name: str, found: _Findings) -> str:
    if row["prev"] != before:
        found.add(f"{name}: prev_hash is not the chain hash of the row before it")
    chain = sha256(record).digest()
    if chain != row["chain"]:
        found.add(f"{name}: the chain hash does not match the row")
    return chain.hex()
