"""A SQLite database, opened once per thread: connections, blocks that use them, and forks.

A file is opened with WAL and `synchronous=FULL`: a commit that returned is on the disk. Writers take the write lock when they begin
(`BEGIN IMMEDIATE`), so what they read cannot change under them, and wait for each other up to the busy timeout. Between operations
no lock is held.
"""

import os
import threading
import weakref
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from itertools import compress
from operator import methodcaller
from pathlib import Path
from types import TracebackType
from typing import NoReturn, cast

from nexus_control import fork
from nexus_control.errors import CommitUnknown, InputError
from nexus_control.files import is_file_name
from nexus_control.migration import Schema
from nexus_control.session import Session
from nexus_control.sqlite import (
    BUSY_TIMEOUT_SECONDS,
    FAULTS,
    Connection,
    SqliteClosed,
    SqliteError,
    SqliteSchemaMissing,
    be_patient,
    make_first_commit,
    number,
    open_file,
    open_memory,
    raise_named,
    refuse_stand_ins,
    require_ours,
    switch_to_wal,
)
from nexus_control.wal import WriteAheadLog

__all__ = ["Database"]

_CLOSED = "this store was closed; open a new one"
_FORKED = "{}: in use when this process was forked; close the store before, or do not fork but spawn"

_LOOKING_CACHE = -16_384
"""`PRAGMA cache_size`, in KiB if negative, while all of a file is looked at: ids are random, and so is where their entries are. What SQLite
sorts may take as much again."""


class Database:
    """A SQLite database as the stores use it: one connection per thread for a file, one guarded by a lock for `:memory:`.

    Safe to use from several threads, and on both sides of a `fork`: SQLite is not, so a fork closes the connections to files, and each
    process opens its own. A file that another thread, or an open block, used during the fork cannot be used in the child (StoreError).
    So is a file that was removed or replaced while it was open: what is committed to it nobody would find. Closing is final, and
    waits for the calls that other threads are in.

    With `read_only` nothing is written to a file, whatever is asked: one without this schema is refused (SchemaMissing), one that is not
    there an error. SQLite may still put the two files beside it by which processes see each other. With `first_commit` opening makes one
    that changes nothing, if the disk and other writers let it: no later one of this thread syncs more than itself then.
    """

    def __init__(self, path: str | Path, schema: Schema, *, read_only: bool = False, first_commit: bool = False) -> None:
        text: object = os.fspath(path) if isinstance(cast("object", path), os.PathLike) else path
        if not isinstance(text, str) or not is_file_name(text):
            raise InputError(f"db_path must be a path or a non-empty text, got {path!r:.100}")
        self._schema = schema
        self._read_only = read_only
        self._in_memory = text == ":memory:"
        self._first_commit = first_commit and not read_only and not self._in_memory
        # Absolute, because a connection opened later, after a change of directory, must reach the same file.
        self.path = text if self._in_memory else str(Path(text).absolute())
        self._start()

    @classmethod
    def adopt(cls, connection: Connection, schema: Schema) -> "Database":
        """A database on a connection that the caller opened and will close; a transaction open on it is joined."""
        self = cls.__new__(cls)
        self._schema = schema
        self._read_only = False
        self._in_memory = True
        self._first_commit = False
        self.path = "<connection>"
        self._start(connection)
        return self

    def _start(self, adopted: Connection | None = None) -> None:
        self._closed = False
        self._local = threading.local()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._opened: set[object] = set()  # a mark for each connection that may be open
        self._opening = threading.RLock()  # held while a connection is opened, and by a fork; a finalizer may close meanwhile
        self._held_by_fork: list[object] = []  # empty when it is not a fork that holds it
        self.wal = WriteAheadLog()
        self._identity: tuple[int, int] | None = None
        self._shared: Session | None = None
        if adopted is not None:
            self._schema.apply(adopted, self.path)
            self._shared = Session(adopted, self.path, owned=False)
            return
        fork.register(self)
        session = self._open()
        if self._in_memory:
            self._shared = session

    # -- connections ----------------------------------------------------------------------------------------------------------

    def _open(self) -> Session:
        with self._opening:
            if self._closed:
                raise SqliteClosed(_CLOSED)
            if not self._in_memory and _identity(self.path) in _unusable:
                raise SqliteError(_FORKED.format(self.path))
            connection: Connection | None = None
            is_first = self._identity is None
            mark = object()
            try:
                self._opened.add(mark)
                connection = self._connect()
                if self._read_only and not self._schema.is_in(connection):
                    raise SqliteSchemaMissing(
                        f"{self.path}: there is no store of this release in this file, and nothing may be written here; "
                        "a command that records makes one, or brings an older one to this release"
                    )
                self._schema.apply(connection, self.path)
                if is_first and self._first_commit:
                    make_first_commit(connection)  # here, where the store is opened: no call pays for more than its own
                if mark not in self._opened:  # a finalizer in this thread forked, and this is the child
                    _kept.append(connection)
                    connection = None
                    raise SqliteError(_FORKED.format(self.path))
                session = Session(connection, self.path, owned=True, forget=partial(self._opened.discard, mark))
                self._sessions.add(session)
                if self._closed:  # by a finalizer in this thread
                    raise SqliteClosed(_CLOSED)
            except BaseException as error:
                if connection is not None:
                    connection.close()
                self._opened.discard(mark)
                if isinstance(error, FAULTS):
                    raise_named(error, self.path)
                raise
        self._local.session = session
        return session

    def _connect(self) -> Connection:
        if self._in_memory:
            return open_memory()
        self._require_same_file()
        connection, read_only = open_file(self.path, must_exist=self._identity is not None, read_only=self._read_only)
        try:
            # A file that is too new, or somebody else's, is left as it is, its journal mode too.
            self._schema.version(connection)
            require_ours(connection, self.path, self._schema.foreign_tables)
            refuse_stand_ins(connection, self._schema.tables)
            if not read_only:
                switch_to_wal(connection)
                connection.execute("PRAGMA synchronous = FULL")
                # Checkpoints are ours (`wal`): inside a commit they would add two more syncs to somebody's call.
                connection.execute("PRAGMA wal_autocheckpoint = 0")
            if self._identity is None:
                self._identity = _identity(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _for_checkpoint(self) -> Generator[Connection]:
        """One more connection to the file. Raises StoreClosed where `close` or a fork could not wait until it is given back."""
        if self._closed or self._held_by_fork:  # the start of the thread was interrupted, so that nobody knows of it
            raise SqliteClosed(_CLOSED)
        mark = object()
        try:
            self._opened.add(mark)
            with closing(self._connect()) as connection:
                yield connection
        finally:
            self._opened.discard(mark)

    def keep_wal_short(self) -> None:
        """After a commit: now and then have the write-ahead log copied into the file, beside the callers' work."""
        if self._in_memory or not self.wal.is_due():
            return
        with self._opening:  # neither a fork nor `close`, which wait for the thread, may come between its making and its start
            if not self._closed:
                self.wal.begin_checkpoint(self._for_checkpoint)

    def _require_same_file(self) -> None:
        if self._identity is not None and _identity(self.path) != self._identity:
            raise SqliteError(
                f"{self.path}: the file was removed or replaced while this store was open; put it back, or close the store and open it anew"
            )

    def take(self) -> Session:
        """The session of this thread, with other threads and forks kept off its connection until its `in_use` is released."""
        while True:
            if self._closed:
                raise SqliteClosed(_CLOSED)
            session: Session | None = self._shared or getattr(self._local, "session", None)
            if session is None or session.closed:
                session = self._open()
            session.in_use.acquire()
            try:
                if not session.closed:
                    if not session.depth:
                        self._require_same_file()
                    return session
            except BaseException:
                session.in_use.release()
                raise
            session.in_use.release()  # a fork, or `close`, closed it while we waited for it

    @property
    def is_writing(self) -> bool:
        """Whether this thread stands in a `transaction` block."""
        session = self.take()
        try:
            return session.depth > 0 and session.writing
        finally:
            session.in_use.release()

    # -- fork -----------------------------------------------------------------------------------------------------------------
    #
    # SQLite keeps, per process, what it knows about the locks on a file. A child that inherits it with an open connection believes to
    # hold locks that it does not hold, on connections of its own as well (https://www.sqlite.org/howtocorrupt.html section 2.6).

    def before_fork(self) -> None:
        """Close the connections to a file, but for those in use, and let nobody open or use one until `after_fork`."""
        self._held_by_fork.extend(map(methodcaller("acquire"), [self._opening]))  # one call, made in C: whether it is held is noted
        for session in _taken([] if self._in_memory else list(self._sessions), blocking=False):
            try:
                if not session.depth:
                    self._end(session)
            finally:
                session.in_use.release()
        self.wal.wait_for_checkpoint()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on. In the child nothing of the parent's is used any more; what is in memory was copied, so it is the child's own."""
        if not in_child:
            if self._held_by_fork:
                try:
                    self._held_by_fork.clear()
                finally:
                    self._opening.release()
            return
        inherited = [session for session in self._sessions if not session.closed]
        self._opening, self._held_by_fork = threading.RLock(), []
        self.wal.forget_checkpoint()
        if self._shared is not None:
            if self._shared.closed:
                return
            _kept.extend(inherited)
            mark = object()
            self._opened = {mark}
            self._shared = Session(self._shared.connection, self.path, owned=True, forget=partial(self._opened.discard, mark))
            self._sessions = weakref.WeakSet([self._shared])
            if self._shared.connection.in_transaction:  # of another thread, which is not here
                self._shared.connection.execute("ROLLBACK")
            return
        if self._opened and not self._in_memory:
            identity = self._identity or _identity(self.path)
            if identity is not None:  # else what another thread was opening did not exist yet
                _unusable.add(identity)
            _kept.extend(inherited)
        self._opened, self._local, self._sessions = set(), threading.local(), weakref.WeakSet()

    # -- blocks ---------------------------------------------------------------------------------------------------------------

    def reading(self) -> AbstractContextManager[Connection]:
        """The connection, for statements that each see committed data; inside a block of this thread, for that block's view."""
        return _Use(self)

    def at_once(self) -> AbstractContextManager[Connection] | None:
        """A block in which reads of this thread raise StoreBusy where they would have to wait for another connection.

        None of a database in memory, which threads wait for, and in a thread that has no connection yet: opening one can take its time.
        """
        session: Session | None = getattr(self._local, "session", None)
        return None if self._in_memory or session is None or session.closed else _AtOnce(self)

    def snapshot(self) -> AbstractContextManager[Connection]:
        """One consistent view over several reads. Takes no write lock; inside another block it is that block."""
        return _Block(self, writing=False)

    def transaction(self) -> AbstractContextManager[Connection]:
        """All or nothing: begins with the write lock, commits at the end; any exception that leaves the block rolls all of it back.

        A block inside a block joins it. An exception that left an inner block dooms the outer one, even when caught there.
        Raises StoreBusy, StoreFull, StoreReadOnly or another StoreError when SQLite cannot.
        """
        return _Block(self, writing=True)

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
            cache = number(connection, "cache_size")
            connection.text_factory = decode
            connection.execute(f"PRAGMA cache_size = {_LOOKING_CACHE}")
            try:
                yield connection, damaged
            finally:
                connection.text_factory = str
                connection.execute(f"PRAGMA cache_size = {cache}")

    # -- end ------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every connection of this process, once the calls that use them have ended. Closing again does nothing."""
        self._closed = True
        with self._opening:  # from here on no connection is opened, and no checkpoint begun
            sessions = list(self._sessions)
        self.wal.wait_for_checkpoint()
        # One that is never given back (its thread is gone, in the middle of a block) is left to the garbage collector.
        for session in _taken(sessions, timeout=BUSY_TIMEOUT_SECONDS):
            try:
                self._end(session)
            finally:
                session.in_use.release()
        if not self._opened:
            fork.unregister(self)

    def _end(self, session: Session) -> None:
        try:
            self.wal.take_back_at_last(session)
        finally:
            session.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open store cannot be copied or pickled; open another one on the same file")


# Classes, because a generator under `contextmanager` takes several times longer, and a command enters ten blocks.


class _Use:
    """A `with` block on the connection of this thread. Errors of SQLite leave it by name."""

    __slots__ = ("_database", "_session")
    _session: Session

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Connection:
        session = self._session = self._database.take()
        return session.connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.in_use.release()
        if isinstance(error, FAULTS):
            raise_named(error, self._database.path)


class _AtOnce(_Use):
    """As `_Use`, with a connection that waits for no lock of another one."""

    __slots__ = ()

    def __enter__(self) -> Connection:
        connection = super().__enter__()
        be_patient(connection, patient=False)
        return connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        be_patient(self._session.connection, patient=True)
        super().__exit__(kind, error, trace)


class _Block(_Use):
    """As `_Use`, inside a transaction that is read from or written to."""

    __slots__ = ("_depth", "_writing")

    def __init__(self, database: Database, *, writing: bool) -> None:
        super().__init__(database)
        self._writing = writing

    def __enter__(self) -> Connection:
        session = self._session = self._database.take()
        self._depth = session.depth
        try:
            if self._writing and not self._depth:
                self._database.wal.begin(session)
            else:
                session.enter(writing=self._writing)
        except BaseException as error:
            try:
                session.undo_interrupted(self._depth)
            finally:
                super().__exit__(type(error), error, None)
            raise
        return session.connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        session = self._session
        try:
            session.leave(to=self._depth, writing=self._writing, failed=error is not None)
            if self._writing and not self._depth and error is None:
                self._database.keep_wal_short()
        except BaseException as problem:
            error = problem
            interrupted = not isinstance(problem, Exception)
            if self._writing and not self._depth and (isinstance(problem, CommitUnknown) or interrupted):
                self._database.wal.doubt(session)
            if interrupted:
                session.undo_interrupted(self._depth)
            raise
        finally:
            super().__exit__(kind, error, trace)


def _taken(sessions: list[Session], **how: object) -> Iterator[Session]:
    """Those whose `in_use` could be acquired, one after the other, each to be released.

    By iterators made in C: an interruption comes after a call, and must not come between this one and the `try` of whoever releases.
    """
    return compress(sessions, map(methodcaller("acquire", **how), [session.in_use for session in sessions]))


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of the file, None when there is none (any more)."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


_unusable: set[tuple[int, int] | None] = set()
"""In a forked child: files that were in use during the fork, whatever they are called."""
_kept: list[object] = []
"""In a forked child: the parent's sessions and connections, which must not be closed: on such files, or on memory databases that go on
under new ones."""
