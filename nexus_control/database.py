"""SQLite, opened once per thread: connections, transactions, schema versions. The only module that imports `sqlite3`.

A file is opened with WAL and `synchronous=FULL`: a commit that returned is on the disk. Writers take the write lock when they begin
(`BEGIN IMMEDIATE`), so what they read cannot change under them, and wait for each other up to the busy timeout. Between operations
no lock is held. Errors of SQLite leave this module as `StoreError`s that are `sqlite3` errors as well.
"""

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

from nexus_control.errors import (
    DecisionExists,
    InputError,
    SchemaTooNew,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnreadable,
    TemplateExists,
)

__all__ = ["Connection", "Database", "Schema", "SqliteDecisionExists", "SqliteTemplateExists"]

Connection = sqlite3.Connection

_BUSY_TIMEOUT_SECONDS = 30.0

_COMMITS_PER_CHECKPOINT = 128
"""So many commits later the write-ahead log, by then some 5 MB, is copied into the database file, by a thread of its own."""

_CHECKPOINT_PATIENCE_MS = 100
"""So long the thread waits for others to let it finish, and the writers of this process for it."""


class SqliteDecisionExists(DecisionExists, sqlite3.IntegrityError):
    """`DecisionExists` as SQLite raises it."""


class SqliteTemplateExists(TemplateExists, sqlite3.IntegrityError):
    """`TemplateExists` as SQLite raises it."""


class _SqliteBusy(StoreBusy, sqlite3.OperationalError):
    pass


class _SqliteFull(StoreFull, sqlite3.OperationalError):
    pass


class _SqliteReadOnly(StoreReadOnly, sqlite3.OperationalError):
    pass


class _SqliteUnreadable(StoreUnreadable, sqlite3.DatabaseError):
    pass


class _SqliteError(StoreError, sqlite3.OperationalError):
    pass


class _SqliteClosed(StoreClosed, sqlite3.ProgrammingError):
    pass


# https://www.sqlite.org/rescode.html, primary codes: class and what to do next.
_BY_PRIMARY_CODE: dict[int, tuple[Callable[[str], StoreError], str]] = {
    5: (_SqliteBusy, "another process holds the write lock; try again"),
    6: (_SqliteBusy, "another connection holds the lock; try again"),
    8: (_SqliteReadOnly, "make the file and its folder writable"),
    10: (_SqliteError, "check the disk, then run `nexus-attest log verify`"),
    11: (_SqliteUnreadable, "the file is damaged; restore a backup"),
    13: (_SqliteFull, "free some space, then repeat the call; nothing was written"),
    14: (_SqliteError, "check that the folder exists and may be written"),
    26: (_SqliteUnreadable, "the file is no SQLite database"),
}


def _raise_named(error: sqlite3.Error, path: str) -> NoReturn:
    """Raise the store's own error for one of SQLite, or the same one where a caller must see it (constraints, misuse)."""
    if isinstance(error, StoreError):
        raise error
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and isinstance(error, sqlite3.OperationalError):  # raised by the driver for a TEXT value that is not UTF-8
        raise _SqliteUnreadable(f"{path}: {error!s:.300}") from error
    found = None if code is None else _BY_PRIMARY_CODE.get(code & 0xFF)
    if found is None:
        raise error
    make, advice = found
    raise make(f"{path}: {error} ({advice})") from error


_OBJECTS = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name"


class Schema:
    """The migrations of one component, applied in order, each together with its version number.

    Several components may share a file: each owns eight bits of `PRAGMA user_version`, chosen by `slot` (0, 1 or 2). A migration is
    a sequence of single SQL statements; a released one never changes.
    """

    def __init__(self, name: str, slot: int, migrations: Sequence[Sequence[str]]) -> None:
        self.name = name
        self._shift = 8 * slot
        self._migrations = migrations

    def apply(self, connection: Connection) -> None:
        """Bring the file to this schema. Raises SchemaTooNew when it was written by a newer release; then nothing changed."""
        if self.version(connection) == len(self._migrations):
            return
        commit, undo = _begin(connection, "BEGIN IMMEDIATE", joins=connection.in_transaction)
        try:
            start = self.version(connection)  # again: another process may have migrated while we waited for the lock
            for number, statements in enumerate(self._migrations[start:], start + 1):
                for statement in statements:
                    connection.execute(statement)
                self._set_version(connection, number)
            connection.execute(commit)
        except BaseException:
            if connection.in_transaction:
                connection.execute(undo)
            raise

    def version(self, connection: Connection) -> int:
        """How many of the migrations the file has. Raises SchemaTooNew when it has more than there are."""
        version = (self._all_versions(connection) >> self._shift) & 0xFF
        if version > len(self._migrations):
            raise SchemaTooNew(
                f"the {self.name} schema of this file has version {version}, this release knows {len(self._migrations)}; "
                "install the release that wrote it, or a newer one"
            )
        return version

    def problems(self, connection: Connection) -> list[str]:
        """Which tables, indexes and triggers of this schema the file lacks, or has in another form: rows are only as sound as these."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as pristine:
            self.apply(pristine)
            wanted: list[tuple[str, str, str]] = pristine.execute(_OBJECTS).fetchall()
        stored = {(row[0], row[1]): row[2] for row in connection.execute(_OBJECTS)}
        return [f"schema: the {kind} {name} is missing or was changed" for kind, name, sql in wanted if stored.get((kind, name)) != sql]

    def _set_version(self, connection: Connection, version: int) -> None:
        others = self._all_versions(connection) & ~(0xFF << self._shift)
        connection.execute(f"PRAGMA user_version = {others | version << self._shift}")

    @staticmethod
    def _all_versions(connection: Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


class _Session:
    """One open connection, and how deep its user stands in blocks of `transaction` or `snapshot`."""

    __slots__ = ("__weakref__", "closed", "connection", "depth", "doomed", "in_use", "owned", "writing")

    def __init__(self, connection: Connection, *, owned: bool) -> None:
        self.connection = connection
        self.owned = owned
        self.closed = False
        self.in_use = threading.RLock()  # held by whoever uses the connection, and by a fork that closed it
        self.depth = 0
        self.writing = False
        self.doomed = False

    def close(self) -> None:
        self.closed = True
        if self.owned:
            self.connection.close()

    def __del__(self) -> None:  # its thread has ended
        self.close()


class Database:
    """A SQLite database as the stores use it: one connection per thread for a file, one guarded by a lock for `:memory:`.

    Safe to use from several threads, and on both sides of a `fork`: SQLite is not, so a fork closes the connections to files, and each
    process opens its own. A file that another thread, or an open block, used during the fork cannot be used in the child (StoreError).
    Closing is final; it must not happen while another thread is inside a call.
    """

    def __init__(self, path: str | Path, schema: Schema) -> None:
        text = os.fspath(path)
        if not text:
            raise InputError("db_path must not be empty")
        self._schema = schema
        self._in_memory = text == ":memory:"
        # Absolute, because a connection opened later, after a change of directory, must reach the same file.
        self.path = text if self._in_memory else str(Path(text).absolute())
        self._start()

    @classmethod
    def adopt(cls, connection: Connection, schema: Schema) -> "Database":
        """A database on a connection that the caller opened and will close; a transaction open on it is joined."""
        self = cls.__new__(cls)
        self._schema = schema
        self._in_memory = True
        self.path = "<connection>"
        self._start(connection)
        return self

    def _start(self, adopted: Connection | None = None) -> None:
        self._closed = False
        self._local = threading.local()
        self._sessions: weakref.WeakSet[_Session] = weakref.WeakSet()
        self._opening = threading.Lock()  # held while a connection is opened, and by a fork
        self._asleep: list[_Session] = []
        self._checkpointer: threading.Thread | None = None
        self._may_begin = _set_event()
        self._commits = 0
        self._shared: _Session | None = None
        if adopted is not None:
            self._schema.apply(adopted)
            self._shared = _Session(adopted, owned=False)
            return
        with _registering:
            _databases.add(self)
        session = self._open()
        if self._in_memory:
            self._shared = session

    # -- connections ----------------------------------------------------------------------------------------------------------

    def _open(self) -> _Session:
        with self._opening:
            if self.path in _unusable:
                raise _SqliteError(f"{self.path}: in use when this process was forked; close the store before, or do not fork but spawn")
            connection: Connection | None = None
            try:
                connection = self._connect()
                self._schema.apply(connection)
            except BaseException as error:
                if connection is not None:
                    connection.close()
                if isinstance(error, sqlite3.Error):
                    _raise_named(error, self.path)
                raise
            session = _Session(connection, owned=True)
            self._sessions.add(session)
        self._local.session = session
        return session

    def _connect(self) -> Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            self._schema.version(connection)  # a file that is too new is left as it is, its journal mode too
            if not self._in_memory:
                _switch_to_wal(connection)
                connection.execute("PRAGMA synchronous = FULL")
                # Checkpoints are ours (`_keep_wal_short`): inside a commit they would add two more syncs to somebody's call.
                connection.execute("PRAGMA wal_autocheckpoint = 0")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _using(self) -> Generator[_Session, None, None]:
        """The session of this thread, with other threads and forks kept off its connection."""
        while True:
            if self._closed:
                raise _SqliteClosed("this store was closed; open a new one")
            session: _Session | None = self._shared or getattr(self._local, "session", None)
            if session is None or session.closed:
                session = self._open()
            with session.in_use:
                if not session.closed:
                    yield session
                    return
            # A fork, or `close`, closed it while we waited for it.

    @property
    def is_writing(self) -> bool:
        """Whether this thread stands in a `transaction` block."""
        with self._using() as session:
            return session.depth > 0 and session.writing

    # -- fork -----------------------------------------------------------------------------------------------------------------
    #
    # SQLite keeps, per process, what it knows about the locks on a file. A child that inherits it with an open connection believes to
    # hold locks that it does not hold, on connections of its own as well (https://www.sqlite.org/howtocorrupt.html section 2.6).

    def before_fork(self) -> None:
        """Close the connections to a file, but for those in use, and let nobody open or use one until `after_fork`."""
        self._opening.acquire()
        for session in [] if self._in_memory else list(self._sessions):
            if session.in_use.acquire(blocking=False):
                self._asleep.append(session)
                if not session.depth:
                    session.close()
        if self._checkpointer is not None:
            self._checkpointer.join()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on. In the child nothing of the parent's is used any more; what is in memory was copied, so it is the child's own."""
        if not in_child:
            while self._asleep:
                self._asleep.pop().in_use.release()
            self._opening.release()
            return
        inherited = [session for session in self._sessions if not session.closed]
        self._opening, self._may_begin, self._checkpointer, self._asleep = threading.Lock(), _set_event(), None, []
        if self._shared is None:
            if inherited:
                _unusable[self.path] = inherited  # and keep them from being closed
            self._local, self._sessions = threading.local(), weakref.WeakSet()
        else:
            self._shared = _Session(self._shared.connection, owned=True)
            self._sessions = weakref.WeakSet([self._shared])
            _copied.append(inherited)
            if self._shared.connection.in_transaction:  # of another thread, which is not here
                self._shared.connection.execute("ROLLBACK")

    # -- blocks ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """The connection, for statements that each see committed data; inside a block of this thread, for that block's view."""
        with self._using() as session:
            try:
                yield session.connection
            except sqlite3.Error as error:
                _raise_named(error, self.path)

    @contextmanager
    def snapshot(self) -> Generator[Connection, None, None]:
        """One consistent view over several reads. Takes no write lock; inside another block it is that block."""
        with self._using() as session, self._block(session, "BEGIN", writing=False):
            yield session.connection

    @contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        """All or nothing: begins with the write lock, commits at the end; any exception that leaves the block rolls all of it back.

        A block inside a block joins it. An exception that left an inner block dooms the outer one, even when caught there.
        Raises StoreBusy, StoreFull, StoreReadOnly or another StoreError when SQLite cannot.
        """
        with self._using() as session:
            if not session.depth:
                self._may_begin.wait(_CHECKPOINT_PATIENCE_MS / 1000)
            elif not session.writing:
                raise RuntimeError("a transaction cannot begin inside a snapshot: what was read there may be old")
            with self._block(session, "BEGIN IMMEDIATE", writing=True):
                yield session.connection
            if not session.depth and not self._in_memory:
                self._keep_wal_short()

    @contextmanager
    def _block(self, session: _Session, begin: str, *, writing: bool) -> Generator[None, None, None]:
        if session.depth:
            session.depth += 1
            try:
                yield
            except BaseException:
                session.doomed = session.doomed or writing
                raise
            finally:
                session.depth -= 1
            return
        connection = session.connection
        try:
            commit, undo = _begin(connection, begin, joins=not session.owned and connection.in_transaction)
            session.writing, session.doomed, session.depth = writing, False, 1
            try:
                yield
                if session.doomed:
                    raise RuntimeError("a block inside this transaction failed; nothing of it may be committed")
                connection.execute(commit)
            except BaseException:
                # SQLite may have rolled back by itself (disk full, I/O error): then there is nothing left to undo.
                if connection.in_transaction:
                    connection.execute(undo)
                raise
            finally:
                session.depth = 0
        except sqlite3.Error as error:
            _raise_named(error, self.path)

    @contextmanager
    def lenient_snapshot(self) -> Generator[tuple[Connection, set[str]], None, None]:
        """As `snapshot`, for looking at a file that may have been tampered with: bytes that are not UTF-8 are read as U+FFFD.

        The set gets the beginning of every text that was read so.
        """
        damaged: set[str] = set()

        def decode(raw: bytes) -> str:
            text = raw.decode("utf-8", "replace")
            if "\ufffd" in text and text.encode() != raw:
                damaged.add(text[:100])
            return text

        with self.snapshot() as connection:
            connection.text_factory = decode
            try:
                yield connection, damaged
            finally:
                connection.text_factory = str

    # -- write-ahead log ------------------------------------------------------------------------------------------------------

    def _keep_wal_short(self) -> None:
        """Now and then have the write-ahead log copied into the database, beside the callers' work."""
        self._commits += 1
        if self._commits % _COMMITS_PER_CHECKPOINT == 0 and (self._checkpointer is None or not self._checkpointer.is_alive()):
            self._checkpointer = threading.Thread(target=self._checkpoint, name="nexus-checkpoint", daemon=True)
            self._checkpointer.start()

    def _checkpoint(self) -> None:
        try:
            connection = self._connect()
            try:
                # First without a lock; then, so that the log starts over, what was added meanwhile, with writers kept out (who would
                # take the lock again before SQLite looks whether it is free). A reader with an old view prevents the second step, and
                # writers must not wait for it.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_PATIENCE_MS}")
                self._may_begin.clear()
                if connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]:
                    return
                # The first commit of a log that starts over syncs its header as well. Make it this one: the same version number again.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(f"PRAGMA user_version = {connection.execute('PRAGMA user_version').fetchone()[0]}")
                connection.execute("COMMIT")
            finally:
                self._may_begin.set()
                connection.close()
        except sqlite3.Error:
            return  # nothing is lost: the log stays as it is, and a later commit tries again

    # -- end ------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every connection of this process. Closing again does nothing."""
        self._closed = True
        with _registering:
            _databases.discard(self)
        if self._checkpointer is not None:
            self._checkpointer.join()
        with self._opening:
            for session in list(self._sessions):
                session.close()


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def _begin(connection: Connection, begin: str, *, joins: bool) -> tuple[str, str]:
    """Begin a transaction, or a part of the owner's that is open already; gives the statement that ends it and the one that undoes it."""
    if joins:
        connection.execute("SAVEPOINT nexus")
        return "RELEASE nexus", "ROLLBACK TO nexus"
    if connection.in_transaction:  # left behind by an interrupt; nobody was told that it had been committed
        connection.execute("ROLLBACK")
    connection.execute(begin)
    return "COMMIT", "ROLLBACK"


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
"""All of this process that have connections of their own."""
_registering = threading.Lock()
_forking: list[Database] = []

_unusable: dict[str, list[_Session]] = {}
"""In a forked child: files that were in use during the fork, with the connections that must not be closed."""
_copied: list[object] = []
"""In a forked child: the parent's sessions on memory databases, whose connections are in use under new ones."""


def _before_fork() -> None:
    _registering.acquire()
    for database in list(_databases):
        database.before_fork()
        _forking.append(database)


def _after_fork(*, in_child: bool) -> None:
    try:
        while _forking:
            _forking.pop().after_fork(in_child=in_child)
    finally:
        _registering.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )


def _switch_to_wal(connection: Connection) -> None:
    """Put the file into WAL mode, which persists. Two processes doing so at once collide without waiting, hence the loop."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != 5 or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
