"""The least that work could cost: the same rows, events or bytes through sqlite3, json and hashlib alone."""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex


class WriteFloor:
    """INSERT and COMMIT on an open connection, WAL, `synchronous=FULL`: a table of an integer key and a text, one of a key and a hash."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE facts (position INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT")
        self._connection.execute("CREATE TABLE log (position INTEGER PRIMARY KEY, leaf_hash BLOB NOT NULL) STRICT")

    def commit(self, bodies: Sequence[str]) -> None:
        """One transaction with as many rows as the engine writes: for each text one, and one for its leaf."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO facts (body) VALUES (?)", [(body,) for body in bodies])
        self._connection.executemany("INSERT INTO log (leaf_hash) VALUES (?)", [(bytes(32),) for _ in bodies])
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class SameRowsFloor:
    """The rows of a stored decision, inserted once more under another id into the engine's own tables: their keys, indexes, constraints and
    triggers, and none of the engine.
    """

    def __init__(self, path: Path, decision_id: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._facts = [fact for table in ("decisions", "decision_events") for fact in self._facts_of(table, decision_id)]
        (self._position,) = self._connection.execute("SELECT MAX(position) FROM log").fetchone()
        self._seq = len(self._facts)

    def _facts_of(self, table: str, decision_id: str) -> list[tuple[str, list[object], str]]:
        """For each row of the decision: the statement that inserts another one, its values but for the first two, the kind of its leaf."""
        own = ["decision_id", "position", *(["seq"] if table == "decision_events" else [])]
        columns = [*own, *(column for column in _stored_columns(self._connection, table) if column not in own)]
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        select = f"SELECT {', '.join(columns[2:])} FROM {table} WHERE decision_id = ? ORDER BY position"
        kind = "generation" if table == "decisions" else "event"
        return [(insert, list(row), kind) for row in self._connection.execute(select, (decision_id,))]

    def again(self, commits: Sequence[slice]) -> None:
        """All rows, each slice of them in one transaction; the first begins with the header."""
        name = _new_id()
        for commit in commits:
            self._connection.execute("BEGIN IMMEDIATE")
            for fact in self._facts[commit]:
                self._insert(name, *fact)
            self._connection.execute("COMMIT")

    def prepare(self, rows: slice, count: int) -> list[str]:
        """So many decisions that have these rows, the header first; gives their ids."""
        names = [_new_id() for _ in range(count)]
        self._connection.execute("BEGIN IMMEDIATE")
        for name in names:
            for fact in self._facts[rows]:
                self._insert(name, *fact)
        self._connection.execute("COMMIT")
        return names

    def append(self, name: str, rows: slice) -> None:
        """These rows, which are events, as further ones of a prepared decision, in one transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        for insert, values, kind in self._facts[rows]:
            self._seq += 1
            self._insert(name, insert, [self._seq, *values[1:]], kind)
        self._connection.execute("COMMIT")

    def _insert(self, name: str, insert: str, values: list[object], kind: str) -> None:
        self._position += 1
        self._connection.execute(insert, (name, self._position, *values))
        self._connection.execute("INSERT INTO log (position, leaf_hash, kind) VALUES (?, ?, ?)", (self._position, bytes(32), kind))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _new_id() -> str:
    """An id as long as the engine's."""
    return token_hex(18)


class ReadFloor:
    """SELECT of whole event rows of an engine's file, and `json.loads` of each payload."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        columns = _stored_columns(self._connection, "decision_events")
        self._select = f"SELECT {', '.join(columns)} FROM decision_events"
        self._payload = columns.index("payload")

    def of_decision(self, decision_id: str) -> int:
        """All events of a decision of one generation, in order; gives their number."""
        return self._decoded("WHERE decision_id = ? AND generation = 1 ORDER BY seq", decision_id)

    def newest(self, count: int) -> int:
        """The newest `count` events of the store; gives their number."""
        return self._decoded("ORDER BY position DESC LIMIT ?", count)

    def _decoded(self, which: str, argument: str | int) -> int:
        rows = self._connection.execute(f"{self._select} {which}", (argument,)).fetchall()
        return len([(row, json.loads(row[self._payload])) for row in rows])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def verification_floor(text: str) -> str:
    """Parse a JSON text, write it with sorted keys, hash the bytes."""
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fact_texts(path: Path, decision_id: str) -> list[str]:
    """For the header and each event of a decision, in the order they were written, a text as long as the row's columns together."""
    connection = sqlite3.connect(path)
    try:
        return [
            "x" * sum(len(value if isinstance(value, str | bytes) else str(value)) for value in row if value is not None)
            for table in ("decisions", "decision_events")
            for row in connection.execute(
                f"SELECT {', '.join(_stored_columns(connection, table))} FROM {table} WHERE decision_id = ? ORDER BY position",
                (decision_id,),
            )
        ]
    finally:
        connection.close()


def _stored_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table that take up space: `table_info` does not name computed ones."""
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
