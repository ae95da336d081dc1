"""Whole copies of a database file, made while others write to it, and what a file is worth.

Nothing here changes a file that it reads, not even its schema version: a copy that was made by a newer release can be opened by the older
one again, and looking at evidence leaves it as it was found.
"""

from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nexus_control import backend, merkle
from nexus_control.database import Database
from nexus_control.errors import StoreError, StoreUnreadable
from nexus_control.log_check import check_facts
from nexus_control.schema import SCHEMA
from nexus_control.sqlite import FAULTS, Connection, limit_patience, open_file, raise_named, refuse_stand_ins, require_ours

__all__ = ["Examination", "LogHead", "copy_file", "examine_file", "newest_time", "only_user"]

_PAGES_PER_STEP = 4096
"""16 MB of a file with the usual pages: so often progress is told, and an interrupt heard."""

_HEADER = b"SQLite format 3\0"
"""https://www.sqlite.org/fileformat.html section 1.3.1"""

_MOST_DAMAGE = 100
"""Lines of damage that SQLite is asked for, and of references to rows that are not there."""

_LEAVES = "SELECT leaf_hash FROM log ORDER BY position"
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"
_NEWEST = """
    SELECT MAX(ts) FROM decision_events AS e
    WHERE position > (SELECT MAX(position) FROM log) - 1000
      AND seq >= COALESCE((SELECT i.events FROM imports AS i WHERE i.decision_id = e.decision_id AND i.generation = e.generation), 0)"""

Progress = Callable[[int, int], None]
"""`progress(done, total)`, in pages."""


@dataclass(frozen=True, slots=True)
class LogHead:
    """How many facts a log has, and the RFC 6962 root over their stored leaves (raw hex)."""

    size: int
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a file is worth. `damage`: what SQLite finds wrong with its structure; `problems`: which facts, and which of the tables and
    triggers that guard them, are not as they were written.

    `head` is that of the stored leaves, None for a file without decisions and for a damaged one. `outdated`: the file has an older schema
    than this release; opening it as a store would bring it up to date. `newest`: the latest time among the last events that were recorded
    here, imports left out. `tables`: the names of all tables.
    """

    damage: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    head: LogHead | None = None
    outdated: bool = False
    newest: str | None = None
    tables: frozenset[str] = frozenset()

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not self.damage and not self.problems


def copy_file(source: Path, target: Path, *, known: Collection[str] = (), progress: Progress | None = None) -> LogHead | None:
    """Copy a file of ours as it is at one moment, whoever writes to it meanwhile; writers do not wait. Gives the head of its log then.

    `target` must not exist. `known` are tables of another program that the file may have. Raises StoreUnreadable for what is no file of
    ours, and StoreError when it cannot be read or the copy not written; then `target` is no copy.
    """
    with _opened(source, known) as connection:
        connection.execute("BEGIN")  # one view for everything below, so that a busy writer cannot make the copy begin again
        head = _head(connection)
        with _named_errors(target):
            copy, _ = open_file(str(target.absolute()), must_exist=False)
            try:
                told = None if progress is None else _told(progress)
                connection.backup(copy, pages=_PAGES_PER_STEP, progress=told, sleep=0)
            finally:
                copy.close()
    return head


def examine_file(path: Path, *, known: Collection[str] = (), facts: bool = True) -> Examination:
    """Check a file of ours, at one moment: its structure, its schema, and unless `facts` is off every digest, chain, leaf, checkpoint and
    tile.

    Takes time in proportion to the file and little memory. Raises StoreUnreadable for what is no file of ours or not readable at all,
    SchemaTooNew for one of a newer release.
    """
    with _opened(path, known) as connection:
        connection.execute("BEGIN")
        damage, tables = _damage(connection), _tables(connection)
        before = SCHEMA.version(connection)
        if not damage and before and "log" not in tables:
            damage = ("the table log is missing",)
        if damage or not before:
            return Examination(damage=damage, tables=tables)
        # An older schema is brought up to date inside the transaction, which is then rolled back.
        database = Database.adopt(connection, SCHEMA)
        outdated = SCHEMA.version(connection) != before
        with database.lenient_snapshot() as (view, damaged):
            problems = tuple(check_facts(view, damaged).errors if facts else SCHEMA.problems(view))
        newest = newest_time(connection)
        return Examination(problems=problems, head=_head(connection), outdated=outdated, newest=newest, tables=tables)


def newest_time(connection: backend.Connection) -> str | None:
    """The latest time among the last events that were recorded in a store, on any backend, and not imported; None without such events."""
    newest: object = connection.execute(_NEWEST).fetchone()[0]
    return newest if isinstance(newest, str) else None  # what is no time is a finding of the verification


@contextmanager
def only_user(path: Path) -> Generator[None]:
    """Inside, no other connection to this file is open, in this or another process, and none can read or write it.

    The file has no write-ahead log then, so it may be moved. Raises StoreBusy when somebody has it open, StoreUnreadable when it is no
    database of ours.
    """
    with _opened(path, ()) as connection:
        limit_patience(connection, 0)
        # Leaving WAL mode is what SQLite does for nobody but the only user; an exclusive transaction then keeps others out.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def _opened(path: Path, known: Collection[str]) -> Generator[Connection]:
    with _named_errors(path):
        _require_header(path)
        connection, _ = open_file(str(path.absolute()), must_exist=True)
        try:
            require_ours(connection, str(path), known)
            refuse_stand_ins(connection, SCHEMA.tables)
            yield connection
        finally:
            connection.close()  # and with it an open transaction


def _require_header(path: Path) -> None:
    """SQLite would delete the write-ahead log beside a file without its header, which may be all that is left of it."""
    try:
        with path.open("rb") as file:
            found = file.read(len(_HEADER))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; check that the file exists and may be read") from None
    if found != _HEADER:
        raise StoreUnreadable(f"{path}: file is not a database (the file is no SQLite database)")


@contextmanager
def _named_errors(path: Path) -> Generator[None]:
    try:
        yield
    except StoreError:
        raise
    except FAULTS as error:
        raise_named(error, str(path))


def _damage(connection: Connection) -> tuple[str, ...]:
    """What SQLite finds wrong, first the structure, then references to rows that are not there."""
    lines = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_MOST_DAMAGE})")]
    if lines != ["ok"]:
        return tuple(lines)
    missing = connection.execute("PRAGMA foreign_key_check").fetchmany(_MOST_DAMAGE)
    return tuple(f"a row of {row[0]} belongs to no row of {row[2]}" for row in missing)


def _tables(connection: Connection) -> frozenset[str]:
    return frozenset(row[0] for row in connection.execute(_TABLES))


def _head(connection: Connection) -> LogHead | None:
    if "log" not in _tables(connection):
        return None
    tree = merkle.Frontier()
    for (leaf,) in connection.execute(_LEAVES):
        if not isinstance(leaf, bytes):  # in a table that somebody made anew, without its constraints
            raise StoreUnreadable("a leaf of the log is no hash; `nexus-attest log verify` tells more")
        tree.append(leaf)
    return LogHead(tree.size, tree.root().hex())


def _told(progress: Progress) -> Callable[[int, int, int], None]:
    def step(_status: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    return step
