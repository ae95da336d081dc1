"""Copying a whole store into another one, whatever each is kept in, and the proof that both are the same.

Rows go over as they are: same generations, seqs, chains, positions, leaves and checkpoints; only cached hashes are made anew. Each step is
one transaction that extends the target by the facts of the next positions, so the target is at every moment the source as it once was, and
an interrupted copy goes on where it ended. Neither side is believed at the end: the rows of both are read again and compared.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from nexus_control.backend import Connection, insert
from nexus_control.errors import InputError, StoresDiffer
from nexus_control.event_rows import HEADER_COLUMNS
from nexus_control.sql_store import SqlStore
from nexus_control.template import TEMPLATE_COLUMNS
from nexus_control.tiles import TILE_LEAVES, TILE_LEVEL, fold_leaves, write_tiles

__all__ = ["Copied", "copy_store"]

_STEP = 5000
"""Facts in one transaction."""

_FACT = ("seq", "event_type", "ts", "actor_type", "actor_id", "payload", "digest", "prev", "chain", "position")


@dataclass(frozen=True)
class _Table:
    """A table whose rows belong to positions: `alias.columns`, read `FROM` the source, in order of `position`."""

    name: str
    alias: str
    columns: tuple[str, ...]
    source: str
    position: str

    def select(self, first: int, last: int) -> str:
        """The rows of the positions after `first` up to `last`, in order, each with its position behind it."""
        columns = ", ".join(f"{self.alias}.{column}" for column in self.columns)
        where = f"{self.position} > {first} AND {self.position} <= {last}"
        return f"SELECT {columns}, {self.position} FROM {self.source} WHERE {where} ORDER BY {self.position}"

    @property
    def insert(self) -> str:
        """The same text for the log as `INSERT_LEAF`, by which a backend may know the leaves."""
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({', '.join('?' * len(self.columns))})"


_HEADER_OF = "JOIN decisions AS d ON d.decision_id = i.decision_id AND d.generation = i.generation"
_TABLES = (
    _Table("decisions", "d", HEADER_COLUMNS, "decisions AS d", "d.position"),
    _Table("imports", "i", ("decision_id", "generation", "events"), f"imports AS i {_HEADER_OF}", "d.position"),
    _Table("decision_events", "e", ("decision_id", "generation", *_FACT), "decision_events AS e", "e.position"),
    _Table(
        "templates",
        "t",
        TEMPLATE_COLUMNS,
        "templates AS t JOIN template_events AS f ON f.template_name = t.name AND f.seq = 0",
        "f.position",
    ),
    _Table("template_events", "f", ("template_name", *_FACT), "template_events AS f", "f.position"),
    _Table("log", "l", ("position", "leaf_hash", "kind"), "log AS l", "l.position"),
)
_CHECKPOINTS = "SELECT number, size, note FROM checkpoints WHERE number > {} AND size <= {} ORDER BY number"
_COUNT_CHECKPOINTS = "SELECT COALESCE(MAX(number), 0) FROM checkpoints"
_INSERT_CHECKPOINT = "INSERT INTO checkpoints (number, size, note) VALUES (?, ?, ?)"


@dataclass(frozen=True)
class Copied:
    """`size` and `root` of both stores, how many facts and checkpoints this call brought, and what verification of the target found.

    The rows are equal, so what was `found` is wrong in the source as well.
    """

    size: int
    root: str
    facts: int
    checkpoints: int
    found: tuple[str, ...]


def copy_store(source: SqlStore, target: SqlStore, progress: Callable[[int, int], object] | None = None) -> Copied:
    """Copy what the source holds now and the target does not; `progress` gets positions done and in all, after each step.

    The source may be in use: what comes later is for the next call. Each of its tables is read once, from first to last. Raises InputError
    when both are the same database; StoresDiffer when the target is no earlier state of the source, somebody else wrote to it, or a row is
    not the same at the end; and what either database raises.
    """
    _require_two(source, target)
    size, _ = source.log_root()
    start = _require_prefix(source, target, size)
    with ExitStack() as opened:
        reading = opened.enter_context(source.backend.snapshot())
        streams = [opened.enter_context(closing(source.dialect.stream(reading, table.select(start, size)))) for table in _TABLES]
        tables = [_Reader(table.insert, rows) for table, rows in zip(_TABLES, streams, strict=True)]
        for first in range(start, size, _STEP):
            last = min(first + _STEP, size)
            _copy_step(tables, target, first, last)
            if progress is not None:
                progress(last, size)
    notes = _copy_checkpoints(source, target, size)
    return _proven(source, target, size, size - start, notes)


def _require_two(source: SqlStore, target: SqlStore) -> None:
    with source.backend.reading() as one, target.backend.reading() as other:
        is_one = source.backend is target.backend or source.dialect.identity(one) == target.dialect.identity(other)
    if is_one:
        raise InputError(f"{source.path} and {target.path} are the same store; name another target")


def _require_prefix(source: SqlStore, target: SqlStore, size: int) -> int:
    """The target's size, once its log is known to be the beginning of the source's."""
    start, root = target.log_root()
    if start > size:
        raise StoresDiffer(f"{target.path} has {start} entries already, {source.path} only {size}; name a target without a store")
    if root != source.log_root(start)[1]:
        raise StoresDiffer(f"{target.path} has another log than {source.path}; name a target without a store")
    return start


class _Reader:
    """The rows of a table in the order of their positions, as many at a time as are wanted."""

    def __init__(self, insert: str, rows: Iterator[Any]) -> None:
        self.insert = insert
        self._rows = rows
        self._ahead: Any = next(rows, None)

    def up_to(self, last: int) -> list[tuple[Any, ...]]:
        """The next rows, of positions up to `last`."""
        found: list[tuple[Any, ...]] = []
        while self._ahead is not None and self._ahead[-1] <= last:
            found.append(tuple(self._ahead)[:-1])
            self._ahead = next(self._rows, None)
        return found


def _copy_step(tables: Sequence[_Reader], target: SqlStore, first: int, last: int) -> None:
    with target.backend.transaction() as writing:
        if target.log_root()[0] != first:
            raise StoresDiffer(f"somebody else writes to {target.path}; let only one copy run")
        for reader in tables:
            insert(writing, reader.insert, reader.up_to(last))
        tiles = range(first // TILE_LEAVES, last // TILE_LEAVES)
        write_tiles(writing, {number: fold_leaves(writing, TILE_LEVEL, number) for number in tiles})


def _rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(statement)]


def _copy_checkpoints(source: SqlStore, target: SqlStore, size: int) -> int:
    with target.backend.transaction() as writing:
        known: int = writing.execute(_COUNT_CHECKPOINTS).fetchone()[0]
        with source.backend.snapshot() as reading:
            notes = _rows(reading, _CHECKPOINTS.format(known, size))
        insert(writing, _INSERT_CHECKPOINT, notes)
    return len(notes)


def _proven(source: SqlStore, target: SqlStore, size: int, facts: int, checkpoints: int) -> Copied:
    """Read everything again, on both sides."""
    roots = [store.log_root(size)[1] for store in (source, target)]
    if roots[0] != roots[1]:
        raise StoresDiffer(f"the roots over the first {size} entries are not equal: {roots[0]} and {roots[1]}")
    with target.backend.snapshot() as connection:
        known: int = connection.execute(_COUNT_CHECKPOINTS).fetchone()[0]
    contents = [_contents(store, size, known) for store in (source, target)]
    if different := [name for name in contents[0] if contents[0][name] != contents[1][name]]:
        raise StoresDiffer(f"the rows of {', '.join(different)} are not the same in {source.path} and {target.path}; keep the source")
    verified = target.verify_log()
    if verified.ok and verified.head != target.log_root()[1]:
        raise StoresDiffer(f"{target.path}: the cached hashes do not follow from the log")
    return Copied(size, roots[0], facts, checkpoints, tuple(verified.errors))


def _contents(store: SqlStore, size: int, checkpoints: int) -> dict[str, str]:
    """A digest of all rows of each table up to a size, every column of them."""
    selects = {table.name: table.select(0, size) for table in _TABLES}
    selects["checkpoints"] = f"SELECT number, size, note FROM checkpoints WHERE number <= {checkpoints} ORDER BY number"
    digests: dict[str, str] = {}
    with store.backend.snapshot() as connection:
        for name, statement in selects.items():
            digest = sha256()
            for row in store.dialect.stream(connection, statement):
                digest.update(repr(tuple(row)).encode("utf-8", "surrogatepass") + b"\n")
            digests[name] = digest.hexdigest()
    return digests
